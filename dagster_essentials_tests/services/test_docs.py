"""The documents: their links resolve, the settings are all there, and their commands, like `make run`, do what they say."""

import json
import os
import re
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from dagster_essentials.assets import trips
from dagster_essentials.settings import read_settings
from dagster_essentials_tests import snapshot
from dagster_essentials_tests.support.commands import run
from dagster_essentials_tests.support.dagster_dev import BIN, copy_with_environment
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
RUN = ("python -", "dg ", "dagster schedule start trip_update_job_schedule", "dagster sensor ")
"""The commands of these pages, without the set-up, and without those that need a running UI: its tests test them.

Of the schedules, one is started for all of them.
"""


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


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_with_environment(ROOT, tmp_path_factory.mktemp("clone") / "a clone")


@pytest.mark.slow
def test_make_run_loads_the_months_of_the_lesson_and_prints_them(clone: Path) -> None:
    # The settings of the shell must not load generated trips into the real table.
    real = clone.parent / "real.duckdb"
    result = run(
        ["make", "-C", str(clone), "run"],
        # From another folder, so that the result does not depend on the working directory.
        cwd="/",
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "PWD": "/",
            "TAXI_START_DATE": "2024-01-01",
            "TAXI_FLEETS": "green",
            "DAGSTER_HOME": "/nowhere",
            "DUCKDB_THREADS": "no",
            "DUCKDB_DATABASE": str(real),
        },
        timeout=600,
    )
    assert result.returncode == 0, result.stdout
    assert re.findall(r"^│ (2023-\d\d) │ +(\d+) │", result.stdout, re.MULTILINE) == [
        (month, "100000") for month in ("2023-01", "2023-02", "2023-03")
    ]
    assert re.findall("Warning|Telemetry| DEBUG ", result.stdout) == []
    lines = result.stdout.splitlines()
    assert "data/sample/outputs/trips_by_week.csv" in lines
    assert "half a minute" in lines[1], "what takes long is announced"
    assert "make lesson" in lines[-2], "and what comes next"
    sample = clone / "data" / "sample"
    assert sorted(path.name for path in (sample / "outputs").glob("[!.]*")) == [
        *("january-manhattan.png", "manhattan_map.png", "trips_by_week.csv")
    ]
    # The weeks cover all days of the three months; a sample trip from another year is in none of them.
    weeks = (sample / "outputs" / "trips_by_week.csv").read_text().splitlines()[1:]
    assert [week[:10] for week in weeks][::12] == ["2023-01-01", "2023-03-26"]
    with duckdb.connect(str(sample / "staging" / "data.duckdb"), read_only=True) as connection:
        loaded = connection.execute("SELECT partition_date, sum(total_amount) FROM trips GROUP BY ALL ORDER BY ALL")
        published = duckdb.execute(
            f"""SELECT regexp_extract(filename, '\\d{{4}}-\\d\\d'), sum(total_amount)
            FROM read_parquet('{sample}/source/trip-data/yellow_*.parquet', filename = true) GROUP BY ALL ORDER BY ALL"""
        )
        assert [(month, round(dollars, 2)) for month, dollars in loaded.fetchall()] == [
            (month, round(dollars, 2)) for month, dollars in published.fetchall()
        ]
        assert connection.execute("SELECT count(*) FROM zones").fetchall() == [(265,)]
    assert not real.exists()
    assert not (clone / "data" / "staging").exists()
    assert [path.name for path in (clone / ".dagster").iterdir()] == ["dagster.yaml"]
    with dg.DagsterInstance.from_config(str(sample / ".dagster")) as instance:
        assert len(instance.get_materialized_partitions(dg.AssetKey("taxi_trips"))) == 3
        # The whole job for the three months is one run; the weeks and the request are one each.
        assert instance.get_runs_count() == 3


# The tests below build on this one: the commands of the pages continue in its folder, which is made like that of the lesson.


