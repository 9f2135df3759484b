"""Several kinds of faults at the same time: overlapping runs, a faulty source, a reader of the database, and a kill."""

import signal
import time
from threading import Thread

from dagster_essentials_tests.chaos.kills import kill
from dagster_essentials_tests.chaos.phases.sitecustomize import PHASES
from dagster_essentials_tests.chaos.sandbox import Sandbox
from dagster_essentials_tests.support.database_holder import READER, held
from dagster_essentials_tests.support.faults import FAULTS, Outcome

SOURCE_FAULTS = [fault for fault in FAULTS.values() if fault.outcome is not Outcome.LOADED and not fault.slow]


def mixed_faults(sandbox: Sandbox, faults: int) -> None:
    """Kill one of several runs that load the same months, while one month is bad and somebody reads."""
    for _ in range(faults):
        months = sandbox.random_months()
        sandbox.publish(*months)
        bad, fault = sandbox.random.choice(months), sandbox.random.choice(SOURCE_FAULTS)
        sandbox.set_answers(bad, fault.answers(sandbox.source, sandbox.make_month(bad), sandbox.random))
        phase = sandbox.random.choice(PHASES)
        # Of the runs, one loads a month: for the others it is unchanged.
        sandbox.hooks.arm(phase, sandbox.random.randint(1, len(months)), kill(sandbox, [], signal.SIGKILL))
        reading = Thread(target=_read, args=[sandbox, sandbox.random.uniform(2, 6)])
        reading.start()
        running = [sandbox.start_command(sandbox.command(months)) for _ in range(sandbox.random.randint(2, 3))]
        for process in running:
            sandbox.wait_for_command(process)
        reading.join()
        if sandbox.hooks.disarm():
            sandbox.report.faults[f"SIGKILL to one of {len(running)} runs, {phase}"] += 1
        sandbox.source.answers.clear()
        sandbox.check(f"{fault.name}, {phase}, {len(running)} runs", months, killed=True)
    sandbox.repair_and_check("after mixed faults")


def _read(sandbox: Sandbox, delay: float) -> None:
    """Have the database open for a second, if it is free at that moment."""
    time.sleep(delay)
    try:
        with held(sandbox.oracle.database, READER):
            time.sleep(1)
    except AssertionError:
        return  # A run holds it: a reader that does not wait for the lock is refused, and no run notices.
