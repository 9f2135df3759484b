"""Sample months: a generated folder that looks like the TLC's, for trying things out, tests and benchmarks.

    python -m dagster_essentials.sample FOLDER --start 2023-01 --end 2023-03 --rows 10000

writes ``FOLDER/trip-data/yellow_tripdata_YYYY-MM.parquet`` for each month from start to end, both included, and
``FOLDER/taxi_zones.csv``. ``--fleets green,fhv,fhvhv`` adds the months of these fleets, with as many trips each; those
before a fleet's first month are left out. Each month has the columns and types of the published file of that month, and
the quality problems of real months at their measured rates. The same arguments give the same rows on every machine and
DuckDB version. This module does not depend on how the trips are loaded.
"""

import argparse
import csv
import datetime
import re
from collections.abc import Mapping
from pathlib import Path

from dagster_essentials.ingestion.atomic_write import atomic_write
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.ingestion.months import month_number, months_between
from dagster_essentials.sample.coordinates import (
    CELL,
    CELLS_IN_A_COLUMN,
    SOUTH,
    WEST,
    trips_with_coordinates,
)
from dagster_essentials.sample.fleets import FIRST_FLEET_MONTHS, write_fleet_month
from dagster_essentials.sample.rows import (
    LAST_MONTH,
    drawn_zone,
    draws,
    last_summer_hour,
    month_seconds,
    write_rows,
)

__all__ = [
    "FIRST_FLEET_MONTHS",
    "FIRST_MODERN_MONTH",
    "FIRST_MONTH",
    "LAST_MONTH",
    "write_fleet_month",
    "write_month",
    "write_zones",
]

FIRST_MONTH = "2009-01"
FIRST_MODERN_MONTH = "2011-01"
"""Before it, the files have coordinates instead of zones, and other names: see `coordinates.py`."""

# The months, first and last, in which the published files have these columns as DOUBLE; in all others their type is
# null (physical INT32, every value null).
DOUBLE_IN = {
    "improvement_surcharge": [("2011-01", "2014-07"), ("2014-09", LAST_MONTH)],
    "congestion_surcharge": [
        *((month, month) for month in ("2011-01", "2012-12", "2013-05", "2014-01", "2018-01", "2018-06")),
        ("2011-03", "2011-03"),
        ("2018-09", "2018-09"),
        ("2018-11", "2018-11"),
        ("2019-01", LAST_MONTH),
    ],
    "airport_fee": [("2011-01", "2011-01"), ("2018-01", "2018-01"), ("2020-08", "2020-09"), ("2020-11", LAST_MONTH)],
}

# Measured shares, in trips per 100,000, by the year of the measurement; other years use the previous one.
NEGATIVE_TOTAL = {2009: 200, 2024: 1_800, 2026: 500}
ZERO_DISTANCE = {2009: 900, 2024: 1_900, 2026: 3_200}
FLEX_FARE = {2009: 0, 2024: 9_900, 2026: 26_000}
OUTSIDE_MONTH = {2009: 70, 2021: 470, 2022: 70}
# 50 exact duplicates among the 84.6 M trips of 2019.
DUPLICATE_EVERY = 1_690_000
# 973 trips of November 2019 ended before they began: about one in ten that began in the last hour of summer time.
BACKWARDS_IN_LAST_SUMMER_HOUR = 10_000

# One random number between 0 and 1 for each trip and each of these.
DRAWS = (
    *("moment", "jitter", "duration", "distance", "outlier", "pickup_zone", "dropoff_zone", "vendor", "payment"),
    *("rate", "passengers", "fare", "extras", "tip", "toll", "glitch"),
)


def write_month(folder: Path, month: str, rows: int) -> Path:
    """Write the month `month` (``YYYY-MM``, 2009-01 to 2026-12) with `rows` trips into `folder`; return its path."""
    if not FIRST_MONTH <= month <= LAST_MONTH:
        raise ValueError(f"Sample months go from {FIRST_MONTH} to {LAST_MONTH}; {month} is not one of them.")
    return write_rows(folder / f"yellow_tripdata_{month}.parquet", _trips_query(month, rows))


def _trips_query(month: str, rows: int) -> str:
    trips = (
        _modern_trips(month)
        if month >= FIRST_MODERN_MONTH
        else trips_with_coordinates(month, month_number(month) * 100)
    )
    return f"{_rides(month, rows)}\n{trips}"


