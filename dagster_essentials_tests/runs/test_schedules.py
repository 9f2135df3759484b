"""The two schedules: which runs a tick requests, and why it skips."""

import socket
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from dagster_essentials import defs, settings
from dagster_essentials.assets.metrics import trips_by_week
from dagster_essentials.assets.trips import taxi_trips
from dagster_essentials.jobs import TRIPS
from dagster_essentials.orchestration.month_schedules import SINCE_TAG, update_schedule
from dagster_essentials.partitions import weekly_partition
from dagster_essentials.schedules import trip_update_schedule, weekly_update_schedule
from dagster_essentials_tests.support.project import Project
from dagster_essentials_tests.support.source_server import SourceServer, status
from dagster_essentials_tests.support.ticks import tick, with_months

NEW_YORK = ZoneInfo("America/New_York")


def record_materializations(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, keys: Collection[str]) -> None:
    """Record that `asset` has been materialized for `keys`, one after the other."""
    for key in keys:
        instance.report_runless_asset_event(dg.AssetMaterialization(asset.key, partition=key))


def requested_months(
    instance: dg.DagsterInstance, at: datetime, schedule: dg.ScheduleDefinition = trip_update_schedule
) -> list[str | None]:
    """The months that a tick requests."""
    run_requests, _ = tick(instance, at, schedule)
    return [request.partition_key for request in run_requests]


def skip_reason(
    instance: dg.DagsterInstance, at: datetime, schedule: dg.ScheduleDefinition = trip_update_schedule
) -> str:
    """The reason of a tick that requests nothing."""
    run_requests, reason = tick(instance, at, schedule)
    assert list(run_requests) == []
    assert reason is not None
    return reason


def record_failed_runs(instance: dg.DagsterInstance, job: str, run_requests: Collection[dg.RunRequest]) -> None:
    for request in run_requests:
        instance.add_run(dg.DagsterRun(job_name=job, tags=request.tags, status=dg.DagsterRunStatus.FAILURE))


# trip_update_schedule. A month becomes a partition two months after it ended: January on 1 April.

LOADED = ["2022-10-01", "2022-11-01", "2022-12-01"]


def publish(server: SourceServer, first: str, last: str) -> None:
    """Let the source have a file for each month from `first` to `last` (``YYYY-MM``)."""
    month = first
    while month <= last:
        server.put_month(month, b"a month")
        year, number = int(month[:4]), int(month[5:])
        month = f"{year + number // 12}-{number % 12 + 1:02}"


def fifth(year: int, month: int) -> datetime:
    return datetime(year, month, 5, tzinfo=NEW_YORK)


def test_the_monthly_schedule_has_the_course_s_name_and_ticks_on_the_fifth() -> None:
    assert trip_update_schedule.name == "trip_update_job_schedule"
    assert trip_update_schedule.job_name == "trip_update_job"
    assert trip_update_schedule.cron_schedule == "0 0 5 * *"
    assert trip_update_schedule.execution_timezone == "America/New_York"


