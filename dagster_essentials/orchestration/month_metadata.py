"""What Dagster records of a month: of its file, and of its rows in the table."""

from datetime import timezone
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_essentials.ingestion.object_files import location
from dagster_essentials.ingestion.trip_files import DownloadedMonth
from dagster_essentials.orchestration.metadata import png_metadata
from dagster_essentials.orchestration.records import UNCHANGED
from dagster_essentials.reports.plots import plot_versions
from dagster_essentials.warehouse.load import LoadedMonth


def file_metadata(month: DownloadedMonth, path: Path) -> dict[str, Any]:
    """The metadata of a month's file at `path`."""
    return {
        "dagster/partition_row_count": month.rows,
        "dagster/uri": month.file.url,
        "path": dg.MetadataValue.path(location(path)),
        "bytes": month.file.bytes,
        "bytes_transferred": month.bytes_transferred,
        "etag": month.file.etag or "none",
        "last_modified": month.file.last_modified or "unknown",
        "seconds": round(month.seconds, 3),
    }


def month_metadata(month: LoadedMonth, checks: list[dg.AssetCheckResult]) -> dict[str, Any]:
    """The metadata of a month in its table, whether it was loaded now or left unchanged."""
    version = month.version
    metadata = {
        "dagster/partition_row_count": version.num_trips,
        UNCHANGED: month.is_unchanged,
        "version": version.version,
        "etag": version.etag or "none",
        "last_modified": version.last_modified or "unknown",
        "columns_without_values": ", ".join(version.columns_absent) or "none",
        # The page of a month shows no checks.
        "checks_not_passed": ", ".join(str(check.check_name) for check in checks if not check.passed) or "none",
    }
    if version.zones is not None:
        metadata["zones"] = version.zones[:12]
    if version.loaded_at is not None:
        metadata["loaded_at"] = dg.MetadataValue.timestamp(version.loaded_at.replace(tzinfo=timezone.utc))
    # The same file, loaded by another mapping, is no correction.
    files = list({each.sha256: each for each in month.versions if each.sha256 is not None}.values())
    if len(files) > 1:
        metadata["versions"] = png_metadata(plot_versions(files, version.label))
    return metadata
