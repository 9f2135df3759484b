"""The oracle of the chaos harness accepts a correct warehouse and what a kill may leave, and nothing else."""

import csv
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from PIL import Image

from dagster_essentials.orchestration.partition_run import FAILED
from dagster_essentials.reports.weekly import TRIPS_BY_WEEK
from dagster_essentials.sample import write_zones
from dagster_essentials_tests.chaos.derived_tables import check_derived_tables
from dagster_essentials_tests.chaos.oracle import (
    FILE_ASSET,
    FROM_FILE,
    TABLE_ASSET,
    Oracle,
    read_table,
    version_of,
)
from dagster_essentials_tests.support.faults.samples import rewrite, sample
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import Project, materialize
from dagster_essentials_tests.support.run_results import TRIPS
from dagster_essentials_tests.support.source_server import SourceServer

pytestmark = pytest.mark.slow

MONTHS = ("2023-01", "2023-02")
OLD, NOW, NEXT = (sample("2023-01", rows) for rows in (290, 300, 310))
"""The first version of January at the source, the present one, and one that it may publish next."""
MARCH = sample("2023-03", 320)


@dataclass
class Warehouse:
    """January, in its second version, and February, loaded and recorded; and ways to damage that without Dagster."""

    project: Project
    oracle: Oracle
    tried: set[str] = field(default_factory=set)

    def publish(self, month: str, content: bytes) -> None:
        """Publish a new version, which runs try to load from now on."""
        self.oracle.publish(month, content)
        self.tried.add(month)

    def sql(self, statement: str) -> None:
        with duckdb.connect(str(self.project.database)) as connection:
            connection.execute(statement)

    def load(self, month: str, content: bytes) -> None:
        """Load as a run does that is killed before it records the month."""
        file = self.project.folder / "a month.parquet"
        file.write_bytes(content)
        with duckdb.connect(str(self.project.database)) as connection:
            load_month(connection, month, file)

    def record(self, month: str, content: bytes, asset: dg.AssetKey = TABLE_ASSET) -> None:
        version = version_of(content).sha256 + ("-0123456789abcdef" if asset == TABLE_ASSET else "")
        self._report(dg.AssetMaterialization(asset, partition=f"{month}-01", tags={DATA_VERSION_TAG: version}))

    def record_failure(self, month: str) -> None:
        self._report(dg.AssetObservation(TABLE_ASSET, partition=f"{month}-01", metadata={FAILED: f"{month}: a reason"}))

    def _report(self, event: dg.AssetMaterialization | dg.AssetObservation) -> None:
        with dg.DagsterInstance.from_config(str(self.project.home)) as instance:
            instance.report_runless_asset_event(event)

    def write(self, name: str, content: bytes) -> None:
        path = self.project.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def check(self, killed: bool = False, succeeded: bool = False) -> list[str]:
        """The violations after runs that tried the months for which something new was published."""
        return self.oracle.check(sorted(self.tried), killed, succeeded)


@dataclass
class Kept:
    """The first warehouse, which the others are copies of: to load it and to check it takes half a second each."""

    folder: Path
    oracle: Oracle | None = None


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("warehouse") / "kept")


@pytest.fixture
def warehouse(project: Project, source_server: SourceServer, kept: Kept) -> Warehouse:
    if kept.oracle is None:
        kept.oracle = _load_and_check(project, source_server)
        shutil.copytree(project.folder, kept.folder)
    else:
        shutil.copytree(kept.folder, project.folder, dirs_exist_ok=True)
    return Warehouse(project, replace(deepcopy(kept.oracle), data_dir=project.folder, home=project.home))


def _load_and_check(project: Project, source_server: SourceServer) -> Oracle:
    oracle = Oracle(project.folder, project.home)
    oracle.publish("2023-01", OLD)
    oracle.publish("2023-01", NOW)
    oracle.publish("2023-02", sample("2023-02"))
    project.env()
    source_server.put_month("2023-01", OLD)
    source_server.put_month("2023-02", sample("2023-02"))
    with dg.DagsterInstance.from_config(str(project.home)) as instance:
        assert materialize(project, instance, TRIPS, *MONTHS).success
        source_server.put_month("2023-01", NOW)
        assert materialize(project, instance, TRIPS, "2023-01").success
    assert oracle.check_repaired(MONTHS) == []
    return oracle


# What is correct