def test_each_month_that_is_due_is_a_run(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    record_materializations(history, taxi_trips, LOADED)
    publish(source_server, "2022-10", "2023-05")
    requests, reason = tick(history, fifth(2023, 6), trip_update_schedule)
    assert reason is None
    assert [request.partition_key for request in requests] == ["2023-01-01", "2023-02-01", "2023-03-01"]
    assert len({request.run_key for request in requests}) == 3
    assert [request.tags["dagster/partition"] for request in requests] == ["2023-01-01", "2023-02-01", "2023-03-01"]
    assert {request.tags[SINCE_TAG] for request in requests} == {"2023-01-01"}


def test_a_tick_sends_a_head_request_for_each_month_that_may_be_due_and_no_other(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    record_materializations(history, taxi_trips, LOADED)
    publish(source_server, "2022-10", "2023-05")
    tick(history, fifth(2023, 5), trip_update_schedule)
    assert source_server.requests == [
        ("HEAD", f"/trip-data/yellow_tripdata_{month}.parquet", 0) for month in ("2023-01", "2023-02")
    ]


def test_the_first_tick_requests_the_newest_published_month_and_no_backfill(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    publish(source_server, "2011-01", "2023-01")
    assert requested_months(history, fifth(2023, 5)) == ["2023-01-01"]


@pytest.mark.parametrize("code", [403, 404])
def test_a_month_that_is_not_published_is_requested_once_it_is(
    code: int, project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    record_materializations(history, taxi_trips, LOADED)
    path = "/trip-data/yellow_tripdata_2023-01.parquet"
    source_server.answers[path] = [status(code, b"<Error><Code>AccessDenied</Code></Error>")]
    assert skip_reason(history, fifth(2023, 4)) == "Not published yet: 2023-01. The next tick asks again."
    # A page that refuses this machine could have the same status: its content tells.
    assert [(method, size) for method, _, size in source_server.requests] == [("HEAD", 0), ("GET", 0)]
    del source_server.answers[path]
    publish(source_server, "2023-01", "2023-02")
    assert requested_months(history, fifth(2023, 5)) == ["2023-01-01", "2023-02-01"]


def test_a_month_whose_run_failed_is_requested_again_by_the_next_tick(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    record_materializations(history, taxi_trips, LOADED)
    publish(source_server, "2022-10", "2023-05")
    requests, _ = tick(history, fifth(2023, 5), trip_update_schedule)
    assert [request.partition_key for request in requests] == ["2023-01-01", "2023-02-01"]
    record_failed_runs(history, "trip_update_job", requests)
    record_materializations(history, taxi_trips, ["2023-02-01"])
    assert requested_months(history, fifth(2023, 6)) == ["2023-01-01", "2023-03-01"]


def test_a_gap_before_the_first_month_of_the_schedule_is_not_requested(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    record_materializations(history, taxi_trips, ["2021-01-01", "2022-11-01", "2023-01-01"])
    publish(source_server, "2021-01", "2023-05")
    assert requested_months(history, fifth(2023, 5)) == ["2023-02-01"]


def all_months(*_: object) -> bool:
    return True


@pytest.fixture
def move_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the local time zone of this process."""

    def move(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Pacific/Auckland"])
def test_a_month_becomes_due_two_months_after_its_end_in_utc_whatever_the_local_time_zone(
    zone: str, history: dg.DagsterInstance, move_to: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dagster_essentials.orchestration.month_schedules.find_published_month", all_months)
    record_materializations(history, taxi_trips, LOADED)
    move_to(zone)
    moments = {
        datetime(2023, 3, 31, 23, 59, tzinfo=UTC): [],
        datetime(2023, 4, 1, 0, 0, tzinfo=UTC): ["2023-01-01"],
        datetime(2023, 4, 4, 23, 59, tzinfo=UTC): ["2023-01-01"],
        datetime(2023, 4, 5, 0, 0, tzinfo=UTC): ["2023-01-01"],
        datetime(2023, 4, 30, 23, 59, tzinfo=UTC): ["2023-01-01"],
        datetime(2023, 5, 5, 0, 0, tzinfo=UTC): ["2023-01-01", "2023-02-01"],
        # Midnight in UTC is 20:00 on the day before.
        datetime(2023, 3, 31, 19, 59, tzinfo=NEW_YORK): [],
        datetime(2023, 3, 31, 20, 1, tzinfo=NEW_YORK): ["2023-01-01"],
    }
    assert {at: requested_months(history, at) for at in moments} == moments


@pytest.mark.parametrize(
    ("night", "loaded", "due"),
    [
        (datetime(2023, 3, 12, tzinfo=UTC), ["2022-09-01", "2022-10-01", "2022-11-01"], ["2022-12-01"]),
        (datetime(2023, 11, 5, tzinfo=UTC), ["2023-05-01", "2023-06-01", "2023-07-01"], ["2023-08-01"]),
    ],
    ids=["clocks forward", "clocks back"],
)
def test_daylight_saving_time_makes_no_difference(
    night: datetime,
    loaded: list[str],
    due: list[str],
    history: dg.DagsterInstance,
    move_to: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dagster_essentials.orchestration.month_schedules.find_published_month", all_months)
    record_materializations(history, taxi_trips, loaded)
    move_to("America/New_York")
    # The clocks of New York change at 07:00 UTC in March and at 06:00 UTC in November.
    for minutes in (0, 359, 360, 419, 420):
        at = night + timedelta(minutes=minutes)
        assert requested_months(history, at) == due, at
        assert requested_months(history, at.astimezone(NEW_YORK)) == due, at


def set_source(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, trips_url=url))


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_source_that_is_down_is_a_reason_to_skip(
    project: Project, history: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_materializations(history, taxi_trips, LOADED)
    host = f"127.0.0.1:{closed_port()}"
    set_source(f"http://reader:secret@{host}/trip-data?key=secret", monkeypatch)
    reason = skip_reason(history, fifth(2023, 6))
    assert reason.startswith("Could not ask the source about 2023-01 (http://")
    assert host in reason
    assert "Connection refused" in reason
    assert "secret" not in reason
    assert "ot published" not in reason
    assert "materialize" not in reason, "the next tick asks again by itself"


@pytest.mark.parametrize("code", [429, 500, 503])
def test_an_error_of_the_source_is_a_reason_to_skip_without_requests_for_further_months(
    code: int, project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    record_materializations(history, taxi_trips, LOADED)
    publish(source_server, "2023-01", "2023-09")
    source_server.answers["/trip-data/yellow_tripdata_2023-01.parquet"] = [status(code)]
    reason = skip_reason(history, fifth(2023, 12))
    assert str(code) in reason
    assert {path for _, path, _ in source_server.requests} == {"/trip-data/yellow_tripdata_2023-01.parquet"}


def test_a_transient_error_of_the_source_is_retried(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    record_materializations(history, taxi_trips, LOADED)
    path = source_server.put_month("2023-01", b"a month")
    source_server.answers[path] = [status(503), status(200)]
    assert requested_months(history, fifth(2023, 4)) == ["2023-01-01"]


def test_months_before_an_error_of_the_source_are_requested_and_the_others_by_the_next_tick(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    record_materializations(history, taxi_trips, LOADED)
    publish(source_server, "2022-10", "2023-05")
    source_server.answers["/trip-data/yellow_tripdata_2023-02.parquet"] = [status(500)]
    requests, _ = tick(history, fifth(2023, 6), trip_update_schedule)
    assert [request.partition_key for request in requests] == ["2023-01-01"]
    record_failed_runs(history, "trip_update_job", requests)
    record_materializations(history, taxi_trips, ["2023-01-01"])
    source_server.answers.clear()
    assert requested_months(history, fifth(2023, 7)) == ["2023-02-01", "2023-03-01", "2023-04-01"]


def test_the_first_tick_requests_no_older_month_because_of_an_error_of_the_source(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    publish(source_server, "2022-10", "2023-02")
    source_server.answers["/trip-data/yellow_tripdata_2023-02.parquet"] = [status(500)]
    assert "500" in skip_reason(history, fifth(2023, 5))


def test_a_local_folder_is_a_source_like_any_other(
    project: Project, history: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_materializations(history, taxi_trips, LOADED)
    set_source(str(tmp_path), monkeypatch)
    assert skip_reason(history, fifth(2023, 4)).startswith("Not published yet: 2023-01.")
    (tmp_path / "yellow_tripdata_2023-01.parquet").write_bytes(b"a month")
    assert requested_months(history, fifth(2023, 4)) == ["2023-01-01"]
    set_source(tmp_path.as_uri(), monkeypatch)
    assert requested_months(history, fifth(2023, 4)) == ["2023-01-01"]


@pytest.mark.parametrize("state", ["nothing loaded", "all loaded", "not published", "source down", "no partition"])
def test_the_reason_to_skip_is_in_sentences(
    state: str, project: Project, history: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = fifth(2023, 4)
    if state == "source down":
        set_source(f"http://127.0.0.1:{closed_port()}/trip-data", monkeypatch)
    if state == "no partition":
        at = fifth(2011, 3)
    record_materializations(history, taxi_trips, {"all loaded": ["2023-01-01"], "not published": LOADED}.get(state, []))
    reason = skip_reason(history, at)
    assert reason[0].isupper()
    assert reason.endswith(".")
    unreadable = ("Error", "Traceback", "None", "[", "'", "-01-01", "  ", "\n")
    assert [part for part in unreadable if part in reason] == [], reason
    assert "2023-01" in reason or state == "no partition"


def test_after_the_end_date_only_missing_months_are_requested(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    lesson = dg.MonthlyPartitionsDefinition(start_date="2023-01-01", end_date="2023-04-01", end_offset=-2)
    schedule = update_schedule(with_months(TRIPS, lesson), "0 0 5 * *", "America/New_York", "")
    publish(source_server, "2023-01", "2025-12")
    record_materializations(history, taxi_trips, ["2023-01-01", "2023-02-01"])
    assert requested_months(history, fifth(2024, 1), schedule) == ["2023-03-01"]
    record_materializations(history, taxi_trips, ["2023-03-01"])
    assert "2023-03" in skip_reason(history, fifth(2024, 1), schedule)


# weekly_update_schedule. With a lag of two months, a week is a partition 13 weeks after its end: on Monday, 17 June 2019, the
# newest one is the week of 10 March.

MONDAY = datetime(2019, 6, 17, tzinfo=NEW_YORK)
JULY_8 = datetime(2019, 7, 8, tzinfo=NEW_YORK)
JANUARY, FEBRUARY, MARCH = "2019-01-01", "2019-02-01", "2019-03-01"
WEEKS = ["2019-01-06", "2019-01-13", "2019-01-20", "2019-01-27", "2019-02-03", "2019-02-10", "2019-02-17"]
"""Those of January and February 2019, without those that have days in December or in March, which are not loaded."""


def requested_weeks(instance: dg.DagsterInstance, at: datetime = MONDAY) -> list[str]:
    """The weeks that a tick requests."""
    run_requests, _ = tick(instance, at, weekly_update_schedule)
    return [str(request.partition_key) for request in run_requests]


def test_the_weekly_schedule_has_the_course_s_name_and_ticks_on_mondays() -> None:
    schedule = defs.get_repository_def().get_schedule_def("weekly_update_job_schedule")
    assert schedule.cron_schedule == "0 0 * * 1"
    assert schedule.job_name == "weekly_update_job"
    assert schedule.execution_timezone == "America/New_York"
    job = defs.resolve_job_def("weekly_update_job")
    assert job.partitions_def == weekly_partition
    assert job.asset_layer.executable_asset_keys == {trips_by_week.key}


def test_each_week_that_is_due_is_a_run_newest_first(history: dg.DagsterInstance) -> None:
    record_materializations(history, taxi_trips, [JANUARY, FEBRUARY])
    requests, reason = tick(history, MONDAY, weekly_update_schedule)
    assert reason is None
    assert [request.partition_key for request in requests] == WEEKS[::-1]
    assert [request.run_key for request in requests] == WEEKS[::-1]
    assert [request.tags["dagster/partition"] for request in requests] == WEEKS[::-1]


def test_a_week_is_requested_until_it_is_aggregated_and_again_when_its_month_is_loaded_again(
    history: dg.DagsterInstance,
) -> None:
    record_materializations(history, taxi_trips, [JANUARY, FEBRUARY])
    record_materializations(history, trips_by_week, WEEKS[2:])
    assert requested_weeks(history) == WEEKS[1::-1]
    record_materializations(history, trips_by_week, WEEKS[:2])
    waits = "The newest, of 2019-03-10, waits for 2019-03."
    reason = skip_reason(history, MONDAY, weekly_update_schedule)
    assert reason == f"Nothing to do: every week whose months are loaded is aggregated. {waits}"
    record_materializations(history, taxi_trips, [JANUARY])
    assert requested_weeks(history) == WEEKS[3::-1]
    record_materializations(history, trips_by_week, WEEKS[:4])
    assert requested_weeks(history) == []


def test_with_nothing_loaded_the_weekly_schedule_skips(history: dg.DagsterInstance) -> None:
    reason = skip_reason(history, MONDAY, weekly_update_schedule)
    assert reason == "No week is due: there is no week whose months are all loaded."
    record_materializations(history, taxi_trips, ["2019-01-01", "2019-02-01"])
    reason = skip_reason(history, datetime(2011, 1, 3, tzinfo=NEW_YORK), weekly_update_schedule)
    assert reason == "No week is due: there is no week whose months are all loaded."


def test_the_last_week_of_a_month_is_requested_once_the_month_after_it_is_loaded(history: dg.DagsterInstance) -> None:
    record_materializations(history, taxi_trips, [JANUARY, FEBRUARY])
    assert max(requested_weeks(history)) == "2019-02-17"
    record_materializations(history, taxi_trips, [MARCH])
    assert max(requested_weeks(history)) == "2019-03-10"
    # The last day of March is in a week that ends in April, which is a partition from 1 July on.
    assert max(requested_weeks(history, JULY_8)) == "2019-03-24"
    record_materializations(history, taxi_trips, ["2019-04-01"])
    assert max(requested_weeks(history, JULY_8)) == "2019-03-31"


def test_a_week_whose_run_failed_is_requested_again(history: dg.DagsterInstance) -> None:
    record_materializations(history, taxi_trips, [JANUARY])
    requests, _ = tick(history, MONDAY, weekly_update_schedule)
    record_failed_runs(history, "weekly_update_job", requests)
    assert requested_weeks(history) == WEEKS[2::-1]
