"""Dagster's scheduler and run queue in a process of their own, by a clock that whoever starts it sets.

    python -m chaos.scheduler

When it has loaded the project it writes the line ``done``. It takes commands from its input, a line each, and answers
each with the same line: ``start TIME``, ``wipe TIME``, ``evaluate TIME [POINT]`` and ``work``. Times are written in ISO
8601, with their offset. Nothing is decided here.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import dagster as dg
from dagster._core.test_utils import create_test_daemon_workspace_context, freeze_time
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._scheduler.scheduler import ScheduleIterationTimes, launch_scheduled_runs

SCHEDULES = ("trip_update_job_schedule", "weekly_update_job_schedule")
CRASH_POINTS = ("TICK_CREATED", "TICK_HELD", "RUN_CREATED", "RUN_LAUNCHED", "RUN_ADDED", "TICK_SUCCESS")
"""Where Dagster's scheduler can be told to die, in the order in which it comes there."""


class Scheduler:
    """What the daemon of `dagster dev` does for schedules and queued runs, as long as it lives.

    It is not that daemon itself because the clock of that one cannot be set: it would evaluate, by today's date, what the
    years since have missed.
    """

    def __init__(self, workspace: WorkspaceProcessContext):
        self.workspace = workspace
        # What the daemon keeps in its memory from one look at the clock to the next.
        self._iteration_times: dict[str, ScheduleIterationTimes] = {}
        self._queue = QueuedRunCoordinatorDaemon(interval_seconds=1)

    def start(self, now: datetime) -> None:
        """Turn the schedules on, as a person does in the UI."""
        with freeze_time(now):
            (location,) = self.workspace.create_request_context().code_locations
            (repository,) = location.get_repositories().values()
            for name in SCHEDULES:
                self.workspace.instance.start_schedule(repository.get_schedule(name))

    def wipe(self, now: datetime) -> None:
        """Forget all schedules and their ticks, as `dagster schedule wipe` does, and turn them on again."""
        self.workspace.instance.wipe_all_schedules()
        self._iteration_times.clear()
        self.start(now)

    def evaluate(self, now: datetime, crash: str | None = None) -> None:
        """Look at the clock once: evaluate the ticks that have come, and queue the runs that they ask for.

        The process kills itself when it comes to the point `crash`.
        """
        with freeze_time(now):
            for error in launch_scheduled_runs(
                self.workspace,
                logging.getLogger("dagster"),
                now,
                self._iteration_times,
                debug_crash_flags={name: {crash: signal.SIGKILL} for name in SCHEDULES} if crash else None,
            ):
                if error is not None:
                    raise RuntimeError(f"Dagster's scheduler caught an error: {error}")

    def work(self) -> None:
        """Launch the queued runs, as many at a time as the instance allows, until all have ended."""
        unfinished = dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
        )
        while self.workspace.instance.get_runs_count(unfinished):
            for _ in self._queue.run_iteration(self.workspace):
                pass
            time.sleep(0.2)


@contextmanager
def scheduler() -> Iterator[Scheduler]:
    """The scheduler of the project and the instance in the current folder."""
    with (
        dg.DagsterInstance.from_config(".dagster") as instance,
        create_test_daemon_workspace_context(WorkspaceFileTarget(["workspace.yaml"]), instance) as workspace,
    ):
        yield Scheduler(workspace)


def main() -> None:
    # Logs, also those of the processes that are started here, go elsewhere than the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with scheduler() as it:
        print("done", file=answers)
        commands = {"start": it.start, "wipe": it.wipe, "evaluate": it.evaluate}
        for line in sys.stdin:
            command, *rest = line.split()
            if command == "work":
                it.work()
            else:
                commands[command](datetime.fromisoformat(rest[0]), *rest[1:])
            print("done", file=answers)


if __name__ == "__main__":
    main()
