"""The job that makes Dagster's record of the months follow the database, after one of the two was lost or restored."""

from collections.abc import Mapping, Sequence
from shlex import quote

import dagster as dg
from dagster_duckdb import DuckDBResource

from dagster_essentials.ingestion.month_files import find_downloaded
from dagster_essentials.orchestration.checks import evaluate_checks
from dagster_essentials.orchestration.database import open_tables
from dagster_essentials.orchestration.events import record_check, record_materialization
from dagster_essentials.orchestration.failures import fail_with_message, logged_failure
from dagster_essentials.orchestration.metadata import file_metadata, month_metadata
from dagster_essentials.orchestration.monthly_table import MonthlyTable
from dagster_essentials.orchestration.records import recorded_version
from dagster_essentials.warehouse.load import LoadedMonth
from dagster_essentials.warehouse.month_versions import MonthVersion, versions_by_month
from dagster_essentials.warehouse.quality import find, loaded_months
from dagster_essentials.warehouse.tables import Tables


def build_reconcile_job(tables: Sequence[MonthlyTable]) -> dg.JobDefinition:
    """The job `reconcile_job` for the months of the `tables`."""

    @dg.op
    def reconcile_files(context: dg.OpExecutionContext) -> None:
        """Record the months whose files are in the data folder."""
        for table in tables:
            _reconcile_files(context, table)

    @dg.op(ins={"files": dg.In(dg.Nothing)})
    def reconcile_trips(context: dg.OpExecutionContext, database: DuckDBResource) -> None:
        """Record the months that are in the tables, in the versions that these have; fail if Dagster has recorded others."""
        missing = []
        with fail_with_message(), open_tables(database) as connection:
            for table in tables:
                if keys := _reconcile_rows(context, table, connection):
                    missing.append(
                        f"Recorded in Dagster, but not in the table {table.statements.table}: "
                        f"{', '.join(map(table.label, keys))}. Load them again: dagster job backfill -j {table.job.name} "
                        f"--partitions {quote(','.join(keys))}"
                    )
        if missing:
            raise logged_failure("\n".join(missing))

    @dg.job(
        description="Makes Dagster's record of the months follow the files and the tables, and loads nothing. For after a "
        "restore of the data folder, the database or the Dagster instance from a backup, or a move to another machine."
    )
    def reconcile_job() -> None:
        reconcile_trips(files=reconcile_files())

    return reconcile_job


def _reconcile_files(context: dg.OpExecutionContext, table: MonthlyTable) -> None:
    recorded = found = 0
    for key in table.partitions.get_partition_keys():
        file = table.month_file(key)
        month = find_downloaded(file)
        if month is None:
            if file.path.exists():
                context.log.warning(
                    f"{file.label}: {file.path} is not recorded, because there is no record of its download beside it "
                    "(a hidden file, .source.json), or it has changed since. The next run downloads it again."
                )
            continue
        found += 1
        if month.file.sha256 != recorded_version(context.instance, table.files.key, key):
            metadata = file_metadata(month, file.location)
            record_materialization(context, table.files, key, month.file.sha256, metadata)
            context.log.info(f"{file.label}: recorded the file {file.path}")
            recorded += 1
    name = table.files.key.to_user_string()
    context.log.info(f"{name}: {recorded} of {found} files recorded; Dagster had the others already.")


def _reconcile_rows(context: dg.OpExecutionContext, table: MonthlyTable, connection: Tables) -> list[str]:
    """Record the months of `table`; return the partitions that Dagster has, and the database has not."""
    for upgrade in table.statements.upgrade:
        upgrade(connection)
    versions = versions_by_month(connection, [dataset.name for dataset in table.datasets])
    loaded = {dataset.name: loaded_months(connection, dataset) for dataset in table.datasets}
    in_dagster = context.instance.get_materialized_partitions(table.rows.key)
    recorded, missing = 0, []
    for key in table.partitions.get_partition_keys():
        file = table.month_file(key)
        of_month = versions.get((file.dataset.name, file.month))
        if file.month not in loaded[file.dataset.name]:
            missing += [key] if key in in_dagster else []
        elif of_month:
            recorded += _record(context, table, key, of_month)
        elif key not in in_dagster:
            context.log.warning(
                f"{file.label}: not recorded: loaded by an earlier release, in a version that is not known. Load it again."
            )
    name = table.rows.key.to_user_string()
    context.log.info(f"{name}: {recorded} of {len(versions)} months recorded; Dagster had the others already.")
    if recorded:
        names = [spec.name for spec in table.rows.check_specs]
        for check in evaluate_checks(names, table.datasets, versions, {}):
            record_check(context, table.rows, check)
    return missing


def _record(context: dg.OpExecutionContext, table: MonthlyTable, key: str, versions: Sequence[MonthVersion]) -> bool:
    """Record a month, and return whether it was not recorded in this version."""
    month = LoadedMonth(versions, is_unchanged=True)
    if month.version.sha256 is None or month.version.data_version == recorded_version(
        context.instance, table.rows.key, key
    ):
        return False
    inputs: Mapping[dg.AssetKey, str | None] = {table.files.key: month.version.sha256, **dict.fromkeys(table.inputs)}
    findings = find(versions, table.month_file(key).dataset)
    record_materialization(
        context, table.rows, key, month.version.data_version, month_metadata(month, findings), inputs=inputs
    )
    context.log.info(f"{table.label(key)}: recorded version {month.version.version}, of {month.version.loaded_at} UTC")
    return True