@pytest.mark.parametrize("month", ["2011-01", "2011-03", "2019-01", "2023-01", "2023-02", "2025-01", "2026-06"])
def test_every_schema_is_read_as_the_pipeline_loads_it(month: str, tmp_path: Path) -> None:
    content = sample(month)
    (tmp_path / "month.parquet").write_bytes(content)
    with duckdb.connect(str(tmp_path / "data.duckdb")) as connection:
        load_month(connection, month, tmp_path / "month.parquet")
        assert read_table(connection) == {month: version_of(content).digest}


def test_the_order_of_the_rows_does_not_matter() -> None:
    backwards = rewrite(NOW, "FROM month ORDER BY tpep_pickup_datetime DESC")
    assert version_of(backwards).digest == version_of(NOW).digest
    assert version_of(backwards).sha256 != version_of(NOW).sha256


def test_a_database_without_trips_is_read_as_empty() -> None:
    with duckdb.connect() as connection:
        assert read_table(connection) == {}
        connection.execute("CREATE TABLE zones (zone_id INTEGER)")
        assert read_table(connection) == {}


def test_an_empty_warehouse_is_accepted(tmp_path: Path) -> None:
    oracle = Oracle(tmp_path, tmp_path / "home")
    (tmp_path / "home").mkdir()
    oracle.publish("2023-01", NOW)
    assert oracle.check([], killed=False) == []
    assert oracle.check(["2023-01"], killed=True) == []


def test_an_undisturbed_warehouse_is_accepted(warehouse: Warehouse) -> None:
    assert warehouse.oracle.table == {month: warehouse.oracle.current(month) for month in MONTHS}
    assert warehouse.oracle.unrecorded == set()
    assert warehouse.check() == []
    warehouse.tried.update(MONTHS)
    assert warehouse.check(succeeded=True) == []
    assert warehouse.oracle.check_repaired(MONTHS) == []


def test_a_new_version_that_a_run_has_loaded_is_accepted(warehouse: Warehouse, source_server: SourceServer) -> None:
    warehouse.publish("2023-01", NEXT)
    warehouse.publish("2023-03", MARCH)
    source_server.put_month("2023-01", NEXT)
    source_server.put_month("2023-02", sample("2023-02"))
    source_server.put_month("2023-03", MARCH)
    with dg.DagsterInstance.from_config(str(warehouse.project.home)) as instance:
        assert materialize(warehouse.project, instance, TRIPS, "2023-01", "2023-03").success

    assert warehouse.check(succeeded=True) == []
    assert warehouse.oracle.check_repaired([*MONTHS, "2023-03"]) == []


def test_any_version_that_the_source_had_in_the_meantime_is_accepted(warehouse: Warehouse) -> None:
    warehouse.publish("2023-01", NEXT)
    warehouse.publish("2023-01", sample("2023-01", 330))
    warehouse.load("2023-01", NEXT)
    warehouse.record("2023-01", NEXT)
    assert warehouse.check(succeeded=True) == []


# What a kill may leave


def nothing_more(warehouse: Warehouse) -> None:
    """Killed before it did anything."""


def a_file_that_is_newer_than_the_table(warehouse: Warehouse) -> None:
    warehouse.write("raw/taxi_trips_2023-01.parquet", NEXT)


def a_table_that_is_newer_than_the_record(warehouse: Warehouse) -> None:
    warehouse.load("2023-01", NEXT)


def a_new_month_that_is_not_recorded(warehouse: Warehouse) -> None:
    warehouse.load("2023-03", MARCH)


def one_month_of_two(warehouse: Warehouse) -> None:
    warehouse.load("2023-01", NEXT)
    warehouse.record("2023-01", NEXT)


def half_a_download(warehouse: Warehouse) -> None:
    warehouse.write("raw/.taxi_trips_2023-01.parquet.0a1b2c3d.partial", NEXT[:1000])


def a_wal_without_checkpoint(warehouse: Warehouse) -> None:
    """The database and its WAL as they are just before a checkpoint."""
    with duckdb.connect(str(warehouse.project.database)) as connection:
        connection.execute("SET wal_autocheckpoint = '1GB'")
        warehouse.write("month.parquet", NEXT)
        load_month(connection, "2023-01", warehouse.project.folder / "month.parquet")
        for name in ("data.duckdb", "data.duckdb.wal"):
            shutil.copy(warehouse.project.database.with_name(name), warehouse.project.folder / name)
    for name in ("data.duckdb", "data.duckdb.wal"):
        (warehouse.project.folder / name).replace(warehouse.project.database.with_name(name))


