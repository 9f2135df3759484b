"""The table `trips`: creating and upgrading it, replacing a month in one transaction, and which months it has."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from dagster_essentials.errors import DatabaseUnusableError, LoadError, QueryError, RowCountMismatchError, SchemaError
from dagster_essentials.ingestion.column_mapping import (
    COLUMNS,
    COURSE_COLUMNS,
    FROM_FILE,
    NotParquetError,
    map_columns,
    read_file_schema,
)
from dagster_essentials.ingestion.sidecar import content_sha256
from dagster_essentials.ingestion.trip_files import OpenTripsFile, open_trips_file
from dagster_essentials.warehouse.comments import write_comments
from dagster_essentials.warehouse.quality import MonthProfile, profile_month
from dagster_essentials.warehouse.transaction import explain_duckdb_errors, transaction
from dagster_essentials.warehouse.trip_details import create_trip_details

COMMENT = "Yellow taxi trips of all months that are loaded: one row per trip, as published, no trip dropped"
"""Of the table, in the database."""


@dataclass(frozen=True)
class LoadedMonth:
    """A month as it was loaded.

    Attributes:
        rows_in_file: as the file's footer counts them.
        profile: what was counted in the rows of the table.
        sha256, bytes: of the file that was loaded.
        unknown: columns of the file that are not in the table.
        absent: columns of the table for which the file has no values.
    """

    rows_in_file: int
    profile: MonthProfile
    sha256: str
    bytes: int
    unknown: Sequence[str]
    absent: Sequence[str]


def replace_month(connection: duckdb.DuckDBPyConnection, month: str, path: Path) -> LoadedMonth:
    """Replace the rows of `month` (``YYYY-MM``) in `trips` by those of the file at `path`, in one transaction.

    Raises:
        LoadError, SchemaError, QueryError: it cannot be done; the month is unchanged.
        DatabaseUnusableError: the table was made by something else.
    """
    try:
        with open_trips_file(path) as file:
            return _replace_month(connection, month, file)
    except (LoadError, SchemaError, QueryError) as error:
        error.source = path
        raise


def _replace_month(connection: duckdb.DuckDBPyConnection, month: str, file: OpenTripsFile) -> LoadedMonth:
    try:
        schema = read_file_schema(file.content)
        # Before the load: an error after its commit would fail a month that has been replaced.
        sha256 = content_sha256(file.path, file.content)
    except NotParquetError as error:
        raise LoadError(f"{error}. The month is unchanged. {_DOWNLOAD_AGAIN}") from None
    except OSError as error:
        raise LoadError(
            f"the file cannot be read ({error.strerror}). The month is unchanged. {_DOWNLOAD_AGAIN}"
        ) from None
    if schema.rows == 0:
        raise LoadError(f"the file has no rows. The month is unchanged. {_DOWNLOAD_AGAIN}")
    mapping = map_columns(schema)
    with _explain_errors(file), transaction(connection):
        _prepare_table(connection)
        connection.execute("DELETE FROM trips WHERE partition_date = $month", {"month": month})
        connection.execute(
            f"INSERT INTO trips ({', '.join(column.name for column in COLUMNS)}) "
            f"SELECT {', '.join(mapping.expressions)} FROM {FROM_FILE}",
            {"month": month, "file": file.reader_path},
        )
        profile = profile_month(connection, month)
        if profile.rows != schema.rows:
            raise RowCountMismatchError(
                f"the file has {schema.rows:,} rows, but {profile.rows:,} were loaded, so the load was rolled back. Materialize "
                "taxi_trips_file and taxi_trips again.",
                rows_in_file=schema.rows,
                rows_in_table=profile.rows,
            )
    return LoadedMonth(schema.rows, profile, sha256, file.bytes, mapping.unknown, mapping.absent)


_DOWNLOAD_AGAIN = "Delete the file, and materialize taxi_trips_file and taxi_trips again."


@contextmanager
def _explain_errors(file: OpenTripsFile) -> Iterator[None]:
    advice = (
        f"{_DOWNLOAD_AGAIN} If it fails in the same way, the file at the source has values that "
        "dagster_essentials/ingestion/column_mapping.py does not accept."
    )
    try:
        with explain_duckdb_errors("loading the file failed, and the month is unchanged", advice):
            yield
    except QueryError as error:
        raise QueryError(str(error).replace(file.reader_path, str(file.path))) from None


def _prepare_table(connection: duckdb.DuckDBPyConnection) -> None:
    """Create `trips`, or add the columns that one made by the course's code lacks; and what describes it."""
    columns = ", ".join(f"{column.name} {column.type}" for column in COLUMNS)
    connection.execute(f"CREATE TABLE IF NOT EXISTS trips ({columns})")
    present = {name for name, *_ in connection.execute("DESCRIBE trips").fetchall()}
    if missing := [column.name for column in COURSE_COLUMNS if column.name not in present]:
        (path,) = connection.execute("SELECT path FROM duckdb_databases() WHERE path IS NOT NULL").fetchall()[0]
        raise DatabaseUnusableError(
            f"the table trips in {path} has no column {', '.join(missing)}, so it was made by something else (the course's "
            "lessons before the eighth make one like it). Nothing was changed in it. Rename or drop it, and materialize "
            "again."
        )
    for column in COLUMNS:
        if column.name not in present:
            connection.execute(f"ALTER TABLE trips ADD COLUMN {column.name} {column.type}")
    write_comments(connection, "trips", COMMENT, {column.name: column.description for column in COLUMNS})
    create_trip_details(connection)


def has_table(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Whether the database has a table `name`."""
    return bool(connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = $name", {"name": name}).fetchall())


def loaded_months(connection: duckdb.DuckDBPyConnection, among: Collection[str] | None = None) -> list[str]:
    """The months (``YYYY-MM``) that have trips in the table, in order, or those of them that are in `among`."""
    if not has_table(connection, "trips"):
        return []
    months = connection.execute(
        "SELECT DISTINCT partition_date FROM trips "
        "WHERE $among IS NULL OR list_contains($among, partition_date) ORDER BY partition_date",
        {"among": None if among is None else list(among)},
    ).fetchall()
    return [month for (month,) in months]


def newest_month(connection: duckdb.DuckDBPyConnection) -> str | None:
    """The newest month (``YYYY-MM``) that has trips in the table, or None."""
    if not has_table(connection, "trips"):
        return None
    newest: str | None = connection.execute("SELECT max(partition_date) FROM trips").fetchall()[0][0]
    return newest
