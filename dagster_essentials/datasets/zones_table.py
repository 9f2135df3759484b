"""The table `zones`: one row per zone."""

from collections.abc import Sequence

from dagster_essentials.datasets.views import create_trip_details
from dagster_essentials.datasets.zones import Zone
from dagster_essentials.warehouse.catalog import Table, columns_of
from dagster_essentials.warehouse.tables import Tables

ZONES = Table(
    "zones",
    "Taxi zones: one row for each zone id of trips, also for 264 (unknown) and 265 (outside of the city)",
    (
        ("zone_id", "integer", "What pickup_zone_id and dropoff_zone_id of trips refer to"),
        ("zone", "varchar", "Name of the zone"),
        ("borough", "varchar", "Borough, or EWR for Newark Airport; for 264 and 265 as zone"),
        ("geometry", "varchar", "Outline: WKT multipolygon, degrees of longitude and latitude; null for 264, 265"),
    ),
)
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


def replace_zones(tables: Tables, zones: Sequence[Zone]) -> None:
    """Replace the rows of the table by `zones`, in one transaction.

    Raises:
        QueryError: it cannot be done; the table is unchanged.
        DatabaseUnusableError: zones or the view trip_details was made by something else; the table is unchanged.
    """
    with (
        tables.explain_errors(
            "The table zones could not be written, and is unchanged",
            "If it was made by something else, rename or drop it, and materialize again.",
        ),
        tables.transaction(),
    ):
        present, types = columns_of(tables, "zones"), {name: type_.upper() for name, type_, _ in ZONES.columns}
        # One that the course's code made has other types. What somebody has added to this project's stays: columns, an index.
        if not types.items() <= present.items():
            tables.execute("DROP TABLE IF EXISTS zones")
        ZONES.create(tables)
        tables.execute("DELETE FROM zones")
        tables.execute(
            "INSERT INTO zones BY NAME SELECT unnest($ids) AS zone_id, unnest($zones) AS zone, unnest($boroughs) AS borough, "
            "unnest($geometries) AS geometry",
            {
                "ids": [zone.zone_id for zone in zones],
                "zones": [zone.zone for zone in zones],
                "boroughs": [zone.borough for zone in zones],
                "geometries": [zone.geometry for zone in zones],
            },
        )
        create_trip_details(tables)
