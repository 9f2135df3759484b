"""A lake for a test: a catalogue and a bucket of its own, processes that use it, and what it has to have afterwards."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from uuid import uuid4

import pyarrow.parquet as pq
import pytest

from dagster_essentials.ingestion.data_folder import ObjectStore
from dagster_essentials.warehouse.lake import Lake
from dagster_essentials.warehouse.lake.connection import lake_tables
from dagster_essentials.warehouse.lake.tables import LakeTables
from dagster_essentials.warehouse.month_versions import versions_by_month
from dagster_essentials_tests.cluster.servers import PASSWORD, Postgres

SECRETS = (PASSWORD,)
"""No message may contain them."""
SECONDS = 120
"""For a process to end: a time-out, not a wait."""

LOAD = """
import sys
from pathlib import Path
from dagster_essentials import settings
from dagster_essentials.warehouse.lake.connection import lake_tables
from dagster_essentials_tests.support.loading import load_month

for force in {rounds}:
    print("ready", flush=True)
    sys.stdin.readline()
    for month in {months}:
        with lake_tables(settings.SETTINGS.lake, {{}}, 600, print) as tables:
            loaded = load_month(tables, month, Path({folder!r}) / f"yellow_tripdata_{{month}}.parquet", force=force)
            print(month, "unchanged" if loaded.is_unchanged else "loaded", flush=True)
"""


@dataclass
class LakeServers:
    """PostgreSQL and an S3 server, with the environment variables that lead to the latter."""

    postgres: Postgres
    s3: dict[str, str] = field(repr=False)

    @property
    def store(self) -> ObjectStore:
        environ = self.s3
        return ObjectStore(
            environ["AWS_ENDPOINT_URL"],
            environ["AWS_REGION"],
            environ["AWS_ACCESS_KEY_ID"],
            environ["AWS_SECRET_ACCESS_KEY"],
            None,
        )

    def new_lake(self, folder: Path | None = None) -> Lake:
        """A lake that does not exist yet: its data files in `folder`, or in a bucket of its own."""
        name = f"lake-{uuid4().hex[:12]}"
        self.query("postgres", f'CREATE DATABASE "{name}"')
        if folder is not None:
            return Lake(self.postgres.url(name), f"{folder}/", None)
        self.create_bucket(name)
        return Lake(self.postgres.url(name), f"s3://{name}/lake/", self.store)

    def create_bucket(self, name: str) -> None:
        with urlopen(Request(f"{self.s3['AWS_ENDPOINT_URL']}/{name}", method="PUT"), timeout=10):
            pass

    def query(self, database: str, sql: str) -> list[Any]:
        """Execute a statement in PostgreSQL's `database`."""
        import psycopg2

        session = psycopg2.connect(self.postgres.url(database))
        session.autocommit = True
        try:
            cursor = session.cursor()
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []
        finally:
            session.close()

    def environ(self, lake: Lake) -> dict[str, str]:
        """The settings of a process that uses `lake`."""
        return {
            **os.environ,
            **self.s3,
            "DUCKDB_DATABASE": f"ducklake:postgres:{lake.catalog}",
            "DUCKLAKE_DATA_PATH": lake.data_path,
        }

    def start(self, lake: Lake, code: str) -> "subprocess.Popen[str]":
        """Start a process that executes `code`, with the settings of `lake`."""
        return subprocess.Popen(
            [sys.executable, "-c", code],
            # The first line that it prints has to be its own.
            env={**self.environ(lake), "PYTHONWARNINGS": "ignore"},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


@contextmanager
def opened(lake: Lake, wait_seconds: float = 60) -> Iterator[LakeTables]:
    """The tables of `lake`, as runs have them."""
    with lake_tables(lake, {"memory_limit": "512MB"}, wait_seconds, log=print) as tables:
        yield tables


def file(folder: Path, month: str) -> Path:
    return folder / f"yellow_tripdata_{month}.parquet"


def rows(lake: Lake) -> dict[str, int]:
    with opened(lake) as tables:
        return dict(tables.execute("SELECT partition_date, count(*) FROM trips GROUP BY ALL").fetchall())


def rows_in_files(folder: Path, months: Sequence[str]) -> dict[str, int]:
    return {month: pq.read_metadata(file(folder, month)).num_rows for month in months}


def assert_consistent(lake: Lake, folder: Path, months: Sequence[str]) -> None:
    """The lake has these months of `folder`, each once, and its other tables say the same of them."""
    expected = rows_in_files(folder, months)
    assert rows(lake) == expected
    with opened(lake) as tables:
        versions = {month: each for (_, month), each in versions_by_month(tables, ["yellow"]).items()}
        assert {month: each[-1].num_trips for month, each in versions.items()} == expected
        assert {len(each) for each in versions.values()} == {1}
        for table in ("trips_by_day", "pickups_by_zone"):
            sums = f"SELECT partition_date, sum(num_trips) FROM {table} GROUP BY ALL"
            assert dict(tables.execute(sums).fetchall()) == expected
        for month in months:
            dollars = sum(pq.read_table(file(folder, month))["total_amount"].to_pylist())
            assert versions[month][-1].total_amount == pytest.approx(dollars, abs=0.01)


def load_at_once(
    lake_servers: LakeServers, lake: Lake, folder: Path, months: Sequence[Sequence[str]], rounds: Sequence[bool]
) -> Iterator[list[str]]:
    """Let a process for each of `months` load these, all starting at the same time, in as many rounds.

    Args:
        rounds: for each of them, whether months that are loaded already are replaced.

    Yields:
        After each round, what each process has printed in it.
    """
    processes = [
        lake_servers.start(lake, LOAD.format(months=list(each), folder=str(folder), rounds=rounds)) for each in months
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for _ in rounds:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = ["".join(takewhile(lambda line: line != "ready\n", process.stdout or ())) for process in processes]
        yield outputs
    for process in processes:
        assert process.wait(SECONDS) == 0, outputs
