"""The maintenance of a lake: a job, and its schedule. Registered only if the database is a lake."""

import dagster as dg
from dagster_duckdb import DuckDBResource

from dagster_essentials.orchestration.database import open_tables
from dagster_essentials.orchestration.failures import fail_with_message
from dagster_essentials.warehouse.lake.maintenance import maintain_lake


@dg.op
def maintain(context: dg.OpExecutionContext, database: DuckDBResource) -> None:
    """Merge small files, expire old snapshots, and delete files that nothing refers to."""
    with fail_with_message(), open_tables(database) as tables:
        done = maintain_lake(tables)
    context.log.info(
        f"merged {done.files_merged} files, expired {done.snapshots_expired} snapshots, deleted {done.files_deleted} files"
    )


@dg.job(description="Merges small files of the lake, and removes old snapshots and files that nothing refers to.")
def lake_maintenance_job() -> None:
    maintain()


lake_maintenance_schedule = dg.ScheduleDefinition(
    name="lake_maintenance_job_schedule",
    job=lake_maintenance_job,
    # Not on a day of another schedule, whose runs would wait for it.
    cron_schedule="0 0 * * 3",
    execution_timezone="America/New_York",
    description="Merges small files of the lake and removes what is not needed any more, on Wednesdays.",
)
