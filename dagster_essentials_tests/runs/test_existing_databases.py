"""Databases that exist already: other files under that name, the course's own database, and tables of other people."""

import csv
from typing import Any

import dagster as dg
import duckdb
import pytest

from dagster_essentials.assets import trips
from dagster_essentials.assets.metrics import manhattan_stats
from dagster_essentials.sample import write_zones
from dagster_essentials_tests.support.faults.files import zeroed_pages
from dagster_essentials_tests.support.faults.samples import query_file, sample
from dagster_essentials_tests.support.project import FILE_AND_LAKE, Project, failure_text, materialize
from dagster_essentials_tests.support.run_results import TRIPS, ZONES, publish
from dagster_essentials_tests.support.source_server import SourceServer

pytestmark = [pytest.mark.slow, pytest.mark.duckdb]


@pytest.mark.parametrize("what", ["text", "a damaged database"])
def test_another_file_under_the_databases_name_is_unchanged(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, what: str
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))
    project.database.parent.mkdir()
    if what == "text":
        project.database.write_text("vendor_id,pickup_zone_id\n1,2\n")
    else:
        with duckdb.connect(str(project.database)) as connection:
            connection.execute("CREATE TABLE mine AS SELECT range AS number FROM range(1000)")
        content = bytearray(project.database.read_bytes())
        for header in (4096, 8192):
            content[header + 20] ^= 1
        project.database.write_bytes(content)
    before = project.database.read_bytes()

    result = materialize(project, instance, TRIPS, "2023-01", wait_seconds=0.2)

    assert not result.success
    text = failure_text(result)
    assert f"2023-01: {project.database} cannot be opened as a DuckDB database (" in text
    assert "move it away" in text
    assert project.database.read_bytes() == before


COURSE_COLUMNS = (
    "vendor_id integer, pickup_zone_id integer, dropoff_zone_id integer, rate_code_id double, payment_type integer, "
    "dropoff_datetime timestamp, pickup_datetime timestamp, trip_distance double, passenger_count double, "
    "total_amount double, partition_date varchar"
)
ADDED_COLUMNS = (
    "fare_amount double, extra double, mta_tax double, tip_amount double, tolls_amount double, "
    "improvement_surcharge double, congestion_surcharge double, airport_fee double, cbd_congestion_fee double, "
    "store_and_fwd_flag varchar, request_source varchar, "
    "pickup_longitude double, pickup_latitude double, dropoff_longitude double, dropoff_latitude double"
)


@pytest.fixture
def course_rows(project: Project) -> list[tuple[Any, ...]]:
    """The rows, of December 2022 and January 2023, of a database that the course's code has made."""
    with project.connect() as tables:
        tables.execute(f"CREATE TABLE trips ({COURSE_COLUMNS})")
        tables.execute(
            "INSERT INTO trips SELECT 1, range, 200, 1.0, 2, TIMESTAMP '2022-12-05' + to_hours(range), "
            "TIMESTAMP '2022-12-04' + to_hours(range), 1.5, NULL, 12.5, if(range < 60, '2022-12', '2023-01') "
            "FROM range(90)"
        )
        tables.execute("CREATE TABLE zones AS SELECT 1 AS zone_id, 'Newark Airport' AS zone")
        return tables.execute("SELECT * FROM trips ORDER BY ALL").fetchall()


def columns(project: Project) -> str:
    return ", ".join(f"{name} {type_.lower()}" for name, type_, *_ in project.query("DESCRIBE trips"))


@FILE_AND_LAKE
def test_the_courses_database_is_upgraded_and_loses_nothing(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, course_rows: list[tuple[Any, ...]]
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))

    assert materialize(project, instance, TRIPS, "2023-01").success

    assert columns(project) == f"{COURSE_COLUMNS}, {ADDED_COLUMNS}"
    assert project.rows() == {"2022-12": 60, "2023-01": 300}
    kept = project.query("SELECT * FROM trips WHERE partition_date = '2022-12' ORDER BY ALL")
    assert [row[:11] for row in kept] == [row for row in course_rows if row[10] == "2022-12"]
    assert {row[11:] for row in kept} == {(None,) * 15}
    loaded = project.query("SELECT sum(fare_amount), sum(total_amount) FROM trips WHERE partition_date = '2023-01'")
    assert loaded == query_file(sample("2023-01"), "SELECT sum(fare_amount), sum(total_amount) FROM month")
    assert project.query("FROM zones") == [(1, "Newark Airport")]


