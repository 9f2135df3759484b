"""Which months are due: the decision by itself, and the schedule that takes it with Dagster and a source."""

import random
import socket
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from dagster_essentials import defs, schedules
from dagster_essentials.assets import trips
from dagster_essentials.schedules import SINCE_TAG, due_months, trip_update_schedule
from dagster_essentials.settings import SETTINGS
from dagster_essentials_tests.support.project import Project
from dagster_essentials_tests.support.source_server import SourceServer, status


def months(first: str, last: str) -> list[str]:
    """The keys of the months from `first` to `last` (``YYYY-MM``), both included."""
    numbers = [int(month[:4]) * 12 + int(month[5:]) - 1 for month in (first, last)]
    return [f"{number // 12}-{number % 12 + 1:02}-01" for number in range(numbers[0], numbers[1] + 1)]


class Published:
    """A source that has `keys`, and remembers what it was asked for."""

    def __init__(self, *keys: str):
        self.keys = keys
        self.asked: list[str] = []

    def __call__(self, key: str) -> bool:
        self.asked.append(key)
        return key in self.keys


def test_at_first_only_the_newest_published_month_is_due() -> None:
    source = Published(*months("2022-01", "2023-02"))
    due = due_months(months("2022-01", "2023-04"), [], None, source)
    assert (due.months, due.since) == (["2023-02-01"], "2023-02-01")
    assert source.asked == ["2023-04-01", "2023-03-01", "2023-02-01"]
    assert "2023-02" in due.reason


def test_with_nothing_loaded_and_nothing_published_nothing_is_due() -> None:
    source = Published()
    due = due_months(months("2011-01", "2023-04"), [], None, source)
    assert (due.months, due.since) == ([], None)
    assert "no month from 2022-05 to 2023-04 is published" in due.reason
    # A year of questions: a source that has nothing is not asked for all of history.
    assert sorted(source.asked) == months("2022-05", "2023-04")


def test_the_month_after_the_newest_loaded_one_is_due() -> None:
    due = due_months(months("2023-01", "2023-04"), months("2023-01", "2023-03"), None, Published("2023-04-01"))
    assert (due.months, due.since, due.reason) == (["2023-04-01"], "2023-04-01", "")


def test_months_that_were_missed_are_due_oldest_first() -> None:
    source = Published(*months("2011-01", "2023-06"))
    due = due_months(months("2023-01", "2023-06"), {"2023-03-01", "2023-02-01", "2023-01-01"}, None, source)
    assert due.months == ["2023-04-01", "2023-05-01", "2023-06-01"]
    assert due.since == "2023-04-01"


def test_with_everything_loaded_nothing_is_due_and_nobody_is_asked() -> None:
    source = Published(*months("2011-01", "2030-01"))
    due = due_months(months("2023-01", "2023-03"), months("2023-01", "2023-03"), "2023-01-01", source)
    assert due.months == source.asked == []
    assert "2023-03" in due.reason


def test_a_late_month_is_picked_up_once_it_is_published() -> None:
    partitions, loaded = months("2023-01", "2023-03"), months("2023-01", "2023-02")
    late = due_months(partitions, loaded, None, Published(*loaded))
    assert (late.months, late.since) == ([], "2023-03-01")
    assert late.reason == "Not published yet: 2023-03. The next tick asks again."
    assert due_months(partitions, loaded, late.since, Published(*partitions)).months == ["2023-03-01"]


def test_a_late_month_is_still_due_after_a_newer_one_was_loaded() -> None:
    partitions = months("2023-01", "2023-04")
    early = due_months(partitions, months("2023-01", "2023-02"), None, Published("2023-04-01"))
    assert early.months == ["2023-04-01"]
    assert "2023-03" in early.reason
    loaded = ["2023-01-01", "2023-02-01", "2023-04-01"]
    later = due_months(months("2023-01", "2023-05"), loaded, early.since, Published("2023-03-01"))
    assert later.months == ["2023-03-01"]
    assert "2023-05" in later.reason


def test_a_failed_month_is_due_again_although_a_newer_one_is_loaded() -> None:
    source = Published(*months("2023-01", "2023-05"))
    due = due_months(months("2023-01", "2023-05"), {"2023-01-01", "2023-02-01", "2023-04-01"}, "2023-03-01", source)
    assert due.months == ["2023-03-01", "2023-05-01"]
    assert due.since == "2023-03-01"


def test_a_first_month_whose_run_failed_is_due_again() -> None:
    due = due_months(months("2022-01", "2023-02"), [], "2023-01-01", Published(*months("2022-01", "2023-02")))
    assert due.months == ["2023-01-01", "2023-02-01"]


