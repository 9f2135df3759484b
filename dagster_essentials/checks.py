"""What is looked at in every month that is loaded, and from where on it deserves a warning.

Nothing is dropped from `trips`, however odd; these checks count it. They run in the transaction that loads the month,
on the rows as they will stand in the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import dagster as dg
import duckdb

from dagster_essentials.columns import COLUMNS
from dagster_essentials.partitions import monthly_partition


@dataclass(frozen=True)
class Oddity:
    """Trips that look wrong, and are counted.

    Attributes:
        name: of the asset check.
        count: SQL that counts them, over the rows of one month; `$first` and `$next` are the first days of that month
            and of the one after. Not by `count_if`, which is null for a column without any value.
        limit: the share of the month's trips, 0 to 1, above which the check warns.
        description: what is counted, and why the limit is where it is.
    """

    name: str
    count: str
    limit: float
    description: str


ODDITIES: Sequence[Oddity] = (
    Oddity(
        "pickups_in_month",
        "count(*) FILTER (pickup_datetime < $first OR pickup_datetime >= $next)",
        0.01,
        "Pickups outside the file's month. Real months have up to 0.47 % (2021-02), some of them decades away; above 1 % "
        "the file may be another month's.",
    ),
    Oddity(
        "no_negative_totals",
        "count(*) FILTER (total_amount < 0)",
        0.03,
        "Trips with a negative total: refunds and corrections. 0.2 % in 2019, 1.8 % in 2024; warns above 3 %.",
    ),
    Oddity(
        "no_zero_distances",
        "count(*) FILTER (trip_distance = 0)",
        0.05,
        "Trips over no distance. 0.9 % in 2019, 3.2 % in 2026; warns above 5 %.",
    ),
    Oddity(
        "dropoff_after_pickup",
        "count(*) FILTER (dropoff_datetime < pickup_datetime)",
        0.0005,
        "Trips that end before they begin. 0.014 % in November 2019, all in the night in which the clocks went back, as "
        "times are local; warns above 0.05 %.",
    ),
    Oddity(
        "zones_known",
        "count(*) FILTER (pickup_zone_id IN (264, 265) OR dropoff_zone_id IN (264, 265))",
        0.05,
        "Trips from or to zone 264 (unknown) or 265 (outside the city). 0.6 to 2.5 % in samples of 2019, 2020 and 2025; "
        "warns above 5 %.",
    ),
    Oddity(
        "flex_fare_share",
        "count(*) FILTER (passenger_count IS NULL AND rate_code_id IS NULL AND store_and_fwd_flag IS NULL)",
        0.40,
        "Flex-fare trips and others without passengers, rate code and flag. They are real trips. 9.9 % in 2024, 26 % in "
        "2026 and growing; warns above 40 %.",
    ),
    Oddity(
        "no_duplicates",
        # 64 bits tell three million trips apart but for one chance in four million.
        f"count(*) - count(DISTINCT hash({', '.join(column.name for column in COLUMNS)}))",
        0.0001,
        "Trips that repeat another one to the last column. 50 in the 84 million of 2019; warns above 0.01 %.",
    ),
)

ROWS_MATCH_FILE = "rows_match_file"
COLUMNS_KNOWN = "columns_known"

_DESCRIPTIONS = {
    ROWS_MATCH_FILE: "As many rows in the table as the file's footer counts. Fails the month, which then stays as it was.",
    **{oddity.name: oddity.description for oddity in ODDITIES},
    COLUMNS_KNOWN: "Columns of the file that the table has no place for. They are left out; a new one means that the TLC "
    "has changed its layout.",
}


def trip_check_specs(asset: str) -> list[dg.AssetCheckSpec]:
    """The checks of `trips`, each with a result for every month."""
    return [
        dg.AssetCheckSpec(
            name, asset=asset, description=text, partitions_def=monthly_partition, blocking=name == ROWS_MATCH_FILE
        )
        for name, text in _DESCRIPTIONS.items()
    ]


@dataclass(frozen=True)
class MonthCounts:
    """What the rows of one month in `trips` add up to: how many, and how many are odd, by the name of the check."""

    rows: int
    odd: Mapping[str, int]


def count_month(connection: duckdb.DuckDBPyConnection, month: str) -> MonthCounts:
    """Count the rows of `month` (``YYYY-MM``) in `trips`, and the odd ones among them."""
    first = date.fromisoformat(f"{month}-01")
    counts = connection.execute(
        f"SELECT count(*), {', '.join(oddity.count for oddity in ODDITIES)} FROM trips WHERE partition_date = $month",
        {"month": month, "first": first, "next": (first + timedelta(days=31)).replace(day=1)},
    ).fetchall()[0]
    return MonthCounts(counts[0], {oddity.name: n for oddity, n in zip(ODDITIES, counts[1:], strict=True)})


def evaluate_rows(counts: MonthCounts, rows_in_file: int) -> dg.AssetCheckResult:
    """The result of the one check that fails a month: whether all rows of the file came into the table, and no others."""
    return _result(
        ROWS_MATCH_FILE,
        counts.rows == rows_in_file,
        f"{rows_in_file:,} rows in the file, {counts.rows:,} in the table.",
        {"rows_in_table": counts.rows, "rows_in_file": rows_in_file},
    )


def evaluate_month(counts: MonthCounts, rows_in_file: int, unknown_columns: Sequence[str]) -> list[dg.AssetCheckResult]:
    """The results of all checks for one month."""
    unknown = ", ".join(unknown_columns) or "none"
    return [
        evaluate_rows(counts, rows_in_file),
        *(_evaluate_oddity(oddity, counts.odd[oddity.name], counts.rows) for oddity in ODDITIES),
        _result(
            COLUMNS_KNOWN,
            not unknown_columns,
            f"Columns that the table has no place for: {unknown}.",
            {"unknown_columns": unknown},
        ),
    ]


def _evaluate_oddity(oddity: Oddity, odd: int, rows: int) -> dg.AssetCheckResult:
    share = odd / max(rows, 1)
    return _result(
        oddity.name,
        odd <= oddity.limit * rows,
        f"{odd:,} of {rows:,} trips, {share:.2%}. Warns above {oddity.limit:.2%}.",
        {"trips": odd, "share": share, "limit": oddity.limit},
    )


def _result(name: str, passed: bool, found: str, metadata: Mapping[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR if name == ROWS_MATCH_FILE else dg.AssetCheckSeverity.WARN,
        description=found,
        metadata=metadata,
    )
