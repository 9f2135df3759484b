"""The job that maintains a lake. It is registered only if the database is one."""

import dagster as dg
from dagster_duckdb import DuckDBResource

from dagster_essentials.orchestration.failures import fail_with_message
from dagster_essentials.warehouse.lake.maintenance import maintain_lake


@dg.op
def maintain(context: dg.OpExecutionContext, database: DuckDBResource) -> None:
    """Merge small files, expire old snapshots, and delete files that nothing refers to."""
    with fail_with_message(), database.get_connection() as connection:
        done = maintain_lake(connection)
    context.log.info(
        f"merged {done.files_merged} files, expired {done.snapshots_expired} snapshots, deleted {done.files_deleted} files"
    )


@dg.job(description="Merges small files of the lake, and removes old snapshots and files that nothing refers to.")
def lake_maintenance_job() -> None:
    maintain()
