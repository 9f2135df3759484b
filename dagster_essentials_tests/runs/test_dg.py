"""The `dg` command in a copy of the project, as people use it: what it lists, checks, loads and prints."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from dagster_essentials.sample import write_month, write_zones
from dagster_essentials_tests import snapshot
from dagster_essentials_tests.support.dagster_dev import BIN, copy_of_project
from dagster_essentials_tests.support.project import ROOT

pytestmark = pytest.mark.slow

MONTHS = {"2023-01": 301, "2023-02": 302}
"""The published months. March is a partition that the source does not have."""
SUPERFLUOUS = re.compile("warning|telemetry|superseded|deprecat| DEBUG ", re.IGNORECASE)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clone = copy_of_project(ROOT, tmp_path_factory.mktemp("workspace") / "a clone")
    for month, rows in MONTHS.items():
        write_month(clone / "data/source/trip-data", month, rows)
    write_zones(clone / "data/source/taxi_zones.csv")
    # `dg` warns of an environment in the project that is not activated, unless pyproject.toml says otherwise.
    (clone / ".venv").symlink_to(ROOT / ".venv")
    return clone


@pytest.fixture
def fresh(clone: Path) -> Iterator[Path]:
    """The copy, without data and history."""
    yield clone
    for name in ("data/raw", "data/staging", "data/outputs", ".dagster/history", ".dagster/storage"):
        shutil.rmtree(clone / name, ignore_errors=True)


def environ(clone: Path, **settings: str) -> dict[str, str]:
    return {
        **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
        "HOME": str(clone.parent),
        "PWD": str(clone),
        # As the activated environment sets it.
        "DAGSTER_HOME": str(clone / ".dagster"),
        "TAXI_TRIPS_URL": "data/source/trip-data",
        "TAXI_ZONES_URL": "data/source/taxi_zones.csv",
        "TAXI_END_DATE": "2023-04-01",
        **settings,
    }


def run_dg(clone: Path, *command: str, code: int = 0, **settings: str) -> str:
    """The output of `dg ...` in the project's folder."""
    result = subprocess.run(
        [str(BIN / "dg"), *command],
        cwd=clone,
        env=environ(clone, **settings),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    assert result.returncode == code, result.stdout
    assert SUPERFLUOUS.findall(result.stdout) == [], result.stdout
    assert not (clone.parent / ".dagster").exists(), "usage statistics"
    return result.stdout


def rows(clone: Path) -> dict[str, int]:
    with duckdb.connect(str(clone / "data/staging/data.duckdb"), read_only=True) as connection:
        return dict(connection.execute("SELECT partition_date, count(*) FROM trips GROUP BY ALL").fetchall())


def runs(clone: Path) -> list[tuple[str, str]]:
    """The job and the status of each run in the history."""
    with dg.DagsterInstance.from_config(str(clone / ".dagster")) as instance:
        return [(run.job_name, run.status.value) for run in instance.get_runs()]


def materialized(clone: Path, asset: str) -> list[str | None]:
    with dg.DagsterInstance.from_config(str(clone / ".dagster")) as instance:
        records = instance.fetch_materializations(dg.AssetKey(asset.split("/")), limit=100, ascending=True).records
    return [record.partition_key for record in records]


def log_lines(output: str) -> list[str]:
    """The steps and messages of a run, without time, job and run."""
    return [line.split(" - ", 5)[-1] for line in output.splitlines() if " - dagster - " in line]


def test_dg_lists_its_commands(clone: Path) -> None:
    commands = run_dg(clone, "--help").partition("Commands")[2]
    assert {"check", "dev", "launch", "list"} <= set(re.findall(r"^│ (\w+) ", commands, re.MULTILINE))


def test_dg_lists_what_the_snapshot_has(clone: Path) -> None:
    listed = json.loads(run_dg(clone, "list", "defs", "--json"))
    expected = json.loads(snapshot.PATHS[0].read_text())
    assert {asset["asset_key"] for asset in listed["assets"]} == expected["assets"].keys()
    for section in ("jobs", "schedules", "sensors"):
        assert {definition["name"] for definition in listed[section]} == expected[section].keys()


def test_the_definitions_and_the_configuration_pass_the_checks_of_dg(clone: Path) -> None:
    assert "All definitions loaded successfully." in run_dg(clone, "check", "defs")
    assert "Project configuration file is valid." in run_dg(clone, "check", "toml")
    assert "TAXI_END_DATE=soon is not a date" in run_dg(clone, "check", "defs", TAXI_END_DATE="soon", code=1)


def test_a_range_of_the_job_is_one_run_that_prints_its_progress_only(fresh: Path) -> None:
    output = run_dg(fresh, "launch", "--job", "trip_update_job", "--partition-range", "2023-01-01...2023-02-01")
    lines = log_lines(output)
    assert len(lines) == 6
    assert lines[2].startswith("taxi_trips_file - 2 of 2 months downloaded: 603 trips, ")
    assert lines[5].startswith("taxi_trips - 2 of 2 months loaded: 603 trips, ")
    assert rows(fresh) == MONTHS
    assert runs(fresh) == [("trip_update_job", "SUCCESS")]
    for asset in ("taxi_trips_file", "taxi_trips"):
        assert sorted(map(str, materialized(fresh, asset))) == ["2023-01-01", "2023-02-01"]
    for asset in ("taxi_zones_file", "taxi_zones", "manhattan/manhattan_stats", "manhattan_map"):
        assert materialized(fresh, asset) == [None]


def test_a_job_of_months_that_is_launched_without_one_says_how_to_give_it(fresh: Path) -> None:
    for job in ("trip_update_job", "weekly_update_job"):
        output = run_dg(fresh, "launch", "--job", job, code=1)
        assert "The run has no partition. Launch it for one (--partition) or for a range" in output
    assert materialized(fresh, "taxi_trips_file") == []


def test_a_month_that_is_not_published_ends_dg_with_1_and_the_others_are_loaded(fresh: Path) -> None:
    months = ("--partition-range", "2023-01-01...2023-03-01")
    output = run_dg(fresh, "launch", "--job", "trip_update_job", *months, code=1)
    assert "2 of 3 months loaded" in output
    assert "2023-03 (3 of 3) failed (" in output
    assert "no such file" in output
    assert rows(fresh) == MONTHS
    assert materialized(fresh, "taxi_trips") == ["2023-01-01", "2023-02-01"]
    assert runs(fresh) == [("trip_update_job", "FAILURE")]


def test_the_activated_environment_turns_telemetry_off_until_it_is_deactivated(clone: Path, tmp_path: Path) -> None:
    if not (ROOT / ".venv/.ready").exists():
        pytest.skip("the tests were started without `make setup`")
    kept = {name: value for name, value in environ(clone).items() if name != "DAGSTER_HOME"}

    def run(script: str) -> str:
        shell = ["bash", "-e", "-c", script]
        return subprocess.run(
            shell, cwd=ROOT, env={**kept, "HOME": str(tmp_path)}, check=True, capture_output=True, text=True
        ).stdout

    output = run(". .venv/bin/activate; dg check toml; echo $DAGSTER_HOME; deactivate; echo ${DAGSTER_HOME:-nowhere}")
    assert output.splitlines()[-2:] == [str(ROOT / ".dagster"), "nowhere"]
    assert list(tmp_path.iterdir()) == []
    # Without it, dg collects usage statistics in the home folder, whatever .env sets.
    run(".venv/bin/dg check toml")
    assert [path.name for path in tmp_path.iterdir()] == [".dagster"]
