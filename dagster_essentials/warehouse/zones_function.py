"""The SQL function that finds the zones of a trip's positions, for the load of a month that has coordinates instead."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb
from duckdb.func import FunctionNullHandling, PythonUDFType

from dagster_essentials.ingestion.legacy_columns import ZONES_FUNCTION
from dagster_essentials.ingestion.zones import Zone


@contextmanager
def zones_function(connection: duckdb.DuckDBPyConnection, zones: Sequence[Zone]) -> Iterator[None]:
    """Let the connection find the zones of positions among `zones` in the block, by `legacy_columns.ZONES_FUNCTION`.

    Raises:
        ZonesError: an outline cannot be used.
    """
    # Imported here, because shapely and numpy take 0.2 s and 40 MB, and other months need neither.
    from dagster_essentials.ingestion.zone_lookup import ZoneLookup

    connection.create_function(
        ZONES_FUNCTION,
        ZoneLookup(zones).trip_zones,
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
