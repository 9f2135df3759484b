"""A month of a fleet is replaced in one transaction, and no other month or fleet with it; and databases that exist already."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dagster_essentials.datasets import DATASETS
from dagster_essentials.datasets.fleets import FLEETS
from dagster_essentials.errors import DatabaseUnusableError, LoadError, PipelineError, QueryError, RowCountMismatchError
from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.ingestion.file_format import Parquet
from dagster_essentials.warehouse import load as month_load
from dagster_essentials.warehouse.file import file_tables
from dagster_essentials.warehouse.load import LoadedMonth
from dagster_essentials.warehouse.tables import Tables
from dagster_essentials_tests.support.faults.files import zeroed_pages
from dagster_essentials_tests.support.faults.samples import rewrite
from dagster_essentials_tests.support.fleet_files import fleet_sample, read_trips, trips_in_table
from dagster_essentials_tests.support.loading import load_month

pytestmark = pytest.mark.slow

LOADED = [("yellow", "2023-02"), ("green", "2023-02"), ("fhv", "2023-02"), ("fhvhv", "2023-02"), ("green", "2023-03")]
TABLES = ("trips", "fleet_trips", "month_versions", "trips_by_day", "pickups_by_zone", "all_trips")
Rows = Mapping[str, list[tuple[Any, ...]]]


def load(
    tables: Tables | duckdb.DuckDBPyConnection,
    folder: Path,
    fleet: str,
    month: str,
    content: bytes | None = None,
    force: bool = False,
    dataset: Dataset | None = None,
) -> LoadedMonth:
    """Load `content`, or a good month of 300 trips, as `month` of `fleet`, or of a `dataset` instead."""
    path = folder / f"{fleet}_{month}.parquet"
    path.write_bytes(fleet_sample(fleet, month) if content is None else content)
    return load_month(tables, month, path, force=force, dataset=dataset or DATASETS[fleet])


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the months of `LOADED`."""
    with duckdb.connect() as connection:
        for fleet, month in LOADED:
            load(connection, tmp_path, fleet, month)
        yield connection


def everything(connection: duckdb.DuckDBPyConnection) -> Rows:
    """The rows of each table; NULLs make them hard to sort in Python."""
    return {table: connection.execute(f"FROM {table} ORDER BY ALL").fetchall() for table in TABLES}


def but(rows: Rows, fleet: str, month: str) -> Rows:
    """Those of `rows` that are not of `month` of `fleet`."""
    return {
        # In the tables of yellow trips, no row names its fleet.
        table: [row for row in found if month not in row or (fleet if fleet in FLEETS else month) not in row]
        for table, found in rows.items()
    }


def mark(connection: duckdb.DuckDBPyConnection, fleet: str, month: str) -> None:
    """Change a row of the month: only a load of the month undoes it."""
    connection.execute(
        "UPDATE fleet_trips SET pickup_zone_id = 99999 WHERE rowid = "
        "(SELECT min(rowid) FROM fleet_trips WHERE fleet = $1 AND partition_date = $2)",
        [fleet, month],
    )


def is_marked(connection: duckdb.DuckDBPyConnection) -> bool:
    return bool(connection.execute("SELECT 1 FROM fleet_trips WHERE pickup_zone_id = 99999").fetchall())


def recorded(connection: duckdb.DuckDBPyConnection, month: str) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT fleet, version, sha256, num_trips FROM month_versions WHERE month = ? ORDER BY fleet, version", [month]
    ).fetchall()


def first_versions(month: str = "2023-02") -> list[tuple[Any, ...]]:
    return [
        (fleet, 1, hashlib.sha256(fleet_sample(fleet, month)).hexdigest(), 300)
        for fleet in ("fhv", "fhvhv", "green", "yellow")
    ]


# One transaction


