"""The oracle of the fleets finds what no run may leave: each test changes a database that is right."""

import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from dagster_essentials.datasets.fleets import FLEETS
from dagster_essentials_tests.chaos.fleets import FleetOracle
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.source_server import SourceServer

pytestmark = pytest.mark.slow

KEYS = [("green", "2023-01"), ("fhv", "2023-01"), ("fhvhv", "2023-02")]
CHANGED = KEYS[0]


@dataclass
class Warehouse:
    """The months of `KEYS`, loaded into a database in `folder`; the source has a second version of the first one."""

    folder: Path
    oracle: FleetOracle
    source: SourceServer

    @property
    def database(self) -> Path:
        return self.folder / "data.duckdb"

    def load(self, fleet: str, month: str) -> None:
        """Load what the source has."""
        file = self.folder / "month.parquet"
        file.write_bytes(self.source.files[f"/trip-data/{fleet}_tripdata_{month}.parquet"])
        with duckdb.connect(str(self.database)) as connection:
            load_month(connection, month, file, dataset=FLEETS[fleet])

    def sql(self, statement: str) -> None:
        with duckdb.connect(str(self.database)) as connection:
            connection.execute(statement)

    def check(self, tried: list[tuple[str, str]], newest: bool = False) -> list[str]:
        return [*self.oracle.check(self.database, tried, newest)]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """The first warehouse, which the others are copies of."""
    with pytest.MonkeyPatch.context() as patch, SourceServer() as source:
        patch.setattr("dagster_essentials_tests.chaos.fleets.ROWS", 300)
        warehouse = Warehouse(tmp_path_factory.mktemp("warehouse"), FleetOracle(), source)
        for key in KEYS:
            warehouse.oracle.publish(source, key)
            warehouse.load(*key)
        assert warehouse.check(KEYS, newest=True) == []
        warehouse.oracle.publish(source, CHANGED)
        yield warehouse


@pytest.fixture
def warehouse(kept: Warehouse, tmp_path: Path) -> Warehouse:
    shutil.copytree(kept.folder, tmp_path, dirs_exist_ok=True)
    return Warehouse(tmp_path, deepcopy(kept.oracle), kept.source)


def test_the_version_before_and_the_one_that_was_tried_are_both_right(warehouse: Warehouse) -> None:
    assert warehouse.check([CHANGED]) == []
    warehouse.load(*CHANGED)
    assert warehouse.check([CHANGED]) == []
    assert warehouse.check(KEYS, newest=True) == []


NEITHER = "neither the previous version nor the one that was tried"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DELETE FROM fleet_trips WHERE fleet = 'fhv'", f"fhv 2023-01: 0 rows, {NEITHER}"),
        (
            "UPDATE fleet_trips SET partition_date = '2023-01' WHERE rowid = "
            "(SELECT max(rowid) FROM fleet_trips WHERE fleet = 'fhvhv')",
            f"fhvhv 2023-02: 299 rows, {NEITHER}",
        ),
        (
            "INSERT INTO fleet_trips SELECT * FROM fleet_trips WHERE fleet = 'green' LIMIT 1",
            f"green 2023-01: 301 rows, {NEITHER}",
        ),
        (
            "UPDATE fleet_trips SET total_amount = total_amount + 0.01 WHERE fleet = 'green'",
            f"green 2023-01: 300 rows, {NEITHER}",
        ),
        (
            "DELETE FROM month_versions WHERE fleet = 'fhv'",
            "fhv 2023-01: the versions in month_versions are numbered []",
        ),
        (
            "UPDATE month_versions SET version = 2 WHERE fleet = 'fhv'",
            "fhv 2023-01: the versions in month_versions are numbered [2]",
        ),
        (
            "UPDATE month_versions SET sha256 = 'a' WHERE fleet = 'green'",
            "green 2023-01: the last version in month_versions is not that of the rows in the table",
        ),
        ("DROP VIEW all_trips; DROP TABLE fleet_trips", "fhv 2023-01: the table is missing"),
    ],
)
def test_what_no_run_may_leave_is_a_violation(warehouse: Warehouse, statement: str, expected: str) -> None:
    warehouse.sql(statement)
    assert expected in warehouse.check(KEYS)


def test_a_month_that_is_not_the_newest_after_an_undisturbed_run_is_a_violation(warehouse: Warehouse) -> None:
    assert warehouse.check(KEYS, newest=True) == [f"green 2023-01: 300 rows, {NEITHER}"]


def test_a_month_that_no_run_has_tried_may_not_change(warehouse: Warehouse) -> None:
    warehouse.load(*CHANGED)
    assert warehouse.check([]) == [f"green 2023-01: 301 rows, {NEITHER}"]
