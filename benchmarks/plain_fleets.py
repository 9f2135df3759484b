"""The baseline of the fleets: a process that downloads, deletes and inserts each month, and does nothing else.

    python benchmarks/plain_fleets.py URL FOLDER FLEET|MONTH...

The table has the columns and types of the project's, most of which are null in the trips of a fleet.
"""

import shutil
import sys
import urllib.request
from pathlib import Path

import duckdb

COLUMNS = (
    "fleet varchar, partition_date varchar, pickup_datetime timestamp, dropoff_datetime timestamp, pickup_zone_id integer, "
    "dropoff_zone_id integer, vendor_id integer, rate_code_id double, payment_type integer, trip_type integer, "
    "passenger_count double, trip_distance double, fare_amount double, extra double, mta_tax double, tip_amount double, "
    "tolls_amount double, ehail_fee double, improvement_surcharge double, total_amount double, store_and_fwd_flag varchar, "
    "request_source varchar, congestion_surcharge double, cbd_congestion_fee double, dispatching_base_num varchar, "
    "affiliated_base_number varchar, sr_flag integer, hvfhs_license_num varchar, originating_base_num varchar, "
    "request_datetime timestamp, on_scene_datetime timestamp, trip_miles double, trip_time integer, "
    "base_passenger_fare double, tolls double, bcf double, sales_tax double, airport_fee double, tips double, "
    "driver_pay double, shared_request_flag varchar, shared_match_flag varchar, access_a_ride_flag varchar, "
    "wav_request_flag varchar, wav_match_flag varchar"
)
ZONES = "PULocationID AS pickup_zone_id, DOLocationID AS dropoff_zone_id"
RENAMED = {
    "green": f"{ZONES}, VendorID AS vendor_id, RatecodeID AS rate_code_id, lpep_pickup_datetime AS pickup_datetime, "
    "lpep_dropoff_datetime AS dropoff_datetime",
    "fhv": ZONES,
    "fhvhv": ZONES,
}


def replace_month(connection: duckdb.DuckDBPyConnection, fleet: str, month: str, file: Path) -> None:
    """Replace the rows of the month (``YYYY-MM``) by those of `file`, in one transaction."""
    connection.execute("BEGIN")
    connection.execute(f"CREATE TABLE IF NOT EXISTS fleet_trips ({COLUMNS})")
    connection.execute(f"DELETE FROM fleet_trips WHERE fleet = '{fleet}' AND partition_date = ?", [month])
    connection.execute(
        f"INSERT INTO fleet_trips BY NAME SELECT '{fleet}' AS fleet, ? AS partition_date, * RENAME ({RENAMED[fleet]}) "
        "FROM read_parquet(?)",
        [month, str(file)],
    )
    connection.execute("COMMIT")


def main(url: str, folder: Path, months: list[str]) -> None:
    with duckdb.connect(str(folder / "plain.duckdb")) as connection:
        for key in months:
            fleet, _, month = key.partition("|")
            path = folder / f"{fleet}_{month}.parquet"
            address = f"{url}/trip-data/{fleet}_tripdata_{month}.parquet"
            with urllib.request.urlopen(address) as response, open(path, "wb") as file:
                shutil.copyfileobj(response, file, 1 << 20)
            replace_month(connection, fleet, month, path)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
