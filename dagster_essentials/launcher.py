"""How the instance tells whether a run's process is still alive; named in `.dagster/dagster.yaml`.

Dagster's own launcher leaves that to the code server. When the whole of `dagster dev` is killed, or the machine goes
down, the code server is gone too: its runs would stay "started" for ever, and keep others from their turn.
"""

import os
from pathlib import Path

import dagster as dg
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher


class LocalRunLauncher(DefaultRunLauncher):
    """The default launcher, for runs on this machine, with a look at the process of each run."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the process that logged the start of `run` still runs."""
        starts = self._instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.RUN_START, limit=1).records
        event = starts[0].event_log_entry.dagster_event if starts else None
        if event is None or event.pid is None or _is_alive(event.pid, starts[0].event_log_entry.timestamp):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(
            WorkerStatus.FAILED,
            f"Its process, {event.pid}, is gone: killed, or the machine went down. Every month is as it was or whole. If "
            "Dagster does not try the run again by itself, launch it again.",
        )


def _is_alive(pid: int, since: float) -> bool:
    """Whether the process `pid` runs, and did so at the time `since` (seconds since 1970)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        # After a restart another process may have the number. The 20th field behind the name is when it started, in
        # clock ticks after the start of the machine.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        machine = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    except OSError:
        return True
    started = int(machine.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    # A zombie has ended, and only its parent does not know. The clock may have been set since: by half a minute at most.
    return fields[0] != "Z" and started < since + 30
