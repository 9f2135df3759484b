"""SQL by which a value of a file becomes one of the table: unchanged, or the load ends with an error."""

from typing import TYPE_CHECKING

from dagster_essentials.ingestion.sql import literal, quote

if TYPE_CHECKING:
    import pyarrow as pa


def cast(name: str, target: str, is_integer: bool, max_bytes: int) -> str:
    """The column `name` as the SQL type `target`; `is_integer` tells whether it holds integers."""
    quoted = quote(name)
    if target == "INTEGER" and not is_integer:
        # A cast from DOUBLE would round silently.
        return (
            f"CASE WHEN {quoted} = trunc({quoted}) OR {quoted} IS NULL THEN {quoted}::INTEGER "
            f"ELSE error({literal(f'{name} holds a number that is not whole: ')} || {quoted})::INTEGER END"
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
    "TIMESTAMP": (r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?", "a local time"),
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
