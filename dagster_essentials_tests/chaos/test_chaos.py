"""The chaos harness as people start it: its short form finds no violation here, and finds those of a broken pipeline."""

import os
import re
import shutil
import signal
import subprocess
import sys
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


def broken_in_three_places(root: Path, target: Path) -> Path:
    """A copy of the project that commits and writes too early, and so loses what it promises if it is disturbed there."""
    project = copy_of_project(root, target)
    commit = '        tables.execute("COMMIT; BEGIN")\n'
    # A delete is committed before the insert, and the rows before their version.
    for line in ("rows.insert_into(statements.table)\n", "for aggregate in statements.aggregates:\n"):
        replace(project / "dagster_essentials/warehouse/load.py", f"        {line}", f"{commit}        {line}")
    # A file is written under its final name.
    replace(
        project / "dagster_essentials/ingestion/atomic_write.py",
        "            yield temporary\n            files.upload(temporary, path, cancellation)\n"
        "            temporary.replace(path)\n",
        "            yield path\n",
    )
    return project


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, f"{file.name} has changed: adapt this test"
    file.write_text(text.replace(old, new))


def two_kills_and_an_error_page(sandbox: Sandbox) -> None:
    """A load of three months, and for each of them a next version whose load is disturbed in another place."""
    months = MONTHS[:3]
    sandbox.materialize(months)
    sandbox.check("a load", months, succeeded=True)
    for month, phase in zip(months, ("insert_into", "record_version"), strict=False):
        sandbox.publish(month)
        sandbox.hooks.arm(phase, 1, lambda process, _: os.kill(process, signal.SIGKILL))
        sandbox.materialize([month])
        assert sandbox.hooks.disarm()
        sandbox.report.faults[f"SIGKILL to a run, {phase}"] += 1
        sandbox.check(f"a kill, {phase}", [month], killed=True)
    sandbox.source.put_month(months[2], b"<html>")
    sandbox.materialize([months[2]])
    sandbox.report.faults["source fault: an error page"] += 1
    sandbox.check("an error page", [months[2]])


def test_a_broken_pipeline_is_reported_with_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dagster_essentials_tests.chaos.sandbox.copy_of_project", broken_in_three_places)
    monkeypatch.setattr("dagster_essentials_tests.chaos.sandbox.ROWS", 300)
    scenarios = [chaos.Scenario(name, two_kills_and_an_error_page) for name in ("broken", "another")]
    monkeypatch.setattr(chaos, "SHORT", scenarios)
    monkeypatch.setattr(sys, "argv", ["chaos", "--short", "--only", "broken", "--seed", "1"])
    with pytest.raises(SystemExit) as ended:
        chaos.main()
    output = capfd.readouterr().out

    assert ended.value.code == 1
    reported = [line.removeprefix("VIOLATION: ") for line in output.splitlines() if line.startswith("VIOLATION: ")]
    assert {
        "a kill, insert_into: 2023-01: 0 rows, neither the previous version nor one that was tried",
        "a kill, record_version: 2023-02: the last version in month_versions is of another file than the rows in the table",
        "a kill, record_version: 2023-02: trips_by_day is not what the rows in the table add up to",
        "a kill, record_version: 2023-02: pickups_by_zone is not what the rows in the table add up to",
        "an error page: 2023-03: taxi_trips_2023-03.parquet is not a version that the source ever had",
    } <= set(reported), output
    assert table(output)["broken"] == table(output)["total"]
    assert table(output)["total"][-1] == len(reported)
    assert "2 kills, 1 kinds of source faults" in output
    (kept,) = re.findall("The sandboxes with violations are in (.*)", output)
    assert (Path(kept) / "sandbox-0/project/data/staging/data.duckdb").exists()
    shutil.rmtree(kept)
