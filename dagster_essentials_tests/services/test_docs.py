"""The documents: their links resolve, the settings are all there, and the commands of the lesson do what it says."""

import os
import re
import subprocess
from pathlib import Path

import duckdb
import pytest

from dagster_essentials.settings import read_settings
from dagster_essentials_tests.support.dagster_dev import BIN, copy_of_project
from dagster_essentials_tests.support.project import ROOT

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
    """The headings as GitHub turns them into anchors, which links have after their #."""
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


class Environment(dict[str, str]):
    """Environment variables, of which it notes those that are read."""

    def __init__(self, **variables: str):
        super().__init__(variables)
        self.read: set[str] = set()

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
        self.read.add(name)
        return super().get(name, default)


def test_the_page_of_the_settings_has_each_of_them_with_its_default() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    defaults = {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    # Dagster reads it.
    del defaults["DAGSTER_HOME"]
    everything = Environment(
        DUCKDB_DATABASE="ducklake:postgres:dbname=lake",
        DUCKLAKE_DATA_PATH="s3://bucket/lake",
        TAXI_DATA_DIR="s3://bucket/files",
        AWS_ACCESS_KEY_ID="key",
        AWS_SECRET_ACCESS_KEY="secret",
    )
    read_settings(everything)
    assert set(defaults) == everything.read

    literal = {name: default.strip("`") for name, default in defaults.items() if re.fullmatch("`[^`]+`", default)}
    assert len(literal) >= 9
    assert read_settings(literal) == read_settings({})


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


@pytest.mark.slow
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


@pytest.mark.slow
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
