"""A connection to the tables, and what depends on where they are: in a DuckDB file, or in a lake (`lake/tables.py`)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

import duckdb

from dagster_essentials.errors import QueryError

Values = Mapping[str, object] | Sequence[object]


class Tables:
    """The tables in a DuckDB file, which one process has open at a time."""

    has_view_column_comments = True

    def __init__(self, connection: duckdb.DuckDBPyConnection):
        self.connection = connection

    def execute(self, sql: str, values: Values | None = None) -> duckdb.DuckDBPyConnection:
        """Execute a statement with the bound `values`; of a mapping, those that the statement names."""
        if isinstance(values, Mapping):
            names = set(re.findall(r"\$(\w+)", sql))
            values = {name: value for name, value in values.items() if name in names}
        return self.connection.execute(sql, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end of the block; roll back if it raises."""
        self.connection.execute("BEGIN")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            # After some errors, such as a full disk, DuckDB has rolled back already, and ROLLBACK fails.
            with suppress(duckdb.Error):
                self.connection.execute("ROLLBACK")
            raise

    def hold(self, name: str) -> None:
        """Keep other processes from doing `name` until the connection is closed. In a file, no other has a connection."""

    def exclusive(self, name: str) -> AbstractContextManager[None]:
        """Keep other processes from doing `name` in the block. In a file, no other has a connection."""
        return nullcontext()

    def partition(self, table: str, columns: Sequence[str]) -> None:
        """Lay out a new table by the values of `columns`. A file needs none: each row group knows its first and last value."""

    def stage(self, table: str, folders: Mapping[str, str], query: str, values: Values) -> "Rows":
        """Prepare the rows of `query` for `table`, before the transaction that inserts them."""
        return Rows(self, query, values)

    @contextmanager
    def explain_errors(self, what: str, advice: str) -> Iterator[None]:
        """Turn an error of DuckDB in the block into one with `what` failed, DuckDB's message, and `advice`.

        Raises:
            QueryError: for every duckdb.Error.
        """
        try:
            yield
        except duckdb.Error as error:
            text = str(error).partition("\n")[0].rstrip(".!")
            if re.search("could not write|no space left", text, re.IGNORECASE):
                advice = "Free some disk space for the database (DUCKDB_DATABASE), and materialize again."
            raise QueryError(f"{what}: {text}. {advice}") from None


class Rows:
    """The rows of a query, to be inserted by the names of its columns."""

    def __init__(self, tables: Tables, query: str, values: Values):
        self._tables, self._query, self._values = tables, query, values

    @property
    def relation(self) -> str | None:
        """The rows, as SQL, if they can be counted before they are inserted."""
        return None

    def insert_into(self, table: str) -> None:
        """Insert them, in the caller's transaction."""
        self._tables.execute(f"INSERT INTO {table} BY NAME {self._query}", self._values)
