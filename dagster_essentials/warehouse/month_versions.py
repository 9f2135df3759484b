"""The table `month_versions`: which version of each month's file is in the tables of trips, and which ones were before.

A row is written in the transaction that loads the month, so it says what the table has, whatever Dagster has recorded.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from hashlib import sha256

import duckdb

from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.datasets.zones import Zone, fingerprint
from dagster_essentials.ingestion.column_mapping import ColumnMapping
from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.warehouse.catalog import has_table
from dagster_essentials.warehouse.comments import write_comments

COMMENT = "Which version of each month's file is in trips or fleet_trips, the last one, and which ones were before"
COLUMNS = (
    ("month", "VARCHAR", "Month of the file, YYYY-MM"),
    ("version", "INTEGER", "1 for the first version on record; the highest one is in the table"),
    ("loaded_at", "TIMESTAMP", "When it was last loaded, UTC; null if that was before there was this table"),
    ("sha256", "VARCHAR", "Of the file"),
    ("mapping", "VARCHAR", "Fingerprint of the columns, rules and zones with which it was loaded"),
    ("num_trips", "BIGINT", "Trips"),
    ("total_amount", "DOUBLE", "Sum of what passengers paid, US dollars"),
    ("trip_distance", "DOUBLE", "Sum of the distances, miles"),
    ("etag", "VARCHAR", "Of the file, as sent by the source"),
    ("last_modified", "VARCHAR", "Of the file, as sent by the source"),
    ("file_columns", "VARCHAR[]", "Name and type of each column of the file"),
    ("columns_unknown", "VARCHAR[]", "Columns of the file that are not in the table"),
    ("columns_absent", "VARCHAR[]", "Columns of the table for which the file has no values"),
    ("zones", "VARCHAR", "Fingerprint of the zones that positions became; null if the file has zones"),
    ("violations", "MAP(VARCHAR, BIGINT)", "Trips that violate each data quality rule"),
    ("texts_unmapped", "MAP(VARCHAR, BIGINT)", "Texts that stand for no value of trips, by column of the file"),
    # The last one, because tables of earlier releases have it added.
    ("fleet", "VARCHAR", "yellow (in trips), green, fhv or fhvhv (in fleet_trips)"),
)


@dataclass(frozen=True)
class MonthVersion:
    """A version of a month that is, or was, in a table of trips: a row of `month_versions`, with the columns of `COLUMNS`.

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
    fleet: str

    @property
    def label(self) -> str:
        """What the month is called: ``2023-01``, or with its fleet, ``green 2023-01``."""
        return self.month if self.fleet == YELLOW.name else f"{self.fleet} {self.month}"

    @property
    def data_version(self) -> str:
        """What the rows depend on: the file and the mapping."""
        return f"{self.sha256}-{self.mapping}"


_NAMES = ", ".join(field.name for field in fields(MonthVersion))


def _fingerprint(*parts: object) -> str:
    return sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _columns(dataset: Dataset) -> list[tuple[str, str]]:
    return [(column.name, column.type) for column in dataset.columns]


def _rules(dataset: Dataset) -> list[tuple[str, str, float]]:
    return [(rule.name, rule.violations, rule.limit) for rule in dataset.rules]


def code_version(*datasets: Dataset) -> str:
    """A text that changes with the columns and the rules: Dagster then shows every month as out of date."""
    parts = [
        part
        for dataset in datasets
        for part in (_columns(dataset), [dict(layout.sources) for layout in dataset.layouts], _rules(dataset))
    ]
    return _fingerprint(*parts)


def fingerprint_mapping(mapping: ColumnMapping, zones: Sequence[Zone], dataset: Dataset) -> str:
    """A text that changes whenever the same file would become other rows, or would be checked by other rules.

    `zones` are those that positions become; none for a file with zones.
    """
    of_zones = fingerprint(zones) if zones else None
    return _fingerprint(_columns(dataset), list(mapping.expressions), dict(mapping.unmapped), of_zones, _rules(dataset))


def unknown_version(fleet: str, month: str, num_trips: int) -> MonthVersion:
    """The first version of a month whose `num_trips` rows were loaded before there was such a table."""
    return MonthVersion(month, 1, None, None, None, num_trips, None, None, None, None, [], [], [], None, {}, {}, fleet)


def prepare_versions(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the table if there is none, or add the column that one of an earlier release lacks."""
    columns = ", ".join(f"{name} {type_}" for name, type_, _ in COLUMNS)
    connection.execute(f"CREATE TABLE IF NOT EXISTS month_versions ({columns})")
    # Until there was this column, all months were of the yellow taxis.
    connection.execute("ALTER TABLE month_versions ADD COLUMN IF NOT EXISTS fleet VARCHAR DEFAULT 'yellow'")
    write_comments(connection, "month_versions", COMMENT, {name: description for name, _, description in COLUMNS})


def versions_of(connection: duckdb.DuckDBPyConnection, fleet: str, month: str) -> list[MonthVersion]:
    """The versions of `month` (``YYYY-MM``) of `fleet`, oldest first: the last one is in the table."""
    return _read(connection, "fleet = $fleet AND month = $month", {"fleet": fleet, "month": month})


def versions_by_month(connection: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], list[MonthVersion]]:
    """The versions of each month, by fleet and month (``YYYY-MM``), as `versions_of` returns them."""
    versions: dict[tuple[str, str], list[MonthVersion]] = {}
    for version in _read(connection, "true", {}):
        versions.setdefault((version.fleet, version.month), []).append(version)
    return versions


def _read(connection: duckdb.DuckDBPyConnection, where: str, values: Mapping[str, str]) -> list[MonthVersion]:
    if not has_table(connection, "month_versions"):
        return []
    prepare_versions(connection)
    rows = connection.execute(
        f"SELECT {_NAMES} FROM month_versions WHERE {where} ORDER BY month, version", values
    ).fetchall()
    return [MonthVersion(*row) for row in rows]


def record_version(connection: duckdb.DuckDBPyConnection, version: MonthVersion) -> None:
    """Add `version`, or replace the row of the same fleet, month and number."""
    connection.execute(
        "DELETE FROM month_versions WHERE fleet = $fleet AND month = $month AND version = $version",
        {"fleet": version.fleet, "month": version.month, "version": version.version},
    )
    *values, violations, texts, fleet = astuple(version)
    maps = [list(side) for counts in (violations, texts) for side in (counts.keys(), counts.values())]
    connection.execute(
        f"INSERT INTO month_versions ({_NAMES}) VALUES ({', '.join('?' * len(values))}, "
        "map(?::VARCHAR[], ?::BIGINT[]), map(?::VARCHAR[], ?::BIGINT[]), ?)",
        [*values, *maps, fleet],
    )


def replace_versions(
    connection: duckdb.DuckDBPyConnection, fleet: str, month: str, versions: Sequence[MonthVersion]
) -> None:
    """Let the versions of `month` (``YYYY-MM``) of `fleet` be these, and no others."""
    connection.execute(
        "DELETE FROM month_versions WHERE fleet = $fleet AND month = $month", {"fleet": fleet, "month": month}
    )
    for version in versions:
        record_version(connection, version)
