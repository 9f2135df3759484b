"""The trips of each fleet by month: table, CSV and picture are of what the tables have, whichever fleets are loaded."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dagster_essentials.datasets.fleets import FLEETS
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.errors import QueryError, ReportError
from dagster_essentials.reports.fleets import TRIPS_BY_FLEET, FleetMonth, incomplete_months, replace_trips_by_fleet
from dagster_essentials.warehouse.tables import Tables
from dagster_essentials_tests.support.fleet_files import common_columns, fleet_sample, rows_as_dicts
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import DISK

pytestmark = pytest.mark.slow

ROWS = {("yellow", "2019-01"): 60, ("yellow", "2019-02"): 50, ("green", "2019-01"): 40, ("green", "2019-02"): 30}
ROWS |= {("fhv", "2019-01"): 220, ("fhv", "2019-02"): 20, ("fhvhv", "2019-02"): 200}


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(str(tmp_path / "data.duckdb")) as connection:
        yield connection


def load(
    connection: duckdb.DuckDBPyConnection, folder: Path, *months: tuple[str, str], rows: int | None = None
) -> None:
    """Load months, each given as fleet and ``YYYY-MM``, with their numbers of trips in `ROWS` or `rows`."""
    for fleet, month in months:
        (folder / "source").mkdir(exist_ok=True)
        path = folder / "source" / f"{fleet}_{month}.parquet"
        path.write_bytes(fleet_sample(fleet, month, rows or ROWS[fleet, month]))
        load_month(connection, month, path, dataset=FLEETS.get(fleet, YELLOW))


def report(connection: duckdb.DuckDBPyConnection, folder: Path) -> list[tuple[Any, ...]]:
    """The rows of the table, after it has been made; the CSV has the same."""
    found = replace_trips_by_fleet(Tables(connection), FLEETS, folder / "fleets.csv", folder / "fleets.png", DISK)
    assert (folder / "fleets.png").read_bytes() == found.plot
    assert found.plot.startswith(b"\x89PNG")
    *rows, complete = zip(
        *connection.execute("FROM trips_by_fleet ORDER BY partition_date, fleet").fetchall(), strict=True
    )
    table = list(zip(*rows, strict=True))
    assert [FleetMonth(*row[:3]) for row in table] == found.months
    with open(folder / "fleets.csv", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == [name for name, *_ in TRIPS_BY_FLEET.columns]
    sums = [(*line[:2], int(line[2]), *(float(sum_) if sum_ else None for sum_ in line[3:5])) for line in lines]
    assert sums == table
    assert [line[5] == "true" for line in lines] == list(complete)
    assert list(complete) == [row[0] not in found.incomplete for row in table]
    return table


def in_files(folder: Path, *months: tuple[str, str]) -> list[tuple[Any, ...]]:
    """The counts of pyarrow and plain Python in the files of the months."""
    found = []
    for fleet, month in months:
        trips = [
            common_columns(trip, fleet, month) for trip in rows_as_dicts(folder / "source" / f"{fleet}_{month}.parquet")
        ]
        total, miles = (
            None if fleet == "fhv" else pytest.approx(math.fsum(trip[column] for trip in trips), abs=0.006)
            for column in (8, 6)
        )
        found.append((month, fleet, len(trips), total, miles))
    return sorted(found, key=lambda row: row[:2])


@pytest.mark.parametrize(
    "fleets", [("yellow", "green", "fhv", "fhvhv"), ("yellow",), ("green", "fhv", "fhvhv"), ("fhv",)], ids="+".join
)
def test_the_trips_of_the_fleets_that_are_loaded_are_counted(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, fleets: tuple[str, ...]
) -> None:
    months = [key for key in ROWS if key[0] in fleets]
    load(connection, tmp_path, *months)
    for _ in range(2):
        assert report(connection, tmp_path) == in_files(tmp_path, *months)
    described = connection.execute(
        "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'trips_by_fleet' ORDER BY column_index"
    ).fetchall()
    assert described == [(name, text) for name, _, text in TRIPS_BY_FLEET.columns]


def test_of_a_corrected_month_the_last_version_is_counted(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    load(connection, tmp_path, *ROWS)
    load(connection, tmp_path, ("fhvhv", "2019-02"), ("yellow", "2019-01"), rows=170)
    assert report(connection, tmp_path) == in_files(tmp_path, *ROWS)


@pytest.mark.parametrize(
    ("statement", "gone"),
    [
        ("DELETE FROM fleet_trips WHERE fleet = 'green' AND partition_date = '2019-01'", [("green", "2019-01")]),
        ("DELETE FROM month_versions WHERE fleet = 'green'", []),
        ("DROP TABLE month_versions", []),
        ("DROP TABLE fleet_trips", [key for key in ROWS if key[0] != "yellow"]),
        ("DELETE FROM fleet_trips", [key for key in ROWS if key[0] != "yellow"]),
        ("DELETE FROM trips WHERE partition_date = '2019-01'", [("yellow", "2019-01")]),
        ("DROP TABLE trips", [key for key in ROWS if key[0] == "yellow"]),
    ],
)
def test_what_somebody_has_changed_in_the_tables_is_counted(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, statement: str, gone: list[tuple[str, str]]
) -> None:
    load(connection, tmp_path, *ROWS)
    connection.execute(statement)
    assert report(connection, tmp_path) == in_files(tmp_path, *(key for key in ROWS if key not in gone))


@pytest.mark.parametrize("before", ["", "CREATE TABLE fleet_trips (fleet VARCHAR)"])
def test_without_any_month_it_says_so(connection: duckdb.DuckDBPyConnection, tmp_path: Path, before: str) -> None:
    connection.execute(before)
    with pytest.raises(ReportError, match=r"No month is loaded\. Materialize fleet_trips or taxi_trips first"):
        report(connection, tmp_path)
    assert connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'trips_by_fleet'").fetchall() == []
    assert {path.name for path in tmp_path.iterdir()} <= {"data.duckdb", "data.duckdb.wal"}


def test_a_table_of_somebody_else_is_reported_and_the_report_is_unchanged(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    load(connection, tmp_path, ("green", "2019-01"))
    before = report(connection, tmp_path)
    picture = (tmp_path / "fleets.png").read_bytes()
    connection.execute("DROP TABLE fleet_trips; CREATE TABLE fleet_trips AS SELECT 7 AS number")
    with pytest.raises(QueryError, match="If it, trips or fleet_trips was made by something else, rename or drop that"):
        replace_trips_by_fleet(Tables(connection), FLEETS, tmp_path / "fleets.csv", tmp_path / "fleets.png", DISK)
    assert connection.execute("SELECT * EXCLUDE is_complete FROM trips_by_fleet").fetchall() == before
    assert (tmp_path / "fleets.png").read_bytes() == picture


def test_a_month_is_incomplete_without_a_fleet_that_is_published_for_it() -> None:
    def months(**fleets: str) -> list[FleetMonth]:
        return [FleetMonth(month, fleet, 1) for month, names in fleets.items() for fleet in names.split()]

    everything = "yellow green fhv fhvhv"
    loaded = {"2013-12": "yellow", "2014-12": "yellow green", "2019-01": "yellow green fhv", "2019-02": everything}
    assert incomplete_months(months(**loaded), FLEETS) == []
    loaded = {"2014-01": "yellow", "2015-01": "yellow green", "2019-02": "yellow green fhv", "2008-01": "green"}
    assert incomplete_months(months(**loaded), FLEETS) == ["2014-01", "2015-01", "2019-02"]
    assert incomplete_months(months(**{"2019-02": "green fhv fhvhv"}), FLEETS) == ["2019-02"]
    # With TAXI_FLEETS=green, the others are not expected, and do no harm where they are loaded all the same.
    loaded = {"2023-01": "yellow green", "2023-02": "yellow green fhv", "2023-03": "yellow", "2023-04": "green"}
    assert incomplete_months(months(**loaded), ["green"]) == ["2023-03", "2023-04"]