AFTER_A_KILL = [
    nothing_more,
    a_file_that_is_newer_than_the_table,
    a_table_that_is_newer_than_the_record,
    a_new_month_that_is_not_recorded,
    one_month_of_two,
    half_a_download,
    a_wal_without_checkpoint,
]


@pytest.mark.parametrize("left", AFTER_A_KILL)
def test_what_a_killed_run_may_leave_is_accepted(warehouse: Warehouse, left: Callable[[Warehouse], None]) -> None:
    warehouse.publish("2023-01", NEXT)
    warehouse.publish("2023-03", MARCH)
    left(warehouse)

    assert warehouse.check(killed=True) == []
    assert warehouse.oracle.check([], killed=False) == [], "and at the next check"


def test_what_a_killed_run_has_loaded_must_be_recorded_by_the_next_one(warehouse: Warehouse) -> None:
    warehouse.publish("2023-01", NEXT)
    warehouse.publish("2023-03", MARCH)
    warehouse.load("2023-01", NEXT)
    warehouse.load("2023-03", MARCH)
    assert warehouse.check(killed=True) == []

    found = warehouse.oracle.check_repaired(["2023-01", "2023-03"])

    assert {f"{month}: the newest version of taxi_trips is not recorded" for month in warehouse.tried} <= set(found)


def test_a_kill_excuses_nothing_after_its_month_was_recorded(warehouse: Warehouse) -> None:
    warehouse.publish("2023-01", NEXT)
    warehouse.load("2023-01", NEXT)
    assert warehouse.check(killed=True) == []
    warehouse.record("2023-01", NEXT)
    assert warehouse.check() == []

    newest = sample("2023-01", 330)
    warehouse.publish("2023-01", newest)
    warehouse.load("2023-01", newest)
    assert warehouse.check() == [UNLIKE_RECORD]


# Violations, after a kill or not

NEVER_HAD = "2023-03: 320 rows of a month that the source never had"


def a_month_with_half_of_its_rows(warehouse: Warehouse) -> None:
    warehouse.sql("DELETE FROM trips WHERE partition_date = '2023-01' AND rowid % 2 = 0")


def a_month_twice(warehouse: Warehouse) -> None:
    warehouse.sql("INSERT INTO trips SELECT * FROM trips WHERE partition_date = '2023-01'")


def one_row_twice(warehouse: Warehouse) -> None:
    warehouse.sql("INSERT INTO trips SELECT * FROM trips WHERE partition_date = '2023-01' LIMIT 1")


def one_row_twice_and_another_missing(warehouse: Warehouse) -> None:
    one_row_twice(warehouse)
    warehouse.sql("DELETE FROM trips WHERE rowid = (SELECT min(rowid) + 1 FROM trips WHERE partition_date = '2023-01')")


def two_rows_with_swapped_fares(warehouse: Warehouse) -> None:
    warehouse.sql(
        """
        WITH found AS (
            SELECT min_by(rowid, fare_amount) AS low, max_by(rowid, fare_amount) AS high,
                min(fare_amount) AS least, max(fare_amount) AS most
            FROM trips WHERE partition_date = '2023-01'
        )
        UPDATE trips SET fare_amount = if(rowid = low, most, least) FROM found WHERE rowid IN (low, high)
        """
    )


def one_value_changed(warehouse: Warehouse) -> None:
    warehouse.sql(
        "UPDATE trips SET tip_amount = tip_amount + 0.01 "
        "WHERE rowid = (SELECT max(rowid) FROM trips WHERE partition_date = '2023-01')"
    )


def nulls_in_the_place_of_zeros(warehouse: Warehouse) -> None:
    warehouse.sql("UPDATE trips SET tolls_amount = NULL WHERE partition_date = '2023-01' AND tolls_amount = 0")


def a_row_moved_to_another_month(warehouse: Warehouse) -> None:
    warehouse.sql(
        "UPDATE trips SET partition_date = '2023-02' "
        "WHERE rowid = (SELECT min(rowid) FROM trips WHERE partition_date = '2023-01')"
    )


def a_missing_month(warehouse: Warehouse) -> None:
    warehouse.sql("DELETE FROM trips WHERE partition_date = '2023-01'")


def a_missing_table(warehouse: Warehouse) -> None:
    warehouse.sql("DROP TABLE trips")


def a_missing_database(warehouse: Warehouse) -> None:
    warehouse.project.database.unlink()