def _rides(month: str, rows: int) -> str:
    """The trips as the table expression `ridden`, before they get the columns of their month."""
    year, number = int(month[:4]), int(month[5:7])
    start = datetime.datetime(year, number, 1)
    seconds = month_seconds(month)
    summer_ends = last_summer_hour(year)
    salt = month_number(month)
    airport_fee = _airport_fee(month)

    def share(shares: Mapping[int, int]) -> float:
        return shares[max(since for since in shares if since <= year)] / 100_000

    def fee(column: str, expression: str) -> str:
        has_values = any(first <= month <= last for first, last in DOUBLE_IN[column])
        return f"({expression})::DOUBLE" if has_values else "NULL::INTEGER"

    return f"""
WITH drawn AS (
    -- j is i, except for the duplicates, which repeat the previous trip in every column.
    SELECT if(i % {DUPLICATE_EVERY} = {DUPLICATE_EVERY // 2}, i - 1, i) AS j, {draws(DRAWS, salt * 100)}
    FROM (SELECT range AS i FROM range({rows}))
), moved AS (
    SELECT *,
        CASE
            WHEN draw(j, {salt * 100 + 90}) < {share(OUTSIDE_MONTH)}
                THEN make_timestamp(2001 + floor(glitch * 88)::BIGINT, 1 + floor(moment * 12)::BIGINT, 1, 12, 0, 0)
            -- Files are almost in the order of the pickups.
            ELSE TIMESTAMP '{start}' + to_seconds(least(floor(j / {rows} * {seconds} + jitter * 7200), {seconds} - 1))
        END AS pickup,
        CASE
            WHEN outlier < 1e-6 THEN 328522.0
            WHEN draw(j, {salt * 100 + 91}) < {share(ZERO_DISTANCE)} THEN 0.0
            ELSE cents(0.3 + 2.2 * -ln(1 - distance * 0.9999) + if(outlier > 0.95, 12.0, 0.0))
        END AS miles,
        draw(j, {salt * 100 + 92}) < {share(FLEX_FARE)} AS flex,
        if(draw(j, {salt * 100 + 93}) < {share(NEGATIVE_TOTAL)}, -1, 1) AS sign,
        CASE
            WHEN vendor < 0.01 AND {year} >= 2025 THEN 7
            WHEN vendor < 0.0102 AND {year} >= 2020 THEN 6
            WHEN vendor < 0.27 THEN 1
            ELSE 2
        END AS vendor_id
    FROM drawn
), ridden AS (
    SELECT *,
        CASE
            WHEN vendor_id = 7 THEN 0
            WHEN pickup >= TIMESTAMP '{summer_ends}' AND pickup < TIMESTAMP '{summer_ends}' + INTERVAL 1 HOUR
                AND glitch * 100000 < {BACKWARDS_IN_LAST_SUMMER_HOUR} THEN -1800
            ELSE 60 + floor(duration * 600 + least(miles, 60.0) * 210)
        END AS trip_seconds,
        cents(sign * (3.0 + floor(least(miles, 400.0) * 3.5) * 0.7 + floor(fare * 8) * 0.7)) AS fare_amount,
        sign * [0.0, 0.5, 1.0, 2.5, 3.5][1 + (extras * 4)::INTEGER] AS extra,
        sign * if(extras < 0.99, 0.5, 0.0) AS mta_tax,
        if(payment < 0.7, cents(sign * floor(tip * 32) * 0.25), 0.0) AS tip_amount,
        if(toll < 0.07, sign * 6.55, 0.0) AS tolls_amount,
        {fee("improvement_surcharge", f"sign * {'1.0' if year >= 2023 else '0.3' if year >= 2015 else '0.0'}")}
            AS improvement_surcharge,
        {fee("congestion_surcharge", "if(flex, NULL, if(fare < 0.92, sign * 2.5, 0.0))" if year >= 2019 else "NULL")}
            AS congestion_surcharge,
        {fee("airport_fee", "if(flex, NULL, if(toll > 0.92, sign * 1.75, 0.0))" if year >= 2021 else "NULL")}
            AS {airport_fee},
        ({"if(fare < 0.7, sign * 0.75, 0.0)" if year >= 2025 else "0.0"})::DOUBLE AS cbd_congestion_fee,
        {"if(flex, ['HV0003', 'HV0005'][1 + (tip > 0.4)::INTEGER], 'A')"} AS request_source
    FROM moved
)"""


def _airport_fee(month: str) -> str:
    return "Airport_fee" if month >= "2023-02" else "airport_fee"


def _modern_trips(month: str) -> str:
    id_type = "INTEGER" if month >= "2023-02" else "BIGINT"
    count_type = "DOUBLE" if "2018-07" <= month <= "2023-01" else "BIGINT"
    airport_fee = _airport_fee(month)
    return f"""
SELECT
    vendor_id::{id_type} AS VendorID,
    pickup AS tpep_pickup_datetime,
    pickup + to_seconds(trip_seconds) AS tpep_dropoff_datetime,
    if(flex, NULL, [1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4, 5, 6, 0][1 + (passengers * 13)::INTEGER])::{count_type}
        AS passenger_count,
    miles AS trip_distance,
    if(flex, NULL, CASE WHEN rate < 0.94 THEN 1 WHEN rate < 0.98 THEN 2 WHEN rate < 0.985 THEN 3 WHEN rate < 0.987 THEN 4
        WHEN rate < 0.995 THEN 5 ELSE 99 END)::{count_type} AS RatecodeID,
    if(flex, NULL, if(rate < 0.005, 'Y', 'N')) AS store_and_fwd_flag,
    {drawn_zone("pickup_zone")}::{id_type} AS PULocationID,
    {drawn_zone("dropoff_zone")}::{id_type} AS DOLocationID,
    if(flex, 0, CASE WHEN payment < 0.75 THEN 1 WHEN payment < 0.97 THEN 2 WHEN payment < 0.985 THEN 3 ELSE 4 END)::BIGINT
        AS payment_type,
    fare_amount, extra::DOUBLE AS extra, mta_tax::DOUBLE AS mta_tax, tip_amount, tolls_amount::DOUBLE AS tolls_amount,
    improvement_surcharge,
    cents(fare_amount + extra + mta_tax + tip_amount + tolls_amount + coalesce(improvement_surcharge, 0)
        + coalesce(congestion_surcharge, 0) + coalesce({airport_fee}, 0) + cbd_congestion_fee) AS total_amount,
    congestion_surcharge,
    {airport_fee}
    {", cbd_congestion_fee" if month >= "2025-01" else ""}
    {", request_source" if month >= "2026-06" else ""}
FROM ridden
"""


