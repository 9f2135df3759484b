"""When jobs run by themselves. For which months and weeks is decided in `due_partitions.py`."""

from datetime import datetime, timedelta, timezone

import dagster as dg

from dagster_essentials.assets.metrics import trips_by_week
from dagster_essentials.assets.trips import taxi_trips, taxi_trips_file
from dagster_essentials.due_partitions import Tick, due_corrections, due_months, due_weeks
from dagster_essentials.ingestion.trip_files import find_published_month, find_published_months
from dagster_essentials.jobs import trip_update_job, weekly_update_job
from dagster_essentials.partitions import monthly_partition, weekly_partition
from dagster_essentials.recorded_months import last_changes, loaded_files
from dagster_essentials.reports.weekly import months_of_week
from dagster_essentials.settings import SETTINGS

SINCE_TAG = "taxi/since"
"""On each run of the schedule: the first month that it is responsible for (``YYYY-MM-DD``).

From that month on it asks for every month until it is loaded, also for one whose run failed or that was published after a
newer one. By the newest loaded month alone, such a month would count as an old gap and stay missing forever.
"""


NEW_YORK = "America/New_York"
"""The local time of the trips and of the TLC, in which the 5th and Monday begin. By default that would be UTC."""


@dg.schedule(
    name="trip_update_job_schedule",
    job=trip_update_job,
    cron_schedule="0 0 5 * *",
    execution_timezone=NEW_YORK,
    description="Loads, on the 5th, every month that the TLC has published since the newest one that is loaded.",
)
def trip_update_schedule(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
    """One run for each month that is due, with its partition key."""
    due = due_months(
        partitions=monthly_partition.get_partition_keys(current_time=context.scheduled_execution_time),
        loaded=context.instance.get_materialized_partitions(taxi_trips.key),
        since=responsible_since(context.instance),
        is_published=is_month_published,
    )
    if not due.months:
        return dg.SkipReason(due.reason)
    if due.reason:
        context.log.info(due.reason)
    tags = {SINCE_TAG: due.since} if due.since else {}
    return [dg.RunRequest(run_key=month, partition_key=month, tags=tags) for month in due.months]


def is_month_published(month: str, attempts: int = 2) -> bool:
    """Whether the source has the file of `month` (``YYYY-MM-DD``).

    Raises:
        DownloadError: the source gave no clear answer.
    """
    return find_published_month(SETTINGS.month_url(month[:7]), attempts) is not None


def responsible_since(instance: dg.DagsterInstance) -> str | None:
    """The first month that the monthly schedule is responsible for, by the tag of its first tagged run.

    The course's schedule has the same name, but sets no tag.
    """
    records = instance.get_run_records(
        dg.RunsFilter(tags={"dagster/schedule_name": trip_update_schedule.name}), ascending=True
    )
    return next((tags[SINCE_TAG] for record in records if SINCE_TAG in (tags := record.dagster_run.tags)), None)


def last_tick(instance: dg.DagsterInstance, now: datetime) -> Tick | None:
    """The last tick of the monthly schedule that ended at least a day before `now`; None if it is off or had none.

    After downtime a tick is made up for, under the time it was due at: what counts is when it ended. A day is enough for
    the runs that it requested.
    """
    ended_before = (now - timedelta(days=1)).timestamp()
    for state in instance.all_instigator_state():
        if state.instigator_name == trip_update_schedule.name and state.status.value == "RUNNING":
            # Newest first; those of the last day do not count, and Dagster may have made up for several at once.
            for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=10):
                if tick.end_timestamp is not None and tick.end_timestamp < ended_before:
                    at = datetime.fromtimestamp(tick.timestamp, timezone.utc)
                    return Tick(at.date(), monthly_partition.get_partition_keys(current_time=at))
    return None


@dg.schedule(
    name="trip_corrections_schedule",
    job=trip_update_job,
    # On Sundays: the weeks that depend on a corrected month follow on Monday.
    cron_schedule="0 0 * * 0",
    execution_timezone=NEW_YORK,
    description="Asks the source, on Sundays, for every loaded month, and loads those again that the TLC has corrected.",
)
def trip_corrections_schedule(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
    """One run for each corrected month, with its partition key."""
    partitions = monthly_partition.get_partition_keys(current_time=context.scheduled_execution_time)
    loaded = loaded_files(context.instance, taxi_trips.key, taxi_trips_file.key, partitions)
    due = due_corrections(loaded, find_published_months({month: SETTINGS.month_url(month[:7]) for month in loaded}))
    if not due.months:
        return dg.SkipReason(due.reason)
    if due.reason:
        context.log.info(due.reason)
    return [dg.RunRequest(run_key=month, partition_key=month) for month in due.months]


@dg.schedule(
    name="weekly_update_job_schedule",
    job=weekly_update_job,
    cron_schedule="0 0 * * 1",
    execution_timezone=NEW_YORK,
    description="Aggregates, on Mondays, every week whose months are loaded and that is not aggregated yet, or was before one "
    "of its months changed.",
)
def weekly_update_schedule(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
    """One run for each week that is due, with its partition key."""
    materialization = dg.DagsterEventType.ASSET_MATERIALIZATION
    due = due_weeks(
        partitions=weekly_partition.get_partition_keys(current_time=context.scheduled_execution_time),
        months=months_of_week,
        loaded=last_changes(context.instance, taxi_trips.key),
        computed=context.instance.get_latest_storage_id_by_partition(trips_by_week.key, materialization),
    )
    if not due.weeks:
        return dg.SkipReason(due.reason)
    return [dg.RunRequest(run_key=week, partition_key=week) for week in due.weeks]
