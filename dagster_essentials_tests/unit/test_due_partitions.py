"""Due months and weeks, and late months: pure functions of plain values."""

import random
from collections.abc import Collection
from datetime import date, timedelta

import pytest

from dagster_essentials.errors import DownloadError
from dagster_essentials.orchestration.due_partitions import (
    DueWeeks,
    Tick,
    due_months,
    due_weeks,
    late_months,
    weeks_behind,
)
from dagster_essentials.reports.weekly import months_of_week


def months(first: str, last: str) -> list[str]:
    """The keys of the months from `first` to `last` (``YYYY-MM``), both included."""
    numbers = [int(month[:4]) * 12 + int(month[5:]) - 1 for month in (first, last)]
    return [f"{number // 12}-{number % 12 + 1:02}-01" for number in range(numbers[0], numbers[1] + 1)]


class Published:
    """A source that has `keys`, and records the months that were requested."""

    def __init__(self, *keys: str):
        self.keys = keys
        self.requested: list[str] = []

    def __call__(self, key: str) -> bool:
        self.requested.append(key)
        return key in self.keys


def test_the_first_tick_finds_only_the_newest_published_month_due() -> None:
    source = Published(*months("2022-01", "2023-02"))
    due = due_months(months("2022-01", "2023-04"), [], None, source)
    assert (due.months, due.since) == (["2023-02-01"], "2023-02-01")
    assert source.requested == ["2023-04-01", "2023-03-01", "2023-02-01"]
    assert "2023-02" in due.reason


def test_with_nothing_loaded_and_nothing_published_nothing_is_due() -> None:
    source = Published()
    due = due_months(months("2011-01", "2023-04"), [], None, source)
    assert (due.months, due.since) == ([], None)
    assert "no month from 2022-05 to 2023-04 is published" in due.reason
    # Not all months since 2011: a tick has only a minute.
    assert sorted(source.requested) == months("2022-05", "2023-04")


def test_the_month_after_the_newest_loaded_one_is_due() -> None:
    due = due_months(months("2023-01", "2023-04"), months("2023-01", "2023-03"), None, Published("2023-04-01"))
    assert (due.months, due.since, due.reason) == (["2023-04-01"], "2023-04-01", "")


def test_missed_months_are_due_oldest_first() -> None:
    source = Published(*months("2011-01", "2023-06"))
    due = due_months(months("2023-01", "2023-06"), {"2023-03-01", "2023-02-01", "2023-01-01"}, None, source)
    assert due.months == ["2023-04-01", "2023-05-01", "2023-06-01"]
    assert due.since == "2023-04-01"


def test_with_all_months_loaded_nothing_is_due_and_nothing_is_requested() -> None:
    source = Published(*months("2011-01", "2030-01"))
    due = due_months(months("2023-01", "2023-03"), months("2023-01", "2023-03"), "2023-01-01", source)
    assert due.months == source.requested == []
    assert "2023-03" in due.reason


def test_a_month_that_is_published_late_is_due_once_it_is_published() -> None:
    partitions, loaded = months("2023-01", "2023-03"), months("2023-01", "2023-02")
    late = due_months(partitions, loaded, None, Published(*loaded))
    assert (late.months, late.since) == ([], "2023-03-01")
    assert late.reason == "Not published yet: 2023-03. The next tick asks again."
    assert due_months(partitions, loaded, late.since, Published(*partitions)).months == ["2023-03-01"]


def test_a_month_that_is_published_late_is_due_although_a_newer_one_is_loaded() -> None:
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
def test_a_gap_before_the_first_month_of_the_schedule_is_not_due(since: str | None) -> None:
    source = Published(*months("2011-01", "2023-03"))
    loaded = {"2019-01-01", "2022-11-01", "2023-02-01"}
    due = due_months(months("2011-01", "2023-03"), loaded, since, source)
    assert due.months == source.requested == ["2023-03-01"]


@pytest.mark.parametrize("since", [None, "2023-01-01"])
@pytest.mark.parametrize("loaded", [[], ["2022-12-01"]])
def test_before_the_first_partition_nothing_is_due(since: str | None, loaded: list[str]) -> None:
    source = Published("2023-01-01")
    due = due_months([], loaded, since, source)
    assert (due.months, due.since, source.requested) == ([], since, [])
    assert "not a partition yet" in due.reason


