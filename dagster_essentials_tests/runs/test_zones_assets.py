"""The assets of the zones: a bad zones CSV fails the run, says why, and changes neither the file nor the table."""

import re
from random import Random
from typing import Any

import dagster as dg
import pytest

from dagster_essentials.assets import trips
from dagster_essentials.sample import write_zones
from dagster_essentials_tests.support.faults import ZONES_FAULTS, Fault
from dagster_essentials_tests.support.faults.files import NO_VIEW
from dagster_essentials_tests.support.faults.samples import MULTIPOLYGON, ZONES_CSV
from dagster_essentials_tests.support.loaded_trips import materialized_metadata
from dagster_essentials_tests.support.project import Project, failure_text, materialize
from dagster_essentials_tests.support.run_results import ZONES, take_snapshot
from dagster_essentials_tests.support.source_server import SourceServer


def zone_rows(project: Project) -> list[tuple[Any, ...]]:
    return project.query("SELECT * FROM zones ORDER BY ALL")


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


@pytest.mark.parametrize("fault", ZONES_FAULTS, ids=lambda fault: fault.name)
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
