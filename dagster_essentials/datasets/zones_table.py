"""The table `zones`: one row per zone."""

from collections.abc import Sequence

from dagster_essentials.datasets.views import create_all_trip_details, create_trip_details
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
        ("longitude", "double", "Of a point inside the outline, degrees (WGS 84); null for 264, 265"),
        ("latitude", "double", "Of the same point, degrees (WGS 84); null for 264, 265"),
    ),
    core_columns=4,
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
        DatabaseUnusableError: zones or a view of it was made by something else; the table is unchanged.
    """
    points = _points_inside(zones)
    with (
        tables.explain_errors(
            "The table zones could not be written, and is unchanged",
            "If it was made by something else, rename or drop it, and materialize again.",
        ),
        tables.transaction(),
    ):
        present = columns_of(tables, "zones")
        types = {name: type_.upper() for name, type_, _ in ZONES.columns[: ZONES.core_columns]}
        # One that the course's code made has other types. What somebody has added to this project's stays: columns, an index.
        if not types.items() <= present.items():
            tables.execute("DROP TABLE IF EXISTS zones")
        ZONES.create(tables)
        tables.execute("DELETE FROM zones")
        tables.execute(
            "INSERT INTO zones BY NAME SELECT unnest($ids) AS zone_id, unnest($zones) AS zone, unnest($boroughs) AS borough, "
            "unnest($geometries) AS geometry, unnest($longitudes) AS longitude, unnest($latitudes) AS latitude",
            {
                "ids": [zone.zone_id for zone in zones],
                "zones": [zone.zone for zone in zones],
                "boroughs": [zone.borough for zone in zones],
                "geometries": [zone.geometry for zone in zones],
                "longitudes": [longitude for longitude, _ in points],
                "latitudes": [latitude for _, latitude in points],
            },
        )
        create_trip_details(tables)
        create_all_trip_details(tables)


def _points_inside(zones: Sequence[Zone]) -> list[tuple[float | None, float | None]]:
    """For each zone, a point of its outline's interior: longitude and latitude, or nulls if there is no usable outline."""
    # Imported here: the other runs do not need it.
    import shapely

    outlines = shapely.from_wkt([zone.geometry for zone in zones], on_invalid="ignore")
    # The centroid of a crescent, or of islands, lies outside.
    points = shapely.point_on_surface(outlines)
    return [(None, None) if point is None or point.is_empty else (point.x, point.y) for point in points]
