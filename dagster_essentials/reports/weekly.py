"""The weeks: which months a week needs, its aggregates in the table `trips_by_week`, and the CSV of all weeks.

Weeks go from Sunday to Saturday. A trip belongs to the week in which it began, whichever month's file it is in.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from dagster_essentials import settings
from dagster_essentials.datasets.aggregates import loaded_months
from dagster_essentials.errors import ReportError
from dagster_essentials.ingestion.atomic_write import atomic_write
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.ingestion.sql import finite_sum
from dagster_essentials.reports.csv_export import copy_to_csv
from dagster_essentials.reports.plots import plot_weeks
from dagster_essentials.reports.sample_data import has_sample
from dagster_essentials.warehouse.catalog import Table
from dagster_essentials.warehouse.tables import Tables

TRIPS_BY_WEEK = Table(
    "trips_by_week",
    "Trips, dollars, miles and passengers by week, Sunday to Saturday; a trip belongs to the week in which it began",
    (
        ("period", "date", "Sunday on which the week begins"),
        ("num_trips", "bigint", "Trips that began in the week"),
        ("total_amount", "double", "Sum of what passengers paid, US dollars, two decimals"),
        ("trip_distance", "double", "Sum of the distances, miles, two decimals"),
        ("passenger_count", "bigint", "Sum of the passengers, where the driver entered them"),
        (
            "days",
            "integer",
            "Days of the week that are in a loaded month and have trips; below 7, the week is incomplete",
        ),
    ),
    core_columns=5,
)
"""The table, and the columns of the CSV."""
_NAMES = TRIPS_BY_WEEK.column_names


@dataclass(frozen=True)
class WeeklySummary:
    """The aggregates of one week: trips, US dollars, miles, passengers, how many of its days are loaded, and the days on which
    any trip began."""

    period: date
    num_trips: int
    total_amount: float
    trip_distance: float
    passenger_count: int | None
    days: int
    days_with_trips: frozenset[date]

    @property
    def figures(self) -> dict[str, int | float | None]:
        """The aggregates by the names of their columns."""
        return {name: getattr(self, name) for name, *_ in TRIPS_BY_WEEK.columns[1:]}

    def days_without_trips(self) -> list[date]:
        """The days of the week on which no trip began, among those in months within the settings' dates."""
        months = {month[:7] for month in months_of_week(self.period.isoformat())}
        days = [self.period + timedelta(days=number) for number in range(7)]
        return [day for day in days if day.isoformat()[:7] in months and day not in self.days_with_trips]


def months_of_week(week: str) -> list[str]:
    """The one or two months (``YYYY-MM-01``) that the days of the week from Sunday `week` (``YYYY-MM-DD``) lie in.

    Months before the first or after the last one of the settings are never loaded, and no week waits for them.
    """
    sunday = date.fromisoformat(week)
    months = sorted({day.replace(day=1).isoformat() for day in (sunday, sunday + timedelta(days=6))})
    start, end = settings.SETTINGS.start_date, settings.SETTINGS.end_date
    return [month for month in months if month >= start and (end is None or month < end)]


_UNCHANGED = (
    "the weeks could not be aggregated, and the table trips_by_week is unchanged",
    "If it or trips was made by something else, rename or drop it, and materialize again.",
)


def find_loaded_months(tables: Tables) -> list[str]:
    """The months (``YYYY-MM``) that are loaded, in order.

    Raises:
        QueryError: the table trips cannot be queried.
    """
    with tables.explain_errors(*_UNCHANGED):
        return loaded_months(tables)


def check_months_are_loaded(week: str, loaded: Collection[str]) -> None:
    """Check that all months of `week` are among those that are `loaded` (``YYYY-MM``).

    Raises:
        ReportError: it names those that are not.
    """
    missing = [month for month in months_of_week(week) if month[:7] not in loaded]
    if missing:
        names, keys = " and ".join(month[:7] for month in missing), ",".join(missing)
        raise ReportError(
            f"{names} {'are' if len(missing) > 1 else 'is'} not loaded, and the week has days in "
            f"{'them' if len(missing) > 1 else 'it'}. Materialize taxi_trips_file and taxi_trips for {keys} first."
        )


