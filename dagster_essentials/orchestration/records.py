"""Dagster's records of loaded months: when each one last changed, the version of its file, and what its checks found."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from dagster_essentials.ingestion.download import PublishedFile

UNCHANGED = "unchanged"
"""The metadata key that says whether a materialization left the month as it was."""


def last_changes(instance: dg.DagsterInstance, asset: dg.AssetKey) -> dict[str, int]:
    """For each partition of `asset`, the position in the event log of its last materialization that changed it."""
    return {key: _last_change(instance, asset, key) for key in sorted(instance.get_materialized_partitions(asset))}


def _last_change(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str) -> int:
    position, cursor = 0, None
    while True:
        page = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset, asset_partitions=[partition]), limit=10, cursor=cursor
        )
        for record in page.records:
            position = record.storage_id
            assert record.asset_materialization is not None
            if UNCHANGED not in (metadata := record.asset_materialization.metadata) or not metadata[UNCHANGED].value:
                return position
        if not page.has_more:
            return position
        cursor = page.cursor


def recorded_version(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str) -> str | None:
    """The data version of the latest materialization of `partition`, or None."""
    latest = _latest(instance, asset, partition)
    return (latest.tags or {}).get("dagster/data_version") if latest else None


def loaded_files(
    instance: dg.DagsterInstance, table: dg.AssetKey, files: dg.AssetKey, partitions: Collection[str]
) -> dict[str, PublishedFile]:
    """For each of the `partitions` that is materialized in `table`, oldest first, the version of its file that was loaded."""
    loaded = {}
    for partition in sorted(instance.get_materialized_partitions(table) & set(partitions)):
        metadata = _metadata(_latest(instance, table, partition))
        if "etag" not in metadata:  # Recorded by an earlier release, which noted it of the file only.
            metadata = _metadata(_latest(instance, files, partition))
        etag, last_modified = (metadata.get(name, "") for name in ("etag", "last_modified"))
        loaded[partition] = PublishedFile(
            etag=None if etag in ("", "none") else etag,
            last_modified=None if last_modified in ("", "unknown") else last_modified,
        )
    return loaded


def _latest(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str) -> dg.AssetMaterialization | None:
    filter_ = dg.AssetRecordsFilter(asset, asset_partitions=[partition])
    records = instance.fetch_materializations(filter_, limit=1).records
    return records[0].asset_materialization if records else None


def _metadata(materialization: dg.AssetMaterialization | None) -> Mapping[str, str]:
    if materialization is None:
        return {}
    return {name: str(value.value) for name, value in materialization.metadata.items()}


def overtaken_checks(instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckKey], run_id: str) -> set[str]:
    """The names of the `checks` of the run `run_id` whose latest result is of a run that was launched later, and has ended."""
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(checks)
    return {key.name for key, record in latest.items() if record.run_id != run_id and record.status.value != "PLANNED"}


NOT_PASSED = "checks_not_passed"
"""The metadata key of the checks that a month does not pass, with their figures."""


@dataclass(frozen=True)
class DoubtfulMonth:
    """A partition that was loaded in a data version that some checks do not pass: these, with their figures."""

    partition: str
    data_version: str
    findings: str


def doubtful_months(
    instance: dg.DagsterInstance, asset: dg.AssetKey, position: int | None
) -> tuple[list[DoubtfulMonth], int]:
    """The partitions of `asset` that have been loaded since a `position` in the event log, and do not pass a check.

    Returns:
        These, oldest first, and the position of now. Without a position, there are none.
    """
    latest = instance.fetch_materializations(dg.AssetRecordsFilter(asset), limit=1).records
    if position is None or not latest:
        return [], latest[0].storage_id if latest else 0
    months: list[DoubtfulMonth] = []
    cursor = None
    while True:
        page = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset, after_storage_id=position), limit=100, cursor=cursor, ascending=True
        )
        for record in page.records:
            position = record.storage_id
            metadata = _metadata(record.asset_materialization)
            if metadata.get(UNCHANGED) != "True" and metadata.get(NOT_PASSED, "none") != "none":
                tags = (record.asset_materialization and record.asset_materialization.tags) or {}
                months.append(
                    DoubtfulMonth(str(record.partition_key), tags.get("dagster/data_version", ""), metadata[NOT_PASSED])
                )
        if not page.has_more:
            return months, position
        cursor = page.cursor
