"""The views: `trip_details`, the yellow trips with the names of their zones, and `all_trips`, those of all fleets."""

import re

from dagster_essentials.datasets import DATASETS
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
_TRIP_DETAILS = """WITH names AS NOT MATERIALIZED (
    SELECT DISTINCT ON (zone_id) zone_id, zone, borough FROM zones ORDER BY zone_id, zone, borough
)
SELECT trips.*,
    pickup.zone AS pickup_zone, pickup.borough AS pickup_borough,
    dropoff.zone AS dropoff_zone, dropoff.borough AS dropoff_borough
FROM trips
LEFT JOIN names AS pickup ON pickup.zone_id = trips.pickup_zone_id
LEFT JOIN names AS dropoff ON dropoff.zone_id = trips.dropoff_zone_id
"""


def create_trip_details(tables: Tables) -> None:
    """Create the view once there are both tables, or replace that of an earlier release.

    To be called in the transaction that creates or changes one of the tables.

    Raises:
        DatabaseUnusableError: there is another table or view under the name.
    """
    # Foreign tables of these names are reported when they are loaded or read.
    if (
        not {"pickup_zone_id", "dropoff_zone_id"} <= columns_of(tables, "trips").keys()
        or not {"zone_id", "zone", "borough"} <= columns_of(tables, "zones").keys()
    ):
        return
    columns = {column.name: column.description for column in COLUMNS} | ZONE_COLUMNS
    create_view(tables, "trip_details", _TRIP_DETAILS, TRIP_DETAILS, columns)


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


def _select(dataset: Dataset) -> str:
    where = f" WHERE {dataset.rows}" if dataset.constants else ""
    return (
        f"SELECT '{dataset.name}' AS fleet, partition_date, {_COPIED}, {dataset.trip_distance} AS trip_distance, "
        f"{_MEASURED_SECONDS.get(dataset.name, _SECONDS)} AS trip_seconds, {dataset.total_amount} AS total_amount "
        f"FROM {dataset.table}{where}"
    )


def _has_columns(tables: Tables, dataset: Dataset) -> bool:
    """True if the dataset's table has the columns of the view. Something else may have made a table of that name."""
    used = {column.name for column in dataset.columns}.intersection(re.findall(r"\w+", _select(dataset)))
    return used <= columns_of(tables, dataset.table).keys()
