"""The trips of each fleet by month: the table `trips_by_fleet`, its CSV, and the stacked plot of it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from dagster_essentials.datasets import DATASETS
from dagster_essentials.datasets.aggregates import loaded_months
from dagster_essentials.datasets.fleets import FLEETS
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.errors import ReportError
from dagster_essentials.ingestion.atomic_write import atomic_write
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.reports.csv_export import copy_to_csv
from dagster_essentials.reports.plots import plot_fleets
from dagster_essentials.reports.sample_data import has_sample
from dagster_essentials.warehouse.catalog import Table, has_table
from dagster_essentials.warehouse.month_versions import prepare_versions
from dagster_essentials.warehouse.quality import rounded_sum
from dagster_essentials.warehouse.tables import Tables

TRIPS_BY_FLEET = Table(
    "trips_by_fleet",
    "Trips, dollars and miles by month and fleet; before 2019-02, most of what is fhvhv since then is in fhv",
    (
        ("partition_date", "varchar", "Month of the files, YYYY-MM"),
        ("fleet", "varchar", "yellow, green, fhv or fhvhv; Uber and Lyft are in fhv until 2019-01, and in fhvhv since"),
        ("num_trips", "bigint", "Trips"),
        ("total_amount", "double", "Sum of what passengers paid, US dollars, two decimals; null for fhv"),
        ("trip_distance", "double", "Sum of the distances, miles, two decimals; null for fhv"),
        ("is_complete", "boolean", "Whether the month has the trips of all fleets that are to be loaded"),
    ),
    core_columns=5,
)
"""The table, and the columns of the CSV."""
_NOTHING_LOADED = "No month is loaded. Materialize fleet_trips or taxi_trips first."

_YELLOW = f"""
SELECT partition_date, 'yellow' AS fleet, sum(num_trips)::BIGINT, {rounded_sum("total_amount")}, {rounded_sum("trip_distance")}
FROM trips_by_day GROUP BY partition_date
"""
_RECORDED = """
SELECT month, fleet, num_trips, total_amount, trip_distance FROM month_versions WHERE fleet <> 'yellow'
QUALIFY version = max(version) OVER (PARTITION BY fleet, month)
"""
_COUNTED = " UNION ALL ".join(
    f"SELECT partition_date, '{name}' AS fleet, count(*), {rounded_sum(dataset.total_amount)}, "
    f"{rounded_sum(dataset.trip_distance)} FROM fleet_trips WHERE fleet = '{name}' GROUP BY partition_date"
    for name, dataset in FLEETS.items()
)


@dataclass(frozen=True)
class FleetMonth:
    """The trips of a fleet in the file of a month (``YYYY-MM``)."""

    partition_date: str
    fleet: str
    num_trips: int


@dataclass(frozen=True)
class FleetReport:
    """The loaded months, in order; those of them (``YYYY-MM``) that lack a fleet; and the plot, a PNG."""

    months: Sequence[FleetMonth]
    incomplete: Sequence[str]
    plot: bytes


def replace_trips_by_fleet(
    tables: Tables, fleets: Collection[str], csv: Path, png: Path, files: DataFolder
) -> FleetReport:
    """Replace the table `trips_by_fleet`, write it to `csv`, and its plot to `png`, both in `files`.

    Months without one of the `fleets` or without yellow trips are reported as incomplete.

    Raises:
        ReportError: nothing is loaded.
        QueryError, WriteError: it cannot be done; the table is unchanged.
    """
    with tables.explain_errors(
        "the trips could not be counted by fleet, and the table trips_by_fleet is unchanged",
        "If it, trips or fleet_trips was made by something else, rename or drop that, and materialize again.",
    ):
        queries = [_YELLOW] if loaded_months(tables) else []
        if has_table(tables, "fleet_trips"):
            queries.append(_fleets_query(tables))
        if not queries:
            raise ReportError(_NOTHING_LOADED)
        with atomic_write(csv, files) as csv_part, atomic_write(png, files) as png_part, tables.transaction():
            TRIPS_BY_FLEET.create(tables)
            tables.execute("DELETE FROM trips_by_fleet")
            tables.execute(
                "INSERT INTO trips_by_fleet (partition_date, fleet, num_trips, total_amount, trip_distance) "
                + " UNION ALL ".join(queries)
            )
            rows = tables.execute(
                "SELECT partition_date, fleet, num_trips FROM trips_by_fleet ORDER BY partition_date, fleet"
            ).fetchall()
            if not rows:
                raise ReportError(_NOTHING_LOADED)
            months = [FleetMonth(*row) for row in rows]
            incomplete = incomplete_months(months, fleets)
            tables.execute(
                "UPDATE trips_by_fleet SET is_complete = partition_date NOT IN (SELECT unnest($months::VARCHAR[]))",
                {"months": incomplete},
            )
            copy_to_csv(tables, TRIPS_BY_FLEET, "partition_date, fleet", csv_part)
            trips = {(month, fleet): trips for month, fleet, trips in rows}
            plot = plot_fleets(trips, incomplete, has_sample(tables))
            png_part.write_bytes(plot)
    return FleetReport(months, incomplete, plot)


def _fleets_query(tables: Tables) -> str:
    """The months of the fleets in `fleet_trips`: as recorded by their loads if these are all rows, or else counted.

    They differ after somebody has written to the table. DuckDB knows how many rows it has; to count them by month would take
    seconds in 1.6 billion rows of fhvhv.
    """
    prepare_versions(tables)
    (recorded,) = tables.execute(f"SELECT coalesce(sum(num_trips), 0) FROM ({_RECORDED})").fetchall()[0]
    (rows,) = tables.execute("SELECT count(*) FROM fleet_trips").fetchall()[0]
    return _RECORDED if recorded == rows else _COUNTED


def incomplete_months(months: Sequence[FleetMonth], fleets: Collection[str]) -> list[str]:
    """The months among `months`, in order, in which yellow trips or one of the `fleets` are published and not loaded."""
    loaded: dict[str, set[str]] = {}
    for month in months:
        loaded.setdefault(month.partition_date, set()).add(month.fleet)
    return [
        month
        for month, found in sorted(loaded.items())
        if any(DATASETS[name].first_month <= month and name not in found for name in (YELLOW.name, *fleets))
    ]
