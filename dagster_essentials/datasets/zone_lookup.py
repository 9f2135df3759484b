"""The zone of a position, for the months that have coordinates instead of zones: point in polygon, on a raster.

Takes zones and arrays; no file and no table. It imports numpy, pyarrow and shapely, so import it where such a month is loaded.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from dagster_essentials.datasets.zones import Zone
from dagster_essentials.errors import ZonesError

UNKNOWN_ZONE, OUTSIDE_ZONE = 264, 265
"""The TLC's ids for a trip without a position, and for a position outside all zones."""

NO_POSITION = (-73.137393, 41.366138)
"""Longitude and latitude that the meters of DDS sent without a position: a place in Connecticut."""
NO_POSITION_TOLERANCE = 1e-7
"""Degrees, 1 cm. The files have six decimals, read as doubles such as 41.366137999999999."""

CELL_DEGREES = 0.0002
"""About 20 m. Of the points of real trips, 16 % are in a cell with a border and go to the polygons. At 0.0001° it would be
9 %, for a raster of 93 MB instead of 23 MB."""
MAX_CELLS = 3_000
"""In each direction; beyond, cells are larger. The city has 2,781 by 2,101."""
MARGIN = 1e-5
"""Distance from a border, in cells, within which a cell counts as having that border: much more than rounding."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class ZoneLookup:
    """The zones by position, exactly as a test of each point against each polygon would give them.

    A border belongs to its zone; of several zones the smallest id wins. The raster answers for cells without a border:
    such a cell is in the same zones as its centre. Points in other cells are tested against the zones of that cell.

    Args:
        zones: with their outlines; those without one are never found.

    Raises:
        ZonesError: an outline cannot be used, or an id is not from 1 to 32,767.
    """

    def __init__(self, zones: Sequence[Zone]):
        placed = sorted((zone for zone in zones if zone.geometry is not None), key=lambda zone: zone.zone_id)
        if not placed:
            raise ZonesError(f"no zone has an outline. {_ADVICE}")
        self._outlines = np.array([_outline(zone) for zone in placed], object)
        self._ids = np.array([zone.zone_id for zone in placed], np.int32)
        # In place. STRtree.query(predicate=...) would prepare the points instead, and take more than twice as long.
        shapely.prepare(self._outlines)
        self._tree = shapely.STRtree(self._outlines)
        west, south, east, north = shapely.total_bounds(self._outlines)
        self._cell = max(CELL_DEGREES, (east - west) / MAX_CELLS, (north - south) / MAX_CELLS)
        # The outermost cells lie beyond the outlines on each side.
        self._origin = np.array([west, south]) - 2 * self._cell
        self._columns = int((east - west) / self._cell) + 5
        self._rows = int((north - south) / self._cell) + 5
        self._build_raster()
        west, south = self._origin
        east, north = self._origin + self._cell * np.array([self._columns, self._rows])
        is_no_position_inside = west <= NO_POSITION[0] <= east and south <= NO_POSITION[1] <= north
        self._tests_all = west <= 0 <= east or south <= 0 <= north or is_no_position_inside

    def zone_ids(self, longitudes: Floats, latitudes: Floats) -> npt.NDArray[np.int32]:
        """The zone of each position, in degrees; NaN is no position."""
        column = self._cell_numbers(longitudes, self._origin[0], self._columns)
        row = self._cell_numbers(latitudes, self._origin[1], self._rows)
        found: npt.NDArray[np.int32] = self._raster[row * self._columns + column]
        undecided = np.flatnonzero(found <= 0)
        found[undecided] = self._test(longitudes[undecided], latitudes[undecided], -found[undecided])
        if self._tests_all:  # Not in New York: there, what stands for no position is off the raster.
            found[_is_no_position(longitudes, latitudes)] = UNKNOWN_ZONE
        return found

    def trip_zones(
        self,
        pickup_longitude: pa.ChunkedArray,
        pickup_latitude: pa.ChunkedArray,
        dropoff_longitude: pa.ChunkedArray,
        dropoff_latitude: pa.ChunkedArray,
    ) -> pa.Array:
        """Both zones of each trip, as ``pickup << 16 | dropoff`` (int32); null is no position.

        One call for both, because calls are what costs: DuckDB makes one for 2,048 trips, which takes 0.3 ms, and the zones
        of both ends 0.2 ms.
        """
        # DuckDB reads the signature: it counts the parameters, and evaluates the annotations.
        pickups = len(pickup_longitude)
        both = self.zone_ids(
            np.concatenate([pickup_longitude.to_numpy(), dropoff_longitude.to_numpy()]),
            np.concatenate([pickup_latitude.to_numpy(), dropoff_latitude.to_numpy()]),
        )
        return pa.array(both[:pickups] << 16 | both[pickups:])

    def _cell_numbers(self, degrees: Floats, origin: float, cells: int) -> npt.NDArray[np.int32]:
        """The column or row of each position. NaN and what is off the raster have one at its edge, where nothing is decided."""
        with np.errstate(over="ignore"):
            numbers: npt.NDArray[np.int32] = np.fmin(np.fmax((degrees - origin) / self._cell, 0), cells - 1).astype(
                np.int32
            )
        return numbers

    def _test(self, longitudes: Floats, latitudes: Floats, cells: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """The zone of each position in one of the undecided `cells`, by the polygons."""
        found = np.full(len(cells), OUTSIDE_ZONE, np.int32)
        found[_is_no_position(longitudes, latitudes)] = UNKNOWN_ZONE
        pending = np.flatnonzero(found == OUTSIDE_ZONE)
        candidate, end = self._first_candidate[cells], self._first_candidate[cells + 1]
        # In the order of the ids, so that the first hit is the smallest. No cell of the city has more than five zones.
        while len(pending := pending[candidate[pending] < end[pending]]):
            zones = self._candidates[candidate[pending]]
            hit = shapely.intersects_xy(self._outlines[zones], longitudes[pending], latitudes[pending])
            found[pending[hit]] = self._ids[zones[hit]]
            pending = pending[~hit]
            candidate[pending] += 1
        return found

    def _build_raster(self) -> None:
        """Make the raster: for each cell its zone or, below one, the number of an undecided cell, negated.

        `_first_candidate` has for each undecided cell where its zones begin in `_candidates`.
        """
        size = self._columns * self._rows
        border_cells, border_zones = self._border_cells()
        is_undecided = np.zeros((self._rows, self._columns), bool)
        is_undecided[[0, -1]] = is_undecided[:, [0, -1]] = True
        is_undecided.flat[border_cells] = True
        # Along a row, cells without a border are in the same zones as the one before.
        run_starts = np.flatnonzero(~is_undecided.flat[1:] & is_undecided.flat[:-1]) + 1
        run_ends = np.flatnonzero(is_undecided.flat[1:] & ~is_undecided.flat[:-1]) + 1
        undecided = np.flatnonzero(is_undecided)
        run, zone = self._zones_at_centres(run_starts)
        zone_of_run = np.full(len(run_starts), OUTSIDE_ZONE, np.int32)
        zone_of_run[run[::-1]] = self._ids[zone[::-1]]  # Of several zones, the last one assigned is the smallest.
        self._raster = np.empty(size, np.int32)
        self._raster[undecided] = -np.arange(len(undecided))
        self._raster[~is_undecided.ravel()] = np.repeat(zone_of_run, run_ends - run_starts)
        # The zones of an undecided cell: those with a border in it, and those around it.
        around, zone = self._zones_at_centres(undecided)
        zones = len(self._ids)
        pairs = np.unique(
            np.concatenate([np.searchsorted(undecided, border_cells) * zones + border_zones, around * zones + zone])
        )
        self._candidates = pairs % zones
        self._first_candidate = np.searchsorted(pairs, np.arange(len(undecided) + 1) * zones)

    def _border_cells(self) -> tuple[Integers, Integers]:
        """Cells through which a border goes, each with the zone (its number among the outlines); with repetitions."""
        polygons, outline_of_polygon = shapely.get_parts(self._outlines, return_index=True)
        rings, polygon_of_ring = shapely.get_rings(polygons, return_index=True)
        points, ring_of_point = shapely.get_coordinates(rings, return_index=True)
        points = (points - self._origin) / self._cell
        # Pieces of at most half a cell are in no other cells than those of the corners of the box around them.
        is_segment = ring_of_point[1:] == ring_of_point[:-1]
        start, change = points[:-1][is_segment], np.diff(points, axis=0)[is_segment]
        pieces = np.maximum(np.ceil(np.abs(change).max(axis=1, initial=0) * 2), 1).astype(int)
        segment = np.repeat(np.arange(len(pieces)), pieces)
        number = np.arange(len(segment)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        ends = [start[segment] + change[segment] * ((number + k) / pieces[segment])[:, None] for k in (0, 1)]
        low, high = np.floor(np.minimum(*ends) - MARGIN), np.floor(np.maximum(*ends) + MARGIN)
        corners = [row[:, 1] * self._columns + column[:, 0] for column in (low, high) for row in (low, high)]
        zone = outline_of_polygon[polygon_of_ring[ring_of_point[:-1][is_segment]]][segment]
        return np.concatenate(corners).astype(int), np.tile(zone, len(corners))

    def _zones_at_centres(self, cells: Integers) -> tuple[Integers, Integers]:
        """Pairs of a cell's position in `cells` and a zone that its centre is in, ordered by both."""
        row, column = np.divmod(cells, self._columns)
        centres = self._origin + (np.column_stack([column, row]) + 0.5) * self._cell
        position, zone = self._tree.query(shapely.points(centres))
        order = np.lexsort((zone, position))
        position, zone = position[order], zone[order]
        hit = shapely.intersects_xy(self._outlines[zone], centres[position, 0], centres[position, 1])
        return position[hit], zone[hit]