_AGGREGATE = f"""
CREATE OR REPLACE TEMP TABLE aggregated AS
WITH weeks AS (
    SELECT
        -- DuckDB's weeks begin on Monday.
        (date_trunc('week', day + 1) - INTERVAL 1 DAY)::DATE AS period,
        sum(num_trips)::BIGINT AS num_trips,
        {finite_sum("total_amount")} AS total_amount,
        {finite_sum("trip_distance")} AS trip_distance,
        {finite_sum("passenger_count")} AS passenger_count,
        count(DISTINCT day) FILTER (strftime(day, '%Y-%m') IN (SELECT partition_date FROM trips_by_day)) AS days,
        list(DISTINCT day) AS days_with_trips
    FROM trips_by_day WHERE day >= $first AND day < $end
    GROUP BY period
)
SELECT
    period,
    coalesce(num_trips, 0) AS num_trips,
    coalesce(round(total_amount, 2), 0) AS total_amount,
    coalesce(round(trip_distance, 2), 0) AS trip_distance,
    -- Null, if one absurd value is beyond what the column holds.
    TRY_CAST(coalesce(passenger_count, 0) AS BIGINT) AS passenger_count,
    coalesce(days, 0) AS days,
    coalesce(days_with_trips, []) AS days_with_trips
FROM (SELECT unnest($weeks) AS period) LEFT JOIN weeks USING (period)
"""


def aggregate_weeks(tables: Tables, weeks: Sequence[str]) -> list[WeeklySummary]:
    """Aggregate the trips of `weeks` (their Sundays, ``YYYY-MM-DD``, oldest first) in one query."""
    sundays = [date.fromisoformat(week) for week in weeks]
    tables.execute(_AGGREGATE, {"first": sundays[0], "end": sundays[-1] + timedelta(days=7), "weeks": sundays})
    rows = tables.execute(f"SELECT {_NAMES}, days_with_trips FROM aggregated ORDER BY period").fetchall()
    return [
        WeeklySummary(period, trips, dollars, miles, passengers, days, frozenset(days_with_trips))
        for period, trips, dollars, miles, passengers, days, days_with_trips in rows
    ]


def upsert_weeks(tables: Tables, weeks: Sequence[str], csv: Path, files: DataFolder) -> list[WeeklySummary]:
    """Aggregate `weeks`, replace their rows in `trips_by_week`, and write the whole table to `csv` in `files`.

    The file is complete before the transaction is committed: if there is no room for it, the table is unchanged.

    Raises:
        QueryError, WriteError: it cannot be done; table and file are unchanged.
    """
    with tables.explain_errors(*_UNCHANGED), atomic_write(csv, files) as temporary, tables.transaction():
        summaries = aggregate_weeks(tables, weeks)
        TRIPS_BY_WEEK.create(tables)
        tables.execute("DELETE FROM trips_by_week WHERE period IN (SELECT period FROM aggregated)")
        tables.execute(f"INSERT INTO trips_by_week ({_NAMES}) SELECT {_NAMES} FROM aggregated")
        _count_days_of_earlier_release(tables)
        copy_to_csv(tables, TRIPS_BY_WEEK, "period", temporary)
    return summaries


def _count_days_of_earlier_release(tables: Tables) -> None:
    """Let weeks that were aggregated without a number of days have the one that they would have now."""
    weeks = tables.execute("SELECT period FROM trips_by_week WHERE days IS NULL ORDER BY period").fetchall()
    if weeks:
        aggregate_weeks(tables, [period.isoformat() for (period,) in weeks])
        tables.execute(
            "UPDATE trips_by_week SET days = aggregated.days FROM aggregated WHERE trips_by_week.period = aggregated.period"
        )


def plot_all_weeks(tables: Tables) -> bytes:
    """The plot of each week in `trips_by_week`, a PNG."""
    weeks = tables.execute("SELECT period, num_trips, days FROM trips_by_week ORDER BY period").fetchall()
    return plot_weeks(
        {period: trips for period, trips, _ in weeks},
        [period for period, _, days in weeks if days < 7],
        has_sample(tables),
    )


def days_without_trips(tables: Tables, loaded: Collection[str]) -> list[date]:
    """The days of the `loaded` months (``YYYY-MM``) on which no trip began, in order."""
    if not loaded:
        return []
    rows = tables.execute(
        """
        WITH months AS (SELECT unnest($firsts::DATE[]) AS first)
        SELECT unnest(generate_series(first, first + INTERVAL 1 MONTH - INTERVAL 1 DAY, INTERVAL 1 DAY))::DATE AS day
        FROM months EXCEPT SELECT day FROM trips_by_day ORDER BY day
        """,
        {"firsts": [f"{month}-01" for month in loaded]},
    ).fetchall()
    return [day for (day,) in rows]
