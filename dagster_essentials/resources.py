"""The database resource. Who may open the file, and how long the others wait, is decided in `warehouse/`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import duckdb
from dagster_duckdb import DuckDBResource
from pydantic import Field

from dagster_essentials.settings import SETTINGS
from dagster_essentials.warehouse.locked_connection import locked_connection


class LockedDuckDBResource(DuckDBResource):
    """A `DuckDBResource` that serializes access across processes with a file lock."""

    wait_seconds: float = Field(default=600, description="How long to wait for a database that is in use, in seconds")

    @contextmanager
    def get_connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Wait for the database, then hold it exclusively for the length of the block.

        Raises:
            DatabaseError: it was not free within `wait_seconds`, or it cannot be used.
        """
        log = dg.get_dagster_logger().info
        with locked_connection(Path(self.database), self.connection_config, self.wait_seconds, log) as connection:
            yield connection


database_resource = LockedDuckDBResource(
    database=str(SETTINGS.database),
    connection_config={
        "memory_limit": SETTINGS.database_memory_limit,
        **({"threads": SETTINGS.database_threads} if SETTINGS.database_threads else {}),
    },
    wait_seconds=SETTINGS.database_wait_seconds,
)
