"""Blows by the source: everything it can answer, changing from request to request, and months that are published anew."""

from collections.abc import Callable

from chaos.bad_inputs import BAD_INPUTS, BadInput, Outcome
from chaos.stage import MONTHS, Stage


def bad_inputs(stage: Stage, kinds: int | None = None) -> None:
    """Give each kind of bad input once, a few of them in each run over all months, among good ones."""
    waiting = stage.random.sample(BAD_INPUTS, kinds or len(BAD_INPUTS))
    if not stage.materialize(MONTHS[: len(MONTHS) // 2]):
        stage.report.wrong.append("before bad inputs: the first load failed")
    stage.look("before bad inputs", MONTHS, succeeded=False)
    while waiting:
        given = dict(zip(stage.random.sample(MONTHS, len(MONTHS) * 3 // 4), waiting, strict=False))
        waiting = waiting[len(given) :]
        stage.source.answers.clear()
        for month in MONTHS:
            if month in given:
                _give(stage, month, given[month])
            elif stage.random.random() < 0.5:
                stage.publish(month)
        before = dict(stage.oracle.table)
        succeeded = stage.materialize(MONTHS)
        stage.look("bad inputs", MONTHS)
        for month in MONTHS:
            kind = given.get(month)
            refused = kind is not None and kind.outcome is Outcome.REFUSED
            expected = before.get(month) if refused else stage.oracle.current(month)
            if stage.oracle.table.get(month) != expected:
                name = kind.name if kind else "a good month among bad ones"
                stage.report.wrong.append(f"{name}, {month}: was {'loaded' if refused else 'not loaded'}")
        if succeeded != all(kind.outcome is not Outcome.REFUSED for kind in given.values()):
            stage.report.wrong.append(f"bad inputs: the run {'succeeded' if succeeded else 'failed'}")
        stage.report.blows.update(f"bad input: {kind.name}" for kind in given.values())
    stage.mend("after bad inputs")


def _give(stage: Stage, month: str, kind: BadInput) -> None:
    good = stage.good(month)
    if kind.outcome is not Outcome.REFUSED:
        stage.publish_content(month, kind.content(good, stage.random) if kind.content else good)
    path = f"/trip-data/yellow_tripdata_{month}.parquet"
    stage.source.answers[path] = kind.answers(stage.source, good, stage.random)


def changing_source(stage: Stage, blows: int) -> None:
    """Answer each request in another way, and publish new versions while a run is about to load the ones before."""
    passing = [kind for kind in BAD_INPUTS if kind.outcome is Outcome.RECOVERS and not kind.slow]
    for _ in range(blows):
        months = stage.months(most=5)
        for month in months:
            good = stage.publish(month)
            path = f"/trip-data/yellow_tripdata_{month}.parquet"
            kinds = stage.random.sample(passing, stage.random.randint(1, 2))
            answers = [kind.answers(stage.source, good, stage.random)[0] for kind in kinds]
            stage.source.answers[path] = [*answers, stage.source.published]
        phase = stage.random.choice(["download", "validate", "rename", "delete", "insert", "commit"])

        def strike(_: int, go_on: Callable[[], None], months: list[str] = months) -> None:
            for month in stage.random.sample(months, stage.random.randint(1, len(months))):
                stage.publish(month)
            go_on()

        stage.phases.wait_for(phase, stage.random.randint(1, len(months)), strike)
        succeeded = stage.materialize(months)
        if stage.phases.forget():
            stage.report.blows[f"published anew, {phase}"] += 1
        if not succeeded:
            stage.report.wrong.append("a changing source: the run failed")
        stage.source.answers.clear()
        stage.look("a changing source", months, succeeded=succeeded)
    stage.mend("after a changing source")
