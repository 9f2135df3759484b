"""Tells the harness where in a load a process is, and waits for its answer.

Python imports a module of this name, found by PYTHONPATH, when it starts. Of the pipeline nothing is changed: the
phases are seen from what it asks of Python and of DuckDB.
"""

import os
import socket
import sys
import threading
from typing import Any

PHASES = (
    *("download", "validate", "rename", "record the file"),
    *("delete", "insert", "commit", "checkpoint", "record the month"),
)

_address = os.environ.get("CHAOS_PHASES", "")
_talking = threading.local()
_patched = False


def _reach(phase: str) -> None:
    if getattr(_talking, "now", False):
        return
    _talking.now = True
    try:
        with socket.socket(socket.AF_UNIX) as harness:
            harness.connect(_address)
            harness.sendall(f"{phase} {os.getpid()}\n".encode())
            harness.recv(1)
    except OSError:
        pass  # The harness has gone, and what is left of its processes may go on.
    finally:
        _talking.now = False


def _see(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str):
        if arguments[0].endswith((".partial", ".duckdb.lock")):
            _see_duckdb_and_dagster()
    elif event == "os.rename":
        if os.fspath(arguments[0]).endswith(".partial") and "taxi_trips_" in os.fspath(arguments[1]):
            _reach("rename")
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        _reach("download")


def _see_duckdb_and_dagster() -> None:
    global _patched
    if _patched or "duckdb" not in sys.modules or "dagster" not in sys.modules:
        return
    _patched = True
    import dagster
    import duckdb

    connection: Any = duckdb.DuckDBPyConnection
    execute, close = connection.execute, connection.close
    instance: Any = dagster.DagsterInstance
    handle_new_event = instance.handle_new_event

    def seen_execute(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        text = str(query)
        for start, phase in (
            ("SELECT num_rows FROM parquet_file_metadata", "validate"),
            ("DELETE FROM trips WHERE", "delete"),
            ("INSERT INTO trips (", "insert"),
            ("COMMIT", "commit"),
        ):
            if text.startswith(start):
                _reach(phase)
        return execute(self, query, *arguments, **options)

    def seen_close(self: Any) -> Any:
        _reach("checkpoint")
        return close(self)

    def seen_event(self: Any, event: Any, *arguments: Any, **options: Any) -> Any:
        happened = event.dagster_event
        if happened is not None and happened.event_type_value in ("ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION"):
            _reach("record the file" if event.step_key == "taxi_trips_file" else "record the month")
        return handle_new_event(self, event, *arguments, **options)

    connection.execute, connection.close = seen_execute, seen_close
    instance.handle_new_event = seen_event


if _address:
    sys.addaudithook(_see)
