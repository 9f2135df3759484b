"""The schedules of the other fleets: which months of which fleet a tick requests, and what it says of those that it does not."""

import subprocess
import sys
import threading
from collections.abc import Collection
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from dagster_essentials.assets.fleets import fleet_trips
from dagster_essentials.datasets.fleets import FHV, FHVHV, GREEN
from dagster_essentials.datasets.fleets import FLEETS as DATASETS
from dagster_essentials.jobs import FLEET_TRIPS
from dagster_essentials.orchestration.month_schedules import SINCE_TAG, responsible_since, update_schedule
from dagster_essentials.schedules import fleet_corrections_schedule, fleet_update_schedule, trip_update_schedule
from dagster_essentials_tests.support.fleet_files import fleet_sample
from dagster_essentials_tests.support.project import ROOT, Project, materialize
from dagster_essentials_tests.support.run_results import FLEETS, publish
from dagster_essentials_tests.support.source_server import SourceServer, status
from dagster_essentials_tests.support.ticks import tick, with_months

pytestmark = pytest.mark.slow

NEW_YORK = ZoneInfo("America/New_York")


def fifth(year: int, month: int) -> datetime:
    return datetime(year, month, 5, 1, tzinfo=NEW_YORK)


def publish_months(server: SourceServer, fleet: str, *months: str) -> None:
    for month in months:
        publish(server, month, b"a month", fleet)


def load(instance: dg.DagsterInstance, *keys: str) -> None:
    """Record that `fleet_trips` has been materialized for `keys` (``green|YYYY-MM``)."""
    for key in keys:
        instance.report_runless_asset_event(dg.AssetMaterialization(fleet_trips.key, partition=f"{key}-01"))


def requested(
    instance: dg.DagsterInstance, at: datetime, schedule: dg.ScheduleDefinition = fleet_update_schedule
) -> list[str]:
    """The partitions that a tick requests, without their days."""
    requests, _ = tick(instance, at, schedule)
    return [str(request.partition_key).removesuffix("-01") for request in requests]


def asked(server: SourceServer) -> list[str]:
    """The months that the source was asked for, as in the names of their files."""
    heads: list[str] = []
    others: list[str] = []
    for method, path, size in server.requests:
        (heads if method == "HEAD" else others).append(path.removeprefix("/trip-data/").removesuffix(".parquet"))
        assert size == 0, "no file is transferred"
    # A month that is not published is asked for twice.
    assert set(others) <= set(heads)
    return heads


def record_runs(instance: dg.DagsterInstance, requests: Collection[dg.RunRequest]) -> None:
    """Record failed runs for `requests`, with the tags that Dagster sets for those of a schedule."""
    for request in requests:
        tags = {**request.tags, "dagster/schedule_name": fleet_update_schedule.name}
        instance.add_run(dg.DagsterRun("fleet_update_job", tags=tags, status=dg.DagsterRunStatus.FAILURE))


def test_the_schedules_tick_an_hour_after_those_of_the_yellow_months() -> None:
    assert fleet_update_schedule.name == "fleet_update_job_schedule"
    assert fleet_update_schedule.job_name == fleet_corrections_schedule.job_name == "fleet_update_job"
    assert (fleet_update_schedule.cron_schedule, trip_update_schedule.cron_schedule) == ("0 1 5 * *", "0 0 5 * *")
    assert fleet_corrections_schedule.cron_schedule == "0 1 * * 0"
    for schedule in (fleet_update_schedule, fleet_corrections_schedule):
        assert schedule.execution_timezone == "America/New_York"


