"""The assets of the zones: a bad zones CSV fails the run, says why, and changes neither the file nor the table."""

import re
from itertools import pairwise
from random import Random
from typing import Any

import dagster as dg
import pytest

from dagster_essentials.assets import trips
from dagster_essentials.datasets.zones import Zone, download_zones
from dagster_essentials.datasets.zones_table import replace_zones
from dagster_essentials.errors import PipelineError
from dagster_essentials.sample import write_zones
from dagster_essentials_tests.support.faults import ZONES_FAULTS, Fault
from dagster_essentials_tests.support.faults.files import NO_VIEW
from dagster_essentials_tests.support.faults.samples import MULTIPOLYGON, ZONES_CSV
from dagster_essentials_tests.support.loaded_trips import materialized_metadata
from dagster_essentials_tests.support.project import DISK, FILE_AND_LAKE, Project, failure_text, materialize
from dagster_essentials_tests.support.run_results import ZONES, take_snapshot
from dagster_essentials_tests.support.source_server import SourceServer

IN_RUNS = [fault for fault in ZONES_FAULTS if fault.name in ("403", "an HTML page", "an id twice")]
OTHERS = [fault for fault in ZONES_FAULTS if fault not in IN_RUNS]


def zone_rows(project: Project) -> list[tuple[Any, ...]]:
    return project.query("SELECT zone_id, zone, borough, geometry FROM zones ORDER BY ALL")


def load_zones(project: Project, instance: dg.DagsterInstance, source_server: SourceServer) -> None:
    source_server.files["/taxi_zones.csv"] = ZONES_CSV
    assert materialize(project, instance, ZONES).success
    assert zone_rows(project) == [
        (1, "Newark Airport", "EWR", MULTIPOLYGON),
        (2, "Jamaica Bay", "Queens", MULTIPOLYGON),
        (264, "Unknown", "Unknown", None),
        (265, "Outside of NYC", "Outside of NYC", None),
    ]


def test_a_materialization_names_the_ids_that_have_no_zone(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    published = write_zones(project.folder / "source" / "taxi_zones.csv").read_bytes()
    for content, rows, missing in ((published, 265, "none"), (ZONES_CSV, 4, "3, 4, 5, 6, 7 and 256 more")):
        source_server.files["/taxi_zones.csv"] = content
        result = materialize(project, instance, ZONES)
        assert materialized_metadata(result, trips.taxi_zones) == [
            {"dagster/row_count": rows, "ids_without_zone": missing}
        ]
        assert len(zone_rows(project)) == rows


@pytest.mark.parametrize("fault", OTHERS, ids=lambda fault: fault.name)
def test_bad_zones_are_refused_and_the_file_is_unchanged(
    project: Project, source_server: SourceServer, fault: Fault
) -> None:
    source_server.files["/taxi_zones.csv"] = ZONES_CSV
    path = project.folder / "raw" / "taxi_zones.csv"
    download_zones(source_server.zones_url, path, DISK)
    before = take_snapshot(project)
    source_server.answers["/taxi_zones.csv"] = fault.answers(source_server, ZONES_CSV, Random(1))

    with pytest.raises(PipelineError, match=fault.message) as refused:
        download_zones(source_server.zones_url, path, DISK)

    assert refused.value.source == source_server.zones_url
    assert take_snapshot(project) == before


@pytest.mark.parametrize("fault", IN_RUNS, ids=lambda fault: fault.name)
def test_bad_zones_fail_the_run_and_everything_is_unchanged(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, fault: Fault
) -> None:
    load_zones(project, instance, source_server)
    before = (take_snapshot(project), zone_rows(project))
    source_server.answers["/taxi_zones.csv"] = fault.answers(source_server, ZONES_CSV, Random(1))

    result = materialize(project, instance, ZONES)

    assert not result.success
    assert re.search(
        re.escape(f"taxi zones ({source_server.zones_url}): ") + f".*{fault.message}", failure_text(result)
    )
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    assert failed.step_failure_data.error is not None
    assert failed.step_failure_data.error.cause is None, "the reason is given once"
    assert (take_snapshot(project), zone_rows(project)) == before


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "Materialize taxi_zones_file first."),
        (NO_VIEW, "not the zones CSV"),
        (ZONES_CSV + b'3,0.1,,0.1,"Allerton",3,Bronx\n', "zone 3 (Allerton), has no multipolygon"),
    ],
    ids=["missing", "Cannot find view", "a zone without geometry"],
)
def test_a_zones_file_that_was_damaged_after_the_download_leaves_the_table_unchanged(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, content: bytes | None, cause: str
) -> None:
    load_zones(project, instance, source_server)
    before = zone_rows(project)
    file = project.folder / "raw" / "taxi_zones.csv"
    file.unlink()
    if content is not None:
        file.write_bytes(content)

    result = materialize(project, instance, [trips.taxi_zones])

    assert not result.success
    text = failure_text(result)
    assert str(file) in text
    assert cause in text
    assert "aterialize" in text
    assert zone_rows(project) == before


