"""`manhattan_stats` and `manhattan_map`: counts and outlines equal those of the files, and a failed run changes nothing."""

import csv
import errno
import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from PIL import Image

from dagster_essentials.assets import constants
from dagster_essentials.assets.metrics import manhattan_map, manhattan_stats, trips_by_week
from dagster_essentials.errors import PipelineError, ReportError
from dagster_essentials.reports import manhattan
from dagster_essentials.resources import LockedDuckDBResource
from dagster_essentials.sample import write_month, write_zones
from dagster_essentials_tests.runs.test_weekly import aggregate, assert_weeks, sundays
from dagster_essentials_tests.support.loaded_trips import (
    REAL_FILES,
    Trip,
    daily,
    decode_picture,
    edit_trips,
    load_trips,
    load_zones,
    materialized_metadata,
)
from dagster_essentials_tests.support.project import DISK, REAL_DATA, REAL_MONTHS, Project, failure_text, materialize
from dagster_essentials_tests.support.run_results import TRIPS, ZONES
from dagster_essentials_tests.support.source_server import SourceServer


def stats_path(project: Project) -> Path:
    return project.folder / "staging" / "manhattan_stats.geojson"


def map_path(project: Project) -> Path:
    return project.folder / "outputs" / "manhattan_map.png"


def outline(wkt: str) -> list[Any]:
    """The polygons, rings and points of a WKT multipolygon, by splitting its text."""
    assert wkt.startswith("MULTIPOLYGON (((")
    assert wkt.endswith(")))")
    return [
        [[[float(number) for number in point.split()] for point in ring.split(",")] for ring in polygon.split("), (")]
        for polygon in wkt.removeprefix("MULTIPOLYGON (((").removesuffix(")))").split(")), ((")
    ]


@dataclass
class PublishedZone:
    """A zone of Manhattan in the CSV, with its outline."""

    zone: str
    outline: list[Any]


def read_manhattan(path: Path) -> dict[int, PublishedZone]:
    """The zones of Manhattan in the CSV at `path`, by the ids that trips have."""
    csv.field_size_limit(1 << 24)
    with open(path, newline="", encoding="utf-8") as file:
        return {
            int(row["OBJECTID"]): PublishedZone(row["zone"], outline(row["the_geom"]))
            for row in csv.DictReader(file)
            if row["borough"] == "Manhattan"
        }


def pickups(files: Iterable[Path]) -> Counter[int | None]:
    """The number of trips of `files` that began in each zone."""
    zones: Counter[int | None] = Counter()
    for file in files:
        zones.update(pq.read_table(file, columns=["PULocationID"])["PULocationID"].to_pylist())
    return zones


def stats(project: Project) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(stats_path(project).read_bytes())
    return content


def num_trips(project: Project) -> dict[int, int]:
    found = [feature["properties"] for feature in stats(project)["features"]]
    assert len({zone["zone_id"] for zone in found}) == len(found)
    return {zone["zone_id"]: zone["num_trips"] for zone in found}


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """The results of the asset checks of a run, by name."""
    return {found.check_name: found for found in result.get_asset_check_evaluations()}