# The number of rows of each borough among the 263, as published, in consecutive ranges.
_BOROUGHS = {
    "Manhattan": range(0, 69),
    "Bronx": range(69, 112),
    "Queens": range(112, 181),
    "Brooklyn": range(181, 242),
    "Staten Island": range(242, 262),
    "EWR": range(262, 263),
}


def write_zones(path: Path) -> Path:
    """Write a zones CSV with the published file's columns and its quirk: 263 rows, 260 LocationIDs; return its path.

    The zones are squares on a grid at the position of New York, as many in each borough as published. The grid is
    filled column by column from south to north, so that Manhattan is long and narrow.
    """
    with atomic_write(path, DataFolder(path.parent)) as temporary, open(temporary, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["OBJECTID", "Shape_Leng", "the_geom", "Shape_Area", "zone", "LocationID", "borough"])
        for number in range(1, 264):
            # As published: 56 occurs twice and 103 three times, instead of 57, 104 and 105.
            zone_id = {57: 56, 104: 103, 105: 103}.get(number, number)
            column, row = divmod(number, CELLS_IN_A_COLUMN)
            west, south = WEST + CELL * column, SOUTH + CELL * row
            corners = [(0.0, 0.0), (0.0, CELL), (CELL, CELL), (CELL, 0.0), (0.0, 0.0)]
            outline = ", ".join(f"{west + x:.6f} {south + y:.6f}" for x, y in corners)
            geometry = f"MULTIPOLYGON ((({outline})))"
            borough = next(name for name, numbers in _BOROUGHS.items() if (number - 37) % 263 in numbers)
            rows.writerow([number, 0.12, geometry, 0.0009, f"Zone {zone_id}", zone_id, borough])
    return path


def _month(text: str) -> str:
    if not (re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text) and FIRST_MONTH <= text <= LAST_MONTH):
        raise argparse.ArgumentTypeError(f"{text} is not a month from {FIRST_MONTH} to {LAST_MONTH}, written YYYY-MM")
    return text


def _fleets(text: str) -> list[str]:
    fleets = text.split(",")
    unknown = [fleet for fleet in fleets if fleet not in FIRST_FLEET_MONTHS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not a fleet; they are {','.join(FIRST_FLEET_MONTHS)}")
    return fleets


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dagster_essentials.sample", description="Write sample months.")
    parser.add_argument("folder", type=Path, help="where to write trip-data/ and taxi_zones.csv")
    parser.add_argument("--start", type=_month, default="2023-01", help="first month, YYYY-MM (2023-01)")
    parser.add_argument("--end", type=_month, default="2023-03", help="last month, included, YYYY-MM (2023-03)")
    parser.add_argument("--rows", type=int, default=10_000, help="trips in each month (10000)")
    parser.add_argument("--fleets", type=_fleets, default=[], help="also these: green,fhv,fhvhv (none)")
    arguments = parser.parse_args()
    if arguments.end < arguments.start:
        parser.error(f"--end {arguments.end} lies before --start {arguments.start}")
    if arguments.rows < 1:
        parser.error(f"--rows {arguments.rows}: a month has at least one trip")
    months, folder = months_between(arguments.start, arguments.end), arguments.folder / "trip-data"
    for month in months:
        _report(write_month(folder, month, arguments.rows), arguments.rows)
    for fleet in arguments.fleets:
        absent = [month for month in months if month < FIRST_FLEET_MONTHS[fleet]]
        if absent:
            span = " to ".join(sorted({absent[0], absent[-1]}))
            print(f"{fleet}: {span} left out, because the first month of this fleet is {FIRST_FLEET_MONTHS[fleet]}")
        for month in months[len(absent) :]:
            _report(write_fleet_month(folder, fleet, month, arguments.rows), arguments.rows)
    print(f"{write_zones(arguments.folder / 'taxi_zones.csv')}: 263 zones")


def _report(path: Path, rows: int) -> None:
    print(f"{path}: {rows:,} trips, {path.stat().st_size / 1e6:.1f} MB")
