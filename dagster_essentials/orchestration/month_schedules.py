"""The schedules of a monthly table: new months, and months that the source has corrected; and its months that are late.

`due_partitions.py` decides on what is collected here: Dagster's records, and the source's answers.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import dagster as dg

from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.ingestion.download import PublishedFile
from dagster_essentials.ingestion.month_files import find_published_month, find_published_months
from dagster_essentials.orchestration.due_partitions import DueMonths, Tick, due_corrections, due_months, late_months
from dagster_essentials.orchestration.monthly_table import MonthlyTable
from dagster_essentials.orchestration.records import loaded_files

SINCE_TAG = "taxi/since"
"""On each run of a monthly schedule: the first month that it is responsible for (``YYYY-MM-DD``).

From that month on it asks for every month until it is loaded, also for one whose run failed or that was published after a
newer one. By the newest loaded month alone, such a month would count as an old gap and stay missing forever.
"""

_Answer = TypeVar("_Answer")


def update_schedule(
    table: MonthlyTable, cron_schedule: str, execution_timezone: str, description: str
) -> dg.ScheduleDefinition:
    """A schedule that requests a run for each published month that is not loaded, since the newest loaded one."""

    @dg.schedule(
        name=table.schedule_name,
        job=table.job,
        cron_schedule=cron_schedule,
        execution_timezone=execution_timezone,
        description=description,
    )
    def request_new_months(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
        now = context.scheduled_execution_time
        # Dagster's records are read here: an instance is not for several threads.
        months = [scheduled_months(context.instance, table, dataset, now) for dataset in table.datasets]
        return _request_months(context, table, _for_each(ScheduledMonths.due, months))

    return request_new_months


def corrections_schedule(
    table: MonthlyTable, name: str, cron_schedule: str, execution_timezone: str, description: str
) -> dg.ScheduleDefinition:
    """A schedule that requests a run for each loaded month of which the source has another version."""

    @dg.schedule(
        name=name,
        job=table.job,
        cron_schedule=cron_schedule,
        execution_timezone=execution_timezone,
        description=description,
    )
    def request_corrected_months(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
        now = context.scheduled_execution_time
        loaded = [_loaded_files(context.instance, table, dataset, now) for dataset in table.datasets]
        return _request_months(context, table, _for_each(find_corrections, loaded))

    return request_corrected_months


def _request_months(
    context: dg.ScheduleEvaluationContext, table: MonthlyTable, due: Sequence[DueMonths]
) -> dg.SkipReason | list[dg.RunRequest]:
    """One run for each month that is `due`, by dataset. Why there are no others is the reason of the tick, or is in its log."""
    requests, reasons = [], []
    for dataset, months in zip(table.datasets, due, strict=True):
        tags = {SINCE_TAG: months.since} if months.since else {}
        keys = [table.partition_key(dataset, month) for month in months.months]
        requests += [dg.RunRequest(run_key=key, partition_key=key, tags=tags) for key in keys]
        if months.reason:
            reasons.append(f"{dataset.name}: {months.reason}" if len(table.datasets) > 1 else months.reason)
    if not requests:
        return dg.SkipReason(" ".join(reasons))
    for reason in reasons:
        context.log.info(reason)
    return requests


@dataclass(frozen=True)
class ScheduledMonths:
    """Dagster's records of the months of a dataset (``YYYY-MM-DD``), and what follows once the source is asked.

    Attributes:
        expected: those that should be published by now, oldest first.
        loaded: those that have been materialized.
        since: the first one that the monthly schedule is responsible for, None before its first run.
        address: where the source has the file of a month.
    """

    dataset: Dataset
    expected: Sequence[str]
    loaded: Collection[str]
    since: str | None
    address: Callable[[str], str]

    def due(self) -> DueMonths:
        """The months to load now."""
        return due_months(self.expected, self.loaded, self.since, self._is_published)

    def late(self, last_tick: Tick, now: datetime, reported: Collection[str]) -> dict[str, str]:
        """The months that are late and not `reported`, with the reasons."""
        return late_months(
            self.expected,
            self.loaded,
            reported=reported,
            since=self.since,
            last_tick=last_tick,
            today=now.date(),
            # Once, because a tick has a minute for all of them; tomorrow there is another one.
            is_published=lambda month: self._is_published(month, attempts=1),
            longest_delay_days=self.dataset.longest_delay_days,
        )

    def _is_published(self, month: str, attempts: int = 2) -> bool:
        return find_published_month(self.address(month), attempts) is not None


def scheduled_months(
    instance: dg.DagsterInstance, table: MonthlyTable, dataset: Dataset, now: datetime
) -> ScheduledMonths:
    """The months of `dataset` at `now`."""
    return ScheduledMonths(
        dataset,
        expected=table.expected_months(dataset, now),
        loaded=table.months_of(dataset, instance.get_materialized_partitions(table.rows.key)),
        since=responsible_since(instance, table, dataset),
        address=_address(table, dataset),
    )


def _address(table: MonthlyTable, dataset: Dataset) -> Callable[[str], str]:
    return lambda month: table.month_file(table.partition_key(dataset, month)).url


def responsible_since(instance: dg.DagsterInstance, table: MonthlyTable, dataset: Dataset) -> str | None:
    """The first month that the monthly schedule is responsible for in `dataset`, by the tag of its first tagged run.

    The course's schedule has the same name, but sets no tag.
    """
    records = instance.get_run_records(
        dg.RunsFilter(tags={"dagster/schedule_name": table.schedule_name}), ascending=True
    )
    for record in records:
        tags = record.dagster_run.tags
        if SINCE_TAG in tags and table.month_file(tags["dagster/partition"]).dataset is dataset:
            return tags[SINCE_TAG]
    return None


def last_tick(instance: dg.DagsterInstance, table: MonthlyTable, dataset: Dataset, now: datetime) -> Tick | None:
    """The last tick of the monthly schedule that ended at least a day before `now`; None if it is off or had none.

    After downtime a tick is made up for, under the time it was due at: what counts is when it ended. A day is enough for
    the runs that it requested.
    """
    ended_before = (now - timedelta(days=1)).timestamp()
    for state in instance.all_instigator_state():
        if state.instigator_name == table.schedule_name and state.status.value == "RUNNING":
            # Newest first; those of the last day do not count, and Dagster may have made up for several at once.
            for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=10):
                if tick.end_timestamp is not None and tick.end_timestamp < ended_before:
                    at = datetime.fromtimestamp(tick.timestamp, UTC)
                    return Tick(at.date(), table.expected_months(dataset, at))
    return None


def find_late_months(
    instance: dg.DagsterInstance, tables: Sequence[MonthlyTable], now: datetime, reported: Mapping[str, Collection[str]]
) -> dict[str, dict[str, str]] | None:
    """The partitions of each table that are late and not `reported`, with the reasons, by the name of the table's asset.

    None if there is no `last_tick` of a schedule of any of them.
    """
    questions = []
    for table in tables:
        for dataset in table.datasets:
            if tick := last_tick(instance, table, dataset, now):
                known = table.months_of(dataset, reported.get(table.rows.key.to_user_string(), ()))
                questions.append((table, scheduled_months(instance, table, dataset, now), tick, known))
    if not questions:
        return None
    late: dict[str, dict[str, str]] = {}
    answers = _for_each(lambda question: question[1].late(question[2], now, question[3]), questions)
    for (table, months, *_), reasons in zip(questions, answers, strict=True):
        of_table = late.setdefault(table.rows.key.to_user_string(), {})
        of_table |= {table.partition_key(months.dataset, month): reason for month, reason in reasons.items()}
    return late


@dataclass(frozen=True)
class LoadedFiles:
    """The version of the file of each loaded month (``YYYY-MM-DD``), and where the source has it."""

    files: Mapping[str, PublishedFile]
    addresses: Mapping[str, str]


def _loaded_files(instance: dg.DagsterInstance, table: MonthlyTable, dataset: Dataset, now: datetime) -> LoadedFiles:
    keys = {table.partition_key(dataset, month): month for month in table.expected_months(dataset, now)}
    files = loaded_files(instance, table.rows.key, table.files.key, keys)
    return LoadedFiles(
        {keys[key]: file for key, file in files.items()}, {keys[key]: table.month_file(key).url for key in files}
    )


def find_corrections(loaded: LoadedFiles) -> DueMonths:
    """Ask the source which of the `loaded` months it has corrected."""
    return due_corrections(loaded.files, find_published_months(loaded.addresses))


_Question = TypeVar("_Question")


def _for_each(ask: Callable[[_Question], _Answer], questions: Sequence[_Question]) -> list[_Answer]:
    """Ask about all datasets in parallel: a tick has a minute, and a source that does not answer takes 40 seconds of it."""
    with ThreadPoolExecutor(max_workers=len(questions)) as pool:
        return list(pool.map(ask, questions))