@pytest.mark.parametrize("fleet", FLEETS)
@pytest.mark.parametrize("step", ["profile_month", "count_unmapped", "record_version"])
def test_a_load_that_fails_in_the_middle_changes_nothing(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, fleet: str
) -> None:
    before = everything(connection)
    original: Callable[..., Any] = getattr(month_load, step)
    seen = []

    def broken(tables: Tables, *arguments: Any) -> None:
        original(tables, *arguments)
        rows = tables.execute("SELECT count(*) FROM fleet_trips WHERE partition_date = '2023-02'").fetchall()
        seen.append(rows)
        raise RuntimeError("the process ends here")

    monkeypatch.setattr(month_load, step, broken)
    with pytest.raises(RuntimeError, match="the process ends here"):
        load(connection, tmp_path, fleet, "2023-02", fleet_sample(fleet, "2023-02", 310))

    assert seen == [[(910,)]], "the new rows were there"
    assert everything(connection) == before


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (b"<html>", LoadError, "not a complete parquet file.*Delete the file, and materialize fleet_trips_file"),
        (zeroed_pages(fleet_sample("fhvhv", "2023-02")), QueryError, "materialize fleet_trips_file and fleet_trips"),
        (fleet_sample("fhv", "2023-02"), PipelineError, "this month of high-volume for-hire vehicle trips"),
    ],
    ids=["error page", "damaged pages", "another fleet"],
)
def test_a_bad_file_changes_nothing(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, content: bytes, error: type[PipelineError], says: str
) -> None:
    before = everything(connection)
    with pytest.raises(error, match=says):
        load(connection, tmp_path, "fhvhv", "2023-02", content)
    assert everything(connection) == before


@pytest.mark.parametrize("fleet", DATASETS)
def test_the_file_of_another_month_changes_nothing(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, fleet: str
) -> None:
    before = everything(connection)
    with pytest.raises(LoadError, match=r"of the 300 trips in the file do not lie in 2023-02.*it seems to be 2019-08"):
        load(connection, tmp_path, fleet, "2023-02", fleet_sample(fleet, "2019-08"))
    assert everything(connection) == before


