"""When the job of the other fleets runs by itself. For which months is decided in `due_partitions.py`, for each fleet alone."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TypeVar

import dagster as dg

from dagster_essentials.assets.fleets import fleet_trips, fleet_trips_file
from dagster_essentials.datasets.dataset import Dataset
from dagster_essentials.datasets.fleets import FLEETS
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.due_partitions import DueCorrections, DueMonths, due_corrections, due_months
from dagster_essentials.ingestion.download import PublishedFile
from dagster_essentials.ingestion.trip_files import find_published_month, find_published_months
from dagster_essentials.jobs import fleet_update_job
from dagster_essentials.partitions import fleet_and_month, fleet_partition, monthly_partition
from dagster_essentials.recorded_months import loaded_files
from dagster_essentials.schedules import NEW_YORK, SINCE_TAG
from dagster_essentials.settings import SETTINGS

_Due = TypeVar("_Due")

_DATASETS = [FLEETS[fleet] for fleet in fleet_partition.get_partition_keys()]


@dg.schedule(
    name="fleet_update_job_schedule",
    job=fleet_update_job,
    # After the yellow month of the same day, whose trips are in trips_by_fleet as well.
    cron_schedule="0 1 5 * *",
    execution_timezone=NEW_YORK,
    description="Loads, on the 5th, every month of green, fhv and fhvhv that the TLC has published since the newest one of the "
    "fleet that is loaded. It asks for a month of fhv a month later than for the others, when the TLC publishes it.",
)
def fleet_update_schedule(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
    """One run for each month of a fleet that is due, with its partition key."""
    loaded = context.instance.get_materialized_partitions(fleet_trips.key)
    since = {dataset.name: fleet_responsible_since(context.instance, dataset) for dataset in _DATASETS}

    def find_due(dataset: Dataset) -> DueMonths:
        return due_months(
            partitions=expected_months(dataset, context.scheduled_execution_time),
            loaded=months_of(dataset, loaded),
            since=since[dataset.name],
            is_published=lambda month: find_published_month(SETTINGS.month_url(month[:7], dataset.name)) is not None,
        )

    requests, reasons = [], []
    for dataset, due in _ask_for_each_fleet(find_due):
        tags = {SINCE_TAG: due.since} if due.since else {}
        keys = [fleet_key(dataset, month) for month in due.months]
        requests += [dg.RunRequest(run_key=key, partition_key=key, tags=tags) for key in keys]
        reasons += [f"{dataset.name}: {due.reason}"] if due.reason else []
    return _requested(context, requests, reasons)


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
    loaded = {dataset.name: _loaded_files(context, dataset) for dataset in _DATASETS}

    def find_due(dataset: Dataset) -> DueCorrections:
        urls = {month: SETTINGS.month_url(month[:7], dataset.name) for month in loaded[dataset.name]}
        return due_corrections(loaded[dataset.name], find_published_months(urls))

    requests, reasons = [], []
    for dataset, due in _ask_for_each_fleet(find_due):
        keys = [fleet_key(dataset, month) for month in due.months]
        requests += [dg.RunRequest(run_key=key, partition_key=key) for key in keys]
        reasons += [f"{dataset.name}: {due.reason}"] if due.reason else []
    return _requested(context, requests, reasons)


def _loaded_files(context: dg.ScheduleEvaluationContext, dataset: Dataset) -> dict[str, PublishedFile]:
    """The versions of the files of the loaded months (``YYYY-MM-DD``) of `dataset`."""
    months = expected_months(dataset, context.scheduled_execution_time)
    partitions = {fleet_key(dataset, month): month for month in months}
    files = loaded_files(context.instance, fleet_trips.key, fleet_trips_file.key, partitions)
    return {partitions[key]: file for key, file in files.items()}


def _ask_for_each_fleet(ask: Callable[[Dataset], _Due]) -> Iterable[tuple[Dataset, _Due]]:
    """What `ask` answers for each fleet, in order.

    For all at once, because a tick has a minute: a source that does not answer takes 40 seconds of it, for each fleet.
    """
    with ThreadPoolExecutor(max_workers=len(_DATASETS)) as pool:
        return list(zip(_DATASETS, pool.map(ask, _DATASETS), strict=True))


def _requested(
    context: dg.ScheduleEvaluationContext, requests: list[dg.RunRequest], reasons: list[str]
) -> dg.SkipReason | list[dg.RunRequest]:
    """What a tick returns, with the `reasons` why nothing, or not everything, was requested."""
    if not requests:
        return dg.SkipReason(" ".join(reasons))
    for reason in reasons:
        context.log.info(reason)
    return requests


def fleet_key(dataset: Dataset, month: str) -> str:
    """The partition of a fleet and a month (``YYYY-MM-DD``)."""
    return dg.MultiPartitionKey({"fleet": dataset.name, "month": month})


def expected_months(dataset: Dataset, now: datetime) -> list[str]:
    """The months (``YYYY-MM-DD``) of `dataset` that are expected to be published at `now`, oldest first."""
    # The months of the settings are published as those of the yellow taxis. What is published a month later has the partitions
    # of the month before; to leave out the last one instead would leave out that of TAXI_END_DATE for ever.
    for _ in range(dataset.months_to_publication - YELLOW.months_to_publication):
        now = now.replace(day=1) - timedelta(days=1)
    return [
        month for month in monthly_partition.get_partition_keys(current_time=now) if month[:7] >= dataset.first_month
    ]


def months_of(dataset: Dataset, keys: Iterable[str]) -> set[str]:
    """The months (``YYYY-MM-DD``) among those `keys` that are of `dataset`."""
    return {f"{month}-01" for fleet, month in map(fleet_and_month, keys) if fleet == dataset.name}


def fleet_responsible_since(instance: dg.DagsterInstance, dataset: Dataset) -> str | None:
    """The first month that the monthly schedule is responsible for in `dataset`, by the tag of its first run for the fleet."""
    records = instance.get_run_records(
        dg.RunsFilter(
            tags={"dagster/schedule_name": fleet_update_schedule.name, "dagster/partition/fleet": dataset.name}
        ),
        ascending=True,
    )
    return next((tags[SINCE_TAG] for record in records if SINCE_TAG in (tags := record.dagster_run.tags)), None)
