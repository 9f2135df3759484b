"""The baseline of the history: a process that downloads, deletes and inserts each month, and does nothing else.

    python benchmarks/plain_history.py URL FOLDER MONTH...

It has no way to find zones: the trips of the months before 2011 get none.
"""

import shutil
import sys
import urllib.request
from pathlib import Path

import duckdb

COLUMNS = (
    "vendor_id integer, pickup_zone_id integer, dropoff_zone_id integer, rate_code_id double, payment_type integer, "
    "dropoff_datetime timestamp, pickup_datetime timestamp, trip_distance double, passenger_count double, "
    "total_amount double, partition_date varchar, fare_amount double, extra double, mta_tax double, tip_amount double, "
    "tolls_amount double, improvement_surcharge double, congestion_surcharge double, airport_fee double, "
    "cbd_congestion_fee double, store_and_fwd_flag varchar, request_source varchar, pickup_longitude double, "
    "pickup_latitude double, dropoff_longitude double, dropoff_latitude double"
)
VENDOR = "CASE {} WHEN 'CMT' THEN 1 WHEN 'VTS' THEN 2 ELSE 3 END"
PAYMENT = (
    "CASE lower(left({}, 2)) WHEN 'cr' THEN 1 WHEN 'ca' THEN 2 WHEN 'cs' THEN 2 WHEN 'no' THEN 3 WHEN 'di' THEN 4 END"
)
FLAG = "CASE WHEN {0}::VARCHAR IN ('1', '1.0', 'Y') THEN 'Y' WHEN {0}::VARCHAR IN ('0', '0.0', 'N') THEN 'N' END"


def expressions(month: str) -> str:
    """The columns of the file of `month` (``YYYY-MM``), as SQL; the month itself is a parameter."""
    if month < "2010-01":
        return (
            f"{VENDOR.format('vendor_name')}, NULL, NULL, Rate_Code, {PAYMENT.format('Payment_Type')}, "
            "Trip_Dropoff_DateTime::TIMESTAMP, Trip_Pickup_DateTime::TIMESTAMP, Trip_Distance, Passenger_Count, Total_Amt, ?, "
            "Fare_Amt, surcharge, mta_tax, Tip_Amt, Tolls_Amt, NULL, NULL, NULL, NULL, "
            f"{FLAG.format('store_and_forward')}, NULL, Start_Lon, Start_Lat, End_Lon, End_Lat"
        )
    if month < "2011-01":
        return (
            f"{VENDOR.format('vendor_id')}, NULL, NULL, TRY_CAST(rate_code AS DOUBLE), {PAYMENT.format('payment_type')}, "
            "dropoff_datetime::TIMESTAMP, pickup_datetime::TIMESTAMP, trip_distance, passenger_count, total_amount, ?, "
            "fare_amount, surcharge, mta_tax, tip_amount, tolls_amount, NULL, NULL, NULL, NULL, "
            f"{FLAG.format('store_and_fwd_flag')}, NULL, "
            "pickup_longitude, pickup_latitude, dropoff_longitude, dropoff_latitude"
        )
    return (
        "VendorID, PULocationID, DOLocationID, RatecodeID, payment_type, tpep_dropoff_datetime, tpep_pickup_datetime, "
        "trip_distance, passenger_count, total_amount, ?, fare_amount, extra, mta_tax, tip_amount, tolls_amount, "
        "improvement_surcharge, congestion_surcharge, airport_fee, "
        f"{'cbd_congestion_fee' if month >= '2025-01' else 'NULL'}, store_and_fwd_flag, "
        f"{'request_source' if month >= '2026-06' else 'NULL'}, NULL, NULL, NULL, NULL"
    )


def main(url: str, folder: Path, months: list[str]) -> None:
    with duckdb.connect(str(folder / "plain.duckdb")) as connection:
        connection.execute(f"CREATE TABLE trips ({COLUMNS})")
        for month in months:
            path = folder / f"{month}.parquet"
            address = f"{url}/trip-data/yellow_tripdata_{month}.parquet"
            with urllib.request.urlopen(address) as response, open(path, "wb") as file:
                shutil.copyfileobj(response, file, 1 << 20)
            connection.execute("BEGIN")
            connection.execute("DELETE FROM trips WHERE partition_date = ?", [month])
            connection.execute(
                f"INSERT INTO trips SELECT {expressions(month)} FROM read_parquet(?)", [month, str(path)]
            )
            connection.execute("COMMIT")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