def test_after_the_end_only_missing_months_are_due() -> None:
    lesson, source = months("2023-01", "2023-03"), Published(*months("2011-01", "2030-01"))
    assert due_months(lesson, lesson[:2], "2023-01-01", source).months == ["2023-03-01"]
    assert due_months(lesson, lesson, "2023-01-01", source).months == []


def test_loaded_months_that_are_no_partitions_do_not_matter() -> None:
    due = due_months(months("2023-01", "2023-03"), ["2022-12-01"], None, Published(*months("2022-12", "2023-03")))
    assert due.months == months("2023-01", "2023-03")
    due = due_months(months("2023-01", "2023-03"), ["2024-01-01"], None, Published(*months("2022-12", "2023-03")))
    assert (due.months, due.since) == ([], None)


@pytest.mark.parametrize("seed", range(5))
def test_over_five_years_every_month_is_loaded_once_and_as_soon_as_possible(seed: int) -> None:
    chance = random.Random(seed)
    keys = months("2019-01", "2023-12")
    # By month, the number of the first tick at which it is a partition, and at which it is published.
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


# Late months. December 2025 was published on 25 March 2026, 83 days after its end: later than any other since 2023.

PUBLISHED = {
    "2025-06-01": "2025-07-25",
    "2025-07-01": "2025-08-21",
    "2025-08-01": "2025-09-24",
    "2025-09-01": "2025-10-23",
    "2025-10-01": "2025-11-25",
    "2025-11-01": "2025-12-19",
    "2025-12-01": "2026-03-25",
    "2026-01-01": "2026-03-25",
    "2026-02-01": "2026-03-25",
    "2026-03-01": "2026-04-28",
    "2026-04-01": "2026-06-05",
    "2026-05-01": "2026-06-26",
    "2026-06-01": "2026-09-17",
}
"""The days on which the TLC published a year of months, by Last-Modified."""
LONGEST_DELAY = 83


def partitions_on(day: date, lag: int = 2) -> list[str]:
    """The months from May 2025 on that had ended `lag` months before `day`."""
    number = day.year * 12 + day.month - 1 - lag
    return months("2025-05", f"{(number - 1) // 12}-{(number - 1) % 12 + 1:02}")


def tick_on(text: str) -> Tick:
    day = date.fromisoformat(text)
    return Tick(day, partitions_on(day))


def late_on(
    text: str,
    loaded: Collection[str],
    source: Published,
    tick: str,
    since: str | None = "2025-06-01",
    reported: Collection[str] = (),
) -> dict[str, str]:
    day = date.fromisoformat(text)
    return late_months(partitions_on(day), loaded, reported, since, tick_on(tick), day, source, LONGEST_DELAY)


@pytest.mark.parametrize("delay", [0, 1, 2, 40])
def test_of_a_year_of_publications_only_one_later_than_the_latest_is_late_and_reported_once(delay: int) -> None:
    published = {**PUBLISHED, "2025-12-01": str(date(2026, 3, 25) + timedelta(days=delay))}
    loaded, tick = {"2025-05-01"}, tick_on("2025-07-05")
    reported: dict[str, str] = {}
    day = date(2025, 7, 5)
    while day < date(2026, 9, 17):
        source = Published(*[month for month, published_on in published.items() if published_on <= str(day)])
        if day.day == 5:
            loaded |= set(due_months(partitions_on(day), loaded, "2025-06-01", source).months)
        if day.day == 6:  # A day after the tick.
            tick = tick_on(str(day - timedelta(days=1)))
        late = late_months(partitions_on(day), loaded, reported, "2025-06-01", tick, day, source, LONGEST_DELAY)
        reported |= dict.fromkeys(late, str(day))
        day += timedelta(days=1)
    # The sensor asks in the morning of the 26th, when a month that is published on that day already is.
    assert reported == ({"2025-12-01": "2026-03-26"} if delay > 1 else {})


def test_a_month_is_late_on_the_84th_day_after_its_end() -> None:
    loaded = months("2025-05", "2025-11")
    assert late_on("2026-03-25", loaded, Published(), "2026-03-05") == {}
    late = late_on("2026-03-26", loaded, Published(), "2026-03-05")
    assert list(late) == ["2025-12-01"]
    assert late["2025-12-01"].startswith(
        "not loaded 84 days after its end, because it is not published; it was expected within 83 days."
    )


