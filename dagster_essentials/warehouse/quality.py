"""Data quality rules: what is counted in every month that is loaded, and the share above which it is a warning.

No trip is dropped from `trips`; the rules only count. They are evaluated in the transaction that loads the month.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import duckdb

from dagster_essentials.ingestion.column_mapping import COLUMNS, FROM_FILE, ColumnMapping


@dataclass(frozen=True)
class QualityRule:
    """Trips that violate an expectation, and are counted.

    Attributes:
        name: of the asset check.
        violations: SQL that counts them, over the rows of one month; `$first` and `$next` are the first days of that
            month and of the one after. Not by `count_if`, which is null for a column without any value.
        limit: the share of the month's trips, 0 to 1, above which the check warns.
        description: what is counted, and why the limit is where it is.
    """

    name: str
    violations: str
    limit: float
    description: str


QUALITY_RULES: Sequence[QualityRule] = (
    QualityRule(
        "pickups_in_month",
        "count(*) FILTER (pickup_datetime < $first OR pickup_datetime >= $next)",
        0.01,
        "Pickups outside the file's month. Real months have up to 0.47 % (2021-02), some of them decades away; above 1 % "
        "the file may be another month's.",
    ),
    QualityRule(
        "no_negative_totals",
        "count(*) FILTER (total_amount < 0)",
        0.03,
        "Trips with a negative total: refunds and corrections. 0.2 % in 2019, 1.8 % in 2024; warns above 3 %.",
    ),
    QualityRule(
        "no_zero_distances",
        "count(*) FILTER (trip_distance = 0)",
        0.05,
        "Trips over no distance. 0.9 % in 2019, 3.2 % in 2026; warns above 5 %.",
    ),
    QualityRule(
        "dropoff_after_pickup",
        "count(*) FILTER (dropoff_datetime < pickup_datetime)",
        0.0005,
        "Trips that end before they begin. 0.014 % in November 2019, all in the night in which the clocks went back, as "
        "times are local; warns above 0.05 %.",
    ),
    QualityRule(
        "zones_known",
        "count(*) FILTER (pickup_zone_id IN (264, 265) OR dropoff_zone_id IN (264, 265))",
        0.05,
        "Trips from or to zone 264 (unknown) or 265 (outside the city). 0.6 to 2.5 % in samples of 2019, 2020 and 2025; "
        "warns above 5 %.",
    ),
    QualityRule(
        "flex_fare_share",
        "count(*) FILTER (passenger_count IS NULL AND rate_code_id IS NULL AND store_and_fwd_flag IS NULL)",
        0.40,
        "Flex-fare trips and others without passengers, rate code and flag. They are real trips. 9.9 % in 2024, 26 % in "
        "2026 and growing; warns above 40 %.",
    ),
    QualityRule(
        "no_duplicates",
        # With 64 bits, the probability of a collision among three million trips is one in four million.
        f"count(*) - count(DISTINCT hash({', '.join(column.name for column in COLUMNS)}))",
        0.0001,
        "Trips that repeat another one to the last column. 50 in the 84 million of 2019; warns above 0.01 %.",
    ),
)


@dataclass(frozen=True)
class MonthProfile:
    """What was counted in the rows of one month in `trips`: all, and the violations of each rule by its name."""

    rows: int
    violations: Mapping[str, int]


def profile_month(connection: duckdb.DuckDBPyConnection, month: str) -> MonthProfile:
    """Count the rows of `month` (``YYYY-MM``) in `trips`, and those that violate each rule."""
    first = date.fromisoformat(f"{month}-01")
    rows, *violations = connection.execute(
        f"SELECT count(*), {', '.join(rule.violations for rule in QUALITY_RULES)} FROM trips WHERE partition_date = $month",
        {"month": month, "first": first, "next": (first + timedelta(days=31)).replace(day=1)},
    ).fetchall()[0]
    return MonthProfile(rows, {rule.name: n for rule, n in zip(QUALITY_RULES, violations, strict=True)})


def count_unmapped(connection: duckdb.DuckDBPyConnection, mapping: ColumnMapping, file: str) -> Mapping[str, int]:
    """For each column of a month's `file`, as DuckDB reads it, the texts that stand for no value, if there are any.

    In the table, such a text and a missing value are alike, so these are counted in the file.
    """
    if not mapping.unmapped:
        return {}
    counts = ", ".join(f"count(*) FILTER ({condition})" for condition in mapping.unmapped.values())
    (found,) = connection.execute(f"SELECT {counts} FROM {FROM_FILE}", {"file": file}).fetchall()
    return {name: trips for name, trips in zip(mapping.unmapped, found, strict=True) if trips}
