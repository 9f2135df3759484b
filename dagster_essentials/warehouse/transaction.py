"""Transactions, and DuckDB's errors as errors of the pipeline: what failed, DuckDB's message, and what to do."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging import getLogger
from typing import TypeVar

import duckdb

from dagster_essentials.errors import ConnectionLostError, QueryError
from dagster_essentials.warehouse.exclusive import confirm, exclusive

T = TypeVar("T")

ATTEMPTS = 5
"""At a transaction that conflicts with another one."""


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Commit at the end of the block; roll back if it raises. In a lake, other processes commit before or after it."""
    with exclusive(connection):
        connection.execute("BEGIN")
        try:
            yield
            confirm(connection)
            connection.execute("COMMIT")
        except BaseException:
            # After some errors, such as a full disk, DuckDB has rolled back already, and ROLLBACK fails.
            with suppress(duckdb.Error):
                connection.execute("ROLLBACK")
            raise


def repeat_on_conflict(work: Callable[[], T]) -> T:
    """Call `work`, a transaction, and again if something else has changed the same tables meanwhile.

    It cannot happen in a file. In a lake, it is something that does not take `exclusive.COMMITS`, such as a person's UPDATE.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return work()
        except duckdb.TransactionException as error:
            text = str(error).replace("\n", " ")
            # After a lost connection it is unknown whether it was committed, and the same file must not be added twice.
            if "conflict" not in text:
                raise
            getLogger(__name__).warning("%s. Attempt %d of %d follows.", text, attempt + 1, ATTEMPTS)
    return work()


@contextmanager
def explain_duckdb_errors(what: str, advice: str) -> Iterator[None]:
    """Turn an error of DuckDB in the block into one with `what` failed, DuckDB's message, and `advice`.

    Raises:
        ConnectionLostError: the connection to the lake's catalogue was lost.
        QueryError: for every other duckdb.Error.
    """
    try:
        yield
    except duckdb.Error as error:
        raise_if_connection_lost(error)
        text = str(error).partition("\n")[0].rstrip(".!")
        if re.search("could not write|no space left", text, re.IGNORECASE):
            advice = "Free some disk space for the database (DUCKDB_DATABASE), and materialize again."
        raise QueryError(f"{what}: {text}. {advice}") from None


# What libpq says, PostgreSQL while it stops and starts, and DuckDB if it needs another connection then.
_LOST = re.compile(
    "server closed the connection|connection not open|no connection to the server|could not (send|receive) data"
    "|SSL (connection|SYSCALL)|terminating connection|database system is (shutting|starting)|unable to connect to Postgres"
    # What DuckDB 1.5.5 makes of it in the middle of a query, and if it can neither commit nor roll back.
    '|unsuccessful query result|database has been invalidated|failed to execute query "ROLLBACK"',
    re.IGNORECASE,
)


def raise_if_connection_lost(error: Exception) -> None:
    """Raise that the connection to the lake's catalogue was lost, if that is what `error` of a statement means.

    Raises:
        ConnectionLostError: it was.
    """
    if lost := _LOST.search(str(error)):
        raise ConnectionLostError(lost[0]) from None
