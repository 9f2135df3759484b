"""Which weeks there are, which months each needs, and which are due: by plain dates, without a database."""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from datetime import date, datetime, timedelta, timezone
from typing import Any

import dagster as dg
import pytest

from dagster_essentials import defs
from dagster_essentials.assets import constants
from dagster_essentials.assets.metrics import trips_by_week
from dagster_essentials.assets.trips import taxi_trips
from dagster_essentials.partitions import monthly_partition, months_of_week, weekly_partition
from dagster_essentials.schedules import DueWeeks, due_weeks, weekly_update_schedule
from dagster_essentials_tests.support.project import ROOT

UTC = timezone.utc

# The settings are read once a process, so one process reads them again for each case; no other test sees that.
LIST_PARTITIONS = """
import importlib, json, os, sys
from datetime import datetime
from dagster_essentials import partitions, settings
from dagster_essentials.assets import constants

found = []
for start, end, lag, moments in json.load(sys.stdin):
    os.environ.update(TAXI_START_DATE=start, TAXI_END_DATE=end, TAXI_PUBLICATION_LAG_MONTHS=str(lag))
    for module in (settings, constants, partitions):
        importlib.reload(module)
    for moment in moments:
        now = datetime.fromisoformat(moment)
        months = partitions.monthly_partition.get_partition_keys(current_time=now)
        weeks = partitions.weekly_partition.get_partition_keys(current_time=now)
        found.append([start, end, lag, moment, months, weeks])
json.dump(found, sys.stdout)
"""

