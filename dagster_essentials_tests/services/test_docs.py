"""The documents: their links resolve, and the commands of the lesson do what it says."""

import os
import re
import subprocess
from pathlib import Path

import duckdb
import pytest

from dagster_essentials_tests.support.dagster_dev import BIN, copy_of_project
from dagster_essentials_tests.support.project import ROOT

pytestmark = pytest.mark.slow

READMES = ("README.md", "data/requests/README.md", "benchmarks/README.md", "dagster_essentials_tests/chaos/README.md")
DOCUMENTS = [*(ROOT / name for name in READMES), *sorted((ROOT / "docs").glob("*.md"))]
LESSON = ROOT / "docs/lesson-8.md"
TWO_DIMENSIONS = ROOT / "docs/two-dimensions.md"
NOT_RUN = ("make setup", ". .venv", "dg dev", "dagster job backfill")
"""The set-up, and commands that need a running `dg dev`, which the tests of the UI test."""


def _commands(document: Path) -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


def _anchors(document: Path) -> set[str]:
    """What a link may have after its #: the headings, as GitHub turns them into anchors."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_links_of_the_documents_resolve() -> None:
    links = [
        (document, target)
        for document in DOCUMENTS
        for targets in re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', document.read_text())
        for target in targets
        if target and "://" not in target
    ]
    assert len(links) > 40
    broken = []
    for document, target in links:
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            broken.append(f"{document.name}: {target}")
    assert broken == []


def test_the_architecture_lists_every_module_and_no_others() -> None:
    package = ROOT / "dagster_essentials"
    modules = {str(path.relative_to(package)) for path in package.rglob("*.py") if path.name != "__init__.py"}
    table = (ROOT / "docs/architecture.md").read_text().split("## Who decides what")[1].split("\n## ")[0]
    named = set(
        re.findall(r"`([\w/]+\.py)`", "".join(line.split("|")[1] for line in table.splitlines() if "|" in line))
    )
    # constants.py has nothing but paths and dates.
    assert named == modules - {"assets/constants.py"}


def test_every_image_is_used_in_a_document() -> None:
    text = "".join(document.read_text() for document in DOCUMENTS)
    assert [path.name for path in (ROOT / "docs/images").iterdir() if f"images/{path.name}" not in text] == []


def _run(root: Path, commands: list[str]) -> subprocess.CompletedProcess[str]:
    """Run `commands` in the project `root`, as in the activated environment; stop at the first that fails."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TAXI_", "DUCKDB_", "DAGSTER_"))}
    return subprocess.run(
        ["bash", "-e", "-c", "\n".join(commands)],
        cwd=root,
        env={**kept, "PWD": str(root), "PATH": f"{BIN}:{os.environ['PATH']}", "DAGSTER_HOME": str(root / ".dagster")},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )


def test_the_commands_of_the_lesson_load_its_months(tmp_path: Path) -> None:
    commands = [line for line in _commands(LESSON) if line.startswith(("export", "python", "dg", "dagster"))]
    commands = [line for line in commands if not line.startswith(NOT_RUN)]
    assert sum(line.startswith(("dg", "dagster")) for line in commands) >= 8
    root = copy_of_project(ROOT, tmp_path)

    result = _run(root, commands)

    assert result.returncode == 0, result.stdout[-3000:]
    assert "│ 2023-03        │        20000 │" in result.stdout
    with duckdb.connect(str(root / "data/staging/data.duckdb"), read_only=True) as connection:
        rows = dict(connection.execute("SELECT partition_date, count(*) FROM trips GROUP BY ALL").fetchall())
        weeks = connection.execute("SELECT count(*), sum(num_trips) FROM trips_by_week").fetchall()
    assert rows == {"2023-01": 20_000, "2023-02": 20_000, "2023-03": 20_000}
    # A few trips of a sample month have their pickup outside of the month, some of them by decades.
    assert weeks[0][0] == 13
    assert 59_900 < weeks[0][1] <= 60_000
    plots = {path.name for path in (root / "data/outputs").glob("*.png")}
    assert plots == {"manhattan_map.png", "adhoc_request.png"}


def test_the_commands_of_the_page_on_two_dimensions_load_its_months(tmp_path: Path) -> None:
    lines = _commands(TWO_DIMENSIONS)
    commands = [line for line in lines if line.startswith(("export", "python", "dg", "dagster schedule"))]
    commands = [line for line in commands if not line.startswith(NOT_RUN)]
    assert sum(line.startswith(("dg", "dagster")) for line in commands) == 5
    # In a list, and indented.
    (cannot_exist,) = re.findall(r"^  (TAXI_START_DATE=.*)$", TWO_DIMENSIONS.read_text(), re.MULTILINE)
    (message,) = re.findall(r"^  (fhvhv 2019-01: .*)$", TWO_DIMENSIONS.read_text(), re.MULTILINE)
    root = copy_of_project(ROOT, tmp_path)

    result = _run(root, [*commands, f"! {cannot_exist}", "echo all of them"])

    assert result.stdout.endswith("all of them\n"), result.stdout[-3000:]
    assert "│ 2023-03        │ fhvhv   │     20000 │" in result.stdout
    assert message in result.stdout
    with duckdb.connect(str(root / "data/staging/data.duckdb"), read_only=True) as connection:
        rows = connection.execute(
            "SELECT count(*), count(DISTINCT (fleet, partition_date)) FROM fleet_trips"
        ).fetchall()
        counted = connection.execute("SELECT count(*), sum(num_trips) FROM trips_by_fleet").fetchall()
    assert rows == [(180_000, 9)]
    assert counted == [(9, 180_000)]
