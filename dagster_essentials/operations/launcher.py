"""The run launcher of one machine, which forks runs from a preloaded process; named in `.dagster/dagster.yaml`.

Dagster's own launcher lets the code server start a process that imports Dagster and the libraries anew for each run. A backfill
of eleven months of 30,000 trips took 32 and 33 s that way, and takes 12 to 15 s with forks (CPU time 63 and 66, 24 to 28 s).

It also leaves to the code server to notice that a run has died: when the whole of `dagster dev` is killed, or the machine goes
down, its runs would stay "started" forever, and block the queue.
"""

import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess

import dagster as dg
import psutil
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.origin import JobPythonOrigin
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import serialize_value

LIBRARIES = (
    "dagster._cli.api",
    "dagster._core.storage.event_log.sqlite",
    "dagster_duckdb",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "pyarrow",
    "requests",
)
"""The modules that are imported once, for all runs. Those of the project are imported by each run, as they are when it starts."""
START_SECONDS = 10
"""A run starts within a second, on a busy machine in ten. One that takes longer is started without waiting for it."""
PROCESS_TAG = ".dagster/process"
"""The tag of a run with the number of its process, and the time of its start. The UI hides tags that begin with a dot."""


class LocalRunLauncher(dg.DefaultRunLauncher):
    """The default launcher, which forks the runs of `dagster dev` on Linux, with a health check of each run's process."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Execute the run in a process that is forked from one that has imported the `LIBRARIES`."""
        run, code = context.dagster_run, context.job_code_origin
        if code is None or not self._can_fork(context, code):
            super().launch_run(context)
            return
        arguments = serialize_value(ExecuteRunArgs(code, run.run_id, self._instance.get_ref()))
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(list(LIBRARIES))
        process = forks.Process(target=_execute_run, args=(arguments,))
        process.start()
        self._instance.add_run_tags(run.run_id, {PROCESS_TAG: f"{process.pid} {time.time()}"})
        # At its exit, Python waits for the processes listed there: the daemon would not stop before the run has ended.
        multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]
        self._run_ids.add(run.run_id)
        self._wait_for_start(run.run_id, process)

    def _wait_for_start(self, run_id: str, process: BaseProcess) -> None:
        """Wait, so that runs start in the order of the queue, and one whose process ends before that fails at once."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            ended = process.exitcode is not None
            run = self._instance.get_run_by_id(run_id)
            if run is None or run.status != dg.DagsterRunStatus.STARTING:
                return
            if ended:
                raise DagsterLaunchFailedError(  # type: ignore[no-untyped-call]
                    f"Its process, {process.pid}, ended before the run had started, with the exit code {process.exitcode}. No "
                    "month is changed. If Dagster does not try the run again by itself, launch it again."
                )
            process.join(0.05)

    def _can_fork(self, context: LaunchRunContext, code: JobPythonOrigin) -> bool:
        origin = context.dagster_run.remote_job_origin
        # On macOS, a forked process that uses the system's network libraries crashes; Windows has no fork.
        if sys.platform != "linux" or context.workspace is None or origin is None:
            return False
        server = getattr(context.workspace.get_code_location(origin.location_name), "client", None)
        # A code server at a port, instead of a socket, may be another service or container, in which its runs belong.
        return bool(getattr(server, "socket", None)) and code.repository_origin.executable_path == sys.executable

    def terminate(self, run_id: str) -> bool:
        """Interrupt the process of the run, as Ctrl-C does."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or PROCESS_TAG not in run.tags:
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        if run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        pid, since = run.tags[PROCESS_TAG].split()
        if not _is_alive(int(pid), float(since)):
            return False
        os.kill(int(pid), signal.SIGINT)
        return True

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


def _execute_run(arguments: str) -> None:
    from dagster._cli.api import execute_run_command

    execute_run_command.main([arguments])


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
