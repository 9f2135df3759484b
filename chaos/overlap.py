"""Blows by others who are at work: runs that overlap, in every way that people start them, and people who look meanwhile."""

import time
from collections.abc import Callable
from threading import Thread

from chaos.phases.sitecustomize import PHASES
from chaos.stage import MONTHS, Stage
from dagster_essentials_tests.support.database_holder import NOTEBOOK, READER, held

NO_LIMITS = """
telemetry: {enabled: false}
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
"""
"""An instance on which every run starts at once."""


def a_run_that_stands_still(stage: Stage, blows: int) -> None:
    """Stop a run in each phase, let another one load a newer version of the same months, and let the first go on."""
    for number in range(blows):
        phase = PHASES[number % len(PHASES)]
        months = stage.months()
        for month in months:
            stage.publish(month)
        other = Thread()

        def strike(_: int, go_on: Callable[[], None], months: list[str] = months) -> None:
            nonlocal other
            for month in months:
                stage.publish(month)
            other = Thread(target=stage.materialize, args=[months])
            other.start()
            # Until the other one is done, or has waited for this one for a while.
            other.join(timeout=stage.random.uniform(5, 20))
            go_on()

        failed = stage.report.failed
        stage.phases.wait_for(phase, stage.random.randint(1, len(months)), strike)
        stage.materialize(months)
        blow = f"a run overtaken, {phase}"
        if stage.phases.forget():
            other.join()
            stage.report.blows[blow] += 1
        if stage.report.failed > failed:
            stage.report.wrong.append(f"{blow}: a run failed")
        stage.look(blow, months, succeeded=True)
    stage.mend("after runs that stood still")


def several_shells(stage: Stage, blows: int) -> None:
    """Start the same and overlapping months from two to four shells, at about the same time."""
    for _ in range(blows):
        tried = [stage.months() for _ in range(stage.random.randint(1, 3))]
        tried.append(tried[0])
        for month in {month for months in tried for month in months}:
            if stage.random.random() < 0.5:
                stage.publish(month)
        running = []
        for months in tried:
            running.append(stage.begin(stage.command(months)))
            time.sleep(stage.random.uniform(0, 1))
        succeeded = [stage.end(process) for process in running]
        stage.report.blows[f"{len(tried)} shells at once"] += 1
        if not all(succeeded):
            stage.report.wrong.append(f"{len(tried)} shells at once: {succeeded.count(False)} failed")
        stage.look("several shells", sorted({month for months in tried for month in months}), succeeded=all(succeeded))
    stage.mend("after several shells")


def backfills_and_all_else(stage: Stage) -> None:
    """Two backfills of all months at once, 24 runs, and the weekly job, the map and a request beside them."""
    _two_backfills(stage, "24 runs on the committed instance")


def without_limits(stage: Stage) -> None:
    """The same 24 runs on an instance without any limit: all of them at once."""
    (stage.root / ".dagster" / "dagster.yaml").write_text(NO_LIMITS)
    _two_backfills(stage, "24 runs at once without limits")


def _two_backfills(stage: Stage, blow: str) -> None:
    if not stage.materialize(MONTHS):
        stage.report.wrong.append(f"{blow}: the first load failed")
    stage.look(blow, MONTHS, succeeded=True)
    stage.start()
    for month in stage.random.sample(MONTHS, 6):
        stage.publish(month)
    stage.oracle.note_begin(MONTHS)
    backfill = ["job", "backfill", "-j", "trip_update_job", "--all", "yes", "--noprompt"]
    for _ in range(2):
        asked = stage.dagster(*backfill)
        assert asked.returncode == 0, asked.stdout
    stage.report.runs += 2 * len(MONTHS)
    stage.launch_keys("weekly_update_job", ["2023-02-05", "2023-06-11"])
    stage.launch_assets([["manhattan", "manhattan_stats"], ["manhattan_map"]])
    stage.launch_assets([["adhoc_request"]])
    stage.settle(blow, seconds=600)
    stage.report.blows[blow] += 1
    stage.note_failed_runs(blow)
    stage.look(blow, MONTHS, succeeded=True)
    stage.mend(blow)
    stage.stop()


def readers(stage: Stage, blows: int) -> None:
    """Somebody has the database open, for reading or for writing: for some seconds, or for good."""
    stage.materialize(MONTHS[:2])
    stage.look("before readers", MONTHS[:2], succeeded=True)
    for number in range(blows):
        months = stage.months()
        for month in months:
            stage.publish(month)
        how = stage.random.choice([NOTEBOOK, READER])
        for_good = number % 3 == 2
        blow = f"a database open for {'writing' if how == NOTEBOOK else 'reading'}, {'for good' if for_good else 'for seconds'}"
        begun = stage.random.uniform(0, 4)
        if for_good:
            with held(stage.oracle.database, how):
                succeeded = stage.materialize(months, DUCKDB_WAIT_SECONDS="2")
            if succeeded:
                stage.report.wrong.append(f"{blow}: a run succeeded without the database")
        else:
            process = stage.begin(stage.command(months))
            time.sleep(begun)
            # A connection by hand takes no turn: it may come when the run has the database, and tries again.
            for _ in range(3):
                try:
                    with held(stage.oracle.database, how):
                        time.sleep(stage.random.uniform(0.5, 4))
                    break
                except AssertionError:
                    time.sleep(0.2)
            succeeded = stage.end(process)
            if not succeeded:
                stage.report.wrong.append(f"{blow}: the run failed")
        stage.report.blows[blow] += 1
        stage.look(blow, months, succeeded=succeeded)
    stage.mend("after readers")
