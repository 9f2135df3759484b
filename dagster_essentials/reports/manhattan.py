"""The trips picked up in each zone of Manhattan, in all months that are loaded: a GeoJSON file, and the map of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from dagster_essentials.datasets.aggregates import loaded_months
from dagster_essentials.datasets.zones import multipolygon_coordinates
from dagster_essentials.errors import ReportError
from dagster_essentials.ingestion.atomic_write import atomic_write, write_error
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.ingestion.months import next_month
from dagster_essentials.reports.plots import plot_map
from dagster_essentials.reports.sample_data import is_sample
from dagster_essentials.warehouse.catalog import has_table
from dagster_essentials.warehouse.tables import Tables


@dataclass(frozen=True)
class ManhattanStats:
    """The counts: by zone, and independently of the zones.

    Attributes:
        zones: the number of zones of Manhattan.
        num_trips: the sum of their trips.
        trips_picked_up: trips whose pickup zone is one of Manhattan; the same number, unless a zone is counted twice.
        months: the months that are loaded (``YYYY-MM``), in order.
        months_with_trips: in how many of them a trip was picked up in Manhattan.
    """

    zones: int
    num_trips: int
    trips_picked_up: int
    months: Sequence[str]
    months_with_trips: int


_COUNT_BY_ZONE = """
WITH pickups AS (SELECT pickup_zone_id, sum(num_trips)::BIGINT AS num_trips FROM pickups_by_zone GROUP BY pickup_zone_id)
SELECT zone_id, zone, borough, coalesce(num_trips, 0), geometry
FROM zones LEFT JOIN pickups ON pickup_zone_id = zone_id
WHERE borough = 'Manhattan' ORDER BY zone_id
"""
_COUNT_TRIPS = """
SELECT coalesce(sum(num_trips), 0)::BIGINT, count(DISTINCT partition_date) FROM pickups_by_zone
WHERE pickup_zone_id IN (SELECT zone_id FROM zones WHERE borough = 'Manhattan')
"""


def write_manhattan_stats(tables: Tables, path: Path, files: DataFolder) -> ManhattanStats:
    """Count the pickups of all loaded months by zone, and write them with the zones' outlines to `path` in `files`, as GeoJSON.

    Raises:
        ReportError, QueryError, WriteError: it cannot be done; the file is unchanged.
    """
    with tables.explain_errors(
        "The tables trips and zones could not be queried",
        "If one of them was made by something else, rename or drop it, and materialize taxi_trips or taxi_zones again.",
    ):
        if not has_table(tables, "zones"):
            raise ReportError("There is no table zones. Materialize taxi_zones_file and taxi_zones first.")
        months = loaded_months(tables)
        if not months:
            raise ReportError("No trips are loaded. Materialize taxi_trips_file and taxi_trips for a month first.")
        zones = tables.execute(_COUNT_BY_ZONE).fetchall()
        trips_picked_up, months_with_trips = tables.execute(_COUNT_TRIPS).fetchall()[0]
    if not zones:
        raise ReportError(
            "The table zones has no zone of Manhattan. Check what TAXI_ZONES_URL points to, and materialize "
            "taxi_zones_file and taxi_zones again."
        )
    features = [_feature(*zone) for zone in zones]
    with atomic_write(path, files) as temporary:
        temporary.write_text(json.dumps({"type": "FeatureCollection", "months": months, "features": features}))
    num_trips = sum(num_trips for _, _, _, num_trips, _ in zones)
    return ManhattanStats(len(zones), num_trips, trips_picked_up, months, months_with_trips)


def _feature(zone_id: int, zone: str, borough: str, num_trips: int, geometry: str) -> dict[str, Any]:
    try:
        coordinates = multipolygon_coordinates(geometry)
    except (ValueError, AttributeError) as error:
        raise ReportError(
            f"The outline of zone {zone_id} in the table zones is not a multipolygon ({error}). Materialize "
            "taxi_zones_file and taxi_zones again."
        ) from None
    return {
        "type": "Feature",
        "properties": {"zone_id": zone_id, "zone": zone, "borough": borough, "num_trips": num_trips},
        "geometry": {"type": "MultiPolygon", "coordinates": coordinates},
    }


@dataclass(frozen=True)
class ManhattanMap:
    """The map as PNG, and what it shows."""

    png: bytes
    months: str
    num_trips: int


def write_manhattan_map(stats: Path, path: Path, files: DataFolder) -> ManhattanMap:
    """Plot the GeoJSON file `stats` to `path`, both in `files`, as PNG.

    Raises:
        ReportError, WriteError: it cannot be done; the picture is unchanged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One run plots at a time: otherwise one that read older figures could be the last to write.
        lock = FileLock(path.with_name(f".{path.name}.lock")).acquire()
    except OSError as error:
        raise write_error(error, path) from None
    with lock:
        files.fetch(stats)
        months, zones, names = _read_stats(stats)
        num_trips = sum(trips for _, trips in zones)
        try:
            title = f"Yellow taxi trips picked up in Manhattan\n{months}: {num_trips:,} trips"
            png = plot_map(zones, title, is_sample(names))
        except (ValueError, TypeError, IndexError) as error:
            raise _not_stats(stats, error) from None
        with atomic_write(path, files) as temporary:
            temporary.write_bytes(png)
    return ManhattanMap(png, months, num_trips)


def _read_stats(path: Path) -> tuple[str, list[tuple[Any, int]], list[str]]:
    """The months that the GeoJSON file covers, in words, each zone's coordinates and trips, and the names of the zones."""
    try:
        stats = json.loads(path.read_bytes())
        zones = [
            (feature["geometry"]["coordinates"], int(feature["properties"]["num_trips"]))
            for feature in stats["features"]
        ]
        names = [str(feature["properties"].get("zone")) for feature in stats["features"]]
        return describe_months(stats["months"]), zones, names
    except FileNotFoundError:
        raise ReportError(f"{path} does not exist. Materialize manhattan/manhattan_stats first.") from None
    except OSError as error:
        raise ReportError(
            f"{path} cannot be read ({error.strerror}). Check what it is, and materialize manhattan/manhattan_stats again."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise _not_stats(path, error) from None


def _not_stats(path: Path, error: Exception) -> ReportError:
    return ReportError(f"{path} is not what manhattan/manhattan_stats writes ({error!r}). Materialize it again.")


def describe_months(months: Sequence[str]) -> str:
    """``2019-01 to 2019-03, 2020-04``: consecutive months by their first and last."""
    ranges: list[list[str]] = []
    for month in months:
        if ranges and month == next_month(ranges[-1][-1]):
            ranges[-1][1:] = [month]
        else:
            ranges.append([month])
    words = [" to ".join(first_and_last) for first_and_last in ranges]
    # More than three do not fit into the title of the map.
    return ", ".join(words) if len(words) <= 3 else f"{len(months)} months from {months[0]} to {months[-1]}"
