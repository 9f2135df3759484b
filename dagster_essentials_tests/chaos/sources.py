"""Faults of the source: the whole catalogue, files of random types, and months that change while they are loaded."""

from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256

import pyarrow as pa

from dagster_essentials_tests.chaos.phases.sitecustomize import PHASES
from dagster_essentials_tests.chaos.sandbox import MONTHS, Sandbox
from dagster_essentials_tests.support.faults import FAULTS, Fault, Outcome
from dagster_essentials_tests.support.random_files import random_file


def source_faults(sandbox: Sandbox, kinds: int | None = None) -> None:
    """Inject each fault of the catalogue once, a few of them in each run over all months, among good ones."""
    remaining = sandbox.random.sample([*FAULTS.values()], kinds or len(FAULTS))
    if not sandbox.materialize(MONTHS[: len(MONTHS) // 2]):
        sandbox.report.violations.append("before source faults: the first load failed")
    sandbox.check("before source faults", MONTHS, succeeded=False)
    while remaining:
        injected = dict(zip(sandbox.random.sample(MONTHS, len(MONTHS) * 3 // 4), remaining, strict=False))
        remaining = remaining[len(injected) :]
        sandbox.source.answers.clear()
        for month in MONTHS:
            if month in injected:
                _inject(sandbox, month, injected[month])
            elif sandbox.random.random() < 0.5:
                sandbox.publish(month)
        before = dict(sandbox.oracle.table)
        succeeded = sandbox.materialize(MONTHS)
        sandbox.check("source faults", MONTHS)
        for month in MONTHS:
            fault = injected.get(month)
            refused = fault is not None and fault.outcome is Outcome.REFUSED
            expected = before.get(month) if refused else sandbox.oracle.current(month)
            if sandbox.oracle.table.get(month) != expected:
                name = fault.name if fault else "a good month among faulty ones"
                sandbox.report.violations.append(f"{name}, {month}: was {'loaded' if refused else 'not loaded'}")
        if succeeded != all(fault.outcome is not Outcome.REFUSED for fault in injected.values()):
            sandbox.report.violations.append(f"source faults: the run {'succeeded' if succeeded else 'failed'}")
        sandbox.report.faults.update(f"source fault: {fault.name}" for fault in injected.values())
    sandbox.repair_and_check("after source faults")


def _inject(sandbox: Sandbox, month: str, fault: Fault) -> None:
    good = sandbox.make_month(month)
    if fault.outcome is not Outcome.REFUSED:
        sandbox.publish_content(month, fault.file(good) if fault.change else good)
    sandbox.set_answers(month, fault.answers(sandbox.source, good, sandbox.random))


def random_types(sandbox: Sandbox, rounds: int) -> None:
    """Publish months whose columns have random types: each is loaded with the values that pyarrow reads, or refused."""
    loaded = 0
    for _ in range(rounds):
        for month in MONTHS:
            _, content = random_file(sandbox.make_month(month), sandbox.random, extremes=False)
            sandbox.source.put_month(month, content)
            # What pyarrow cannot convert has to be refused: the oracle knows no version of it.
            with suppress(pa.ArrowException, OSError):
                sandbox.oracle.publish(month, content)
        before = dict(sandbox.oracle.table)
        succeeded = sandbox.materialize(MONTHS)
        sandbox.check("random types", MONTHS, succeeded=succeeded)
        loaded += sum(sandbox.oracle.table.get(month) != before.get(month) for month in MONTHS)
        sandbox.report.faults["a month of random types"] += len(MONTHS)
    if not loaded:
        sandbox.report.violations.append("random types: no month was loaded")
    sandbox.publish(*MONTHS)
    sandbox.repair_and_check("after random types")


def files_of_other_months(sandbox: Sandbox, rounds: int) -> None:
    """Serve valid files of other months among good ones: they are downloaded, but not loaded."""
    if not sandbox.materialize(MONTHS):
        sandbox.report.violations.append("before files of other months: the first load failed")
    sandbox.check("before files of other months", MONTHS)
    for _ in range(rounds):
        months = sandbox.random_months(at_most=4)
        wrong = sandbox.random.sample(months, sandbox.random.randint(1, len(months)))
        sandbox.publish(*(month for month in months if month not in wrong))
        for month in wrong:
            content = sandbox.make_month(sandbox.random.choice([other for other in MONTHS if other != month]))
            sandbox.source.put_month(month, content)
            sandbox.oracle.refused.setdefault(month, set()).add(sha256(content).hexdigest())
        before = dict(sandbox.oracle.table)
        if sandbox.materialize(months):
            sandbox.report.violations.append(f"the file of another month: the run over {months} succeeded")
        sandbox.check("the file of another month", months)
        for month in months:
            expected = before.get(month) if month in wrong else sandbox.oracle.current(month)
            if sandbox.oracle.table.get(month) != expected:
                sandbox.report.violations.append(f"the file of another month, {month}: was not left as it should be")
        sandbox.report.faults["source fault: the file of another month"] += len(wrong)
        sandbox.publish(*wrong)
    sandbox.repair_and_check("after files of other months")


def changing_source(sandbox: Sandbox, faults: int) -> None:
    """Answer each request differently, and publish new versions while a run is about to load the previous ones."""
    transient = [fault for fault in FAULTS.values() if fault.outcome is Outcome.RECOVERS and not fault.slow]
    for _ in range(faults):
        months = sandbox.random_months(at_most=5)
        for month in months:
            good = sandbox.make_month(month)
            sandbox.publish_content(month, good)
            chosen = sandbox.random.sample(transient, sandbox.random.randint(1, 2))
            answers = [fault.answers(sandbox.source, good, sandbox.random)[0] for fault in chosen]
            sandbox.set_answers(month, [*answers, sandbox.source.published])
        phase = sandbox.random.choice(
            [phase for phase in PHASES if phase not in ("downloaded", "loaded", "after loaded")]
        )

        def publish_anew(_: int, resume: Callable[[], None], months: list[str] = months) -> None:
            sandbox.publish(*sandbox.random.sample(months, sandbox.random.randint(1, len(months))))
            resume()

        sandbox.hooks.arm(phase, sandbox.random.randint(1, len(months)), publish_anew)
        succeeded = sandbox.materialize(months)
        if sandbox.hooks.disarm():
            sandbox.report.faults[f"published anew, {phase}"] += 1
        if not succeeded:
            sandbox.report.violations.append("a changing source: the run failed")
        sandbox.source.answers.clear()
        sandbox.check("a changing source", months, succeeded=succeeded)
    sandbox.repair_and_check("after a changing source")
