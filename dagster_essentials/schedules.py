"""The schedules. `orchestration/due_partitions.py` decides which months and weeks a tick requests.

A `ScheduleDefinition` of a partitioned job, as in the course, would request the month that ended last, which is not published
for two months: each of its runs would fail.
"""

import dagster as dg

from dagster_essentials.assets.metrics import trips_by_week
from dagster_essentials.assets.trips import taxi_trips
from dagster_essentials.jobs import FLEET_TRIPS, TRIPS, report_job, weekly_update_job
from dagster_essentials.orchestration.due_partitions import due_weeks
from dagster_essentials.orchestration.month_schedules import corrections_schedule, update_schedule
from dagster_essentials.orchestration.records import last_changes
from dagster_essentials.partitions import weekly_partition
from dagster_essentials.reports.weekly import months_of_week

NEW_YORK = "America/New_York"
"""The local time of the trips and of the TLC, in which the 5th and Monday begin. By default that would be UTC."""

trip_update_schedule = update_schedule(
    TRIPS,
    cron_schedule="0 0 5 * *",
    execution_timezone=NEW_YORK,
    description="On the 5th: loads every month that the TLC has published since the newest loaded one, in a run each. It is a "
    "function, without a partition set: a schedule that Dagster builds from the job's partitions requests the newest one only, "
    "so a month that is published late would never be loaded.",
)

trip_corrections_schedule = corrections_schedule(
    TRIPS,
    name="trip_corrections_schedule",
    # On Sundays: the weeks that depend on a corrected month follow on Monday.
    cron_schedule="0 0 * * 0",
    execution_timezone=NEW_YORK,
    description="On Sundays: asks the source for every loaded month, and loads those again that the TLC has corrected.",
)


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


fleet_update_schedule = update_schedule(
    FLEET_TRIPS,
    # After the yellow month of the same day, whose trips are in trips_by_fleet as well.
    cron_schedule="0 1 5 * *",
    execution_timezone=NEW_YORK,
    description="Loads, on the 5th, every month of green, fhv and fhvhv that the TLC has published since the newest loaded "
    "one of that fleet. It asks for a month of fhv a month later than for the others, when the TLC publishes it.",
)

fleet_corrections_schedule = corrections_schedule(
    FLEET_TRIPS,
    name="fleet_corrections_schedule",
    cron_schedule="0 1 * * 0",
    execution_timezone=NEW_YORK,
    description="Asks the source, on Sundays, for every loaded month of green, fhv and fhvhv, and loads those again that the "
    "TLC has corrected.",
)

report_schedule = dg.ScheduleDefinition(
    name="report_job_schedule",
    job=report_job,
    # After Sunday's corrections.
    cron_schedule="0 2 * * 1",
    execution_timezone=NEW_YORK,
    description="Writes the page about everything that is loaded, on Mondays.",
)
