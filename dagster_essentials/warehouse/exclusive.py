"""What only one process may do at a time, while others use the database: load a month, commit, write a report's file.

A DuckDB file is open in one process only, so there is nothing to wait for. Of a lake, many processes have a connection; each
connection then has the locks of `lake_locks.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import duckdb

if TYPE_CHECKING:
    # It needs psycopg2, which is installed for a lake only.
    from dagster_essentials.warehouse.lake.locks import CatalogLocks

COMMITS = "commits"
"""The name that `transaction` takes: whoever has it sees no other process's commit, and no commit of its own conflicts."""

_LOCKS: "WeakKeyDictionary[duckdb.DuckDBPyConnection, CatalogLocks]" = WeakKeyDictionary()


@contextmanager
def shared_connection(connection: duckdb.DuckDBPyConnection, locks: "CatalogLocks") -> Iterator[None]:
    """In the block, `connection` is one of several to the same database, and `locks` are what it needs for that."""
    _LOCKS[connection] = locks
    try:
        yield
    finally:
        del _LOCKS[connection]


def is_shared(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether other processes may use the database at the same time: whether it is a lake."""
    return connection in _LOCKS


def hold(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Keep other processes from what `name` stands for until the connection is closed.

    Raises:
        DatabaseBusyError: another process did not end it in time.
    """
    if locks := _LOCKS.get(connection):
        locks.hold(name)


@contextmanager
def exclusive(connection: duckdb.DuckDBPyConnection, name: str = COMMITS) -> Iterator[None]:
    """Keep other processes from what `name` stands for during the block.

    Raises:
        DatabaseBusyError: another process did not end it in time.
    """
    if locks := _LOCKS.get(connection):
        with locks.exclusive(name):
            yield
    else:
        yield


def confirm(connection: duckdb.DuckDBPyConnection) -> None:
    """Check that this connection still has what it holds.

    Raises:
        ConnectionLostError: it does not, so another process may be at work on the same.
    """
    if locks := _LOCKS.get(connection):
        locks.confirm()
