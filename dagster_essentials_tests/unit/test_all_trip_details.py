"""The view `all_trip_details`: each trip of each fleet once, with names of zones and codes, in databases of any age."""

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from dagster_essentials.datasets import DATASETS
from dagster_essentials.datasets.views import ALL_TRIP_DETAILS
from dagster_essentials.datasets.zones import read_zones
from dagster_essentials.datasets.zones_table import replace_zones
from dagster_essentials.errors import DatabaseUnusableError
from dagster_essentials.sample import write_zones
from dagster_essentials.warehouse.tables import Tables
from dagster_essentials_tests.runs.test_existing_databases import COURSE_COLUMNS
from dagster_essentials_tests.support.faults.samples import read_arrow, write_arrow
from dagster_essentials_tests.support.fleet_files import common_columns, fleet_sample, rows_as_dicts
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import DISK

pytestmark = pytest.mark.duckdb

MONTH = "2025-02"


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def load(connection: duckdb.DuckDBPyConnection, folder: Path, fleet: str, content: bytes | None = None) -> Path:
    path = folder / f"{fleet}.parquet"
    path.write_bytes(content or fleet_sample(fleet, MONTH))
    load_month(connection, MONTH, path, dataset=DATASETS[fleet])
    return path


def load_zones(connection: duckdb.DuckDBPyConnection, folder: Path) -> Mapping[int | None, tuple[str, str]]:
    """Load the sample's zones; return the name and borough of each id."""
    path = write_zones(folder / "zones.csv")
    replace_zones(Tables(connection), read_zones(path, DISK))
    with open(path, newline="") as file:
        zones: dict[int | None, tuple[str, str]] = {
            int(row["OBJECTID"]): (row["zone"], row["borough"]) for row in csv.DictReader(file)
        }
    return {**zones, 264: ("Unknown",) * 2, 265: ("Outside of NYC",) * 2}


COMMON = (
    *("fleet", "partition_date", "pickup_datetime", "dropoff_datetime", "pickup_zone_id", "dropoff_zone_id"),
    *("round(trip_distance, 4)", "trip_seconds", "round(total_amount, 4)"),
)
MORE = (
    *("month", "pickup_zone", "pickup_borough", "dropoff_zone", "dropoff_borough"),
    *("passenger_count", "fare_amount", "tip_amount", "tolls_amount", "cbd_congestion_fee"),
    *("vendor_id", "vendor", "rate_code_id", "rate", "payment_type", "payment", "trip_type", "company"),
)
# By hand, from the TLC's data dictionaries.
VENDORS = {1: "Creative Mobile", 2: "Curb", 6: "Myle", 7: "Helix"}
RATES = {1: "standard", 2: "JFK", 3: "Newark", 4: "Nassau or Westchester", 5: "negotiated", 6: "group", 99: "unknown"}
PAYMENTS = {0: "flex fare", 1: "card", 2: "cash", 3: "no charge", 4: "dispute"}
COMPANIES = {"HV0003": "Uber", "HV0005": "Lyft"}


def details(trip: Mapping[str, Any], fleet: str, zones: Mapping[int | None, tuple[str, str]]) -> tuple[Any, ...]:
    """The row of a trip of `rows_as_dicts`."""
    own = (
        {"fare_amount": "base_passenger_fare", "tip_amount": "tips", "tolls_amount": "tolls"}
        if fleet == "fhvhv"
        else {}
    )
    money = ("fare_amount", "tip_amount", "tolls_amount", "cbd_congestion_fee")
    codes = [
        None if (code := trip.get(name)) is None or math.isnan(code) else int(code)
        for name in ("vendorid", "ratecodeid", "payment_type", "trip_type")
    ]
    vendor, rate, payment, trip_type = codes
    passengers = trip.get("passenger_count")
    return (
        *common_columns(trip, fleet, MONTH),
        date(2025, 2, 1),
        *zones.get(trip["pulocationid"], (None, None)),
        *zones.get(trip["dolocationid"], (None, None)),
        None if passengers is None or math.isnan(passengers) else int(passengers),
        *(trip.get(own.get(name, name)) for name in money),
        *(vendor, VENDORS.get(vendor or 0), rate, RATES.get(rate or 0), payment),
        *(None if payment is None else PAYMENTS[payment], trip_type, COMPANIES.get(trip.get("hvfhs_license_num", ""))),
    )  # fmt: skip


