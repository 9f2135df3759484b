"""End-to-end tests of the command line, the UI's API and the schedules, with a real `dagster dev` in a fresh copy."""

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import duckdb
import psutil
import pytest
from dagster._core.scheduler.instigation import TickData, TickStatus
from PIL import Image

from dagster_essentials.assets import trips
from dagster_essentials.sample import write_month, write_zones
from dagster_essentials_tests.support.dagster_dev import JOB, Dev, copy_of_project
from dagster_essentials_tests.support.faults.answers import ACCESS_DENIED
from dagster_essentials_tests.support.project import ROOT
from dagster_essentials_tests.support.receivers import MailServer, Webhook
from dagster_essentials_tests.support.source_server import SourceServer, status

pytestmark = pytest.mark.slow

MONTHS = {f"2023-{number:02}": 1_000 + number for number in range(1, 7)}
"""The sample months, each with a different number of trips."""
KEYS = [f"{month}-01" for month in MONTHS]


def new_york(year: int, month: int, day: int) -> float:
    """The start of that day in New York, in seconds since 1970."""
    return datetime(year, month, day, tzinfo=ZoneInfo("America/New_York")).timestamp()


@pytest.fixture(scope="module")
def source() -> Iterator[SourceServer]:
    with SourceServer() as server:
        yield server


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    with Webhook() as webhook:
        yield webhook


@pytest.fixture(scope="module")
def mail_server() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture(scope="module")
def dev(
    tmp_path_factory: pytest.TempPathFactory, source: SourceServer, webhook: Webhook, mail_server: MailServer
) -> Iterator[Dev]:
    root = copy_of_project(ROOT, tmp_path_factory.mktemp("clone"))
    samples = tmp_path_factory.mktemp("samples")
    for month, rows in MONTHS.items():
        source.put_month(month, write_month(samples, month, rows).read_bytes())
    source.files["/taxi_zones.csv"] = write_zones(samples / "taxi_zones.csv").read_bytes()
    dev = Dev(
        root,
        {
            "TAXI_TRIPS_URL": source.trips_url,
            "TAXI_ZONES_URL": source.zones_url,
            "TAXI_END_DATE": "2023-07-01",
            "TAXI_ALERT_WEBHOOK_URL": webhook.url,
            "TAXI_ALERT_EMAIL": "data@example.org",
            "TAXI_SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}",
        },
        daemon_interval=2,
    )
    dev.start()
    yield dev
    dev.stop()


@pytest.fixture(autouse=True)
def published(source: SourceServer) -> Iterator[None]:
    """Every test starts with all months published."""
    yield
    source.answers.clear()


def test_only_this_machine_can_connect(dev: Dev) -> None:
    with socket.create_connection(("127.0.0.1", dev.port), timeout=10):
        pass
    # Another address of this machine: a process that listens on all addresses would answer there.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", dev.port), timeout=10)


# The tests below build on each other: first a backfill of two months, then a tick of the schedule, then the other months.


def test_a_backfill_of_two_partitions_from_the_command_line(dev: Dev) -> None:
    options = ("--partitions", "2023-01-01,2023-03-01", "--noprompt")
    result = dev.dagster("job", "backfill", "-j", "trip_update_job", *options)
    assert result.returncode == 0, result.stdout
    runs = dev.finished_runs(2)
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    assert sorted(run.tags["dagster/partition"] for run in runs) == ["2023-01-01", "2023-03-01"]
    assert dev.rows() == {month: MONTHS[month] for month in ("2023-01", "2023-03")}


