"""Files of 2009 and 2010: with the types of the published ones, of real rows or of rows that a test makes."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dagster_essentials_tests.support.project import REAL_DATA

LEGACY_DATA = REAL_DATA / "legacy"
LEGACY_MONTHS = [f"{year}-{number:02}" for year in (2009, 2010) for number in range(1, 13)]

TYPES_2009 = {
    "vendor_name": pa.string(),
    "Trip_Pickup_DateTime": pa.string(),
    "Trip_Dropoff_DateTime": pa.string(),
    "Passenger_Count": pa.int64(),
    "Trip_Distance": pa.float64(),
    "Start_Lon": pa.float64(),
    "Start_Lat": pa.float64(),
    "Rate_Code": pa.float64(),
    "store_and_forward": pa.float64(),
    "End_Lon": pa.float64(),
    "End_Lat": pa.float64(),
    "Payment_Type": pa.string(),
    "Fare_Amt": pa.float64(),
    "surcharge": pa.float64(),
    "mta_tax": pa.float64(),
    "Tip_Amt": pa.float64(),
    "Tolls_Amt": pa.float64(),
    "Total_Amt": pa.float64(),
}
TYPES_2010 = {
    "vendor_id": pa.string(),
    "pickup_datetime": pa.string(),
    "dropoff_datetime": pa.string(),
    "passenger_count": pa.int64(),
    "trip_distance": pa.float64(),
    "pickup_longitude": pa.float64(),
    "pickup_latitude": pa.float64(),
    "rate_code": pa.string(),
    "store_and_fwd_flag": pa.string(),
    "dropoff_longitude": pa.float64(),
    "dropoff_latitude": pa.float64(),
    "payment_type": pa.string(),
    "fare_amount": pa.float64(),
    "surcharge": pa.float64(),
    "mta_tax": pa.float64(),
    "tip_amount": pa.float64(),
    "tolls_amount": pa.float64(),
    "total_amount": pa.float64(),
}
A_TRIP = {
    **{"vendor_id": "CMT", "pickup_datetime": "2010-05-28 15:58:09", "dropoff_datetime": "2010-05-28 16:01:31"},
    **{"passenger_count": 1, "trip_distance": 0.7, "rate_code": "1", "store_and_fwd_flag": "0", "payment_type": "Cas"},
    **{"pickup_longitude": -74.19, "pickup_latitude": 40.54, "dropoff_longitude": -74.16, "dropoff_latitude": 40.54},
    **{
        "fare_amount": 4.1,
        "surcharge": 1.0,
        "mta_tax": 0.5,
        "tip_amount": 0.0,
        "tolls_amount": 0.0,
        "total_amount": 5.6,
    },
}
"""A trip of 2010."""
A_TRIP_OF_2009 = {
    **dict(zip(TYPES_2009, (A_TRIP[name] for name in TYPES_2010), strict=True)),
    **{"Trip_Pickup_DateTime": "2009-05-28 15:58:09", "Trip_Dropoff_DateTime": "2009-05-28 16:01:31"},
    **{"Rate_Code": None, "store_and_forward": 0.0, "Payment_Type": "CASH"},
}


def types_of(month: str) -> dict[str, pa.DataType]:
    """The columns of the published file of `month` (``YYYY-MM``) and their types."""
    if month < "2010-01":
        return TYPES_2009
    if month in ("2010-02", "2010-03"):
        return {**TYPES_2010, "rate_code": pa.int64(), "__index_level_0__": pa.int64()}
    return TYPES_2010


def legacy_file(path: Path, month: str, *trips: Mapping[str, Any], **types: pa.DataType) -> Path:
    """The file of `month` with these `trips`: each has the values of `A_TRIP`, in that month, unless it gives others."""
    given = {**types_of(month), **types}
    trip = dict(A_TRIP_OF_2009 if month < "2010-01" else A_TRIP)
    trip |= {name: f"{month}{str(value)[7:]}" for name, value in trip.items() if name.lower().endswith("datetime")}
    if given.get("rate_code") == pa.int64():
        trip["rate_code"] = 1
    rows = [{**trip, **values} for values in trips]
    return write_rows(path, rows, given)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], types: Mapping[str, pa.DataType]) -> Path:
    columns = {name: pa.array([row.get(name) for row in rows], type_) for name, type_ in types.items()}
    pq.write_table(pa.table(columns), path)
    return path


def real_rows(month: str) -> list[dict[str, str | None]]:
    """The first rows of the published CSV of `month`, and for 2009-01 those of its parquet file; an empty text is None."""
    paths = [LEGACY_DATA / "heads" / f"yellow_tripdata_{month}.csv"]
    if month == "2009-01":
        paths.append(LEGACY_DATA / "first_rows_of_parquet_2009-01.csv")
    rows: list[dict[str, str | None]] = []
    for path in paths:
        with open(path, newline="") as file:
            rows.extend({name: text or None for name, text in row.items()} for row in csv.DictReader(file))
    return rows


def real_file(path: Path, month: str) -> Path:
    """The real rows of `month`, with the types of the published parquet file."""
    types = types_of(month)
    read = {pa.string(): str, pa.int64(): int, pa.float64(): float}
    return write_rows(
        path,
        [
            {
                **{name: read[types[name]](text) for name, text in row.items() if text is not None},
                "__index_level_0__": number,
            }
            for number, row in enumerate(real_rows(month))
        ],
        types,
    )
