"""The zone of a position: exactly that of a plain test of each point against each polygon, without a raster."""

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import shapely

from dagster_essentials.datasets.zone_lookup import ZoneLookup
from dagster_essentials.datasets.zones import Zone, fingerprint, read_zones
from dagster_essentials.errors import ZonesError
from dagster_essentials.sample import write_zones
from dagster_essentials_tests.support.project import DISK, REAL_DATA

pytestmark = pytest.mark.slow

Points = npt.NDArray[np.float64]
ZONES_CSV = REAL_DATA / "taxi_zones.csv"
KAGGLE = REAL_DATA / "legacy" / "points_2009_2010.csv"


def zone(zone_id: int, geometry: str | None) -> Zone:
    return Zone(zone_id, f"Zone {zone_id}", "Queens", geometry)


def square(zone_id: int, west: float, south: float, side: float = 1.0) -> Zone:
    return zone(zone_id, shapely.MultiPolygon([shapely.box(west, south, west + side, south + side)]).wkt)


def zone_ids(zones: Sequence[Zone], *points: tuple[float, float]) -> list[int]:
    return [int(found) for found in ZoneLookup(zones).zone_ids(*np.array(points, float).T)]


def by_every_polygon(outlines: dict[int, shapely.Geometry], points: Points) -> list[int]:
    """The smallest zone that each point touches: every point against every polygon, nothing prepared."""
    found = np.full(len(points), 265)
    for zone_id in sorted(outlines, reverse=True):
        # A box as large as the polygon's excludes no point that touches it.
        west, south, east, north = outlines[zone_id].bounds
        near = np.flatnonzero(
            (points[:, 0] >= west) & (points[:, 0] <= east) & (points[:, 1] >= south) & (points[:, 1] <= north)
        )
        found[near[shapely.intersects(shapely.points(points[near]), outlines[zone_id])]] = zone_id
    return found.tolist()


# The published zones


