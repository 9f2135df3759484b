"""The job that makes Dagster's record of the months follow the database, after one of the two was lost or restored."""

from pathlib import Path

import dagster as dg
from dagster_duckdb import DuckDBResource

from dagster_essentials.assets import constants
from dagster_essentials.assets.checks import evaluate_month
from dagster_essentials.assets.failures import fail_with_message
from dagster_essentials.assets.month_metadata import file_metadata, month_metadata
from dagster_essentials.assets.trips import ZONES_OF_POSITIONS, taxi_trips, taxi_trips_file
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.ingestion.trip_files import find_downloaded
from dagster_essentials.partition_run import record_materialization
from dagster_essentials.partitions import monthly_partition
from dagster_essentials.recorded_months import recorded_version
from dagster_essentials.warehouse.aggregates import loaded_months
from dagster_essentials.warehouse.month_versions import versions_by_month
from dagster_essentials.warehouse.trips_table import LoadedMonth


@dg.op
def reconcile_files(context: dg.OpExecutionContext) -> None:
    """Record the months whose files are in the data folder."""
    for key in monthly_partition.get_partition_keys():
        path = Path(constants.TAXI_TRIPS_TEMPLATE_FILE_PATH.format(key[:7]))
        month = find_downloaded(path)
        if month and month.file.sha256 != recorded_version(context.instance, taxi_trips_file.key, key):
            record_materialization(context, taxi_trips_file, key, month.file.sha256, file_metadata(month, path))
            context.log.info(f"{key[:7]}: recorded the file {path}")


@dg.op(ins={"files": dg.In(dg.Nothing)})
def reconcile_trips(context: dg.OpExecutionContext, database: DuckDBResource) -> None:
    """Record the months that are in `trips`, in the version that it has; fail if Dagster has recorded others."""
    with fail_with_message(), database.get_connection() as connection:
        loaded = set(loaded_months(connection))
        versions = versions_by_month(connection, YELLOW.name)
        recorded = context.instance.get_materialized_partitions(taxi_trips.key)
        missing = []
        for key in monthly_partition.get_partition_keys():
            month = key[:7]
            if month not in loaded:
                missing += [key] if key in recorded else []
            elif month in versions:
                _record(context, key, LoadedMonth(versions[month], is_unchanged=True, bytes=0))
            elif key not in recorded:
                context.log.warning(
                    f"{month}: loaded by an earlier release, in a version that is not known. Load it again."
                )
    if missing:
        raise dg.Failure(
            f"Recorded in Dagster, but not in the table trips: {', '.join(key[:7] for key in missing)}. Load them again: "
            f"dagster job backfill -j trip_update_job --partitions {','.join(missing)}",
            allow_retries=False,
        )


def _record(context: dg.OpExecutionContext, key: str, month: LoadedMonth) -> None:
    if month.version.sha256 is None or month.version.data_version == recorded_version(
        context.instance, taxi_trips.key, key
    ):
        return
    checks = evaluate_month(month)
    record_materialization(
        context,
        taxi_trips,
        key,
        month.version.data_version,
        month_metadata(month, checks),
        inputs={taxi_trips_file.key: month.version.sha256, **dict.fromkeys(ZONES_OF_POSITIONS)},
        checks=checks,
    )
    context.log.info(f"{key[:7]}: recorded version {month.version.version}, of {month.version.loaded_at} UTC")


@dg.job(description="Makes Dagster's record of the months follow the files and the table trips, and loads nothing.")
def reconcile_job() -> None:
    reconcile_trips(files=reconcile_files())