@FILE_AND_LAKE
def test_a_load_that_fails_does_not_upgrade_the_courses_database(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, course_rows: list[tuple[Any, ...]]
) -> None:
    project.file("2023-01").parent.mkdir(parents=True)
    project.file("2023-01").write_bytes(zeroed_pages(sample("2023-01")))

    assert not materialize(project, instance, [trips.taxi_trips], "2023-01").success

    assert columns(project) == COURSE_COLUMNS
    assert project.query("SELECT * FROM trips ORDER BY ALL") == course_rows


def test_a_table_of_trips_without_partition_dates_is_unchanged(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, course_rows: list[tuple[Any, ...]]
) -> None:
    with duckdb.connect(str(project.database)) as connection:
        connection.execute("ALTER TABLE trips DROP COLUMN partition_date")
    for month in ("2023-01", "2023-02"):
        publish(source_server, month, sample(month))
    old_columns = columns(project)

    result = materialize(project, instance, TRIPS, "2023-01", "2023-02")

    assert not result.success
    text = failure_text(result)
    assert "2 of 2 months failed:\n2023-01, 2023-02" in text
    assert str(project.database) in text
    assert "has no column partition_date" in text
    assert "ename or drop it, and materialize again." in text
    assert columns(project) == old_columns
    assert project.query("SELECT * FROM trips ORDER BY ALL") == [row[:10] for row in course_rows]


def test_the_zones_of_earlier_releases_can_be_used_and_are_replaced_by_the_next_load(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    published = write_zones(project.folder / "source" / "taxi_zones.csv")
    source_server.files["/taxi_zones.csv"] = published.read_bytes()
    publish(source_server, "2023-01", sample("2023-01", rows=3000))
    assert materialize(project, instance, TRIPS, "2023-01").success
    # They had one row for each LocationID, with the outlines of all its rows.
    with open(published, newline="") as file:
        rows = list(csv.DictReader(file))
    outlines: dict[int, list[str]] = {}
    for row in rows:
        polygons = row["the_geom"].removeprefix("MULTIPOLYGON (").removesuffix(")")
        outlines.setdefault(int(row["LocationID"]), []).append(polygons)
    first = {int(row["LocationID"]): row for row in reversed(rows)}
    with duckdb.connect(str(project.database)) as connection:
        connection.execute("CREATE TABLE zones (zone_id INTEGER, zone VARCHAR, borough VARCHAR, geometry VARCHAR)")
        connection.executemany(
            "INSERT INTO zones VALUES (?, ?, ?, ?)",
            [
                [zone, first[zone]["zone"], first[zone]["borough"], f"MULTIPOLYGON ({', '.join(polygons)})"]
                for zone, polygons in outlines.items()
            ],
        )
    counts = "SELECT count(*), count(DISTINCT zone_id) FROM zones"
    in_manhattan = (
        "SELECT count(*) FROM trips WHERE pickup_zone_id IN (SELECT zone_id FROM zones WHERE borough = 'Manhattan')"
    )
    assert project.query(counts) == [(260, 260)]
    (before,) = project.query(in_manhattan)

    assert materialize(project, instance, [manhattan_stats]).success
    assert materialize(project, instance, ZONES).success

    assert project.query(counts) == [(265, 265)]
    # All three are in Manhattan in the sample.
    (repaired,) = project.query("SELECT count(*) FROM trips WHERE pickup_zone_id IN (57, 104, 105)")
    assert repaired > (0,)
    assert project.query(in_manhattan) == [(before[0] + repaired[0],)]
    result = materialize(project, instance, [manhattan_stats])
    assert [event.passed for event in result.get_asset_check_evaluations()] == [True, True]
    # The source has not changed since: an unchanged file is loaded again, too.
    assert materialize(project, instance, ZONES).success
    assert project.query(counts) == [(265, 265)]
