"""What the UI shows of a table, a file or a picture: column schemas, column lineage, PNG previews."""

import base64
from collections.abc import Mapping

import dagster as dg

from dagster_essentials import settings


def table_name(table: str) -> str:
    """The name of a table with its database and schema, as in ``data.main.trips``."""
    return f"{settings.SETTINGS.database_name}.main.{table}"


def table_schema(*columns: tuple[str, str, str]) -> dg.TableSchema:
    """The schema of a table of which each column is given as (name, type, description)."""
    return dg.TableSchema([dg.TableColumn(name, type_, description) for name, type_, description in columns])


def column_lineage(upstream: dg.AssetsDefinition, columns: Mapping[str, str]) -> dict[str, list[dg.TableColumnDep]]:
    """For each of the `columns`, the one of `upstream` that it is made from."""
    return {column: [dg.TableColumnDep(upstream.key, source)] for column, source in columns.items()}


def png_metadata(png: bytes) -> dg.MarkdownMetadataValue:
    """`png` as metadata that the UI shows as a picture."""
    return dg.MetadataValue.md(f"![picture](data:image/png;base64,{base64.b64encode(png).decode()})")
