"""Cancellations: Ctrl-C and a shutdown, at random moments of runs, some of which read from a slow source."""

import signal
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

from dagster_essentials_tests.chaos.phases.sitecustomize import PHASES
from dagster_essentials_tests.chaos.sandbox import Sandbox
from dagster_essentials_tests.support.source_server import Answer

SECONDS = 20
"""In which a cancelled run ends, Dagster's own work included, while other scenarios use the processors."""


def cancel_cli_runs(sandbox: Sandbox, faults: int) -> None:
    """Cancel `dagster asset materialize`, and launch the same months again at once."""
    for number in range(faults):
        months = sandbox.random_months()
        sandbox.publish(*months)
        sent = sandbox.random.choice([signal.SIGINT, signal.SIGTERM])
        if number % 3 == 0:
            moment, seconds = "from a slow source", sandbox.random.uniform(2, 12)
            slow = sandbox.random.choice(months)
            content = sandbox.source.files[f"/trip-data/yellow_tripdata_{slow}.parquet"]
            sandbox.set_answers(slow, [_slowly(sandbox, content), sandbox.source.published])
            process = sandbox.start_command(sandbox.command(months))
            time.sleep(seconds)
        else:
            moment, seconds = sandbox.random.choice(PHASES), sandbox.random.choice([0, sandbox.random.uniform(0, 0.5)])
            sandbox.hooks.arm(moment, sandbox.random.randint(1, len(months)), _go_on)
            process = sandbox.start_command(sandbox.command(months))
            while not sandbox.hooks.injected.wait(0.1) and process.poll() is None:
                pass
            sandbox.hooks.disarm()
            time.sleep(seconds)
        if process.poll() is None:
            sandbox.report.faults[f"{sent.name} to cancel a run, {moment}"] += 1
        began = time.monotonic()
        process.send_signal(sent)
        succeeded = sandbox.wait_for_command(process)
        label = f"{sent.name} to cancel a run, {moment}"
        if time.monotonic() - began > SECONDS:
            sandbox.report.violations.append(f"{label}: it ended after {time.monotonic() - began:.0f} s")
        left = [path.name for path in sandbox.oracle.data_dir.rglob("*.partial")]
        sandbox.add_violations(label, [f"{name} was left behind" for name in left])
        sandbox.check(label, months, killed=True, succeeded=succeeded)
        sandbox.source.answers.clear()
        if not sandbox.materialize(months):
            sandbox.report.violations.append(f"{label}: the same months, launched again at once, failed")
        sandbox.add_violations(f"{label}, launched again", sandbox.oracle.check_repaired(months))
    sandbox.repair_and_check("after cancellations")


def _go_on(process: int, resume: Callable[[], None]) -> None:
    resume()


def _slowly(sandbox: Sandbox, content: bytes) -> Answer:
    """Send the file within about 25 seconds, in pieces that come more often than any time-out."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        size = len(content) // 50 + 1
        for start in range(0, len(content), size):
            handler.wfile.write(content[start : start + size])
            handler.wfile.flush()
            if sandbox.source.stopping.wait(0.5):
                return

    return answer