@pytest.mark.parametrize("fleets", [["yellow"], ["fhvhv"], ["yellow", "green", "fhv", "fhvhv"]], ids=",".join)
def test_each_trip_is_there_once_with_the_names_of_its_zones_and_codes(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, fleets: list[str]
) -> None:
    files = {fleet: load(connection, tmp_path, fleet) for fleet in fleets}
    assert connection.execute(
        "SELECT count(*) FROM duckdb_views() WHERE view_name = 'all_trip_details'"
    ).fetchall() == [(0,)]
    zones = load_zones(connection, tmp_path)
    # As the course's code makes them.
    connection.execute("INSERT INTO zones FROM zones WHERE zone_id IN (103, 100)")
    found = connection.execute(f"SELECT {', '.join(COMMON + MORE)} FROM all_trip_details").fetchall()
    expected = [details(trip, fleet, zones) for fleet, path in files.items() for trip in rows_as_dicts(path)]
    assert len(found) == 300 * len(fleets)
    assert Counter(map(repr, found)) == Counter(map(repr, expected))
    if "fhvhv" in fleets:
        assert {row[-1] for row in found} >= {"Uber", "Lyft"}


def test_it_has_the_fleets_that_are_loaded_after_the_zones(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    load_zones(connection, tmp_path)
    for fleets in (["green"], ["green", "yellow"], ["fhvhv", "green", "yellow"]):
        load(connection, tmp_path, next(fleet for fleet in fleets if not (tmp_path / f"{fleet}.parquet").exists()))
        rows = connection.execute("SELECT fleet, count(*) FROM all_trip_details GROUP BY ALL ORDER BY ALL").fetchall()
        assert rows == [(fleet, 300) for fleet in fleets]


def test_trips_of_the_courses_database_are_there_before_their_table_is_upgraded(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    connection.execute(f"CREATE TABLE trips ({COURSE_COLUMNS})")
    connection.execute(
        "INSERT INTO trips SELECT 1, 100, 9999, 'NaN', 2, TIMESTAMP '2022-12-05', TIMESTAMP '2022-12-04', 1.5, 1e300, 12.5, "
        "unnest(['2022-12', 'unknown'])"
    )
    load_zones(connection, tmp_path)
    query = "SELECT month, pickup_borough, dropoff_zone, rate_code_id, rate, payment, passenger_count, tip_amount, total_amount"
    expected = [(date(2022, 12, 1), "Manhattan", None, None, None, "cash", None, None, 12.5)]
    assert connection.execute(f"{query} FROM all_trip_details WHERE partition_date = '2022-12'").fetchall() == expected
    assert connection.execute(f"{query} FROM all_trip_details WHERE month IS NULL").fetchall() == [
        (None, *expected[0][1:])
    ]
    load(connection, tmp_path, "yellow")
    (loaded,) = connection.execute("SELECT count(*), count(tip_amount), count(month) FROM all_trip_details").fetchall()
    assert loaded == (302, 300, 301)


def test_codes_without_a_meaning_are_kept(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    table = read_arrow(fleet_sample("yellow", MONTH))
    position = table.schema.get_field_index("payment_type")
    table = table.set_column(position, "payment_type", pa.array([42] * len(table), pa.int64()))
    load_zones(connection, tmp_path)
    load(connection, tmp_path, "yellow", write_arrow(table))
    assert connection.execute("SELECT DISTINCT payment_type, payment FROM all_trip_details").fetchall() == [(42, None)]


def test_the_view_of_an_earlier_release_is_replaced_and_that_of_somebody_else_is_not(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    load_zones(connection, tmp_path)
    connection.execute("CREATE VIEW all_trip_details AS SELECT 42 AS answer")
    with pytest.raises(DatabaseUnusableError, match=r"all_trip_details in .* was made by something else"):
        load(connection, tmp_path, "yellow")
    assert connection.execute("FROM all_trip_details").fetchall() == [(42,)]
    connection.execute(f"COMMENT ON VIEW all_trip_details IS '{ALL_TRIP_DETAILS}'")
    load(connection, tmp_path, "yellow")
    assert connection.execute("SELECT count(*) FROM all_trip_details").fetchall() == [(300,)]


def test_every_column_is_described(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    load_zones(connection, tmp_path)
    load(connection, tmp_path, "green")
    found = connection.execute(
        "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'all_trip_details'"
    ).fetchall()
    assert len(found) > 25
    assert [name for name, comment in found if len(comment or "") < 5] == []
