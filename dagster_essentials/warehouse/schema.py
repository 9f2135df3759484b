"""The tables of trips: how one is created, how an older one is upgraded, and in which folders its data files lie in a lake."""

import duckdb

from dagster_essentials.datasets.all_trips import create_all_trips
from dagster_essentials.datasets.trip_details import create_trip_details
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.errors import DatabaseUnusableError
from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.warehouse.catalog import has_table
from dagster_essentials.warehouse.comments import write_comments
from dagster_essentials.warehouse.exclusive import is_shared
from dagster_essentials.warehouse.lake.files import partition_table
from dagster_essentials.warehouse.month_versions import prepare_versions

COMMENTS = {
    "trips": "Yellow taxi trips of all months that are loaded: one row per trip, as published, no trip dropped",
    "fleet_trips": "Trips of green taxis and for-hire vehicles of all months that are loaded: one row per trip, as published, "
    "no trip dropped; columns that a fleet does not have are null",
}
"""Of the tables, in the database."""


def prepare_table(connection: duckdb.DuckDBPyConnection, dataset: Dataset) -> None:
    """Create the table, or add the columns that one made by the course's code or an earlier release lacks; and describe it.

    To be called in the transaction that loads a month.

    Raises:
        DatabaseUnusableError: the table was made by something else.
    """
    table = dataset.table
    columns = ", ".join(f"{column.name} {column.type}" for column in dataset.columns)
    is_new = is_shared(connection) and not has_table(connection, table)
    connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
    if is_new:
        partition_table(connection, table, list(folders_of_month(dataset, "")))
    present = {name for name, *_ in connection.execute(f"DESCRIBE {table}").fetchall()}
    if missing := [column.name for column in dataset.columns[: dataset.core_columns] if column.name not in present]:
        (path,) = connection.execute("SELECT path FROM duckdb_databases() WHERE path IS NOT NULL").fetchall()[0]
        maker = " (the course's lessons before the eighth make one like it)" if dataset is YELLOW else ""
        raise DatabaseUnusableError(
            f"the table {table} in {path} has no column {', '.join(missing)}, so it was made by something else{maker}. "
            "Nothing was changed in it. Rename or drop it, and materialize again."
        )
    for column in dataset.columns:
        if column.name not in present:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {column.name} {column.type}")
    write_comments(connection, table, COMMENTS[table], {column.name: column.description for column in dataset.columns})
    create_trip_details(connection)
    create_all_trips(connection)
    prepare_versions(connection)


def folders_of_month(dataset: Dataset, month: str) -> dict[str, str]:
    """The columns by which the data files of a lake lie in folders, with their values for `month` (``YYYY-MM``)."""
    return {**dataset.constants, "partition_date": month}