def a_version_that_the_source_never_had(warehouse: Warehouse) -> None:
    warehouse.load("2023-01", sample("2023-01", 333))
    warehouse.record("2023-01", sample("2023-01", 333))


def the_trips_of_another_month(warehouse: Warehouse) -> None:
    # By hand: a load of them is refused.
    warehouse.sql(
        "DELETE FROM trips WHERE partition_date = '2023-01'; INSERT INTO trips BY NAME "
        "SELECT * REPLACE ('2023-01' AS partition_date) FROM trips WHERE partition_date = '2023-02'"
    )


def an_older_version(warehouse: Warehouse) -> None:
    warehouse.load("2023-01", OLD)
    warehouse.record("2023-01", OLD)


def a_record_without_a_table(warehouse: Warehouse) -> None:
    warehouse.publish("2023-03", MARCH)
    warehouse.record("2023-03", MARCH)


def a_record_that_is_newer_than_the_table(warehouse: Warehouse) -> None:
    warehouse.record("2023-01", NEXT)


def a_record_of_a_version_that_the_source_never_had(warehouse: Warehouse) -> None:
    warehouse.record("2023-01", sample("2023-01", 333))


def a_record_of_an_older_version(warehouse: Warehouse) -> None:
    """As if overlapping runs had recorded in another order than they committed; no kill explains it."""
    warehouse.tried.clear()
    warehouse.record("2023-01", OLD)


def a_failure_after_which_the_table_has_changed(warehouse: Warehouse) -> None:
    warehouse.load("2023-01", NEXT)
    warehouse.record_failure("2023-01")


def a_truncated_file_under_its_final_name(warehouse: Warehouse) -> None:
    warehouse.write("raw/taxi_trips_2023-01.parquet", NEXT[:5000])


def an_error_page_under_the_name_of_a_month(warehouse: Warehouse) -> None:
    warehouse.write("raw/taxi_trips_2023-07.parquet", b"<html>")


def the_file_of_another_month(warehouse: Warehouse) -> None:
    warehouse.write("raw/taxi_trips_2023-01.parquet", sample("2023-02"))


NEITHER = "neither the previous version nor one that was tried"
UNLIKE_RECORD = "2023-01: Dagster has recorded another version than the table has"
NO_VERSION = "is not a version that the source ever had"
WRONG: dict[Callable[[Warehouse], None], list[str]] = {
    a_month_with_half_of_its_rows: [f"2023-01: 150 rows, {NEITHER}"],
    a_month_twice: [f"2023-01: 600 rows, {NEITHER}"],
    one_row_twice: [f"2023-01: 301 rows, {NEITHER}"],
    one_row_twice_and_another_missing: [f"2023-01: 300 rows, {NEITHER}"],
    two_rows_with_swapped_fares: [f"2023-01: 300 rows, {NEITHER}"],
    one_value_changed: [f"2023-01: 300 rows, {NEITHER}"],
    nulls_in_the_place_of_zeros: [f"2023-01: 300 rows, {NEITHER}"],
    a_row_moved_to_another_month: [f"2023-01: 299 rows, {NEITHER}", f"2023-02: 301 rows, {NEITHER}"],
    a_missing_month: [f"2023-01: 0 rows, {NEITHER}"],
    a_missing_table: [f"2023-01: 0 rows, {NEITHER}", f"2023-02: 0 rows, {NEITHER}"],
    a_missing_database: [f"2023-01: 0 rows, {NEITHER}", f"2023-02: 0 rows, {NEITHER}"],
    a_version_that_the_source_never_had: [f"2023-01: 333 rows, {NEITHER}"],
    the_trips_of_another_month: [f"2023-01: 300 rows, {NEITHER}"],
    an_older_version: [f"2023-01: 290 rows, {NEITHER}"],
    a_record_without_a_table: ["2023-03: recorded in Dagster, but not in the table"],
    a_record_that_is_newer_than_the_table: [UNLIKE_RECORD],
    a_record_of_a_version_that_the_source_never_had: [UNLIKE_RECORD],
    a_record_of_an_older_version: [UNLIKE_RECORD],
    a_failure_after_which_the_table_has_changed: ["2023-01: recorded as failed, but the table has changed"],
    a_truncated_file_under_its_final_name: [f"2023-01: taxi_trips_2023-01.parquet {NO_VERSION}"],
    an_error_page_under_the_name_of_a_month: [f"2023-07: taxi_trips_2023-07.parquet {NO_VERSION}"],
    the_file_of_another_month: [f"2023-01: taxi_trips_2023-01.parquet {NO_VERSION}"],
}
CONSEQUENCES = [
    f"{month}: {what}"
    for month in MONTHS
    for what in (
        # The rows in the table are no known version, so for the oracle the month is not there.
        "recorded in Dagster, but not in the table",
        # They were changed by SQL alone.
        "in month_versions, but not in the table",
        "trips_by_day is not what the rows in the table add up to",
        "pickups_by_zone is not what the rows in the table add up to",
    )
]


