"""The resource of a database: a `DuckDBResource` that also gives the `Tables` that the assets of this project use."""

import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from math import inf
from pathlib import Path

import dagster as dg
import duckdb
from dagster_duckdb import DuckDBResource
from pydantic import Field

from dagster_essentials.warehouse.file import file_tables
from dagster_essentials.warehouse.tables import Tables


class TablesResource(DuckDBResource):
    """A `DuckDBResource` with `tables()`. `get_connection()` yields their plain DuckDB connection, for the assets of others."""

    wait_seconds: float = Field(default=600, description="How long to wait for what another run uses, in seconds")

    @abstractmethod
    def tables(self) -> AbstractContextManager[Tables]:
        """Connect to the tables for the length of the block.

        Raises:
            DatabaseError: they cannot be used, or another process did not free them within `wait_seconds`.
        """

    @contextmanager
    def get_connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The connection of `tables()`, with its errors."""
        with self.tables() as tables:
            yield tables.connection


class LockedDuckDBResource(TablesResource):
    """A database file, to which a file lock serializes access across processes."""

    def tables(self) -> AbstractContextManager[Tables]:
        """Wait for the database, then hold it exclusively for the length of the block. See `TablesResource.tables`."""
        log = dg.get_dagster_logger().info
        return file_tables(Path(self.database), self.connection_config, self.wait_seconds, log)


@contextmanager
def open_tables(database: DuckDBResource) -> Iterator[Tables]:
    """The tables of `database`. A plain `DuckDBResource` has them in a file, and waits for nobody."""
    if isinstance(database, TablesResource):
        with database.tables() as tables:
            yield tables
    else:
        with database.get_connection() as connection:
            yield Tables(connection)


HOLD_SECONDS = 1.0
"""Unchanged months use a database one after the other for so long before others get a chance: to open and close it takes longer
than to find that a month is unchanged."""


class HeldTables:
    """The tables of a database, held for one piece of work after the other until `HOLD_SECONDS` have passed."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._tables: Tables | None = None
        self._since = 0.0

    @contextmanager
    def open(self, database: DuckDBResource) -> Iterator[Tables]:
        """As `open_tables`, unless they are held already. After an error, or if others can use them, they are not held on."""
        if self._tables is None:
            self._tables = self._stack.enter_context(open_tables(database))
            self._since = time.monotonic()
        try:
            yield self._tables
        except BaseException:
            self.close()
            raise
        # In a lake, nobody waits for the tables, but for the months on which the connection has locks.
        if not self._tables.is_held_alone or time.monotonic() - self._since >= HOLD_SECONDS:
            self.close()

    def expire(self) -> None:
        """Let go of the tables at the end of the block."""
        self._since = -inf

    def close(self) -> None:
        """Let go of the tables, if they are held."""
        self._tables = None
        self._stack.close()
