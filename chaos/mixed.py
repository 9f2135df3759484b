"""All kinds of blows at the same time: overlapping runs, a source that misbehaves, a reader, and a kill in the middle."""

import signal
import time
from threading import Thread

from chaos.bad_inputs import BAD_INPUTS, Outcome
from chaos.kills import killing
from chaos.phases.sitecustomize import PHASES
from chaos.stage import Stage
from dagster_essentials_tests.support.database_holder import READER, held

TROUBLES = [kind for kind in BAD_INPUTS if kind.outcome is not Outcome.LOADED and not kind.slow]


def all_at_once(stage: Stage, blows: int) -> None:
    """Kill one of several shells that load the same months, while one month is bad and somebody reads."""
    for _ in range(blows):
        months = stage.months()
        for month in months:
            stage.publish(month)
        bad, kind = stage.random.choice(months), stage.random.choice(TROUBLES)
        stage.source.answers[f"/trip-data/yellow_tripdata_{bad}.parquet"] = kind.answers(
            stage.source, stage.good(bad), stage.random
        )
        phase = stage.random.choice(PHASES)
        stage.phases.wait_for(phase, stage.random.randint(1, 4), killing(stage, [], signal.SIGKILL))
        reading = Thread(target=_read, args=[stage, stage.random.uniform(2, 6)])
        reading.start()
        running = [stage.begin(stage.command(months)) for _ in range(stage.random.randint(2, 3))]
        for process in running:
            stage.end(process)
        reading.join()
        if stage.phases.forget():
            stage.report.blows[f"SIGKILL among {len(running)} runs, {phase}"] += 1
        stage.source.answers.clear()
        stage.look(f"{kind.name}, {phase}, {len(running)} runs", months, killed=True)
    stage.mend("after all at once")


def _read(stage: Stage, after_seconds: float) -> None:
    """Have the database open for a second, if it is free just then."""
    time.sleep(after_seconds)
    try:
        with held(stage.oracle.database, READER):
            time.sleep(1)
    except AssertionError:
        return  # A run had it: who reads without taking a turn is refused, and no run notices.