def test_a_zones_file_that_cannot_be_written_fails_the_run_and_names_the_path(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    source_server.files["/taxi_zones.csv"] = ZONES_CSV
    (project.folder / "raw").write_text("in the way")

    result = materialize(project, instance, ZONES)

    assert not result.success
    text = failure_text(result)
    assert "taxi zones" in text
    assert f"{project.folder}/raw could not be written (File exists)." in text
    assert "materialize again" in text


# A square, a crescent around its own centroid, and two islands; the point has to lie inside.
OUTLINES = {
    1: [[(0.0, 0.0), (0.0, 2.0), (2.0, 2.0), (2.0, 0.0), (0.0, 0.0)]],
    2: [[(0.0, 0.0), (0.0, 9.0), (9.0, 9.0), (9.0, 8.0), (1.0, 8.0), (1.0, 1.0), (9.0, 1.0), (9.0, 0.0), (0.0, 0.0)]],
    3: [[(0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.0, 0.0)], [(8.0, 0.0), (8.0, 3.0), (11.0, 3.0), (8.0, 0.0)]],
}


def is_inside(x: float, y: float, ring: list[tuple[float, float]]) -> bool:
    """True if a ray from the point to the right crosses the ring an odd number of times."""
    sides = pairwise(ring)
    return (
        sum((y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1) for (x1, y1), (x2, y2) in sides) % 2 == 1
    )


@FILE_AND_LAKE
def test_each_zone_has_a_point_inside_its_outline(project: Project) -> None:
    zones = [
        Zone(zone_id, "", "Queens", f"MULTIPOLYGON ({', '.join(f'(({wkt(ring)}))' for ring in rings)})")
        for zone_id, rings in OUTLINES.items()
    ]
    no_outline = [Zone(4, "", "Queens", "MULTIPOLYGON (((0 0, 1 1, x)))"), Zone(264, "Unknown", "Unknown", None)]
    with project.connect() as tables:
        replace_zones(tables, [*zones, *no_outline])
    points = project.query("SELECT zone_id, longitude, latitude FROM zones ORDER BY zone_id")
    assert points[3:] == [(4, None, None), (264, None, None)]
    for zone_id, x, y in points[:3]:
        assert any(is_inside(x, y, ring) for ring in OUTLINES[zone_id])


def wkt(ring: list[tuple[float, float]]) -> str:
    return ", ".join(f"{x} {y}" for x, y in ring)


@FILE_AND_LAKE
def test_a_zones_table_of_an_earlier_release_gets_the_points_and_keeps_what_somebody_added(project: Project) -> None:
    with project.connect() as tables:
        tables.execute(
            "CREATE TABLE zones (zone_id INTEGER, zone VARCHAR, borough VARCHAR, geometry VARCHAR, mine INTEGER)"
        )
        tables.execute("INSERT INTO zones VALUES (1, 'Newark Airport', 'EWR', NULL, 7)")
        replace_zones(tables, [Zone(1, "Newark Airport", "EWR", MULTIPOLYGON)])
    (columns,) = zip(*((name,) for name, *_ in project.query("DESCRIBE zones")), strict=True)
    assert columns == ("zone_id", "zone", "borough", "geometry", "mine", "longitude", "latitude")
    ((longitude, latitude),) = project.query("SELECT longitude, latitude FROM zones")
    assert is_inside(longitude, latitude, [(-74.18, 40.69), (-74.18, 40.70), (-74.17, 40.69), (-74.18, 40.69)])
