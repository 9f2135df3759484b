"""The sensors of alerts: which failed runs and late months arrive at real receivers, what they say, and how often."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from dagster_essentials import defs, settings
from dagster_essentials.assets.fleets import fleet_trips
from dagster_essentials.assets.trips import taxi_trips
from dagster_essentials.datasets.fleets import FHVHV
from dagster_essentials.jobs import FLEET_TRIPS
from dagster_essentials.operations import alert_sensors, alerts, failed_runs
from dagster_essentials.orchestration.month_schedules import SINCE_TAG
from dagster_essentials.resources import LockedDuckDBResource
from dagster_essentials.settings import read_settings
from dagster_essentials_tests.support.faults.samples import query_file, rewrite, sample
from dagster_essentials_tests.support.fleet_files import fleet_sample
from dagster_essentials_tests.support.project import Project, materialize
from dagster_essentials_tests.support.receivers import SECRET, MailServer, Webhook
from dagster_essentials_tests.support.run_results import FLEETS, TRIPS, publish
from dagster_essentials_tests.support.source_server import SourceServer, status

pytestmark = pytest.mark.slow

UI = "https://dagster.example.org"


def sensor(name: str) -> dg.SensorDefinition:
    sensor: dg.SensorDefinition = defs.get_repository_def().get_sensor_def(name)
    return sensor


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as webhook:
        yield webhook


Configure = Callable[..., None]


@pytest.fixture
def configure(project: Project, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Sets the receivers of alerts, for the sensors in this process."""

    def configure(**environ: str) -> None:
        read = read_settings({"TAXI_UI_URL": UI, **environ})
        names = ("alert_webhook_url", "alert_recipients", "smtp", "ui_url")
        changes = {name: getattr(read, name) for name in names}
        monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, **changes))

    return configure


@pytest.fixture(autouse=True)
def to_the_webhook(configure: Configure, webhook: Webhook) -> None:
    configure(TAXI_ALERT_WEBHOOK_URL=webhook.url)


class FailureTicks:
    """The ticks of the sensor for failed runs, with its cursor."""

    def __init__(self, instance: dg.DagsterInstance):
        self.instance = instance
        self.cursor: str | None = None
        self.tick()

    def tick(self) -> tuple[int, str | None]:
        """The number of runs that the sensor has dealt with, and the reason if it skips."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        with context:
            data = sensor("run_failure_alert_sensor").evaluate_tick(context)
        self.cursor = data.cursor
        assert [reaction.error for reaction in data.dagster_run_reactions or [] if reaction.error] == []
        return len(data.dagster_run_reactions or []), data.skip_message


@pytest.fixture
def ticks(history: dg.DagsterInstance) -> FailureTicks:
    return FailureTicks(history)


def run_job(project: Project, instance: dg.DagsterInstance, job: str, **options: Any) -> str:
    """Execute a job in this process; it fails. Returns the run's ID."""
    result = defs.resolve_job_def(job).execute_in_process(
        instance=instance,
        resources={"database": LockedDuckDBResource(database=str(project.database), wait_seconds=0)},
        raise_on_error=False,
        **options,
    )
    assert not result.success
    return str(result.run_id)


# Failed runs.


def test_a_failed_month_is_reported_once_with_its_reason_and_a_link(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance, ticks: FailureTicks, webhook: Webhook
) -> None:
    source_server.files["/taxi_zones.csv"] = b"no zones"
    run_id = run_job(project, history, "trip_update_job", partition_key="2023-05-01")
    assert ticks.tick() == (1, None)
    assert ticks.tick()[0] == 0
    (message,) = webhook.messages
    reason = message["reasons"]["2023-05"]
    assert reason.startswith(f"2023-05 ({source_server.trips_url}/yellow_tripdata_2023-05.parquet): not published (")
    assert source_server.zones_url in message["reasons"]["taxi_zones_file"]
    assert message == {
        "event": "run_failed",
        "job": "trip_update_job",
        "run_id": run_id,
        "months": ["2023-05"],
        "weeks": [],
        "reasons": message["reasons"],
        "url": f"{UI}/runs/{run_id}",
        "title": "trip_update_job failed: 2023-05",
        "text": message["text"],
    }
    title, *details, link = message["text"].split("\n\n")
    assert title == "trip_update_job failed: 2023-05"
    assert sorted(details[0].splitlines()) == sorted(message["reasons"].values())
    assert link == f"{UI}/runs/{run_id}"


