"""Blows against processes: a run in a shell, and everything that `dagster dev` consists of."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from chaos.phases.sitecustomize import PHASES
from chaos.stage import Stage

SIGNALS = {signal.SIGKILL: 3, signal.SIGTERM: 1}
"""How often each is sent: who is asked to end can tidy up, so it finds less."""


def in_a_shell(stage: Stage, blows: int) -> None:
    """Kill `dagster asset materialize`, in every phase of a load, one after the other."""
    for number in range(blows):
        phase = PHASES[number % len(PHASES)]
        (sent,) = stage.random.choices(list(SIGNALS), list(SIGNALS.values()))
        months = stage.months()
        for month in months:
            stage.publish(month)
        stage.phases.wait_for(phase, stage.random.randint(1, len(months)), killing(stage, [], sent))
        succeeded = stage.end(stage.begin(stage.command(months)))
        blow = f"{sent.name} to a run, {phase}"
        if stage.phases.forget():
            stage.report.blows[blow] += 1
        # Who is asked to end may have come to its end before.
        stage.look(blow, months, killed=True, succeeded=succeeded)
        if number % 18 == 17:
            stage.mend(f"after {blow}")
    stage.mend("after kills in a shell")


TARGETS = {
    "the run": (),
    "the code server": ("dagster api grpc", "dagster code-server"),
    "the daemon": ("dagster._daemon",),
    "all of dagster dev": ("",),
}
"""What is killed: for each, words of which a command line has one. The run is known by telling its phase."""


def in_dagster_dev(stage: Stage, blows: int) -> None:
    """Kill the parts of `dagster dev`, and all of it, while it runs what was asked for in the UI."""
    stage.start()
    tried: set[str] = set()
    for number in range(blows):
        phase = PHASES[stage.random.randrange(len(PHASES))]
        (sent,) = stage.random.choices(list(SIGNALS), list(SIGNALS.values()))
        target = list(TARGETS)[number % len(TARGETS)]
        months = stage.months()
        tried.update(months)
        for month in months:
            stage.publish(month)
        others = [pid for pid, line in stage.processes().items() if any(word in line for word in TARGETS[target])]
        if target == "the code server":
            # It is two processes, a server and the one that keeps it alive.
            others = [stage.random.choice(others)]
        stage.phases.wait_for(
            phase, stage.random.randint(1, len(months)), killing(stage, others, sent, itself=target == "the run")
        )
        stage.launch(months, stage.random.choice([None, "trip_update_job"]))
        blow = f"{sent.name} to {target}, {phase}"
        if stage.phases.struck.wait(60):
            stage.report.blows[blow] += 1
        stage.phases.forget()
        if others:
            # A daemon that was asked to end may have ended all its work and still be there, which dagster dev takes for
            # alive: who asked it stops all of it.
            stage.revive(at_once=target == "the daemon" and sent == signal.SIGTERM)
        if number % 8 == 7:
            stage.settle(blow)
            stage.look(blow, sorted(tried), killed=True)
            stage.mend(f"after {blow}")
            tried.clear()
    stage.settle("kills in dagster dev")
    stage.mend("after kills in dagster dev")
    stage.stop()


def killing(
    stage: Stage, others: list[int], sent: signal.Signals, itself: bool = True
) -> Callable[[int, Callable[[], None]], None]:
    """Kill a process, either as it begins a phase or some moments later, and `others` with it."""
    later = stage.random.choice([0.0, stage.random.uniform(0, 0.03), stage.random.uniform(0, 0.2)])

    def strike(pid: int, go_on: Callable[[], None]) -> None:
        if later or sent == signal.SIGTERM:
            go_on()
            time.sleep(later)
        for process in [*([pid] if itself else []), *others]:
            with suppress(ProcessLookupError):
                os.kill(process, sent)

    return strike
