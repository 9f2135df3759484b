"""The views: `trip_details`, the yellow trips with the names of their zones; `all_trips`, those of all fleets by their common
columns; and `all_trip_details`, those of all fleets with names instead of codes."""

import re
from collections.abc import Collection, Mapping, Sequence

from dagster_essentials.datasets import DATASETS
from dagster_essentials.datasets.codes import COMPANIES, PAYMENTS, RATES, VENDORS, describe, meaning
from dagster_essentials.datasets.yellow import COLUMNS
from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.warehouse.catalog import columns_of, create_view
from dagster_essentials.warehouse.tables import Tables

TRIP_DETAILS = "The rows of trips, each once, with the names and boroughs of the zones at both ends"
ZONE_COLUMNS = {
    "pickup_zone": "Name of the pickup zone; null if zones has no such id",
    "pickup_borough": "Borough of the pickup zone, as in zones",
    "dropoff_zone": "Name of the drop-off zone; null if zones has no such id",
    "dropoff_borough": "Borough of the drop-off zone, as in zones",
}
"""The columns of `trip_details` beside those of `trips`: name and description."""

# One row an id, whatever `zones` holds: the table that the course's code makes has 56 twice and 103 three times, with
# the same names. That costs nothing, unless DuckDB materializes `names`: then queries take twice as long.
_NAMES = """names AS NOT MATERIALIZED (
    SELECT DISTINCT ON (zone_id) zone_id, zone, borough FROM zones ORDER BY zone_id, zone, borough
)"""
_JOINED = """LEFT JOIN names AS pickup ON pickup.zone_id = trips.pickup_zone_id
LEFT JOIN names AS dropoff ON dropoff.zone_id = trips.dropoff_zone_id
"""
_TRIP_DETAILS = f"""WITH {_NAMES}
SELECT trips.*,
    pickup.zone AS pickup_zone, pickup.borough AS pickup_borough,
    dropoff.zone AS dropoff_zone, dropoff.borough AS dropoff_borough
FROM trips
{_JOINED}"""


def create_trip_details(tables: Tables) -> None:
    """Create the view once there are both tables, or replace that of an earlier release.

    To be called in the transaction that creates or changes one of the tables.

    Raises:
        DatabaseUnusableError: there is another table or view under the name.
    """
    # Foreign tables of these names are reported when they are loaded or read.
    if not {"pickup_zone_id", "dropoff_zone_id"} <= columns_of(tables, "trips").keys() or not _has_zones(tables):
        return
    columns = {column.name: column.description for column in COLUMNS} | ZONE_COLUMNS
    create_view(tables, "trip_details", _TRIP_DETAILS, TRIP_DETAILS, columns)


def _has_zones(tables: Tables) -> bool:
    return {"zone_id", "zone", "borough"} <= columns_of(tables, "zones").keys()


ALL_TRIPS = "The trips of all fleets, each row of trips and fleet_trips once, by their common columns"
ALL_TRIPS_COLUMNS = {
    "fleet": "yellow, green, fhv (for-hire vehicles) or fhvhv (high-volume: Uber, Lyft and others, since 2019-02)",
    "partition_date": "Month of the file, YYYY-MM",
    "pickup_datetime": "Start of the trip, New York local time",
    "dropoff_datetime": "End of the trip, New York local time; not a real time for fhv before mid-2017",
    "pickup_zone_id": "Zone of the pickup; 264 unknown, 265 outside the city; mostly null for fhv since 2020-10",
    "dropoff_zone_id": "Zone of the drop-off; 264 unknown, 265 outside the city",
    "trip_distance": "Miles; null for fhv",
    "trip_seconds": "Seconds from pickup to drop-off, for fhvhv as the company measured them; null if the drop-off lies "
    "before, as in most trips of fhv before mid-2017",
    "total_amount": "US dollars that were paid in all; for fhvhv the sum of fare, tolls, taxes, fees and tips; null for fhv",
}
_COPIED = "pickup_datetime, dropoff_datetime, pickup_zone_id, dropoff_zone_id"
# With CASE and CAST, as DuckDB keeps it, so that it is recognized.
_SECONDS = (
    "CASE WHEN dropoff_datetime >= pickup_datetime THEN date_diff('second', pickup_datetime, dropoff_datetime) "
    "ELSE CAST(NULL AS BIGINT) END"
)
# The company's own measurement is more precise than the times, which differ by minutes in 1.6 % of trips.
_MEASURED_SECONDS = {"fhvhv": "CAST(trip_time AS BIGINT)"}


def create_all_trips(tables: Tables) -> None:
    """Create the view of the tables that there are, or replace that of an earlier release or of one of the tables.

    To be called in the transaction that creates or changes one of the tables.

    Raises:
        DatabaseUnusableError: there is another table or view under the name.
    """
    parts = [_select(dataset) for dataset in DATASETS.values() if _has_columns(tables, dataset)]
    create_view(tables, "all_trips", "\nUNION ALL ".join(parts), ALL_TRIPS, ALL_TRIPS_COLUMNS)