def test_a_month_that_was_published_after_the_last_tick_waits_for_the_next_one() -> None:
    loaded, source = months("2025-05", "2025-11"), Published("2025-12-01")
    assert late_on("2026-03-26", loaded, source, "2026-03-05") == {}
    assert late_on("2026-04-06", loaded, source, "2026-03-05") == {}
    late = late_on("2026-04-06", loaded, source, "2026-04-05")
    assert late == {
        "2025-12-01": "not loaded 95 days after its end, in spite of the schedule's tick on 2026-04-05. "
        "It is published: look at its last run, and materialize it again."
    }


def test_a_source_without_an_answer_is_asked_once_and_makes_a_month_late_only_after_a_tick() -> None:
    asked = []

    def no_answer(month: str) -> bool:
        asked.append(month)
        raise DownloadError("no answer. Check the address.", "https://host/a")

    day, loaded = date(2026, 5, 6), months("2025-05", "2025-11")

    def late(tick: str) -> dict[str, str]:
        return late_months(partitions_on(day), loaded, (), "2025-06-01", tick_on(tick), day, no_answer, LONGEST_DELAY)

    assert late("2026-03-05") == {}
    assert asked == ["2025-12-01"]
    reasons = late("2026-04-05")
    assert list(reasons) == ["2025-12-01"], "January had ended 64 days before that tick"
    assert reasons["2025-12-01"].endswith(
        "could not be asked about 2025-12 (https://host/a): no answer. Check the address."
    )


def test_the_schedule_is_not_responsible_for_older_gaps() -> None:
    loaded = ["2025-05-01", "2025-10-01"]
    assert list(late_on("2026-03-26", loaded, Published(), "2026-03-05", since="2025-11-01")) == months(
        "2025-11", "2025-12"
    )
    # Before its first run, it is responsible for what follows the newest loaded month.
    assert list(late_on("2026-03-26", loaded, Published(), "2026-03-05", since=None)) == months("2025-11", "2025-12")
    assert late_on("2026-03-26", months("2025-05", "2026-01"), Published(), "2026-03-05", since=None) == {}


def test_with_nothing_loaded_one_month_is_late_and_not_all_of_the_past() -> None:
    assert list(late_on("2026-03-26", [], Published(), "2026-03-05", since=None)) == ["2025-12-01"]
    assert late_on("2025-07-05", [], Published(), "2025-07-05", since=None) == {}


def test_a_month_that_is_loaded_or_reported_is_not_late_and_not_asked_about() -> None:
    source = Published()
    assert list(late_on("2026-04-26", months("2025-05", "2025-11"), source, "2026-04-05", reported=["2025-12-01"])) == [
        "2026-01-01"
    ]
    assert source.requested == ["2026-01-01"]


def test_a_month_that_becomes_a_partition_after_more_than_83_days_waits_for_its_tick() -> None:
    # With a lag of four months, December exists from 1 May on; the tick of 5 April could not request it.
    source, day, loaded = Published("2025-12-01"), date(2026, 5, 1), months("2025-05", "2025-11")
    keys = partitions_on(day, lag=4)
    assert keys[-1] == "2025-12-01"
    for tick_day, late in ((date(2026, 4, 5), []), (date(2026, 5, 5), ["2025-12-01"])):
        tick = Tick(tick_day, partitions_on(tick_day, lag=4))
        found = late_months(keys, loaded, (), "2025-06-01", tick, date(2026, 5, 6), source, LONGEST_DELAY)
        assert list(found) == late


# Weeks of January and February 2019; the fourth has days in both.

JANUARY, FEBRUARY, MARCH = "2019-01-01", "2019-02-01", "2019-03-01"
WEEKS = ["2019-01-06", "2019-01-13", "2019-01-20", "2019-01-27", "2019-02-03", "2019-02-10"]
OF_JANUARY, BOTH, OF_FEBRUARY = WEEKS[:3], WEEKS[3], WEEKS[4:]


def due(loaded: dict[str, int], computed: dict[str, int], weeks: list[str] = WEEKS) -> DueWeeks:
    return due_weeks(weeks, months_of_week, loaded, computed)


def test_weeks_that_were_never_aggregated_are_due_newest_first() -> None:
    assert due({JANUARY: 1, FEBRUARY: 2}, {}) == DueWeeks(WEEKS[::-1], "")


