"""The view `trip_details`: each trip of `trips`, with the names and boroughs of the zones at both of its ends."""

import duckdb

from dagster_essentials.datasets.yellow import COLUMNS
from dagster_essentials.warehouse.views import create_view

COMMENT = "The rows of trips, each once, with the names and boroughs of the zones at both ends"
ZONE_COLUMNS = {
    "pickup_zone": "Name of the pickup zone; null if zones has no such id",
    "pickup_borough": "Borough of the pickup zone, as in zones",
    "dropoff_zone": "Name of the drop-off zone; null if zones has no such id",
    "dropoff_borough": "Borough of the drop-off zone, as in zones",
}
"""What the view adds to the columns of `trips`: name and description."""

# One row an id, whatever `zones` holds: the table that the course's code makes has 56 twice and 103 three times, with
# the same names. That costs nothing, unless DuckDB materializes `names`: then queries take twice as long.
_QUERY = """WITH names AS NOT MATERIALIZED (
    SELECT DISTINCT ON (zone_id) zone_id, zone, borough FROM zones ORDER BY zone_id, zone, borough
)
SELECT trips.*,
    pickup.zone AS pickup_zone, pickup.borough AS pickup_borough,
    dropoff.zone AS dropoff_zone, dropoff.borough AS dropoff_borough
FROM trips
LEFT JOIN names AS pickup ON pickup.zone_id = trips.pickup_zone_id
LEFT JOIN names AS dropoff ON dropoff.zone_id = trips.dropoff_zone_id
"""


def create_trip_details(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the view once there are both tables, or replace that of an earlier release.

    To be called in the transaction that creates or changes one of the tables.

    Raises:
        DatabaseUnusableError: there is another table or view under the name.
    """
    found: dict[str, set[str]] = {"trips": set(), "zones": set()}
    for table, column in connection.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE table_name IN ('trips', 'zones')"
    ).fetchall():
        found[table].add(column)
    # What else may be there under these names is reported by what loads or reads the table.
    if (
        not {"pickup_zone_id", "dropoff_zone_id"} <= found["trips"]
        or not {"zone_id", "zone", "borough"} <= found["zones"]
    ):
        return
    columns = {column.name: column.description for column in COLUMNS} | ZONE_COLUMNS
    create_view(connection, "trip_details", _QUERY, COMMENT, columns)
