"""A table as a CSV file."""

import errno
import os
import re
from pathlib import Path

import duckdb

from dagster_essentials.ingestion.sql import literal
from dagster_essentials.warehouse.catalog import Table
from dagster_essentials.warehouse.tables import Tables


def copy_to_csv(tables: Tables, table: Table, order: str, path: Path) -> None:
    """Write the columns of `table`, in `order`, to `path`, a temporary file of `atomic_write`.

    Those of type double, sums of dollars and miles, have two decimals.

    Raises:
        OSError: the file cannot be written; not an error of the database.
    """
    values = (f"printf('%.2f', {name}) AS {name}" if type_ == "double" else name for name, type_, _ in table.columns)
    try:
        # Without USE_TMP_FILE false, DuckDB would write another temporary file, and rename it over the locked one.
        tables.execute(
            f"COPY (SELECT {', '.join(values)} FROM {table.name} ORDER BY {order}) TO {literal(str(path))} "
            "(FORMAT csv, HEADER, USE_TMP_FILE false)"
        )
    except duckdb.IOException as error:
        if str(path) not in str(error):
            raise
        # DuckDB 2.0 has the error of its writing thread as JSON in the text.
        number = re.search(r'"errno":"(\d+)"', str(error))
        reason = os.strerror(int(number[1])) if number else str(error).rpartition(": ")[2]
        raise OSError(errno.EIO, reason) from None
