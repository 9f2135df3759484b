"""A database in which somebody keeps things of their own: other schemas, views, macros, indexes, columns, constraints.

Where they do not touch the tables of this project, every table and report is as without them. Where they are in the way, the
message names them, and never blames the file of a month.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dagster_essentials.datasets.yellow import COLUMNS
from dagster_essentials.datasets.zones import read_zones
from dagster_essentials.datasets.zones_table import replace_zones
from dagster_essentials.errors import DatabaseUnusableError, PipelineError, QueryError
from dagster_essentials.reports.fleets import replace_trips_by_fleet
from dagster_essentials.reports.manhattan import write_manhattan_stats
from dagster_essentials.reports.requests import Request, answer_request
from dagster_essentials.reports.weekly import find_loaded_months, upsert_weeks
from dagster_essentials.sample import write_zones
from dagster_essentials.warehouse.file import file_tables
from dagster_essentials.warehouse.tables import Tables
from dagster_essentials_tests.support.faults.samples import sample
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import DISK

pytestmark = [pytest.mark.slow, pytest.mark.duckdb]

REQUEST = Request("january.json", "Manhattan", "2023-01-01", "2023-02-01")
WEEKS = ["2023-01-08", "2023-01-15"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two months, a correction of the first one, and the zones."""
    folder = tmp_path_factory.mktemp("source")
    for name, month, rows in [("first", "2023-01", 310), ("2023-01", "2023-01", 300), ("2023-02", "2023-02", 300)]:
        (folder / f"{name}.parquet").write_bytes(sample(month, rows))
    write_zones(folder / "zones.csv")
    return folder


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Tables]:
    with file_tables(tmp_path / "data.duckdb", {}, wait_seconds=0, log=print) as tables:
        yield tables


def load_first_month(tables: Tables, source: Path) -> None:
    load_month(tables, "2023-01", source / "first.parquet")
    replace_zones(tables, read_zones(source / "zones.csv", DISK))


