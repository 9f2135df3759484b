"""The asset trips_by_fleet: its metadata, the table and the CSV against counts in plain Python, and what the picture shows."""

import csv
import math
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dagster_essentials import settings
from dagster_essentials.assets.fleets import trips_by_fleet
from dagster_essentials.reports.plots import FLEETS as COLORS
from dagster_essentials.reports.plots import plot_fleets
from dagster_essentials_tests.support.faults.samples import sample
from dagster_essentials_tests.support.fleet_files import PARTS, fleet_sample
from dagster_essentials_tests.support.loaded_trips import decode_picture, materialized_metadata
from dagster_essentials_tests.support.project import NO_REAL_DATA, REAL_DATA, Project, failure_text, materialize
from dagster_essentials_tests.support.run_results import FLEETS, TRIPS, publish
from dagster_essentials_tests.support.source_server import SourceServer

pytestmark = pytest.mark.slow

FILES = {
    ("yellow", "2023-01"): 300,
    ("green", "2023-01"): 310,
    ("fhv", "2023-01"): 320,
    ("fhvhv", "2023-01"): 330,
    ("fhvhv", "2023-03"): 340,
}


@pytest.fixture
def loaded(project: Project, instance: dg.DagsterInstance, source_server: SourceServer) -> Project:
    """A month of all fleets, and another one of fhvhv."""
    for (fleet, month), rows in FILES.items():
        publish(source_server, month, content(fleet, month, rows), fleet)
    assert materialize(project, instance, TRIPS, "2023-01").success
    assert materialize(project, instance, FLEETS, "green|2023-01", "fhvhv|2023-01").success
    assert materialize(project, instance, FLEETS, "fhvhv|2023-03").success
    return project


def content(fleet: str, month: str, rows: int) -> bytes:
    return sample(month, rows) if fleet == "yellow" else fleet_sample(fleet, month, rows)


def count(file: bytes, fleet: str) -> tuple[int, float | None, float | None]:
    """The trips, dollars and miles of a file, in plain Python."""
    rows = pq.read_table(pa.BufferReader(file)).to_pylist()
    if fleet == "fhv":
        return len(rows), None, None
    if fleet == "fhvhv":
        fares = [row for row in rows if row["base_passenger_fare"] is not None]
        dollars = [row["base_passenger_fare"] + sum(row.get(part) or 0 for part in PARTS) for row in fares]
        return len(rows), math.fsum(dollars), math.fsum(row["trip_miles"] for row in rows)
    return len(rows), math.fsum(row["total_amount"] for row in rows), math.fsum(row["trip_distance"] for row in rows)


