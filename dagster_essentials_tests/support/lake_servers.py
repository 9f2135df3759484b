"""A lake for a test: a catalogue and a bucket of its own, and processes that use it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from uuid import uuid4

import duckdb

from cluster.servers import PASSWORD, Postgres
from dagster_essentials.remote_settings import Lake, ObjectStore
from dagster_essentials.warehouse.lake import lake_connection

SECRETS = (PASSWORD,)
"""What no message may contain."""


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
            env=self.environ(lake),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


@contextmanager
def opened(lake: Lake, wait_seconds: float = 60) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to `lake`, as runs have it."""
    with lake_connection(lake, {"memory_limit": "512MB"}, wait_seconds, log=print) as connection:
        yield connection
