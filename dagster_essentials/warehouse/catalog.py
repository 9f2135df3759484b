"""What the database has: questions to DuckDB's catalog."""

import duckdb


def has_table(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Whether the database has a table `name`."""
    return bool(connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = $name", {"name": name}).fetchall())
