"""Texts for DuckDB and of DuckDB: names and constants where a statement takes no parameter, and the message of an error."""

import duckdb


def quote(name: str) -> str:
    """`name` as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: int | str | None) -> str:
    """`value` as a constant."""
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def first_line(error: duckdb.Error) -> str:
    """The message of `error`, without the hints and the query that follow."""
    return str(error).partition("\n")[0].rstrip(".!")
