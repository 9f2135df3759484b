"""A full disk, names that are taken by something else, and folders with special names."""

import re
import resource
from collections.abc import Callable

import dagster as dg
import pytest

from dagster_essentials.assets import constants, trips
from dagster_essentials_tests.support.faults.samples import query_file, sample
from dagster_essentials_tests.support.project import Project, failure_text, materialize
from dagster_essentials_tests.support.run_results import (
    TRIPS,
    load_two_months,
    materialized_partitions,
    publish,
    take_snapshot,
    warnings,
)
from dagster_essentials_tests.support.source_server import SourceServer

pytestmark = pytest.mark.slow


def test_a_disk_that_is_full_during_a_download_or_a_load_leaves_everything_unchanged(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    load_two_months(project, instance, source_server)
    # DuckDB fails when it writes its log, when it writes the rows at the end, or when it writes them on the way.
    sizes = {"2023-03": 20_000, "2023-04": 100_000, "2023-05": 130_000}
    for month, rows in sizes.items():
        publish(source_server, month, sample(month, rows))
    assert materialize(project, instance, [trips.taxi_trips_file], "2023-03", "2023-05").success
    before = take_snapshot(project)
    publish(source_server, "2023-02", bytes(2_000_000))
    # With Dagster's own storage: the log of a file that stays open would be the first to reach the limit.
    project.home.mkdir()
    (project.home / "dagster.yaml").touch()

    def limit_file_size() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))

    process = project.run(
        *("asset", "materialize", "-m", "dagster_essentials.definitions"),
        *("--select", "taxi_trips_file,taxi_trips", "--partition-range", "2023-02-01...2023-05-01"),
        preexec_fn=limit_file_size,
    )

    output = process.stdout
    assert process.returncode != 0
    assert "0 of 4 months loaded" in output
    says = {"2023-02": f": {project.file('2023-02')} could not be written (File too large)."}
    says |= {month: f" ({project.file(month)}): " for month in sizes}
    for number, (month, text) in enumerate(says.items(), start=1):
        [line] = [line for line in output.splitlines() if f" {month} ({number} of 4) failed{text}" in line]
        assert ("the month is unchanged" in line) == (month in sizes)
        assert "Free some disk space" in line, line
        assert "materialize again" in line
    assert source_server.requested("/trip-data/yellow_tripdata_2023-02.parquet") == 2, "it is not retried"
    assert take_snapshot(project) == before
    assert project.temporary_files() == []

    assert materialize(project, instance, TRIPS, "2023-03", "2023-05").success, "they are loaded when there is space"
    assert project.rows() == {"2023-01": 300, "2023-02": 300, **sizes}


def a_file_in_the_place_of_the_folder(project: Project) -> None:
    (project.folder / "raw").write_text("in the way")


def a_folder_in_the_place_of_the_file(project: Project) -> None:
    project.file("2023-01").mkdir(parents=True)


@pytest.mark.parametrize("block", [a_file_in_the_place_of_the_folder, a_folder_in_the_place_of_the_file])
def test_a_file_that_cannot_be_written_fails_the_month_and_names_the_path(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, block: Callable[[Project], None]
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))
    block(project)
    before = sorted((project.folder / "raw").rglob("*"))

    result = materialize(project, instance, TRIPS, "2023-01")

    assert not result.success
    text = failure_text(result)
    assert re.search(re.escape(f"2023-01: {project.folder}/raw") + r"\S* could not be written \(", text)
    assert ".partial" not in text
    assert "Something else has this name: move it away, and materialize again" in text
    assert sorted((project.folder / "raw").rglob("*")) == before
    assert project.temporary_files() == []


def test_a_database_folder_that_cannot_be_made_fails_all_months_and_names_the_path(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    for month in ("2023-01", "2023-02"):
        publish(source_server, month, sample(month))
    project.database.parent.write_text("in the way")

    result = materialize(project, instance, TRIPS, "2023-01", "2023-02")

    assert not result.success
    text = failure_text(result)
    assert (
        f"2 of 2 months failed:\n2023-01, 2023-02: {project.database.parent}: File exists. The database needs" in text
    )
    assert "or point DUCKDB_DATABASE to another place, and materialize again" in text
    assert project.database.parent.read_text() == "in the way"
    assert materialized_partitions(instance, trips.taxi_trips) == []


@pytest.mark.parametrize("folder", ["env=prod", "VendorID=7"])
def test_an_equals_sign_in_the_name_of_a_folder_changes_nothing(
    project: Project,
    instance: dg.DagsterInstance,
    source_server: SourceServer,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))
    monkeypatch.setattr(
        constants, "TAXI_TRIPS_TEMPLATE_FILE_PATH", f"{project.folder}/{folder}/taxi_trips_{{}}.parquet"
    )

    result = materialize(project, instance, TRIPS, "2023-01")

    assert result.success
    assert warnings(instance, result.run_id) == set()
    vendors = query_file(sample("2023-01"), "SELECT VendorID::INTEGER, count(*) FROM month GROUP BY ALL ORDER BY ALL")
    assert project.query("SELECT vendor_id, count(*) FROM trips GROUP BY ALL ORDER BY ALL") == vendors
    for asset in TRIPS:
        [record] = instance.fetch_materializations(asset.key, limit=10).records
        assert record.asset_materialization is not None
        assert record.asset_materialization.metadata["dagster/partition_row_count"].value == 300
