"""The view `trip_details`: every trip once, with the zones of both ends, in databases of any age and after every load."""

import csv
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pyarrow.parquet as pq
import pytest

from dagster_essentials.assets.trips import taxi_trips
from dagster_essentials.datasets.views import TRIP_DETAILS
from dagster_essentials.datasets.yellow import COLUMNS
from dagster_essentials.datasets.zones import read_zones
from dagster_essentials.datasets.zones_table import replace_zones
from dagster_essentials.ingestion.sql import literal
from dagster_essentials.sample import write_month, write_zones
from dagster_essentials_tests.runs.test_existing_databases import ADDED_COLUMNS, COURSE_COLUMNS
from dagster_essentials_tests.support.faults.files import zeroed_pages
from dagster_essentials_tests.support.faults.samples import sample
from dagster_essentials_tests.support.loaded_trips import (
    REAL_FILES,
    Trip,
    daily,
    load_file,
    load_trips,
    load_zones,
)
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import DISK, REAL_DATA, Project, failure_text, materialize
from dagster_essentials_tests.support.run_results import TRIPS, ZONES, publish
from dagster_essentials_tests.support.source_server import SourceServer

pytestmark = pytest.mark.slow

ZONE_COLUMNS = ["pickup_zone", "pickup_borough", "dropoff_zone", "dropoff_borough"]


def columns(project: Project, table: str) -> list[str]:
    return [str(name) for name, *_ in project.query(f"DESCRIBE {table}")]


def views(project: Project) -> list[tuple[Any, ...]]:
    return project.query(
        "SELECT view_name FROM duckdb_views() WHERE NOT internal "
        "AND view_name NOT IN ('all_trips', 'all_trip_details', 'month_quality')"
    )


def assert_complete(project: Project) -> None:
    """The view has the columns and rows of `trips`, and the columns of the zones."""
    assert columns(project, "trip_details") == [*columns(project, "trips"), *ZONE_COLUMNS]
    assert project.query(
        f"SELECT * EXCLUDE ({', '.join(ZONE_COLUMNS)}) FROM trip_details ORDER BY ALL"
    ) == project.query("FROM trips ORDER BY ALL")


@pytest.mark.parametrize("first", ["trips", "zones"])
def test_the_view_exists_once_both_tables_do(first: str, project: Project) -> None:
    file = write_month(project.folder, "2023-01", 100)
    for table in ("trips", "zones") if first == "trips" else ("zones", "trips"):
        if project.database.exists():
            assert views(project) == []
        if table == "trips":
            load_file(project, "2023-01", file)
        else:
            load_zones(project)
    assert_complete(project)


def test_each_end_has_its_own_zone_and_trips_without_a_zone_are_kept(project: Project) -> None:
    load_zones(project)
    pickups = [100, 57, 103, 105, 264, 265, 9999, None]
    load_trips(project, "2023-01", [Trip(f"2023-01-01T0{hour}:00:00", zone) for hour, zone in enumerate(pickups)])
    assert_complete(project)
    found = project.query(
        "SELECT pickup_zone_id, pickup_zone, pickup_borough FROM trip_details ORDER BY pickup_datetime"
    )
    assert found == [
        (100, "Zone 100", "Manhattan"),
        (57, "Zone 56", "Manhattan"),
        (103, "Zone 103", "Manhattan"),
        (105, "Zone 103", "Manhattan"),
        (264, "Unknown", "Unknown"),
        (265, "Outside of NYC", "Outside of NYC"),
        (9999, None, None),
        (None, None, None),
    ]
    ends = project.query("SELECT dropoff_zone_id, dropoff_zone, dropoff_borough FROM trip_details")
    with open(project.folder / "source" / "taxi_zones.csv", newline="") as file:
        names = {int(row["OBJECTID"]): (row["zone"], row["borough"]) for row in csv.DictReader(file)}
    assert len({zone for zone, *_ in ends}) > 5
    assert [(zone, *names[zone]) for zone, *_ in ends if zone < 264] == [end for end in ends if end[0] < 264]


