"""The chaos harness as people start it: its short form finds nothing wrong here, and does in a pipeline that is broken."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos import __main__ as chaos
from chaos.stage import MONTHS, Stage
from dagster_essentials_tests.support.dagster_dev import copy_of_project
from dagster_essentials_tests.support.project import ROOT


def table(printed: str) -> dict[str, list[int]]:
    """The lines of the table at the end, by scenario: blows, kinds, runs, failed, wrong."""
    _, heading, lines = printed.partition("scenario ")
    assert heading, printed
    return {
        line[:34].strip(): [int(number) for number in line[34:].split()]
        for line in lines.partition("\n\n")[0].splitlines()[1:]
    }


def test_the_short_form_finds_nothing_wrong() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "--short", "--seed", "7"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )

    printed = done.stdout
    assert done.returncode == 0, printed
    assert "WRONG" not in printed
    assert printed.startswith("seed 7\n")
    found = table(printed)
    assert list(found) == [*(scenario.name for scenario in chaos.SHORT), "all"]
    for name, (blows, kinds, runs, _, wrong) in found.items():
        assert blows >= kinds > 0, name
        assert runs > 0, name
        assert wrong == 0, name
    for number in (0, 2, 3, 4):
        assert found["all"][number] == sum(line[number] for name, line in found.items() if name != "all")
    summary = re.search(r"^(\d+) kills, (\d+) kinds of bad input$", printed, re.MULTILINE)
    assert summary is not None, printed
    kills, inputs = map(int, summary.groups())
    assert kills >= 8
    assert inputs >= 9
    assert re.search(r"^seed 7, \d+ minutes$", printed, re.MULTILINE), "it can be played again"


# A harness that cannot fail proves nothing


def blows(stage: Stage) -> None:
    """A load, one that is killed after it has deleted the month's rows, and one that gets something else than a month."""
    month = MONTHS[0]
    stage.materialize([month])
    stage.look("a load", [month], succeeded=True)
    stage.publish(month)
    stage.phases.wait_for("insert", 1, lambda process, _: os.kill(process, signal.SIGKILL))
    stage.materialize([month])
    assert stage.phases.forget()
    stage.report.blows["SIGKILL to a run, insert"] += 1
    stage.look("a kill", [month], killed=True)
    stage.source.put_month(month, b"<html>")
    stage.materialize([month])
    stage.report.blows["bad input: an error page"] += 1
    stage.look("an error page", [month])


def a_delete_that_is_committed_before_the_insert(project: Path) -> None:
    delete = '        connection.execute("DELETE FROM trips WHERE partition_date = $month", {"month": month})\n'
    replace(
        project / "dagster_essentials/assets/trips.py",
        delete,
        delete + '        connection.execute("COMMIT")\n        connection.execute("BEGIN")\n',
    )


def a_file_that_is_written_under_its_final_name(project: Path) -> None:
    replace(
        project / "dagster_essentials/files.py",
        "        yield temporary\n        temporary.replace(path)\n",
        "        yield path\n",
    )


def nothing(project: Path) -> None:
    pass


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, f"{file.name} has changed, and this test has to follow"
    file.write_text(text.replace(old, new))


BROKEN: dict[Callable[[Path], None], list[str]] = {
    nothing: [],
    a_delete_that_is_committed_before_the_insert: [
        "a kill: 2023-01: 0 rows, neither what was there before nor a version that was tried"
    ],
    a_file_that_is_written_under_its_final_name: [
        "an error page: 2023-01: taxi_trips_2023-01.parquet is no version that the source ever had"
    ],
}


@pytest.mark.parametrize(("break_it", "says"), BROKEN.items(), ids=[break_it.__name__ for break_it in BROKEN])
def test_what_is_broken_is_told_and_ends_with_code_1(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    break_it: Callable[[Path], None],
    says: list[str],
) -> None:
    def broken_copy(root: Path, target: Path) -> Path:
        copy = copy_of_project(root, target)
        break_it(copy)
        return copy

    monkeypatch.setattr("chaos.stage.copy_of_project", broken_copy)
    monkeypatch.setattr("chaos.stage.ROWS", 300)
    monkeypatch.setattr(chaos, "SHORT", (chaos.Scenario("two blows", blows), chaos.Scenario("another", blows)))
    monkeypatch.setattr(sys, "argv", ["chaos", "--short", "--only", "two", "--seed", "1"])
    code: object = 0
    try:
        chaos.main()
    except SystemExit as ended:
        code = ended.code
    printed = capfd.readouterr().out

    told = [line.removeprefix("WRONG: ") for line in printed.splitlines() if line.startswith("WRONG: ")]
    kept = re.search("The stages with wrong states are in (.*)", printed)
    if kept is not None:
        assert (Path(kept[1]) / "stage-0/project/data/staging/data.duckdb").exists()
        shutil.rmtree(kept[1])
    assert set(says) <= set(told), printed
    assert bool(told) == bool(says), printed
    assert table(printed)["two blows"] == table(printed)["all"]
    assert table(printed)["all"][-1] == len(told)
    assert "1 kills, 1 kinds of bad input" in printed
    assert code == (1 if says else 0)
    assert (kept is not None) == bool(says)
