"""Reports to the harness which phase of a load a process begins, and waits for its answer.

Python imports a module of this name, found by PYTHONPATH, when it starts. The pipeline is not changed: the functions by which a
phase begins or ends are wrapped as soon as their modules are imported.
"""

import os
import socket
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PHASES = (
    *("download_month", "validate_month", "upload", "downloaded"),
    # The transaction: it deletes between the first two of these, and commits after the last one.
    *("prepare_table", "insert_into", "replace_aggregates", "record_version", "after record_version"),
    # The month is recorded in Dagster, and then the database is closed, which writes what is in its WAL.
    *("loaded", "after loaded"),
)
"""The phases of a load in their order: each begins with a call of this function, or after it."""
FUNCTIONS = {
    "dagster_essentials.ingestion.month_files": ("download_month", "validate_month"),
    # Called before the rename of an atomic write.
    "dagster_essentials.ingestion.data_folder": ("DataFolder.upload",),
    "dagster_essentials.warehouse.schema": ("prepare_table",),
    "dagster_essentials.warehouse.tables": ("Rows.insert_into",),
    "dagster_essentials.datasets.aggregates": ("replace_aggregates",),
    "dagster_essentials.warehouse.month_versions": ("record_version",),
    "dagster_essentials.orchestration.month_run": ("MonthRun.downloaded", "MonthRun.loaded"),
}
"""Where these functions are: in each module, their names, with those of their classes."""

_address = os.environ.get("CHAOS_PHASES", "")


def _report(phase: str) -> None:
    if phase not in PHASES:
        return
    try:
        with socket.socket(socket.AF_UNIX) as harness:
            harness.connect(_address)
            harness.sendall(f"{phase} {os.getpid()}\n".encode())
            harness.recv(1)
    except OSError:
        pass  # The harness has ended: the processes that it left behind go on.


def _wrap(module: ModuleType, name: str) -> None:
    """Let the function report when it is called, and when it has returned."""
    owner: Any = module
    *classes, phase = name.split(".")
    for each in classes:
        owner = getattr(owner, each)
    function: Callable[..., Any] = getattr(owner, phase)

    @wraps(function)
    def reporting(*arguments: Any, **options: Any) -> Any:
        _report(phase)
        result = function(*arguments, **options)
        _report(f"after {phase}")
        return result

    setattr(owner, phase, reporting)


class _WrappingFinder(MetaPathFinder):
    """Finds the modules of `FUNCTIONS` as Python does, and wraps the functions before another module can import them."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in FUNCTIONS else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_wrap(module: ModuleType) -> None:
            execute(module)
            for function in FUNCTIONS[name]:
                _wrap(module, function)

        spec.loader.exec_module = execute_and_wrap  # type: ignore[method-assign]
        return spec


if _address:
    sys.meta_path.insert(0, _WrappingFinder())