@pytest.mark.parametrize("since", [None, "2023-03-01"])
def test_a_gap_in_history_is_left_alone(since: str | None) -> None:
    source = Published(*months("2011-01", "2023-03"))
    loaded = {"2019-01-01", "2022-11-01", "2023-02-01"}
    due = due_months(months("2011-01", "2023-03"), loaded, since, source)
    assert due.months == source.asked == ["2023-03-01"]


@pytest.mark.parametrize("since", [None, "2023-01-01"])
@pytest.mark.parametrize("loaded", [[], ["2022-12-01"]])
def test_before_the_first_partition_nothing_is_due(since: str | None, loaded: list[str]) -> None:
    source = Published("2023-01-01")
    due = due_months([], loaded, since, source)
    assert (due.months, due.since, source.asked) == ([], since, [])
    assert "not a partition yet" in due.reason


def test_after_the_end_only_what_is_still_missing_is_due() -> None:
    lesson, source = months("2023-01", "2023-03"), Published(*months("2011-01", "2030-01"))
    assert due_months(lesson, lesson[:2], "2023-01-01", source).months == ["2023-03-01"]
    assert due_months(lesson, lesson, "2023-01-01", source).months == []


def test_months_loaded_outside_the_partitions_do_not_disturb() -> None:
    due = due_months(months("2023-01", "2023-03"), ["2022-12-01"], None, Published(*months("2022-12", "2023-03")))
    assert due.months == months("2023-01", "2023-03")
    due = due_months(months("2023-01", "2023-03"), ["2024-01-01"], None, Published(*months("2022-12", "2023-03")))
    assert (due.months, due.since) == ([], None)


@pytest.mark.parametrize("seed", range(5))
def test_over_the_years_every_month_is_loaded_once_and_as_soon_as_it_can_be(seed: int) -> None:
    chance = random.Random(seed)
    keys = months("2019-01", "2023-12")
    # Numbers of the ticks from which on a month is a partition, and is published.
    exists = {key: number for number, key in enumerate(keys)}
    published = {key: number + chance.choice([-1, 0, 0, 0, 1, 3]) for key, number in exists.items()}
    loaded: set[str] = set()
    failed: set[str] = set()
    since = None
    for tick in range(24, len(keys) + 6):
        partitions = [key for key in keys if exists[key] <= tick]
        due = due_months(partitions, loaded, since, lambda key: published[key] <= tick)  # noqa: B023
        if due.months:
            since = since or due.since
            started = {key for key in partitions if key >= str(since)}
            assert due.months == sorted(key for key in started - loaded if published[key] <= tick)
        failed = {key for key in due.months if key not in failed and chance.random() < 0.3}
        loaded |= set(due.months) - failed
    first = min(loaded)
    assert loaded == set(keys[keys.index(first) :])
    assert keys.index(first) >= 20


# The schedule itself. A month becomes a partition two months after it ended: January on 1 April.

UTC, NEW_YORK = timezone.utc, ZoneInfo("America/New_York")
LOADED = months("2022-10", "2022-12")


def report_loaded(instance: dg.DagsterInstance, keys: Collection[str]) -> None:
    for key in keys:
        instance.report_runless_asset_event(dg.AssetMaterialization(trips.taxi_trips.key, partition=key))


def publish(server: SourceServer, keys: Collection[str]) -> None:
    for key in keys:
        server.put_month(key[:7], b"a month")


def tick(instance: dg.DagsterInstance, at: datetime) -> tuple[list[dg.RunRequest], str | None]:
    """What the schedule asks for at `at`, and why it asks for nothing."""
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=at, repository_def=defs.get_repository_def()
    ) as context:
        result = trip_update_schedule.evaluate_tick(context)
    return list(result.run_requests or ()), result.skip_message


def asked(instance: dg.DagsterInstance, at: datetime) -> list[str | None]:
    requests, _ = tick(instance, at)
    return [request.partition_key for request in requests]


def skipped(instance: dg.DagsterInstance, at: datetime) -> str:
    requests, reason = tick(instance, at)
    assert requests == []
    assert reason is not None
    return reason


def record_runs(instance: dg.DagsterInstance, requests: Collection[dg.RunRequest]) -> None:
    for request in requests:
        failed = dg.DagsterRun(job_name="trip_update_job", tags=request.tags, status=dg.DagsterRunStatus.FAILURE)
        instance.add_run(failed)


def fifth(year: int, month: int) -> datetime:
    return datetime(year, month, 5, tzinfo=UTC)


def test_the_schedule_ticks_on_the_fifth_under_the_name_of_the_course() -> None:
    assert trip_update_schedule.name == "trip_update_job_schedule"
    assert trip_update_schedule.job_name == "trip_update_job"
    assert trip_update_schedule.cron_schedule == "0 0 5 * *"
    assert trip_update_schedule.execution_timezone in (None, "UTC")