@pytest.mark.parametrize(("damage", "expected"), WRONG.items(), ids=[damage.__name__ for damage in WRONG])
def test_what_no_run_may_leave_is_a_violation_even_after_a_kill(
    warehouse: Warehouse, damage: Callable[[Warehouse], None], expected: list[str]
) -> None:
    warehouse.publish("2023-01", NEXT)
    damage(warehouse)

    found = warehouse.check(killed=True)

    assert [what for what in found if what not in CONSEQUENCES] == expected


def test_rows_of_a_month_that_the_source_never_had_are_a_violation(warehouse: Warehouse) -> None:
    warehouse.load("2023-03", MARCH)
    assert warehouse.check(killed=True) == [NEVER_HAD]


# Violations in the tables beside `trips`: each statement changes one of them, and no trip

OF_ANOTHER_FILE = "2023-01: the last version in month_versions is of another file than the rows in the table"
BESIDE: dict[str, tuple[str, list[str]]] = {
    "no row for a month": (
        "DELETE FROM month_versions WHERE month = '2023-02'",
        ["2023-02: in the table, but not in month_versions"],
    ),
    "no table of versions": (
        "DROP TABLE month_versions",
        [f"{month}: in the table, but not in month_versions" for month in MONTHS],
    ),
    "a row for a month without trips": (
        "INSERT INTO month_versions (fleet, month, version, sha256, mapping, num_trips) "
        "VALUES ('yellow', '2023-03', 1, 'a', 'b', 320)",
        ["2023-03: in month_versions, but not in the table"],
    ),
    "the last row is missing": (
        "DELETE FROM month_versions WHERE month = '2023-01' AND version = 2",
        [OF_ANOTHER_FILE],
    ),
    "a row of a file that is not in the table": (
        "INSERT INTO month_versions BY NAME "
        "SELECT * REPLACE (3 AS version, 'a' AS sha256) FROM month_versions WHERE month = '2023-01' AND version = 2",
        [OF_ANOTHER_FILE],
    ),
    "an unknown file": (
        "UPDATE month_versions SET sha256 = NULL WHERE month = '2023-01' AND version = 2",
        [OF_ANOTHER_FILE],
    ),
    "another number of trips": (
        "UPDATE month_versions SET num_trips = 1301 WHERE month = '2023-01' AND version = 2",
        ["2023-01: the last version in month_versions has 1,301 trips, the table 300"],
    ),
    "a gap": (
        "UPDATE month_versions SET version = 3 WHERE month = '2023-01' AND version = 2",
        ["2023-01: the versions in month_versions are numbered 1, 3"],
    ),
    "the first row is missing": (
        "DELETE FROM month_versions WHERE month = '2023-01' AND version = 1",
        ["2023-01: the versions in month_versions are numbered 2"],
    ),
    "the same number twice": (
        "UPDATE month_versions SET version = 1 WHERE month = '2023-01' AND num_trips = 290;"
        "INSERT INTO month_versions BY NAME SELECT * REPLACE ('a' AS sha256) FROM month_versions "
        "WHERE month = '2023-01' AND version = 1",
        ["2023-01: the versions in month_versions are numbered 1, 1, 2"],
    ),
    "the same version as another one": (
        "INSERT INTO month_versions BY NAME "
        "SELECT * REPLACE (3 AS version) FROM month_versions WHERE month = '2023-01' AND version = 2",
        ["2023-01: two versions in a row in month_versions are of one file and mapping"],
    ),
}
KEYS = {"trips_by_day": "day", "pickups_by_zone": "pickup_zone_id"}
SUMS = ("total_amount", "trip_distance", "passenger_count")
for table, key in KEYS.items():
    first_row = f"WHERE rowid = (SELECT min(rowid) FROM {table} WHERE partition_date = '2023-01')"
    differs = [f"2023-01: {table} is not what the rows in the table add up to"]
    BESIDE[f"no rows of {table}"] = (f"DELETE FROM {table} WHERE partition_date = '2023-01'", differs)
    BESIDE[f"a missing row of {table}"] = (f"DELETE FROM {table} {first_row}", differs)
    for column in (key, "num_trips", *(SUMS if table == "trips_by_day" else ())):
        BESIDE[f"another {column} in {table}"] = (f"UPDATE {table} SET {column} = {column} + 1 {first_row}", differs)


