"""What the database says of itself: comments on tables, views and their columns, from the lists that create them."""

from collections.abc import Mapping
from typing import Literal

import duckdb

from dagster_essentials.warehouse.exclusive import is_shared


def write_comments(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    comment: str,
    columns: Mapping[str, str],
    kind: Literal["table", "view"] = "table",
) -> None:
    """Comment on the table or view `name`, and on those of its columns that are among `columns`, with their descriptions.

    To be called in the transaction that creates the table or adds columns. Comments that are right already are not written
    again: to compare takes 0.8 ms, to write those of `trips` another 2 ms.
    """
    present = connection.execute(
        f"SELECT NULL, comment FROM duckdb_{kind}s() WHERE {kind}_name = $name "
        "UNION ALL SELECT column_name, comment FROM duckdb_columns() WHERE table_name = $name",
        {"name": name},
    ).fetchall()
    wanted: dict[str | None, str] = {None: comment}
    # A lake has no comments on the columns of a view.
    if kind == "table" or not is_shared(connection):
        wanted.update(columns)
    statements = [
        f"COMMENT ON {kind if column is None else 'column'} {name if column is None else f'{name}.{column}'} "
        # COMMENT takes no parameters.
        f"IS '{wanted[column].replace(chr(39), chr(39) * 2)}'"
        for column, found in present
        if column in wanted and found != wanted[column]
    ]
    if statements:
        connection.execute("; ".join(statements))
