"""Months of the other fleets: their sample files as other writers would write them, and what pyarrow reads in a file."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from dagster_essentials.sample import write_fleet_month, write_month
from dagster_essentials_tests.support.faults.samples import read_arrow, write_arrow

INTEGER, DOUBLE, TEXT, TIME = "INTEGER", "DOUBLE", "VARCHAR", "TIMESTAMP"
FLEET_TRIPS: Mapping[str, str] = {
    **dict.fromkeys(("fleet", "partition_date"), TEXT),
    **dict.fromkeys(("pickup_datetime", "dropoff_datetime"), TIME),
    **dict.fromkeys(("pickup_zone_id", "dropoff_zone_id", "vendor_id"), INTEGER),
    "rate_code_id": DOUBLE,
    **dict.fromkeys(("payment_type", "trip_type"), INTEGER),
    **dict.fromkeys(("passenger_count", "trip_distance", "fare_amount", "extra", "mta_tax", "tip_amount"), DOUBLE),
    **dict.fromkeys(("tolls_amount", "ehail_fee", "improvement_surcharge", "total_amount"), DOUBLE),
    **dict.fromkeys(("store_and_fwd_flag", "request_source"), TEXT),
    **dict.fromkeys(("congestion_surcharge", "cbd_congestion_fee"), DOUBLE),
    **dict.fromkeys(("dispatching_base_num", "affiliated_base_number"), TEXT),
    "sr_flag": INTEGER,
    **dict.fromkeys(("hvfhs_license_num", "originating_base_num"), TEXT),
    **dict.fromkeys(("request_datetime", "on_scene_datetime"), TIME),
    "trip_miles": DOUBLE,
    "trip_time": INTEGER,
    **dict.fromkeys(("base_passenger_fare", "tolls", "bcf", "sales_tax", "airport_fee", "tips", "driver_pay"), DOUBLE),
    **dict.fromkeys(("shared_request_flag", "shared_match_flag", "access_a_ride_flag", "wav_request_flag"), TEXT),
    "wav_match_flag": TEXT,
}
"""The columns of the table, in order, and their types."""

NAMES_IN_FILE: Mapping[str, Mapping[str, str]] = {
    "green": {
        "pickup_datetime": "lpep_pickup_datetime",
        "dropoff_datetime": "lpep_dropoff_datetime",
        "vendor_id": "vendorid",
        "rate_code_id": "ratecodeid",
    },
    "fhv": {},
    "fhvhv": {},
}
"""Names of columns in the files that differ from the table's, in lower case. The zones have the same in all."""
ZONES = {"pickup_zone_id": "pulocationid", "dropoff_zone_id": "dolocationid"}

# Each layout that was published; the first month of each, or one that stands for it.
ERAS = [
    *(("green", month) for month in ("2014-02", "2018-06", "2019-01", "2019-09", "2023-02", "2025-01", "2026-06")),
    *(("fhv", month) for month in ("2015-01", "2017-05", "2019-03", "2019-05", "2019-07", "2020-07", "2020-08")),
    ("fhv", "2023-02"),
    *(("fhvhv", month) for month in ("2019-02", "2019-07", "2020-04", "2023-02", "2025-01")),
]


@cache
def fleet_sample(fleet: str, month: str, rows: int = 300) -> bytes:
    """The file of a good month (``YYYY-MM``) of a fleet, yellow among them."""
    with TemporaryDirectory() as folder:
        if fleet == "yellow":
            return write_month(Path(folder), month, rows).read_bytes()
        return write_fleet_month(Path(folder), fleet, month, rows).read_bytes()


def as_published(content: bytes, month: str) -> bytes:
    """The file as the TLC's writer has it: columns without values are null-typed, and texts large since 2023-02."""
    table = read_arrow(content)
    for number, field in enumerate(table.schema):
        column, type_ = table.column(number), field.type
        # These are the null-typed ones of the sample. Others without values are of their type in the published files, too.
        if (pa.types.is_int32(type_) or pa.types.is_string(type_)) and column.null_count == len(column):
            type_ = pa.null()
        elif pa.types.is_string(type_) and month >= "2023-02":
            type_ = pa.large_string()
        table = table.set_column(number, pa.field(field.name, type_), pa.array(column.to_pylist(), type_))
    return write_arrow(table, compression="zstd" if month >= "2023-02" else "gzip")


