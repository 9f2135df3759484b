"""The quality of the fleets' trips: violations of their rules, and descriptions in the database."""

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from dagster_essentials.datasets.fleets import FLEETS
from dagster_essentials.datasets.views import ALL_TRIPS, ALL_TRIPS_COLUMNS
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials_tests.support.faults.samples import rewrite
from dagster_essentials_tests.support.fleet_files import ERAS, fleet_sample, rows_as_dicts
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import NO_REAL_DATA, REAL_DATA

pytestmark = pytest.mark.slow

Trip = Mapping[str, Any]
Rule = Callable[[Trip, datetime, datetime], bool]
UNKNOWN = {264, 265}


def _times(trip: Trip) -> tuple[datetime, datetime]:
    prefix = "lpep_" if "lpep_pickup_datetime" in trip else ""
    return trip[f"{prefix}pickup_datetime"], trip[f"{prefix}dropoff_datetime"]


def _zones(trip: Trip) -> set[Any]:
    return {trip["pulocationid"], trip["dolocationid"]}


def _differs(trip: Trip) -> bool:
    pickup, dropoff = _times(trip)
    return bool(abs(trip["trip_time"] - (dropoff - pickup).total_seconds()) > 120)


SHARED: Mapping[str, Rule] = {
    "pickups_in_month": lambda trip, first, last: not first <= _times(trip)[0] < last,
    "dropoff_after_pickup": lambda trip, first, last: _times(trip)[1] < _times(trip)[0],
}
RULES: Mapping[str, Mapping[str, Rule]] = {
    "green": {
        **SHARED,
        "zones_known": lambda trip, first, last: bool(UNKNOWN & _zones(trip)),
        "no_negative_amounts": lambda trip, first, last: trip["total_amount"] < 0,
        "no_zero_distances": lambda trip, first, last: trip["trip_distance"] == 0,
        "passengers_known": lambda trip, first, last: trip["passenger_count"] is None and trip["ratecodeid"] is None,
    },
    "fhv": {
        **SHARED,
        "zones_known": lambda trip, first, last: bool({0, *UNKNOWN} & _zones(trip)),
        "pickup_zone_present": lambda trip, first, last: trip["pulocationid"] is None,
        "dropoff_zone_present": lambda trip, first, last: trip["dolocationid"] is None,
    },
    "fhvhv": {
        **SHARED,
        "zones_known": lambda trip, first, last: bool(UNKNOWN & _zones(trip)),
        "no_negative_amounts": lambda trip, first, last: trip["base_passenger_fare"] < 0,
        "no_zero_distances": lambda trip, first, last: trip["trip_miles"] == 0,
        "duration_as_measured": lambda trip, first, last: _differs(trip),
    },
}


def counted_in_file(path: Path, fleet: str, month: str) -> dict[str, int]:
    year, number = int(month[:4]), int(month[5:])
    first, last = datetime(year, number, 1), datetime(year + number // 12, number % 12 + 1, 1)
    trips = rows_as_dicts(path)
    return {name: sum(rule(trip, first, last) for trip in trips) for name, rule in RULES[fleet].items()}


def counted_by_load(path: Path, fleet: str, month: str) -> Mapping[str, int]:
    with duckdb.connect() as connection:
        return load_month(connection, month, path, dataset=FLEETS[fleet]).version.violations


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=NO_REAL_DATA)
@pytest.mark.parametrize(
    ("fleet", "month"),
    [("green", "2023-01"), ("green", "2023-02"), ("fhv", "2025-01"), ("fhvhv", "2025-01")],
)
def test_each_rule_counts_what_plain_python_counts_in_a_real_month(fleet: str, month: str) -> None:
    path = REAL_DATA / "trip-data" / f"{fleet}_tripdata_{month}.parquet"
    expected = counted_in_file(path, fleet, month)
    assert counted_by_load(path, fleet, month) == expected
    # The first thousand trips of the for-hire month have fewer zones than the whole of it.
    rows = pq.read_metadata(path).num_rows
    warning = {rule.name for rule in FLEETS[fleet].rules if expected[rule.name] > rule.limit * rows}
    assert warning == ({"pickup_zone_present"} if fleet == "fhv" else set())


@pytest.mark.parametrize(("fleet", "month"), [*ERAS, ("fhvhv", "2025-11")])
def test_each_rule_counts_what_plain_python_counts_in_a_sample_month(fleet: str, month: str, tmp_path: Path) -> None:
    path = tmp_path / "month.parquet"
    path.write_bytes(fleet_sample(fleet, month, 3000))
    assert counted_by_load(path, fleet, month) == counted_in_file(path, fleet, month)


