"""Ticks of schedules at a time that a test chooses."""

from collections.abc import Sequence
from datetime import datetime

import dagster as dg

from dagster_essentials import defs


def tick(
    instance: dg.DagsterInstance, at: datetime, schedule: dg.ScheduleDefinition
) -> tuple[Sequence[dg.RunRequest], str | None]:
    """The run requests of a tick of `schedule` at `at`, and the reason if it skips."""
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=at, repository_def=defs.get_repository_def()
    ) as context:
        result = schedule.evaluate_tick(context)
    return result.run_requests or [], result.skip_message