def _select(dataset: Dataset, more: str = "") -> str:
    where = f" WHERE {dataset.rows}" if dataset.constants else ""
    return (
        f"SELECT '{dataset.name}' AS fleet, partition_date, {_COPIED}, {dataset.trip_distance} AS trip_distance, "
        f"{_MEASURED_SECONDS.get(dataset.name, _SECONDS)} AS trip_seconds, {dataset.total_amount} AS total_amount{more} "
        f"FROM {dataset.table}{where}"
    )


def _has_columns(tables: Tables, dataset: Dataset) -> bool:
    """True if the dataset's table has the columns of the view. Something else may have made a table of that name."""
    used = {column.name for column in dataset.columns}.intersection(re.findall(r"\w+", _select(dataset)))
    return used <= columns_of(tables, dataset.table).keys()


ALL_TRIP_DETAILS = (
    "The trips of all fleets, as in all_trips, with the names of their zones and the meanings of their codes"
)
# Name, type, description, and the expression for the fleets that have a column of another name or type.
_DETAILS: Sequence[tuple[str, str, str, Mapping[str, str]]] = (
    ("passenger_count", "INTEGER", "Passengers, as the driver entered them; yellow and green only", {}),
    ("fare_amount", "DOUBLE", "US dollars, before tolls, taxes, fees and tips", {"fhvhv": "base_passenger_fare"}),
    ("tip_amount", "DOUBLE", "US dollars; of yellow and green, card tips only", {"fhvhv": "tips"}),
    ("tolls_amount", "DOUBLE", "US dollars, all tolls of the trip", {"fhvhv": "tolls"}),
    ("congestion_surcharge", "DOUBLE", "US dollars, state surcharge; since 2019", {}),
    ("cbd_congestion_fee", "DOUBLE", "US dollars, congestion zone; since 2025", {}),
    ("airport_fee", "DOUBLE", "US dollars, pickups at LaGuardia and JFK; of fhvhv, also drop-offs, and Newark", {}),
    ("vendor_id", "INTEGER", f"Recorded by {describe(VENDORS)}; yellow and green only", {}),
    ("rate_code_id", "INTEGER", f"{describe(RATES)}; yellow and green only", {}),
    ("payment_type", "INTEGER", f"{describe(PAYMENTS)}; of green, null instead of 0; yellow and green only", {}),
    ("trip_type", "INTEGER", "1 hailed in the street, 2 dispatched; green only", {}),
    ("hvfhs_license_num", "VARCHAR", f"{describe(COMPANIES)}; fhvhv only", {}),
)
_MEANINGS = {
    "vendor": ("Meaning of vendor_id", meaning("trips.vendor_id", VENDORS)),
    "rate": ("Meaning of rate_code_id", meaning("trips.rate_code_id", RATES)),
    "payment": ("Meaning of payment_type", meaning("trips.payment_type", PAYMENTS)),
    "company": ("Meaning of hvfhs_license_num", meaning("trips.hvfhs_license_num", COMPANIES)),
}
ALL_TRIP_DETAILS_COLUMNS = {
    **ALL_TRIPS_COLUMNS,
    "month": "First day of the month of the file; to select months, partition_date is faster",
    **ZONE_COLUMNS,
    **{name: description for name, _, description, _ in _DETAILS},
    **{name: description for name, (description, _) in _MEANINGS.items()},
}


def create_all_trip_details(tables: Tables) -> None:
    """Create the view once there are trips and `zones`, or replace that of an earlier release or of one of the tables.

    To be called in the transaction that creates or changes one of the tables.

    Raises:
        DatabaseUnusableError: there is another table or view under the name.
    """
    parts = [_select_details(tables, dataset) for dataset in DATASETS.values() if _has_columns(tables, dataset)]
    if not parts or not _has_zones(tables):
        return
    query = f"""WITH {_NAMES}
SELECT trips.fleet, TRY_CAST(trips.partition_date || '-01' AS DATE) AS month, trips.* EXCLUDE (fleet),
    pickup.zone AS pickup_zone, pickup.borough AS pickup_borough,
    dropoff.zone AS dropoff_zone, dropoff.borough AS dropoff_borough,
    {", ".join(f"{sql} AS {name}" for name, (_, sql) in _MEANINGS.items())}
FROM ({" UNION ALL ".join(parts)}) AS trips
{_JOINED}"""
    create_view(tables, "all_trip_details", query, ALL_TRIP_DETAILS, ALL_TRIP_DETAILS_COLUMNS)


def _select_details(tables: Tables, dataset: Dataset) -> str:
    present = columns_of(tables, dataset.table).keys() & {column.name for column in dataset.columns}
    return _select(dataset, "".join(f", {_detail(dataset, present, *detail[:2], detail[3])}" for detail in _DETAILS))


def _detail(dataset: Dataset, present: Collection[str], name: str, type_: str, sources: Mapping[str, str]) -> str:
    """A column of a dataset; null if it does not have it, or if its table was made by the course's code and lacks it."""
    source = sources.get(dataset.name, name)
    # Numbers of drivers and meters are doubles, among which there may be NaN.
    return f"TRY_CAST({source} AS {type_}) AS {name}" if source in present else f"CAST(NULL AS {type_}) AS {name}"
