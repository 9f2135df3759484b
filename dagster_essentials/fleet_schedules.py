"""When the job of the other fleets runs by itself: as in `schedules.py`, for each fleet independently of the others."""

from functools import partial

import dagster as dg

from dagster_essentials.datasets.fleets import FLEETS
from dagster_essentials.jobs import fleet_update_job
from dagster_essentials.orchestration.scheduled_months import (
    ask_for_each,
    find_corrections,
    loaded_versions,
    scheduled_months,
)
from dagster_essentials.partitions import fleet_partition
from dagster_essentials.schedules import NEW_YORK, request_months

_DATASETS = [FLEETS[fleet] for fleet in fleet_partition.get_partition_keys()]


@dg.schedule(
    name="fleet_update_job_schedule",
    job=fleet_update_job,
    # After the yellow month of the same day, whose trips are in trips_by_fleet as well.
    cron_schedule="0 1 5 * *",
    execution_timezone=NEW_YORK,
    description="Loads, on the 5th, every month of green, fhv and fhvhv that the TLC has published since the newest loaded "
    "one of that fleet. It asks for a month of fhv a month later than for the others, when the TLC publishes it.",
)
def fleet_update_schedule(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
    """One run for each month of a fleet that is due, with its partition key."""
    now = context.scheduled_execution_time
    months = {dataset.name: scheduled_months(context.instance, dataset, now) for dataset in _DATASETS}
    return request_months(context, ask_for_each({fleet: months[fleet].due for fleet in months}))


@dg.schedule(
    name="fleet_corrections_schedule",
    job=fleet_update_job,
    cron_schedule="0 1 * * 0",
    execution_timezone=NEW_YORK,
    description="Asks the source, on Sundays, for every loaded month of green, fhv and fhvhv, and loads those again that the "
    "TLC has corrected.",
)
def fleet_corrections_schedule(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
    """One run for each corrected month of a fleet, with its partition key."""
    now = context.scheduled_execution_time
    loaded = {dataset.name: loaded_versions(context.instance, dataset, now) for dataset in _DATASETS}
    return request_months(
        context, ask_for_each({fleet: partial(find_corrections, FLEETS[fleet], loaded[fleet]) for fleet in loaded})
    )
