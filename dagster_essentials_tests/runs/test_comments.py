"""The comments in the database: what the UI shows of tables and columns, kept by every load, written when they differ."""

import re

import dagster as dg
import duckdb
import pytest

from dagster_essentials.assets.metrics import trips_by_week
from dagster_essentials.assets.trips import taxi_trips, taxi_zones
from dagster_essentials.sample import write_month
from dagster_essentials.warehouse.catalog import write_comments
from dagster_essentials.warehouse.tables import Tables, Values
from dagster_essentials_tests.runs.test_existing_databases import ADDED_COLUMNS
from dagster_essentials_tests.runs.test_weekly import aggregate
from dagster_essentials_tests.support.faults.files import zeroed_pages
from dagster_essentials_tests.support.faults.samples import sample
from dagster_essentials_tests.support.loaded_trips import daily, load_trips, load_zones
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import FILE_AND_LAKE, Project, materialize

pytestmark = pytest.mark.slow

COMMENTS_OF = (
    "SELECT comment FROM duckdb_tables() WHERE table_name = $1 "
    "UNION ALL SELECT comment FROM duckdb_views() WHERE view_name = $1"
)


def comments(project: Project, table: str) -> dict[str, str | None]:
    """The comment on each column of `table`, and as "" that on the table itself."""
    ((own,),) = project.query(COMMENTS_OF, table)
    columns = project.query("SELECT column_name, comment FROM duckdb_columns() WHERE table_name = ?", table)
    return {"": own, **dict(columns)}


