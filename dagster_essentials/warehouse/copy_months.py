"""Copies what is loaded from one database to another: the months with their versions and aggregates, the zones, and small tables.

A month is copied in one transaction of the target, and left alone if it is there already, so a copy that was interrupted
goes on where it ended.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from dagster_essentials.datasets.dataset import Dataset
from dagster_essentials.errors import QueryError
from dagster_essentials.ingestion.zones import Zone
from dagster_essentials.warehouse.aggregates import aggregate_month
from dagster_essentials.warehouse.catalog import has_table
from dagster_essentials.warehouse.comments import write_comments
from dagster_essentials.warehouse.exclusive import is_shared
from dagster_essentials.warehouse.lake_files import add_file, stage
from dagster_essentials.warehouse.month_versions import MonthVersion, replace_versions, versions_of
from dagster_essentials.warehouse.transaction import explain_duckdb_errors, repeat_on_conflict, transaction
from dagster_essentials.warehouse.trips_schema import folders_of_month, prepare_table
from dagster_essentials.warehouse.trips_table import hold_month
from dagster_essentials.warehouse.zones_table import replace_zones

_AGAIN = "What was copied before is kept. Run the same command again: it goes on with this month."


@dataclass(frozen=True)
class CopiedMonth:
    """A month that the target has now, with its number of rows; `is_unchanged` if it had it before."""

    dataset: str
    month: str
    rows: int
    is_unchanged: bool


def copy_months(
    source: duckdb.DuckDBPyConnection, target: duckdb.DuckDBPyConnection, datasets: Sequence[Dataset]
) -> Iterator[CopiedMonth]:
    """Copy all months of the `datasets`, oldest first. Each is yielded when it is committed.

    Raises:
        QueryError: a month cannot be copied, or has another number of rows afterwards; the target's is as it was before.
    """
    for dataset in datasets:
        for month, rows in _rows_by_month(source, dataset).items():
            with explain_duckdb_errors(f"{month} of the {dataset.name} trips could not be copied", _AGAIN):
                yield _copy_month(source, target, dataset, month, rows)


def _rows_by_month(connection: duckdb.DuckDBPyConnection, dataset: Dataset) -> dict[str, int]:
    if not has_table(connection, dataset.table):
        return {}
    return dict(
        connection.execute(
            f"SELECT partition_date, count(*) FROM {dataset.table} WHERE {dataset.rows} GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    )


def _copy_month(
    source: duckdb.DuckDBPyConnection, target: duckdb.DuckDBPyConnection, dataset: Dataset, month: str, rows: int
) -> CopiedMonth:
    hold_month(source, dataset, month)
    hold_month(target, dataset, month)
    versions = versions_of(source, dataset.name, month)
    if versions_of(target, dataset.name, month) == versions and _rows_by_month(target, dataset).get(month) == rows:
        return CopiedMonth(dataset.name, month, rows, is_unchanged=True)
    present = {name for name, *_ in source.execute(f"DESCRIBE {dataset.table}").fetchall()}
    # The table of an earlier release has fewer columns.
    columns = ", ".join(
        column.name if column.name in present else f"NULL::{column.type} AS {column.name}" for column in dataset.columns
    )
    with tempfile.TemporaryDirectory(prefix="copy-") as folder:
        path = str(Path(folder) / "month.parquet")
        source.execute(
            f"COPY (SELECT {columns} FROM {dataset.table} WHERE {dataset.month_rows}) TO '{path}' (FORMAT parquet)",
            {"month": month},
        )
        query, values = f"SELECT {_names(dataset)} FROM read_parquet($file)", {"file": path}
        staged = (
            stage(target, dataset.table, folders_of_month(dataset, month), query, values) if is_shared(target) else None
        )

        def write() -> None:
            with transaction(target):
                prepare_table(target, dataset)
                target.execute(f"DELETE FROM {dataset.table} WHERE {dataset.month_rows}", {"month": month})
                if staged:
                    add_file(target, dataset.table, staged)
                else:
                    target.execute(f"INSERT INTO {dataset.table} ({_names(dataset)}) {query}", values)
                _finish_month(target, dataset, month, rows, versions)

        repeat_on_conflict(write)
    return CopiedMonth(dataset.name, month, rows, is_unchanged=False)


def _names(dataset: Dataset) -> str:
    return ", ".join(column.name for column in dataset.columns)


def _finish_month(
    target: duckdb.DuckDBPyConnection, dataset: Dataset, month: str, rows: int, versions: Sequence[MonthVersion]
) -> None:
    copied = _rows_by_month(target, dataset).get(month)
    if copied != rows:
        raise QueryError(
            f"{month} of the {dataset.name} trips has {rows:,} rows, and {copied or 0:,} were copied. The month is as it was "
            "before. Run the same command again."
        )
    aggregate_month(target, dataset, month)
    replace_versions(target, dataset.name, month, versions)


def copy_zones(source: duckdb.DuckDBPyConnection, target: duckdb.DuckDBPyConnection) -> int:
    """Replace the target's zones by those of the source, if it has some; returns how many."""
    if not has_table(source, "zones"):
        return 0
    rows = source.execute("SELECT zone_id, zone, borough, geometry FROM zones ORDER BY zone_id").fetchall()
    replace_zones(target, [Zone(*row) for row in rows])
    return len(rows)


def copy_table(
    source: duckdb.DuckDBPyConnection,
    target: duckdb.DuckDBPyConnection,
    name: str,
    columns: Sequence[tuple[str, str, str]],
    comment: str,
) -> None:
    """Replace a small table of the target by that of the source, if it has one; `columns` are name, type, description.

    Raises:
        QueryError: it cannot be done; the target's table is unchanged.
    """
    if not has_table(source, name):
        return
    names = [column for column, *_ in columns]
    with (
        explain_duckdb_errors(f"the table {name} could not be copied", "Run the same command again."),
        transaction(target),
    ):
        rows = source.execute(f"SELECT {', '.join(names)} FROM {name}").fetchall()
        target.execute(f"CREATE OR REPLACE TABLE {name} ({', '.join(f'{name} {type_}' for name, type_, _ in columns)})")
        write_comments(target, name, comment, {column: text for column, _, text in columns})
        values = {column: [row[number] for row in rows] for number, column in enumerate(names)}
        target.execute(f"INSERT INTO {name} SELECT {', '.join(f'unnest(${column})' for column in names)}", values)