# Two years with every way in which a month can begin, an hour either side of the moment in which it becomes a partition.
MOMENTS = [
    (datetime(2020 + number // 12, 1 + number % 12, 1, tzinfo=UTC) + timedelta(hours=hours)).isoformat()
    for number in range(10, 36)
    for hours in (-1, 0, 1, 24 * 11)
]
LONG_AFTER = "2026-11-05T12:00:00+00:00"
CASES = [
    *(("2020-09-01", "", lag, MOMENTS) for lag in (0, 1, 2, 3, 6, 12)),
    # Ends: one on a Saturday as the lesson's, one on a Sunday.
    *((start, end, lag, [*MOMENTS[-8:], LONG_AFTER]) for start, end, lag in [
        ("2022-01-01", "2022-10-01", 2), ("2022-05-01", "2023-01-01", 2), ("2022-05-01", "2023-01-01", 0),
        ("2023-01-01", "2023-04-01", 2), ("2023-01-01", "2023-04-01", 0), ("2022-02-01", "2022-03-01", 12),
    ]),
    # Starts: a Tuesday, a Saturday, a Sunday, a Monday.
    *((start, "", 2, [LONG_AFTER]) for start in ("2019-01-01", "2011-01-01", "2022-05-01", "2024-01-01")),
]  # fmt: skip
Partitions = tuple[str, str, int, str, list[str], list[str]]


@pytest.fixture(scope="module")
def partitions() -> list[Partitions]:
    """Of each case and moment: start, end, lag, the moment, the months and the weeks."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TAXI_")}
    result = subprocess.run(
        [sys.executable, "-c", LIST_PARTITIONS],
        cwd=ROOT,
        env=environ,
        input=json.dumps(CASES),
        text=True,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return [(*case,) for case in json.loads(result.stdout)]


def weeks_of(partitions: list[Partitions], start: str, end: str = "", moment: str = LONG_AFTER) -> list[str]:
    (weeks,) = {
        tuple(weeks) for *case, lag, when, _, weeks in partitions if (*case, lag, when) == (start, end, 2, moment)
    }
    return list(weeks)


def days_of(months: Collection[str]) -> Iterator[date]:
    """Every day of `months`, all of which follow each other."""
    day, after = date.fromisoformat(min(months)), month_after(max(months))
    while day < after:
        yield day
        day += timedelta(days=1)


def month_after(month: str) -> date:
    year, number = int(month[:4]), int(month[5:7])
    return date(year + number // 12, number % 12 + 1, 1)


def test_every_day_of_the_months_that_are_partitions_is_in_one_week_at_any_moment(partitions: list[Partitions]) -> None:
    seen = 0
    for start, end, lag, moment, months, weeks in partitions:
        starts = [date.fromisoformat(week) for week in weeks]
        assert {week.isoweekday() for week in starts} <= {7}
        assert len(set(starts)) == len(starts)
        covered = [week + timedelta(days=number) for week in starts for number in range(7)]
        assert len(set(covered)) == len(covered)
        missed = sorted(set(days_of(months)) - set(covered)) if months else []
        assert missed == [], (start, end, lag, moment)
        seen += len(months)
    assert seen > 5_000


def test_the_last_month_of_a_moment_has_its_last_week(partitions: list[Partitions]) -> None:
    for start, end, lag, moment, months, weeks in partitions:
        if months:
            last = month_after(months[-1]) - timedelta(days=1)
            sunday = last - timedelta(days=last.isoweekday() % 7)
            assert sunday.isoformat() in weeks, (start, end, lag, moment)


def test_no_week_is_a_partition_before_it_begins_nor_before_the_first_month(partitions: list[Partitions]) -> None:
    for start, end, lag, moment, _, weeks in partitions:
        now = datetime.fromisoformat(moment)
        for week in (weeks[0], weeks[-1]) if weeks else ():
            sunday = datetime.fromisoformat(f"{week}T00:00:00+00:00")
            assert sunday <= now, (start, end, lag, moment)
            assert lag == 0 or sunday + timedelta(days=7) <= now, (start, end, lag, moment)
        if weeks:
            first = date.fromisoformat(start)
            assert first - timedelta(days=6) <= date.fromisoformat(weeks[0]) <= first


def test_the_lesson_has_thirteen_weeks(partitions: list[Partitions]) -> None:
    weeks = weeks_of(partitions, "2023-01-01", "2023-04-01")
    assert (len(weeks), weeks[0], weeks[-1]) == (13, "2023-01-01", "2023-03-26")


@pytest.mark.parametrize(
    ("start", "first"),
    [
        ("2019-01-01", "2018-12-30"),
        ("2011-01-01", "2010-12-26"),
        ("2022-05-01", "2022-05-01"),
        ("2024-01-01", "2023-12-31"),
    ],
)
def test_the_first_week_is_the_one_in_which_the_first_month_begins(
    start: str, first: str, partitions: list[Partitions]
) -> None:
    assert weeks_of(partitions, start)[0] == first


@pytest.mark.parametrize(
    ("start", "end", "last"),
    [
        ("2022-01-01", "2022-10-01", "2022-09-25"),
        ("2022-05-01", "2023-01-01", "2022-12-25"),
        ("2023-01-01", "2023-04-01", "2023-03-26"),
    ],
)
def test_the_last_week_is_the_one_in_which_the_last_month_ends(
    start: str, end: str, last: str, partitions: list[Partitions]
) -> None:
    assert weeks_of(partitions, start, end)[-1] == last


@pytest.mark.parametrize(
    ("week", "months"),
    [
        ("2019-01-06", ["2019-01-01"]),
        ("2019-02-03", ["2019-02-01"]),
        # Saturday is the last of the month; Saturday is the first of the next; Sunday is the last.
        ("2019-08-25", ["2019-08-01"]),
        ("2019-05-26", ["2019-05-01", "2019-06-01"]),
        ("2019-03-31", ["2019-03-01", "2019-04-01"]),
        ("2019-09-01", ["2019-09-01"]),
        ("2019-12-29", ["2019-12-01", "2020-01-01"]),
        ("2020-02-23", ["2020-02-01"]),
        ("2021-02-28", ["2021-02-01", "2021-03-01"]),
    ],
)
def test_a_week_needs_the_months_that_its_days_lie_in(week: str, months: list[str]) -> None:
    assert months_of_week(week) == months


def test_the_first_week_does_not_wait_for_the_month_before_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert months_of_week("2018-12-30") == ["2018-12-01", "2019-01-01"]
    assert months_of_week("2010-12-26") == ["2011-01-01"]
    monkeypatch.setattr(constants, "START_DATE", "2019-01-01")
    assert months_of_week("2018-12-30") == ["2019-01-01"]
    assert months_of_week("2019-01-27") == ["2019-01-01", "2019-02-01"]


def test_the_last_week_does_not_wait_for_the_month_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    assert months_of_week("2023-03-26") == ["2023-03-01", "2023-04-01"]
    monkeypatch.setattr(constants, "END_DATE", "2023-04-01")
    assert months_of_week("2023-03-26") == ["2023-03-01"]
    assert months_of_week("2023-02-26") == ["2023-02-01", "2023-03-01"]
    monkeypatch.setattr(constants, "START_DATE", "2023-03-01")
    assert months_of_week("2023-02-26") == ["2023-03-01"]


def test_dagster_shows_for_a_week_the_months_that_it_needs(instance: dg.DagsterInstance) -> None:
    graph = defs.get_repository_def().asset_graph
    mapping = graph.get_partition_mapping(trips_by_week.key, parent_asset_key=taxi_trips.key)
    for week in ("2018-12-30", "2019-01-06", "2019-01-27", "2010-12-26"):
        months = mapping.get_upstream_mapped_partitions_result_for_partitions(
            downstream_partitions_subset=weekly_partition.subset_with_partition_keys([week]),
            downstream_partitions_def=weekly_partition,
            upstream_partitions_def=monthly_partition,
            dynamic_partitions_store=instance,
        )
        assert sorted(months.partitions_subset.get_partition_keys()) == months_of_week(week)


# What is due. Weeks of January and February 2019; the fourth lies in both.

JANUARY, FEBRUARY, MARCH = "2019-01-01", "2019-02-01", "2019-03-01"
WEEKS = ["2019-01-06", "2019-01-13", "2019-01-20", "2019-01-27", "2019-02-03", "2019-02-10"]
OF_JANUARY, BOTH, OF_FEBRUARY = WEEKS[:3], WEEKS[3], WEEKS[4:]


def due(loaded: dict[str, int], computed: dict[str, int], weeks: list[str] = WEEKS) -> DueWeeks:
    return due_weeks(weeks, months_of_week, loaded, computed)


def test_weeks_that_were_never_added_up_are_due_newest_first() -> None:
    assert due({JANUARY: 1, FEBRUARY: 2}, {}) == DueWeeks(WEEKS[::-1], "")


def test_weeks_wait_for_all_of_their_months() -> None:
    assert due({JANUARY: 1}, {}).weeks == OF_JANUARY[::-1]
    assert due({FEBRUARY: 1}, {}).weeks == OF_FEBRUARY[::-1]
    assert due({MARCH: 1}, {}).weeks == []


def test_what_the_newest_week_waits_for_is_said() -> None:
    computed = {week: 10 + number for number, week in enumerate(OF_JANUARY)}
    waiting = due({JANUARY: 1}, computed)
    assert waiting.weeks == []
    assert waiting.reason.endswith("The newest, of 2019-02-10, waits for 2019-02.")
    both = due({JANUARY: 1}, computed, [*OF_JANUARY, "2019-02-24"])
    assert both.reason.endswith("The newest, of 2019-02-24, waits for 2019-02 and 2019-03.")
    one = due({JANUARY: 1}, computed, [*OF_JANUARY, BOTH])
    assert one.reason.endswith("The newest, of 2019-01-27, waits for 2019-02.")


def test_a_week_that_is_added_up_is_not_due_again() -> None:
    computed = dict.fromkeys(WEEKS, 10)
    nothing = due({JANUARY: 1, FEBRUARY: 2}, computed)
    assert nothing == DueWeeks([], "Nothing to do: every week whose months are loaded is added up.")
    del computed["2019-01-13"], computed["2019-02-03"]
    assert due({JANUARY: 1, FEBRUARY: 2}, computed).weeks == ["2019-02-03", "2019-01-13"]


def test_a_month_that_is_loaded_again_makes_its_weeks_due_again() -> None:
    computed = dict.fromkeys(WEEKS, 10)
    assert due({JANUARY: 11, FEBRUARY: 2}, computed).weeks == [BOTH, *OF_JANUARY[::-1]]
    assert due({JANUARY: 1, FEBRUARY: 11}, computed).weeks == [*OF_FEBRUARY[::-1], BOTH]
    computed.update({BOTH: 12, OF_JANUARY[1]: 12})
    assert due({JANUARY: 11, FEBRUARY: 2}, computed).weeks == [OF_JANUARY[2], OF_JANUARY[0]]


def test_only_a_later_load_makes_a_week_due() -> None:
    # No two events have the same place; if they had, a week that is due for ever would be asked for on every Monday.
    assert due({JANUARY: 10, FEBRUARY: 10}, dict.fromkeys(WEEKS, 10)).weeks == []


def test_a_week_over_two_months_that_was_added_up_before_the_second_was_loaded_is_due() -> None:
    computed = {**dict.fromkeys(OF_JANUARY, 2), BOTH: 3}
    assert due({JANUARY: 1}, computed).weeks == []
    assert due({JANUARY: 1, FEBRUARY: 4}, computed).weeks == [*OF_FEBRUARY[::-1], BOTH]


def test_a_month_that_is_no_longer_loaded_takes_its_weeks_away() -> None:
    assert due({JANUARY: 1}, dict.fromkeys(WEEKS, 10)).weeks == []


def test_with_nothing_loaded_nothing_is_due() -> None:
    assert due({}, {}) == DueWeeks([], "No week is due: of no week all months are loaded.")
    assert due({}, dict.fromkeys(WEEKS, 10)).weeks == []


def test_without_any_week_nothing_is_due() -> None:
    nothing = due({JANUARY: 1}, {}, [])
    assert nothing.weeks == []
    assert nothing.reason


# The schedule itself. On Monday, 6 May 2019, with a lag of two months, the newest week is that of 10 March.

MONDAY = datetime(2019, 5, 6, tzinfo=UTC)
# December 2018 is not loaded, nor is March: the weeks at both ends of the two months wait.
READY = [*WEEKS, "2019-02-17"]


def report(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, *partitions: str) -> None:
    for partition in partitions:
        instance.report_runless_asset_event(dg.AssetMaterialization(asset.key, partition=partition))


def tick(instance: dg.DagsterInstance, at: datetime = MONDAY) -> tuple[list[dg.RunRequest], str | None]:
    """What the schedule asks for at `at`, and why it asks for nothing."""
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=at, repository_def=defs.get_repository_def()
    ) as context:
        result = weekly_update_schedule.evaluate_tick(context)
    return list(result.run_requests or ()), result.skip_message


def asked(instance: dg.DagsterInstance, at: datetime = MONDAY) -> list[Any]:
    requests, _ = tick(instance, at)
    return [request.partition_key for request in requests]


def skipped(instance: dg.DagsterInstance, at: datetime = MONDAY) -> str:
    requests, reason = tick(instance, at)
    assert requests == []
    assert reason is not None
    return reason


def test_the_schedule_ticks_on_mondays_under_the_name_of_the_course() -> None:
    schedule = defs.get_repository_def().get_schedule_def("weekly_update_job_schedule")
    assert schedule.cron_schedule == "0 0 * * 1"
    assert schedule.job_name == "weekly_update_job"
    assert schedule.execution_timezone in (None, "UTC")
    job = defs.resolve_job_def("weekly_update_job")
    assert job.partitions_def == weekly_partition
    assert job.asset_layer.executable_asset_keys == {trips_by_week.key}


def test_each_week_that_is_due_gets_a_run_of_its_own_newest_first(history: dg.DagsterInstance) -> None:
    report(history, taxi_trips, JANUARY, FEBRUARY)
    requests, reason = tick(history)
    assert reason is None
    assert [request.partition_key for request in requests] == READY[::-1]
    assert [request.run_key for request in requests] == READY[::-1]
    assert [request.tags["dagster/partition"] for request in requests] == READY[::-1]


def test_a_week_is_asked_for_until_it_is_added_up_and_again_when_its_month_is_loaded_again(
    history: dg.DagsterInstance,
) -> None:
    report(history, taxi_trips, JANUARY, FEBRUARY)
    report(history, trips_by_week, *READY[2:])
    assert asked(history) == READY[1::-1]
    report(history, trips_by_week, *READY[:2])
    waits = "The newest, of 2019-03-10, waits for 2019-03."
    assert skipped(history) == f"Nothing to do: every week whose months are loaded is added up. {waits}"
    report(history, taxi_trips, JANUARY)
    assert asked(history) == WEEKS[3::-1]
    report(history, trips_by_week, *WEEKS[:4])
    assert asked(history) == []


def test_with_nothing_loaded_the_schedule_says_so(history: dg.DagsterInstance) -> None:
    assert skipped(history) == "No week is due: of no week all months are loaded."
    report(history, taxi_trips, "2019-01-01", "2019-02-01")
    assert skipped(history, datetime(2011, 1, 3, tzinfo=UTC)) == "No week is due: of no week all months are loaded."


def test_a_month_is_added_up_to_its_last_week_once_it_is_a_partition(history: dg.DagsterInstance) -> None:
    # February is a partition from 1 May on. Its last day lies in a week with March, which comes a month later.
    report(history, taxi_trips, JANUARY, FEBRUARY, MARCH)
    assert "2019-02-24" in asked(history)
    assert max(asked(history, datetime(2019, 6, 3, tzinfo=UTC))) >= "2019-03-24"
    report(history, taxi_trips, "2019-04-01")
    assert "2019-03-31" in asked(history, datetime(2019, 6, 3, tzinfo=UTC))


def test_a_failed_run_is_no_reason_to_leave_a_week_out(history: dg.DagsterInstance) -> None:
    report(history, taxi_trips, JANUARY)
    requests, _ = tick(history)
    for request in requests:
        history.add_run(
            dg.DagsterRun(job_name="weekly_update_job", tags=request.tags, status=dg.DagsterRunStatus.FAILURE)
        )
    assert asked(history) == OF_JANUARY[::-1]
