"""Tables and views: what there is under a name, how one is created from its description, and its comments.

Only the schema that the connection uses counts: other schemas and attached databases may have tables of the same names. DuckDB
keeps the case of a name, and finds it without regard to case.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dagster_essentials.errors import DatabaseUnusableError
from dagster_essentials.ingestion.sql import literal, quote
from dagster_essentials.warehouse.tables import Tables

HERE = "database_name = current_database() AND schema_name = current_schema()"
"""SQL that is true for what the connection uses, in the functions of DuckDB's catalog."""


def has_table(tables: Tables, name: str) -> bool:
    """True if there is a table `name`."""
    return bool(
        tables.execute(
            f"SELECT 1 FROM duckdb_tables() WHERE lower(table_name) = lower($name) AND {HERE}", {"name": name}
        ).fetchall()
    )


def columns_of(tables: Tables, name: str) -> dict[str, str]:
    """The columns of the table or view `name`, in lower case, with their types; none if there is nothing under the name."""
    return dict(
        tables.execute(
            f"SELECT lower(column_name), data_type FROM duckdb_columns() WHERE lower(table_name) = lower($name) AND {HERE} "
            "ORDER BY column_index",
            {"name": name},
        ).fetchall()
    )


@dataclass(frozen=True)
class Table:
    """The description of a table.

    Attributes:
        name, comment: of the table, in the database.
        columns: name, type and description of each.
        core_columns: how many of them, from the first on, the table has in every release; None for all. A table without one of
            these was made by something else; the others are added to it.
        made_by: what is known to make a table of this name without them, for messages.
    """

    name: str
    comment: str
    columns: Sequence[tuple[str, str, str]]
    core_columns: int | None = None
    made_by: str = ""

    @property
    def column_names(self) -> str:
        """The names of the columns, as in a list of SQL."""
        return ", ".join(name for name, _, _ in self.columns)

    def create(self, tables: Tables) -> bool:
        """Create the table if there is none, or add the columns that it lacks; describe it, and return whether it is new.

        To be called in the transaction that writes to it.

        Raises:
            DatabaseUnusableError: something else has the name.
        """
        present = columns_of(tables, self.name)
        if present:
            self._check(tables, present)
            for name, type_, _ in self.columns:
                if name.lower() not in present:
                    tables.execute(f"ALTER TABLE {self.name} ADD COLUMN {name} {type_}")
        else:
            tables.execute(
                f"CREATE TABLE {self.name} ({', '.join(f'{name} {type_}' for name, type_, _ in self.columns)})"
            )
        write_comments(tables, self.name, self.comment, {name: description for name, _, description in self.columns})
        return not present

    def _check(self, tables: Tables, present: Collection[str]) -> None:
        missing = ", ".join(name for name, _, _ in self.columns[: self.core_columns] if name.lower() not in present)
        if not has_table(tables, self.name):
            problem = f"{self.name} in {tables.place} is a view, and this project has a table of that name"
        elif missing:
            problem = (
                f"the table {self.name} in {tables.place} has no column {missing}, so it was made by something else"
            )
            problem += f" ({self.made_by})" if self.made_by else ""
        else:
            return
        raise DatabaseUnusableError(f"{problem}. Nothing was changed in it. Rename or drop it, and materialize again.")


def create_view(tables: Tables, name: str, query: str, comment: str, columns: Mapping[str, str]) -> None:
    """Create the view `name` of `query`, or replace that of an earlier release, and describe it and its `columns`.

    To be called in the transaction that creates or changes a table that it reads. If the view is right already, which takes
    2 ms to see, nothing is written: a load that leaves its month alone does not change the database.

    Raises:
        DatabaseUnusableError: something else has the name.
    """
    statement = f"CREATE VIEW {name} AS {query}"
    found = tables.execute(
        f"SELECT sql, comment FROM duckdb_views() WHERE lower(view_name) = lower($name) AND {HERE} "
        f"UNION ALL SELECT sql, NULL FROM duckdb_tables() WHERE lower(table_name) = lower($name) AND {HERE}",
        {"name": name},
    ).fetchall()
    is_right = any(_words(sql) == _words(statement) for sql, _ in found)
    # The comment has been the same in all releases.
    if not is_right and any(description != comment for _, description in found):
        raise DatabaseUnusableError(
            f"{name} in {tables.place} was made by something else, and is the name of a view: {comment[0].lower()}{comment[1:]}. "
            "Nothing was changed. Rename or drop it, and materialize again."
        )
    if not is_right:
        tables.execute(f"CREATE OR REPLACE VIEW {name} AS {query}")
    write_comments(tables, name, comment, columns, kind="view")


def _words(sql: str) -> list[str]:
    """The words of a statement without what DuckDB changes when it stores a view: quotes, parentheses, case."""
    return re.findall(r"\w+", sql.lower())


def write_comments(
    tables: Tables, name: str, comment: str, columns: Mapping[str, str], kind: Literal["table", "view"] = "table"
) -> None:
    """Comment on the table or view `name`, and on those of its columns that are among `columns`, with their descriptions.

    To be called in the transaction that creates the table or adds columns. Comments that are right already are not written
    again: to compare takes 0.8 ms, to write those of `trips` another 2 ms.
    """
    present = tables.execute(
        f"SELECT NULL, comment FROM duckdb_{kind}s() WHERE lower({kind}_name) = lower($name) AND {HERE} "
        f"UNION ALL SELECT column_name, comment FROM duckdb_columns() WHERE lower(table_name) = lower($name) AND {HERE}",
        {"name": name},
    ).fetchall()
    wanted: dict[str | None, str] = {None: comment}
    if kind == "table" or tables.has_view_column_comments:
        wanted.update({column.lower(): description for column, description in columns.items()})
    statements = [
        f"COMMENT ON {kind if column is None else 'column'} {name if column is None else f'{name}.{quote(column)}'} "
        # COMMENT takes no parameters.
        f"IS {literal(wanted[key])}"
        for column, found in present
        if (key := column and column.lower()) in wanted and found != wanted[key]
    ]
    if statements:
        tables.execute("; ".join(statements))
