"""The table `month_versions`: which version of which month's file is in `trips`, and which ones were before.

A row is written in the transaction that loads the month, so it says what the table has, whatever Dagster has recorded.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from hashlib import sha256

import duckdb

from dagster_essentials.ingestion.column_mapping import COLUMNS, LAYOUTS, ColumnMapping
from dagster_essentials.ingestion.zones import Zone, fingerprint
from dagster_essentials.warehouse.catalog import has_table
from dagster_essentials.warehouse.quality import QUALITY_RULES

_TYPES = {
    "month": "VARCHAR",
    "version": "INTEGER",
    "loaded_at": "TIMESTAMP",
    "sha256": "VARCHAR",
    "mapping": "VARCHAR",
    "num_trips": "BIGINT",
    "total_amount": "DOUBLE",
    "trip_distance": "DOUBLE",
    "etag": "VARCHAR",
    "last_modified": "VARCHAR",
    "file_columns": "VARCHAR[]",
    "columns_unknown": "VARCHAR[]",
    "columns_absent": "VARCHAR[]",
    "zones": "VARCHAR",
    "violations": "MAP(VARCHAR, BIGINT)",
    "texts_unmapped": "MAP(VARCHAR, BIGINT)",
}


@dataclass(frozen=True)
class MonthVersion:
    """A version of a month that is, or was, in `trips`: a row of `month_versions`.

    Of rows that were loaded before there was such a table, only their number is known, and everything else is None.

    Attributes:
        month: ``YYYY-MM``.
        version: 1 for the first one on record.
        loaded_at: when it was last loaded, UTC.
        sha256: of the file.
        mapping: the fingerprint of the columns, rules and zones with which it was loaded.
        num_trips, total_amount, trip_distance: its rows, and their sums in US dollars and miles.
        etag, last_modified: of the file, as sent by the source.
        file_columns: name and type of each column of the file.
        columns_unknown: those of them that are not in the table.
        columns_absent: columns of the table for which the file has no values.
        zones: the fingerprint of the zones that positions became, or None if the file has zones.
        violations: the number of trips that violate each data quality rule.
        texts_unmapped: for columns of the file, the number of texts that stand for no value of the table, if there are any.
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


_NAMES = ", ".join(_TYPES)
assert tuple(_TYPES) == tuple(field.name for field in fields(MonthVersion))


def _fingerprint(*parts: object) -> str:
    return sha256(json.dumps(parts).encode()).hexdigest()[:16]


_RULES = [(rule.name, rule.violations, rule.limit) for rule in QUALITY_RULES]

_COLUMNS = [(column.name, column.type) for column in COLUMNS]

CODE_VERSION = _fingerprint(_COLUMNS, [dict(layout.sources) for layout in LAYOUTS], _RULES)
"""Changes with the columns and the rules: Dagster then shows every month as out of date."""


def fingerprint_mapping(mapping: ColumnMapping, zones: Sequence[Zone]) -> str:
    """A text that changes whenever the same file would become other rows, or would be checked by other rules.

    `zones` are those that positions become; none for a file with zones.
    """
    of_zones = fingerprint(zones) if zones else None
    return _fingerprint(_COLUMNS, list(mapping.expressions), dict(mapping.unmapped), of_zones, _RULES)


def unknown_version(month: str, num_trips: int) -> MonthVersion:
    """The first version of a month whose `num_trips` rows were loaded before there was such a table."""
    return MonthVersion(month, 1, None, None, None, num_trips, None, None, None, None, [], [], [], None, {}, {})


def prepare_versions(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the table if there is none."""
    columns = ", ".join(f"{name} {type_}" for name, type_ in _TYPES.items())
    connection.execute(f"CREATE TABLE IF NOT EXISTS month_versions ({columns})")


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
