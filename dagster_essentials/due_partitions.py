"""What is due: months to load, months that the source has corrected, and weeks to aggregate (again).

Pure functions of plain values; the schedules get the values from Dagster and from the source.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from dagster_essentials.errors import DownloadError
from dagster_essentials.ingestion.download import PublishedFile

MAX_MONTHS_BACK = 12
"""How far the first tick looks for a published month. The longest delay on record is 83 days after a month's end."""


@dataclass(frozen=True)
class DueMonths:
    """The months to load now, oldest first; the first month the schedule is responsible for; the reason, for a person."""

    months: Sequence[str]
    since: str | None
    reason: str


def due_months(
    partitions: Sequence[str], loaded: Collection[str], since: str | None, is_published: Callable[[str], bool]
) -> DueMonths:
    """Which of the `partitions` are due (all months as ``YYYY-MM-DD``, oldest first).

    It is every published month from `since` on that is not loaded. At first, when `since` is None, that is the one after
    the newest loaded month; with nothing loaded at all, it is the newest published month. Older gaps are not
    filled; that is what backfills are for. `is_published` may raise a DownloadError; then no further one is requested.
    """
    if not partitions:
        return DueMonths([], since, "No month is due: the first month of the settings is not a partition yet.")
    if since is None and not loaded:
        return _first_month(partitions[-MAX_MONTHS_BACK:], is_published)
    if since is None:
        newest = max(loaded)
        since = next((month for month in partitions if month > newest), None)
    missing = [month for month in partitions if since is not None and month >= since and month not in loaded]
    if not missing:
        return DueMonths(
            [], since, f"Nothing to load: the newest month so far, {partitions[-1][:7]}, is loaded already."
        )
    published: list[str] = []
    for month in missing:
        try:
            if is_published(month):
                published.append(month)
        except DownloadError as error:
            # The other months would take as long, and a tick has only a minute.
            return DueMonths(published, since, _no_answer(month, error))
    waiting = ", ".join(month[:7] for month in missing if month not in published)
    return DueMonths(published, since, f"Not published yet: {waiting}. The next tick asks again." if waiting else "")


def _first_month(partitions: Sequence[str], is_published: Callable[[str], bool]) -> DueMonths:
    for month in reversed(partitions):
        try:
            if is_published(month):
                reason = f"Nothing is loaded yet: starting with {month[:7]}, the newest published month."
                return DueMonths([month], month, reason)
        except DownloadError as error:
            return DueMonths([], None, _no_answer(month, error))
    first, last = partitions[0][:7], partitions[-1][:7]
    return DueMonths([], None, f"Nothing is loaded yet, and no month from {first} to {last} is published.")


def _no_answer(month: str, error: DownloadError) -> str:
    return f"Could not ask the source about {error.describe(month[:7])} The next tick asks again."


MAX_CORRECTIONS = 24
"""Months in one tick. The TLC rewrites a few at a time, but has rewritten all of its history once, on 2022-06-30."""


@dataclass(frozen=True)
class DueCorrections:
    """The months to load again now, oldest first, and what else there is to say, for a person."""

    months: Sequence[str]
    reason: str


def due_corrections(
    loaded: Mapping[str, PublishedFile], published: Mapping[str, PublishedFile | DownloadError | None]
) -> DueCorrections:
    """Which of the `loaded` months (``YYYY-MM-DD``) the source has corrected.

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
    return DueCorrections(differing[:MAX_CORRECTIONS], " ".join(reasons))


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
    """Which of the weeks `partitions` are due (``YYYY-MM-DD``, oldest first).

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
