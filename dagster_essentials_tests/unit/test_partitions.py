"""The months and weeks that are partitions at a moment, and the months that a week needs."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from dagster_essentials import defs, settings
from dagster_essentials.assets.metrics import trips_by_week
from dagster_essentials.assets.trips import taxi_trips
from dagster_essentials.partitions import monthly_partition, weekly_partition
from dagster_essentials.reports.weekly import months_of_week
from dagster_essentials_tests.support.project import ROOT

# The settings are read once per process. This one, which runs no other test, reads them again for each case.
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

# Two years, one of them a leap year, in which months begin on every day of the week: each midnight, and the hours around a
# month's first one. Partitions appear at the midnights of firsts and Sundays.
MIDNIGHTS = [datetime(2023, 11, 1, tzinfo=UTC) + timedelta(days=number) for number in range(731)]
MOMENTS = [
    (midnight + timedelta(hours=hours)).isoformat()
    for midnight in MIDNIGHTS
    for hours in ((-1, 0, 1) if midnight.day == 1 else (0,))
]
CHANGES = [moment for moment in MOMENTS if "-01T" in moment or date.fromisoformat(moment[:10]).isoweekday() == 7]
LESSON = ("2023-01-01", "2023-04-01")
LONG_AFTER = "2026-11-05T12:00:00+00:00"
CASES = [
    ("2023-09-01", "", 2, MOMENTS),
    *(("2023-09-01", "", lag, CHANGES) for lag in (0, 1, 3, 4)),
    ("2023-09-01", "", 12, MOMENTS[::40]),
    # Ends that are passed during the two years.
    *(("2023-09-01", "2024-09-01", lag, MOMENTS[::4]) for lag in (0, 2)),
    # With an end: one after a Friday as the lesson's, one after a Saturday.
    *((start, end, lag, [LONG_AFTER]) for start, end, lag in [
        ("2022-01-01", "2022-10-01", 2), ("2022-05-01", "2023-01-01", 2), ("2022-05-01", "2023-01-01", 0),
        (*LESSON, 2), (*LESSON, 0), ("2022-02-01", "2022-03-01", 12),
    ]),
    # Starts on a Tuesday, a Saturday, a Sunday, a Monday.
    *((start, "", 2, [LONG_AFTER]) for start in ("2019-01-01", "2011-01-01", "2022-05-01", "2024-01-01")),
]  # fmt: skip
Partitions = tuple[str, str, int, str, list[str], list[str]]


@pytest.fixture(scope="module")
def partitions() -> list[Partitions]:
    """For each case and moment: start, end, lag, moment, months, weeks."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TAXI_")}
    result = subprocess.run(
        [sys.executable, "-c", LIST_PARTITIONS],
        cwd=ROOT,
        env=environ,
        input=json.dumps(CASES),
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return [(*case,) for case in json.loads(result.stdout)]


def weeks_of(partitions: list[Partitions], start: str, end: str = "", moment: str = LONG_AFTER) -> list[str]:
    (weeks,) = {
        tuple(weeks) for *case, lag, when, _, weeks in partitions if (*case, lag, when) == (start, end, 2, moment)
    }
    return list(weeks)


def next_month(month: str) -> date:
    year, number = int(month[:4]), int(month[5:7])
    return date(year + number // 12, number % 12 + 1, 1)


def sunday_before(day: date) -> date:
    """The first day of the week that `day` is in."""
    return day - timedelta(days=day.isoweekday() % 7)


def test_weeks_follow_each_other_from_the_one_in_which_the_first_month_begins(partitions: list[Partitions]) -> None:
    for start, end, lag, moment, _, weeks in partitions:
        first = sunday_before(date.fromisoformat(start))
        expected = [(first + timedelta(days=7 * number)).isoformat() for number in range(len(weeks))]
        assert weeks == expected, (start, end, lag, moment)


def test_on_no_day_is_there_a_week_whose_months_are_not_partitions(partitions: list[Partitions]) -> None:
    seen = 0
    for start, end, lag, moment, months, weeks in partitions:
        needed = {(date.fromisoformat(week) + timedelta(days=day)).isoformat()[:7] for week in weeks for day in (0, 6)}
        needed = {month for month in needed if start <= f"{month}-01" < (end or "9")}
        assert needed <= {month[:7] for month in months}, (start, end, lag, moment)
        seen += len(weeks)
    assert seen > 70_000


def test_a_week_is_a_partition_a_few_weeks_after_its_months(partitions: list[Partitions]) -> None:
    late: dict[int, set[int]] = {}
    for _, end, lag, _, months, weeks in partitions:
        if not end and months and weeks and lag <= 4:
            # The newest week that ends within the last month.
            possible = sunday_before(next_month(months[-1])) - timedelta(days=7)
            late.setdefault(lag, set()).add((possible - date.fromisoformat(weeks[-1])).days // 7)
    # On some day it could not be one any earlier.
    assert {lag: (min(weeks), max(weeks)) for lag, weeks in late.items()} == {
        **dict.fromkeys((0, 1, 2, 4), (0, 5)),
        3: (0, 6),
    }


def test_long_after_the_end_every_day_of_the_months_is_in_a_week(partitions: list[Partitions]) -> None:
    found = [(months, weeks) for _, end, _, moment, months, weeks in partitions if end and moment == LONG_AFTER]
    assert len(found) == 6
    for months, weeks in found:
        last = next_month(months[-1]) - timedelta(days=1)
        assert weeks[-1] == sunday_before(last).isoformat()


def test_the_lesson_has_three_months_and_thirteen_weeks(partitions: list[Partitions]) -> None:
    found = [(months, weeks) for start, end, _, _, months, weeks in partitions if (start, end) == LESSON]
    assert len(found) == 2
    for months, weeks in found:
        assert months == ["2023-01-01", "2023-02-01", "2023-03-01"]
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
        # Weeks whose Saturday ends the month; whose Saturday begins the next one; whose Sunday ends the month.
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
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, start_date="2019-01-01"))
    assert months_of_week("2018-12-30") == ["2019-01-01"]
    assert months_of_week("2019-01-27") == ["2019-01-01", "2019-02-01"]


def test_the_last_week_does_not_wait_for_the_month_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    assert months_of_week("2023-03-26") == ["2023-03-01", "2023-04-01"]
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, end_date="2023-04-01"))
    assert months_of_week("2023-03-26") == ["2023-03-01"]
    assert months_of_week("2023-02-26") == ["2023-02-01", "2023-03-01"]
    monkeypatch.setattr(
        settings, "SETTINGS", replace(settings.SETTINGS, start_date="2023-03-01", end_date="2023-04-01")
    )
    assert months_of_week("2023-02-26") == ["2023-03-01"]


def test_the_upstream_partitions_of_a_week_are_the_months_that_it_needs(instance: dg.DagsterInstance) -> None:
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
