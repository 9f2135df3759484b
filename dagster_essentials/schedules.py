"""When jobs run by themselves. For which months and weeks is decided in `due_partitions.py`."""

from collections.abc import Mapping

import dagster as dg

from dagster_essentials.assets.metrics import trips_by_week
from dagster_essentials.assets.trips import taxi_trips
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.jobs import trip_update_job, weekly_update_job
from dagster_essentials.operations.lake_maintenance import lake_maintenance_job
from dagster_essentials.orchestration.due_partitions import DueMonths, due_weeks
from dagster_essentials.orchestration.records import last_changes
from dagster_essentials.orchestration.scheduled_months import (
    SINCE_TAG,
    find_corrections,
    loaded_versions,
    scheduled_months,
)
from dagster_essentials.partitions import partition_key, weekly_partition
from dagster_essentials.reports.weekly import months_of_week

NEW_YORK = "America/New_York"
"""The local time of the trips and of the TLC, in which the 5th and Monday begin. By default that would be UTC."""


@dg.schedule(
    name="trip_update_job_schedule",
    job=trip_update_job,
    cron_schedule="0 0 5 * *",
    execution_timezone=NEW_YORK,
    description="On the 5th: loads every month that the TLC has published since the newest loaded one.",
)
def trip_update_schedule(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
    """One run for each month that is due, with its partition key."""
    months = scheduled_months(context.instance, YELLOW, context.scheduled_execution_time)
    return request_months(context, {YELLOW.name: months.due()})


@dg.schedule(
    name="trip_corrections_schedule",
    job=trip_update_job,
    # On Sundays: the weeks that depend on a corrected month follow on Monday.
    cron_schedule="0 0 * * 0",
    execution_timezone=NEW_YORK,
    description="On Sundays: asks the source for every loaded month, and loads those again that the TLC has corrected.",
)
def trip_corrections_schedule(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
    """One run for each corrected month, with its partition key."""
    loaded = loaded_versions(context.instance, YELLOW, context.scheduled_execution_time)
    return request_months(context, {YELLOW.name: find_corrections(YELLOW, loaded)})


def request_months(
    context: dg.ScheduleEvaluationContext, due: Mapping[str, DueMonths]
) -> dg.SkipReason | list[dg.RunRequest]:
    """One run for each month that is `due`, by fleet. Why there are no others is the reason of the tick, or is in its log."""
    requests, reasons = [], []
    for fleet, months in due.items():
        tags = {SINCE_TAG: months.since} if months.since else {}
        keys = [partition_key(fleet, month) for month in months.months]
        requests += [dg.RunRequest(run_key=key, partition_key=key, tags=tags) for key in keys]
        if months.reason:
            reasons.append(months.reason if fleet == YELLOW.name else f"{fleet}: {months.reason}")
    if not requests:
        return dg.SkipReason(" ".join(reasons))
    for reason in reasons:
        context.log.info(reason)
    return requests


@dg.schedule(
    name="weekly_update_job_schedule",
    job=weekly_update_job,
    cron_schedule="0 0 * * 1",
    execution_timezone=NEW_YORK,
    description="On Mondays: aggregates every week whose months are all loaded and that has not been aggregated since they "
    "last changed.",
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


lake_maintenance_schedule = dg.ScheduleDefinition(
    name="lake_maintenance_job_schedule",
    job=lake_maintenance_job,
    # Not on a day of another schedule, whose runs would wait for it.
    cron_schedule="0 0 * * 3",
    execution_timezone=NEW_YORK,
    description="Merges small files of the lake and removes what is not needed any more, on Wednesdays.",
)
"""Registered only if the database is a lake."""
