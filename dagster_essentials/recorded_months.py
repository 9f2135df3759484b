"""What Dagster has recorded of the months in `trips`: when each one last changed, and which version of its file it has."""

from collections.abc import Collection, Mapping

import dagster as dg

from dagster_essentials.ingestion.download import PublishedFile

UNCHANGED = "unchanged"
"""The metadata key that says whether a materialization left the month as it was."""


def last_changes(instance: dg.DagsterInstance, asset: dg.AssetKey) -> dict[str, int]:
    """For each partition of `asset`, the position in the event log of its last materialization that changed it."""
    return {
        partition: _last_change(instance, asset, partition)
        for partition in sorted(instance.get_materialized_partitions(asset))
    }


def _last_change(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str) -> int:
    position, cursor = 0, None
    while True:
        page = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset, asset_partitions=[partition]), limit=10, cursor=cursor
        )
        for record in page.records:
            position = record.storage_id
            if not _metadata(record).get(UNCHANGED):
                return position
        if not page.has_more:
            return position
        cursor = page.cursor


def loaded_files(
    instance: dg.DagsterInstance, table: dg.AssetKey, files: dg.AssetKey, partitions: Collection[str]
) -> dict[str, PublishedFile]:
    """For each of the `partitions` that is materialized in `table`, oldest first, the version of its file that was loaded."""
    loaded = {}
    for partition in sorted(instance.get_materialized_partitions(table) & set(partitions)):
        metadata = _latest_metadata(instance, table, partition)
        if "etag" not in metadata:  # Recorded by an earlier release, which noted it of the file only.
            metadata = _latest_metadata(instance, files, partition)
        known = {name: str(metadata.get(name, "")) for name in ("etag", "last_modified")}
        loaded[partition] = PublishedFile(
            **{name: None if text in ("", "none", "unknown") else text for name, text in known.items()}
        )
    return loaded


def _latest_metadata(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str) -> Mapping[str, object]:
    filter_ = dg.AssetRecordsFilter(asset, asset_partitions=[partition])
    return next((_metadata(record) for record in instance.fetch_materializations(filter_, limit=1).records), {})


def recorded_version(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str) -> str | None:
    """The data version of the latest materialization of `partition`, or None."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset, asset_partitions=[partition]), limit=1
    ).records
    materialization = records[0].asset_materialization if records else None
    return (materialization.tags or {}).get("dagster/data_version") if materialization else None


def _metadata(record: dg.EventLogRecord) -> Mapping[str, object]:
    materialization = record.asset_materialization
    return {name: value.value for name, value in materialization.metadata.items()} if materialization else {}