def test_each_month_that_is_due_gets_a_run_of_its_own(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    report_loaded(history, LOADED)
    publish(source_server, months("2022-10", "2023-05"))
    requests, reason = tick(history, fifth(2023, 6))
    assert reason is None
    assert [request.partition_key for request in requests] == ["2023-01-01", "2023-02-01", "2023-03-01"]
    assert len({request.run_key for request in requests}) == 3
    assert [request.tags["dagster/partition"] for request in requests] == ["2023-01-01", "2023-02-01", "2023-03-01"]
    assert {request.tags[SINCE_TAG] for request in requests} == {"2023-01-01"}


def test_the_source_is_asked_only_for_the_heads_of_months_that_may_be_due(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    report_loaded(history, LOADED)
    publish(source_server, months("2022-10", "2023-05"))
    tick(history, fifth(2023, 5))
    assert source_server.requests == [
        ("HEAD", f"/trip-data/yellow_tripdata_{month}.parquet", 0) for month in ("2023-01", "2023-02")
    ]


def test_the_first_tick_starts_with_the_newest_published_month_and_no_backfill(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    publish(source_server, months("2011-01", "2023-01"))
    assert asked(history, fifth(2023, 5)) == ["2023-01-01"]


@pytest.mark.parametrize("code", [403, 404])
def test_a_month_that_is_not_published_is_skipped_and_asked_for_again(
    code: int, project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    report_loaded(history, LOADED)
    path = "/trip-data/yellow_tripdata_2023-01.parquet"
    source_server.answers[path] = [status(code, b"<Error><Code>AccessDenied</Code></Error>")]
    assert skipped(history, fifth(2023, 4)) == "Not published yet: 2023-01. The next tick asks again."
    assert len(source_server.requests) == 1
    del source_server.answers[path]
    publish(source_server, months("2023-01", "2023-02"))
    assert asked(history, fifth(2023, 5)) == ["2023-01-01", "2023-02-01"]


def test_a_month_whose_run_failed_is_asked_for_again_at_the_next_tick(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    report_loaded(history, LOADED)
    publish(source_server, months("2022-10", "2023-05"))
    requests, _ = tick(history, fifth(2023, 5))
    assert [request.partition_key for request in requests] == ["2023-01-01", "2023-02-01"]
    record_runs(history, requests)
    report_loaded(history, ["2023-02-01"])
    assert asked(history, fifth(2023, 6)) == ["2023-01-01", "2023-03-01"]


def test_a_gap_that_is_older_than_the_schedule_is_not_filled(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    report_loaded(history, ["2021-01-01", "2022-11-01", "2023-01-01"])
    publish(source_server, months("2021-01", "2023-05"))
    assert asked(history, fifth(2023, 5)) == ["2023-02-01"]


def all_months(*_: object) -> bool:
    return True


@pytest.fixture
def move_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Gives this process the local time of a time zone."""

    def move(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Pacific/Auckland"])
def test_a_month_becomes_due_two_months_after_its_end_by_utc_wherever_the_machine_stands(
    zone: str, history: dg.DagsterInstance, move_to: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dagster_essentials.source.is_published", all_months)
    report_loaded(history, LOADED)
    move_to(zone)
    moments = {
        datetime(2023, 3, 31, 23, 59, tzinfo=UTC): [],
        datetime(2023, 4, 1, 0, 0, tzinfo=UTC): ["2023-01-01"],
        datetime(2023, 4, 4, 23, 59, tzinfo=UTC): ["2023-01-01"],
        datetime(2023, 4, 5, 0, 0, tzinfo=UTC): ["2023-01-01"],
        datetime(2023, 4, 30, 23, 59, tzinfo=UTC): ["2023-01-01"],
        datetime(2023, 5, 5, 0, 0, tzinfo=UTC): ["2023-01-01", "2023-02-01"],
        # Midnight in UTC is eight o'clock in the evening before.
        datetime(2023, 3, 31, 19, 59, tzinfo=NEW_YORK): [],
        datetime(2023, 3, 31, 20, 1, tzinfo=NEW_YORK): ["2023-01-01"],
    }
    assert {at: asked(history, at) for at in moments} == moments


@pytest.mark.parametrize(
    ("night", "loaded", "expected"),
    [
        (datetime(2023, 3, 12, tzinfo=UTC), months("2022-09", "2022-11"), ["2022-12-01"]),
        (datetime(2023, 11, 5, tzinfo=UTC), months("2023-05", "2023-07"), ["2023-08-01"]),
    ],
    ids=["clocks forward", "clocks back"],
)
def test_the_nights_in_which_the_clocks_change_make_no_difference(
    night: datetime,
    loaded: list[str],
    expected: list[str],
    history: dg.DagsterInstance,
    move_to: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dagster_essentials.source.is_published", all_months)
    report_loaded(history, loaded)
    move_to("America/New_York")
    # The clocks of New York change at 07:00 UTC in March and at 06:00 UTC in November.
    for minutes in (0, 359, 360, 419, 420):
        at = night + timedelta(minutes=minutes)
        assert asked(history, at) == expected, at


def read_from(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trips, "SETTINGS", replace(SETTINGS, trips_url=url))


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_source_that_is_down_is_the_reason_to_skip(
    project: Project, history: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    report_loaded(history, LOADED)
    host = f"127.0.0.1:{closed_port()}"
    read_from(f"http://reader:secret@{host}/trip-data?key=secret", monkeypatch)
    reason = skipped(history, fifth(2023, 6))
    assert reason.startswith("Could not ask the source about 2023-01 (http://")
    assert host in reason
    assert "Connection refused" in reason
    assert "secret" not in reason
    assert "ot published" not in reason
    assert "materialize" not in reason, "there is nothing to materialize again: the next tick asks again"


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_source_in_trouble_is_the_reason_to_skip_and_is_not_asked_month_by_month(
    code: int, project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    report_loaded(history, LOADED)
    publish(source_server, months("2023-01", "2023-09"))
    source_server.answers["/trip-data/yellow_tripdata_2023-01.parquet"] = [status(code)]
    reason = skipped(history, fifth(2023, 12))
    assert str(code) in reason
    assert {path for _, path, _ in source_server.requests} == {"/trip-data/yellow_tripdata_2023-01.parquet"}


def test_a_passing_trouble_of_the_source_costs_no_month(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    report_loaded(history, LOADED)
    path = source_server.put_month("2023-01", b"a month")
    source_server.answers[path] = [status(503), status(200)]
    assert asked(history, fifth(2023, 4)) == ["2023-01-01"]


def test_months_before_the_trouble_are_asked_for_and_the_others_at_the_next_tick(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    report_loaded(history, LOADED)
    publish(source_server, months("2022-10", "2023-05"))
    source_server.answers["/trip-data/yellow_tripdata_2023-02.parquet"] = [status(500)]
    requests, _ = tick(history, fifth(2023, 6))
    assert [request.partition_key for request in requests] == ["2023-01-01"]
    record_runs(history, requests)
    report_loaded(history, ["2023-01-01"])
    source_server.answers.clear()
    assert asked(history, fifth(2023, 7)) == ["2023-02-01", "2023-03-01", "2023-04-01"]


def test_a_first_tick_does_not_take_an_older_month_because_the_source_is_in_trouble(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance
) -> None:
    publish(source_server, months("2022-10", "2023-02"))
    source_server.answers["/trip-data/yellow_tripdata_2023-02.parquet"] = [status(500)]
    assert "500" in skipped(history, fifth(2023, 5))


def test_a_local_folder_is_asked_in_the_same_way(
    project: Project, history: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report_loaded(history, LOADED)
    read_from(str(tmp_path), monkeypatch)
    assert skipped(history, fifth(2023, 4)).startswith("Not published yet: 2023-01.")
    (tmp_path / "yellow_tripdata_2023-01.parquet").write_bytes(b"a month")
    assert asked(history, fifth(2023, 4)) == ["2023-01-01"]
    read_from(tmp_path.as_uri(), monkeypatch)
    assert asked(history, fifth(2023, 4)) == ["2023-01-01"]


@pytest.mark.parametrize("known", ["nothing loaded", "all loaded", "not published", "source down", "no partition"])
def test_why_nothing_is_asked_for_is_said_in_sentences(
    known: str, project: Project, history: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = fifth(2023, 4)
    if known == "source down":
        read_from(f"http://127.0.0.1:{closed_port()}/trip-data", monkeypatch)
    if known == "no partition":
        at = fifth(2011, 3)
    report_loaded(history, {"all loaded": ["2023-01-01"], "not published": LOADED}.get(known, []))
    reason = skipped(history, at)
    assert reason[0].isupper()
    assert reason.endswith(".")
    ugly = ("Error", "Traceback", "None", "[", "'", "-01-01", "  ", "\n")
    assert [part for part in ugly if part in reason] == [], reason
    assert "2023-01" in reason or known == "no partition"


def test_after_the_end_date_the_schedule_has_nothing_more_to_do(
    project: Project, source_server: SourceServer, history: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    lesson = dg.MonthlyPartitionsDefinition(start_date="2023-01-01", end_date="2023-04-01", end_offset=-2)
    monkeypatch.setattr(schedules, "monthly_partition", lesson)
    publish(source_server, months("2023-01", "2025-12"))
    report_loaded(history, ["2023-01-01", "2023-02-01"])
    assert asked(history, fifth(2024, 1)) == ["2023-03-01"]
    report_loaded(history, ["2023-03-01"])
    assert "2023-03" in skipped(history, fifth(2024, 1))
