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


def finite_sum(value: str) -> str:
    """SQL for the sum of the finite values of an expression; null if there are none, or if it is beyond the range of a double.

    A single NaN or infinity would make every sum so, and a sum of finite values that is too large becomes NaN.
    """
    total = f"fsum({value}) FILTER (isfinite({value}))"
    return f"CASE WHEN isfinite({total}) THEN {total} END"


def first_line(error: duckdb.Error) -> str:
    """The message of `error`, without the hints and the query that follow."""
    return str(error).partition("\n")[0].rstrip(".!")