TICK = """
mutation Tick($selector: ScheduleSelector!, $timestamp: Float!) {
  scheduleDryRun(selectorData: $selector, timestamp: $timestamp) {
    ... on DryRunInstigationTick { evaluationResult {
      skipReason error { message } runRequests { runKey tags { key value } }
    } }
  }
}
"""
LAUNCH_RUN = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } }
}
"""


def _launch_run(dev: Dev, tags: list[dict[str, str]], job: str = "trip_update_job") -> None:
    launched = dev.graphql(
        LAUNCH_RUN,
        params={
            "selector": {**JOB, "jobName": job},
            "runConfigData": {},
            "executionMetadata": {"tags": tags},
        },
    )["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched


def test_a_tick_on_the_5th_requests_runs_that_succeed(dev: Dev) -> None:
    loaded = dev.rows()
    selector = {**JOB, "scheduleName": "trip_update_job_schedule"}
    result = dev.graphql(TICK, selector=selector, timestamp=new_york(2023, 8, 5))["scheduleDryRun"]["evaluationResult"]
    assert result["error"] is None
    # In August, with a lag of two months, May is the last partition. The schedule does not fill the gap in February.
    assert loaded.keys() == {"2023-01", "2023-03"}
    assert [request["runKey"] for request in result["runRequests"]] == ["2023-04-01", "2023-05-01"]
    for request in result["runRequests"]:
        _launch_run(dev, [*request["tags"], {"key": "test", "value": "tick"}])
    runs = dev.finished_runs(2, test="tick")
    assert {(run.tags["dagster/partition"], run.status) for run in runs} == {
        ("2023-04-01", dg.DagsterRunStatus.SUCCESS),
        ("2023-05-01", dg.DagsterRunStatus.SUCCESS),
    }
    assert dev.rows() == loaded | {month: MONTHS[month] for month in ("2023-04", "2023-05")}
    again = dev.graphql(TICK, selector=selector, timestamp=new_york(2023, 8, 5))["scheduleDryRun"]["evaluationResult"]
    assert again["skipReason"] == "Nothing to load: the newest month so far, 2023-05, is loaded already."


FUTURE_TICKS = """
query Ticks($selector: ScheduleSelector!, $after: Float!) {
  scheduleOrError(scheduleSelector: $selector) {
    ... on Schedule { executionTimezone futureTicks(cursor: $after, limit: 3) { results { timestamp } } }
  }
}
"""
START_SCHEDULE = """
mutation Start($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) { __typename } }
"""
DRY_RUN = """
mutation DryRun($selector: SensorSelector!) {
  sensorDryRun(selectorData: $selector, cursor: "{}") {
    ... on DryRunInstigationTick { evaluationResult { skipReason cursor error { message } } }
  }
}
"""


@pytest.mark.parametrize(
    ("schedule", "days"),
    [
        # The clocks go back two hours after the first of these ticks.
        ("trip_update_job_schedule", [(2023, 11, 5), (2023, 12, 5), (2024, 1, 5)]),
        ("trip_update_job_schedule", [(2024, 3, 5), (2024, 4, 5), (2024, 5, 5)]),
        ("weekly_update_job_schedule", [(2023, 10, 30), (2023, 11, 6), (2023, 11, 13)]),
        ("weekly_update_job_schedule", [(2024, 3, 4), (2024, 3, 11), (2024, 3, 18)]),
    ],
)
def test_the_schedules_tick_at_midnight_in_new_york_before_and_after_the_clocks_change(
    dev: Dev, schedule: str, days: list[tuple[int, int, int]]
) -> None:
    selector = {**JOB, "scheduleName": schedule}
    ticks = [new_york(*day) for day in days]
    found = dev.graphql(FUTURE_TICKS, selector=selector, after=ticks[0] - 3600)["scheduleOrError"]
    assert found["executionTimezone"] == "America/New_York"
    assert [tick["timestamp"] for tick in found["futureTicks"]["results"]] == ticks


def test_a_late_month_of_the_schedule_arrives_at_the_webhook(dev: Dev, source: SourceServer, webhook: Webhook) -> None:
    source.answers["/trip-data/yellow_tripdata_2023-06.parquet"] = [status(403, ACCESS_DENIED)]
    sensor = {**JOB, "sensorName": "late_month_alert_sensor"}

    def look() -> dict[str, Any]:
        result = dev.graphql(DRY_RUN, selector=sensor)["sensorDryRun"]["evaluationResult"]
        assert result["error"] is None
        return dict(result)

    assert look()["skipReason"] == "The monthly schedules are off, or have not ticked yet: no month can be late."
    started = dev.graphql(START_SCHEDULE, selector={**JOB, "scheduleName": "trip_update_job_schedule"})
    assert started["startSchedule"]["__typename"] == "ScheduleStateResult"
    assert look()["skipReason"] == "The monthly schedules are off, or have not ticked yet: no month can be late."
    with dev.instance() as instance:
        (state,) = [
            state for state in instance.all_instigator_state() if state.instigator_name == "trip_update_job_schedule"
        ]
        long_ago = datetime(2023, 10, 5, tzinfo=UTC).timestamp()
        instance.create_tick(
            TickData(
                state.instigator_origin_id,
                state.instigator_name,
                state.instigator_type,
                TickStatus.SKIPPED,
                long_ago,
                end_timestamp=long_ago,
                selector_id=state.selector_id,
            )
        )
    assert look() == {
        "skipReason": "Reported: 2023-06.",
        "cursor": json.dumps({"taxi_trips": {"2023-06-01": str(datetime.now(UTC).date())}}),
        "error": None,
    }
    (message,) = [message for message in webhook.messages if message["event"] == "months_late"]
    assert message["months"] == ["2023-06"]
    assert "because it is not published" in message["text"]


LAUNCH = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
BACKFILL = """
query Backfill($id: String!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status numPartitions } }
}
"""


def _launch_backfill(dev: Dev, **params: object) -> str:
    launched = dev.graphql(LAUNCH, params=params)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    return str(launched["backfillId"])


def _finished_backfill(dev: Dev, backfill: str) -> str:
    """Wait until the backfill has finished; its status."""
    final = ("COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED")

    def final_status() -> str:
        found = dev.graphql(BACKFILL, id=backfill)["partitionBackfillOrError"]["status"]
        return str(found) if found in final else ""

    return str(dev.wait_for(final_status, f"backfill {backfill} to finish"))


def test_a_month_that_fails_in_a_backfill_is_failed_in_the_ui_and_the_others_are_loaded(
    dev: Dev, source: SourceServer
) -> None:
    source.answers["/trip-data/yellow_tripdata_2023-04.parquet"] = [status(403, ACCESS_DENIED)]
    backfill = _launch_backfill(
        dev,
        assetSelection=[{"path": ["taxi_trips_file"]}, {"path": ["taxi_trips"]}],
        partitionNames=KEYS,
    )
    assert _finished_backfill(dev, backfill) == "COMPLETED_FAILED"
    answer = dev.graphql(
        """{ assetNodes(assetKeys: [{path: ["taxi_trips_file"]}, {path: ["taxi_trips"]}]) { assetPartitionStatuses {
        ... on TimePartitionStatuses { ranges { status startKey endKey } } } } }"""
    )
    for node in answer["assetNodes"]:
        statuses = {
            (entry["status"], entry["startKey"], entry["endKey"]) for entry in node["assetPartitionStatuses"]["ranges"]
        }
        assert statuses == {
            ("MATERIALIZED", "2023-01-01", "2023-03-01"),
            ("FAILED", "2023-04-01", "2023-04-01"),
            ("MATERIALIZED", "2023-05-01", "2023-06-01"),
        }
    assert dev.rows() == MONTHS


REEXECUTE = """
mutation Reexecute($params: ReexecutionParams!) {
  launchRunReexecution(reexecutionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } }
}
"""


def _reexecute(dev: Dev, run: dg.DagsterRun) -> dg.DagsterRun:
    """Re-execute `run` from failure, as the UI's button does, and wait until that has finished."""
    params = {"parentRunId": run.run_id, "strategy": "FROM_FAILURE"}
    launched = dev.graphql(REEXECUTE, params=params)["launchRunReexecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    (retry,) = dev.finished_runs(1, **{"dagster/parent_run_id": run.run_id})
    assert retry.run_id == launched["run"]["runId"]
    return retry


def _reports(webhook: Webhook, run: dg.DagsterRun) -> list[dict[str, Any]]:
    """The messages that have arrived about `run`."""
    return [message for message in webhook.messages if message["run_id"] == run.run_id]


def test_every_failed_run_is_told_once_and_a_reexecution_loads_what_was_published_meanwhile(
    dev: Dev, source: SourceServer, webhook: Webhook, mail_server: MailServer
) -> None:
    loads = dev.materialized("taxi_trips").count("2023-05-01")
    source.answers["/trip-data/yellow_tripdata_2023-05.parquet"] = [status(403, ACCESS_DENIED)]
    _launch_run(dev, [{"key": "dagster/partition", "value": "2023-05-01"}, {"key": "test", "value": "late"}])
    (first,) = dev.finished_runs(1, test="late")
    dev.wait_for(lambda: _reports(webhook, first), "the message about the first run")
    second = _reexecute(dev, first)
    with dev.instance() as instance:
        # Dagster notes in the log of a run that the sensor has dealt with it.
        dev.wait_for(
            lambda: any("run_failure_alert_sensor" in entry.message for entry in instance.all_logs(second.run_id)),
            "the sensor to note in the second run that it has told",
        )
    for run in (first, second):
        assert run.status == dg.DagsterRunStatus.FAILURE
        (message,) = _reports(webhook, run)
        assert (message["event"], message["job"]) == ("run_failed", "trip_update_job")
        assert message["months"] == ["2023-05"]
        assert "not published (the source answered 403)" in message["reasons"]["2023-05"]
        assert message["url"] == f"http://127.0.0.1:3000/runs/{run.run_id}"
        (mail,) = [mail for mail, _ in mail_server.messages if run.run_id in mail.get_content()]
        assert mail["Subject"] == message["title"] == "trip_update_job failed: 2023-05"
    assert dev.materialized("taxi_trips").count("2023-05-01") == loads
    source.answers.clear()
    third = _reexecute(dev, second)
    assert third.status == dg.DagsterRunStatus.SUCCESS
    assert dev.materialized("taxi_trips").count("2023-05-01") == loads + 1
    # The step of the files has not failed: it goes on for the sake of other months.
    for run in (second, third):
        assert run.step_keys_to_execute is not None
        assert {"taxi_trips", "taxi_trips_file"} & {*run.step_keys_to_execute} == {"taxi_trips"}
    assert dev.rows() == MONTHS


def _worker(dev: Dev, run: dg.DagsterRun) -> int:
    """The process ID of the worker that executes `run`."""
    with dev.instance() as instance:
        (start,) = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.RUN_START).records
    event = start.event_log_entry.dagster_event
    assert event is not None
    assert event.pid is not None
    return event.pid