@pytest.fixture(scope="module")
def outlines() -> dict[int, shapely.Geometry]:
    """The published outlines by OBJECTID, read without the code under test."""
    if not ZONES_CSV.exists():
        pytest.skip(f"the published zones are not in {REAL_DATA}")
    csv.field_size_limit(1 << 24)
    with open(ZONES_CSV, newline="", encoding="utf-8") as file:
        return {int(row["OBJECTID"]): shapely.from_wkt(row["the_geom"]) for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def lookup(outlines: dict[int, shapely.Geometry]) -> ZoneLookup:
    return ZoneLookup(read_zones(ZONES_CSV, DISK))


@pytest.fixture(scope="module")
def vertices(outlines: dict[int, shapely.Geometry]) -> Points:
    return np.concatenate([shapely.get_coordinates(outline) for outline in outlines.values()])


def uniform(random: np.random.Generator, vertices: Points) -> Points:
    return random.uniform(vertices.min(axis=0) - 0.02, vertices.max(axis=0) + 0.02, (80_000, 2))


def near_borders(random: np.random.Generator, vertices: Points) -> Points:
    """Within 1e-3 to 1e-12 degrees of a point on a border."""
    start = random.integers(0, len(vertices) - 1, 120_000)
    # Some of these lines lead from one ring to the next; their points are as good.
    on_border: Points = vertices[start] + random.random((len(start), 1)) * (vertices[start + 1] - vertices[start])
    return on_border + random.normal(0, 1, on_border.shape) * 10.0 ** -random.integers(3, 13, (len(start), 1))


def on_grid_lines(random: np.random.Generator, vertices: Points) -> Points:
    """On the edges of the raster's cells, and one representable number beside them."""
    origin = vertices.min(axis=0) - 2 * 0.0002
    points = origin + random.integers(0, [2781, 2101], (60_000, 2)) * 0.0002
    # One of the coordinates anywhere, so that edges are met outside their corners, too.
    anywhere = random.random(len(points)) < 0.5
    points[anywhere, 0] += random.random(anywhere.sum()) * 0.0002
    beside: Points = np.nextafter(points, points + random.integers(-1, 2, points.shape))
    return beside


def on_vertices(random: np.random.Generator, vertices: Points) -> Points:
    return np.concatenate([vertices, np.round(vertices[:20_000], 6)])


@pytest.mark.parametrize("choose", [uniform, near_borders, on_grid_lines, on_vertices])
def test_every_point_has_the_zone_that_the_polygons_give_it(
    choose: Callable[[np.random.Generator, Points], Points],
    lookup: ZoneLookup,
    outlines: dict[int, shapely.Geometry],
    vertices: Points,
) -> None:
    points = choose(np.random.default_rng(2009), vertices)
    found = lookup.zone_ids(points[:, 0], points[:, 1])
    expected = np.array(by_every_polygon(outlines, points))
    assert len(set(found)) > 200
    assert np.flatnonzero(found != expected).tolist() == []


def test_the_points_of_real_trips_have_the_zones_that_the_polygons_give_them(
    lookup: ZoneLookup, outlines: dict[int, shapely.Geometry]
) -> None:
    rows = np.genfromtxt(KAGGLE, delimiter=",", skip_header=1, usecols=(1, 2, 3, 4))
    points = np.concatenate([rows[:, :2], rows[:, 2:]])
    expected = by_every_polygon(outlines, points)
    for number, point in enumerate(points.tolist()):
        if 0 in point or point == [-73.137393, 41.366138]:
            expected[number] = 264
    assert lookup.zone_ids(points[:, 0], points[:, 1]).tolist() == expected
    assert (len(points), expected.count(264), expected.count(265)) == (3076, 65, 24)


@pytest.mark.parametrize(
    ("place", "zone_id"),
    [
        ((-73.9857, 40.7484), 164),  # the Empire State Building
        ((-73.7781, 40.6413), 132),  # JFK
        ((-74.1745, 40.6895), 1),  # Newark
        ((-73.8591, 40.7416), 56),  # Corona: of both rows, LocationID is 56
        ((-73.8534, 40.7523), 57),
        ((-74.0445, 40.6892), 103),  # Liberty Island: of this and the next two, LocationID is 103
        ((-74.0397, 40.6995), 104),  # Ellis Island
        ((-74.0165, 40.6895), 105),  # Governors Island
        ((-73.5, 40.3), 265),  # the ocean
        ((-74.08, 40.73), 265),  # Jersey City
        ((40.7484, -73.9857), 265),  # swapped
    ],
)
def test_places_have_their_zones(place: tuple[float, float], zone_id: int, lookup: ZoneLookup) -> None:
    assert lookup.zone_ids(*np.array([place]).T).tolist() == [zone_id]


# Positions that are none, and ties


NO_POSITIONS = [
    (0.0, 0.0),
    (-0.0, 40.7),
    (-73.9, 0.0),
    (math.nan, 40.7),
    (-73.9, math.nan),
    (math.inf, 40.7),
    (-73.9, -math.inf),
    (-math.inf, math.inf),
    (-73.137393, 41.366138),
    (-73.137393000000003, 41.366137999999999),
    (np.nextafter(-73.137393, 0), np.nextafter(41.366138, 50)),
]
FAR_AWAY = [(-73.137393, 41.366), (-73.1373, 41.366138), (1e-300, 40.7), (1e308, -1e308), (180.0, 90.0), (-73.9, 1e9)]


def test_no_position_is_zone_264_and_any_other_outside_is_265() -> None:
    city = [square(7, -74.01, 40.7, 0.01)]
    assert zone_ids(city, *NO_POSITIONS) == [264] * len(NO_POSITIONS)
    assert zone_ids(city, *FAR_AWAY) == [265] * len(FAR_AWAY)


def test_no_position_is_zone_264_wherever_the_zones_are() -> None:
    world = [zone(7, "MULTIPOLYGON (((-180 -90, -180 90, 180 90, 180 -90, -180 -90)))")]
    assert zone_ids(world, *NO_POSITIONS, *FAR_AWAY) == [264] * len(NO_POSITIONS) + [7, 7, 7, 265, 7, 265]


def test_a_border_belongs_to_its_zone_and_of_several_zones_the_smallest_id_wins() -> None:
    # 5 and 3 share an edge; 9 overlaps both, and 2 lies within 9.
    zones = [square(5, 10, 10), square(3, 11, 10), square(9, 10.5, 10.5, 2), square(2, 12, 12, 0.25)]
    expected = {
        (10, 10): 5,  # a vertex
        (10.3, 10): 5,  # edges
        (10, 10.3): 5,
        (10.3, 10.3): 5,
        (11, 10.3): 3,  # the common edge
        (11, 10): 3,
        (11, 11): 3,
        (10.7, 10.7): 5,  # in 9 as well
        (11.3, 10.7): 3,
        (10.7, 11): 5,
        (10.7, 11.0001): 9,
        (12.5, 12.5): 9,
        (12, 12.1): 2,
        (np.nextafter(10, 0), 10.3): 265,
        (10.3, np.nextafter(10, 0)): 265,
    }
    assert dict(zip(expected, zone_ids(zones, *expected), strict=True)) == expected


def test_the_order_of_the_zones_does_not_matter_and_those_without_an_outline_are_never_found() -> None:
    zones = [zone(265, None), square(9, 10, 10), zone(1, None), square(4, 10.5, 10.5), zone(264, None)]
    assert zone_ids(zones, (10.7, 10.7), (10.2, 10.2), (9, 9)) == [4, 9, 265]


def test_the_hole_of_a_zone_is_outside_but_for_its_border() -> None:
    outline = (
        "MULTIPOLYGON (((10 10, 10 14, 14 14, 14 10, 10 10), (11 11, 13 11, 13 13, 11 13, 11 11)), "
        "((20 20, 20 21, 21 20, 20 20)))"
    )
    assert zone_ids([zone(6, outline)], (10.5, 10.5), (12, 12), (11, 12), (20.1, 20.1), (20.9, 20.9)) == [
        6,
        265,
        6,
        6,
        265,
    ]


def test_the_sample_zones_are_found_by_the_squares_that_they_are(tmp_path: Path) -> None:
    zones = read_zones(write_zones(tmp_path / "taxi_zones.csv"), DISK)
    centres = [(-74.2 + 0.03 * (n // 16) + 0.015, 40.5 + 0.03 * (n % 16) + 0.015) for n in range(1, 264)]
    assert zone_ids(zones, *centres) == list(range(1, 264))


def test_overlapping_zones_of_any_shape_are_found_as_by_the_polygons() -> None:
    random = np.random.default_rng(7)
    outlines = {
        int(number): shapely.MultiPolygon(
            [shapely.Point(*random.uniform(1.05, 1.1, 2)).buffer(random.uniform(0.001, 0.03), 5)]
        )
        for number in random.permutation(np.arange(1, 40))
    }
    points = np.concatenate([shapely.get_coordinates(list(outlines.values())), random.uniform(1.01, 1.14, (20_000, 2))])
    lookup = ZoneLookup([zone(number, outline.wkt) for number, outline in outlines.items()])
    written = {number: shapely.from_wkt(outline.wkt) for number, outline in outlines.items()}
    assert lookup.zone_ids(points[:, 0], points[:, 1]).tolist() == by_every_polygon(written, points)


# Trips


def test_a_trip_has_both_zones_and_null_is_no_position() -> None:
    def column(*values: float | None) -> pa.ChunkedArray:
        return pa.chunked_array([pa.array(values, pa.float64())])

    lookup = ZoneLookup([square(5, 10, 10), square(300, 20, 20)])
    pickups = (column(10.5, None, 20.5, 10.5, 10.5), column(10.5, 10.5, 20.5, None, 10.5))
    dropoffs = (column(20.5, 20.5, None, 0.0, 10.5), column(20.5, 20.5, None, 20.5, 15))
    both = lookup.trip_zones(*pickups, *dropoffs).to_pylist()
    assert [divmod(zones, 1 << 16) for zones in both] == [(5, 300), (264, 300), (300, 264), (264, 264), (5, 265)]
    assert lookup.trip_zones(*[pa.chunked_array([], pa.float64())] * 4).to_pylist() == []


# Zones that cannot be used, and their fingerprint


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (zone(3, "MULTIPOLYGON (((1 2, 3)))"), r"zone 3 \(Zone 3\) has an outline that is not WKT"),
        (zone(3, "MULTIPOLYGON EMPTY"), "zone 3 .* has an outline without an extent"),
        (zone(3, "MULTIPOLYGON (((0 0, 1e999 0, 1 1, 0 0)))"), "zone 3 .* has an outline without an extent"),
        (square(40_000, 1, 1), "zone 40000 .* has an id that is too large"),
    ],
    ids=["not WKT", "empty", "infinite", "a large id"],
)
def test_a_zone_that_cannot_be_used_is_reported_with_its_id(bad: Zone, message: str) -> None:
    with pytest.raises(ZonesError, match=rf"{message}.*materialize taxi_zones_file again"):
        ZoneLookup([square(1, 5, 5), bad])


def test_zones_without_any_outline_are_refused() -> None:
    with pytest.raises(ZonesError, match="no zone has an outline"):
        ZoneLookup([zone(264, None)])


def test_the_fingerprint_changes_with_ids_and_outlines_only() -> None:
    zones = [square(1, 1, 1), square(2, 5, 5), zone(264, None)]
    same = [Zone(2, "Another name", "Bronx", zones[1].geometry), zones[0]]
    assert fingerprint(zones) == fingerprint(same)
    assert len(fingerprint(zones)) == 64
    assert (
        len(
            {
                fingerprint(other)
                for other in (zones, zones[:1], [square(1, 1, 2), zones[1]], [square(3, 1, 1), zones[1]])
            }
        )
        == 4
    )