def passed(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {name: found.passed for name, found in evaluations(result).items()}


ALL_PASSED = {"sum_matches_trips": True, "manhattan_has_trips": True}


def test_each_zone_of_manhattan_has_the_trips_and_the_outline_of_the_files(
    real: Project, instance: dg.DagsterInstance
) -> None:
    result = materialize(real, instance, [manhattan_stats])
    assert result.success
    zones, trips = read_manhattan(REAL_DATA / "taxi_zones.csv"), pickups(REAL_FILES)
    content = stats(real)
    assert set(content) == {"type", "months", "features"}
    assert content["type"] == "FeatureCollection"
    assert content["months"] == list(REAL_MONTHS)
    assert num_trips(real) == {zone: trips[zone] for zone in zones}
    assert list(num_trips(real)) == sorted(zones)
    assert 0 in num_trips(real).values()
    assert len(zones) == 69
    for feature in content["features"]:
        assert set(feature) == {"type", "properties", "geometry"}
        assert feature["type"] == "Feature"
        zone = zones[feature["properties"]["zone_id"]]
        assert (feature["properties"]["zone"], feature["properties"]["borough"]) == (zone.zone, "Manhattan")
        assert feature["geometry"] == {"type": "MultiPolygon", "coordinates": zone.outline}
    total = sum(trips[zone] for zone in zones)
    assert total > 30_000
    assert passed(result) == ALL_PASSED
    (found,) = materialized_metadata(result, manhattan_stats)
    assert found["months"] == "2019-01 to 2019-03, 2020-04, 2025-02"
    assert (found["zones"], found["num_trips"], found["path"]) == (69, total, str(stats_path(real)))
    assert real.temporary_files() == []


def test_every_ring_in_the_file_is_closed_and_in_new_york(real: Project, instance: dg.DagsterInstance) -> None:
    assert materialize(real, instance, [manhattan_stats]).success
    rings = [
        ring
        for feature in stats(real)["features"]
        for polygon in feature["geometry"]["coordinates"]
        for ring in polygon
    ]
    assert all(ring[0] == ring[-1] and len(ring) >= 4 for ring in rings)
    assert all(-74.1 < longitude < -73.8 and 40.6 < latitude < 40.9 for ring in rings for longitude, latitude in ring)


def test_the_trips_of_each_of_the_islands_are_counted_in_it_once(
    project: Project, instance: dg.DagsterInstance
) -> None:
    zones_file = load_zones(project)
    file = load_trips(
        project, "2023-01", daily("2023-01-01", "2023-01-31", zone=103) + daily("2023-01-01", "2023-01-03", zone=105)
    )
    assert passed(materialize(project, instance, [manhattan_stats])) == ALL_PASSED
    assert {zone: trips for zone, trips in num_trips(project).items() if trips} == {103: 31, 105: 3}
    zones = read_manhattan(zones_file)
    assert num_trips(project) == {zone: pickups([file])[zone] for zone in zones}


def test_trips_outside_manhattan_and_in_unknown_zones_are_not_counted(
    project: Project, instance: dg.DagsterInstance
) -> None:
    load_zones(project)
    others = [Trip("2023-01-01T12:00:00", zone) for zone in (1, 2, 36, 106, 264, 265, 9999, -1, None)]
    load_trips(project, "2023-01", [*others, *daily("2023-01-01", "2023-01-05")])
    assert passed(materialize(project, instance, [manhattan_stats])) == ALL_PASSED
    assert {zone: trips for zone, trips in num_trips(project).items() if trips} == {100: 5}


def test_a_month_without_a_trip_in_manhattan_is_a_warning(project: Project, instance: dg.DagsterInstance) -> None:
    load_zones(project)
    load_trips(project, "2023-01", daily("2023-01-01", "2023-01-31"))
    load_trips(project, "2023-02", daily("2023-02-01", "2023-02-28", zone=1))
    result = materialize(project, instance, [manhattan_stats])
    assert result.success
    assert passed(result) == {**ALL_PASSED, "manhattan_has_trips": False}
    check = evaluations(result)["manhattan_has_trips"]
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert {name: value.value for name, value in check.metadata.items()} == {
        "num_trips": 31,
        "months": 2,
        "months_with_trips": 1,
    }
    assert check.description == "1 of 2 months have trips picked up in Manhattan."
    assert stats(project)["months"] == ["2023-01", "2023-02"]


def test_a_duplicate_zone_in_the_zones_table_fails_the_check_of_the_sum(
    project: Project, instance: dg.DagsterInstance
) -> None:
    load_zones(project)
    load_trips(project, "2023-01", daily("2023-01-01", "2023-01-31"))
    with project.connect() as tables:
        tables.execute("INSERT INTO zones SELECT * FROM zones WHERE zone_id = 100")
    result = materialize(project, instance, [manhattan_stats])
    assert passed(result) == {**ALL_PASSED, "sum_matches_trips": False}
    check = evaluations(result)["sum_matches_trips"]
    assert check.severity == dg.AssetCheckSeverity.ERROR
    assert {name: value.value for name, value in check.metadata.items()} == {
        "trips_in_zones": 62,
        "trips_picked_up": 31,
    }
    assert check.description == "62 trips in the zones, 31 picked up in Manhattan."


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("no trips", ["No trips are loaded.", "Materialize taxi_trips_file and taxi_trips"]),
        ("empty trips", ["No trips are loaded.", "Materialize taxi_trips_file and taxi_trips"]),
        ("empty zones", ["no zone of Manhattan", "TAXI_ZONES_URL"]),
        ("other boroughs", ["no zone of Manhattan", "TAXI_ZONES_URL"]),
        ("broken outline", ["not a multipolygon", "Materialize taxi_zones_file and taxi_zones again."]),
        ("no outline", ["not a multipolygon", "Materialize taxi_zones_file and taxi_zones again."]),
        ("foreign trips", ["partition_date", "rename or drop it"]),
        ("foreign zones", ["zone_id", "rename or drop it"]),
    ],
)
def test_an_unusable_database_fails_with_advice_and_the_file_is_unchanged(
    state: str, says: list[str], project: Project
) -> None:
    load_zones(project)
    if state != "no trips":
        load_trips(project, "2023-01", daily("2023-01-01", "2023-01-31"))
    change = {
        "empty trips": "DELETE FROM trips",
        "empty zones": "DELETE FROM zones",
        "other boroughs": "UPDATE zones SET borough = 'Queens'",
        "no outline": "UPDATE zones SET geometry = NULL WHERE zone_id = 100",
        "foreign trips": "ALTER TABLE trips DROP COLUMN partition_date",
        "foreign zones": "ALTER TABLE zones DROP COLUMN zone_id",
        "broken outline": "UPDATE zones SET geometry = 'MULTIPOLYGON (((1 2, 3' WHERE zone_id = 100",
    }
    if state in change:
        edit_trips(project, change[state])
    stats_path(project).write_text("earlier")
    with pytest.raises(PipelineError) as refused, project.connect() as tables:
        manhattan.write_manhattan_stats(tables, stats_path(project), DISK)
    assert [part for part in says if part not in str(refused.value)] == []
    assert stats_path(project).read_text() == "earlier"
    assert project.temporary_files() == []


