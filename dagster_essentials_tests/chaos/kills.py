"""Kills: a run started from a shell, and every component of `dagster dev`."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from dagster_essentials_tests.chaos.phase_hooks import Injection
from dagster_essentials_tests.chaos.phases.sitecustomize import PHASES
from dagster_essentials_tests.chaos.sandbox import Sandbox

SIGNALS = {signal.SIGKILL: 3, signal.SIGTERM: 1}
"""Each with its relative frequency: a process that gets SIGTERM can clean up, so it finds less."""


def kill_cli_runs(sandbox: Sandbox, faults: int) -> None:
    """Kill `dagster asset materialize` in every phase of a load, one after the other; or in some, if there are fewer `faults`."""
    phases = sandbox.random.sample(PHASES, len(PHASES))
    for number in range(faults):
        phase = phases[number % len(phases)]
        (sent,) = sandbox.random.choices(list(SIGNALS), list(SIGNALS.values()))
        months = sandbox.random_months()
        sandbox.publish(*months)
        sandbox.hooks.arm(phase, sandbox.random.randint(1, len(months)), kill(sandbox, [], sent))
        succeeded = sandbox.materialize(months)
        label = f"{sent.name} to a run, {phase}"
        if sandbox.hooks.disarm():
            sandbox.report.faults[label] += 1
        # After SIGTERM a run may still have succeeded.
        sandbox.check(label, months, killed=True, succeeded=succeeded)
        if number % 22 == 21:
            sandbox.repair_and_check(f"after {label}")
    sandbox.repair_and_check("after kills of CLI runs")


TARGETS = {
    "the run": (),
    "the code server": ("dagster api grpc", "dagster code-server"),
    "the daemon": ("dagster._daemon",),
    "all of dagster dev": ("",),
}
"""The processes to kill, each with a part of its command line. The run is known because it reports its phase."""


def kill_dagster_dev(sandbox: Sandbox, faults: int) -> None:
    """Kill the components of `dagster dev`, and all of it, while it executes runs that were launched in the UI."""
    sandbox.start()
    tried: set[str] = set()
    for number in range(faults):
        phase = PHASES[sandbox.random.randrange(len(PHASES))]
        (sent,) = sandbox.random.choices(list(SIGNALS), list(SIGNALS.values()))
        target = list(TARGETS)[number % len(TARGETS)]
        months = sandbox.random_months()
        tried.update(months)
        sandbox.publish(*months)
        others = [pid for pid, line in sandbox.processes().items() if any(word in line for word in TARGETS[target])]
        if target == "the code server":
            # It is two processes, a server and the one that restarts it.
            others = [sandbox.random.choice(others)]
        sandbox.hooks.arm(
            phase, sandbox.random.randint(1, len(months)), kill(sandbox, others, sent, itself=target == "the run")
        )
        sandbox.launch(months, sandbox.random.choice([None, "trip_update_job"]))
        label = f"{sent.name} to {target}, {phase}"
        if sandbox.hooks.injected.wait(60):
            sandbox.report.faults[label] += 1
        sandbox.hooks.disarm()
        if others:
            # After SIGTERM a daemon may stop all its work without ending, which dagster dev does not notice: a person who
            # sends it restarts everything.
            sandbox.restart_if_needed(at_once=target == "the daemon" and sent == signal.SIGTERM)
        if number % 8 == 7:
            sandbox.wait_until_idle(label)
            sandbox.check(label, sorted(tried), killed=True)
            sandbox.repair_and_check(f"after {label}")
            tried.clear()
    sandbox.wait_until_idle("kills in dagster dev")
    sandbox.repair_and_check("after kills in dagster dev")
    sandbox.stop()


def kill(sandbox: Sandbox, others: list[int], sent: signal.Signals, itself: bool = True) -> Injection:
    """Kill a process, either as it begins a phase or up to 0.2 s later, and `others` with it."""
    delay = sandbox.random.choice([0.0, sandbox.random.uniform(0, 0.03), sandbox.random.uniform(0, 0.2)])

    def inject(pid: int, resume: Callable[[], None]) -> None:
        if delay or sent == signal.SIGTERM:
            resume()
            time.sleep(delay)
        for process in [*([pid] if itself else []), *others]:
            with suppress(ProcessLookupError):
                os.kill(process, sent)

    return inject
