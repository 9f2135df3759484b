"""Break this pipeline on purpose, while real `dagster` processes run it, and look whether the truth holds.

    python -m chaos [--seed N] [--minutes M] [--short] [--only SCENARIO] [--jobs N]

Ends with a table, and with code 1 if a wrong state was found; the folders of the scenarios that found one are kept. The
same seed gives the same blows, at the same places of the same months; the moments are as random as the machine.
"""

import argparse
import shutil
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

from chaos import clock, disk, kills, mixed, overlap, sources, versions
from chaos.stage import Report, Stage, stage


@dataclass(frozen=True)
class Scenario:
    """What is played on one stage.

    Attributes:
        name: as in the table.
        play: strikes the blows.
        times: how many stages of their own play it.
        small_disk: whether the stage needs a disk of its own.
    """

    name: str
    play: Callable[[Stage], None]
    times: int = 1
    small_disk: bool = False


FULL = (
    # What takes longest begins first.
    Scenario("kills in dagster dev", lambda stage: kills.in_dagster_dev(stage, 16), times=2),
    Scenario("kills in a shell", lambda stage: kills.in_a_shell(stage, 57), times=3),
    Scenario("all at once", lambda stage: mixed.all_at_once(stage, 14)),
    Scenario("24 runs at once, with limits", overlap.backfills_and_all_else),
    Scenario("24 runs at once, without", overlap.without_limits),
    Scenario("bad input", sources.bad_inputs),
    Scenario("a clock that jumps", clock.schedules),
    Scenario("a database of the course", lambda stage: versions.course(stage, 7)),
    Scenario("a database of an older release", lambda stage: versions.older_release(stage, 7)),
    Scenario("a source that changes", lambda stage: sources.changing_source(stage, 9)),
    Scenario("runs that overtake others", lambda stage: overlap.a_run_that_stands_still(stage, 9)),
    Scenario("several shells", lambda stage: overlap.several_shells(stage, 5)),
    Scenario("readers", lambda stage: overlap.readers(stage, 9)),
    Scenario("a full disk", lambda stage: disk.full_disk(stage, 15), small_disk=True),
    Scenario("files that cannot grow", lambda stage: disk.no_large_files(stage, 9)),
)
SHORT = (
    Scenario("kills in a shell", lambda stage: kills.in_a_shell(stage, 8)),
    Scenario("bad input", lambda stage: sources.bad_inputs(stage, 9)),
    Scenario("runs that overtake others", lambda stage: overlap.a_run_that_stands_still(stage, 1)),
    Scenario("files that cannot grow", lambda stage: disk.no_large_files(stage, 1)),
)


def play(scenario: Scenario, seed: str, folder: Path) -> Report:
    """Play `scenario` in `folder`; what goes wrong with it is in the report, too."""
    began = time.monotonic()
    report = Report()
    with ExitStack() as stack:
        if scenario.small_disk and not stack.enter_context(disk.small_disk(folder)):
            report.notes.append(f"{scenario.name}: not played, as this user may not mount a disk")
            return report
        try:
            it = stack.enter_context(stage(folder / "project", Random(seed)))
            report = it.report
            scenario.play(it)
        except Exception:
            report.wrong.append(f"{scenario.name} broke off: {traceback.format_exc()}")
        if report.wrong and scenario.small_disk:
            shutil.copytree(folder, f"{folder}-kept", symlinks=True)
    print(f"{scenario.name} ({seed}): {time.monotonic() - began:.0f} s, {len(report.wrong)} wrong", flush=True)
    for what in report.wrong:
        print(f"    {what}", flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1_000_000), help="of all that is random")
    parser.add_argument("--minutes", type=float, default=45, help="after which nothing new is begun (45)")
    parser.add_argument("--short", action="store_true", help="some of everything, in about a minute")
    parser.add_argument("--only", action="append", help="play only scenarios with this in their name")
    parser.add_argument("--jobs", type=int, default=3, help="how many stages are played at once (3)")
    arguments = parser.parse_args()
    scenarios = [
        (scenario, number)
        for scenario in (SHORT if arguments.short else FULL)
        for number in range(scenario.times)
        if not arguments.only or any(words in scenario.name for words in arguments.only)
    ]
    print(f"seed {arguments.seed}", flush=True)
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    began = time.monotonic()

    def played(number: int, scenario: Scenario, time_number: int) -> tuple[Scenario, Report]:
        report = Report(notes=[f"{scenario.name}: not played, the time was over"])
        folder = root / f"stage-{number}"
        if time.monotonic() - began < arguments.minutes * 60:
            report = play(scenario, f"{arguments.seed} {scenario.name} {time_number}", folder)
        if not report.wrong:
            shutil.rmtree(folder, ignore_errors=True)
        return scenario, report

    with ThreadPoolExecutor(arguments.jobs) as pool:
        futures = [pool.submit(played, number, *each) for number, each in enumerate(scenarios)]
        reports = [future.result() for future in futures]
    wrong = print_table(reports)
    print(f"\nseed {arguments.seed}, {(time.monotonic() - began) / 60:.0f} minutes")
    if wrong:
        print(f"The stages with wrong states are in {root}")
        sys.exit(1)
    shutil.rmtree(root)


def print_table(reports: Sequence[tuple[Scenario, Report]]) -> int:
    """Print a line for each scenario and the sums; returns how many wrong states were found."""
    print(f"\n{'scenario':34} {'blows':>6} {'kinds':>6} {'runs':>6} {'failed':>7} {'wrong':>6}")
    lines: dict[str, list[Report]] = {}
    for scenario, report in reports:
        lines.setdefault(scenario.name, []).append(report)
    everything = [report for _, report in reports]
    for name, found in [*lines.items(), ("all", everything)]:
        blows = sum((report.blows for report in found), Counter[str]())
        print(
            f"{name:34} {blows.total():6} {len(blows):6} {sum(report.runs for report in found):6}"
            f" {sum(report.failed for report in found):7} {sum(len(report.wrong) for report in found):6}"
        )
    blows = sum((report.blows for report in everything), Counter[str]())
    kills = {blow: count for blow, count in blows.items() if blow.startswith("SIG")}
    inputs = sum(blow.startswith("bad input") for blow in blows)
    print(f"\n{sum(kills.values())} kills, {inputs} kinds of bad input")
    # "SIGKILL to the daemon, insert"
    for what, place in (("of", 0), ("at", -1)):
        counted: Counter[str] = Counter()
        for blow, count in kills.items():
            counted[blow.partition(" ")[2].rsplit(", ", 1)[place].removeprefix("to ")] += count
        if kills:
            print(f"{what} {', '.join(f'{name} {count}' for name, count in counted.most_common())}")
    for note in sorted({note for report in everything for note in report.notes}):
        print(note)
    for report in everything:
        for what in report.wrong:
            print(f"WRONG: {what}")
    return sum(len(report.wrong) for report in everything)


if __name__ == "__main__":
    main()