def test_a_month_half_of_whose_trips_lie_in_another_one_is_loaded(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    def february(trips: int) -> bytes:
        """A file of 300 trips, so many of them in February."""
        in_february = "lpep_pickup_datetime >= '2023-02-01' AND lpep_pickup_datetime < '2023-03-01'"
        others = f"SELECT * REPLACE (TIMESTAMP '2023-05-06' AS lpep_pickup_datetime) FROM month LIMIT {300 - trips}"
        return rewrite(
            fleet_sample("green", "2023-02"), f"(FROM month WHERE {in_february} LIMIT {trips}) UNION ALL ({others})"
        )

    assert load(connection, tmp_path, "green", "2023-02", february(150)).version.violations["pickups_in_month"] == 150
    with pytest.raises(LoadError, match=r"151 of the 300 trips in the file do not lie in 2023-02 \(pickup_datetime\)"):
        load(connection, tmp_path, "green", "2023-02", february(149))


def test_another_number_of_rows_than_the_footer_counts_changes_nothing(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    class Incomplete(Parquet):
        @property
        def relation(self) -> str:
            return f"(FROM {super().relation} LIMIT 299)"

    before = everything(connection)
    incomplete = replace(FLEETS["green"], file_format=Incomplete())
    with pytest.raises(RowCountMismatchError, match="the file has 310 rows, but 299 were loaded") as raised:
        load(connection, tmp_path, "green", "2023-02", fleet_sample("green", "2023-02", 310), dataset=incomplete)
    assert "Materialize fleet_trips_file and fleet_trips again" in str(raised.value)
    assert everything(connection) == before


# Nothing twice, and only this month


@pytest.mark.parametrize("fleet", FLEETS)
def test_a_month_that_is_loaded_is_left_alone(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, fleet: str
) -> None:
    mark(connection, fleet, "2023-02")
    before = everything(connection)
    loaded = load(connection, tmp_path, fleet, "2023-02")
    assert (loaded.is_unchanged, loaded.version.version, loaded.version.fleet) == (True, 1, fleet)
    assert everything(connection) == before


def test_a_load_that_leaves_its_month_alone_does_not_write_to_the_database(tmp_path: Path) -> None:
    path, contents = tmp_path / "data.duckdb", []
    for _ in range(3):
        with file_tables(path, {}, wait_seconds=0, log=print) as tables:
            load(tables, tmp_path, "yellow", "2023-02")
            load(tables, tmp_path, "green", "2023-02")
        contents.append(path.read_bytes())
    assert contents[1] == contents[2]


@pytest.mark.parametrize("fleet", FLEETS)
def test_a_forced_load_replaces_the_month_and_is_no_new_version(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, fleet: str
) -> None:
    mark(connection, fleet, "2023-02")
    before = everything(connection)
    loaded = load(connection, tmp_path, fleet, "2023-02", force=True)
    assert not loaded.is_unchanged
    assert not is_marked(connection)
    assert trips_in_table(connection, fleet, "2023-02") == read_trips(
        tmp_path / f"{fleet}_2023-02.parquet", fleet, "2023-02"
    )
    assert recorded(connection, "2023-02") == first_versions()
    assert but(everything(connection), fleet, "2023-02") == but(before, fleet, "2023-02")


@pytest.mark.parametrize("fleet", FLEETS)
def test_a_month_with_another_number_of_rows_is_loaded_again(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, fleet: str
) -> None:
    connection.execute(
        f"DELETE FROM fleet_trips WHERE fleet = '{fleet}' AND partition_date = '2023-02' AND rowid % 2 = 0"
    )
    assert not load(connection, tmp_path, fleet, "2023-02").is_unchanged
    assert trips_in_table(connection, fleet, "2023-02").total() == 300
    assert recorded(connection, "2023-02") == first_versions()


@pytest.mark.parametrize("fleet", DATASETS)
def test_a_correction_is_a_version_of_this_fleet_alone(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, fleet: str
) -> None:
    before = everything(connection)
    corrected = fleet_sample(fleet, "2023-02", 330)
    loaded = load(connection, tmp_path, fleet, "2023-02", corrected)
    assert [(version.version, version.num_trips) for version in loaded.versions] == [(1, 300), (2, 330)]
    assert recorded(connection, "2023-02") == sorted(
        [*first_versions(), (fleet, 2, hashlib.sha256(corrected).hexdigest(), 330)]
    )
    after = everything(connection)
    assert len(after["all_trips"]) == len(before["all_trips"]) + 30
    assert but(after, fleet, "2023-02") == but(before, fleet, "2023-02")


# Databases that exist already


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A database of the release before: yellow trips only, no column `fleet` in `month_versions`, no view `all_trips`."""
    path = tmp_path / "data.duckdb"
    with file_tables(path, {}, wait_seconds=0, log=print) as tables:
        for month in ("2023-02", "2023-03"):
            load(tables, tmp_path, "yellow", month)
        tables.execute("ALTER TABLE month_versions DROP COLUMN fleet; DROP VIEW all_trips")
    return path


@pytest.mark.parametrize("first", ["yellow", "green"])
def test_a_database_of_the_release_before_is_upgraded_and_its_months_are_not_loaded_again(
    older: Path, tmp_path: Path, first: str
) -> None:
    with file_tables(older, {}, wait_seconds=0, log=print) as tables:
        tables.execute("UPDATE trips SET vendor_id = 99")
        if first == "green":
            load(tables, tmp_path, "green", "2023-02")
    with file_tables(older, {}, wait_seconds=0, log=print) as tables:
        loaded = load(tables, tmp_path, "yellow", "2023-02")
        assert (loaded.is_unchanged, loaded.version.fleet, loaded.version.version) == (True, "yellow", 1)
        load(tables, tmp_path, "green", "2023-02")
        load(tables, tmp_path, "green", "2023-02", fleet_sample("green", "2023-02", 310))
        load(tables, tmp_path, "yellow", "2023-03", fleet_sample("yellow", "2023-03", 310))
    with duckdb.connect(str(older), read_only=True) as connection:
        versions = "SELECT fleet, month, version, num_trips FROM month_versions ORDER BY ALL"
        assert connection.execute(versions).fetchall() == [
            *(("green", "2023-02", 1, 300), ("green", "2023-02", 2, 310)),
            *(("yellow", "2023-02", 1, 300), ("yellow", "2023-03", 1, 300), ("yellow", "2023-03", 2, 310)),
        ]
        marked = connection.execute(
            "SELECT partition_date, count(*) FROM trips WHERE vendor_id = 99 GROUP BY 1"
        ).fetchall()
        assert marked == [("2023-02", 300)]
        trips = connection.execute("SELECT fleet, partition_date, count(*) FROM all_trips GROUP BY ALL ORDER BY ALL")
        assert trips.fetchall() == [("green", "2023-02", 310), ("yellow", "2023-02", 300), ("yellow", "2023-03", 310)]


def test_a_load_that_fails_upgrades_the_record_of_versions_alone(older: Path, tmp_path: Path) -> None:
    def columns(tables: Tables) -> list[tuple[Any, ...]]:
        return tables.execute(
            "SELECT table_name, column_name, comment FROM duckdb_columns() "
            "WHERE NOT internal AND table_name <> 'month_versions' ORDER BY ALL"
        ).fetchall()

    with file_tables(older, {}, wait_seconds=0, log=print) as tables:
        before, trips = columns(tables), tables.execute("FROM trips ORDER BY ALL").fetchall()
        for fleet in ("green", "yellow"):
            with pytest.raises(QueryError):
                load(tables, tmp_path, fleet, "2023-02", zeroed_pages(fleet_sample(fleet, "2023-02")))
            assert columns(tables) == before
        assert tables.execute("FROM trips ORDER BY ALL").fetchall() == trips
        assert load(tables, tmp_path, "yellow", "2023-02").is_unchanged


def test_columns_that_a_later_release_adds_are_added_to_the_table(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    before = everything(connection)
    connection.execute("ALTER TABLE fleet_trips DROP COLUMN cbd_congestion_fee")
    # A load of yellow trips before that of a fleet finds a table that it does not change.
    load(connection, tmp_path, "yellow", "2023-03")
    load(connection, tmp_path, "green", "2023-03")
    found = connection.execute(
        "SELECT fleet, count(*) FROM all_trips WHERE partition_date = '2023-02' GROUP BY 1"
    ).fetchall()
    assert dict(found) == dict.fromkeys(DATASETS, 300)
    assert len(everything(connection)["fleet_trips"]) == len(before["fleet_trips"])


OURS = "fleet VARCHAR, partition_date VARCHAR, pickup_datetime TIMESTAMP, dropoff_datetime TIMESTAMP"


@pytest.mark.parametrize("columns", ["a INTEGER", OURS, f"{OURS}, pickup_zone_id INTEGER, dropoff_zone_id INTEGER"])
def test_a_table_of_somebody_else_called_fleet_trips_does_not_disturb_yellow_trips(
    tmp_path: Path, columns: str
) -> None:
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE fleet_trips ({columns})")
        load(connection, tmp_path, "yellow", "2023-02")
        assert connection.execute("SELECT fleet, count(*) FROM all_trips GROUP BY 1").fetchall() == [("yellow", 300)]


def test_a_table_of_somebody_else_called_fleet_trips_is_reported_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "data.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE fleet_trips AS SELECT 'mine' AS fleet, '2023-02' AS partition_date")
        with pytest.raises(DatabaseUnusableError) as raised:
            load(connection, tmp_path, "green", "2023-02")
        tables = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
        assert (tables, connection.execute("FROM fleet_trips").fetchall()) == (
            [("fleet_trips",)],
            [("mine", "2023-02")],
        )
    message = str(raised.value)
    assert message.startswith(
        f"the table fleet_trips in {path} has no column pickup_datetime, dropoff_datetime, pickup_"
    )
    assert message.endswith("Nothing was changed in it. Rename or drop it, and materialize again.")
    assert "course" not in message


@pytest.mark.parametrize("kind", ["TABLE", "VIEW"])
@pytest.mark.parametrize("fleet", ["yellow", "fhv"])
def test_something_else_called_all_trips_is_reported_and_unchanged(tmp_path: Path, kind: str, fleet: str) -> None:
    with duckdb.connect(str(tmp_path / "data.duckdb")) as connection:
        connection.execute(f"CREATE {kind} all_trips AS SELECT 'mine' AS whose")
        with pytest.raises(DatabaseUnusableError, match=r"all_trips in .* was made by something else") as raised:
            load(connection, tmp_path, fleet, "2023-02")
        assert "Nothing was changed. Rename or drop it, and materialize again." in str(raised.value)
        assert connection.execute("FROM all_trips").fetchall() == [("mine",)]
        assert (
            connection.execute("SELECT table_name FROM duckdb_tables() WHERE table_name <> 'all_trips'").fetchall()
            == []
        )
