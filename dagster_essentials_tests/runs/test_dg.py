"""The `dg` command in a copy of the project, as people use it: what it lists, checks, loads and prints."""

import os
import re
import subprocess
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from click.testing import CliRunner
from dagster_dg_cli.cli import cli

from dagster_essentials.sample import write_month, write_zones
from dagster_essentials_tests.support.commands import run
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
    result = run(
        [str(BIN / "dg"), *command],
        cwd=clone,
        env=environ(clone, **settings),
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


def test_dg_lists_its_commands() -> None:
    commands = CliRunner().invoke(cli, ["--help"]).output.partition("Commands")[2]
    assert {"check", "dev", "launch", "list"} <= set(re.findall(r"^│ (\w+) ", commands, re.MULTILINE))


def test_dg_checks_the_definitions_and_refuses_a_malformed_url_without_printing_its_password(clone: Path) -> None:
    assert "All definitions loaded successfully." in run_dg(clone, "check", "defs")
    url = "https://user:hunter2@host:port/trip-data?token=s3same"
    refused = run_dg(clone, "check", "defs", TAXI_TRIPS_URL=url, code=1)
    assert "TAXI_TRIPS_URL=https:... is not a URL" in refused
    assert re.findall("hunter2|s3same", refused) == []


def test_a_range_with_a_month_that_is_not_published_prints_its_progress_and_the_reason_only_and_ends_with_1(
    clone: Path,
) -> None:
    months = ("--partition-range", "2023-01-01...2023-03-01")
    output = run_dg(clone, "launch", "--job", "trip_update_job", *months, code=1)

    lines = log_lines(output)
    assert [line.partition(":")[0] for line in lines if line.startswith("taxi_trips")] == [
        "taxi_trips_file - 2023-01 (1 of 3)",
        "taxi_trips_file - 2023-02 (2 of 3)",
        f"taxi_trips_file - 2023-03 (3 of 3) failed ({clone}/data/source/trip-data/yellow_tripdata_2023-03.parquet)",
        "taxi_trips_file - 2 of 3 months downloaded",
        "taxi_trips - 2023-01 (2 of 3)",
        "taxi_trips - 2023-02 (3 of 3)",
        "taxi_trips - 2 of 3 months loaded",
    ]
    assert output.count("no such file") == 1
    assert "Stack Trace" not in output
    *step, end = re.findall("(?:STEP|RUN)_FAILURE - (.*)", output)
    # On a busy machine, Dagster can lose the last line of the process of a step.
    assert step in (['Execution of step "taxi_trips" failed.'], [])
    assert end == "Execution of run for \"trip_update_job\" failed. Steps failed: ['taxi_trips']."
    # The other two are the assets that were not executed after that.
    assert len(lines) == 7 + len(step) + 1 + 2

    assert rows(clone) == MONTHS
    assert materialized(clone, "taxi_trips") == ["2023-01-01", "2023-02-01"]
    assert runs(clone) == [("trip_update_job", "FAILURE")]


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
    assert "Project configuration file is valid." in output
    assert list(tmp_path.iterdir()) == []
    # Without it, dg collects usage statistics in the home folder, whatever .env sets.
    run(".venv/bin/dg check toml")
    assert [path.name for path in tmp_path.iterdir()] == [".dagster"]