def _run_in_sample(clone: Path, commands: list[str]) -> str:
    """Run the `commands` in data/sample, as in the activated environment; return what they print."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TAXI_", "DUCKDB_", "DAGSTER_"))}
    result = run(
        ["bash", "-e", "-c", "\n".join(commands)],
        cwd=clone / "data/sample",
        env={**kept, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(clone)},
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    return result.stdout


@pytest.mark.slow
def test_the_commands_of_the_lesson_load_its_months(clone: Path) -> None:
    commands = [line for line in _commands(LESSON) if line.startswith(RUN)]
    of_make_run = [line for line in commands if line.startswith("dg launch ")][:2]
    for line in of_make_run:
        assert line.replace("dg launch", "\n\t$(LAUNCH)") + "\n" in (ROOT / "Makefile").read_text()

    printed = _run_in_sample(clone, [line for line in commands if line not in of_make_run])

    assert "taxi_trips_file" in printed.partition(" - INFO - ")[0], printed[:2000]
    assert "│ 2023-03        │       100000 │" in printed
    # By the command that forces it: without that, all of them are unchanged.
    assert "taxi_trips - 3 of 3 months loaded: 300,000 trips, " in printed
    folder = clone / "data/sample"
    with duckdb.connect(str(folder / "staging/data.duckdb"), read_only=True) as connection:
        rows = dict(connection.execute("SELECT partition_date, count(*) FROM trips GROUP BY ALL").fetchall())
        weeks = connection.execute("SELECT count(*), sum(num_trips) FROM trips_by_week").fetchall()
    assert rows == {"2023-01": 100_000, "2023-02": 100_000, "2023-03": 100_000}
    # A few trips of a sample month have their pickup outside of the month, some of them by decades.
    assert weeks[0][0] == 13
    assert 299_500 < weeks[0][1] <= 300_000
    assert (folder / "outputs/adhoc_request.png").exists()
    assert {path.name for path in (folder / "source/trip-data").iterdir()} == {
        f"yellow_tripdata_2023-{number:02}.parquet" for number in range(1, 6)
    }


@pytest.mark.slow
def test_the_commands_of_the_page_on_two_dimensions_load_its_months(clone: Path) -> None:
    commands, folder = _commands(TWO_DIMENSIONS), clone / "data/sample"
    (setting,) = [line for line in commands if line.startswith("TAXI_FLEETS=")]
    settings = (folder / ".env").read_text()
    (folder / ".env").write_text(settings.replace("TAXI_FLEETS=none", setting))

    printed = _run_in_sample(clone, [line for line in commands if line.startswith(RUN)])

    assert "│ 2023-03        │ fhvhv   │     20000 │" in printed
    with duckdb.connect(str(folder / "staging/data.duckdb"), read_only=True) as connection:
        loaded = connection.execute("SELECT fleet, partition_date, count(*) FROM fleet_trips GROUP BY ALL").fetchall()
        counted = connection.execute(
            "SELECT fleet, partition_date, num_trips FROM trips_by_fleet WHERE fleet <> 'yellow'"
        ).fetchall()
    months = [(fleet, f"2023-0{number}") for fleet in ("green", "fhv", "fhvhv") for number in (1, 2, 3)]
    assert sorted(loaded) == sorted(counted) == sorted((*month, 20_000) for month in months)
    table, png = (folder / f"outputs/trips_by_fleet.{kind}" for kind in ("csv", "png"))
    written = re.findall(r"^(\S+?),(\w+),20000,", table.read_text(), re.MULTILINE)
    assert sorted((fleet, month) for month, fleet in written) == sorted(months)
    assert png.exists()
    with dg.DagsterInstance.from_config(str(folder / ".dagster")) as instance:
        # The partition and the rectangle are a run of the whole job each.
        assert instance.get_runs_count(dg.RunsFilter(job_name="fleet_update_job")) == 2
        keys = {f"{fleet}|{month}-01" for fleet, month in months}
        assert instance.get_materialized_partitions(dg.AssetKey("fleet_trips")) == keys
        assert len(instance.fetch_materializations(dg.AssetKey("trips_by_fleet"), limit=10).records) == 2


def test_the_schedules_and_sensors_that_are_started_exist() -> None:
    lesson, fleets = (json.loads(path.read_text()) for path in snapshot.PATHS)
    for page, definitions in ((LESSON, lesson), (TWO_DIMENSIONS, fleets)):
        started = re.findall(r"^dagster (schedule|sensor) start (\w+)$", page.read_text(), re.MULTILINE)
        assert len(started) > 1
        assert [(kind, name) for kind, name in started if name not in definitions[f"{kind}s"]] == []


def test_the_lesson_quotes_the_statements_of_the_asset() -> None:
    (quoted,) = re.findall(r"^```sql\n(.*?)^```", LESSON.read_text(), re.DOTALL | re.MULTILINE)
    assert quoted.splitlines() == [trips.REPLACE_MONTH.delete, trips.REPLACE_MONTH.insert]