START_SENSOR = """
mutation Start($selector: SensorSelector!) {
  startSensor(sensorSelector: $selector) { __typename ... on Sensor { sensorState { status } } }
}
"""


def test_the_sensor_draws_the_chart_of_a_request_file(dev: Dev) -> None:
    selector = {**JOB, "sensorName": "adhoc_request_sensor"}
    started = dev.graphql(START_SENSOR, selector=selector)["startSensor"]
    assert started == {"__typename": "Sensor", "sensorState": {"status": "RUNNING"}}
    (dev.root / "data/requests/half.json").write_text('{"start_date": "2023-01-1')
    (dev.root / "data/requests/january.json").write_text(
        '{"start_date": "2023-01-10", "end_date": "2023-01-25", "borough": "Manhattan"}'
    )
    (run,) = dev.finished_runs(1, **{"dagster/sensor_name": "adhoc_request_sensor"})
    assert run.status == dg.DagsterRunStatus.SUCCESS
    with Image.open(dev.root / "data/outputs/january.png") as image:
        image.load()
    with dev.instance() as instance:
        (record,) = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    with duckdb.connect(str(dev.root / "data/staging/data.duckdb"), read_only=True) as connection:
        (trips,) = connection.execute(
            """SELECT count(*) FROM trips SEMI JOIN zones ON pickup_zone_id = zone_id AND borough = 'Manhattan'
            WHERE strftime(pickup_datetime, '%Y-%m-%d') BETWEEN '2023-01-10' AND '2023-01-24'"""
        ).fetchall()[0]
    assert record.asset_materialization is not None
    assert record.asset_materialization.metadata["num_trips"].value == trips > 0


