"""Fault injection: disturb real `dagster` processes of this pipeline, and check after each fault that its guarantees hold.

    python -m dagster_essentials_tests.chaos [--seed N] [--minutes M] [--short] [--only SCENARIO] [--jobs N]

Prints a table at the end, and exits with 1 if a guarantee was violated; the sandboxes in which that happened are kept. The
same seed gives the same faults, in the same phases of the same months; their exact moments depend on the machine.
`chaos/README.md` says more.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom

from dagster_essentials_tests.chaos import cancels, clock, disk, fleets, kills, mixed, overlap, sources, versions
from dagster_essentials_tests.chaos.sandbox import Report, Sandbox, sandbox


@dataclass(frozen=True)
class Scenario:
    """A sequence of faults in a sandbox.

    Attributes:
        name: as in the table.
        run: injects the faults.
        times: how many sandboxes of their own run it.
        small_disk: whether the sandbox needs a small disk of its own.
    """

    name: str
    run: Callable[[Sandbox], None]
    times: int = 1
    small_disk: bool = False


FULL = (
    # The longest first.
    Scenario("kills in dagster dev", lambda box: kills.kill_dagster_dev(box, 16), times=2),
    Scenario("kills of CLI runs", lambda box: kills.kill_cli_runs(box, 55), times=3),
    Scenario("cancelled runs", lambda box: cancels.cancel_cli_runs(box, 24)),
    Scenario("kills of fleet runs", lambda box: fleets.kill_fleet_runs(box, 20)),
    Scenario("mixed faults", lambda box: mixed.mixed_faults(box, 14)),
    Scenario("24 concurrent runs, with limits", overlap.backfills_with_limits),
    Scenario("24 concurrent runs, without", overlap.backfills_without_limits),
    Scenario("source faults", sources.source_faults),
    Scenario("files of random types", lambda box: sources.random_types(box, 15)),
    Scenario("files of other months", lambda box: sources.files_of_other_months(box, 8)),
    Scenario("clock faults", clock.schedules),
    Scenario("a database of the course", lambda box: versions.course_database(box, 7)),
    Scenario("a database of an older release", lambda box: versions.older_database(box, 7)),
    Scenario("a changing source", lambda box: sources.changing_source(box, 9)),
    Scenario("paused runs", lambda box: overlap.paused_runs(box, 11)),
    Scenario("concurrent CLI runs", lambda box: overlap.concurrent_cli_runs(box, 5)),
    Scenario("open connections", lambda box: overlap.open_connections(box, 9)),
    Scenario("a full disk", lambda box: disk.full_disk(box, 15), small_disk=True),
    Scenario("file size limits", lambda box: disk.file_size_limit(box, 9)),
)
SHORT = (
    Scenario("kills of CLI runs", lambda box: kills.kill_cli_runs(box, 3)),
    Scenario("source faults", lambda box: sources.source_faults(box, 2)),
)


def run(scenario: Scenario, seed: str, folder: Path) -> Report:
    """Run `scenario` in `folder`; an error of the scenario itself counts as a violation."""
    began = time.monotonic()
    report = Report()
    with ExitStack() as stack:
        if scenario.small_disk and not stack.enter_context(disk.small_disk(folder)):
            report.notes.append(f"{scenario.name}: left out, as this user may not mount a disk")
            return report
        try:
            box = stack.enter_context(sandbox(folder / "project", Random(seed)))
            report = box.report
            scenario.run(box)
        except Exception:
            report.violations.append(f"{scenario.name} was aborted: {traceback.format_exc()}")
        if report.violations and scenario.small_disk:
            shutil.copytree(folder, f"{folder}-kept", symlinks=True)
    seconds = time.monotonic() - began
    print(f"{scenario.name} ({seed}): {seconds:.0f} s, {len(report.violations)} violations", flush=True)
    for violation in report.violations:
        print(f"    {violation}", flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dagster_essentials_tests.chaos", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1_000_000), help="of everything random")
    parser.add_argument("--minutes", type=float, default=90, help="after which no scenario is started (90)")
    parser.add_argument("--short", action="store_true", help="a few faults of some scenarios, in about a minute")
    parser.add_argument("--only", action="append", help="run only scenarios with this in their name")
    parser.add_argument("--jobs", type=int, default=3, help="how many scenarios run at the same time (3)")
    arguments = parser.parse_args()
    # A shell that starts it in the background lets it ignore Ctrl-C, and so would the runs, which Dagster cancels that way.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    scenarios = [
        (scenario, number)
        for scenario in (SHORT if arguments.short else FULL)
        for number in range(scenario.times)
        if not arguments.only or any(words in scenario.name for words in arguments.only)
    ]
    print(f"seed {arguments.seed}", flush=True)
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    began = time.monotonic()

    def run_in_time(number: int, scenario: Scenario, repetition: int) -> tuple[Scenario, Report]:
        report = Report(notes=[f"{scenario.name}: left out, the time was up"])
        folder = root / f"sandbox-{number}"
        if time.monotonic() - began < arguments.minutes * 60:
            report = run(scenario, f"{arguments.seed} {scenario.name} {repetition}", folder)
        if not report.violations:
            shutil.rmtree(folder, ignore_errors=True)
        return scenario, report

    with ThreadPoolExecutor(arguments.jobs) as pool:
        futures = [pool.submit(run_in_time, number, *each) for number, each in enumerate(scenarios)]
        reports = [future.result() for future in futures]
    violations = print_table(reports)
    print(f"\nseed {arguments.seed}, {(time.monotonic() - began) / 60:.0f} minutes")
    if violations:
        print(f"The sandboxes with violations are in {root}")
        sys.exit(1)
    shutil.rmtree(root)


def print_table(reports: Sequence[tuple[Scenario, Report]]) -> int:
    """Print a line for each scenario and the totals; returns the number of violations."""
    print(f"\n{'scenario':34} {'faults':>6} {'kinds':>6} {'runs':>6} {'failed':>7} {'violations':>11}")
    lines: dict[str, list[Report]] = {}
    for scenario, report in reports:
        lines.setdefault(scenario.name, []).append(report)
    everything = [report for _, report in reports]
    for name, found in [*lines.items(), ("total", everything)]:
        faults = sum((report.faults for report in found), Counter[str]())
        print(
            f"{name:34} {faults.total():6} {len(faults):6} {sum(report.runs for report in found):6}"
            f" {sum(report.failed for report in found):7} {sum(len(report.violations) for report in found):11}"
        )
    faults = sum((report.faults for report in everything), Counter[str]())
    kill_counts = {fault: count for fault, count in faults.items() if fault.startswith("SIG")}
    kinds = sum(fault.startswith("source fault") for fault in faults)
    print(f"\n{sum(kill_counts.values())} kills, {kinds} kinds of source faults")
    # "SIGKILL to the daemon, insert"
    for preposition, position in (("of", 0), ("at", -1)):
        counted: Counter[str] = Counter()
        for fault, count in kill_counts.items():
            counted[fault.partition(" ")[2].rsplit(", ", 1)[position].removeprefix("to ")] += count
        if kill_counts:
            print(f"{preposition} {', '.join(f'{name} {count}' for name, count in counted.most_common())}")
    for note in sorted({note for report in everything for note in report.notes}):
        print(note)
    for report in everything:
        for violation in report.violations:
            print(f"VIOLATION: {violation}")
    return sum(len(report.violations) for report in everything)


if __name__ == "__main__":
    main()
