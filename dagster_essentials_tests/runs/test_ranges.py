"""Runs over a range of months: every month is tried, the good ones are loaded and recorded, and the log says which failed."""

import re
from math import inf
from typing import Any

import dagster as dg
import pytest

from dagster_essentials.assets import trips
from dagster_essentials.orchestration import database
from dagster_essentials.warehouse.file import file_tables
from dagster_essentials_tests.support.faults.answers import ACCESS_DENIED, ERROR_PAGE
from dagster_essentials_tests.support.faults.files import zeroed_pages
from dagster_essentials_tests.support.faults.samples import sample
from dagster_essentials_tests.support.project import Project, failure_text, materialize
from dagster_essentials_tests.support.run_results import (
    TRIPS,
    check_evaluations,
    load_two_months,
    materialized_partitions,
    publish,
    step_log,
    take_snapshot,
    warnings,
)
from dagster_essentials_tests.support.source_server import Answer, SourceServer, status

WAITED = r"( after \d+\.\d s of waiting for the database)?"
"""A busy machine takes more than 0.1 s to open a database that nobody holds."""


def describe(size: int) -> str:
    return f"{size / 1e3:.1f} kB" if size < 100_000 else f"{size / 1e6:.1f} MB"


def test_a_range_logs_its_progress_and_the_reason_of_each_failure(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    files = {"2023-01": sample("2023-01"), "2023-03": sample("2023-03", 200)}
    for month, content in files.items():
        publish(source_server, month, content)

    result = materialize(project, instance, TRIPS, "2023-01", "2023-03")

    *downloads, summary = step_log(instance, result.run_id, "taxi_trips_file")
    size = describe(sum(map(len, files.values())))
    assert re.fullmatch(
        rf"2 of 3 months downloaded: 500 trips, {size}, {size} transferred, in .* s; failed: 2023-02", summary
    )
    # In the order of the months, whichever download ended first.
    assert [text[:16] for text in downloads] == ["2023-01 (1 of 3)", "2023-02 (2 of 3)", "2023-03 (3 of 3)"]
    assert re.match(r"2023-02 \(2 of 3\) failed \(http.*\): not published", downloads[1])
    *loads, summary = step_log(instance, result.run_id, "taxi_trips")
    # Why February failed is in the log of the download.
    for line, number, (month, rows) in zip(loads, (2, 3), (("2023-01", 300), ("2023-03", 200)), strict=True):
        size_of_month = describe(len(files[month]))
        expected = rf"{month} \({number} of 3\): {rows} trips, {size_of_month}, loaded in \d\.\d s{WAITED}"
        assert re.fullmatch(expected, line), line
    assert re.fullmatch(rf"2 of 3 months loaded: 500 trips, {size}, in \d+\.\d s; failed: 2023-02", summary)
    # The pages of both assets say it for that month.
    for asset in TRIPS:
        (record,) = instance.fetch_observations(asset.key, limit=10).records
        observation = record.asset_observation
        assert observation is not None
        assert observation.partition == "2023-02-01"
        assert str(observation.metadata["failed"].value).startswith("2023-02 (http")
        assert "not published" in str(observation.metadata["failed"].value)


def test_a_month_that_fails_while_a_range_is_loaded_is_in_the_log_in_its_place(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    for month in ("2023-01", "2023-02"):
        publish(source_server, month, sample(month))
    assert materialize(project, instance, [trips.taxi_trips_file], "2023-01", "2023-02").success
    project.file("2023-01").write_bytes(zeroed_pages(sample("2023-01")))

    result = materialize(project, instance, [trips.taxi_trips], "2023-01", "2023-02")

    first, second, summary = step_log(instance, result.run_id, "taxi_trips")
    assert first.startswith(
        f"2023-01 (1 of 2) failed ({project.file('2023-01')}): loading the file failed, and the month"
    )
    assert second.startswith("2023-02 (2 of 2): 300 trips, ")
    assert summary.endswith("; failed: 2023-01")


def test_a_run_of_one_month_logs_no_progress_and_that_nothing_was_transferred_or_loaded(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))
    materialize(project, instance, TRIPS, "2023-01")

    result = materialize(project, instance, TRIPS, "2023-01")

    size = describe(len(sample("2023-01")))
    assert step_log(instance, result.run_id, "taxi_trips_file") == [
        f"2023-01: 300 trips, {size}, unchanged at the source"
    ]
    (loaded,) = step_log(instance, result.run_id, "taxi_trips")
    assert re.fullmatch(rf"2023-01: 300 trips, {size}, unchanged{WAITED}", loaded)


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (status(403, ACCESS_DENIED), "not published"),
        (ERROR_PAGE, "not a complete parquet file"),
        (status(302, Location="http://[::1"), "Check the address"),
        (zeroed_pages(sample("2023-02")), "the rows of the file cannot be read, and it was not kept"),
    ],
    ids=["not published", "an error page", "redirected to an invalid address", "zeroed pages"],
)
def test_in_a_range_the_good_months_are_loaded_and_recorded_and_the_run_fails_for_the_bad_one(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, bad: bytes | Answer, cause: str
) -> None:
    publish(source_server, "2023-01", sample("2023-01", 310))
    url = publish(source_server, "2023-02", bad)
    publish(source_server, "2023-03", sample("2023-03", 330))
    good = ["2023-01-01", "2023-03-01"]

    result = materialize(project, instance, TRIPS, "2023-01", "2023-03")

    assert not result.success
    text = failure_text(result)
    assert "1 of 3 months failed; the other 2 are done" in text
    assert re.search(re.escape(f"2023-02 ({url}): ") + f".*{cause}", text)
    assert "2023-01" not in text
    assert "2023-03" not in text
    assert project.rows() == {"2023-01": 310, "2023-03": 330}
    assert materialized_partitions(instance, trips.taxi_trips) == good
    assert materialized_partitions(instance, trips.taxi_trips_file) == good
    # The checks are about the months that are loaded, and have their results in a run that fails, too.
    evaluations = check_evaluations(instance, result.run_id)
    assert set(evaluations) == {spec.name for spec in trips.taxi_trips.check_specs}
    assert {evaluation.metadata["months"].value for evaluation in evaluations.values()} == {2}
    assert warnings(instance, result.run_id) == set()


