"""The page for analysts: each query on it, run on the sample months of `make run`, has the result that is shown."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dagster_essentials.datasets.fleets import FLEETS
from dagster_essentials.datasets.zones import read_zones
from dagster_essentials.datasets.zones_table import replace_zones
from dagster_essentials.sample import write_fleet_month, write_month, write_zones
from dagster_essentials.warehouse.file import file_tables
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import DISK, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.duckdb]

PAGE = (ROOT / "docs/analysis.md").read_text()
QUERIES: list[tuple[str, str]] = re.findall(r"```sql\n(.*?)```\n\n((?:\|[^\n]*\n)*)", PAGE, re.DOTALL)
"""Each query with the table that follows it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder with the months of `make run`: their files, and the database."""
    folder = tmp_path_factory.mktemp("sample")
    database = folder / "data/staging/data.duckdb"
    with file_tables(database, {}, wait_seconds=0, log=print) as tables:
        for month in ("2023-01", "2023-02", "2023-03"):
            path = write_month(folder, month, 100_000)
            load_month(tables, month, path)
            (folder / "data/raw").mkdir(exist_ok=True)
            path.rename(folder / f"data/raw/taxi_trips_{month}.parquet")
        for fleet, dataset in FLEETS.items():
            load_month(tables, "2023-03", write_fleet_month(folder, fleet, "2023-03", 100_000), dataset=dataset)
        replace_zones(tables, read_zones(write_zones(folder / "zones.csv"), DISK))
    return folder


@pytest.fixture
def connection(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[duckdb.DuckDBPyConnection]:
    monkeypatch.chdir(folder)
    with duckdb.connect("data/staging/data.duckdb", read_only=True) as connection:
        yield connection


def table(result: duckdb.DuckDBPyRelation) -> str:
    """`result` as a table of Markdown, as the page shows it."""
    rows = [[str(value) for value in row] for row in result.fetchall()]
    alignment = ["---:" if is_number(type_) else "---" for type_ in result.types]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (result.columns, alignment, *rows))


def is_number(type_: object) -> bool:
    return str(type_) in ("INTEGER", "BIGINT", "DOUBLE")


@pytest.mark.parametrize(("query", "shown"), QUERIES, ids=map(str, range(len(QUERIES))))
def test_the_result_of_each_query_is_the_one_that_is_shown(
    query: str, shown: str, connection: duckdb.DuckDBPyConnection
) -> None:
    assert table(connection.sql(query)) == shown


def test_every_question_has_a_query_and_a_result() -> None:
    questions = re.findall(r"^### (.*\?)$", PAGE, re.MULTILINE)
    assert len(questions) == 12
    assert len(QUERIES) == PAGE.count("```sql") == 13
    assert [query for query, shown in QUERIES if shown.count("\n") < 3] == []


def test_the_code_of_the_page_connects_and_reads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    found: dict[str, Any] = {}
    exec(code, found)
    assert len(found["frame"]) == 1000
    assert {"total_amount", "pickup_zone", "dropoff_borough"} <= set(found["frame"].columns)
    # It is closed again, so that runs do not wait.
    with file_tables(folder / "data/staging/data.duckdb", {}, wait_seconds=0, log=print) as tables:
        assert tables.execute("SELECT count(*) FROM trips").fetchall() == [(300_000,)]


def test_loads_do_not_wait_for_a_reader_of_the_snapshot_which_is_whole(folder: Path, tmp_path: Path) -> None:
    (command,) = re.findall(r"```\n(flock .*?)```", PAGE, re.DOTALL)
    database = tmp_path / "data/staging/data.duckdb"
    database.parent.mkdir(parents=True)
    shutil.copyfile(folder / "data/staging/data.duckdb", database)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    # Not a link: Python would not find the packages beside it.
    (tmp_path / ".venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / ".venv/bin/python").chmod(0o755)
    count = "SELECT count(*), max(partition_date) FROM trips"

    def take() -> int:
        return subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False, capture_output=True).returncode

    assert take() == 0
    with duckdb.connect(str(tmp_path / "data/snapshot.duckdb"), read_only=True) as reader:
        with file_tables(database, {}, wait_seconds=0, log=print) as tables:
            load_month(tables, "2023-04", write_month(tmp_path, "2023-04", 1000))
        assert take() == 0
        assert reader.execute(count).fetchall() == [(300_000, "2023-03")]
    with duckdb.connect(str(tmp_path / "data/snapshot.duckdb"), read_only=True) as reader:
        assert reader.execute(count).fetchall() == [(301_000, "2023-04")]
    database.write_text("no database any more, so no snapshot of it")
    assert take() != 0
    with duckdb.connect(str(tmp_path / "data/snapshot.duckdb"), read_only=True) as reader:
        assert reader.execute(count).fetchall() == [(301_000, "2023-04")]
