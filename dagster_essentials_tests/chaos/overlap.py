"""Concurrency: overlapping runs, started in every way that people start them, and other connections to the database."""

import time
from collections.abc import Callable
from threading import Thread

from dagster_essentials_tests.chaos.phases.sitecustomize import PHASES
from dagster_essentials_tests.chaos.sandbox import MONTHS, Sandbox
from dagster_essentials_tests.support.database_holder import NOTEBOOK, READER, held

NO_LIMITS = """
telemetry: {enabled: false}
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
"""
"""An instance that starts every run at once."""


def paused_runs(sandbox: Sandbox, faults: int) -> None:
    """Pause a run in each phase, let another one load a newer version of the same months, and resume the first."""
    for number in range(faults):
        phase = PHASES[number % len(PHASES)]
        months = sandbox.random_months()
        sandbox.publish(*months)
        other = Thread()

        def overtake(_: int, resume: Callable[[], None], months: list[str] = months) -> None:
            nonlocal other
            sandbox.publish(*months)
            other = Thread(target=sandbox.materialize, args=[months])
            other.start()
            # Until the other one is done, or has waited for this one for a while.
            other.join(timeout=sandbox.random.uniform(5, 20))
            resume()

        failed = sandbox.report.failed
        sandbox.hooks.arm(phase, sandbox.random.randint(1, len(months)), overtake)
        sandbox.materialize(months)
        label = f"a paused run, {phase}"
        if sandbox.hooks.disarm():
            other.join()
            sandbox.report.faults[label] += 1
        if sandbox.report.failed > failed:
            sandbox.report.violations.append(f"{label}: a run failed")
        sandbox.check(label, months, succeeded=True)
    sandbox.repair_and_check("after paused runs")


def concurrent_cli_runs(sandbox: Sandbox, faults: int) -> None:
    """Start the same and overlapping months in two to four shells, at about the same time."""
    for _ in range(faults):
        tried = [sandbox.random_months() for _ in range(sandbox.random.randint(1, 3))]
        tried.append(tried[0])
        for month in {month for months in tried for month in months}:
            if sandbox.random.random() < 0.5:
                sandbox.publish(month)
        running = []
        for months in tried:
            running.append(sandbox.start_command(sandbox.command(months)))
            time.sleep(sandbox.random.uniform(0, 1))
        succeeded = [sandbox.wait_for_command(process) for process in running]
        label = f"{len(tried)} concurrent CLI runs"
        sandbox.report.faults[label] += 1
        if not all(succeeded):
            sandbox.report.violations.append(f"{label}: {succeeded.count(False)} failed")
        sandbox.check(label, sorted({month for months in tried for month in months}), succeeded=all(succeeded))
    sandbox.repair_and_check("after concurrent CLI runs")


def backfills_with_limits(sandbox: Sandbox) -> None:
    """Two backfills of all months at once, 24 runs, and the weekly job, the map and a request beside them.

    All months have a new version by then. Half of them have another one before the second backfill, whose runs of the other
    half find them unchanged.
    """
    _two_backfills(sandbox, "24 runs, instance limits")


def backfills_without_limits(sandbox: Sandbox) -> None:
    """The same 24 runs on an instance without any limit: all of them at once."""
    (sandbox.root / ".dagster" / "dagster.yaml").write_text(NO_LIMITS)
    _two_backfills(sandbox, "24 runs, no limits")


def _two_backfills(sandbox: Sandbox, label: str) -> None:
    if not sandbox.materialize(MONTHS):
        sandbox.report.violations.append(f"{label}: the first load failed")
    sandbox.check(label, MONTHS, succeeded=True)
    sandbox.start()
    backfill = ["job", "backfill", "-j", "trip_update_job", "--all", "yes", "--noprompt"]
    for published in (MONTHS, sandbox.random.sample(MONTHS, 6)):
        sandbox.publish(*published)
        sandbox.oracle.note_start(MONTHS)
        launched = sandbox.dagster(*backfill)
        assert launched.returncode == 0, launched.stdout
    sandbox.report.runs += 2 * len(MONTHS)
    sandbox.launch_partitions("weekly_update_job", ["2023-02-05", "2023-06-11"])
    sandbox.launch_assets([["manhattan", "manhattan_stats"], ["manhattan_map"]])
    sandbox.launch_assets([["adhoc_request"]])
    sandbox.wait_until_idle(label, seconds=600)
    sandbox.report.faults[label] += 1
    sandbox.check_no_failed_runs(label)
    sandbox.check(label, MONTHS, succeeded=True)
    sandbox.repair_and_check(label)
    sandbox.stop()


def open_connections(sandbox: Sandbox, faults: int) -> None:
    """Somebody has the database open, for reading or for writing: for some seconds, or for longer than runs wait."""
    sandbox.materialize(MONTHS[:2])
    sandbox.check("before open connections", MONTHS[:2], succeeded=True)
    for number in range(faults):
        months = sandbox.random_months()
        sandbox.publish(*months)
        how = sandbox.random.choice([NOTEBOOK, READER])
        stays_open = number % 3 == 2
        mode = "writing" if how == NOTEBOOK else "reading"
        label = f"open for {mode}, {'longer than runs wait' if stays_open else 'for seconds'}"
        delay = sandbox.random.uniform(0, 4)
        if stays_open:
            with held(sandbox.oracle.database, how):
                succeeded = sandbox.materialize(months, DUCKDB_WAIT_SECONDS="2")
            if succeeded:
                sandbox.report.violations.append(f"{label}: a run succeeded without the database")
        else:
            process = sandbox.start_command(sandbox.command(months))
            time.sleep(delay)
            # This connection does not wait for the lock: it is refused while the run has the database, and retries.
            for _ in range(3):
                try:
                    with held(sandbox.oracle.database, how):
                        time.sleep(sandbox.random.uniform(0.5, 4))
                    break
                except AssertionError:
                    time.sleep(0.2)
            succeeded = sandbox.wait_for_command(process)
            if not succeeded:
                sandbox.report.violations.append(f"{label}: the run failed")
        sandbox.report.faults[label] += 1
        sandbox.check(label, months, succeeded=succeeded)
    sandbox.repair_and_check("after open connections")
