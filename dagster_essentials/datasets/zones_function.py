"""The SQL function that finds the zones of a trip's positions, for the load of a month that has coordinates instead."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
from duckdb.func import FunctionNullHandling, PythonUDFType

from dagster_essentials.datasets.legacy_columns import ZONES_FUNCTION
from dagster_essentials.datasets.zones import Zone, fingerprint, read_zones
from dagster_essentials.ingestion.data_folder import DataFolder

if TYPE_CHECKING:
    from dagster_essentials.datasets.zone_lookup import ZoneLookup


class ZoneOutlines:
    """The outlines of the zones, on which the rows of a month with coordinates depend: a `Reference`.

    Args:
        zones: with their outlines.
    """

    def __init__(self, zones: Sequence[Zone]):
        self._zones = tuple(zones)
        self.fingerprint = fingerprint(zones)

    @classmethod
    def read(cls, path: Path, files: DataFolder) -> "ZoneOutlines":
        """Read the zones CSV at `path` in `files`.

        Raises:
            ZonesError: it is missing or unusable.
        """
        return cls(read_zones(path, files))

    @contextmanager
    def functions(self, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Let the connection call `legacy_columns.ZONES_FUNCTION` in the block.

        Raises:
            ZonesError: an outline cannot be used.
        """
        connection.create_function(
            ZONES_FUNCTION,
            _lookup(self._zones).trip_zones,
            ["double"] * 4,
            "integer",
            type=PythonUDFType.ARROW,
            # Without it, DuckDB would not call the function for a null.
            null_handling=FunctionNullHandling.SPECIAL,
        )
        try:
            yield
        finally:
            connection.remove_function(ZONES_FUNCTION)


@lru_cache(maxsize=1)  # For the other months of a range: it takes 0.35 s, and 25 MB.
def _lookup(zones: tuple[Zone, ...]) -> "ZoneLookup":
    # Imported here, because other months need none of what it imports.
    from dagster_essentials.datasets.zone_lookup import ZoneLookup

    return ZoneLookup(zones)
