"""Ticks of schedules at a time, and of the months of a range, that a test chooses."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import dagster as dg

from dagster_essentials import defs
from dagster_essentials.orchestration.monthly_table import MonthlyTable


def tick(
    instance: dg.DagsterInstance, at: datetime, schedule: dg.ScheduleDefinition
) -> tuple[Sequence[dg.RunRequest], str | None]:
    """The run requests of a tick of `schedule` at `at`, and the reason if it skips."""
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=at, repository_def=defs.get_repository_def()
    ) as context:
        result = schedule.evaluate_tick(context)
    return result.run_requests or [], result.skip_message


def with_months(table: MonthlyTable, months: dg.TimeWindowPartitionsDefinition) -> MonthlyTable:
    """`table` as it is if the settings give these `months`."""
    partitions: dg.PartitionsDefinition[str] = months
    if isinstance(table.partitions, dg.MultiPartitionsDefinition):
        dimensions = {each.name: each.partitions_def for each in table.partitions.partitions_defs}
        partitions = dg.MultiPartitionsDefinition({**dimensions, "month": months})
    files, rows = dg.map_asset_specs(
        lambda spec: spec.replace_attributes(partitions_def=partitions), [table.files, table.rows]
    )
    return replace(table, files=files, rows=rows, months=months)
