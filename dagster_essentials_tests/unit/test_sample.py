"""Sample months: the schemas of the published ones, reproducible rows, and glitches at real rates."""

import csv
import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dagster_essentials.datasets.zones import read_zones
from dagster_essentials.sample import write_month, write_zones
from dagster_essentials_tests.support.project import DISK, NO_REAL_DATA, REAL_DATA, REAL_MONTHS, ROOT
from dagster_essentials_tests.unit.test_column_mapping import SCHEMAS


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """The result of `sql`, in which the file at `path` is the table `trips`."""
    with duckdb.connect() as connection:
        connection.read_parquet(str(path)).create_view("trips")
        return connection.execute(sql).fetchall()


def count(path: Path, condition: str) -> int:
    return int(query(path, f"SELECT count_if({condition}) FROM trips")[0][0])


@pytest.mark.parametrize("month", SCHEMAS)
def test_a_month_has_the_columns_and_types_of_the_published_one(month: str, tmp_path: Path) -> None:
    path = write_month(tmp_path, month, 50)
    nulls = [name for name, type_ in SCHEMAS[month].items() if pa.types.is_null(type_)]
    # Null-typed columns of the published files are physically INT32.
    expected = [(name, pa.int32() if name in nulls else type_) for name, type_ in SCHEMAS[month].items()]
    assert [(field.name, field.type) for field in pq.read_schema(path)] == expected
    schema = pq.read_metadata(path).schema
    assert {schema.column(schema.names.index(name)).physical_type for name in nulls} <= {"INT32"}
    assert [name for name in nulls if count(path, f"{name} IS NOT NULL")] == []


@pytest.mark.parametrize("month", REAL_MONTHS)
def test_a_month_has_the_column_names_of_the_published_file(month: str, tmp_path: Path) -> None:
    published = REAL_DATA / "trip-data" / f"yellow_tripdata_{month}.parquet"
    if not published.exists():
        pytest.skip(NO_REAL_DATA)
    assert pq.read_metadata(write_month(tmp_path, month, 1)).schema.names == pq.read_metadata(published).schema.names


@pytest.mark.parametrize("rows", [1, 2, 1000, 12_345])
def test_a_month_has_the_requested_number_of_trips(rows: int, tmp_path: Path) -> None:
    path = write_month(tmp_path, "2024-02", rows)
    assert pq.read_metadata(path).num_rows == rows
    assert query(path, "SELECT count(*) FROM trips") == [(rows,)]


def test_a_month_is_written_to_a_new_folder_under_the_name_of_the_published_file(tmp_path: Path) -> None:
    path = write_month(tmp_path / "source" / "trip-data", "2023-01", 1)
    assert path == tmp_path / "source" / "trip-data" / "yellow_tripdata_2023-01.parquet"
    assert list((tmp_path / "source" / "trip-data").iterdir()) == [path]


def test_the_same_month_has_the_same_trips_every_time(tmp_path: Path) -> None:
    once, again = (query(write_month(tmp_path / name, "2026-07", 3000), "FROM trips") for name in ("once", "again"))
    assert once == again
    assert len(set(once)) == 3000


def test_another_month_has_other_trips(tmp_path: Path) -> None:
    sql = "SELECT trip_distance, total_amount, PULocationID, DOLocationID FROM trips"
    january, february = (query(write_month(tmp_path, month, 1000), sql) for month in ("2023-01", "2023-02"))
    assert sum(one == other for one, other in zip(january, february, strict=True)) < 10


def test_the_trips_are_those_of_earlier_releases(tmp_path: Path) -> None:
    # Benchmark results can be compared only while the sample months stay the same.
    trips = query(write_month(tmp_path, "2024-01", 1000), "FROM trips")
    assert hashlib.sha256(repr(trips).encode()).hexdigest()[:16] == "967d14605c636586"


