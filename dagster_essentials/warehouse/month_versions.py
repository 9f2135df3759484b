"""The table `month_versions`: which version of which month's file is in `trips`, and which ones were before.

A row is written in the transaction that loads the month, so it says what the table has, whatever Dagster has recorded.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from hashlib import sha256

import duckdb

from dagster_essentials.ingestion import column_mapping
from dagster_essentials.ingestion.column_mapping import ColumnMapping
from dagster_essentials.ingestion.zones import Zone, fingerprint
from dagster_essentials.warehouse.catalog import has_table
from dagster_essentials.warehouse.comments import write_comments
from dagster_essentials.warehouse.quality import QUALITY_RULES

COMMENT = "Which version of each month's file is in trips, the last one, and which ones were before"
COLUMNS = (
    ("month", "VARCHAR", "Month of the file, YYYY-MM"),
    ("version", "INTEGER", "1 for the first version on record; the highest one is in trips"),
    ("loaded_at", "TIMESTAMP", "When it was last loaded, UTC; null if that was before there was this table"),
    ("sha256", "VARCHAR", "Of the file"),
    ("mapping", "VARCHAR", "Fingerprint of the columns, rules and zones with which it was loaded"),
    ("num_trips", "BIGINT", "Trips"),
    ("total_amount", "DOUBLE", "Sum of what passengers paid, US dollars"),
    ("trip_distance", "DOUBLE", "Sum of the distances, miles"),
    ("etag", "VARCHAR", "Of the file, as sent by the source"),
    ("last_modified", "VARCHAR", "Of the file, as sent by the source"),
    ("file_columns", "VARCHAR[]", "Name and type of each column of the file"),
    ("columns_unknown", "VARCHAR[]", "Columns of the file that are not in trips"),
    ("columns_absent", "VARCHAR[]", "Columns of trips for which the file has no values"),
    ("zones", "VARCHAR", "Fingerprint of the zones that positions became; null if the file has zones"),
    ("violations", "MAP(VARCHAR, BIGINT)", "Trips that violate each data quality rule"),
    ("texts_unmapped", "MAP(VARCHAR, BIGINT)", "Texts that stand for no value of trips, by column of the file"),
)


@dataclass(frozen=True)
class MonthVersion:
    """A version of a month that is, or was, in `trips`: a row of `month_versions`, with the columns of `COLUMNS`.

    Of rows that were loaded before there was such a table, only the number is known.
    """

    month: str
    version: int
    loaded_at: datetime | None
    sha256: str | None
    mapping: str | None
    num_trips: int
    total_amount: float | None
    trip_distance: float | None
    etag: str | None
    last_modified: str | None
    file_columns: Sequence[str]
    columns_unknown: Sequence[str]
    columns_absent: Sequence[str]
    zones: str | None
    violations: Mapping[str, int]
    texts_unmapped: Mapping[str, int]

    @property
    def data_version(self) -> str:
        """What the rows depend on: the file and the mapping."""
        return f"{self.sha256}-{self.mapping}"


_NAMES = ", ".join(field.name for field in fields(MonthVersion))


def _fingerprint(*parts: object) -> str:
    return sha256(json.dumps(parts).encode()).hexdigest()[:16]


_RULES = [(rule.name, rule.violations, rule.limit) for rule in QUALITY_RULES]

_TRIPS = [(column.name, column.type) for column in column_mapping.COLUMNS]

CODE_VERSION = _fingerprint(_TRIPS, [dict(layout.sources) for layout in column_mapping.LAYOUTS], _RULES)
"""Changes with the columns and the rules: Dagster then shows every month as out of date."""


def fingerprint_mapping(mapping: ColumnMapping, zones: Sequence[Zone]) -> str:
    """A text that changes whenever the same file would become other rows, or would be checked by other rules.

    `zones` are those that positions become; none for a file with zones.
    """
    of_zones = fingerprint(zones) if zones else None
    return _fingerprint(_TRIPS, list(mapping.expressions), dict(mapping.unmapped), of_zones, _RULES)


def unknown_version(month: str, num_trips: int) -> MonthVersion:
    """The first version of a month whose `num_trips` rows were loaded before there was such a table."""
    return MonthVersion(month, 1, None, None, None, num_trips, None, None, None, None, [], [], [], None, {}, {})


def prepare_versions(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the table if there is none."""
    columns = ", ".join(f"{name} {type_}" for name, type_, _ in COLUMNS)
    connection.execute(f"CREATE TABLE IF NOT EXISTS month_versions ({columns})")
    write_comments(connection, "month_versions", COMMENT, {name: description for name, _, description in COLUMNS})


def versions_of(connection: duckdb.DuckDBPyConnection, month: str) -> list[MonthVersion]:
    """The versions of `month` (``YYYY-MM``), oldest first: the last one is in `trips`."""
    return _read(connection, "WHERE month = $month", {"month": month})


def versions_by_month(connection: duckdb.DuckDBPyConnection) -> dict[str, list[MonthVersion]]:
    """The versions of each month (``YYYY-MM``), as `versions_of` returns them."""
    versions: dict[str, list[MonthVersion]] = {}
    for version in _read(connection, "", {}):
        versions.setdefault(version.month, []).append(version)
    return versions


def _read(connection: duckdb.DuckDBPyConnection, where: str, values: Mapping[str, str]) -> list[MonthVersion]:
    if not has_table(connection, "month_versions"):
        return []
    rows = connection.execute(f"SELECT {_NAMES} FROM month_versions {where} ORDER BY month, version", values).fetchall()
    return [MonthVersion(*row) for row in rows]


def record_version(connection: duckdb.DuckDBPyConnection, version: MonthVersion) -> None:
    """Add `version`, or replace the row of the same month and number."""
    connection.execute(
        "DELETE FROM month_versions WHERE month = $month AND version = $version",
        {"month": version.month, "version": version.version},
    )
    *values, violations, texts = astuple(version)
    maps = [list(side) for counts in (violations, texts) for side in (counts.keys(), counts.values())]
    connection.execute(
        f"INSERT INTO month_versions VALUES ({', '.join('?' * len(values))}, "
        "map(?::VARCHAR[], ?::BIGINT[]), map(?::VARCHAR[], ?::BIGINT[]))",
        [*values, *maps],
    )
