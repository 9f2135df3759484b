"""Dagster's scheduler and run queue in a process of their own, with a clock that is set by commands.

    python -m dagster_essentials_tests.chaos.scheduler

It writes the line ``done`` when it has loaded the project, and after each command that it reads from its input, one per
line: ``start TIME``, ``wipe TIME``, ``evaluate TIME [POINT]`` and ``launch``. Times are in ISO 8601, with their offset.
Nothing is decided here.
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
"""The places where Dagster's scheduler can be told to crash, in the order in which it reaches them."""


class Scheduler:
    """A stand-in for the daemon of `dagster dev`, for schedules and queued runs.

    The clock of that daemon cannot be set: it would evaluate the ticks of all years until today.
    """

    def __init__(self, workspace: WorkspaceProcessContext):
        self.workspace = workspace
        # What the daemon keeps in memory from one iteration to the next.
        self._iteration_times: dict[str, ScheduleIterationTimes] = {}
        self._queue = QueuedRunCoordinatorDaemon(interval_seconds=1)

    def start(self, now: datetime) -> None:
        """Turn on the schedules, as a person does in the UI."""
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
        """Evaluate the ticks that are due at `now`, and queue the runs that they request.

        The process kills itself when it reaches the point `crash`.
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
                    raise RuntimeError(f"an error in Dagster's scheduler: {error}")

    def launch(self) -> None:
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
    # Logs, also those of child processes, go to the standard error: the output is for the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with scheduler() as it:
        print("done", file=answers)
        commands = {"start": it.start, "wipe": it.wipe, "evaluate": it.evaluate}
        for line in sys.stdin:
            command, *rest = line.split()
            if command == "launch":
                it.launch()
            else:
                commands[command](datetime.fromisoformat(rest[0]), *rest[1:])
            print("done", file=answers)


if __name__ == "__main__":
    main()
