"""SQL by which a value of a file becomes one of the table: unchanged, or the load ends with an error."""

from typing import TYPE_CHECKING

from dagster_essentials.ingestion.sql import literal, quote

if TYPE_CHECKING:
    import pyarrow as pa

EXACT_DIGITS = 15
"""Of a decimal. DOUBLE holds so many, and the power of ten that they are divided by, exactly: the result is rounded once."""


def cast(name: str, target: str, type_: "pa.DataType", max_bytes: int) -> str:
    """The column `name`, of the Arrow type `type_`, as the SQL type `target`; a text has at most `max_bytes`."""
    import pyarrow as pa

    quoted, plain = quote(name), plain_type(type_)
    if target == "DOUBLE" and pa.types.is_decimal(plain) and plain.precision > EXACT_DIGITS:
        # A direct cast of -7.94 as decimal(38, 18), Spark's default, is -7.9399999999999995 in DuckDB 1.5.6.
        return f"{quoted}::VARCHAR::DOUBLE"
    if target == "TIMESTAMP" and plain.unit == "ns":
        # A direct cast truncates nanoseconds in DuckDB 1.5.6, and rounds them in 2.0. Of an infinite time, there are none.
        return (
            f"CASE WHEN nanosecond({quoted}) % 1000 = 0 OR {quoted} IS NULL THEN {quoted}::TIMESTAMP "
            f"ELSE error({literal(f'{name} holds a time that is not in whole microseconds: ')} || {quoted})::TIMESTAMP END"
        )
    if target in ("INTEGER", "BIGINT") and not pa.types.is_integer(type_):
        # A cast from DOUBLE would round silently.
        return (
            f"CASE WHEN {quoted} = trunc({quoted}) OR {quoted} IS NULL THEN {quoted}::{target} "
            f"ELSE error({literal(f'{name} holds a number that is not whole: ')} || {quoted})::{target} END"
        )
    if target == "VARCHAR":
        return limited_text(name, quoted, target, max_bytes)
    return f"{quoted}::{target}"


def cast_text(name: str, target: str, max_bytes: int) -> str:
    """The column `name`, which holds texts, as the SQL type `target`. A text of spaces is null, except in a column of texts."""
    quoted = quote(name)
    if target == "VARCHAR":
        return limited_text(name, quoted, target, max_bytes)
    value = f"nullif(trim({quoted}), '')"
    # Alone, the casts would round 5.7, drop an offset, and accept 'infinity' as a time.
    pattern, kind = _PATTERNS.get(target, (None, ""))
    if pattern is None:
        return f"{value}::{target}"
    message = literal(f"{name} holds a text that is not {kind}: ")
    return (
        f"CASE WHEN {value} IS NULL OR regexp_full_match({value}, {literal(pattern)}) THEN {value}::{target} "
        f"ELSE error({message} || left({quoted}, 40))::{target} END"
    )


_WHOLE = (r"[+-]?[0-9]+(\.0*)?", "a whole number")
_PATTERNS = {
    "INTEGER": _WHOLE,
    "BIGINT": _WHOLE,
    "TIMESTAMP": (r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6}0*)?)?", "a local time"),
    "DATE": (r"[0-9]{4}-[0-9]{2}-[0-9]{2}", "a date"),
}


def limited_text(name: str, expression: str, target: str, max_bytes: int) -> str:
    """`expression`, of the SQL type `target`, unless the text of the column `name` has more than `max_bytes`."""
    message = literal(f"{name} holds a text of more than {max_bytes} bytes")
    return f"CASE WHEN strlen({quote(name)}) > {max_bytes} THEN error({message})::{target} ELSE {expression} END"


def is_text(type_: "pa.DataType") -> bool:
    """True if DuckDB reads the Arrow type `type_` as text."""
    import pyarrow as pa

    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def plain_type(type_: "pa.DataType") -> "pa.DataType":
    """`type_`, or of a dictionary, as pandas writes categories, the type of its values: DuckDB reads those."""
    import pyarrow as pa

    return type_.value_type if pa.types.is_dictionary(type_) else type_
