"""The warehouse: one DuckDB file that one process at a time may open, and how those who come meanwhile wait.

The lock here is for everyone: runs of one instance, a run under another one, a shell, a test. It dies with the process
that holds it. What people do with their own tools is outside of it, so a DuckDB that is open elsewhere is waited for as
well.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
from dagster_duckdb import DuckDBResource
from filelock import FileLock, Timeout
from pydantic import Field

from dagster_essentials.settings import SETTINGS

POLL_SECONDS = 0.1
"""Between two looks whether the database is free. A look costs less than a millisecond."""

STORAGE_VERSION = "v1.5.0"
"""What DuckDB 1.5 can read: DuckDB 2.0 would write files that it cannot, and no one could go back."""


# Dagster shows a Failure as it is; of any other error a run's page says first which op it occurred in.
class DatabaseBusyError(dg.Failure):
    """The database was not free in time. The message names the process that holds it."""


class DatabaseUnusableError(dg.Failure):
    """The file under the database's name cannot be opened as a DuckDB database, or has tables that are not this project's."""


class TurnTakingDuckDBResource(DuckDBResource):
    """A `DuckDBResource` whose connections are had one after the other, whoever asks."""

    wait_seconds: float = Field(default=600, description="How long to wait for a database that is in use, in seconds")

    @contextmanager
    def get_connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Wait for the database, then hold it, alone, for the length of the block.

        Raises:
            DatabaseBusyError: it was not free within `wait_seconds`.
            DatabaseUnusableError: it is not a DuckDB database, or its folder cannot be used.
        """
        path = Path(self.database)
        deadline = time.monotonic() + self.wait_seconds
        with ExitStack() as stack:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(self._turn(path, deadline))
                connection = self._connect(path, deadline)
            except OSError as error:
                raise DatabaseUnusableError(
                    f"{error.filename or path}: {error.strerror}. The database needs a folder that this user can write. Make "
                    "it one, or point DUCKDB_DATABASE to another place, and materialize again."
                ) from None
            stack.callback(connection.close)
            yield connection

    @contextmanager
    def _turn(self, path: Path, deadline: float) -> Iterator[None]:
        lock_path = path.with_name(path.name + ".lock")
        # The number of the process that holds the lock stands in the file, for those who wait.
        lock = FileLock(lock_path, on_acquired=lambda fd: _write_whole(fd, f"{os.getpid()}\n"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            self._say_waiting(path, _holder(lock_path))
            try:
                lock.acquire(timeout=max(0.0, deadline - time.monotonic()), poll_interval=POLL_SECONDS)
            except Timeout:
                raise self._busy(path, _holder(lock_path)) from None
        try:
            yield
        finally:
            lock.release()

    def _connect(self, path: Path, deadline: float) -> duckdb.DuckDBPyConnection:
        config: dict[str, Any] = {"storage_compatibility_version": STORAGE_VERSION, **self.connection_config}
        said = False
        while True:
            try:
                connection = duckdb.connect(str(path), config=config)
            except duckdb.Error as error:
                # The one error here that passes: another process has the file open.
                if "Could not set lock" not in str(error):
                    raise DatabaseUnusableError(
                        f"{path} cannot be opened as a DuckDB database ({_first_line(error)}). Nothing was changed in it. "
                        "If a newer DuckDB made it, install that one; if it is something else, move it away; if it is "
                        "damaged, restore it from a copy, or move it away and materialize every month again."
                    ) from None
                holder = process[1] if (process := re.search(r"PID (\d+)", str(error))) else None
                if not said:
                    self._say_waiting(path, holder)
                    said = True
                if time.monotonic() >= deadline:
                    raise self._busy(path, holder) from None
                time.sleep(POLL_SECONDS)
            else:
                # A progress bar would write its control characters into the run's logs.
                connection.execute("SET enable_progress_bar = false")
                return connection

    def _say_waiting(self, path: Path, holder: str | None) -> None:
        dg.get_dagster_logger().info(
            f"{path.name} is in use by {_process(holder)}; waiting for it, {self.wait_seconds:.0f} seconds at most."
        )

    def _busy(self, path: Path, holder: str | None) -> DatabaseBusyError:
        return DatabaseBusyError(
            f"{path} was in use by {_process(holder)} for the {self.wait_seconds:.0f} seconds that DUCKDB_WAIT_SECONDS "
            "allows, and nothing was changed. Close it there (a notebook and a DuckDB shell hold a database until they "
            "are closed) or, if that is another run, wait until it ends; then materialize again."
        )


def _write_whole(fd: int, text: str) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, text.encode(), 0)


def _holder(lock_path: Path) -> str | None:
    try:
        return lock_path.read_text().strip() or None
    except OSError:
        return None


def _process(holder: str | None) -> str:
    return f"process {holder}" if holder else "another process"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


database_resource = TurnTakingDuckDBResource(
    database=str(SETTINGS.database),
    connection_config={
        "memory_limit": SETTINGS.database_memory_limit,
        **({"threads": SETTINGS.database_threads} if SETTINGS.database_threads else {}),
    },
    wait_seconds=SETTINGS.database_wait_seconds,
)
