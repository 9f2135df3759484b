"""The table `zones`: one row per zone."""

from collections.abc import Sequence

import duckdb

from dagster_essentials.ingestion.zones import Zone
from dagster_essentials.warehouse.transaction import explain_duckdb_errors, transaction


def replace_zones(connection: duckdb.DuckDBPyConnection, zones: Sequence[Zone]) -> None:
    """Replace the table by `zones`, in one transaction.

    Raises:
        QueryError: it cannot be done; the table is unchanged.
    """
    with (
        explain_duckdb_errors(
            "The table zones could not be written, and is unchanged",
            "If it was made by something else, rename or drop it, and materialize again.",
        ),
        transaction(connection),
    ):
        connection.execute(
            "CREATE OR REPLACE TABLE zones (zone_id INTEGER, zone VARCHAR, borough VARCHAR, geometry VARCHAR)"
        )
        connection.execute(
            "INSERT INTO zones SELECT unnest($ids), unnest($zones), unnest($boroughs), unnest($geometries)",
            {
                "ids": [zone.zone_id for zone in zones],
                "zones": [zone.zone for zone in zones],
                "boroughs": [zone.borough for zone in zones],
                "geometries": [zone.geometry for zone in zones],
            },
        )
