"""The table `zones`: one row per zone."""

from collections.abc import Sequence

import duckdb

from dagster_essentials.datasets.trip_details import create_trip_details
from dagster_essentials.datasets.zones import Zone
from dagster_essentials.warehouse.comments import write_comments
from dagster_essentials.warehouse.transaction import explain_duckdb_errors, transaction

COLUMNS = (
    ("zone_id", "integer", "What pickup_zone_id and dropoff_zone_id of trips refer to"),
    ("zone", "varchar", "Name of the zone"),
    ("borough", "varchar", "Borough, or EWR for Newark Airport; for 264 and 265 as zone"),
    ("geometry", "varchar", "Outline: WKT multipolygon, degrees of longitude and latitude; null for 264, 265"),
)
"""Name, type, description."""
COMMENT = "Taxi zones: one row for each zone id of trips, also for 264 (unknown) and 265 (outside of the city)"
"""Of the table, in the database."""
FILE_COLUMNS = (
    ("OBJECTID", "integer", "Number of the zone, as trips have it"),
    ("Shape_Leng", "double", "Length of the outline, degrees"),
    ("the_geom", "varchar", "Outline: WKT multipolygon, degrees of longitude and latitude"),
    ("Shape_Area", "double", "Area, square degrees"),
    ("zone", "varchar", "Name of the zone"),
    ("LocationID", "integer", "Number of the zone; for OBJECTID 57, 104 and 105 that of another zone"),
    ("borough", "varchar", "Borough, or EWR for Newark Airport"),
)
"""Of the published CSV: name, type, description."""


def replace_zones(connection: duckdb.DuckDBPyConnection, zones: Sequence[Zone]) -> None:
    """Replace the table by `zones`, in one transaction.

    Raises:
        QueryError: it cannot be done; the table is unchanged.
        DatabaseUnusableError: the view trip_details was made by something else; the table is unchanged.
    """
    with (
        explain_duckdb_errors(
            "The table zones could not be written, and is unchanged",
            "If it was made by something else, rename or drop it, and materialize again.",
        ),
        transaction(connection),
    ):
        connection.execute(
            f"CREATE OR REPLACE TABLE zones ({', '.join(f'{name} {type_}' for name, type_, _ in COLUMNS)})"
        )
        write_comments(connection, "zones", COMMENT, {name: description for name, _, description in COLUMNS})
        connection.execute(
            "INSERT INTO zones SELECT unnest($ids), unnest($zones), unnest($boroughs), unnest($geometries)",
            {
                "ids": [zone.zone_id for zone in zones],
                "zones": [zone.zone for zone in zones],
                "boroughs": [zone.borough for zone in zones],
                "geometries": [zone.geometry for zone in zones],
            },
        )
        create_trip_details(connection)
