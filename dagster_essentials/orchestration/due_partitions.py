"""Decides what is due: months to load, months that are late or corrected at the source, and weeks to aggregate (again).

Pure functions of plain values; the callers get them from Dagster and from the source.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from math import ceil

from dagster_essentials.errors import DownloadError
from dagster_essentials.ingestion.download import PublishedFile
from dagster_essentials.ingestion.months import first_day, next_month

MAX_MONTHS_BACK = 12
"""The months in which the first tick looks for a published one: four times the longest delay."""


@dataclass(frozen=True)
class DueMonths:
    """The months to load now, or to load again, oldest first.

    Attributes:
        reason: why there are no others, for a person.
        since: the first month that the monthly schedule is responsible for, if it is known.
    """

    months: Sequence[str]
    reason: str
    since: str | None = None


def due_months(
    partitions: Sequence[str], loaded: Collection[str], since: str | None, is_published: Callable[[str], bool]
) -> DueMonths:
    """Find those of the `partitions` that are due (all months as ``YYYY-MM-DD``, oldest first).

    It is every published month from `since` on that is not loaded. At first, when `since` is None, that is the one after
    the newest loaded month; with nothing loaded at all, it is the newest published month. Older gaps are left to
    backfills. `is_published` may raise a DownloadError; then no further one is requested.
    """
    if not partitions:
        return DueMonths([], "No month is due: the first month of the settings is not a partition yet.", since)
    if since is None and not loaded:
        return _first_month(partitions[-MAX_MONTHS_BACK:], is_published)
    if since is None:
        since = _after_newest(partitions, loaded)
    missing = [month for month in partitions if since is not None and month >= since and month not in loaded]
    if not missing:
        return DueMonths(
            [], f"Nothing to load: the newest month so far, {partitions[-1][:7]}, is loaded already.", since
        )
    published: list[str] = []
    for month in missing:
        try:
            if is_published(month):
                published.append(month)
        except DownloadError as error:
            # The other months would take as long, and a tick has only a minute.
            return DueMonths(published, _no_answer(month, error), since)
    waiting = ", ".join(month[:7] for month in missing if month not in published)
    return DueMonths(published, f"Not published yet: {waiting}. The next tick asks again." if waiting else "", since)


def _after_newest(partitions: Sequence[str], loaded: Collection[str]) -> str | None:
    newest = max(loaded)
    return next((month for month in partitions if month > newest), None)


def _first_month(partitions: Sequence[str], is_published: Callable[[str], bool]) -> DueMonths:
    for month in reversed(partitions):
        try:
            if is_published(month):
                reason = f"Nothing is loaded yet: starting with {month[:7]}, the newest published month."
                return DueMonths([month], reason, since=month)
        except DownloadError as error:
            return DueMonths([], _no_answer(month, error))
    first, last = partitions[0][:7], partitions[-1][:7]
    return DueMonths([], f"Nothing is loaded yet, and no month from {first} to {last} is published.")


def _no_answer(month: str, error: DownloadError) -> str:
    return f"Could not ask the source about {error.describe(month[:7])} The next tick asks again."


MAX_CORRECTIONS = 24
"""Months in one tick. The TLC rewrites a few at a time, but has rewritten all of its history once, on 2022-06-30."""


def due_corrections(
    loaded: Mapping[str, PublishedFile], published: Mapping[str, PublishedFile | DownloadError | None]
) -> DueMonths:
    """Find those of the `loaded` months (``YYYY-MM-DD``) that the source has corrected.

    Args:
        loaded: for each month, the version of its file that is loaded.
        published: what the source answered for it, None if it does not have the month any more. A month without an answer
            was not asked for, because of an error before.
    """
    differing = sorted(
        month
        for month, answer in published.items()
        if isinstance(answer, PublishedFile) and answer.differs_from(loaded[month])
    )
    reasons = []
    if len(differing) > MAX_CORRECTIONS:
        reasons.append(f"{len(differing) - MAX_CORRECTIONS} more months are corrected; the next tick asks for them.")
    if withdrawn := ", ".join(month[:7] for month, answer in sorted(published.items()) if answer is None):
        reasons.append(f"The source does not have these loaded months any more: {withdrawn}.")
    reasons += [_no_answer(month, error) for month, error in published.items() if isinstance(error, DownloadError)]
    if not differing and not reasons:
        reasons.append(
            f"Nothing is corrected: the source has the loaded version of all {len(loaded)} loaded months."
            if loaded
            else "No month is loaded yet."
        )
    return DueMonths(differing[:MAX_CORRECTIONS], " ".join(reasons))


@dataclass(frozen=True)
class Tick:
    """A past tick of the monthly schedule: its day, and the months that were partitions then."""

    day: date
    partitions: Sequence[str]


def late_months(
    partitions: Sequence[str],
    loaded: Collection[str],
    reported: Collection[str],
    since: str | None,
    last_tick: Tick,
    today: date,
    is_published: Callable[[str], bool],
    longest_delay_days: int,
) -> dict[str, str]:
    """The `partitions` that are late and not `reported`, with the reasons (months as ``YYYY-MM-DD``, oldest first).

    Of the months that the schedule is responsible for (see `due_months`), it is every one that is not loaded more than
    `longest_delay_days` after its end, and is either not published or was requested in vain: it had been overdue as long
    at the `last_tick`, whose runs have had the time to end. One that was published since then is loaded by the next tick.
    """
    overdue = [month for month in partitions if _days_after_end(month, today) > longest_delay_days]
    if since is None and loaded:
        since = _after_newest(partitions, loaded)
    elif since is None:
        # The schedule has found nothing to start with: it is one month that is missing, not all of the past.
        since = overdue[-1] if overdue else None
    late: dict[str, str] = {}
    no_answer = ""
    for month in overdue:
        if since is None or month < since or month in loaded or month in reported:
            continue
        in_vain = month in last_tick.partitions and _days_after_end(month, last_tick.day) > longest_delay_days
        about = f"not loaded {_days_after_end(month, today)} days after its end"
        try:
            # The tick has only a minute: after a source that did not answer, no further month is asked about.
            published = None if no_answer else is_published(month)
        except DownloadError as error:
            published, no_answer = None, f"The source could not be asked about {error.describe(month[:7])}"
        if published is False:
            late[month] = f"{about}, because it is not published; {_expected_within(longest_delay_days)}"
        elif in_vain:
            late[month] = f"{about}, in spite of the schedule's tick on {last_tick.day}. {no_answer or _IS_PUBLISHED}"
    return late


def _expected_within(days: int) -> str:
    return (
        f"it was expected within {days} days. It is requested again on every 5th. Check whether the source still has its files "
        "at the address in the settings."
    )


_IS_PUBLISHED = "It is published: look at its last run, and materialize it again."


def _days_after_end(month: str, day: date) -> int:
    """The days from the end of `month` (``YYYY-MM-DD``) to `day`: 0 on the first day of the next month."""
    return (day - first_day(next_month(month[:7]))).days


def weeks_behind(months: int) -> int:
    """The age in weeks at which a week lies, on any day, in months that ended at least `months` months ago.

    It is the least that is enough on every day: 5, 9 and 13 weeks for 0, 1 and 2 months. Dagster counts weeks back from today,
    not from the newest month, so a week becomes a partition up to six weeks after its months.
    """
    # The months ended longest ago on the last day of the current month. Four years have a leap year.
    firsts = [date(2020 + number // 12, number % 12 + 1, 1) for number in range(48 + months + 1)]
    days = max((firsts[number + months + 1] - firsts[number]).days for number in range(48)) - 1
    return ceil(days / 7)


@dataclass(frozen=True)
class DueWeeks:
    """The weeks to aggregate now (their Sundays), newest first, and if there are none, why."""

    weeks: Sequence[str]
    reason: str


def due_weeks(
    partitions: Sequence[str],
    months: Callable[[str], Sequence[str]],
    loaded: Mapping[str, int],
    computed: Mapping[str, int],
) -> DueWeeks:
    """Find those of the weeks `partitions` that are due (``YYYY-MM-DD``, oldest first).

    It is every week whose `months` are all in `loaded`, and that is not in `computed` or was aggregated before one of its
    months changed. The values of both are positions in Dagster's event log: a higher one is later.
    """
    due, waiting = [], []
    for week in reversed(partitions):
        if any(month not in loaded for month in months(week)):
            waiting.append(week)
        elif week not in computed or any(loaded[month] > computed[week] for month in months(week)):
            due.append(week)
    if due:
        return DueWeeks(due, "")
    if len(waiting) == len(partitions):
        return DueWeeks([], "No week is due: there is no week whose months are all loaded.")
    reason = "Nothing to do: every week whose months are loaded is aggregated."
    if waiting and (missing := [month[:7] for month in months(waiting[0]) if month not in loaded]):
        reason += f" The newest, of {waiting[0]}, waits for {' and '.join(missing)}."
    return DueWeeks([], reason)
