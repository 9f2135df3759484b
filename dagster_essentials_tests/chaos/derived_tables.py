"""Compares `month_versions` and the aggregates with the rows of `trips`.

As the oracle, it shares no code with the pipeline.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise

import duckdb

UNKNOWN_FILE = ""
"""In place of a SHA-256, for rows that something else has loaded: `month_versions` may lack them, and so the aggregates."""

_FINITE_SUMS = ", ".join(
    f"sum(CASE WHEN isfinite({name}) THEN {name} END)" for name in ("total_amount", "trip_distance", "passenger_count")
)
# For each aggregate of `trips`: its rows, and what they must be. Keys are texts: Python has no infinite date.
_AGGREGATES = {
    "trips_by_day": (
        "SELECT partition_date, day::VARCHAR, num_trips, total_amount, trip_distance, passenger_count FROM trips_by_day",
        f"SELECT partition_date, pickup_datetime::DATE::VARCHAR AS day, count(*), {_FINITE_SUMS} FROM trips GROUP BY ALL",
    ),
    "pickups_by_zone": (
        "SELECT partition_date, pickup_zone_id::VARCHAR, num_trips FROM pickups_by_zone",
        "SELECT partition_date, pickup_zone_id::VARCHAR AS zone, count(*) FROM trips GROUP BY ALL",
    ),
}

Group = tuple[str, list[float | None]]
"""A row of an aggregate: its key within the month, and its count and sums."""


def check_derived_tables(
    connection: duckdb.DuckDBPyConnection, present: Collection[str], known: Mapping[str, tuple[str, int]]
) -> Iterator[str]:
    """The violations in the tables beside `trips`.

    Args:
        connection: to the database in which they are.
        present: the months (``YYYY-MM``) that have rows in `trips`.
        known: those of them whose rows are a known version: the SHA-256 of its file, and its number of rows.
    """
    tables = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    yield from _check_versions(connection, tables, present, known)
    if "trips" in tables:
        loaded_elsewhere = {month for month, (sha256, _) in known.items() if sha256 == UNKNOWN_FILE}
        for table in _AGGREGATES:
            yield from _check_aggregate(connection, table, table in tables, loaded_elsewhere)


def _check_versions(
    connection: duckdb.DuckDBPyConnection,
    tables: Collection[str],
    present: Collection[str],
    known: Mapping[str, tuple[str, int]],
) -> Iterator[str]:
    versions: dict[str, list[tuple[int, str | None, str | None, int]]] = {}
    if "month_versions" in tables:
        for month, *version in connection.execute(
            "SELECT month, version, sha256, mapping, num_trips FROM month_versions WHERE fleet = 'yellow' "
            "ORDER BY month, version"
        ).fetchall():
            versions.setdefault(month, []).append((version[0], version[1], version[2], version[3]))
    for month, found in versions.items():
        numbers = [number for number, *_ in found]
        if numbers != [*range(1, len(numbers) + 1)]:
            yield f"{month}: the versions in month_versions are numbered {', '.join(map(str, numbers))}"
        if any(one[1:3] == another[1:3] for one, another in pairwise(found)):
            yield f"{month}: two versions in a row in month_versions are of one file and mapping"
        if month not in present:
            yield f"{month}: in month_versions, but not in the table"
    for month, (sha256, rows) in known.items():
        if month not in versions:
            if sha256 != UNKNOWN_FILE:
                yield f"{month}: in the table, but not in month_versions"
            continue
        _, of_file, _, num_trips = versions[month][-1]
        if (of_file or UNKNOWN_FILE) != sha256:
            yield f"{month}: the last version in month_versions is of another file than the rows in the table"
        elif num_trips != rows:
            yield f"{month}: the last version in month_versions has {num_trips:,} trips, the table {rows:,}"


def _check_aggregate(
    connection: duckdb.DuckDBPyConnection, table: str, exists: bool, loaded_elsewhere: Collection[str]
) -> Iterator[str]:
    query, expected_query = _AGGREGATES[table]
    found = _read_groups(connection, query) if exists else {}
    expected = _read_groups(connection, expected_query)
    for month in sorted(found.keys() | expected.keys()):
        if month in loaded_elsewhere and month not in found:
            continue
        if not _are_equal(found.get(month, []), expected.get(month, [])):
            yield f"{month}: {table} is not what the rows in the table add up to"


def _read_groups(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, list[Group]]:
    """The rows of each month, sorted by their key."""
    groups: dict[str, list[Group]] = {}
    for month, key, *numbers in connection.execute(f"{query} ORDER BY 1, 2").fetchall():
        groups.setdefault(month, []).append((str(key), numbers))
    return groups


def _are_equal(found: list[Group], expected: list[Group]) -> bool:
    return [key for key, _ in found] == [key for key, _ in expected] and all(
        _is_close(number, other)
        for (_, numbers), (_, others) in zip(found, expected, strict=True)
        for number, other in zip(numbers, others, strict=True)
    )


def _is_close(number: float | None, other: float | None) -> bool:
    """True if they differ by less than a cent, as sums do by the order in which DuckDB adds."""
    if number is None or other is None:
        return number is other
    return math.isclose(number, other, rel_tol=1e-12, abs_tol=1e-4)
