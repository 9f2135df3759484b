"""Text in SQL where a statement takes no parameter: names, and constants in expressions and in COPY, COMMENT or ATTACH."""


def quote(name: str) -> str:
    """`name` as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: int | str | None) -> str:
    """`value` as a constant."""
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
