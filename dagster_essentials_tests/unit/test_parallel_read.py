"""A month's file is read by several threads at a time: each row once, whatever the file looks like."""

from pathlib import Path
from random import Random

import duckdb
import pyarrow.parquet as pq
import pytest

from dagster_essentials.errors import PipelineError
from dagster_essentials.ingestion import file_format
from dagster_essentials.ingestion.file_format import Parquet
from dagster_essentials.warehouse.file import file_tables
from dagster_essentials.warehouse.tables import Tables
from dagster_essentials_tests.support.faults.samples import read_arrow, rewrite, sample, write_arrow
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.random_files import random_file

pytestmark = pytest.mark.duckdb


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_format, "MIN_PART_ROWS", 10)
    monkeypatch.setattr(file_format, "ROW_GROUPS_PER_THREAD", 1000)


def relation(path: Path, threads: int) -> str:
    with open(path, "rb") as file:
        return Parquet().in_parts(Parquet().read_schema(file), threads)


def rows(relation: str, path: Path) -> list[str]:
    return sorted(map(repr, duckdb.execute(f"SELECT * FROM {relation}", {"file": str(path)}).fetchall()))


@pytest.mark.parametrize("seed", range(4))
def test_the_parts_have_each_row_of_a_random_file_once(tmp_path: Path, seed: int) -> None:
    random, path, read = Random(seed), tmp_path / "month.parquet", 0
    for _ in range(12):
        path.write_bytes(random_file(sample("2023-01", random.choice([20, 21, 300])), random)[1])
        try:
            whole = [row.removesuffix(")") for row in rows(Parquet().relation, path)]
            parts = {threads: relation(path, threads) for threads in (2, 3, 7)}
        except (PipelineError, duckdb.Error):
            continue  # Some have types that DuckDB does not know.
        for threads, query in parts.items():
            assert query.count("read_parquet") == min(threads, len(whole) // 10)
            in_parts = [row.rpartition(",")[0] for row in rows(query, path)]
            assert sorted(in_parts) == sorted(row.rstrip(",") for row in whole)
        read += 1
    assert read >= 5


@pytest.mark.parametrize("group", [7, 100, 1000], ids=lambda rows: f"row groups of {rows}")
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_month_is_loaded_whole_by_any_number_of_threads(tmp_path: Path, threads: int, group: int) -> None:
    table = read_arrow(sample("2023-01", 300))
    path = tmp_path / "month.parquet"
    path.write_bytes(write_arrow(table, row_group_size=group))
    with file_tables(tmp_path / "taxi.duckdb", {"threads": threads}, 0, print) as tables:
        assert tables.threads == threads
        load_month(tables, "2023-01", path)
        loaded = tables.execute(
            "SELECT pickup_datetime, pickup_zone_id, total_amount FROM trips ORDER BY ALL"
        ).fetchall()
    columns = [table.column(name).to_pylist() for name in ("tpep_pickup_datetime", "PULocationID", "total_amount")]
    assert loaded == sorted(zip(*columns, strict=True))


@pytest.mark.parametrize(("groups", "parts"), [(1, 2), (3, 2), (7, 2), (8, 1), (20, 1)])
def test_many_row_groups_need_no_parts(
    tmp_path: Path, groups: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_format, "ROW_GROUPS_PER_THREAD", 4)
    path = tmp_path / "month.parquet"
    path.write_bytes(write_arrow(read_arrow(sample("2023-01", 20 * groups)), row_group_size=20))
    assert relation(path, 2).count("read_parquet") == parts


def test_a_file_that_numbers_its_rows_itself_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "month.parquet"
    path.write_bytes(rewrite(sample("2023-01"), "SELECT *, 1 AS File_Row_Number FROM month"))
    assert pq.read_schema(path).names[-1] == "File_Row_Number"
    tables = Tables(duckdb.connect(config={"threads": 4}))
    assert load_month(tables, "2023-01", path).version.num_trips == 300


@pytest.mark.parametrize(
    ("config", "threads"),
    [
        ({"memory_limit": "100MB"}, 1),
        ({"memory_limit": "300MB"}, 1),
        ({"memory_limit": "300MB", "threads": 3}, 3),
        ({"memory_limit": "300GB"}, Tables(duckdb.connect()).threads),
    ],
)
def test_duckdb_has_as_many_threads_as_its_memory_allows(
    tmp_path: Path, config: dict[str, object], threads: int
) -> None:
    with file_tables(tmp_path / "taxi.duckdb", config, 0, print) as tables:
        assert tables.threads == threads