def test_the_table_the_csv_and_the_metadata_are_what_the_files_have(
    loaded: Project, instance: dg.DagsterInstance
) -> None:
    result = materialize(loaded, instance, [trips_by_fleet])

    assert result.success, failure_text(result)
    table = loaded.query("FROM trips_by_fleet ORDER BY ALL")
    assert [row[:2] for row in table] == sorted((month, fleet) for fleet, month in FILES)
    with open(loaded.folder / "outputs" / "trips_by_fleet.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["partition_date"], row["fleet"]) for row in rows] == [row[:2] for row in table]
    for (month, fleet, *figures), row in zip(table, rows, strict=True):
        trips, dollars, miles = count(content(fleet, month, FILES[fleet, month]), fleet)
        assert figures[0] == int(row["num_trips"]) == trips
        for name, figure, expected in (("total_amount", figures[1], dollars), ("trip_distance", figures[2], miles)):
            if expected is None:
                assert (figure, row[name]) == (None, "")
            else:
                assert figure == pytest.approx(expected, abs=0.006)
                assert float(row[name]) == figure
    (metadata,) = materialized_metadata(result, trips_by_fleet)
    assert (metadata["dagster/row_count"], metadata["num_trips"]) == (5, sum(FILES.values()))
    assert metadata["incomplete_months"] == "2023-03"
    picture = (loaded.folder / "outputs" / "trips_by_fleet.png").read_bytes()
    assert decode_picture(metadata["plot"]) == picture
    assert loaded.temporary_files() == []


def test_without_a_month_it_says_what_to_materialize(project: Project, instance: dg.DagsterInstance) -> None:
    text = failure_text(materialize(project, instance, [trips_by_fleet]))
    assert "No month is loaded. Materialize fleet_trips or taxi_trips first." in text
    assert not list(project.folder.rglob("trips_by_fleet.*"))


@pytest.mark.parametrize("only", ["yellow", "green"])
def test_one_fleet_alone_is_enough(
    only: str, project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    publish(source_server, "2023-01", content(only, "2023-01", 300), only)
    assets, key = (TRIPS, "2023-01") if only == "yellow" else (FLEETS, "green|2023-01")
    assert materialize(project, instance, assets, key).success
    result = materialize(project, instance, [trips_by_fleet])
    assert result.success, failure_text(result)
    assert project.query("SELECT fleet, num_trips FROM trips_by_fleet") == [(only, 300)]


@pytest.mark.parametrize(("fleets", "is_complete"), [(("green",), True), (("green", "fhv"), False)])
def test_a_month_is_hatched_for_a_fleet_of_the_settings_only(
    fleets: tuple[str, ...],
    is_complete: bool,
    project: Project,
    instance: dg.DagsterInstance,
    source_server: SourceServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, fleets=fleets))
    for fleet, assets, key in (("yellow", TRIPS, "2023-01"), ("green", FLEETS, "green|2023-01")):
        publish(source_server, "2023-01", content(fleet, "2023-01", 300), fleet)
        assert materialize(project, instance, assets, key).success
    result = materialize(project, instance, [trips_by_fleet])
    (metadata,) = materialized_metadata(result, trips_by_fleet)
    assert metadata["incomplete_months"] == ("none" if is_complete else "2023-01")
    trips = {("2023-01", fleet): 300 for fleet in ("yellow", "green")}
    assert decode_picture(metadata["plot"]) == plot_fleets(trips, [] if is_complete else ["2023-01"], False)
    assert project.query("SELECT DISTINCT is_complete FROM trips_by_fleet") == [(is_complete,)]
    with open(project.folder / "outputs" / "trips_by_fleet.csv") as file:
        assert {row["is_complete"] for row in csv.DictReader(file)} == {str(is_complete).lower()}


def test_the_real_months_of_green_taxis_are_counted_to_the_last_trip(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    months = ("2023-01", "2023-02", "2024-01")
    if not REAL_DATA.is_dir():
        pytest.skip(NO_REAL_DATA)
    files = {month: (REAL_DATA / "trip-data" / f"green_tripdata_{month}.parquet").read_bytes() for month in months}
    for month, file in files.items():
        publish(source_server, month, file, "green")
        assert materialize(project, instance, FLEETS, f"green|{month}").success
    assert materialize(project, instance, [trips_by_fleet]).success
    table = project.query("SELECT * EXCLUDE (fleet, is_complete) FROM trips_by_fleet ORDER BY ALL")
    for month, *figures in table:
        assert figures == pytest.approx(list(count(files[month], "green")), abs=0.006)
    assert [row[0] for row in table] == list(months)


# The picture. The bars are found again by their colours: as many pixels high as the month has trips.

JANUARY_AND_FEBRUARY = {
    ("2019-01", "fhv"): 23_159_064,
    ("2019-02", "fhv"): 1_707_650,
    ("2019-02", "fhvhv"): 20_159_102,
    ("2019-01", "yellow"): 7_696_617,
    ("2019-02", "yellow"): 7_049_370,
}


def bars(png: bytes) -> list[dict[str, int]]:
    """The height of each fleet's part of each bar, in pixels, from left to right."""
    image = Image.open(BytesIO(png)).convert("RGB")
    # The legend has the same colours, below the axes.
    image = image.crop((0, 0, image.width, 600))
    colors = {tuple(bytes.fromhex(color[1:])): fleet for fleet, (_, color) in COLORS.items()}
    pixels: Any = image.load()
    found: list[dict[str, int]] = []
    is_inside = False
    for x in range(image.width):
        column = [colors[pixels[x, y]] for y in range(image.height) if pixels[x, y] in colors]
        if len(column) < 10:
            is_inside = False
        elif not is_inside:
            is_inside = True
            # Not the first column, whose pixels are a mixture of the colours on both sides.
            found.append(dict.fromkeys(column, 0))
        else:
            found[-1] = {fleet: max(found[-1].get(fleet, 0), column.count(fleet)) for fleet in {*column}}
    return found


def assert_in_proportion(png: bytes, trips: Mapping[tuple[str, str], int]) -> None:
    months = sorted({month for month, _ in trips})
    drawn = bars(png)
    assert len(drawn) == len(months)
    scale = sum(height for bar in drawn for height in bar.values()) / sum(trips.values())
    for month, bar in zip(months, drawn, strict=True):
        for fleet in COLORS:
            assert bar.get(fleet, 0) == pytest.approx(trips.get((month, fleet), 0) * scale, abs=12)


def test_in_february_2019_the_for_hire_vehicles_are_no_crash() -> None:
    png = plot_fleets(JANUARY_AND_FEBRUARY, [])
    assert_in_proportion(png, JANUARY_AND_FEBRUARY)
    january, february = bars(png)
    assert february["fhvhv"] + february["fhv"] > 0.9 * january["fhv"]
    # In shades of blue, which no other fleet has.
    colors = {fleet: tuple(bytes.fromhex(color[1:])) for fleet, (_, color) in COLORS.items()}
    assert [fleet for fleet, color in colors.items() if color[2] == max(color)] == ["fhv", "fhvhv"]


def test_each_fleet_can_be_told_from_the_page_and_from_its_neighbours() -> None:
    """WCAG asks for a contrast of 3 between graphics and what is around them; brightness is what no eye confuses."""
    stacked = [luminance(color) for _, color in COLORS.values()]
    assert all(1.05 / (found + 0.05) >= 3 for found in stacked)
    fhv_and_fhvhv, _, green_and_yellow = ((max(pair) + 0.05) / (min(pair) + 0.05) for pair in pairwise(stacked))
    assert min(fhv_and_fhvhv, green_and_yellow) > 2


def luminance(color: str) -> float:
    """As WCAG 2.1 defines it."""
    channels = [value / 255 for value in bytes.fromhex(color[1:])]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("count_of_months", [1, 14, 120, 212])
def test_any_number_of_months_is_a_picture_of_the_same_size(count_of_months: int, tmp_path: Path) -> None:
    months = [f"{2009 + number // 12}-{number % 12 + 1:02}" for number in range(count_of_months)]
    png = plot_fleets({(month, "yellow"): 1_000_000 for month in months}, months[::7])
    with Image.open(BytesIO(png)) as image:
        assert image.size == (1500, 750)


def test_a_month_without_trips_between_others_is_marked_as_one_that_is_not_loaded() -> None:
    gap = {("2023-01", "yellow"): 3_000_000, ("2023-03", "yellow"): 3_000_000}
    assert len(bars(plot_fleets(gap, []))) == 2
    assert plot_fleets(gap, []) == plot_fleets(gap, ["2023-02"])
    assert plot_fleets(gap, []) != plot_fleets(gap, ["2023-01"])
