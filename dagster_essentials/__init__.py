"""NYC taxi trips, month by month, into DuckDB: a Dagster code location.

`defs` contains all its definitions.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    # Imported on demand: the daemon and the webserver import `dagster_essentials.operations.launcher` without the assets.
    if name == "defs":
        from dagster_essentials.definitions import defs

        return defs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["defs"]