def _outline(zone: Zone) -> shapely.Geometry:
    # One by one: from_wkt of all of them at once takes 0.8 s and 300 MB, and so 0.05 s and 8 MB.
    try:
        with np.errstate(invalid="ignore"):
            outline = shapely.from_wkt(zone.geometry)
    except shapely.errors.GEOSException as error:
        raise ZonesError(
            f"zone {zone.zone_id} ({zone.zone}) has an outline that is not WKT: {error}. {_ADVICE}"
        ) from None
    if outline.is_empty or not np.isfinite(outline.bounds).all():
        raise ZonesError(f"zone {zone.zone_id} ({zone.zone}) has an outline without an extent. {_ADVICE}")
    if not 0 < zone.zone_id < 1 << 15:
        raise ZonesError(f"zone {zone.zone_id} ({zone.zone}) has an id that is too large. {_ADVICE}")
    return outline


_ADVICE = "Check what TAXI_ZONES_URL points to, and materialize taxi_zones_file again."


def _is_no_position(longitudes: Floats, latitudes: Floats) -> npt.NDArray[np.bool_]:
    distance = np.maximum(np.abs(longitudes - NO_POSITION[0]), np.abs(latitudes - NO_POSITION[1]))
    # The distance is NaN or infinite where a coordinate is.
    is_elsewhere = (distance < np.inf) & (distance >= NO_POSITION_TOLERANCE)
    is_none: npt.NDArray[np.bool_] = ~is_elsewhere | (longitudes == 0) | (latitudes == 0)
    return is_none
