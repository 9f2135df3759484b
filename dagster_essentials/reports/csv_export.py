"""A table as a CSV file."""

import errno
from collections.abc import Sequence
from pathlib import Path

import duckdb


def copy_to_csv(
    connection: duckdb.DuckDBPyConnection, table: str, columns: Sequence[tuple[str, str, str]], order: str, path: Path
) -> None:
    """Write `table`, in `order`, to `path`, a temporary file of `atomic_write`.

    The `columns` are given as name, type, description. Those of type double, sums of dollars and miles, have two decimals.

    Raises:
        OSError: the file cannot be written; not an error of the database.
    """
    values = (f"printf('%.2f', {name}) AS {name}" if type_ == "double" else name for name, type_, _ in columns)
    target = str(path).replace("'", "''")
    try:
        # Without USE_TMP_FILE false, DuckDB would write another temporary file, and rename it over the locked one.
        connection.execute(
            f"COPY (SELECT {', '.join(values)} FROM {table} ORDER BY {order}) TO '{target}' "
            "(FORMAT csv, HEADER, USE_TMP_FILE false)"
        )
    except duckdb.IOException as error:
        if str(path) not in str(error):
            raise
        raise OSError(errno.EIO, str(error).rpartition(": ")[2]) from None