def test_a_tick_on_monday_requests_the_weeks_and_their_runs_write_them_all_to_the_csv(dev: Dev) -> None:
    selector = {**JOB, "scheduleName": "weekly_update_job_schedule"}
    # A Monday.
    result = dev.graphql(TICK, selector=selector, timestamp=new_york(2023, 4, 17))["scheduleDryRun"]["evaluationResult"]
    assert result["error"] is None
    # 13 weeks later than their own: by then, each of their months is a partition on every day of a year.
    weeks = [request["runKey"] for request in result["runRequests"]]
    assert weeks == ["2023-01-08", "2023-01-01"]
    for request in result["runRequests"]:
        _launch_run(dev, [*request["tags"], {"key": "test", "value": "weeks"}], job="weekly_update_job")
    assert {run.status for run in dev.finished_runs(2, test="weeks")} == {dg.DagsterRunStatus.SUCCESS}
    lines = (dev.root / "data/outputs/trips_by_week.csv").read_text().splitlines()
    assert [line[:10] for line in lines[1:]] == sorted(weeks)


def test_the_runs_of_the_job_drew_the_map(dev: Dev) -> None:
    months = json.loads((dev.root / "data/staging/manhattan_stats.geojson").read_text())["months"]
    assert months == sorted(MONTHS)
    with Image.open(dev.root / "data/outputs/manhattan_map.png") as image:
        image.load()


