"""A query's result as a CSV file."""

import errno
from pathlib import Path

import duckdb


def copy_to_csv(connection: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    """Write the result of `query` to `path`, a temporary file of `atomic_write`.

    Raises:
        OSError: the file cannot be written; not an error of the database.
    """
    target = str(path).replace("'", "''")
    try:
        # Without USE_TMP_FILE false, DuckDB would write another temporary file, and rename it over the locked one.
        connection.execute(f"COPY ({query}) TO '{target}' (FORMAT csv, HEADER, USE_TMP_FILE false)")
    except duckdb.IOException as error:
        if str(path) not in str(error):
            raise
        raise OSError(errno.EIO, str(error).rpartition(": ")[2]) from None