def test_of_a_range_only_the_failed_months_are_named_each_with_its_reason(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance, ticks: FailureTicks, webhook: Webhook
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))
    publish(source_server, "2023-03", b"not a Parquet file")
    assert not materialize(project, history, TRIPS, "2023-01", "2023-03").success
    ticks.tick()
    (message,) = webhook.messages
    assert message["months"] == ["2023-02", "2023-03"]
    assert list(message["reasons"]) == ["2023-02", "2023-03"]
    assert "not published" in message["reasons"]["2023-02"]
    assert "It was not kept." in message["reasons"]["2023-03"]
    assert "2 of 3 months failed; the other one is done:" in message["text"]
    assert message["title"].endswith(" failed: 2023-02, 2023-03")


def test_a_failed_month_of_a_fleet_is_named_with_its_fleet(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance, ticks: FailureTicks, webhook: Webhook
) -> None:
    publish(source_server, "2023-01", fleet_sample("green", "2023-01"), "green")
    tags = {
        "dagster/asset_partition_range_start": "green|2023-01-01",
        "dagster/asset_partition_range_end": "green|2023-02-01",
    }
    run_job(project, history, "fleet_update_job", tags=tags)
    run_job(project, history, "fleet_update_job", partition_key="fhvhv|2019-01-01")
    ticks.tick()
    ticks.tick()
    range_, alone = webhook.messages
    assert (range_["title"], range_["months"]) == ("fleet_update_job failed: green 2023-02", ["green 2023-02"])
    assert range_["reasons"]["green 2023-02"].startswith("green 2023-02 (http")
    assert (alone["title"], alone["months"]) == ("fleet_update_job failed: fhvhv 2019-01", ["fhvhv 2019-01"])
    assert "are published since 2019-02" in alone["text"]


@pytest.mark.parametrize(
    ("first", "last", "months"),
    [
        ("green|2023-01-01", "fhv|2023-02-01", ["green 2023-01", "green 2023-02", "fhv 2023-01", "fhv 2023-02"]),
        ("fhv|2023-02-01", "fhv|2023-02-01", ["fhv 2023-02"]),
        # The settings have changed since: there are no such partitions any more.
        ("green|2003-01-01", "green|2003-03-01", ["green|2003-01-01", "green|2003-03-01"]),
        ("blue|2023-01-01", "green|2023-01-01", ["blue|2023-01-01", "green 2023-01"]),
    ],
)
def test_of_a_range_of_fleets_whose_process_is_gone_all_months_are_named(
    first: str, last: str, months: list[str], history: dg.DagsterInstance, ticks: FailureTicks, webhook: Webhook
) -> None:
    range_ = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    crashed_run(history, "fleet_update_job", **{"dagster/partition": ""}, **range_)
    ticks.tick()
    (message,) = webhook.messages
    assert message["months"] == months


def test_the_message_arrives_by_e_mail(
    project: Project, history: dg.DagsterInstance, ticks: FailureTicks, webhook: Webhook, configure: Configure
) -> None:
    with MailServer() as server:
        configure(TAXI_SMTP_URL=f"smtp://127.0.0.1:{server.port}", TAXI_ALERT_EMAIL="data@example.org")
        run_id = run_job(project, history, "trip_update_job", partition_key="2023-05-01")
        ticks.tick()
    ((message, _),) = server.messages
    assert message["Subject"] == "trip_update_job failed: 2023-05"
    assert "not published" in message.get_content()
    assert f"{UI}/runs/{run_id}" in message.get_content()
    assert webhook.messages == []


def test_a_failed_week_is_named_as_a_week(
    project: Project, history: dg.DagsterInstance, ticks: FailureTicks, webhook: Webhook
) -> None:
    run_job(project, history, "weekly_update_job", partition_key="2023-01-29")
    ticks.tick()
    (message,) = webhook.messages
    assert message["title"] == "weekly_update_job failed: week of 2023-01-29"
    assert (message["months"], message["weeks"]) == ([], ["2023-01-29"])
    assert list(message["reasons"]) == ["2023-01-29"]


def test_a_job_without_partitions_is_named_with_its_step(
    project: Project, history: dg.DagsterInstance, ticks: FailureTicks, webhook: Webhook
) -> None:
    config = {"filename": "a.json", "borough": "Bronx", "start_date": "2023-01-01", "end_date": "2023-02-01"}
    run_job(project, history, "adhoc_request_job", run_config={"ops": {"adhoc_request": {"config": config}}})
    ticks.tick()
    (message,) = webhook.messages
    assert message["title"] == "adhoc_request_job failed"
    assert (message["months"], message["weeks"]) == ([], [])
    assert list(message["reasons"]) == ["adhoc_request"]