@pytest.fixture(scope="module")
def big_months(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("months")
    return {year: write_month(folder, f"{year}-07", ROWS) for year in (2019, 2024, 2026)}


ROWS = 200_000
NEGATIVE = "total_amount < 0"
NO_DISTANCE = "trip_distance = 0"
FLEX = "payment_type = 0"


@pytest.mark.parametrize(
    ("year", "glitch", "percent"),
    [
        (2019, NEGATIVE, 0.2),
        (2024, NEGATIVE, 1.8),
        (2026, NEGATIVE, 0.5),
        (2019, NO_DISTANCE, 0.9),
        (2024, NO_DISTANCE, 1.9),
        (2026, NO_DISTANCE, 3.2),
        (2019, FLEX, 0.0),
        (2024, FLEX, 9.9),
        (2026, FLEX, 26.0),
    ],
)
def test_glitches_are_as_frequent_as_in_real_months(
    year: int, glitch: str, percent: float, big_months: dict[int, Path]
) -> None:
    # Chance alone stays within a tenth, except for the rarest glitches.
    expected = ROWS * percent / 100
    assert count(big_months[year], glitch) == pytest.approx(expected, rel=0.1, abs=60)


def test_some_pickups_are_decades_outside_the_month(big_months: dict[int, Path]) -> None:
    for year, path in big_months.items():
        outside = f"tpep_pickup_datetime < DATE '{year}-07-01' OR tpep_pickup_datetime >= DATE '{year}-08-01'"
        assert 80 < count(path, outside) < 220  # 0.07 %: 140
        (years,) = query(path, "SELECT min(year(tpep_pickup_datetime)), max(year(tpep_pickup_datetime)) FROM trips")
        assert years == pytest.approx((2001, 2088), abs=5)


def test_early_2021_has_the_most_trips_outside_the_month(tmp_path: Path) -> None:
    path = write_month(tmp_path, "2021-02", 50_000)
    outside = "tpep_pickup_datetime < DATE '2021-02-01' OR tpep_pickup_datetime >= DATE '2021-03-01'"
    assert count(path, outside) == pytest.approx(50_000 * 0.0047, rel=0.25)


def test_flex_fare_trips_have_five_nulls_and_other_trips_none(big_months: dict[int, Path]) -> None:
    null_columns = ["passenger_count", "RatecodeID", "store_and_fwd_flag", "congestion_surcharge", "airport_fee"]
    for year in (2024, 2026):
        for name in null_columns:
            assert count(big_months[year], f"({name} IS NULL) <> ({FLEX})") == 0, name
        others = [name for name in SCHEMAS["2023-02"] if name.lower() not in map(str.lower, null_columns)]
        assert count(big_months[year], " OR ".join(f"{name} IS NULL" for name in others)) == 0


def test_the_trips_of_vendor_7_and_no_others_have_no_duration(big_months: dict[int, Path]) -> None:
    no_duration = "tpep_pickup_datetime = tpep_dropoff_datetime"
    assert count(big_months[2026], "VendorID = 7") > 1000
    for year, path in big_months.items():
        assert count(path, f"({no_duration}) <> (VendorID = 7)") == 0
        vendors = {vendor for (vendor,) in query(path, "SELECT DISTINCT VendorID FROM trips")}
        assert vendors == {2019: {1, 2}, 2024: {1, 2, 6}, 2026: {1, 2, 6, 7}}[year]


def test_dropoffs_precede_pickups_only_when_the_clocks_go_back(big_months: dict[int, Path], tmp_path: Path) -> None:
    backwards = "tpep_dropoff_datetime < tpep_pickup_datetime"
    assert [count(path, backwards) for path in big_months.values()] == [0, 0, 0]
    path = write_month(tmp_path, "2019-11", 100_000)
    hour = "tpep_pickup_datetime BETWEEN TIMESTAMP '2019-11-03 01:00:00' AND TIMESTAMP '2019-11-03 01:59:59'"
    assert 0 < count(path, backwards) == count(path, f"{backwards} AND {hour}") < count(path, hour) / 2


def test_zone_ids_are_those_of_the_city_and_the_two_unknown_ones(big_months: dict[int, Path]) -> None:
    for path in big_months.values():
        for name in ("PULocationID", "DOLocationID"):
            assert query(path, f"SELECT min({name}), max({name}), count(DISTINCT {name}) FROM trips") == [(1, 265, 265)]


def test_the_total_amount_is_the_sum_of_all_charges(big_months: dict[int, Path]) -> None:
    charges = ["fare_amount", "extra", "mta_tax", "tip_amount", "tolls_amount"]
    fees = ["improvement_surcharge", "congestion_surcharge", "airport_fee"]
    for year, path in big_months.items():
        parts = [*charges, *fees, *(["cbd_congestion_fee"] if year >= 2025 else [])]
        total = " + ".join(f"coalesce({name}, 0)" for name in parts)
        assert count(path, f"abs(total_amount - ({total})) > 0.011") == 0


@pytest.mark.parametrize("month", ["2008-12", "2027-01", "1999-12"])
def test_months_that_were_never_published_are_refused(month: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"from 2009-01 to 2026-12; {month} is not one of them"):
        write_month(tmp_path, month, 1)
    assert list(tmp_path.iterdir()) == []


def test_the_first_and_the_last_month_can_be_written(tmp_path: Path) -> None:
    for month in ("2009-01", "2026-12"):
        assert pq.read_metadata(write_month(tmp_path, month, 3)).num_rows == 3


def zone_rows(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(1 << 24)
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_zones_have_the_duplicate_ids_of_the_published_ones(tmp_path: Path) -> None:
    rows = zone_rows(write_zones(tmp_path / "source" / "taxi_zones.csv"))
    assert list(rows[0]) == ["OBJECTID", "Shape_Leng", "the_geom", "Shape_Area", "zone", "LocationID", "borough"]
    ids = Counter(int(row["LocationID"]) for row in rows)
    assert ids.total() == 263
    assert set(ids) == set(range(1, 264)) - {57, 104, 105}
    assert {zone: times for zone, times in ids.items() if times > 1} == {56: 2, 103: 3}
    assert len({row["the_geom"] for row in rows}) == 263
    assert [zone.zone_id for zone in read_zones(tmp_path / "source" / "taxi_zones.csv", DISK)] == [*range(1, 266)]


def test_the_zones_are_closed_squares_in_the_area_of_new_york_that_do_not_overlap(tmp_path: Path) -> None:
    cells = set()
    for row in zone_rows(write_zones(tmp_path / "taxi_zones.csv")):
        outline = row["the_geom"].removeprefix("MULTIPOLYGON (((").removesuffix(")))")
        corners = [tuple(map(float, pair.split())) for pair in outline.split(", ")]
        assert corners[0] == corners[-1]
        (west, east), (south, north) = ((min(axis), max(axis)) for axis in zip(*corners, strict=True))
        assert set(corners) == {(west, south), (west, north), (east, north), (east, south)}
        assert (east - west, north - south) == pytest.approx((0.03, 0.03))
        assert -74.3 < west < east < -73.6
        assert 40.4 < south < north < 41
        cells.add((round(west / 0.03, 3) % 1, round(south / 0.03, 3) % 1, west, south))
    # All on one grid, each in a cell of its own.
    assert len({cell[:2] for cell in cells}) == 1
    assert len(cells) == 263


def test_the_zones_have_the_ids_and_boroughs_of_the_published_ones(tmp_path: Path) -> None:
    published = REAL_DATA / "taxi_zones.csv"
    if not published.exists():
        pytest.skip(NO_REAL_DATA)
    sample, real = zone_rows(write_zones(tmp_path / "taxi_zones.csv")), zone_rows(published)
    assert list(sample[0]) == list(real[0])
    for column in ("OBJECTID", "LocationID", "borough"):
        assert Counter(row[column] for row in sample) == Counter(row[column] for row in real)


def test_the_command_writes_the_months_from_start_to_end_and_the_zones(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dagster_essentials.sample", "source", "--start", "2019-11", "--end", "2020-02"]
    result = subprocess.run(
        [*command, "--rows", "7"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), **os.environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "source"
    assert sorted(path.name for path in folder.iterdir()) == ["taxi_zones.csv", "trip-data"]
    files = sorted((folder / "trip-data").iterdir())
    assert [path.name for path in files] == [
        f"yellow_tripdata_{month}.parquet" for month in ("2019-11", "2019-12", "2020-01", "2020-02")
    ]
    assert [pq.read_metadata(path).num_rows for path in files] == [7, 7, 7, 7]
    assert len(zone_rows(folder / "taxi_zones.csv")) == 263