def test_a_wrong_row_beside_trips_is_a_violation(warehouse: Warehouse) -> None:
    known = {month: (version.sha256, version.digest[0]) for month, version in warehouse.oracle.table.items()}
    found = {}
    with duckdb.connect(str(warehouse.project.database)) as connection:
        for what, (statement, _) in BESIDE.items():
            connection.execute(f"BEGIN; {statement}")
            found[what] = [*check_derived_tables(connection, MONTHS, known)]
            connection.execute("ROLLBACK")
        assert [*check_derived_tables(connection, MONTHS, known)] == []
    assert found == {what: expected for what, (_, expected) in BESIDE.items()}


def test_a_wrong_row_beside_trips_is_a_violation_even_after_a_kill(warehouse: Warehouse) -> None:
    statement, expected = BESIDE["the last row is missing"]
    warehouse.publish("2023-01", NEXT)
    warehouse.sql(statement)
    assert warehouse.check(killed=True) == expected


@pytest.mark.parametrize("table", ["trips_by_day", "pickups_by_zone"])
def test_an_aggregate_that_is_missing_or_of_a_month_without_trips_is_a_violation(
    warehouse: Warehouse, table: str
) -> None:
    wrong = f"{table} is not what the rows in the table add up to"
    warehouse.sql(
        f"INSERT INTO {table} SELECT * REPLACE ('2023-03' AS partition_date) FROM {table} WHERE partition_date = '2023-01'"
    )
    assert warehouse.check() == [f"2023-03: {wrong}"]
    warehouse.sql(f"DROP TABLE {table}")
    assert warehouse.check() == [f"{month}: {wrong}" for month in MONTHS]


def test_rows_of_a_load_without_its_version_are_a_violation(warehouse: Warehouse) -> None:
    """As if the rows had been committed on their own, and the run been killed after that."""
    warehouse.publish("2023-01", NEXT)
    warehouse.sql("CREATE TABLE before AS FROM month_versions")
    warehouse.load("2023-01", NEXT)
    warehouse.sql("CREATE OR REPLACE TABLE month_versions AS FROM before")
    assert warehouse.check(killed=True) == [OF_ANOTHER_FILE]


def test_infinite_and_missing_values_are_added_up_as_the_pipeline_does(warehouse: Warehouse) -> None:
    values = "'nan'::DOUBLE AS total_amount, 'inf'::DOUBLE AS trip_distance, NULL::DOUBLE AS passenger_count"
    content = rewrite(NOW, f"SELECT * REPLACE ({values}) FROM month")
    warehouse.publish("2023-01", content)
    warehouse.load("2023-01", content)
    assert warehouse.check(killed=True) == []


def test_months_that_something_else_has_loaded_may_lack_versions_and_aggregates(tmp_path: Path) -> None:
    oracle = Oracle(tmp_path, tmp_path / "home")
    (tmp_path / "home").mkdir()
    oracle.database.parent.mkdir()

    def load(month: str, content: bytes) -> None:
        (tmp_path / "month.parquet").write_bytes(content)
        with duckdb.connect(str(oracle.database)) as connection:
            load_month(connection, month, tmp_path / "month.parquet")

    load("2023-01", NOW)
    load("2023-02", sample("2023-02"))
    with duckdb.connect(str(oracle.database)) as connection:
        for table in ("month_versions", "trips_by_day", "pickups_by_zone"):
            connection.execute(f"DROP TABLE {table}")
    oracle.adopt_database()
    assert oracle.check([], killed=False) == []

    oracle.publish("2023-01", NEXT)
    load("2023-01", NEXT)
    assert oracle.check(["2023-01"], killed=True) == []
    with duckdb.connect(str(oracle.database)) as connection:
        connection.execute("DELETE FROM month_versions WHERE version = 2")
    assert oracle.check([], killed=False) == [OF_ANOTHER_FILE]


ANOTHER_VALUE = {
    "int32": "coalesce({0}, 0) + 1",
    "double": "coalesce({0}, 0) + 0.01",
    "timestamp[us]": "{0} + INTERVAL 1 MICROSECOND",
    "string": "coalesce({0}, '') || ' '",
}


