"""The table `month_versions`: which version of each month's file is in the tables, and which ones were before.

A row is written in the transaction that loads the month, so it says what the table has, whatever Dagster has recorded.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from hashlib import sha256

from dagster_essentials.ingestion.column_mapping import ColumnMapping
from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.warehouse.catalog import Table, has_table
from dagster_essentials.warehouse.tables import Tables

MONTH_VERSIONS = Table(
    "month_versions",
    "Which version of each month's file is in trips or fleet_trips, the last one, and which ones were before",
    (
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
        # The last ones, because tables of earlier releases have them added.
        ("fleet", "VARCHAR", "yellow (in trips), green, fhv or fhvhv (in fleet_trips)"),
        ("missing", "MAP(VARCHAR, BIGINT)", "Trips without a value, by column that has one in real months"),
    ),
    core_columns=16,
)


@dataclass(frozen=True, kw_only=True)
class MonthVersion:
    """A version of a month that is, or was, in its table: a row of `month_versions`, with its columns.

    Of rows that were loaded before there was such a table, only the number is known. `fleet` is the name of the dataset, and
    `zones` the fingerprint of its `Reference`.
    """

    month: str
    version: int
    loaded_at: datetime | None = None
    sha256: str | None = None
    mapping: str | None = None
    num_trips: int
    total_amount: float | None = None
    trip_distance: float | None = None
    etag: str | None = None
    last_modified: str | None = None
    file_columns: Sequence[str] = ()
    columns_unknown: Sequence[str] = ()
    columns_absent: Sequence[str] = ()
    zones: str | None = None
    violations: Mapping[str, int] = field(default_factory=dict)
    texts_unmapped: Mapping[str, int] = field(default_factory=dict)
    fleet: str
    missing: Mapping[str, int] = field(default_factory=dict)

    @property
    def data_version(self) -> str:
        """The file and the mapping, on which the rows depend."""
        return f"{self.sha256}-{self.mapping}"


_NAMES = [column.name for column in fields(MonthVersion)]


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


def fingerprint_mapping(mapping: ColumnMapping, reference: str | None, dataset: Dataset) -> str:
    """A text that changes whenever the same file would become other rows, or would be checked by other rules.

    `reference` is the fingerprint of what else the rows depend on.
    """
    return _fingerprint(
        _columns(dataset), list(mapping.expressions), dict(mapping.unmapped), reference, _rules(dataset)
    )


def prepare_versions(tables: Tables) -> None:
    """Create the table if there is none, or add the column that one of an earlier release lacks."""
    tables.once(MONTH_VERSIONS.name, MONTH_VERSIONS.create)


def versions_of(tables: Tables, dataset: str, month: str) -> list[MonthVersion]:
    """The versions of `month` (``YYYY-MM``) of the `dataset`, oldest first: the last one is in the table."""
    return _read(tables, "fleet = $fleet AND month = $month", {"fleet": dataset, "month": month})


def versions_by_month(tables: Tables, datasets: Iterable[str]) -> dict[tuple[str, str], list[MonthVersion]]:
    """The versions of each month of the `datasets`, by dataset and month (``YYYY-MM``), as `versions_of` returns them."""
    versions: dict[tuple[str, str], list[MonthVersion]] = {}
    for version in _read(tables, "list_contains($fleets, fleet)", {"fleets": list(datasets)}):
        versions.setdefault((version.fleet, version.month), []).append(version)
    return versions


def _read(tables: Tables, where: str, values: Mapping[str, object]) -> list[MonthVersion]:
    if MONTH_VERSIONS.name not in tables.prepared and not has_table(tables, MONTH_VERSIONS.name):
        return []
    prepare_versions(tables)
    names = ", ".join(_NAMES)
    rows = tables.execute(
        f"SELECT {names} FROM month_versions WHERE {where} ORDER BY month, version", values
    ).fetchall()
    # Of the columns that were added, an earlier version has no value.
    found = ({name: value for name, value in zip(_NAMES, row, strict=True) if value is not None} for row in rows)
    return [MonthVersion(**each) for each in found]


def record_version(tables: Tables, version: MonthVersion) -> None:
    """Add `version`, or replace the row of the same dataset, month and number."""
    values = {name: getattr(version, name) for name in _NAMES}
    # DuckDB's client passes a dict as a struct, which is no map.
    for name in ("violations", "texts_unmapped", "missing"):
        counts = values.pop(name)
        values |= {f"{name}_keys": list(counts), f"{name}_values": list(counts.values())}
    inserted = ", ".join(
        f"map(${name}_keys::VARCHAR[], ${name}_values::BIGINT[])" if f"{name}_keys" in values else f"${name}"
        for name in _NAMES
    )
    tables.execute("DELETE FROM month_versions WHERE fleet = $fleet AND month = $month AND version = $version", values)
    tables.execute(f"INSERT INTO month_versions ({', '.join(_NAMES)}) SELECT {inserted}", values)