def test_in_a_range_the_earlier_version_of_the_bad_month_is_unchanged(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    before = load_two_months(project, instance, source_server)
    publish(source_server, "2023-01", sample("2023-01", 310))
    publish(source_server, "2023-02", ERROR_PAGE)

    result = materialize(project, instance, TRIPS, "2023-01", "2023-02")

    assert not result.success
    assert project.rows() == {"2023-01": 310, "2023-02": 300}
    assert materialized_partitions(instance, trips.taxi_trips) == ["2023-01-01", "2023-01-01", "2023-02-01"]
    february = project.file("2023-02").name
    assert take_snapshot(project).files[february] == before.files[february]


def test_the_error_names_all_bad_months_of_a_range(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    publish(source_server, "2023-01", ERROR_PAGE)
    publish(source_server, "2023-02", zeroed_pages(sample("2023-02")))
    publish(source_server, "2023-03", sample("2023-03"))

    text = failure_text(materialize(project, instance, TRIPS, "2023-01", "2023-04"))

    assert "3 of 4 months failed; the other one is done" in text
    assert re.search(r"2023-01 .*not a complete parquet file", text)
    assert re.search(r"2023-02 .*the rows of the file cannot be read", text)
    assert re.search(r"2023-04 .*not published", text)
    assert project.rows() == {"2023-03": 300}


@pytest.mark.parametrize("alone", [True, False], ids=["as the only asset", "selected out of both"])
def test_a_run_of_the_files_alone_fails_for_the_bad_month(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, alone: bool
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))
    url = publish(source_server, "2023-02", ERROR_PAGE)

    if alone:
        result = materialize(project, instance, [trips.taxi_trips_file], "2023-01", "2023-02")
    else:
        result = dg.materialize(
            TRIPS,
            selection=[trips.taxi_trips_file],
            instance=instance,
            resources={"database": dg.ResourceDefinition.none_resource()},
            raise_on_error=False,
            tags={
                "dagster/asset_partition_range_start": "2023-01-01",
                "dagster/asset_partition_range_end": "2023-02-01",
            },
        )

    assert not result.success
    assert f"1 of 2 months failed; the other one is done:\n2023-02 ({url}): not a complete parquet" in failure_text(
        result
    )
    assert materialized_partitions(instance, trips.taxi_trips_file) == ["2023-01-01"]
    assert project.file("2023-01").read_bytes() == sample("2023-01")
    assert not project.file("2023-02").exists()
    assert not project.database.exists()


def test_unchanged_months_use_the_database_one_after_the_other_until_one_fails(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    months = [f"2023-{number:02}" for number in range(1, 6)]
    for month in months:
        publish(source_server, month, sample(month))
    assert materialize(project, instance, [trips.taxi_trips_file], months[0], months[-1]).success
    project.file("2023-03").write_bytes(zeroed_pages(sample("2023-03")))
    opened = []

    def count(*arguments: Any) -> Any:
        opened.append(arguments)
        return file_tables(*arguments)

    monkeypatch.setattr(database, "HOLD_SECONDS", inf)
    monkeypatch.setattr(database, "file_tables", count)

    result = materialize(project, instance, [trips.taxi_trips], months[0], months[-1])

    assert not result.success
    assert len(opened) == 6, "for each month, as they were loaded or failed, and for the checks"
    opened.clear()

    result = materialize(project, instance, [trips.taxi_trips], months[0], months[-1])

    assert not result.success
    assert "1 of 5 months failed; the other 4 are done:\n2023-03 (" in failure_text(result)
    good = [month for month in months if month != "2023-03"]
    assert project.rows() == dict.fromkeys(good, 300)
    assert materialized_partitions(instance, trips.taxi_trips) == sorted([f"{month}-01" for month in good] * 2)
    assert len(opened) == 3, "for the months before and after the one that failed, and for the checks"