# For each rule, what makes the first 40 trips of a good month violate it, some of them twice over.
BROKEN = {
    "green": {
        "pickups_in_month": "lpep_pickup_datetime - INTERVAL 90 DAY AS lpep_pickup_datetime",
        "dropoff_after_pickup": "lpep_pickup_datetime - INTERVAL 1 SECOND AS lpep_dropoff_datetime",
        "zones_known": "265 AS PULocationID",
        "no_negative_amounts": "-0.01 AS total_amount",
        "no_zero_distances": "0.0 AS trip_distance",
        "passengers_known": "NULL::BIGINT AS passenger_count, NULL::BIGINT AS RatecodeID, NULL::VARCHAR AS store_and_fwd_flag",
    },
    "fhv": {
        "pickups_in_month": "TIMESTAMP '2025-02-01' AS pickup_datetime",
        "dropoff_after_pickup": 'pickup_datetime - INTERVAL 1 SECOND AS "dropOff_datetime"',
        "zones_known": '0 AS "DOlocationID"',
        "pickup_zone_present": 'NULL::BIGINT AS "PUlocationID"',
        "dropoff_zone_present": 'NULL::BIGINT AS "DOlocationID"',
    },
    "fhvhv": {
        "pickups_in_month": "TIMESTAMP '2024-12-31 23:59:59' AS pickup_datetime",
        "dropoff_after_pickup": "pickup_datetime - INTERVAL 1 SECOND AS dropoff_datetime",
        "zones_known": "264 AS DOLocationID",
        "no_negative_amounts": "-0.01 AS base_passenger_fare",
        "no_zero_distances": "0.0 AS trip_miles",
        "duration_as_measured": "date_diff('second', pickup_datetime, dropoff_datetime) + 121 AS trip_time",
    },
}


@pytest.mark.parametrize(("fleet", "rule"), [(fleet, rule) for fleet, rules in BROKEN.items() for rule in rules])
def test_a_trip_that_violates_a_rule_is_counted_once(fleet: str, rule: str, tmp_path: Path) -> None:
    month = fleet_sample(fleet, "2025-01")
    others, path = tmp_path / "others.parquet", tmp_path / "month.parquet"
    others.write_bytes(rewrite(month, "FROM month OFFSET 40 LIMIT 40"))
    # More of them outside of their month would be the file of another one.
    broken = f"(SELECT * REPLACE ({BROKEN[fleet][rule]}) FROM month LIMIT 40)"
    path.write_bytes(rewrite(month, f"{broken} UNION ALL (FROM month OFFSET 40 LIMIT 40)"))
    violations = counted_by_load(path, fleet, "2025-01")
    assert violations[rule] == 40 + counted_in_file(others, fleet, "2025-01")[rule]
    assert violations == counted_in_file(path, fleet, "2025-01")


def test_the_rules_are_those_that_are_counted_here() -> None:
    assert {fleet: [rule.name for rule in FLEETS[fleet].rules] for fleet in FLEETS} == {
        fleet: list(rules) for fleet, rules in RULES.items()
    }
    for dataset in FLEETS.values():
        for rule in dataset.rules:
            percent = f"{rule.limit:.1%}".replace(".0%", "%").replace("%", " %")
            assert f"warns above {percent}." in rule.description


# What the database says of its tables


def test_tables_the_view_and_all_columns_are_described(tmp_path: Path) -> None:
    connection = duckdb.connect()
    for fleet in ("yellow", "green"):
        path = tmp_path / f"{fleet}.parquet"
        path.write_bytes(fleet_sample(fleet, "2023-02"))
        load_month(connection, "2023-02", path, dataset=FLEETS.get(fleet, YELLOW))
    described = {
        "trips": (YELLOW.comment, {column.name: column.description for column in YELLOW.columns}),
        "fleet_trips": (FLEETS["fhv"].comment, {column.name: column.description for column in FLEETS["fhv"].columns}),
        "all_trips": (ALL_TRIPS, ALL_TRIPS_COLUMNS),
    }
    for name, (comment, columns) in described.items():
        found = connection.execute(
            "SELECT comment FROM duckdb_tables() WHERE table_name = $1 "
            "UNION ALL SELECT comment FROM duckdb_views() WHERE view_name = $1",
            [name],
        ).fetchall()
        assert found == [(comment,)]
        found = connection.execute(
            "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index", [name]
        ).fetchall()
        assert found == list(columns.items())
        assert all(len(text) > 4 for text in columns.values())


def test_fleets_that_share_the_table_have_its_columns() -> None:
    shared = [[(column.name, column.type, column.description) for column in fleet.columns] for fleet in FLEETS.values()]
    assert shared[0] == shared[1] == shared[2]
