"""The job that makes Dagster's record of the months follow the database, after one of the two was lost or restored."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

import dagster as dg
from dagster_duckdb import DuckDBResource

from dagster_essentials import settings
from dagster_essentials.assets.fleets import fleet_trips, fleet_trips_file
from dagster_essentials.assets.trips import taxi_trips, taxi_trips_file
from dagster_essentials.datasets.aggregates import loaded_months
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.ingestion.trip_files import find_downloaded
from dagster_essentials.orchestration.checks import evaluate_month
from dagster_essentials.orchestration.events import record_materialization
from dagster_essentials.orchestration.failures import fail_with_message
from dagster_essentials.orchestration.month_metadata import file_metadata, month_metadata
from dagster_essentials.orchestration.month_run import ZONES_OF_POSITIONS, month_file
from dagster_essentials.orchestration.records import recorded_version
from dagster_essentials.partitions import (
    dataset_of,
    fleet_and_month,
    fleet_month_partition,
    month_label,
    monthly_partition,
)
from dagster_essentials.warehouse.load import LoadedMonth
from dagster_essentials.warehouse.month_versions import MonthVersion, versions_by_month


@dataclass(frozen=True)
class _Months:
    """The months of one table: the assets of their files and rows, and their partitions."""

    files: dg.AssetsDefinition
    rows: dg.AssetsDefinition
    partitions: dg.PartitionsDefinition[str]


_TABLES = [_Months(taxi_trips_file, taxi_trips, monthly_partition)]
if settings.SETTINGS.fleets:
    _TABLES.append(_Months(fleet_trips_file, fleet_trips, fleet_month_partition))


@dg.op
def reconcile_files(context: dg.OpExecutionContext) -> None:
    """Record the months whose files are in the data folder."""
    for table in _TABLES:
        for key in table.partitions.get_partition_keys():
            path = month_file(key).path
            month = find_downloaded(path)
            if month and month.file.sha256 != recorded_version(context.instance, table.files.key, key):
                record_materialization(context, table.files, key, month.file.sha256, file_metadata(month, path))
                context.log.info(f"{month_label(key)}: recorded the file {path}")


@dg.op(ins={"files": dg.In(dg.Nothing)})
def reconcile_trips(context: dg.OpExecutionContext, database: DuckDBResource) -> None:
    """Record the months that are in the tables, in the versions that these have; fail if Dagster has recorded others."""
    missing = []
    with fail_with_message(), database.get_connection() as connection:
        loaded = {(YELLOW.name, month) for month in loaded_months(connection)}
        versions = versions_by_month(connection)
        for table in _TABLES:
            if keys := _reconcile_table(context, table, loaded, versions):
                dataset = dataset_of(keys[0])
                missing.append(
                    f"Recorded in Dagster, but not in the table {dataset.table}: {', '.join(map(month_label, keys))}. "
                    f"Load them again: dagster job backfill -j {dataset.job} --partitions {quote(','.join(keys))}"
                )
    if missing:
        raise dg.Failure("\n".join(missing), allow_retries=False)


def _reconcile_table(
    context: dg.OpExecutionContext,
    table: _Months,
    loaded: Collection[tuple[str, str]],
    versions: Mapping[tuple[str, str], Sequence[MonthVersion]],
) -> list[str]:
    """Record the months of `table`; return the partitions that Dagster has, and the database has not."""
    recorded = context.instance.get_materialized_partitions(table.rows.key)
    missing = []
    for key in table.partitions.get_partition_keys():
        fleet, month = fleet_and_month(key)
        # Without a version, months of yellow trips may have been loaded by an earlier release.
        if (fleet, month) not in loaded and (fleet == YELLOW.name or (fleet, month) not in versions):
            missing += [key] if key in recorded else []
        elif (fleet, month) in versions:
            _record(context, table, key, LoadedMonth(versions[fleet, month], is_unchanged=True, bytes=0))
        elif key not in recorded:
            context.log.warning(
                f"{month}: loaded by an earlier release, in a version that is not known. Load it again."
            )
    return missing


def _record(context: dg.OpExecutionContext, table: _Months, key: str, month: LoadedMonth) -> None:
    if month.version.sha256 is None or month.version.data_version == recorded_version(
        context.instance, table.rows.key, key
    ):
        return
    checks = evaluate_month(month, dataset_of(key))
    zones = ZONES_OF_POSITIONS if table.rows is taxi_trips else []
    record_materialization(
        context,
        table.rows,
        key,
        month.version.data_version,
        month_metadata(month, checks),
        inputs={table.files.key: month.version.sha256, **dict.fromkeys(zones)},
        checks=checks,
    )
    context.log.info(f"{month_label(key)}: recorded version {month.version.version}, of {month.version.loaded_at} UTC")


@dg.job(description="Makes Dagster's record of the months follow the files and the tables, and loads nothing.")
def reconcile_job() -> None:
    reconcile_trips(files=reconcile_files())
