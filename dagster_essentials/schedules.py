"""When jobs run by themselves, and for which months and weeks.

What is due is decided by `due_months` and `due_weeks`, by plain values; the schedules only ask Dagster and the source for
them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from dagster_essentials import source
from dagster_essentials.assets.metrics import trips_by_week
from dagster_essentials.assets.trips import taxi_trips, trips_url
from dagster_essentials.jobs import trip_update_job, weekly_update_job
from dagster_essentials.partitions import monthly_partition, months_of_week, weekly_partition
from dagster_essentials.source import SourceError

MONTHS_LOOKED_BACK = 12
"""How far a first tick looks for a published month. The longest delay on record is 83 days after a month's end."""

SINCE_TAG = "taxi/since"
"""On each run of the schedule: the first month that it is in charge of (``YYYY-MM-DD``).

From there on it asks for every month until it is loaded, also for one whose run failed or that was published after a
newer one. Going by the newest loaded month alone, such a month would count as an old gap and stay missing for ever.
"""


@dataclass(frozen=True)
class Due:
    """The months to load now, oldest first; the first month that the schedule is in charge of; what a person should know."""

    months: Sequence[str]
    since: str | None
    reason: str


def due_months(
    partitions: Sequence[str], loaded: Collection[str], since: str | None, is_published: Callable[[str], bool]
) -> Due:
    """Which of the `partitions` are due (all months as ``YYYY-MM-DD``, oldest first).

    It is every published month from `since` on that is not loaded. At first, when `since` is None, that is the one after
    the newest loaded month; with nothing loaded at all, it is the newest published month. Older gaps are left alone: who
    wants history launches a backfill.
    """
    if not partitions:
        return Due([], since, "No month is due: the first month of the settings is not a partition yet.")
    if since is None and not loaded:
        recent = partitions[-MONTHS_LOOKED_BACK:]
        for month in reversed(recent):
            if is_published(month):
                return Due(
                    [month], month, f"Nothing is loaded yet: starting with {month[:7]}, the newest published month."
                )
        return Due(
            [], None, f"Nothing is loaded yet, and no month from {recent[0][:7]} to {recent[-1][:7]} is published."
        )
    if since is None:
        newest = max(loaded)
        since = next((month for month in partitions if month > newest), None)
    missing = [month for month in partitions if since is not None and month >= since and month not in loaded]
    if not missing:
        return Due([], since, f"Nothing to load: the newest month so far, {partitions[-1][:7]}, is loaded already.")
    published = [month for month in missing if is_published(month)]
    waiting = ", ".join(month[:7] for month in missing if month not in published)
    return Due(published, since, f"Not published yet: {waiting}. The next tick asks again." if waiting else "")


@dg.schedule(
    name="trip_update_job_schedule",
    job=trip_update_job,
    cron_schedule="0 0 5 * *",
    description="Loads, on the 5th, every month that the TLC has published since the newest one that is loaded.",
)
def trip_update_schedule(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
    """One run for each month that is due, with its partition key."""
    troubles: list[str] = []

    def is_published(month: str) -> bool:
        if troubles:
            return False
        try:
            return source.is_published(trips_url(month[:7]))
        except SourceError as error:
            address = source.shown(trips_url(month[:7]))
            troubles.append(
                f"Could not ask the source about {month[:7]} ({address}): {error} The next tick asks again."
            )
            return False

    due = due_months(
        partitions=monthly_partition.get_partition_keys(current_time=context.scheduled_execution_time),
        loaded=context.instance.get_materialized_partitions(taxi_trips.key),
        since=_since(context.instance),
        is_published=is_published,
    )
    reason = troubles[0] if troubles else due.reason
    if not due.months:
        return dg.SkipReason(reason)
    if reason:
        context.log.info(reason)
    tags = {SINCE_TAG: due.since} if due.since else {}
    return [dg.RunRequest(run_key=month, partition_key=month, tags=tags) for month in due.months]


def _since(instance: dg.DagsterInstance) -> str | None:
    """What the schedule's first tagged run says. The course's schedule has the same name, and leaves runs without a tag."""
    records = instance.get_run_records(
        dg.RunsFilter(tags={"dagster/schedule_name": "trip_update_job_schedule"}), ascending=True
    )
    return next((tags[SINCE_TAG] for record in records if SINCE_TAG in (tags := record.dagster_run.tags)), None)


@dataclass(frozen=True)
class DueWeeks:
    """The weeks to add up now (their Sundays), newest first, and what a person should know."""

    weeks: Sequence[str]
    reason: str


def due_weeks(
    partitions: Sequence[str],
    months: Callable[[str], Sequence[str]],
    loaded: Mapping[str, int],
    computed: Mapping[str, int],
) -> DueWeeks:
    """Which of the weeks `partitions` are due (``YYYY-MM-DD``, oldest first).

    It is every week whose `months` are all in `loaded`, and that is not in `computed` or was before one of its months was
    loaded again. The values of both are places in Dagster's event log: a higher one is later.
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
        return DueWeeks([], "No week is due: of no week all months are loaded.")
    reason = "Nothing to do: every week whose months are loaded is added up."
    if waiting and (lacking := [month[:7] for month in months(waiting[0]) if month not in loaded]):
        reason += f" The newest, of {waiting[0]}, waits for {' and '.join(lacking)}."
    return DueWeeks([], reason)


@dg.schedule(
    name="weekly_update_job_schedule",
    job=weekly_update_job,
    cron_schedule="0 0 * * 1",
    description="Adds up, on Mondays, every week whose months are loaded and that is not added up yet, or was before one of "
    "its months was loaded again.",
)
def weekly_update_schedule(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
    """One run for each week that is due, with its partition key."""
    materialization = dg.DagsterEventType.ASSET_MATERIALIZATION
    due = due_weeks(
        partitions=weekly_partition.get_partition_keys(current_time=context.scheduled_execution_time),
        months=months_of_week,
        loaded=context.instance.get_latest_storage_id_by_partition(taxi_trips.key, materialization),
        computed=context.instance.get_latest_storage_id_by_partition(trips_by_week.key, materialization),
    )
    if not due.weeks:
        return dg.SkipReason(due.reason)
    return [dg.RunRequest(run_key=week, partition_key=week) for week in due.weeks]
