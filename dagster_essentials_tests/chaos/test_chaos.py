"""The chaos harness as people start it: its short form finds no violation here, and finds those of a broken pipeline."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest

from dagster_essentials_tests.chaos import __main__ as chaos
from dagster_essentials_tests.chaos.phases.sitecustomize import FUNCTIONS, PHASES
from dagster_essentials_tests.chaos.sandbox import MONTHS, Sandbox
from dagster_essentials_tests.support.dagster_dev import copy_of_project
from dagster_essentials_tests.support.project import ROOT

pytestmark = pytest.mark.slow


def table(output: str) -> dict[str, list[int]]:
    """The lines of the table at the end, by scenario: faults, kinds, runs, failed, violations."""
    _, heading, lines = output.partition("scenario ")
    assert heading, output
    return {
        line[:34].strip(): [int(number) for number in line[34:].split()]
        for line in lines.partition("\n\n")[0].splitlines()[1:]
    }


def test_the_short_form_finds_no_violation() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "dagster_essentials_tests.chaos", "--short", "--seed", "7"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )

    output = process.stdout
    assert process.returncode == 0, output
    assert "VIOLATION" not in output
    assert output.startswith("seed 7\n")
    found = table(output)
    assert list(found) == [*(scenario.name for scenario in chaos.SHORT), "total"]
    for name, (faults, kinds, runs, _, violations) in found.items():
        assert faults >= kinds > 0, name
        assert runs > 0, name
        assert violations == 0, name
    for number in (0, 2, 3, 4):
        assert found["total"][number] == sum(line[number] for name, line in found.items() if name != "total")
    summary = re.search(r"^(\d+) kills, (\d+) kinds of source faults$", output, re.MULTILINE)
    assert summary is not None, output
    kills, inputs = map(int, summary.groups())
    assert kills >= 3
    assert inputs >= 2
    assert re.search(r"^seed 7, \d+ minutes$", output, re.MULTILINE), "it can be repeated"


def test_the_phases_are_functions_of_the_pipeline() -> None:
    for module, names in FUNCTIONS.items():
        for name in names:
            assert callable(attrgetter(name)(import_module(module)))
    functions = {name.rpartition(".")[2] for names in FUNCTIONS.values() for name in names}
    assert {phase.removeprefix("after ") for phase in PHASES} == functions


# A harness that cannot fail proves nothing


def kill_at(phase: str) -> Callable[[Sandbox], None]:
    """A scenario: a load, and one of the next version that is killed in `phase`."""

    def scenario(sandbox: Sandbox) -> None:
        month = MONTHS[0]
        sandbox.materialize([month])
        sandbox.check("a load", [month], succeeded=True)
        sandbox.publish(month)
        sandbox.hooks.arm(phase, 1, lambda process, _: os.kill(process, signal.SIGKILL))
        sandbox.materialize([month])
        assert sandbox.hooks.disarm()
        sandbox.report.faults[f"SIGKILL to a run, {phase}"] += 1
        sandbox.check(f"a kill, {phase}", [month], killed=True)

    return scenario


def error_page(sandbox: Sandbox) -> None:
    """A load, and an error page in the place of the next version."""
    month = MONTHS[0]
    sandbox.materialize([month])
    sandbox.check("a load", [month], succeeded=True)
    sandbox.source.put_month(month, b"<html>")
    sandbox.materialize([month])
    sandbox.report.faults["source fault: an error page"] += 1
    sandbox.check("an error page", [month])


LOAD = "dagster_essentials/warehouse/load.py"
COMMIT = '        tables.execute("COMMIT; BEGIN")\n'


def a_delete_committed_before_the_insert(project: Path) -> None:
    insert = "        rows.insert_into(statements.table)\n"
    replace(project / LOAD, insert, COMMIT + insert)


def rows_committed_before_their_version(project: Path) -> None:
    aggregates = "        for aggregate in statements.aggregates:\n"
    replace(project / LOAD, aggregates, COMMIT + aggregates)


def a_file_written_under_its_final_name(project: Path) -> None:
    replace(
        project / "dagster_essentials/ingestion/atomic_write.py",
        "            yield temporary\n            files.upload(temporary, path, cancellation)\n"
        "            temporary.replace(path)\n",
        "            yield path\n",
    )


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, f"{file.name} has changed: adapt this test"
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("break_it", "scenario", "faults", "expected"),
    [
        (
            a_delete_committed_before_the_insert,
            kill_at("insert_into"),
            "1 kills, 0 kinds of source faults",
            ["a kill, insert_into: 2023-01: 0 rows, neither the previous version nor one that was tried"],
        ),
        (
            rows_committed_before_their_version,
            kill_at("record_version"),
            "1 kills, 0 kinds of source faults",
            [
                "a kill, record_version: 2023-01: the last version in month_versions is of another file than the rows in the "
                "table",
                "a kill, record_version: 2023-01: trips_by_day is not what the rows in the table add up to",
                "a kill, record_version: 2023-01: pickups_by_zone is not what the rows in the table add up to",
            ],
        ),
        (
            a_file_written_under_its_final_name,
            error_page,
            "0 kills, 1 kinds of source faults",
            ["an error page: 2023-01: taxi_trips_2023-01.parquet is not a version that the source ever had"],
        ),
    ],
)
def test_a_broken_pipeline_is_reported_with_exit_code_1(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    break_it: Callable[[Path], None],
    scenario: Callable[[Sandbox], None],
    faults: str,
    expected: list[str],
) -> None:
    def broken_copy(root: Path, target: Path) -> Path:
        copy = copy_of_project(root, target)
        break_it(copy)
        return copy

    monkeypatch.setattr("dagster_essentials_tests.chaos.sandbox.copy_of_project", broken_copy)
    monkeypatch.setattr("dagster_essentials_tests.chaos.sandbox.ROWS", 300)
    monkeypatch.setattr(chaos, "SHORT", (chaos.Scenario("broken", scenario), chaos.Scenario("another", scenario)))
    monkeypatch.setattr(sys, "argv", ["chaos", "--short", "--only", "broken", "--seed", "1"])
    with pytest.raises(SystemExit) as ended:
        chaos.main()
    output = capfd.readouterr().out

    assert ended.value.code == 1
    reported = [line.removeprefix("VIOLATION: ") for line in output.splitlines() if line.startswith("VIOLATION: ")]
    assert set(expected) <= set(reported), output
    assert table(output)["broken"] == table(output)["total"]
    assert table(output)["total"][-1] == len(reported)
    assert faults in output
    (kept,) = re.findall("The sandboxes with violations are in (.*)", output)
    assert (Path(kept) / "sandbox-0/project/data/staging/data.duckdb").exists()
    shutil.rmtree(kept)