def test_real_trips_by_the_boroughs_of_both_ends_are_those_of_the_files(real: Project) -> None:
    csv.field_size_limit(1 << 24)
    with open(REAL_DATA / "taxi_zones.csv", newline="", encoding="utf-8") as file:
        borough = {int(row["OBJECTID"]): row["borough"] for row in csv.DictReader(file)}
    borough |= {264: "Unknown", 265: "Outside of NYC"}
    expected: Counter[tuple[str, str]] = Counter()
    for month in REAL_FILES:
        ends = pq.read_table(month, columns=["PULocationID", "DOLocationID"]).to_pydict()
        expected.update(
            (borough[pickup], borough[dropoff])
            for pickup, dropoff in zip(ends["PULocationID"], ends["DOLocationID"], strict=True)
        )
    found = real.query("SELECT pickup_borough, dropoff_borough, count(*) FROM trip_details GROUP BY ALL")
    assert {(pickup, dropoff): trips for pickup, dropoff, trips in found} == expected


@pytest.fixture
def course(project: Project) -> Project:
    """A database that the course's code has made: 11 columns, and a row of `zones` for each row of the CSV."""
    zones = write_zones(project.folder / "source" / "taxi_zones.csv")
    project.database.parent.mkdir()
    with duckdb.connect(str(project.database)) as connection:
        connection.execute(f"CREATE TABLE trips ({COURSE_COLUMNS})")
        connection.execute(
            "INSERT INTO trips SELECT 1, [56, 103, 57, 200][1 + range % 4], 103, 1.0, 2, TIMESTAMP '2022-12-05', "
            "TIMESTAMP '2022-12-04', 1.5, NULL, 12.5 + range, '2022-12' FROM range(40)"
        )
        connection.execute(
            "CREATE TABLE zones AS SELECT LocationID AS zone_id, zone, borough, the_geom AS geometry "
            f"FROM read_csv('{zones}')"
        )
    return project


def test_the_rows_of_the_courses_zones_that_repeat_an_id_double_no_trip(course: Project) -> None:
    assert course.query("SELECT count(*) FROM zones WHERE zone_id = 103") == [(3,)]
    load_file(course, "2023-01", write_month(course.folder, "2023-01", 1000))
    assert_complete(course)
    december = (
        "SELECT pickup_zone, count(*) FROM trip_details WHERE partition_date = '2022-12' GROUP BY ALL ORDER BY ALL"
    )
    assert course.query(december) == [("Zone 103", 10), ("Zone 200", 10), ("Zone 56", 10), (None, 10)]
    load_zones(course)
    assert_complete(course)
    assert course.query(december) == [("Zone 103", 10), ("Zone 200", 10), ("Zone 56", 20)]


def test_zones_that_are_loaded_before_the_courses_trips_are_upgraded(course: Project) -> None:
    load_zones(course)
    assert_complete(course)
    assert len(columns(course, "trips")) == 11
    load_file(course, "2023-01", write_month(course.folder, "2023-01", 100))
    assert_complete(course)
    assert columns(course, "trips") == [column.name for column in COLUMNS]


def test_a_load_that_fails_leaves_no_view(course: Project, instance: dg.DagsterInstance) -> None:
    course.file("2023-01").parent.mkdir()
    course.file("2023-01").write_bytes(zeroed_pages(sample("2023-01")))
    assert not materialize(course, instance, [taxi_trips], "2023-01").success
    assert views(course) == []


def test_a_load_replaces_the_view_of_an_earlier_release(project: Project) -> None:
    load_zones(project)
    load_trips(project, "2023-01", daily("2023-01-01", "2023-01-31"))
    with project.connect() as tables:
        tables.execute("CREATE OR REPLACE VIEW trip_details AS SELECT vendor_id FROM trips")
        # The comment has been the same in all releases, and says whose view it is.
        tables.execute(f"COMMENT ON VIEW trip_details IS {literal(TRIP_DETAILS)}")
        for column in ADDED_COLUMNS.split(", ")[5:]:
            tables.execute(f"ALTER TABLE trips DROP COLUMN {column.split()[0]}")
    load_trips(project, "2023-02", daily("2023-02-01", "2023-02-28"))
    assert_complete(project)


