"""A connection to the tables, and what depends on where they are: in a DuckDB file, or in a lake (`lake/tables.py`)."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

import duckdb

from dagster_essentials.errors import PipelineError, QueryError
from dagster_essentials.ingestion.cancellation import interrupt_until_done, start_thread
from dagster_essentials.ingestion.sql import first_line

Values = Mapping[str, object] | Sequence[object]

COMMITS = "commits"
"""The name of what every transaction of a lake does exclusively."""


class Tables:
    """The tables in a DuckDB file, which one process has open at a time."""

    has_view_column_comments = True
    is_held_alone = True
    """Whether nobody else uses the tables while there is this connection to them."""

    def __init__(self, connection: duckdb.DuckDBPyConnection):
        self.connection = connection
        self.prepared: set[str] = set()
        """What this connection has created, upgraded or found right."""

    @property
    def place(self) -> str:
        """The database, for messages: the path of its file."""
        (path,) = self.connection.execute(
            "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
        ).fetchall()[0]
        return str(path or "the database in memory")

    @property
    def threads(self) -> int:
        """How many threads DuckDB executes a statement with."""
        (threads,) = self.connection.execute("SELECT current_setting('threads')").fetchall()[0]
        return int(threads)

    def execute(self, sql: str, values: Values | None = None) -> duckdb.DuckDBPyConnection:
        """Execute a statement with the bound `values`; of a mapping, those that the statement names."""
        if isinstance(values, Mapping):
            names = set(re.findall(r"\$(\w+)", sql))
            values = {name: value for name, value in values.items() if name in names}
        # In a thread, so that the signal that cancels a run ends the statement: DuckDB 2.0.1 would go on, and 1.5.6 would wait
        # for its end before the rollback. A thread takes 0.1 ms.
        executed = start_thread(self.connection.execute, sql, values)
        try:
            return executed.result()
        finally:
            interrupt_until_done([executed], self.connection.interrupt)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end of the block; roll back if it raises."""
        self.connection.execute("BEGIN")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            self.prepared.clear()
            # After some errors, such as a full disk, DuckDB has rolled back already, and ROLLBACK fails.
            with suppress(duckdb.Error):
                self.connection.execute("ROLLBACK")
            raise

    def once(self, name: str, *steps: Callable[["Tables"], object]) -> None:
        """Take the `steps`, unless this connection has taken those of `name` and not rolled them back."""
        if name not in self.prepared:
            for step in steps:
                step(self)
            self.prepared.add(name)

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
        """Raise the errors of DuckDB in the block as `explain` returns them."""
        try:
            yield
        except duckdb.Error as error:
            raise self.explain(error, what, advice) from None

    def explain(self, error: duckdb.Error, what: str, advice: str) -> PipelineError:
        """The error with `what` failed, DuckDB's message, and `advice`, unless that depends on the kind of the error alone."""
        text = first_line(error)
        # Before the kind of the error: a checkpoint for which there is no space is fatal in DuckDB 2.0.
        if re.search("could not write|no space left|max_temp_directory_size", str(error), re.IGNORECASE):
            advice = "Free some disk space for the database (DUCKDB_DATABASE), and materialize again."
        elif isinstance(error, duckdb.FatalException):
            advice = "DuckDB has closed the database after this error of its own. Materialize again."
        # A commit has it as the reason of another error.
        elif isinstance(error, duckdb.OutOfMemoryException) or re.search("failed to (pin|allocate)", str(error)):
            advice = "Give DuckDB more memory (DUCKDB_MEMORY_LIMIT) or fewer threads (DUCKDB_THREADS), and materialize again."
        return QueryError(f"{what}: {text}. {advice}")


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
