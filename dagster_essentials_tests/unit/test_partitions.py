"""Which months and weeks are partitions at a moment, and which months a week needs."""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone

import dagster as dg
import pytest

from dagster_essentials import defs, settings
from dagster_essentials.assets.metrics import trips_by_week
from dagster_essentials.assets.trips import taxi_trips
from dagster_essentials.partitions import monthly_partition, weekly_partition
from dagster_essentials.reports.weekly import months_of_week
from dagster_essentials_tests.support.project import ROOT

UTC = timezone.utc

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

# Two years, in which months begin on every day of the week: an hour before and after a month becomes a partition, and between.
MOMENTS = [
    (datetime(2020 + number // 12, 1 + number % 12, 1, tzinfo=UTC) + timedelta(hours=hours)).isoformat()
    for number in range(10, 36)
    for hours in (-1, 0, 1, 24 * 11)
]
LONG_AFTER = "2026-11-05T12:00:00+00:00"
CASES = [
    *(("2020-09-01", "", lag, MOMENTS) for lag in (0, 1, 2, 3, 6, 12)),
    # With an end: one after a Friday as the lesson's, one after a Saturday.
    *((start, end, lag, [*MOMENTS[-8:], LONG_AFTER]) for start, end, lag in [
        ("2022-01-01", "2022-10-01", 2), ("2022-05-01", "2023-01-01", 2), ("2022-05-01", "2023-01-01", 0),
        ("2023-01-01", "2023-04-01", 2), ("2023-01-01", "2023-04-01", 0), ("2022-02-01", "2022-03-01", 12),
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
    """Every day of `months`, which are consecutive."""
    day, end = date.fromisoformat(min(months)), next_month(max(months))
    while day < end:
        yield day
        day += timedelta(days=1)


def next_month(month: str) -> date:
    year, number = int(month[:4]), int(month[5:7])
    return date(year + number // 12, number % 12 + 1, 1)


def test_at_any_moment_every_day_of_the_monthly_partitions_is_in_exactly_one_week(partitions: list[Partitions]) -> None:
    seen = 0
    for start, end, lag, moment, months, weeks in partitions:
        starts = [date.fromisoformat(week) for week in weeks]
        assert {week.isoweekday() for week in starts} <= {7}
        assert len(set(starts)) == len(starts)
        covered = [week + timedelta(days=number) for week in starts for number in range(7)]
        assert len(set(covered)) == len(covered)
        missing = sorted(set(days_of(months)) - set(covered)) if months else []
        assert missing == [], (start, end, lag, moment)
        seen += len(months)
    assert seen > 5_000


def test_at_any_moment_the_last_month_has_its_last_week(partitions: list[Partitions]) -> None:
    for start, end, lag, moment, months, weeks in partitions:
        if months:
            last = next_month(months[-1]) - timedelta(days=1)
            sunday = last - timedelta(days=last.isoweekday() % 7)
            assert sunday.isoformat() in weeks, (start, end, lag, moment)


def test_no_week_is_a_partition_before_it_begins_or_before_the_first_month(partitions: list[Partitions]) -> None:
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
