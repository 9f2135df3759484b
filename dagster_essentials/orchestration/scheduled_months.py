"""The months of a dataset, as its monthly schedule sees them: expected, loaded, due, corrected or late.

`due_partitions.py` decides. Here is asked what that depends on: Dagster for what it has recorded, and the source for what it
has published.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TypeVar

import dagster as dg

from dagster_essentials import settings
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.ingestion.download import PublishedFile
from dagster_essentials.ingestion.trip_files import find_published_month, find_published_months
from dagster_essentials.orchestration.due_partitions import DueMonths, Tick, due_corrections, due_months, late_months
from dagster_essentials.orchestration.records import loaded_files
from dagster_essentials.partitions import fleet_and_month, monthly_partition, partition_key

SINCE_TAG = "taxi/since"
"""On each run of a monthly schedule: the first month that it is responsible for (``YYYY-MM-DD``).

From that month on it asks for every month until it is loaded, also for one whose run failed or that was published after a
newer one. By the newest loaded month alone, such a month would count as an old gap and stay missing forever.
"""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class ScheduledMonths:
    """What Dagster has recorded of the months of `dataset` (``YYYY-MM-DD``), and what follows once the source is asked.

    Attributes:
        expected: those that should be published by now, oldest first.
        loaded: those that have been materialized.
        since: the first one that the monthly schedule is responsible for, None before its first run.
    """

    dataset: Dataset
    expected: Sequence[str]
    loaded: Collection[str]
    since: str | None

    def due(self) -> DueMonths:
        """The months to load now."""
        return due_months(self.expected, self.loaded, self.since, self._is_published)

    def late(self, last_tick: Tick, now: datetime, reported: Collection[str]) -> dict[str, str]:
        """The partitions that are late and not `reported`, with the reasons."""
        late = late_months(
            self.expected,
            self.loaded,
            reported=_months_of(self.dataset, reported),
            since=self.since,
            last_tick=last_tick,
            today=now.date(),
            # Once, because a tick has a minute for all of them; tomorrow there is another one.
            is_published=lambda month: self._is_published(month, attempts=1),
            longest_delay_days=self.dataset.longest_delay_days,
        )
        return {partition_key(self.dataset.name, month): reason for month, reason in late.items()}

    def _is_published(self, month: str, attempts: int = 2) -> bool:
        return find_published_month(_url(self.dataset, month), attempts) is not None


def scheduled_months(instance: dg.DagsterInstance, dataset: Dataset, now: datetime) -> ScheduledMonths:
    """The months of `dataset` at `now`."""
    return ScheduledMonths(
        dataset,
        expected=expected_months(dataset, now),
        loaded=_months_of(dataset, instance.get_materialized_partitions(dg.AssetKey(dataset.table_asset))),
        since=responsible_since(instance, dataset),
    )


def expected_months(dataset: Dataset, now: datetime) -> list[str]:
    """The months (``YYYY-MM-DD``) of `dataset` that are expected to be published at `now`, oldest first."""
    # The months of the settings are published as those of the yellow taxis. What is published a month later has the partitions
    # of the month before; to leave out the last one instead would leave out that of TAXI_END_DATE for ever.
    for _ in range(dataset.months_to_publication - YELLOW.months_to_publication):
        now = now.replace(day=1) - timedelta(days=1)
    return [
        month for month in monthly_partition.get_partition_keys(current_time=now) if month[:7] >= dataset.first_month
    ]


def _months_of(dataset: Dataset, partitions: Iterable[str]) -> set[str]:
    return {f"{month}-01" for fleet, month in map(fleet_and_month, partitions) if fleet == dataset.name}


def responsible_since(instance: dg.DagsterInstance, dataset: Dataset) -> str | None:
    """The first month that the monthly schedule is responsible for in `dataset`, by the tag of its first tagged run.

    The course's schedule has the same name, but sets no tag.
    """
    of_dataset = {"dagster/schedule_name": _schedule_name(dataset)}
    if dataset is not YELLOW:
        of_dataset["dagster/partition/fleet"] = dataset.name
    records = instance.get_run_records(dg.RunsFilter(tags=of_dataset), ascending=True)
    return next((tags[SINCE_TAG] for record in records if SINCE_TAG in (tags := record.dagster_run.tags)), None)


def last_tick(instance: dg.DagsterInstance, dataset: Dataset, now: datetime) -> Tick | None:
    """The last tick of the monthly schedule of `dataset` that ended at least a day before `now`; None if it is off or had none.

    After downtime a tick is made up for, under the time it was due at: what counts is when it ended. A day is enough for
    the runs that it requested.
    """
    ended_before = (now - timedelta(days=1)).timestamp()
    for state in instance.all_instigator_state():
        if state.instigator_name == _schedule_name(dataset) and state.status.value == "RUNNING":
            # Newest first; those of the last day do not count, and Dagster may have made up for several at once.
            for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=10):
                if tick.end_timestamp is not None and tick.end_timestamp < ended_before:
                    at = datetime.fromtimestamp(tick.timestamp, timezone.utc)
                    return Tick(at.date(), expected_months(dataset, at))
    return None


def _schedule_name(dataset: Dataset) -> str:
    return f"{dataset.job}_schedule"


def find_late_months(
    instance: dg.DagsterInstance, datasets: Sequence[Dataset], now: datetime, reported: Collection[str]
) -> dict[str, str] | None:
    """The partitions of the `datasets` that are late and not `reported`, with the reasons.

    None if there is no `last_tick` of a schedule of any of them.
    """
    ticks = [(dataset, tick) for dataset in datasets if (tick := last_tick(instance, dataset, now))]
    if not ticks:
        return None
    late = ask_for_each(
        {
            dataset.name: partial(scheduled_months(instance, dataset, now).late, tick, now, reported)
            for dataset, tick in ticks
        }
    )
    return {key: reason for reasons in late.values() for key, reason in reasons.items()}


def loaded_versions(instance: dg.DagsterInstance, dataset: Dataset, now: datetime) -> dict[str, PublishedFile]:
    """The version of the file of each month (``YYYY-MM-DD``) of `dataset` that is loaded at `now`."""
    partitions = {partition_key(dataset.name, month): month for month in expected_months(dataset, now)}
    files = loaded_files(instance, dg.AssetKey(dataset.table_asset), dg.AssetKey(dataset.file_asset), partitions)
    return {partitions[key]: file for key, file in files.items()}


def find_corrections(dataset: Dataset, loaded: Mapping[str, PublishedFile]) -> DueMonths:
    """Ask the source which of the `loaded` months it has corrected."""
    return due_corrections(loaded, find_published_months({month: _url(dataset, month) for month in loaded}))


def ask_for_each(questions: Mapping[str, Callable[[], _Answer]]) -> dict[str, _Answer]:
    """What the source answers to the question about each dataset, by the dataset's name.

    They are asked at once, because a tick has a minute: a source that does not answer takes 40 seconds of it, each time.
    """
    with ThreadPoolExecutor(max_workers=len(questions)) as pool:
        return dict(zip(questions, pool.map(lambda ask: ask(), questions.values()), strict=True))


def _url(dataset: Dataset, month: str) -> str:
    return settings.SETTINGS.month_url(month[:7], dataset.name)
