"""The documents: their links resolve, the settings are all there, and the commands of the lesson do what it says."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import duckdb
import pytest

from dagster_essentials.assets import trips
from dagster_essentials.settings import read_settings
from dagster_essentials_tests.support.dagster_dev import BIN, lesson_folder
from dagster_essentials_tests.support.project import ROOT

READMES = (
    "README.md",
    ".github/CONTRIBUTING.md",
    "CHANGELOG.md",
    "data/requests/README.md",
    "benchmarks/README.md",
    "dagster_essentials_tests/chaos/README.md",
)
DOCUMENTS = [*(ROOT / name for name in READMES), *sorted((ROOT / "docs").glob("*.md"))]
LESSON = ROOT / "docs/lesson-8.md"
TWO_DIMENSIONS = ROOT / "docs/two-dimensions.md"
RUN = ("python -", "dg ", "dagster schedule ", "dagster sensor ")
"""The commands of these pages, without the set-up, and without those that need a running UI: its tests test them."""


def _commands(document: Path) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)
    return [line for language, block in blocks if not language for line in block.splitlines()]


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


def _run_in_lesson(page: Path, folder: Path, settings: Mapping[str, str]) -> str:
    """Run the commands of the `page` in the lesson's `folder`, as in the activated environment; return what they print.

    The `settings` are those that the page changes, in .env.
    """
    commands = [line for line in _commands(page) if line.startswith(RUN)]
    env_file = folder / ".env"
    lines = [line for line in env_file.read_text().splitlines() if line.partition("=")[0] not in settings]
    env_file.write_text("\n".join([*lines, *(f"{name}={value}" for name, value in settings.items())]))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TAXI_", "DUCKDB_", "DAGSTER_"))}
    result = subprocess.run(
        ["bash", "-e", "-c", "\n".join(commands)],
        cwd=folder,
        env={**kept, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(folder.parent.parent)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    return result.stdout


@pytest.mark.slow
def test_the_commands_of_the_lesson_load_its_months(tmp_path: Path) -> None:
    folder = lesson_folder(ROOT, tmp_path)

    printed = _run_in_lesson(LESSON, folder, {})

    assert "taxi_trips_file" in printed.partition(" - INFO - ")[0], printed[:2000]
    assert "│ 2023-03        │       100000 │" in printed
    with duckdb.connect(str(folder / "staging/data.duckdb"), read_only=True) as connection:
        rows = dict(connection.execute("SELECT partition_date, count(*) FROM trips GROUP BY ALL").fetchall())
        weeks = connection.execute("SELECT count(*), sum(num_trips) FROM trips_by_week").fetchall()
    assert rows == {"2023-01": 100_000, "2023-02": 100_000, "2023-03": 100_000}
    # A few trips of a sample month have their pickup outside of the month, some of them by decades.
    assert weeks[0][0] == 13
    assert 299_500 < weeks[0][1] <= 300_000
    assert {path.name for path in (folder / "outputs").glob("*.png")} == {"manhattan_map.png", "adhoc_request.png"}
    assert {path.name for path in (folder / "source/trip-data").iterdir()} == {
        f"yellow_tripdata_2023-{number:02}.parquet" for number in range(1, 6)
    }


@pytest.mark.slow
def test_the_commands_of_the_page_on_two_dimensions_load_its_months(tmp_path: Path) -> None:
    folder = lesson_folder(ROOT, tmp_path)
    assert "TAXI_FLEETS=green,fhv,fhvhv" in _commands(TWO_DIMENSIONS)

    printed = _run_in_lesson(TWO_DIMENSIONS, folder, {"TAXI_FLEETS": "green,fhv,fhvhv"})

    assert "│ 2023-03        │ fhvhv   │     20000 │" in printed
    with duckdb.connect(str(folder / "staging/data.duckdb"), read_only=True) as connection:
        rows = connection.execute(
            "SELECT count(*), count(DISTINCT (fleet, partition_date)) FROM fleet_trips"
        ).fetchall()
        counted = connection.execute("SELECT count(*), sum(num_trips) FROM trips_by_fleet").fetchall()
    assert rows == [(180_000, 9)]
    assert counted == [(9, 180_000)]


def test_the_lesson_quotes_the_statements_of_the_asset() -> None:
    (quoted,) = re.findall(r"^```sql\n(.*?)^```", LESSON.read_text(), re.DOTALL | re.MULTILINE)
    assert quoted.splitlines() == [trips.REPLACE_MONTH.delete, trips.REPLACE_MONTH.insert]
