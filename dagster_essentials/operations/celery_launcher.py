"""The run launcher of a cluster, which checks that a run's worker is still at it; named in `deploy/dagster.yaml`.

Dagster's launcher for Celery asks the result backend only, in which the task of a killed worker stays started for ever.
"""

import dagster as dg
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster_celery.launcher import CeleryRunLauncher

ANSWER_SECONDS = 3
"""A worker answers within milliseconds, also while it executes a run: another of its processes does that."""


class MonitoredCeleryRunLauncher(CeleryRunLauncher):
    """Executes runs on Celery workers, and asks these whether they still do."""

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Ask the worker that started `run` if it is at work on it.

        A worker that does not answer counts as gone. If it is only cut off, the retry of the run waits for its months.
        """
        health: CheckRunHealthResult = super().check_run_worker_health(run)
        if health.status != WorkerStatus.RUNNING:
            return health
        task = self.celery.AsyncResult(run.tags["dagster-celery/task_id"])
        worker = (task.info or {}).get("hostname") if isinstance(task.info, dict) else None
        if task.state != "STARTED" or worker is None:
            return health
        answers = self.celery.control.inspect([worker], timeout=ANSWER_SECONDS).active() or {}
        if any(active["id"] == task.id for active in answers.get(worker, ())):
            return health
        if self.celery.AsyncResult(task.id).state != "STARTED":
            return health  # It has ended between the two questions.
        return CheckRunHealthResult(
            WorkerStatus.FAILED,
            f"Its worker {worker} is gone, or has been started again. Every month is either unchanged or complete. If Dagster "
            "does not try the run again by itself, launch it again.",
        )
