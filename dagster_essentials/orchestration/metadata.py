"""Metadata that the UI shows: schemas and lineage of columns, PNG previews, and what is known of a month and its file."""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

import dagster as dg

from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.ingestion.month_files import DownloadedMonth
from dagster_essentials.orchestration.records import NOT_PASSED, UNCHANGED
from dagster_essentials.warehouse.load import LoadedMonth
from dagster_essentials.warehouse.quality import Finding


def columns_metadata(*columns: tuple[str, str, str]) -> dg.TableSchema:
    """The schema of a table of which each column is given as (name, type, description)."""
    return dg.TableSchema([dg.TableColumn(name, type_, description) for name, type_, description in columns])


def column_lineage(upstream: dg.AssetsDefinition, columns: Mapping[str, str]) -> dict[str, list[dg.TableColumnDep]]:
    """For each of the `columns`, the one of `upstream` that it is made from."""
    return {column: [dg.TableColumnDep(upstream.key, source)] for column, source in columns.items()}


def file_schema(*datasets: Dataset) -> dict[str, Any]:
    """The metadata of the asset of the files of `datasets`: the columns of the newest ones."""
    columns = {column.source: column for dataset in datasets for column in dataset.columns if column.source}
    return {
        "dagster/column_schema": columns_metadata(
            *((name, column.type.lower(), column.description) for name, column in columns.items())
        )
    }


def table_schema(dataset: Dataset, database: str, files: dg.AssetsDefinition | None = None) -> dict[str, Any]:
    """The metadata of the asset of a dataset's table in `database`: its columns, and those of the `files` they are made from."""
    metadata: dict[str, Any] = {
        "dagster/table_name": f"{database}.main.{dataset.table}",
        "dagster/column_schema": columns_metadata(
            *((column.name, column.type.lower(), column.description) for column in dataset.columns)
        ),
    }
    if files is not None:
        sources = {column.name: column.source for column in dataset.columns if column.source}
        metadata["dagster/column_lineage"] = dg.TableColumnLineage(column_lineage(files, sources))
    return metadata


def png_metadata(png: bytes) -> dg.MarkdownMetadataValue:
    """`png` as metadata that the UI shows as a picture."""
    return dg.MetadataValue.md(f"![picture](data:image/png;base64,{base64.b64encode(png).decode()})")


def file_metadata(month: DownloadedMonth, location: str) -> dict[str, Any]:
    """The metadata of a month's file at `location`."""
    metadata = {
        "dagster/uri": month.file.url,
        "path": dg.MetadataValue.path(location),
        "bytes": month.file.bytes,
        "bytes_transferred": month.bytes_transferred,
        "etag": month.file.etag or "none",
        "last_modified": month.file.last_modified or "unknown",
        "seconds": round(month.seconds, 3),
    }
    return metadata if month.rows is None else {"dagster/partition_row_count": month.rows, **metadata}


def month_metadata(month: LoadedMonth, findings: Sequence[Finding]) -> dict[str, Any]:
    """The metadata of a month in its table, whether it was loaded now or left unchanged."""
    version = month.version
    metadata = {
        "dagster/partition_row_count": version.num_trips,
        UNCHANGED: month.is_unchanged,
        "version": version.version,
        "etag": version.etag or "none",
        "last_modified": version.last_modified or "unknown",
        "columns_without_values": ", ".join(version.columns_absent) or "none",
        # The page of a month shows no checks: these are about the whole table.
        NOT_PASSED: "; ".join(f"{finding.check}: {finding.figures}" for finding in findings if not finding.passed)
        or "none",
        "quality": dg.MetadataValue.md("\n".join(f"- {finding.check}: {finding.figures}" for finding in findings)),
    }
    if version.zones is not None:
        metadata["zones"] = version.zones[:12]
    if version.loaded_at is not None:
        metadata["loaded_at"] = dg.MetadataValue.timestamp(version.loaded_at.replace(tzinfo=UTC))
    return metadata
