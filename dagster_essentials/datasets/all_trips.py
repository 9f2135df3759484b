"""The view `all_trips`: the trips of `trips` and `fleet_trips` by the columns that are common to the fleets."""

import re

import duckdb

from dagster_essentials.datasets import DATASETS
from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.warehouse.views import create_view

COMMENT = "The trips of all fleets, each row of trips and fleet_trips once, by their common columns"
COLUMNS = {
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


def _select(dataset: Dataset, seconds: str = _SECONDS) -> str:
    where = f" WHERE {dataset.rows}" if dataset.constants else ""
    return (
        f"SELECT '{dataset.name}' AS fleet, partition_date, {_COPIED}, {dataset.trip_distance} AS trip_distance, "
        f"{seconds} AS trip_seconds, {dataset.total_amount} AS total_amount FROM {dataset.table}{where}"
    )


def create_all_trips(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the view of the tables that there are, or replace that of an earlier release or of one of the tables.

    To be called in the transaction that creates or changes one of the tables.

    Raises:
        DatabaseUnusableError: there is another table or view under the name.
    """
    parts = []
    for dataset in DATASETS.values():
        # What the company measured is more precise than the times, which differ from it by minutes in 1.6 % of trips.
        select = _select(dataset, "CAST(trip_time AS BIGINT)" if dataset.name == "fhvhv" else _SECONDS)
        if _has_columns(connection, dataset, select):
            parts.append(select)
    create_view(connection, "all_trips", "\nUNION ALL ".join(parts), COMMENT, COLUMNS)


def _has_columns(connection: duckdb.DuckDBPyConnection, dataset: Dataset, select: str) -> bool:
    """Whether there is the dataset's table with the columns of `select`: of its name, something else may have made one."""
    found = connection.execute(
        "SELECT column_name FROM duckdb_columns() WHERE table_name = $table", {"table": dataset.table}
    ).fetchall()
    used = {column.name for column in dataset.columns}.intersection(re.findall(r"\w+", select))
    return used <= {name for (name,) in found}