def use_everything(tables: Tables, source: Path, folder: Path) -> Mapping[str, Any]:
    """Replace a month, load another one and the zones, make every report, and return all that is then in tables and reports."""
    load_month(tables, "2023-01", source / "2023-01.parquet")
    load_month(tables, "2023-02", source / "2023-02.parquet")
    replace_zones(tables, read_zones(source / "zones.csv", DISK))
    assert find_loaded_months(tables) == ["2023-01", "2023-02"]
    upsert_weeks(tables, WEEKS, folder / "weeks.csv", DISK)
    write_manhattan_stats(tables, folder / "stats.geojson", DISK)
    fleets = replace_trips_by_fleet(tables, [], folder / "fleets.csv", folder / "fleets.png", DISK)
    columns = ", ".join(column.name for column in COLUMNS)
    queries = {
        "trips": f"SELECT {columns} FROM main.trips",
        "zones": "SELECT zone_id, zone, borough, geometry FROM main.zones",
        "trip_details": "SELECT partition_date, pickup_zone, dropoff_borough, total_amount FROM main.trip_details",
        "all_trips": "FROM main.all_trips",
        "trips_by_day": "FROM main.trips_by_day",
        "pickups_by_zone": "FROM main.pickups_by_zone",
        "trips_by_week": "FROM main.trips_by_week",
        "trips_by_fleet": "FROM main.trips_by_fleet",
        "month_versions": "SELECT fleet, month, num_trips, total_amount, violations FROM main.month_versions WHERE version = 1",
    }
    return {
        **{name: tables.connection.execute(f"{sql} ORDER BY ALL").fetchall() for name, sql in queries.items()},
        "weeks.csv": (folder / "weeks.csv").read_bytes(),
        "stats.geojson": (folder / "stats.geojson").read_bytes(),
        "fleets": fleets.months,
        "answer": answer_request(tables, REQUEST).trips,
    }


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What `use_everything` returns with nothing else in the database."""
    folder = tmp_path_factory.mktemp("alone")
    with file_tables(folder / "data.duckdb", {}, wait_seconds=0, log=print) as tables:
        found = use_everything(tables, source, folder)
    assert len(found["trips"]) == len(found["trip_details"]) == 600
    return found


# What does not matter

NAMES = (
    *("trips", "zones", "trip_details", "all_trips", "all_trip_details", "fleet_trips", "month_versions"),
    *("trips_by_day", "pickups_by_zone", "trips_by_week", "trips_by_fleet"),
)
SHADOWED = ("trunc(a)", "round(a, b)", "fsum(a)", "isfinite(a)", "strlen(a)", "error(a)", "hour(a)")
INDEPENDENT = {
    "tables in another schema": "CREATE SCHEMA my;"
    + "".join(f"CREATE TABLE my.{name} AS SELECT 1 AS x;" for name in NAMES),
    "views in another schema": "CREATE SCHEMA my;"
    + "".join(f"CREATE VIEW my.{name} AS SELECT 1 AS x;" for name in NAMES),
    "copies with the same columns in another schema": "CREATE SCHEMA my;"
    "CREATE TABLE my.zones AS SELECT 1 AS zone_id, 'a' AS zone, 'b' AS borough;"
    "CREATE TABLE my.trips AS SELECT 1 AS pickup_zone_id, 2 AS dropoff_zone_id, 'x' AS partition_date",
    "tables in an attached database": "ATTACH ':memory:' AS other;"
    + "".join(f"CREATE TABLE other.{name} AS SELECT 1 AS x;" for name in NAMES),
    "schemas with the names of tables": "CREATE SCHEMA trips; CREATE TABLE trips.vendor_id AS SELECT 1 AS x; CREATE SCHEMA zones",
    "macros with the names of functions in another schema": "CREATE SCHEMA my;"
    + "".join(f"CREATE MACRO my.{signature} AS 42;" for signature in SHADOWED),
    "macros": "CREATE MACRO mine(a) AS 2 * a; CREATE MACRO trips() AS TABLE SELECT 1 AS x",
    "a sequence and a type with the names of tables": "CREATE SEQUENCE trips; CREATE TYPE zones AS ENUM ('a')",
    "tables of other names": "CREATE TABLE mine AS SELECT 1 AS partition_date; CREATE INDEX zones ON mine (partition_date)",
}
DEPENDENT = {
    "indexes": "CREATE INDEX i ON trips (pickup_datetime); CREATE UNIQUE INDEX zone_ids ON zones (zone_id)",
    "columns": "ALTER TABLE trips ADD COLUMN mine INTEGER DEFAULT 7; ALTER TABLE zones ADD COLUMN note VARCHAR;"
    "ALTER TABLE trips_by_day ADD COLUMN holiday BOOLEAN",
    "constraints that hold": "ALTER TABLE trips ALTER partition_date SET NOT NULL; ALTER TABLE zones ALTER zone SET NOT NULL",
    "views and models": "CREATE VIEW mine AS SELECT * FROM trips JOIN zones ON zone_id = pickup_zone_id; CREATE SCHEMA marts;"
    "CREATE TABLE marts.trips AS SELECT * FROM main.trips; CREATE VIEW marts.zones AS SELECT * FROM main.zones",
    "wider types": "ALTER TABLE trips ALTER vendor_id TYPE BIGINT",
    "names in another case": "DROP VIEW trip_details; DROP VIEW all_trips; DROP VIEW all_trip_details;"
    "ALTER TABLE trips RENAME TO x; ALTER TABLE x RENAME TO Trips; ALTER TABLE Trips RENAME vendor_id TO x;"
    "ALTER TABLE Trips RENAME x TO VENDOR_ID;"
    "ALTER TABLE zones RENAME TO x; ALTER TABLE x RENAME TO ZONES; ALTER TABLE ZONES RENAME zone_id TO x;"
    "ALTER TABLE ZONES RENAME x TO Zone_Id; ALTER TABLE month_versions RENAME TO x; ALTER TABLE x RENAME TO Month_Versions",
    "comments": "COMMENT ON TABLE trips IS 'mine'; COMMENT ON VIEW trip_details IS NULL",
}


@pytest.mark.parametrize("when", ["before the first month", "after it"])
def test_what_is_not_of_this_project_does_not_matter(
    when: str, tables: Tables, source: Path, tmp_path: Path, expected: Mapping[str, Any]
) -> None:
    if when == "after it":
        load_first_month(tables, source)
        tables.execute("DELETE FROM trips; DELETE FROM month_versions")
    for number, statements in enumerate(INDEPENDENT.values()):
        tables.execute(re.sub(r"\bmy\b", f"my_{number}", statements))

    assert use_everything(tables, source, tmp_path) == expected


@pytest.mark.parametrize("what", DEPENDENT)
def test_what_somebody_adds_to_the_tables_stays_and_does_not_matter(
    what: str, tables: Tables, source: Path, tmp_path: Path, expected: Mapping[str, Any]
) -> None:
    load_first_month(tables, source)
    tables.execute("DELETE FROM trips; DELETE FROM month_versions")
    tables.execute(DEPENDENT[what])
    before = catalog(tables)

    assert {
        name: rows for name, rows in use_everything(tables, source, tmp_path).items() if name != "trips_by_day"
    } == {name: rows for name, rows in expected.items() if name != "trips_by_day"}

    assert before.items() <= catalog(tables).items()


def catalog(tables: Tables) -> dict[tuple[str, ...], str]:
    """Columns, constraints and indexes with their types and definitions."""
    found = tables.execute(
        "SELECT 'column', schema_name, table_name, column_name, data_type || is_nullable FROM duckdb_columns() "
        "WHERE table_name IN (SELECT table_name FROM duckdb_tables()) "
        "UNION ALL SELECT 'index', schema_name, table_name, index_name, sql FROM duckdb_indexes()"
    ).fetchall()
    return {tuple(key): definition for *key, definition in found}


# What is in the way

DROPPED_VIEWS = "DROP VIEW trip_details; DROP VIEW all_trips; DROP VIEW all_trip_details;"
A_VIEW = "in .*data.duckdb is a view, and this project has a table of that name. Nothing was changed in it. Rename or drop it"
SOMETHING_ELSE = "so it was made by something else.*Rename or drop it"
THE_DATABASE = r"The file can be read: the cause is in .*data\.duckdb, where somebody may have changed the table trips"

Action = Callable[[Tables, Path], object]


def load(tables: Tables, source: Path) -> None:
    load_month(tables, "2023-02", source / "2023-02.parquet")


def write_to_zones(tables: Tables, source: Path) -> None:
    replace_zones(tables, read_zones(source / "zones.csv", DISK))


def aggregate(tables: Tables, source: Path) -> None:
    upsert_weeks(tables, WEEKS, source / "weeks.csv", DISK)


def count_by_fleet(tables: Tables, source: Path) -> None:
    replace_trips_by_fleet(tables, [], source / "fleets.csv", source / "fleets.png", DISK)


def instead_of(name: str, made: str) -> str:
    return f"{DROPPED_VIEWS} DROP TABLE {name}; CREATE {made}"


IN_THE_WAY: dict[str, tuple[str, Action, type[PipelineError], str]] = {
    "trips is a view": (
        f"{DROPPED_VIEWS} ALTER TABLE trips RENAME TO base; CREATE VIEW trips AS FROM base",
        load,
        DatabaseUnusableError,
        f"trips {A_VIEW}",
    ),
    "trips is another table": (
        instead_of("trips", "TABLE trips AS SELECT 1 AS x"),
        load,
        DatabaseUnusableError,
        f"the table trips in .* has no column vendor_id, .*{SOMETHING_ELSE}",
    ),
    "an aggregate is a view": (
        instead_of("trips_by_day", "VIEW trips_by_day AS SELECT 1 AS x"),
        load,
        DatabaseUnusableError,
        f"trips_by_day {A_VIEW}",
    ),
    "an aggregate is another table": (
        instead_of("pickups_by_zone", "TABLE pickups_by_zone AS SELECT 1 AS num_trips"),
        load,
        DatabaseUnusableError,
        f"the table pickups_by_zone in .* has no column partition_date, .*{SOMETHING_ELSE}",
    ),
    "an aggregate of a report is another table": (
        instead_of("pickups_by_zone", "TABLE pickups_by_zone AS SELECT 1 AS num_trips"),
        lambda tables, source: find_loaded_months(tables),
        DatabaseUnusableError,
        "the table pickups_by_zone in .* has no column partition_date",
    ),
    "the versions are a view": (
        instead_of("month_versions", "VIEW month_versions AS SELECT 1 AS x"),
        load,
        DatabaseUnusableError,
        f"month_versions {A_VIEW}",
    ),
    "the versions are another table": (
        instead_of("month_versions", "TABLE month_versions AS SELECT '2023-01' AS month"),
        load,
        DatabaseUnusableError,
        f"the table month_versions in .* has no column version, .*{SOMETHING_ELSE}",
    ),
    "trip_details is a table": (
        f"{DROPPED_VIEWS} CREATE TABLE trip_details AS SELECT 1 AS x",
        load,
        DatabaseUnusableError,
        "trip_details in .* was made by something else, and is the name of a view",
    ),
    "trip_details is a view with a comment": (
        f"{DROPPED_VIEWS} CREATE VIEW trip_details AS SELECT 1 AS x; COMMENT ON VIEW trip_details IS 'a model of somebody'",
        load,
        DatabaseUnusableError,
        "trip_details in .* was made by something else",
    ),
    "all_trips is a view": (
        f"{DROPPED_VIEWS} CREATE VIEW all_trips AS SELECT 1 AS x",
        load,
        DatabaseUnusableError,
        "all_trips in .* was made by something else",
    ),
    "zones is a view": (
        instead_of("zones", "VIEW zones AS SELECT 1 AS zone_id"),
        write_to_zones,
        PipelineError,
        "[Rr]ename or drop it",
    ),
    "zones has rows that others refer to": (
        "DROP TABLE zones; CREATE TABLE zones (zone_id INTEGER PRIMARY KEY, zone VARCHAR, borough VARCHAR, geometry VARCHAR);"
        "INSERT INTO zones VALUES (1, 'a', 'b', NULL); CREATE TABLE mine (zone_id INTEGER REFERENCES zones (zone_id));"
        "INSERT INTO mine VALUES (1)",
        write_to_zones,
        QueryError,
        "zones could not be written, and is unchanged: .*foreign key.*rename or drop it",
    ),
    "the weeks are another table": (
        "CREATE TABLE trips_by_week AS SELECT DATE '2023-01-01' AS week",
        aggregate,
        DatabaseUnusableError,
        f"the table trips_by_week in .* has no column period, .*{SOMETHING_ELSE}",
    ),
    "the fleets are a view": (
        "CREATE VIEW trips_by_fleet AS SELECT 1 AS x",
        count_by_fleet,
        DatabaseUnusableError,
        f"trips_by_fleet {A_VIEW}",
    ),
    "a column without a default must have a value": (
        f"{DROPPED_VIEWS} ALTER TABLE trips ADD COLUMN mine INTEGER DEFAULT 1; ALTER TABLE trips ALTER mine SET NOT NULL;"
        "ALTER TABLE trips ALTER mine DROP DEFAULT",
        load,
        QueryError,
        rf"NOT NULL constraint failed: trips\.mine\. {THE_DATABASE}",
    ),
    "a constraint": (
        instead_of(
            "trips",
            f"TABLE trips ({', '.join(f'{column.name} {column.type}' for column in COLUMNS)}, CHECK (total_amount > 1e9))",
        ),
        load,
        QueryError,
        rf"CHECK constraint.*{THE_DATABASE}",
    ),
    "a unique index": (
        "DELETE FROM trips; CREATE UNIQUE INDEX mine ON trips (vendor_id)",
        load,
        QueryError,
        rf"[Dd]uplicate key.*{THE_DATABASE}",
    ),
    "a narrower type": (
        instead_of(
            "trips",
            f"TABLE trips ({', '.join(f'{column.name} {column.type}' for column in COLUMNS)});"
            "ALTER TABLE trips ALTER pickup_zone_id TYPE TINYINT",
        ),
        load,
        QueryError,
        rf"INT8.*{THE_DATABASE}",
    ),
    "a macro with the name of a function": (
        "CREATE MACRO strlen(a) AS 1000",
        load,
        QueryError,
        f"a text of more than 100 bytes. {THE_DATABASE}",
    ),
    "a macro with other parameters": (
        "CREATE MACRO isfinite(a, b) AS true",
        load,
        QueryError,
        f"isfinite.*{THE_DATABASE}",
    ),
}


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_is_in_the_way_is_named_and_nothing_is_changed(what: str, tables: Tables, source: Path) -> None:
    made, action, error, message = IN_THE_WAY[what]
    load_first_month(tables, source)
    tables.execute(made)
    before = contents(tables)

    with pytest.raises(error, match=f"(?s){message}") as raised:
        action(tables, source)

    assert "Delete the file" not in str(raised.value)
    assert contents(tables) == before


def contents(tables: Tables) -> dict[str, object]:
    """The rows of every table, and the statement of every view."""
    names = tables.execute("SELECT table_name FROM duckdb_tables()").fetchall()
    rows: dict[str, object] = {name: tables.execute(f"FROM {name} ORDER BY ALL").fetchall() for (name,) in names}
    return rows | dict(tables.execute("SELECT view_name, sql FROM duckdb_views() WHERE NOT internal").fetchall())


def test_a_file_that_cannot_be_read_is_still_blamed(tables: Tables, tmp_path: Path) -> None:
    good = sample("2023-01")
    path = tmp_path / "month.parquet"
    # The footer is complete, and the pages are gone.
    path.write_bytes(good[:4] + bytes(len(good) // 4) + good[4 + len(good) // 4 :])
    with pytest.raises(QueryError, match="Delete the file, and materialize taxi_trips_file and taxi_trips again"):
        load_month(tables, "2023-01", path)
