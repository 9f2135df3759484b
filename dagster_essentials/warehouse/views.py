"""Views: creating one, or replacing that of an earlier release, but never what somebody else made under its name."""

import re
from collections.abc import Mapping

import duckdb

from dagster_essentials.errors import DatabaseUnusableError
from dagster_essentials.warehouse.comments import write_comments


def create_view(
    connection: duckdb.DuckDBPyConnection, name: str, query: str, comment: str, columns: Mapping[str, str]
) -> None:
    """Create the view `name` of `query`, and describe it and its `columns`.

    To be called in the transaction that creates or changes a table that it reads. If the view is right already, which takes
    2 ms to see, nothing is written: a load that leaves its month alone does not change the database.

    Raises:
        DatabaseUnusableError: there is another table or view under the name.
    """
    if _words(_find_view(connection, name, comment)) != _words(f"CREATE VIEW {name} AS {query}"):
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS {query}")
    write_comments(connection, name, comment, columns, kind="view")


def _find_view(connection: duckdb.DuckDBPyConnection, name: str, purpose: str) -> str:
    """The statement that created the view, or an empty text; what has no comment was made by something else."""
    existing = connection.execute(
        "SELECT sql, comment FROM duckdb_views() WHERE view_name = $name "
        "UNION ALL SELECT sql, NULL FROM duckdb_tables() WHERE table_name = $name",
        {"name": name},
    ).fetchall()
    if not existing:
        return ""
    sql, comment = existing[0]
    if comment is None:
        (path,) = connection.execute("SELECT path FROM duckdb_databases() WHERE path IS NOT NULL").fetchall()[0]
        raise DatabaseUnusableError(
            f"{name} in {path} was made by something else, and is the name of a view: {purpose[0].lower()}{purpose[1:]}. "
            "Nothing was changed. Rename or drop it, and materialize again."
        )
    return str(sql)


def _words(sql: str) -> list[str]:
    """What DuckDB leaves of a statement that it keeps: it adds quotes and parentheses, and changes the case of functions."""
    return re.findall(r"\w+", sql.lower())