def test_a_changed_value_is_another_digest_in_every_column(warehouse: Warehouse) -> None:
    unseen = []
    with duckdb.connect(str(warehouse.project.database)) as connection:
        before = read_table(connection)
        for column, (_, type_) in FROM_FILE.items():
            another = ANOTHER_VALUE[str(type_)].format(column)
            connection.execute(
                f"BEGIN; UPDATE trips SET {column} = {another} "
                "WHERE rowid = (SELECT max(rowid) FROM trips WHERE partition_date = '2023-01')"
            )
            now = read_table(connection)
            connection.execute("ROLLBACK")
            if now["2023-01"] == before["2023-01"] or now["2023-02"] != before["2023-02"]:
                unseen.append(column)
        assert read_table(connection) == before
    assert unseen == []


def test_a_wrong_version_is_reported_once(warehouse: Warehouse) -> None:
    warehouse.load("2023-01", OLD)
    assert warehouse.check() == [f"2023-01: 290 rows, {NEITHER}", UNLIKE_RECORD]
    warehouse.record("2023-01", OLD)
    assert warehouse.check() == [], "from then on it is the previous version"


# Violations without a kill


def test_a_change_of_a_month_that_no_run_tried_is_a_violation(warehouse: Warehouse) -> None:
    warehouse.oracle.publish("2023-01", NEXT)
    warehouse.load("2023-01", NEXT)
    warehouse.record("2023-01", NEXT)
    assert f"2023-01: 310 rows, {NEITHER}" in warehouse.oracle.check(["2023-02"], killed=True)


@pytest.mark.parametrize("tried", [[], ["2023-02"]], ids=["nobody killed", "a run of another month killed"])
def test_an_unrecorded_month_in_the_table_is_a_violation(warehouse: Warehouse, tried: list[str]) -> None:
    warehouse.publish("2023-03", MARCH)
    warehouse.load("2023-03", MARCH)
    assert warehouse.oracle.check(tried, killed=True) != []
    assert warehouse.check() == ["2023-03: in the table, but not recorded in Dagster"]


def test_a_table_that_is_newer_than_the_record_is_a_violation(warehouse: Warehouse) -> None:
    warehouse.publish("2023-01", NEXT)
    warehouse.load("2023-01", NEXT)
    assert warehouse.check() == [UNLIKE_RECORD]


def test_a_run_that_succeeded_and_loaded_nothing_is_a_violation(warehouse: Warehouse) -> None:
    warehouse.publish("2023-01", NEXT)
    warehouse.oracle.note_start(["2023-01"])
    assert warehouse.check(succeeded=True) == [
        "2023-01: a run succeeded, but the table has another version than the source"
    ]


def test_a_failure_followed_by_the_load_of_another_run_is_accepted(warehouse: Warehouse) -> None:
    warehouse.publish("2023-01", NEXT)
    warehouse.record_failure("2023-01")
    warehouse.load("2023-01", NEXT)
    warehouse.record("2023-01", NEXT)
    assert warehouse.check() == []


def test_an_earlier_failure_does_not_matter_for_a_later_load(warehouse: Warehouse) -> None:
    warehouse.publish("2023-01", NEXT)
    warehouse.record_failure("2023-01")
    assert warehouse.check() == []
    warehouse.load("2023-01", NEXT)
    warehouse.record("2023-01", NEXT)
    assert warehouse.check() == []


# Violations after a repair


def an_old_file(warehouse: Warehouse) -> None:
    warehouse.write("raw/taxi_trips_2023-01.parquet", OLD)


def no_file(warehouse: Warehouse) -> None:
    warehouse.project.file("2023-01").unlink()


def an_old_record_of_the_file(warehouse: Warehouse) -> None:
    warehouse.record("2023-01", OLD, FILE_ASSET)


def a_newer_version_at_the_source(warehouse: Warehouse) -> None:
    warehouse.oracle.publish("2023-01", NEXT)


LEFT: dict[Callable[[Warehouse], None], str] = {
    an_old_file: "2023-01: the file is not the newest version",
    no_file: "2023-01: the file is not the newest version",
    an_old_record_of_the_file: "2023-01: the newest version of taxi_trips_file is not recorded",
    a_newer_version_at_the_source: "2023-01: the table does not have the newest version",
    half_a_download: "2023-01: .taxi_trips_2023-01.parquet.0a1b2c3d.partial was left behind",
    a_wal_without_checkpoint: "data.duckdb.wal was left behind",
}


