"""The run launcher, which checks that a run's process is still alive; named in `.dagster/dagster.yaml`.

Dagster's own launcher leaves that to the code server. When the whole of `dagster dev` is killed, or the machine goes
down, the code server is gone too: its runs would stay "started" forever, and block the queue.
"""

import dagster as dg
import psutil
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus


class LocalRunLauncher(dg.DefaultRunLauncher):
    """The default launcher, for runs on this machine, with a health check of each run's process."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Check that the process that logged the start of `run` still runs."""
        starts = self._instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.RUN_START, limit=1).records
        event = starts[0].event_log_entry.dagster_event if starts else None
        if event is None or event.pid is None or _is_alive(event.pid, starts[0].event_log_entry.timestamp):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(
            WorkerStatus.FAILED,
            f"Its process, {event.pid}, is gone: killed, or the machine went down. Every month is either unchanged or "
            "complete. If Dagster does not try the run again by itself, launch it again.",
        )


def _is_alive(pid: int, since: float) -> bool:
    """True if the process `pid` runs, and did so at the time `since` (seconds since 1970)."""
    try:
        process = psutil.Process(pid)
        # A zombie has ended; its parent has not collected it yet. After a restart of the machine, another process may
        # have the id. The 30 seconds allow for adjustments of the clock.
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < since + 30
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