def shown(asset: dg.AssetsDefinition) -> dict[str, str | None]:
    """The columns of `asset` and their descriptions in the UI."""
    schema = asset.metadata_by_key[asset.key]["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    return {column.name: column.description for column in schema.columns}


TABLES = {"trips": taxi_trips, "zones": taxi_zones, "trips_by_week": trips_by_week}


def test_tables_and_columns_say_what_the_ui_shows(project: Project, instance: dg.DagsterInstance) -> None:
    for _ in range(2):
        # The second time, the zones are replaced, the month is loaded again, and the week aggregated again.
        load_zones(project)
        load_trips(project, "2023-01", daily("2023-01-01", "2023-01-31"))
        assert aggregate(project, instance, "2023-01-08").success
        for table, asset in TABLES.items():
            found = comments(project, table)
            assert len(found.pop("") or "") > 50
            assert found == shown(asset)
            assert None not in found.values()
    details = comments(project, "trip_details")
    assert None not in details.values()
    assert {name: details[name] for name in shown(taxi_trips)} == shown(taxi_trips)


@FILE_AND_LAKE
def test_comments_of_earlier_releases_are_replaced_and_other_columns_keep_theirs(project: Project) -> None:
    load_trips(project, "2023-01", daily("2023-01-01", "2023-01-31"))
    before = comments(project, "trips")
    with project.connect() as tables:
        tables.execute("COMMENT ON TABLE trips IS 'as it was'")
        tables.execute("COMMENT ON COLUMN trips.vendor_id IS 'as it was'")
        tables.execute("COMMENT ON COLUMN trips.tip_amount IS NULL")
        tables.execute("ALTER TABLE trips ADD COLUMN mine INTEGER")
        tables.execute("COMMENT ON COLUMN trips.mine IS 'my own'")
    load_trips(project, "2023-02", daily("2023-02-01", "2023-02-28"))
    assert comments(project, "trips") == {**before, "mine": "my own"}


def test_columns_that_a_load_adds_have_comments_in_the_view_too(project: Project) -> None:
    load_zones(project)
    load_trips(project, "2023-01", daily("2023-01-01", "2023-01-31"))
    before = comments(project, "trip_details")
    with project.connect() as tables:
        for name in ("fare_amount", "request_source"):
            tables.execute(f"ALTER TABLE trips DROP COLUMN {name}")
    load_trips(project, "2023-02", daily("2023-02-01", "2023-02-28"))
    assert comments(project, "trip_details") == before


def test_a_database_of_the_course_has_comments_after_its_next_load_unless_that_fails(
    project: Project, instance: dg.DagsterInstance
) -> None:
    load_trips(project, "2023-01", daily("2023-01-01", "2023-01-31"))
    expected = comments(project, "trips")
    with project.connect() as tables:
        tables.execute("CREATE TABLE course AS SELECT * FROM trips")
        tables.execute("DROP TABLE trips")
        tables.execute("ALTER TABLE course RENAME TO trips")
        for column in ADDED_COLUMNS.split(", "):
            tables.execute(f"ALTER TABLE trips DROP COLUMN {column.split()[0]}")
    none = comments(project, "trips")
    assert set(none.values()) == {None}
    project.file("2023-02").parent.mkdir()
    project.file("2023-02").write_bytes(zeroed_pages(sample("2023-02")))
    assert not materialize(project, instance, [taxi_trips], "2023-02").success
    assert comments(project, "trips") == none
    load_trips(project, "2023-02", daily("2023-02-01", "2023-02-28"))
    assert comments(project, "trips") == expected


class Recorder(Tables):
    """Tables that remember their statements."""

    def __init__(self, connection: duckdb.DuckDBPyConnection):
        super().__init__(connection)
        self.statements: list[str] = []

    def execute(self, sql: str, values: Values | None = None) -> duckdb.DuckDBPyConnection:
        self.statements.append(sql)
        return super().execute(sql, values)

    def descriptions(self) -> list[str]:
        """Those of the statements that write comments or the view."""
        return [text[:40] for text in self.statements if re.match("COMMENT|CREATE (OR REPLACE )?VIEW", text)]


def test_a_load_writes_neither_comments_nor_views_if_they_are_right_already(project: Project) -> None:
    load_zones(project)
    file = write_month(project.folder, "2023-01", 10)
    written: list[list[str]] = []
    for _ in range(3):
        with project.connect() as tables:
            recorder = Recorder(tables.connection)
            load_month(recorder, "2023-01", file, force=True)
            written.append(recorder.descriptions())
    # Each table and each view is described once.
    assert len(written[0]) == len(set(written[0])) > 8
    assert written[1:] == [[], []]


def test_any_text_can_be_a_comment() -> None:
    text = "Driver's; DROP TABLE mine; -- 'quoted' \\' $1 ? é\nand a second line"
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE mine (number INTEGER, other INTEGER)")
        connection.execute("CREATE VIEW shown AS FROM mine")
        for _ in range(2):
            write_comments(Tables(connection), "mine", text, {"number": text, "not there": "ignored"})
            write_comments(Tables(connection), "shown", text, {"other": text}, kind="view")
        found = "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE comment IS NOT NULL ORDER BY ALL"
        assert connection.execute(found).fetchall() == [("mine", "number", text), ("shown", "other", text)]
        assert [connection.execute(COMMENTS_OF, [name]).fetchall() for name in ("mine", "shown")] == [[(text,)]] * 2


def test_comments_are_rolled_back_with_the_transaction() -> None:
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE mine (number INTEGER)")
        connection.execute("BEGIN")
        write_comments(Tables(connection), "mine", "what it is", {"number": "what it counts"})
        connection.execute("ROLLBACK")
        assert connection.execute(COMMENTS_OF, ["mine"]).fetchall() == [(None,)]


def test_every_table_and_column_is_described(project: Project, instance: dg.DagsterInstance) -> None:
    load_trips(project, "2023-01", daily("2023-01-01", "2023-01-31"))
    load_zones(project)
    assert aggregate(project, instance, "2023-01-08").success
    tables = {name for (name,) in project.query("SELECT table_name FROM duckdb_tables()")}
    assert {"month_versions", "quality_rules"} < tables
    assert {"trips", "trips_by_day", "pickups_by_zone", "trips_by_week", "zones"} < tables
    assert project.query("SELECT table_name FROM duckdb_tables() WHERE comment IS NULL") == []
    assert (
        project.query("SELECT table_name, column_name FROM duckdb_columns() WHERE comment IS NULL AND NOT internal")
        == []
    )