def test_with_nothing_loaded_the_newest_published_month_of_each_fleet_is_requested(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    # On 5 May 2023, February is expected of green and fhvhv, and January of fhv.
    publish_months(source_server, "green", "2022-12", "2023-01", "2023-02", "2023-03")
    publish_months(source_server, "fhv", "2022-12", "2023-01", "2023-02")
    publish_months(source_server, "fhvhv", "2022-12", "2023-01")
    requests, reason = tick(history, fifth(2023, 5), fleet_update_schedule)
    keys = ["green|2023-02-01", "fhv|2023-01-01", "fhvhv|2023-01-01"]
    assert reason is None
    assert [request.partition_key for request in requests] == [request.run_key for request in requests] == keys
    # fhvhv of February is not published yet.
    assert sorted(asked(source_server)) == [
        *("fhv_tripdata_2023-01", "fhvhv_tripdata_2023-01", "fhvhv_tripdata_2023-02", "green_tripdata_2023-02")
    ]
    assert [request.tags[SINCE_TAG] for request in requests] == ["2023-02-01", "2023-01-01", "2023-01-01"]


def test_each_month_of_each_fleet_since_its_own_newest_loaded_one_is_requested(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    load(history, "green|2022-12", "fhv|2022-10", "fhvhv|2023-02", "fhvhv|2021-01")
    for fleet in DATASETS:
        publish_months(source_server, fleet, "2022-11", "2022-12", "2023-01", "2023-02", "2023-03")
    assert requested(history, fifth(2023, 5)) == [
        *("green|2023-01", "green|2023-02", "fhv|2022-11", "fhv|2022-12", "fhv|2023-01")
    ]
    assert not [name for name in asked(source_server) if name.startswith("fhvhv")]


@pytest.mark.parametrize("month", [1, 2, 3, 7, 12])
def test_a_month_of_fhv_is_asked_for_a_month_later_than_those_of_the_others(month: int) -> None:
    at = fifth(2023, month)
    newest = {name: FLEET_TRIPS.expected_months(dataset, at)[-1] for name, dataset in DATASETS.items()}
    a_month_later = fifth(2023 + month // 12, month % 12 + 1)
    assert newest["green"] == newest["fhvhv"] == FLEET_TRIPS.expected_months(FHV, a_month_later)[-1]
    assert newest["fhv"] < newest["green"]


def test_the_last_month_of_a_range_that_ends_is_asked_for_of_fhv_too_a_month_later(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    """With TAXI_END_DATE=2023-04-01, March is the last month of all fleets."""
    months = dg.MonthlyPartitionsDefinition("2023-01-01", end_date="2023-04-01", end_offset=-2)
    schedule = update_schedule(with_months(FLEET_TRIPS, months), "0 1 5 * *", "America/New_York", "")
    for fleet in DATASETS:
        publish_months(source_server, fleet, "2023-01", "2023-02", "2023-03", "2023-04")
    load(history, *(f"{fleet}|2023-01" for fleet in DATASETS))
    # A month of fhv is expected three months after its end, those of the others two.
    ticks = {5: ["green|2023-02", "fhvhv|2023-02"], 6: ["green|2023-03", "fhv|2023-02", "fhvhv|2023-03"]}
    ticks |= {7: ["fhv|2023-03"], 8: [], 12: []}
    for month, expected in ticks.items():
        assert requested(history, fifth(2023, month), schedule) == expected
        load(history, *expected)
    assert not [name for name in asked(source_server) if name.endswith("2023-04")]


def test_a_fleet_without_an_answer_does_not_keep_the_others_from_being_requested(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance, capfd: pytest.CaptureFixture[str]
) -> None:
    load(history, "green|2022-12", "fhv|2022-11", "fhvhv|2022-12")
    for fleet in DATASETS:
        publish_months(source_server, fleet, "2022-12", "2023-01", "2023-02")
    source_server.answers["/trip-data/fhv_tripdata_2022-12.parquet"] = [status(503)]
    assert requested(history, fifth(2023, 5)) == ["green|2023-01", "green|2023-02", "fhvhv|2023-01", "fhvhv|2023-02"]
    output = "".join(capfd.readouterr())
    assert "fhv: Could not ask the source about 2022-12 (http" in output
    assert "503" in output
    source_server.answers.clear()
    load(history, "green|2023-01", "green|2023-02", "fhvhv|2023-01", "fhvhv|2023-02")
    assert requested(history, fifth(2023, 5)) == ["fhv|2022-12", "fhv|2023-01"]


def test_all_fleets_are_asked_for_at_once_because_a_tick_has_a_minute(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    load(history, "green|2023-01", "fhv|2022-12", "fhvhv|2023-01")
    together = threading.Barrier(3, timeout=60)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        # None is answered before all three have been asked.
        together.wait()
        status(200)(handler)

    for name in ("green_tripdata_2023-02", "fhv_tripdata_2023-01", "fhvhv_tripdata_2023-02"):
        source_server.answers[f"/trip-data/{name}.parquet"] = [answer]
    assert requested(history, fifth(2023, 5)) == ["green|2023-02", "fhv|2023-01", "fhvhv|2023-02"]


def test_a_tick_without_a_request_says_why_for_each_fleet(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    load(history, "green|2023-02", "fhv|2022-12")
    requests, reason = tick(history, fifth(2023, 5), fleet_update_schedule)
    assert list(requests) == []
    assert reason == (
        "green: Nothing to load: the newest month so far, 2023-02, is loaded already. "
        "fhv: Not published yet: 2023-01. The next tick asks again. "
        "fhvhv: Nothing is loaded yet, and no month from 2022-03 to 2023-02 is published."
    )


def test_a_month_whose_run_failed_is_requested_until_it_is_loaded_by_the_tag_of_its_fleet(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    load(history, "green|2022-12", "fhv|2022-11", "fhvhv|2022-12")
    for fleet in DATASETS:
        publish_months(source_server, fleet, "2022-12", "2023-01", "2023-02", "2023-03")
    requests, _ = tick(history, fifth(2023, 5), fleet_update_schedule)
    for request in requests:
        fleet, _, month = str(request.partition_key).partition("|")
        assert request.tags["dagster/partition/fleet"] == fleet
        assert request.tags["dagster/partition/month"] == month
        assert request.tags[SINCE_TAG] == {"green": "2023-01-01", "fhv": "2022-12-01", "fhvhv": "2023-01-01"}[fleet]
    record_runs(history, requests)
    # Newer months are loaded; by these alone, the others would count as old gaps.
    load(history, "green|2023-02", "fhv|2023-01", "fhvhv|2023-01", "fhvhv|2023-02")
    assert requested(history, fifth(2023, 6)) == [
        *("green|2023-01", "green|2023-03", "fhv|2022-12", "fhv|2023-02", "fhvhv|2023-03")
    ]
    assert responsible_since(history, FLEET_TRIPS, FHV) == "2022-12-01"


# The scheduler of Dagster's daemon, at a time that is given, with the runs queued: the tags are those that it sets.
TICK = """
import logging, os
from datetime import datetime, timedelta, timezone
import dagster as dg
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import ModuleTarget
from dagster._scheduler.scheduler import launch_scheduled_runs

target = ModuleTarget("dagster_essentials.definitions", None, None, "dagster_essentials")
with (
    dg.DagsterInstance.from_config(os.environ["DAGSTER_HOME"]) as instance,
    create_test_daemon_workspace_context(target, instance) as workspace,
):
    location = workspace.create_request_context().get_code_location("dagster_essentials")
    instance.start_schedule(location.get_repository("__repository__").get_schedule("fleet_update_job_schedule"))
    in_a_month = datetime.now(timezone.utc) + timedelta(days=32)
    list(launch_scheduled_runs(workspace, logging.getLogger(), in_a_month, {}))
"""


def test_the_runs_of_a_real_tick_have_the_tags_by_which_the_schedule_finds_them(
    project: Project, source_server: SourceServer
) -> None:
    project.environ.update(TAXI_START_DATE="2022-12-01", TAXI_END_DATE="2023-03-01", TAXI_FLEETS=",".join(DATASETS))
    for fleet in DATASETS:
        publish_months(source_server, fleet, "2023-01", "2023-02")
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TICK],
        cwd=ROOT,
        env=project.env(),
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    with dg.DagsterInstance.from_config(str(project.home)) as instance:
        runs = instance.get_runs()
        assert {run.tags["dagster/partition"] for run in runs} == {f"{fleet}|2023-02-01" for fleet in DATASETS}
        assert {run.tags[SINCE_TAG] for run in runs} == {"2023-02-01"}
        for dataset in (GREEN, FHV, FHVHV):
            assert responsible_since(instance, FLEET_TRIPS, dataset) == "2023-02-01"


def test_months_before_the_first_of_a_fleet_are_neither_expected_nor_asked_for(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    # The tests' months begin with 2011.
    first = {name: FLEET_TRIPS.expected_months(dataset, fifth(2023, 5))[0] for name, dataset in DATASETS.items()}
    assert first == {"green": "2014-01-01", "fhv": "2015-01-01", "fhvhv": "2019-02-01"}
    # Nothing of fhvhv is expected before May 2019, and nothing of fhv before May 2015.
    for at, fleets in ((fifth(2019, 4), {"green", "fhv"}), (fifth(2015, 4), {"green"}), (fifth(2013, 1), set())):
        source_server.requests.clear()
        requests, reason = tick(history, at, fleet_update_schedule)
        assert list(requests) == []
        assert {name.partition("_")[0] for name in asked(source_server)} == fleets
        assert reason is not None
        for fleet in DATASETS:
            none = f"{fleet}: No month is due: the first month of the settings is not a partition yet."
            assert (none in reason) == (fleet not in fleets)


# fleet_corrections_schedule

SUNDAY = datetime(2023, 6, 4, 1, tzinfo=NEW_YORK)


def corrections(instance: dg.DagsterInstance) -> tuple[list[str], str]:
    requests, reason = tick(instance, SUNDAY, fleet_corrections_schedule)
    return [str(request.partition_key).removesuffix("-01") for request in requests], reason or ""


@pytest.fixture
def loaded(project: Project, history: dg.DagsterInstance, source_server: SourceServer) -> Project:
    """January and February of green and fhv."""
    for fleet in ("green", "fhv"):
        for month in ("2023-01", "2023-02"):
            publish(source_server, month, fleet_sample(fleet, month), fleet)
    assert materialize(project, history, FLEETS, "green|2023-01", "fhv|2023-02").success
    source_server.requests.clear()
    return project


def test_only_corrected_months_of_the_fleets_are_requested_until_they_are_loaded(
    loaded: Project, history: dg.DagsterInstance, source_server: SourceServer
) -> None:
    nothing = "Nothing is corrected: the source has the loaded version of all 2 loaded months."
    assert corrections(history) == ([], f"green: {nothing} fhv: {nothing} fhvhv: No month is loaded yet.")
    assert sorted(asked(source_server)) == sorted(
        f"{fleet}_tripdata_{month}" for fleet in ("green", "fhv") for month in ("2023-01", "2023-02")
    )
    publish(source_server, "2023-02", fleet_sample("green", "2023-02", 310), "green")
    publish(source_server, "2023-01", fleet_sample("fhv", "2023-01", 310), "fhv")
    assert corrections(history)[0] == ["green|2023-02", "fhv|2023-01"]
    assert materialize(loaded, history, FLEETS, "green|2023-02").success
    assert corrections(history)[0] == ["fhv|2023-01"]


def test_a_fleet_that_cannot_be_asked_about_does_not_hide_the_corrections_of_another(
    loaded: Project, history: dg.DagsterInstance, source_server: SourceServer, capfd: pytest.CaptureFixture[str]
) -> None:
    publish(source_server, "2023-01", status(405), "green")
    del source_server.files["/trip-data/fhv_tripdata_2023-02.parquet"]
    publish(source_server, "2023-01", fleet_sample("fhv", "2023-01", 310), "fhv")
    assert corrections(history)[0] == ["fhv|2023-01"]
    output = "".join(capfd.readouterr())
    assert "green: Could not ask the source about 2023-01 (http" in output
    assert "fhv: The source does not have these loaded months any more: 2023-02." in output