def test_without_zones_the_run_of_the_stats_fails_with_advice(project: Project, instance: dg.DagsterInstance) -> None:
    load_trips(project, "2023-01", daily("2023-01-01", "2023-01-31"))
    result = materialize(project, instance, [manhattan_stats])
    assert "There is no table zones. Materialize taxi_zones_file and taxi_zones first." in failure_text(result)
    assert not instance.get_latest_materialization_event(manhattan_stats.key)
    assert not stats_path(project).exists()


@pytest.mark.parametrize("fault", ["file instead of folder", "disk full"])
def test_if_the_stats_cannot_be_written_the_earlier_file_is_unchanged(
    fault: str, project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_zones(project)
    load_trips(project, "2023-01", daily("2023-01-01", "2023-01-31"))
    kept = project.folder / "folder" / "stats.geojson"
    monkeypatch.setattr(constants, "MANHATTAN_STATS_FILE_PATH", str(kept))
    assert materialize(project, instance, [manhattan_stats]).success
    before = kept.read_bytes()
    load_trips(project, "2023-02", daily("2023-02-01", "2023-02-28"))
    if fault == "file instead of folder":
        kept = kept.parent.rename(project.folder / "kept") / kept.name
        (project.folder / "folder").write_text("not a folder")
    else:

        def write_half(path: Path, text: str, *_: Any, **__: Any) -> int:
            path.write_bytes(text[: len(text) // 2].encode())
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "write_text", write_half)
    text = failure_text(materialize(project, instance, [manhattan_stats]))
    assert "folder" in text
    assert "could not be written" in text
    assert "materialize again" in text
    assert kept.read_bytes() == before
    assert project.temporary_files() == []


# The map.


def square(west: float, south: float, side: float) -> list[list[float]]:
    east, north = west + side, south + side
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def write_stats(project: Project, zones: Sequence[tuple[list[Any], int]], months: Sequence[str] = ("2023-01",)) -> None:
    """Write a file like that of manhattan_stats, with zones by their coordinates and trips."""
    features = [
        {
            "type": "Feature",
            "properties": {"zone_id": number, "zone": "Somewhere", "borough": "Manhattan", "num_trips": trips},
            "geometry": {"type": "MultiPolygon", "coordinates": coordinates},
        }
        for number, (coordinates, trips) in enumerate(zones, start=1)
    ]
    stats_path(project).parent.mkdir(parents=True, exist_ok=True)
    stats_path(project).write_text(
        json.dumps({"type": "FeatureCollection", "months": list(months), "features": features})
    )


def plot(project: Project, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return materialize(project, instance, [manhattan_map])


def plot_without_run(project: Project) -> manhattan.ManhattanMap:
    return manhattan.write_manhattan_map(stats_path(project), map_path(project), DISK)


def test_the_map_of_the_real_months_is_a_png_that_its_page_shows(real: Project, instance: dg.DagsterInstance) -> None:
    result = materialize(real, instance, [manhattan_stats, manhattan_map])
    assert result.success
    content = map_path(real).read_bytes()
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG"
        picture.load()
        assert min(picture.size) >= 500
        colours = picture.convert("RGB").getcolors(1 << 24)
        assert colours is not None
        assert len(colours) > 50
    (found,) = materialized_metadata(result, manhattan_map)
    assert decode_picture(found["map"]) == content
    assert found["num_trips"] == sum(num_trips(real).values())
    assert found["months"] == "2019-01 to 2019-03, 2020-04, 2025-02"
    assert found["path"] == str(map_path(real))
    assert plot(real, instance).success
    assert map_path(real).read_bytes() == content
    assert real.temporary_files() == []


VIRIDIS = {"bottom": (253, 231, 37), "middle": (33, 145, 140), "top": (68, 1, 84)}
"""Darker for more: on a white page, what is light has little."""


def near(colour: Sequence[int], other: Sequence[int]) -> bool:
    return all(abs(one - two) <= 3 for one, two in zip(colour, other, strict=True))


@pytest.mark.parametrize("order", [["bottom", "middle", "top"], ["top", "bottom", "middle"]])
def test_the_colour_of_a_zone_follows_its_trips_and_holes_stay_empty(
    order: list[str], project: Project, instance: dg.DagsterInstance
) -> None:
    trips = {"bottom": 0, "middle": 500, "top": 1000}
    # Three squares from west to east, the last one with a hole in its middle, and an island north of the first.
    zones = [
        ([[square(-74.0, 40.7, 0.01)], [square(-74.0, 40.72, 0.01)]], trips[order[0]]),
        ([[square(-73.99, 40.7, 0.01)]], trips[order[1]]),
        ([[square(-73.98, 40.7, 0.01), square(-73.977, 40.703, 0.004)[::-1]]], trips[order[2]]),
    ]
    write_stats(project, zones)
    assert plot(project, instance).success
    with Image.open(map_path(project)) as picture:
        pixels = picture.convert("RGB")
    colours = {colour for _, colour in pixels.getcolors(1 << 24) or ()}
    known = {colour for colour in colours for other in VIRIDIS.values() if near(rgb(colour), other)}
    coloured = [(i % pixels.width, i // pixels.width) for i, colour in enumerate(pixels.getdata()) if colour in known]
    # The colour bar has the same colours; it is on the right, after a column without any.
    columns = {x for x, _ in coloured}
    west = min(columns)
    # Edges between the squares are a pixel or two wide.
    east = next(x for x in range(west, pixels.width) if columns.isdisjoint(range(x, x + 6)))
    on_map = [y for x, y in coloured if x < east]
    north, south, side = min(on_map), max(on_map), (east - west) / 3

    def at(column: float, row: float) -> tuple[int, ...]:
        return rgb(pixels.getpixel((int(west + column * side), int(south + (north - south) * row / 3))))

    assert near(at(0.5, 0.5), VIRIDIS[order[0]])
    assert near(at(0.5, 2.5), VIRIDIS[order[0]])
    assert near(at(1.5, 0.5), VIRIDIS[order[1]])
    assert near(at(2.15, 0.5), VIRIDIS[order[2]])
    assert near(at(2.5, 0.5), (255, 255, 255))
    assert near(at(1.5, 2.5), (255, 255, 255))
    # North of the equator, where New York is, a degree of longitude is shorter.
    assert math.isclose((south - north) / (east - west), 1 / math.cos(math.radians(40.715)), rel_tol=0.03)


def rgb(colour: object) -> tuple[int, ...]:
    assert isinstance(colour, tuple)
    return colour


@pytest.mark.parametrize(
    ("months", "words"),
    [
        (["2019-01"], "2019-01"),
        (["2019-01", "2019-02"], "2019-01 to 2019-02"),
        (["2018-11", "2018-12", "2019-01", "2019-02"], "2018-11 to 2019-02"),
        (["2019-01", "2019-03"], "2019-01, 2019-03"),
        (["2018-01", "2019-01"], "2018-01, 2019-01"),
        (list(REAL_MONTHS), "2019-01 to 2019-03, 2020-04, 2025-02"),
        (["2019-01", "2019-03", "2019-05", "2019-07"], "4 months from 2019-01 to 2019-07"),
    ],
)
def test_the_title_has_the_months_and_the_number_of_trips(
    months: list[str], words: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    plotted: list[tuple[list[Any], str]] = []

    def plot_map(zones: list[Any], title: str, is_sample: bool) -> bytes:
        assert not is_sample
        plotted.append((zones, title))
        return b"a picture"

    monkeypatch.setattr(manhattan, "plot_map", plot_map)
    zones = [([[square(-74.0, 40.7, 0.01)]], 1000), ([[square(-73.9, 40.7, 0.01)]], 234_567)]
    write_stats(project, zones, months)
    assert plot_without_run(project) == manhattan.ManhattanMap(b"a picture", words, 235_567)
    assert plotted == [(zones, f"Yellow taxi trips picked up in Manhattan\n{words}: 235,567 trips")]
    assert map_path(project).read_bytes() == b"a picture"


def test_zones_without_trips_are_plotted(project: Project, instance: dg.DagsterInstance) -> None:
    load_zones(project)
    load_trips(project, "2023-02", daily("2023-02-01", "2023-02-28", zone=1))
    assert materialize(project, instance, [manhattan_stats, manhattan_map]).success
    assert set(num_trips(project).values()) == {0}
    with Image.open(map_path(project)) as picture:
        picture.load()


ONE_ZONE: dict[str, Any] = {"properties": {"num_trips": 1}, "geometry": {"coordinates": [[square(-74.0, 40.7, 0.01)]]}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        bytes(range(256)),
        b"[]",
        b"null",
        b"{}",
        json.dumps({"features": [ONE_ZONE]}).encode(),
        json.dumps({"months": ["2023-01"]}).encode(),
        json.dumps({"months": ["2023-01"], "features": [{}]}).encode(),
        json.dumps({"months": ["2023-01"], "features": [{**ONE_ZONE, "geometry": None}]}).encode(),
        json.dumps({"months": ["2023-01"], "features": [{**ONE_ZONE, "properties": {"num_trips": "x"}}]}).encode(),
        json.dumps({"months": ["2023-01"], "features": []}).encode(),
        json.dumps({"months": ["2023-01"], "features": [{**ONE_ZONE, "geometry": {"coordinates": "abc"}}]}).encode(),
        json.dumps(
            {"months": ["2023-01"], "features": [{**ONE_ZONE, "geometry": {"coordinates": [[[1, 2]]]}}]}
        ).encode(),
        json.dumps({"months": ["2023-01", "soon"], "features": [ONE_ZONE], "more": 1}).encode()[:-4],
    ],
)
def test_an_invalid_stats_file_fails_the_map_which_is_unchanged(content: bytes, project: Project) -> None:
    stats_path(project).parent.mkdir()
    stats_path(project).write_bytes(content)
    map_path(project).parent.mkdir()
    map_path(project).write_bytes(b"earlier")
    with pytest.raises(ReportError, match=r"Materialize it again\.") as refused:
        plot_without_run(project)
    assert str(refused.value).startswith(f"{stats_path(project)} is not what manhattan/manhattan_stats writes")
    assert map_path(project).read_bytes() == b"earlier"
    assert project.temporary_files() == []


def test_without_stats_the_error_of_the_map_says_what_to_materialize(
    project: Project, instance: dg.DagsterInstance
) -> None:
    text = failure_text(plot(project, instance))
    assert f"{stats_path(project)} does not exist. Materialize manhattan/manhattan_stats first." in text
    assert not map_path(project).exists()


def test_if_the_map_cannot_be_written_the_error_says_where(project: Project, instance: dg.DagsterInstance) -> None:
    write_stats(project, [([[square(-74.0, 40.7, 0.01)]], 1)])
    (project.folder / "outputs").write_text("not a folder")
    text = failure_text(plot(project, instance))
    assert "outputs could not be written" in text
    assert "materialize again" in text
    assert (project.folder / "outputs").read_text() == "not a folder"


def test_concurrent_plots_leave_one_complete_map(project: Project) -> None:
    write_stats(project, [([[square(-74.0, 40.7, 0.01)]], 1), ([[square(-73.99, 40.7, 0.01)]], 2)])
    alone = plot_without_run(project).png
    map_path(project).unlink()
    with ThreadPoolExecutor(8) as pool:
        assert {plotted.png for plotted in pool.map(plot_without_run, [project] * 8)} == {alone}
    assert map_path(project).read_bytes() == alone
    assert project.temporary_files() == []


def test_the_lock_of_the_map_is_released_after_an_error(project: Project) -> None:
    with pytest.raises(ReportError) as error:
        plot_without_run(project)
    # The error, which refers to the block under the lock, still exists here.
    assert "does not exist" in str(error.value)
    FileLock(map_path(project).with_name(".manhattan_map.png.lock")).acquire(timeout=0)


def test_the_course_s_call_materializes_weeks_and_map_of_one_partition(
    project: Project, source_server: SourceServer, instance: dg.DagsterInstance
) -> None:
    files = [write_month(project.folder / "source", month, 3000) for month in ("2019-01", "2019-02")]
    for month, file in zip(("2019-01", "2019-02"), files, strict=True):
        source_server.put_month(month, file.read_bytes())
    source_server.files["/taxi_zones.csv"] = write_zones(project.folder / "source" / "zones.csv").read_bytes()
    assert materialize(project, instance, TRIPS, "2019-01", "2019-02").success
    assert materialize(project, instance, ZONES).success
    result = dg.materialize(
        [trips_by_week, manhattan_stats, manhattan_map],
        partition_key="2019-01-06",
        instance=instance,
        resources={"database": LockedDuckDBResource(database=str(project.database))},
    )
    assert result.success
    assert_weeks(project, files, ["2019-01-06"])
    zones = read_manhattan(Path(constants.TAXI_ZONES_FILE_PATH))
    assert num_trips(project) == {zone: pickups(files)[zone] for zone in zones}
    assert passed(result) == {**ALL_PASSED, "every_day_has_trips": True}
    with Image.open(map_path(project)) as picture:
        picture.load()
    assert aggregate(project, instance, "2019-01-06", "2019-02-17", manhattan_stats, manhattan_map).success
    assert_weeks(project, files, sundays("2019-01-06", "2019-02-17"))
