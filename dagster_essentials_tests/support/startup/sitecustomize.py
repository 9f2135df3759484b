"""Shortens the polling interval of Dagster's daemon in the processes of a test.

Python imports the first module of this name on PYTHONPATH when it starts, and no other one; so this one imports the
next one on the path.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

_HERE = Path(__file__).parent


def _set_daemon_interval(seconds: str) -> None:
    """The daemon looks for new backfills once per interval: every 30 seconds, and no setting changes it."""
    # Only in the daemon (`python -m dagster._daemon run`, `dagster-daemon run`), as the import takes a second.
    if seconds and any("daemon" in argument for argument in sys.orig_argv[:3]):
        from dagster._daemon import controller

        controller.DEFAULT_DAEMON_INTERVAL_SECONDS = float(seconds)  # type: ignore[assignment]


def _import_next() -> None:
    path = [folder for folder in sys.path if Path(folder) != _HERE]
    spec = PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


_set_daemon_interval(os.environ.get("TEST_DAEMON_INTERVAL_SECONDS", ""))
_import_next()
