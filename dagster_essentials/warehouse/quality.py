"""What is counted in every month that is loaded: its trips, and those that violate the data quality rules of its dataset.

No trip is dropped; the rules only count. They are evaluated in the transaction that loads the month.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import duckdb

from dagster_essentials.ingestion.column_mapping import FROM_FILE, ColumnMapping
from dagster_essentials.ingestion.dataset import Dataset


@dataclass(frozen=True)
class MonthProfile:
    """What was counted in the rows of one month in a table: all, and the violations of each rule by its name."""

    rows: int
    violations: Mapping[str, int]


def profile_month(connection: duckdb.DuckDBPyConnection, dataset: Dataset, month: str) -> MonthProfile:
    """Count the rows of `month` (``YYYY-MM``) in the table of `dataset`, and those that violate each of its rules."""
    first = date.fromisoformat(f"{month}-01")
    rows, *violations = connection.execute(
        f"SELECT {', '.join(['count(*)', *(rule.violations for rule in dataset.rules)])} "
        f"FROM {dataset.table} WHERE {dataset.month_rows}",
        {"month": month, "first": first, "next": (first + timedelta(days=31)).replace(day=1)},
    ).fetchall()[0]
    return MonthProfile(rows, {rule.name: n for rule, n in zip(dataset.rules, violations, strict=True)})


def count_unmapped(connection: duckdb.DuckDBPyConnection, mapping: ColumnMapping, file: str) -> Mapping[str, int]:
    """For each column of a month's `file`, as DuckDB reads it, the texts that stand for no value, if there are any.

    In the table, such a text and a missing value are alike, so these are counted in the file.
    """
    if not mapping.unmapped:
        return {}
    counts = ", ".join(f"count(*) FILTER ({condition})" for condition in mapping.unmapped.values())
    (found,) = connection.execute(f"SELECT {counts} FROM {FROM_FILE}", {"file": file}).fetchall()
    return {name: trips for name, trips in zip(mapping.unmapped, found, strict=True) if trips}
