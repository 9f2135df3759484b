"""SQL by which a value of a file becomes one of the table: unchanged, or the load ends with an error."""

MAX_TEXT_BYTES = 100
"""The real values are a letter or a short code. A file of 68 kB can repeat one of 20 MB three thousand times."""


def cast(name: str, target: str, is_integer: bool) -> str:
    """The column `name` as the SQL type `target`; `is_integer` tells whether it holds integers."""
    quoted = quote(name)
    if target == "INTEGER" and not is_integer:
        # A cast from DOUBLE would round silently.
        return (
            f"CASE WHEN {quoted} = trunc({quoted}) OR {quoted} IS NULL THEN {quoted}::INTEGER "
            f"ELSE error({literal(f'{name} holds a number that is not whole: ')} || {quoted})::INTEGER END"
        )
    if target == "VARCHAR":
        return limited_text(name, quoted, target)
    return f"{quoted}::{target}"


def limited_text(name: str, expression: str, target: str) -> str:
    """`expression`, of the SQL type `target`, unless the text of the column `name` is too long."""
    message = literal(f"{name} holds a text of more than {MAX_TEXT_BYTES} bytes")
    return f"CASE WHEN strlen({quote(name)}) > {MAX_TEXT_BYTES} THEN error({message})::{target} ELSE {expression} END"


def quote(name: str) -> str:
    """`name` as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: int | str | None) -> str:
    """`value` as a constant."""
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