def test_an_error_that_nobody_expected_is_reported_without_secrets(
    history: dg.DagsterInstance, ticks: FailureTicks, webhook: Webhook
) -> None:
    @dg.asset
    def broken() -> None:
        raise ValueError(f"https://user:{SECRET}@host/a?token={SECRET} and {webhook.url}: \ud800 disk full")

    dg.materialize([broken], instance=history, raise_on_error=False)
    ticks.tick()
    (message,) = webhook.messages
    assert message["reasons"]["broken"].startswith("broken: ValueError: https://host/a and …")
    assert message["reasons"]["broken"].endswith("disk full")
    assert SECRET not in str(message)


def crashed_run(instance: dg.DagsterInstance, job: str = "trip_update_job", **tags: str) -> dg.DagsterRun:
    """A run for 2023-05 whose process is gone, and which Dagster does not try again unless its `tags` say so."""
    run = dg.DagsterRun(job, status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": "2023-05-01", **tags})
    instance.add_run(run)
    instance.report_run_failed(run, "Its process, 123, is gone. Launch it again.")
    # Now Dagster says that it will try again. Without a daemon, the sensor would wait 15 s for that.
    instance.add_run_tags(run.run_id, {"dagster/will_retry": tags.get("dagster/will_retry", "false")})
    return run


def test_a_run_whose_process_is_gone_is_reported_with_its_month(
    history: dg.DagsterInstance, ticks: FailureTicks, webhook: Webhook
) -> None:
    crashed_run(history)
    ticks.tick()
    (message,) = webhook.messages
    assert (message["title"], message["months"]) == ("trip_update_job failed: 2023-05", ["2023-05"])
    assert message["reasons"] == {"trip_update_job": "Its process, 123, is gone. Launch it again."}


def test_of_a_range_whose_process_is_gone_all_months_are_named(
    history: dg.DagsterInstance, ticks: FailureTicks, webhook: Webhook
) -> None:
    tags = {
        "dagster/asset_partition_range_start": "2023-05-01",
        "dagster/asset_partition_range_end": "2023-09-01",
    }
    keys = frozenset([dg.AssetKey("taxi_trips_file"), dg.AssetKey("taxi_trips")])
    run = dg.DagsterRun("__ASSET_JOB", status=dg.DagsterRunStatus.STARTED, tags=tags, asset_selection=keys)
    history.add_run(run)
    history.report_run_failed(run, "It is gone.")
    history.add_run_tags(run.run_id, {"dagster/will_retry": "false"})
    ticks.tick()
    (message,) = webhook.messages
    assert message["months"] == [f"2023-{number:02}" for number in range(5, 10)]
    assert message["title"] == "taxi_trips, taxi_trips_file failed: 2023-05, 2023-06, 2023-07 and 2 more"


def test_a_run_that_is_tried_again_is_not_reported_but_the_last_attempt_is(
    history: dg.DagsterInstance, ticks: FailureTicks, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = crashed_run(history, **{"dagster/will_retry": "true"})

    def retried(seconds: float) -> None:
        # Dagster starts the run again some seconds after its failure.
        history.add_run_tags(first.run_id, {"dagster/auto_retry_run_id": "the next"})

    monkeypatch.setattr("dagster_essentials.operations.failed_runs.time.sleep", retried)
    reactions, reason = ticks.tick()
    assert reactions == 0
    assert reason is not None
    assert f"Dagster tries the run {first.run_id} again" in reason
    assert webhook.messages == []
    last = crashed_run(history, **{"dagster/will_retry": "false"})
    assert ticks.tick() == (1, None)
    assert [message["run_id"] for message in webhook.messages] == [last.run_id]


@pytest.mark.parametrize("given_up", [True, False])
def test_a_run_that_should_be_tried_again_and_is_not_is_reported(
    given_up: bool,
    history: dg.DagsterInstance,
    ticks: FailureTicks,
    webhook: Webhook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = crashed_run(history, **{"dagster/will_retry": "true"})
    now, began = [time.time()], time.time()

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if given_up and now[0] - began > 5:
            history.add_run_tags(run.run_id, {"dagster/will_retry": "false"})

    monkeypatch.setattr(failed_runs, "time", type("Time", (), {"time": lambda: now[0], "sleep": sleep}))
    ticks.tick()
    assert [message["run_id"] for message in webhook.messages] == [run.run_id]
    assert now[0] - began < (7 if given_up else 16)


def test_a_receiver_that_is_down_is_a_warning_in_the_tick_and_the_next_run_is_reported(
    history: dg.DagsterInstance, ticks: FailureTicks, webhook: Webhook, capfd: pytest.CaptureFixture[str]
) -> None:
    webhook.answer = status(500, SECRET.encode())
    crashed_run(history)
    assert ticks.tick() == (1, None)
    output = "".join(capfd.readouterr())
    assert "WARNING" in output
    assert (
        "trip_update_job failed: 2023-05: the message may not have reached the webhook: it answered 500. Check "
        "TAXI_ALERT_WEBHOOK_URL." in output
    )
    assert SECRET not in output
    webhook.answer = status(200)
    last = crashed_run(history)
    assert ticks.tick() == (1, None)
    assert [message["run_id"] for message in webhook.messages][1:] == [last.run_id]


def test_five_receivers_that_hang_leave_the_tick_within_its_minute() -> None:
    # Dagster passes up to five runs to a tick, and aborts it after 60 seconds, with all that it would have stored.
    assert 5 * alerts.SECONDS + failed_runs.RETRY_SECONDS <= 55


def test_without_a_receiver_a_tick_skips_and_says_what_to_set(
    history: dg.DagsterInstance, ticks: FailureTicks, webhook: Webhook, configure: Configure
) -> None:
    configure()
    crashed_run(history)
    assert ticks.tick() == (0, alerts.NO_RECEIVER)
    assert webhook.messages == []


@pytest.mark.parametrize(
    "environ",
    [
        {"TAXI_ALERT_WEBHOOK_URL": "https://host/a"},
        {"TAXI_ALERT_EMAIL": "data@example.org", "TAXI_SMTP_URL": "smtp://host"},
    ],
    ids=["webhook", "e-mail"],
)
def test_with_a_receiver_the_sensors_are_on_without_a_click(configure: Configure, environ: dict[str, str]) -> None:
    # Without one they are off, like all others: that is in the snapshot of the definitions.
    configure(**environ)
    statuses = {sensor.name: sensor.default_status.value for sensor in alert_sensors.alert_sensors([])}
    assert statuses == {
        "late_month_alert_sensor": "RUNNING",
        "quality_alert_sensor": "RUNNING",
        "run_failure_alert_sensor": "RUNNING",
    }


# Late months. December 2025 is late from 26 March 2026 on.

SINCE = {
    "dagster/schedule_name": "trip_update_job_schedule",
    "dagster/partition": "2025-11-01",
    SINCE_TAG: "2025-11-01",
}
MARCH_5 = datetime(2026, 3, 5, tzinfo=UTC)


class Schedule:
    """A monthly schedule as Dagster has stored it, and the ticks of the sensor that watches it."""

    def __init__(
        self, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, name: str = "trip_update_job_schedule"
    ):
        target = LoadableTargetOrigin(module_name="dagster_essentials")
        location = InProcessCodeLocationOrigin(target, location_name="dagster_essentials")
        repository = RemoteRepositoryOrigin(location, "__repository__")
        self.instance = instance
        self.monkeypatch = monkeypatch
        self.cursor: str | None = None
        self.name = name
        self.sensor = sensor("late_month_alert_sensor")
        self.state = InstigatorState(
            RemoteInstigatorOrigin(repository, name),
            InstigatorType.SCHEDULE,
            InstigatorStatus.RUNNING,
            ScheduleInstigatorData("0 0 5 * *", MARCH_5.timestamp()),
        )

    def switch_on(self) -> None:
        self.instance.add_instigator_state(self.state)

    def switch_off(self) -> None:
        self.instance.update_instigator_state(self.state.with_status(InstigatorStatus.STOPPED))

    def ticked(self, at: datetime, ended: datetime | None = None) -> None:
        self.instance.create_tick(
            TickData(
                self.state.instigator_origin_id,
                self.name,
                InstigatorType.SCHEDULE,
                TickStatus.SKIPPED,
                at.timestamp(),
                end_timestamp=(ended or at).timestamp(),
                selector_id=self.state.selector_id,
            )
        )

    def watch(self, day: str) -> str | None:
        """A tick of the sensor at noon of `day`; the reason that it gives."""
        moment = datetime.fromisoformat(f"{day}T12:00:00+00:00")

        class Clock(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
                return moment

        self.monkeypatch.setattr(alert_sensors, "datetime", Clock)
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor) as context:
            data = self.sensor.evaluate_tick(context)
        self.cursor = data.cursor
        return data.skip_message


@pytest.fixture
def schedule(history: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Schedule:
    return Schedule(history, monkeypatch)


@pytest.fixture
def fleet_schedule(history: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Schedule:
    return Schedule(history, monkeypatch, "fleet_update_job_schedule")


def load(instance: dg.DagsterInstance, months: Sequence[str]) -> None:
    """Record `months`, given as ``YYYY-MM`` or ``green|YYYY-MM``, as materialized."""
    for month in months:
        asset = fleet_trips if "|" in month else taxi_trips
        instance.report_runless_asset_event(dg.AssetMaterialization(asset.key, partition=f"{month}-01"))


def test_a_late_month_is_reported_once_until_it_is_loaded(
    schedule: Schedule, history: dg.DagsterInstance, webhook: Webhook
) -> None:
    load(history, ["2025-10", "2025-11"])
    history.add_run(dg.DagsterRun("trip_update_job", tags=SINCE))
    schedule.switch_on()
    schedule.ticked(MARCH_5)
    assert schedule.watch("2026-03-25") == "No month is late."
    assert webhook.messages == []
    assert schedule.watch("2026-03-26") == "Reported: 2025-12."
    (message,) = webhook.messages
    assert message == {
        "event": "months_late",
        "job": "trip_update_job",
        "run_id": None,
        "months": ["2025-12"],
        "weeks": [],
        "reasons": message["reasons"],
        "url": f"{UI}/assets/taxi_trips?view=partitions",
        "title": "2025-12 is late",
        "text": f"2025-12 is late\n\n{message['reasons']['2025-12']}\n\n{message['url']}",
    }
    assert message["reasons"]["2025-12"].startswith(
        "2025-12: not loaded 84 days after its end, because it is not published;"
    )
    for day in ("2026-03-27", "2026-04-06"):
        assert schedule.watch(day) == "Reported and still not loaded: 2025-12."
    assert schedule.watch("2026-04-26") == "Reported: 2026-01."
    load(history, ["2025-12", "2026-01"])
    assert schedule.watch("2026-04-27") == "No month is late."
    assert [message["months"] for message in webhook.messages] == [["2025-12"], ["2026-01"]]
    assert json.loads(schedule.cursor or "") == {"taxi_trips": {}, "fleet_trips": {}}


def test_who_has_not_switched_the_schedule_on_is_not_told(
    schedule: Schedule, history: dg.DagsterInstance, webhook: Webhook
) -> None:
    load(history, ["2023-01", "2023-02", "2023-03"])
    nothing = "The monthly schedules are off, or have not ticked yet: no month can be late."
    assert schedule.watch("2026-03-26") == nothing
    schedule.switch_on()
    assert schedule.watch("2026-03-26") == nothing
    schedule.ticked(MARCH_5)
    schedule.switch_off()
    assert schedule.watch("2026-03-26") == nothing
    assert webhook.messages == []


def test_months_that_a_tick_has_requested_just_now_are_not_late(
    schedule: Schedule, history: dg.DagsterInstance, webhook: Webhook, source_server: SourceServer
) -> None:
    # The machine was off from May to October; the tick of 5 October is made up for on the 20th.
    load(history, ["2025-11"])
    for month in ("2025-12", "2026-01", "2026-02", "2026-03", "2026-04", "2026-05", "2026-06"):
        publish(source_server, month, b"a month")
    schedule.switch_on()
    schedule.ticked(MARCH_5)
    october = datetime(2026, 10, 20, 11, tzinfo=UTC)
    schedule.ticked(datetime(2026, 10, 5, tzinfo=UTC), ended=october)
    assert schedule.watch("2026-10-20") == "No month is late."
    # A day later its runs have ended.
    assert schedule.watch("2026-10-22") == "Reported: 2025-12, 2026-01, 2026-02, 2026-03, 2026-04, 2026-05, 2026-06."
    (message,) = webhook.messages
    assert message["title"] == "2025-12, 2026-01, 2026-02 and 4 more are late"
    assert len(message["reasons"]) == 7


def test_a_late_month_that_no_receiver_accepted_is_reported_on_the_next_day(
    schedule: Schedule, history: dg.DagsterInstance, webhook: Webhook
) -> None:
    load(history, ["2025-11"])
    schedule.switch_on()
    schedule.ticked(MARCH_5)
    webhook.answer = status(503)
    assert schedule.watch("2026-03-26") == (
        "No receiver has accepted the message, see the log of this tick; it is sent again tomorrow."
    )
    webhook.answer = status(200)
    assert schedule.watch("2026-03-27") == "Reported: 2025-12."
    assert len(webhook.messages) == 2


def test_without_a_receiver_nothing_is_asked(
    schedule: Schedule, history: dg.DagsterInstance, source_server: SourceServer, configure: Configure
) -> None:
    load(history, ["2025-11"])
    schedule.switch_on()
    schedule.ticked(MARCH_5)
    configure()
    assert schedule.watch("2026-03-26") == alerts.NO_RECEIVER
    assert source_server.requests == []


@pytest.mark.parametrize(
    "cursor", ["not JSON", "[]", "1692230400.0", '{"taxi_trips": []}', '{"a month": "2026-03-01"}', '{"2025-12-01": 7}']
)
def test_a_cursor_that_was_set_by_hand_counts_as_none(
    cursor: str, schedule: Schedule, history: dg.DagsterInstance, webhook: Webhook
) -> None:
    load(history, ["2025-11"])
    schedule.switch_on()
    schedule.ticked(MARCH_5)
    schedule.cursor = cursor
    assert schedule.watch("2026-03-26") == "Reported: 2025-12."
    assert len(webhook.messages) == 1


def test_what_an_earlier_release_has_reported_is_not_reported_again(
    schedule: Schedule, fleet_schedule: Schedule, history: dg.DagsterInstance, webhook: Webhook
) -> None:
    load(history, ["2025-11", *(f"{fleet}|2025-11" for fleet in OTHERS)])
    for each in (schedule, fleet_schedule):
        each.switch_on()
        each.ticked(MARCH_5)
    # It stored the partitions of both tables side by side.
    schedule.cursor = '{"2025-12-01": "2026-03-26", "green|2025-12-01": "2026-03-26"}'
    assert schedule.watch("2026-03-27") == "Reported: fhvhv 2025-12."
    assert [message["months"] for message in webhook.messages] == [["fhvhv 2025-12"]]
    assert json.loads(schedule.cursor) == {
        "taxi_trips": {"2025-12-01": "2026-03-26"},
        "fleet_trips": {"green|2025-12-01": "2026-03-26", "fhvhv|2025-12-01": "2026-03-27"},
    }


OTHERS = ("green", "fhv", "fhvhv")


def test_a_late_month_of_a_fleet_is_reported_with_its_fleet_and_one_of_fhv_a_month_later(
    fleet_schedule: Schedule, history: dg.DagsterInstance, webhook: Webhook
) -> None:
    load(history, [f"{fleet}|2025-11" for fleet in OTHERS])
    fleet_schedule.switch_on()
    fleet_schedule.ticked(MARCH_5)
    assert fleet_schedule.watch("2026-03-25") == "No month is late."
    assert fleet_schedule.watch("2026-03-26") == "Reported: green 2025-12, fhvhv 2025-12."
    (message,) = webhook.messages
    assert message == {
        "event": "months_late",
        "job": "fleet_update_job",
        "run_id": None,
        "months": ["green 2025-12", "fhvhv 2025-12"],
        "weeks": [],
        "reasons": message["reasons"],
        "url": f"{UI}/assets/fleet_trips?view=partitions",
        "title": "green 2025-12, fhvhv 2025-12 are late",
        "text": message["text"],
    }
    for fleet in ("green", "fhvhv"):
        assert message["reasons"][f"{fleet} 2025-12"].startswith(
            f"{fleet} 2025-12: not loaded 84 days after its end, because it is not published; it was expected within 83 days."
        )
    assert fleet_schedule.watch("2026-04-25") == "Reported and still not loaded: green 2025-12, fhvhv 2025-12."
    # December of fhv is late when January of the others is.
    assert fleet_schedule.watch("2026-04-26") == "Reported: green 2026-01, fhv 2025-12, fhvhv 2026-01."
    assert "fhv 2025-12: not loaded 115 days after its end" in webhook.messages[-1]["text"]
    load(history, [f"{fleet}|{month}" for fleet in OTHERS for month in ("2025-12", "2026-01")])
    assert fleet_schedule.watch("2026-04-27") == "No month is late."
    assert json.loads(fleet_schedule.cursor or "") == {"taxi_trips": {}, "fleet_trips": {}}
    assert len(webhook.messages) == 2


def test_a_fleet_is_watched_from_the_first_month_on_that_its_schedule_is_responsible_for(
    fleet_schedule: Schedule, history: dg.DagsterInstance, webhook: Webhook, source_server: SourceServer
) -> None:
    # October and November of green are missing; those of fhvhv are older gaps.
    load(history, [f"{fleet}|{month}" for fleet in OTHERS for month in ("2025-09", "2025-12")])
    tags = {"dagster/schedule_name": "fleet_update_job_schedule", SINCE_TAG: "2025-10-01"}
    history.add_run(dg.DagsterRun("fleet_update_job", tags={**tags, "dagster/partition": "green|2025-10-01"}))
    for fleet in OTHERS:
        publish(source_server, "2025-10", b"a month", fleet)
    fleet_schedule.switch_on()
    fleet_schedule.ticked(MARCH_5)
    assert fleet_schedule.watch("2026-03-26") == "Reported: green 2025-10, green 2025-11."
    (message,) = webhook.messages
    assert "in spite of the schedule's tick on 2026-03-05. It is published" in message["reasons"]["green 2025-10"]
    assert "because it is not published" in message["reasons"]["green 2025-11"]


def test_late_months_of_both_tables_are_a_message_each_and_only_of_schedules_that_are_on(
    schedule: Schedule, fleet_schedule: Schedule, history: dg.DagsterInstance, webhook: Webhook
) -> None:
    load(history, ["2025-11", *(f"{fleet}|2025-11" for fleet in OTHERS)])
    for each in (schedule, fleet_schedule):
        each.switch_on()
        each.ticked(MARCH_5)
    assert schedule.watch("2026-03-26") == "Reported: 2025-12, green 2025-12, fhvhv 2025-12."
    assert [(message["job"], message["months"]) for message in webhook.messages] == [
        ("trip_update_job", ["2025-12"]),
        ("fleet_update_job", ["green 2025-12", "fhvhv 2025-12"]),
    ]
    fleet_schedule.switch_off()
    assert schedule.watch("2026-04-26") == "Reported: 2026-01."


def test_only_the_fleets_of_the_table_are_watched(
    fleet_schedule: Schedule, history: dg.DagsterInstance, webhook: Webhook, source_server: SourceServer
) -> None:
    load(history, [f"{fleet}|2025-11" for fleet in OTHERS])
    fleet_schedule.switch_on()
    fleet_schedule.ticked(MARCH_5)
    # As with TAXI_FLEETS=fhvhv.
    _, fleet_schedule.sensor, _ = alert_sensors.alert_sensors([replace(FLEET_TRIPS, datasets=[FHVHV])])
    assert fleet_schedule.watch("2026-03-26") == "Reported: fhvhv 2025-12."
    assert {path for _, path, _ in source_server.requests} == {"/trip-data/fhvhv_tripdata_2025-12.parquet"}


def test_all_fleets_are_asked_about_at_once_because_a_tick_has_a_minute(
    schedule: Schedule,
    fleet_schedule: Schedule,
    history: dg.DagsterInstance,
    webhook: Webhook,
    source_server: SourceServer,
) -> None:
    load(history, ["2025-11", "green|2025-11", "fhvhv|2025-11", "fhv|2025-12"])
    together = threading.Barrier(3, timeout=60)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        # None is answered before all three have been asked.
        together.wait()
        status(403)(handler)

    for each in (schedule, fleet_schedule):
        each.switch_on()
        each.ticked(MARCH_5)
    for name in ("yellow", "green", "fhvhv"):
        source_server.answers[f"/trip-data/{name}_tripdata_2025-12.parquet"] = [answer]
    assert schedule.watch("2026-03-26") == "Reported: 2025-12, green 2025-12, fhvhv 2025-12."


def test_the_sensor_looks_once_a_day() -> None:
    assert timedelta(seconds=sensor("late_month_alert_sensor").minimum_interval_seconds or 0) == timedelta(days=1)


# Months that do not pass a check.

REFUNDS = (
    "SELECT * REPLACE (if(row_number() OVER () % 10 < 3, -abs(total_amount), total_amount) AS total_amount) FROM month"
)
"""Makes three trips in ten violate `no_negative_totals`."""
NOTHING = "No month was loaded that a check does not pass."


class QualityTicks:
    """The ticks of the sensor for checks, with its cursor."""

    def __init__(self, instance: dg.DagsterInstance):
        self.instance = instance
        self.cursor: str | None = None

    def tick(self) -> str | None:
        """The reason that it gives."""
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor) as context:
            data = sensor("quality_alert_sensor").evaluate_tick(context)
        self.cursor = data.cursor
        return data.skip_message


@pytest.fixture
def quality(history: dg.DagsterInstance) -> QualityTicks:
    return QualityTicks(history)


def load_month(
    project: Project,
    instance: dg.DagsterInstance,
    server: SourceServer,
    month: str,
    content: bytes,
    force: bool = False,
) -> None:
    publish(server, month, content)
    assert materialize(project, instance, TRIPS, month, config={"taxi_trips": {"force": force}}).success


def test_a_month_that_does_not_pass_a_check_is_reported_once_a_version(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance, webhook: Webhook, quality: QualityTicks
) -> None:
    load_month(project, history, source_server, "2023-01", rewrite(sample("2023-01"), REFUNDS))
    assert quality.tick() == NOTHING, "what was loaded before somebody switched it on is old"
    load_month(project, history, source_server, "2023-02", rewrite(sample("2023-02"), REFUNDS))
    load_month(project, history, source_server, "2023-03", sample("2023-03"))
    assert quality.tick() == "Reported: 2023-02."
    (message,) = webhook.messages
    ((refunds,),) = query_file(rewrite(sample("2023-02"), REFUNDS), "SELECT count(*) FROM month WHERE total_amount < 0")
    assert message == {
        "event": "checks_not_passed",
        "job": "trip_update_job",
        "run_id": None,
        "months": ["2023-02"],
        "weeks": [],
        "reasons": message["reasons"],
        "url": f"{UI}/assets/taxi_trips?view=checks",
        "title": "2023-02: loaded, and a check does not pass",
        "text": message["text"],
    }
    assert message["reasons"]["2023-02"].startswith(f"2023-02: no_negative_totals: {refunds} of 300 trips, ")
    assert message["reasons"]["2023-02"] in message["text"]
    # The same version, left as it is or loaded again, is no news; another one is.
    for force in (False, True):
        load_month(project, history, source_server, "2023-02", rewrite(sample("2023-02"), REFUNDS), force)
        assert quality.tick() == NOTHING
    load_month(project, history, source_server, "2023-02", rewrite(sample("2023-02", 310), REFUNDS))
    assert quality.tick() == "Reported: 2023-02."
    load_month(project, history, source_server, "2023-02", sample("2023-02", 320))
    assert quality.tick() == NOTHING
    assert len(webhook.messages) == 2


def test_the_months_of_each_table_that_do_not_pass_a_check_are_a_message(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance, webhook: Webhook, quality: QualityTicks
) -> None:
    quality.tick()
    for month in ("2023-01", "2023-02"):
        load_month(project, history, source_server, month, rewrite(sample(month), REFUNDS))
    publish(source_server, "2023-01", rewrite(fleet_sample("green", "2023-01"), REFUNDS), "green")
    assert materialize(project, history, FLEETS, "green|2023-01").success
    assert quality.tick() == "Reported: 2023-01, 2023-02. Reported: green 2023-01."
    assert [(message["job"], message["months"]) for message in webhook.messages] == [
        ("trip_update_job", ["2023-01", "2023-02"]),
        ("fleet_update_job", ["green 2023-01"]),
    ]


def test_a_month_of_which_no_receiver_was_told_is_reported_by_the_next_tick(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance, webhook: Webhook, quality: QualityTicks
) -> None:
    quality.tick()
    load_month(project, history, source_server, "2023-01", rewrite(sample("2023-01"), REFUNDS))
    webhook.answer = status(503)
    assert quality.tick() == (
        "No receiver has accepted the message, see the log of this tick; the next one sends it again."
    )
    webhook.answer = status(200)
    assert quality.tick() == "Reported: 2023-01."
    assert quality.tick() == NOTHING
    assert len(webhook.messages) == 2


def test_a_cursor_of_the_checks_that_was_set_by_hand_counts_as_none(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance, quality: QualityTicks
) -> None:
    for cursor in ("not JSON", "[]", "7", '{"taxi_trips": []}', '{"taxi_trips": 7}', '{"taxi_trips": ["a", 7]}'):
        quality.cursor = cursor
        assert quality.tick() == NOTHING, cursor
    load_month(project, history, source_server, "2023-01", rewrite(sample("2023-01"), REFUNDS))
    assert quality.tick() == "Reported: 2023-01."


def test_without_a_receiver_no_check_is_looked_at(
    quality: QualityTicks, configure: Configure, webhook: Webhook
) -> None:
    configure()
    assert quality.tick() == alerts.NO_RECEIVER
    assert webhook.messages == []
