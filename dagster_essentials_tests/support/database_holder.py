"""Another process that has the database open: what a run meets when somebody looks into the warehouse meanwhile."""

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

NOTEBOOK = "import duckdb; connection = duckdb.connect(path)"
"""Somebody's own connection, which knows nothing of this project."""
READER = "import duckdb; connection = duckdb.connect(path, read_only=True)"
"""The same, but for reading only."""
RUN = """
from pathlib import Path
from dagster_essentials.warehouse.file import file_tables
lock = file_tables(Path(path), {}, 10, lambda message: None)
tables = lock.__enter__()
"""
"""A run under another Dagster instance: what its database resource calls, without the seconds of importing Dagster."""
LOCK_ONLY = """
from filelock import FileLock
lock = FileLock(path + ".lock")
lock.acquire(timeout=10)
"""
"""A run that has the lock, and has not opened the database yet."""


class Holder:
    """A process that holds a database until it is released or killed."""

    def __init__(self, process: "subprocess.Popen[str]"):
        self._process = process
        self.pid = process.pid

    def release(self) -> None:
        """Let go of the database, as a person does who closes a notebook; returns when it is free."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def kill(self) -> None:
        """End the process without a chance to tidy up."""
        self._process.kill()
        self._process.wait(timeout=30)


@contextmanager
def held(database: Path, how: str = NOTEBOOK) -> Iterator[Holder]:
    """Hold the database at `database` in another process, for the length of the block or until it is released."""
    script = f"import sys\npath = sys.argv[1]\n{how}\nprint('held', flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # If the database cannot be opened, the error is read instead of "held".
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        holder = Holder(process)
        try:
            yield holder
        finally:
            holder.release()


@contextmanager
def releasing_when_waited_for(holder: Holder) -> Iterator[list[str]]:
    """Release the database when somebody says to be waiting for it; gives what was said."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting for it" in record.getMessage():
                said.append(record.getMessage())
                # A wait of less than 0.1 s is not logged.
                time.sleep(0.2)
                holder.release()

    listener = Listener()
    logger = dg.get_dagster_logger()
    logger.addHandler(listener)
    try:
        yield said
    finally:
        logger.removeHandler(listener)
