"""Transactions, and DuckDB's errors as errors of the pipeline: what failed, DuckDB's message, and what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import duckdb

from dagster_essentials.errors import QueryError


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Commit at the end of the block; roll back if it raises."""
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # After some errors, such as a full disk, DuckDB has rolled back already, and ROLLBACK fails.
        with suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        raise


@contextmanager
def explain_duckdb_errors(what: str, advice: str) -> Iterator[None]:
    """Turn an error of DuckDB in the block into one with `what` failed, DuckDB's message, and `advice`.

    Raises:
        QueryError: for every duckdb.Error.
    """
    try:
        yield
    except duckdb.Error as error:
        text = str(error).partition("\n")[0].rstrip(".!")
        if re.search("could not write|no space left", text, re.IGNORECASE):
            advice = "Free some disk space for the database (DUCKDB_DATABASE), and materialize again."
        raise QueryError(f"{what}: {text}. {advice}") from None