TICKS = """
query Ticks($selector: SensorSelector!) {
  sensorOrError(sensorSelector: $selector) { ... on Sensor { sensorState { ticks(limit: 20) { skipReason } } } }
}
"""


def _skip_reasons(dev: Dev) -> list[str]:
    """The reasons why the last ticks of the sensor for failed runs have sent nothing."""
    sensor = dev.graphql(TICKS, selector={**JOB, "sensorName": "run_failure_alert_sensor"})["sensorOrError"]
    return [tick["skipReason"] or "" for tick in sensor["sensorState"]["ticks"]]


TERMINATE = "mutation Terminate($run: String!) { terminateRun(runId: $run) { __typename } }"
FEBRUARY = {"key": "dagster/partition", "value": "2023-02-01"}


def _launch_stalled(
    dev: Dev, source: SourceServer, test: str, until: threading.Event | None = None
) -> tuple[dg.DagsterRun, int]:
    """Launch a run of February whose download stalls until the event; the run, and the process ID of its worker."""
    path = "/trip-data/yellow_tripdata_2023-02.parquet"
    # It is missing already if the run before this one was cancelled.
    (dev.root / "data/raw/taxi_trips_2023-02.parquet").unlink(missing_ok=True)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if (until or source.stopping).wait(60):
            source.published(handler)

    source.answers[path] = [answer]
    requested = len(source.requests)
    _launch_run(dev, [FEBRUARY, {"key": "test", "value": test}])
    dev.wait_for(lambda: path in [path for _, path, _ in source.requests[requested:]], "the download to start")
    (run,) = dev.runs(test=test)
    return run, _worker(dev, run)


def test_a_run_that_is_terminated_ends_and_leaves_its_month_as_it_was(dev: Dev, source: SourceServer) -> None:
    run, worker = _launch_stalled(dev, source, "terminated")
    # It is forked from a process that has imported Dagster.
    assert "multiprocessing.forkserver" in " ".join(psutil.Process(worker).cmdline())
    assert dev.graphql(TERMINATE, run=run.run_id) == {"terminateRun": {"__typename": "TerminateRunSuccess"}}
    (run,) = dev.finished_runs(1, test="terminated")
    assert run.status == dg.DagsterRunStatus.CANCELED
    dev.wait_for(lambda: not psutil.pid_exists(worker), "the process of the run to end")
    assert dev.rows() == MONTHS
    assert not [path for path in Path(dev.root, "data/raw").glob("*2023-02*") if path.suffix != ".json"]
    answer = dev.graphql(
        TERMINATE.replace("__typename", "__typename ... on TerminateRunFailure { message }"), run=run.run_id
    )
    assert "could not be terminated due to having status CANCELED" in answer["terminateRun"]["message"]


LATEST_CHECKS = """{ assetNodes(assetKeys: [{path: ["taxi_trips"]}]) { assetChecksOrError { ... on AssetChecks { checks {
    name executionForLatestMaterialization { status } } } } } }"""