def test_between_two_loads_both_tables_can_be_changed_under_the_view(project: Project) -> None:
    load_zones(project)
    load_trips(project, "2023-01", daily("2023-01-01", "2023-01-31"))
    with project.connect() as tables:
        tables.execute("ALTER TABLE trips ADD COLUMN mine INTEGER DEFAULT 7")
    assert_complete(project)
    assert project.query("SELECT DISTINCT mine FROM trip_details") == [(7,)]
    load_zones(project)
    load_trips(project, "2023-02", daily("2023-02-01", "2023-02-28"))
    assert_complete(project)


@pytest.mark.parametrize(
    "theirs", ["TABLE trip_details AS SELECT 42 AS answer", "VIEW trip_details AS SELECT 42 AS answer"]
)
def test_a_table_or_view_of_that_name_is_not_replaced_and_the_error_says_so(
    theirs: str, project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    load_trips(project, "2023-01", daily("2023-01-01", "2023-01-31"))
    source_server.files["/taxi_zones.csv"] = write_zones(project.folder / "source" / "zones.csv").read_bytes()
    publish(source_server, "2023-02", sample("2023-02"))
    with project.connect() as tables:
        tables.execute(f"CREATE {theirs}")
        tables.execute("CREATE TABLE zones AS SELECT 100 AS zone_id, 'East Village' AS zone, 'Manhattan' AS borough")
    for assets, month in ((ZONES, None), (TRIPS, "2023-02")):
        result = materialize(project, instance, assets, month)
        assert not result.success
        text = failure_text(result)
        assert f"trip_details in {project.database} was made by something else" in text
        assert "Rename or drop it, and materialize again." in text
    assert project.query("FROM trip_details") == [(42,)]
    assert project.query("SELECT count(*) FROM zones") == [(1,)]
    assert project.rows() == {"2023-01": 31}
    with project.connect() as tables:
        tables.execute(f"ALTER {theirs.split()[0]} trip_details RENAME TO my_details")
    assert materialize(project, instance, TRIPS, "2023-02").success
    assert_complete(project)


def test_tables_of_others_are_no_reason_for_a_load_to_fail(project: Project, instance: dg.DagsterInstance) -> None:
    project.database.parent.mkdir()
    with project.connect() as tables:
        tables.execute("CREATE TABLE zones AS SELECT 1 AS zone_id, 'Newark Airport' AS zone")
    load_trips(project, "2023-01", daily("2023-01-01", "2023-01-31"))
    assert views(project) == []
    with project.connect() as tables:
        tables.execute("DROP TABLE trips")
        tables.execute("CREATE TABLE trips AS SELECT 1 AS trip")
    load_zones(project)
    assert views(project) == []


def test_a_copy_and_a_database_that_was_not_closed_have_the_view(course: Project, tmp_path: Path) -> None:
    """One transaction holds the upgrade, the comments, the view and the rows; DuckDB replays it from its log."""
    file = write_month(course.folder, "2023-01", 1000)
    zones = read_zones(course.folder / "source" / "taxi_zones.csv", DISK)
    copies = [tmp_path / name for name in ("killed", "closed")]
    for copy in copies:
        copy.mkdir()
    with course.connect() as tables:
        tables.execute("SET wal_autocheckpoint = '1GB'")
        load_month(tables, "2023-01", file)
        replace_zones(tables, zones)
        load_month(tables, "2023-01", file)
        for name in ("data.duckdb", "data.duckdb.wal"):
            shutil.copy(course.database.parent / name, copies[0] / name)
    shutil.copy(course.database, copies[1])
    assert not (course.database.parent / "data.duckdb.wal").exists()
    assert_complete(course)
    expected = course.query("FROM trip_details ORDER BY ALL")
    described = "SELECT table_name, column_name, comment FROM duckdb_columns() ORDER BY ALL"
    for copy in copies:
        with duckdb.connect(str(copy / "data.duckdb"), read_only=copy.name == "closed") as connection:
            assert connection.execute("FROM trip_details ORDER BY ALL").fetchall() == expected
            assert connection.execute(described).fetchall() == course.query(described)
