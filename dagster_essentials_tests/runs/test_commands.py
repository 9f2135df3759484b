"""The targets of the Makefile, in a fresh copy of the project, and the main job through the command line."""

import os
import re
import subprocess
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from dagster_essentials_tests.support.dagster_dev import copy_with_environment
from dagster_essentials_tests.support.project import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return copy_with_environment(ROOT, tmp_path / "a clone")


def _make(clone: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    # From another folder, so that the result does not depend on the working directory.
    return subprocess.run(
        ["make", "-C", str(clone), *arguments],
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PWD": "/", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )


def test_make_run_loads_the_months_of_the_lesson_and_prints_them(clone: Path) -> None:
    # The settings of the shell must not load generated trips into the real table.
    real = clone.parent / "real.duckdb"
    others = {
        "TAXI_START_DATE": "2024-01-01",
        "TAXI_FLEETS": "green",
        "DAGSTER_HOME": "/nowhere",
        "DUCKDB_THREADS": "no",
    }
    result = _make(clone, "run", DUCKDB_DATABASE=str(real), **others)
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