def test_the_checks_are_those_of_the_run_that_ends_last_also_if_another_one_was_launched_later(
    dev: Dev, source: SourceServer
) -> None:
    other_has_ended = threading.Event()
    _launch_stalled(dev, source, "overtaken", other_has_ended)
    _launch_run(dev, [{"key": "dagster/partition", "value": "2023-03-01"}, {"key": "test", "value": "overtaking"}])
    (other,) = dev.finished_runs(1, test="overtaking")
    other_has_ended.set()
    (run,) = dev.finished_runs(1, test="overtaken")
    assert {run.status, other.status} == {dg.DagsterRunStatus.SUCCESS}
    (node,) = dev.graphql(LATEST_CHECKS)["assetNodes"]
    checks = node["assetChecksOrError"]["checks"]
    latest = {check["name"]: check["executionForLatestMaterialization"] for check in checks}
    assert latest == {key.name: {"status": "SUCCEEDED"} for key in trips.taxi_trips.check_keys}


def test_a_run_has_the_code_as_it_is_when_it_starts(dev: Dev) -> None:
    module = dev.root / "dagster_essentials/assets/trips.py"
    code = module.read_text()
    module.write_text(code + "\nopen('imported', 'w').close()\n")
    _launch_run(dev, [FEBRUARY, {"key": "test", "value": "code"}])
    (run,) = dev.finished_runs(1, test="code")
    module.write_text(code)
    assert run.status == dg.DagsterRunStatus.SUCCESS
    assert (dev.root / "imported").exists()
    assert dev.rows() == MONTHS


def test_a_run_whose_process_ends_before_it_starts_says_so_and_is_tried_again(dev: Dev) -> None:
    module = dev.root / "dagster_essentials/assets/trips.py"
    code = module.read_text()
    module.write_text(code + "\nimport os; os._exit(7)\n")
    _launch_run(dev, [FEBRUARY, {"key": "test", "value": "ended"}])
    (failed,) = dev.finished_runs(1, test="ended")
    module.write_text(code)
    assert failed.status == dg.DagsterRunStatus.FAILURE
    with dev.instance() as instance:
        logs = instance.all_logs(failed.run_id)
    assert any("ended before the run had started, with the exit code 7" in str(entry) for entry in logs)
    runs = dev.finished_runs(2, test="ended")
    assert {run.status for run in runs if run.run_id != failed.run_id} == {dg.DagsterRunStatus.SUCCESS}
    assert dev.rows() == MONTHS


@pytest.mark.parametrize("killed", ["worker", "everything"])
def test_a_run_whose_worker_was_killed_is_failed_and_its_month_is_loaded(
    dev: Dev, source: SourceServer, webhook: Webhook, killed: str
) -> None:
    first, worker = _launch_stalled(dev, source, killed)
    if killed == "everything":
        dev.kill()
    os.kill(worker, signal.SIGKILL)
    source.answers.clear()
    if killed == "everything":
        dev.start()
        # Whether Dagster retries the run depends on what its daemon had stored when it was killed. Its lock is released.
        _launch_run(dev, [FEBRUARY, {"key": "test", "value": "next"}])
        (next_run,) = dev.finished_runs(1, test="next")
        assert next_run.status == dg.DagsterRunStatus.SUCCESS
        finished = dev.finished_runs(1, test=killed)
        assert first.run_id in {run.run_id for run in finished if run.status == dg.DagsterRunStatus.FAILURE}
    else:
        runs = dev.finished_runs(2, test=killed)
        assert {run.run_id: run.status for run in runs} == {
            first.run_id: dg.DagsterRunStatus.FAILURE,
            next(run.run_id for run in runs if run.parent_run_id == first.run_id): dg.DagsterRunStatus.SUCCESS,
        }
        # Nobody has to do anything. The sensor has seen the failure when it has skipped a tick for it.
        dev.wait_for(lambda: any(first.run_id in reason for reason in _skip_reasons(dev)), "a tick that skips the run")
        assert _reports(webhook, first) == []
    assert dev.rows() == MONTHS
    assert not list(Path(dev.root, "data/raw").glob(".*.partial"))
