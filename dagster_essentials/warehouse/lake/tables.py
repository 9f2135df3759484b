"""The tables of a lake: many processes use them at the same time, and rows are written to files before the transaction.

So the months of several processes are written at the same time, and a commit takes a fifth of a second however large the
month is. A file that no transaction added, as its process was killed, is removed by `maintenance.py`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import duckdb

from dagster_essentials.errors import ConnectionLostError, PipelineError, RetryableError, WriteConflictError
from dagster_essentials.ingestion.sql import literal
from dagster_essentials.warehouse.lake import LAKE_NAME
from dagster_essentials.warehouse.tables import COMMITS, Rows, Tables, Values

if TYPE_CHECKING:
    # It needs psycopg2, which is installed for a lake only.
    from dagster_essentials.warehouse.lake.locks import CatalogLocks


class LakeTables(Tables):
    """The tables in a DuckLake, with the `locks` of its catalogue."""

    # DuckLake has none.
    has_view_column_comments = False
    is_held_alone = False

    def __init__(self, connection: duckdb.DuckDBPyConnection, locks: "CatalogLocks"):
        super().__init__(connection)
        self._locks = locks

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """As in a file, but one process at a time has a transaction, and commits only while it has its locks.

        DuckLake reports a conflict of two transactions that create the same table or delete from it, and none if both insert the
        same new month.

        Raises:
            DatabaseBusyError: another process did not end its transaction in time.
            ConnectionLostError: its locks were lost, so another process may be at work on the same.
        """
        with self._locks.exclusive(COMMITS), super().transaction():
            yield
            self._locks.confirm()

    def hold(self, name: str) -> None:
        """Keep other processes from doing `name` until the connection is closed.

        Raises:
            DatabaseBusyError: another process did not end it in time.
        """
        self._locks.hold(name)

    def exclusive(self, name: str) -> AbstractContextManager[None]:
        """Keep other processes from doing `name` in the block, with the errors of `hold`."""
        return self._locks.exclusive(name)

    def partition(self, table: str, columns: Sequence[str]) -> None:
        """Let the data files of the new `table` lie in folders by `columns`, also when they are rewritten."""
        self.execute(f"ALTER TABLE {table} SET PARTITIONED BY ({', '.join(columns)})")

    def stage(self, table: str, folders: Mapping[str, str], query: str, values: Values) -> "StagedRows":
        """Write the rows of `query` to a data file in the folder of `table`, and there in `folders`, by column and value."""
        (data_path,) = self.execute(f"SELECT data_path FROM ducklake_settings('{LAKE_NAME}')").fetchall()[0]
        parts = [f"{data_path.rstrip('/')}/main/{table}", *(f"{name}={value}" for name, value in folders.items())]
        folder = "/".join(parts)
        if "://" not in folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
        path = f"{folder}/{uuid4()}.parquet"
        self.execute(f"COPY ({query}) TO {literal(path)} (FORMAT parquet, COMPRESSION zstd)", values)
        return StagedRows(self, path)

    def explain(self, error: duckdb.Error, what: str, advice: str) -> PipelineError:
        """As in a file, unless the same can be executed again."""
        return retryable(error) or super().explain(error, what, advice)


class StagedRows(Rows):
    """Rows in the data file at `path`, which is not part of a table yet."""

    def __init__(self, tables: LakeTables, path: str):
        self._tables, self._path = tables, path

    @property
    def relation(self) -> str:
        """The rows, as SQL."""
        return f"read_parquet({literal(self._path)}, hive_partitioning = false)"

    def insert_into(self, table: str) -> None:
        """Add the file to `table`, in the caller's transaction."""
        self._tables.execute(
            # A table may have columns that somebody else has added.
            f"CALL ducklake_add_data_files('{LAKE_NAME}', $table, $path, allow_missing => true, hive_partitioning => true)",
            {"table": table, "path": self._path},
        )


# Messages of libpq, of a PostgreSQL that is shutting down or starting, and of DuckDB when it cannot reconnect.
_LOST = re.compile(
    "server closed the connection|connection not open|no connection to the server|could not (send|receive) data"
    "|SSL (connection|SYSCALL)|terminating connection|database system is (shutting|starting)|unable to connect to Postgres"
    # Messages of DuckDB 1.5.5 for it in the middle of a query, and if it can neither commit nor roll back.
    '|unsuccessful query result|database has been invalidated|failed to execute query "ROLLBACK"',
    re.IGNORECASE,
)


def retryable(error: Exception) -> RetryableError | None:
    """The error to raise if `error`, of DuckDB or psycopg2, is a lost connection or a conflict with another transaction."""
    if lost := _LOST.search(str(error)):
        return ConnectionLostError(lost[0])
    # After a lost connection it is unknown whether it was committed. After a conflict it was not.
    if isinstance(error, duckdb.TransactionException) and "conflict" in str(error):
        return WriteConflictError(" ".join(str(error).split()))
    return None
