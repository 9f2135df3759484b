"""The lock of the DuckDB file: one process has it open at a time, and the others wait.

The lock file beside the database serializes all processes of this project, whatever Dagster instance they belong to,
and is released when its process ends. Other tools do not use it, so a database that is open elsewhere is waited for too.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb
from filelock import FileLock, Timeout

from dagster_essentials.errors import DatabaseBusyError, DatabaseUnusableError
from dagster_essentials.ingestion.sql import first_line
from dagster_essentials.warehouse.tables import Tables

POLL_SECONDS = 0.1
"""The time between two attempts to get the lock. An attempt takes less than a millisecond."""

STORAGE_VERSION = "v1.5.0"
"""A format that DuckDB 1.5 can read. By default DuckDB 2.0 writes one that it cannot, which rules out a downgrade."""

MEMORY_PER_THREAD = 250_000_000
"""Bytes. Each thread holds what it reads and a row group that it writes. In 512 MB, a month of fhvhv (8 million rows in 8 row
groups) takes 21 s of CPU time with two threads and 29 with four, and cannot be loaded with eight."""


@contextmanager
def file_tables(
    path: Path, config: Mapping[str, Any], wait_seconds: float, log: Callable[[str], object]
) -> Iterator[Tables]:
    """Wait for the database at `path`, then hold it exclusively for the length of the block.

    A wait is logged once, with the process that holds the database.

    Raises:
        DatabaseBusyError: it was not free within `wait_seconds`.
        DatabaseUnusableError: it is not a DuckDB database, or its folder cannot be used.
    """
    deadline = time.monotonic() + wait_seconds
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            waiting = _Waiting(path, wait_seconds, log)
            stack.enter_context(_lock(path, deadline, waiting))
            connection = _connect(path, config, deadline, waiting)
        except OSError as error:
            raise DatabaseUnusableError(
                f"{error.filename or path}: {error.strerror}. The database needs a folder that this user can write to. "
                "Change its permissions, or point DUCKDB_DATABASE to another place, and materialize again."
            ) from None
        stack.callback(connection.close)
        yield Tables(connection)


class _Waiting:
    """The messages of a wait: the log line at its start, and the error when it takes too long."""

    def __init__(self, path: Path, seconds: float, log: Callable[[str], object]):
        self._path, self._seconds, self._log = path, seconds, log

    def begin(self, holder: str | None) -> None:
        self._log(
            f"{self._path.name} is in use by {_process(holder)}; waiting for it, {self._seconds:.0f} seconds at most."
        )

    def give_up(self, holder: str | None) -> DatabaseBusyError:
        return DatabaseBusyError(
            f"{self._path} was in use by {_process(holder)} for the {self._seconds:.0f} seconds that DUCKDB_WAIT_SECONDS "
            "allows, and nothing was changed. Close it there (a notebook and a DuckDB shell hold a database until they "
            "are closed) or, if that is another run, wait until it ends; then materialize again."
        )


@contextmanager
def _lock(path: Path, deadline: float, waiting: _Waiting) -> Iterator[None]:
    lock_path = path.with_name(path.name + ".lock")
    # The file contains the id of the process that holds the lock, for the messages of those that wait.
    lock = FileLock(lock_path, on_acquired=lambda fd: _overwrite(fd, f"{os.getpid()}\n"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        waiting.begin(_holder(lock_path))
        try:
            lock.acquire(timeout=max(0.0, deadline - time.monotonic()), poll_interval=POLL_SECONDS)
        except Timeout:
            raise waiting.give_up(_holder(lock_path)) from None
    try:
        yield
    finally:
        lock.release()


def _connect(path: Path, config: Mapping[str, Any], deadline: float, waiting: _Waiting) -> duckdb.DuckDBPyConnection:
    began = False
    while True:
        try:
            connection = duckdb.connect(str(path), config={"storage_compatibility_version": STORAGE_VERSION, **config})
        except duckdb.Error as error:
            # The one transient error: another process has the file open.
            if "Could not set lock" not in str(error):
                raise _cannot_be_opened(path, error) from None
            holder = process[1] if (process := re.search(r"PID (\d+)", str(error))) else None
            if not began:
                waiting.begin(holder)
                began = True
            if time.monotonic() >= deadline:
                raise waiting.give_up(holder) from None
            time.sleep(POLL_SECONDS)
        else:
            set_options(connection, config)
            return connection


def _cannot_be_opened(path: Path, error: duckdb.Error) -> DatabaseUnusableError:
    if isinstance(error, duckdb.OutOfMemoryException):
        advice = "Give DuckDB more memory (DUCKDB_MEMORY_LIMIT), and materialize again."
    elif re.search("permission denied", str(error), re.IGNORECASE):
        advice = "Let this user read and write it, and materialize again."
    else:
        advice = (
            "If it was made by a newer DuckDB, install that version; if it is something else, move it away; if it is damaged, "
            "restore a backup, or move it away and materialize every month again."
        )
    return DatabaseUnusableError(
        f"{path} cannot be opened as a DuckDB database ({first_line(error)}). Nothing was changed in it. {advice}"
    )


def set_options(connection: duckdb.DuckDBPyConnection, config: Mapping[str, Any]) -> None:
    """Set the options of DuckDB that loads rely on, in a new database of any kind, unless `config` has set them."""
    if "threads" not in config:
        (threads,) = connection.execute(
            "SELECT least(current_setting('threads'), "
            f"parse_formatted_bytes(current_setting('memory_limit')) // {MEMORY_PER_THREAD})"
        ).fetchall()[0]
        connection.execute(f"SET threads = {max(threads, 1)}")
    # A progress bar would write its control characters into the run's logs.
    connection.execute("SET enable_progress_bar = false")
    # The cache of file contents is keyed by path, and several files may be /dev/fd/3 one after the other. If one of
    # them is replaced while it is read, DuckDB 1.5.6 returns rows of the one before. A load is as fast without it.
    connection.execute("SET enable_external_file_cache = false")
    # To insert rows in their order, DuckDB collects what its threads read, and writes it to temporary files when
    # memory is short: with 512 MB, a month of fhvhv (20 million rows) then takes 131 s of CPU time instead of 61.
    connection.execute("SET preserve_insertion_order = false")
    # By default, a thread collects five row groups before it writes them. With one, a month of 3 million rows takes 2.13 to
    # 2.20 s of CPU time instead of 2.24 to 2.35, less memory, and the same space.
    connection.execute("SET write_buffer_row_group_count = 1")


def _overwrite(fd: int, text: str) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, text.encode(), 0)


def _holder(lock_path: Path) -> str | None:
    try:
        return lock_path.read_text().strip() or None
    except OSError:
        return None


def _process(holder: str | None) -> str:
    return f"process {holder}" if holder else "another process"
