"""Reports to the harness which phase of a load a process begins, and waits for its answer.

Python imports a module of this name, found by PYTHONPATH, when it starts. The pipeline is not changed: the phases are
detected from its calls of Python's and DuckDB's functions.
"""

import os
import socket
import sys
import threading
from typing import Any

PHASES = (
    *("download", "validate", "rename", "record the file"),
    *("delete", "insert", "aggregate", "record the version", "commit", "checkpoint", "record the month"),
)
STATEMENTS = {
    "SELECT count(*), last(": "validate",
    "DELETE FROM trips WHERE": "delete",
    "INSERT INTO trips (": "insert",
    "DELETE FROM fleet_trips WHERE": "delete",
    "INSERT INTO fleet_trips (": "insert",
    "INSERT INTO trips_by_day ": "aggregate",
    "INSERT INTO month_versions ": "record the version",
    "COMMIT": "commit",
}
"""The beginnings of the statements by which a phase is detected."""

_address = os.environ.get("CHAOS_PHASES", "")
_reporting = threading.local()
_patched = False


def _report(phase: str) -> None:
    if getattr(_reporting, "now", False):
        return
    _reporting.now = True
    try:
        with socket.socket(socket.AF_UNIX) as harness:
            harness.connect(_address)
            harness.sendall(f"{phase} {os.getpid()}\n".encode())
            harness.recv(1)
    except OSError:
        pass  # The harness has ended: the processes that it left behind go on.
    finally:
        _reporting.now = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str):
        if arguments[0].endswith((".partial", ".duckdb.lock")):
            _patch_duckdb_and_dagster()
    elif event == "os.rename":
        if os.fspath(arguments[0]).endswith(".partial") and "_trips_20" in os.fspath(arguments[1]):
            _report("rename")
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        _report("download")


def _patch_duckdb_and_dagster() -> None:
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

    def reporting_execute(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        for start, phase in STATEMENTS.items():
            if str(query).startswith(start):
                _report(phase)
        return execute(self, query, *arguments, **options)

    def reporting_close(self: Any) -> Any:
        _report("checkpoint")
        return close(self)

    def reporting_event(self: Any, entry: Any, *arguments: Any, **options: Any) -> Any:
        event = entry.dagster_event
        if event is not None and event.event_type_value in ("ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION"):
            _report("record the file" if str(entry.step_key).endswith("_trips_file") else "record the month")
        return handle_new_event(self, entry, *arguments, **options)

    connection.execute, connection.close = reporting_execute, reporting_close
    instance.handle_new_event = reporting_event


if _address:
    sys.addaudithook(_audit)