def test_a_week_is_not_due_before_all_its_months_are_loaded() -> None:
    assert due({JANUARY: 1}, {}).weeks == OF_JANUARY[::-1]
    assert due({FEBRUARY: 1}, {}).weeks == OF_FEBRUARY[::-1]
    assert due({MARCH: 1}, {}).weeks == []


def test_the_reason_names_the_months_that_the_newest_week_waits_for() -> None:
    computed = {week: 10 + number for number, week in enumerate(OF_JANUARY)}
    waiting = due({JANUARY: 1}, computed)
    assert waiting.weeks == []
    assert waiting.reason.endswith("The newest, of 2019-02-10, waits for 2019-02.")
    both = due({JANUARY: 1}, computed, [*OF_JANUARY, "2019-02-24"])
    assert both.reason.endswith("The newest, of 2019-02-24, waits for 2019-02 and 2019-03.")
    one = due({JANUARY: 1}, computed, [*OF_JANUARY, BOTH])
    assert one.reason.endswith("The newest, of 2019-01-27, waits for 2019-02.")


def test_a_week_that_is_aggregated_is_not_due_again() -> None:
    computed = dict.fromkeys(WEEKS, 10)
    nothing = due({JANUARY: 1, FEBRUARY: 2}, computed)
    assert nothing == DueWeeks([], "Nothing to do: every week whose months are loaded is aggregated.")
    del computed["2019-01-13"], computed["2019-02-03"]
    assert due({JANUARY: 1, FEBRUARY: 2}, computed).weeks == ["2019-02-03", "2019-01-13"]


def test_a_month_that_is_loaded_again_makes_its_weeks_due_again() -> None:
    computed = dict.fromkeys(WEEKS, 10)
    assert due({JANUARY: 11, FEBRUARY: 2}, computed).weeks == [BOTH, *OF_JANUARY[::-1]]
    assert due({JANUARY: 1, FEBRUARY: 11}, computed).weeks == [*OF_FEBRUARY[::-1], BOTH]
    computed.update({BOTH: 12, OF_JANUARY[1]: 12})
    assert due({JANUARY: 11, FEBRUARY: 2}, computed).weeks == [OF_JANUARY[2], OF_JANUARY[0]]


def test_only_a_later_load_makes_a_week_due() -> None:
    # No two events have the same position. If they had, such a week would be requested on every Monday.
    assert due({JANUARY: 10, FEBRUARY: 10}, dict.fromkeys(WEEKS, 10)).weeks == []


def test_a_week_that_was_aggregated_before_its_second_month_was_loaded_is_due() -> None:
    computed = {**dict.fromkeys(OF_JANUARY, 2), BOTH: 3}
    assert due({JANUARY: 1}, computed).weeks == []
    assert due({JANUARY: 1, FEBRUARY: 4}, computed).weeks == [*OF_FEBRUARY[::-1], BOTH]


def test_the_weeks_of_a_month_that_is_no_longer_loaded_are_not_due() -> None:
    assert due({JANUARY: 1}, dict.fromkeys(WEEKS, 10)).weeks == []


def test_with_nothing_loaded_nothing_is_due() -> None:
    assert due({}, {}) == DueWeeks([], "No week is due: there is no week whose months are all loaded.")
    assert due({}, dict.fromkeys(WEEKS, 10)).weeks == []


def test_without_any_week_nothing_is_due() -> None:
    nothing = due({JANUARY: 1}, {}, [])
    assert nothing.weeks == []
    assert nothing.reason


# The newest week that is a partition


@pytest.mark.parametrize(("months", "weeks"), [(0, 5), (1, 9), (2, 13), (3, 18), (4, 22)])
def test_after_so_many_weeks_a_week_lies_in_months_that_ended_so_long_ago_on_any_day(months: int, weeks: int) -> None:
    def weeks_after(day: date) -> int:
        """The number of weeks between the last Sunday and the end of those months."""
        number = 12 * day.year + day.month - 1 - months
        end = date(number // 12, number % 12 + 1, 1)
        sunday = day - timedelta(days=day.isoweekday() % 7)
        return max(0, -((end - sunday).days // 7))

    # The calendar repeats itself after 28 years.
    days = (date(2000, 1, 1) + timedelta(days=number) for number in range(28 * 1461 // 4))
    assert weeks_behind(months) == weeks == max(map(weeks_after, days))
