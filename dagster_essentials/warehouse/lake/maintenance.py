"""The maintenance of a lake: merges small files, removes old snapshots and files that nothing refers to."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dagster_essentials.warehouse.lake import LAKE_NAME
from dagster_essentials.warehouse.tables import COMMITS, Tables

KEEP_SNAPSHOTS = timedelta(days=7)
"""The time for which a replaced month can still be read as it was, and takes space."""

KEEP_FILES = timedelta(days=1)
"""The time for which unused files are kept: a load may not have added one yet, and a query may be reading one."""


@dataclass(frozen=True)
class Maintenance:
    """The numbers of files that were merged, snapshots that were expired, and files that were deleted."""

    files_merged: int
    snapshots_expired: int
    files_deleted: int


def maintain_lake(
    tables: Tables,
    keep_snapshots: timedelta = KEEP_SNAPSHOTS,
    keep_files: timedelta = KEEP_FILES,
) -> Maintenance:
    """Merge small files of the same month, expire snapshots older than `keep_snapshots`, and delete unused files.

    Loads wait for each of the four steps with their commit; readers do not.

    Raises:
        QueryError: a step failed. Those before it are done, and the tables are unchanged.
    """
    now = datetime.now(UTC)
    steps = (
        ("ducklake_merge_adjacent_files($lake)", None),
        ("ducklake_expire_snapshots($lake, older_than => $before)", now - keep_snapshots),
        ("ducklake_cleanup_old_files($lake, older_than => $before)", now - keep_files),
        ("ducklake_delete_orphaned_files($lake, older_than => $before)", now - keep_files),
    )
    results = []
    for call, before in steps:
        values = {"lake": LAKE_NAME} | ({"before": before} if before else {})
        with (
            tables.explain_errors(f"{call.partition('(')[0]} failed", "The trips are unchanged. Run the job again."),
            tables.exclusive(COMMITS),
        ):
            results.append(tables.execute(f"FROM {call}", values).fetchall())
    merged, expired, cleaned, orphaned = results
    return Maintenance(sum(row[-2] for row in merged), len(expired), len(cleaned) + len(orphaned))