def as_others_write(content: bytes, month: str) -> bytes:
    """The file as another writer might have it: names in another case and order, dictionaries, milliseconds, row groups."""
    table = read_arrow(content)
    columns = {}
    for field in reversed(list(table.schema)):
        type_ = field.type
        if pa.types.is_string(type_):
            type_ = pa.dictionary(pa.int32(), pa.string())
        elif pa.types.is_timestamp(type_):
            type_ = pa.timestamp("ms")
        elif pa.types.is_int64(type_):
            type_ = pa.int32()
        columns[field.name.swapcase()] = table.column(field.name).cast(type_)
    return write_arrow(pa.table(columns), compression="snappy", row_group_size=70, version="2.6")


def read_trips(path: Path, fleet: str, month: str) -> "Counter[tuple[Any, ...]]":
    """The rows that the table has of the file at `path`, read by pyarrow, and how often each occurs."""
    table = pq.read_table(path)
    found = {name.lower(): table.column(name) for name in table.column_names}
    names = {**ZONES, **NAMES_IN_FILE[fleet]}
    columns: list[list[Any]] = []
    for name in FLEET_TRIPS:
        if name in ("fleet", "partition_date"):
            columns.append([fleet if name == "fleet" else month] * len(table))
        elif (column := found.get(names.get(name, name))) is None:
            columns.append([None] * len(table))
        else:
            columns.append(_comparable(column.to_pylist()))
    return Counter(zip(*columns, strict=True))


def _comparable(values: Iterable[Any]) -> list[Any]:
    # NaN does not equal itself.
    return [value if value == value else "NaN" for value in values]


def trips_in_table(connection: duckdb.DuckDBPyConnection, fleet: str, month: str) -> "Counter[tuple[Any, ...]]":
    """The rows of `month` of `fleet` in `fleet_trips`, and how often each occurs."""
    rows = connection.execute(
        "SELECT * FROM fleet_trips WHERE fleet = $1 AND partition_date = $2", [fleet, month]
    ).fetchall()
    return Counter(tuple(_comparable(row)) for row in rows)


def rows_as_dicts(path: Path) -> list[dict[str, Any]]:
    """The trips of the file at `path`, read by pyarrow, by names in lower case."""
    table = pq.read_table(path)
    return table.rename_columns([name.lower() for name in table.column_names]).to_pylist()  # type: ignore[no-any-return]


PARTS = ("tolls", "bcf", "sales_tax", "congestion_surcharge", "airport_fee", "cbd_congestion_fee", "tips")
"""With `base_passenger_fare`, the parts of the total of an fhvhv trip."""


def common_columns(trip: Mapping[str, Any], fleet: str, month: str) -> tuple[Any, ...]:
    """The row that the view `all_trips` has of a trip of `rows_as_dicts`; amounts and miles have four decimals."""
    prefix = {"yellow": "tpep_", "green": "lpep_"}.get(fleet, "")
    pickup, dropoff = trip[f"{prefix}pickup_datetime"], trip[f"{prefix}dropoff_datetime"]
    miles: float | None = trip.get("trip_miles" if fleet == "fhvhv" else "trip_distance")
    total: float | None = trip.get("total_amount")
    if fleet == "fhvhv":
        total = math.fsum([trip["base_passenger_fare"], *(trip.get(part) or 0 for part in PARTS)])
    seconds = trip["trip_time"] if fleet == "fhvhv" else _seconds(pickup, dropoff)
    zones = (trip["pulocationid"], trip["dolocationid"])
    rounded = (None if value is None else round(value, 4) for value in (miles, total))
    miles, total = rounded
    return (fleet, month, pickup, dropoff, *zones, miles, seconds, total)


def _seconds(pickup: datetime, dropoff: datetime) -> int | None:
    return None if dropoff < pickup else int((dropoff - pickup).total_seconds())