@pytest.mark.parametrize(("damage", "expected"), LEFT.items(), ids=[damage.__name__ for damage in LEFT])
def test_what_may_not_remain_after_an_undisturbed_run_is_a_violation(
    warehouse: Warehouse, damage: Callable[[Warehouse], None], expected: str
) -> None:
    damage(warehouse)
    assert expected in warehouse.oracle.check_repaired(MONTHS)


# What other assets write

WEEKS = [["2022-12-25", 80], ["2023-01-01", 90], ["2023-01-08", 100]]


def picture(folder: Path) -> bytes:
    Image.effect_noise((200, 200), 50).save(folder / "noise.png")
    return (folder / "noise.png").read_bytes()


def weeks(folder: Path, rows: list[list[Any]]) -> bytes:
    with open(folder / "weeks.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [[name for name, *_ in TRIPS_BY_WEEK.columns], *([*row, 1.5, 2.5, 3, 7] for row in rows)]
        )
    return (folder / "weeks.csv").read_bytes()


def zones(folder: Path) -> bytes:
    return write_zones(folder / "zones.csv").read_bytes()


STATS = b'{"type": "FeatureCollection", "months": ["2023-01", "2023-02"], "features": []}'
OUTPUTS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "GeoJSON": ("staging/manhattan_stats.geojson", lambda _: STATS),
    "PNG": ("outputs/manhattan_map.png", picture),
    "zones": ("raw/taxi_zones.csv", zones),
    "weeks": ("outputs/trips_by_week.csv", lambda folder: weeks(folder, WEEKS)),
}
BROKEN: dict[str, tuple[str, Callable[[Path], bytes], str]] = {
    "half of a GeoJSON": ("GeoJSON", lambda _: STATS[: len(STATS) // 2], "damaged"),
    "an empty GeoJSON": ("GeoJSON", lambda _: b"", "damaged"),
    "a GeoJSON without its months": ("GeoJSON", lambda _: b'{"features": []}', "damaged"),
    "a GeoJSON of a month that the source never had": (
        "GeoJSON",
        lambda _: STATS.replace(b"2023-02", b"2023-09"),
        "counts a month that the source never had",
    ),
    "half of a PNG": ("PNG", lambda folder: picture(folder)[:5000], "damaged"),
    "an empty PNG": ("PNG", lambda _: b"", "damaged"),
    "half of the zones": ("zones", lambda folder: zones(folder)[:10_000], "taxi_zones.csv is not what the source has"),
    "binary zones": ("zones", lambda _: bytes(range(128, 256)), "not what the source has"),
    "an empty file of zones": ("zones", lambda _: b"", "taxi_zones.csv is not what the source has"),
    "a week twice": (
        "weeks",
        lambda folder: weeks(folder, [*WEEKS, WEEKS[-1]]),
        "has a duplicate week, or one out of order",
    ),
    "weeks out of order": (
        "weeks",
        lambda folder: weeks(folder, WEEKS[::-1]),
        "has a duplicate week, or one out of order",
    ),
    "weeks without their header": (
        "weeks",
        lambda folder: weeks(folder, WEEKS).partition(b"\n")[2],
        "is not complete",
    ),
    "weeks without their end": ("weeks", lambda folder: weeks(folder, WEEKS)[:-3], "is not complete"),
}


def test_complete_outputs_are_accepted_and_a_damaged_one_is_not(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.oracle.zones = zones(tmp_path)
    for name, make in OUTPUTS.values():
        warehouse.write(name, make(tmp_path))
    assert warehouse.check() == []
    warehouse.write(OUTPUTS["PNG"][0], b"")
    (found,) = warehouse.check(killed=True)
    assert "damaged" in found


@pytest.mark.parametrize(("what", "make", "expected"), BROKEN.values(), ids=BROKEN)
def test_a_damaged_output_is_a_violation(
    tmp_path: Path, what: str, make: Callable[[Path], bytes], expected: str
) -> None:
    oracle = Oracle(
        tmp_path / "data", tmp_path / "home", zones=zones(tmp_path), published={month: [] for month in MONTHS}
    )
    path = oracle.data_dir / OUTPUTS[what][0]
    path.parent.mkdir(parents=True)
    path.write_bytes(make(tmp_path))
    (found,) = oracle._check_files()
    assert expected in found
