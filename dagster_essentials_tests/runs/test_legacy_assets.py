"""The assets when months before 2011 are partitions: what they depend on, a range over both eras, and what it records."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_essentials.assets.trips import taxi_trips
from dagster_essentials.sample import write_month, write_zones
from dagster_essentials_tests.support.legacy_files import legacy_file
from dagster_essentials_tests.support.project import Project
from dagster_essentials_tests.support.run_results import check_evaluations

pytestmark = pytest.mark.slow


def materializations(project: Project, asset: str) -> dict[str | None, dict[str, Any]]:
    """The metadata of the last materialization of each partition."""
    with dg.DagsterInstance.from_config(str(project.home)) as instance:
        records = instance.fetch_materializations(dg.AssetKey(asset), limit=100).records
    return {
        record.partition_key: {name: value.value for name, value in record.asset_materialization.metadata.items()}
        for record in reversed(records)
        if record.asset_materialization is not None
    }


def test_only_with_months_before_2011_trips_depend_on_the_zones_and_have_the_check_of_texts() -> None:
    # This process has the months since 2011.
    assert [key.to_user_string() for key in taxi_trips.asset_deps[taxi_trips.key]] == ["taxi_trips_file"]
    assert "values_mapped" not in {key.name for key in taxi_trips.check_keys}
    script = (
        "from dagster_essentials.assets.trips import taxi_trips; print(*sorted(key.to_user_string() "
        "for key in taxi_trips.asset_deps[taxi_trips.key]), 'values_mapped' in {key.name for key in taxi_trips.check_keys})"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, "TAXI_START_DATE": "2010-12-01"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert result.stdout == "taxi_trips_file taxi_zones_file True\n"


def test_a_range_over_both_eras_needs_the_zones_which_the_job_loads_first(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_zones(source / "taxi_zones.csv")
    for month in ("2010-11", "2011-01"):
        write_month(source / "trip-data", month, 2_000)
    times = {"pickup_datetime": "2010-12-28 15:58:09", "dropoff_datetime": "2010-12-28 16:01:31"}
    trips: list[dict[str, str]] = [{}, {"vendor_id": "TSL", "payment_type": "Voucher"}, {"payment_type": "NA "}]
    december = source / "trip-data" / "yellow_tripdata_2010-12.parquet"
    legacy_file(december, "2010-12", *({**times, **trip} for trip in trips))
    environ = {"TAXI_START_DATE": "2009-01-01", "TAXI_END_DATE": "2011-02-01"}
    project = Project(tmp_path, str(source / "trip-data"), str(source / "taxi_zones.csv"), environ)

    command = ("asset", "materialize", "-m", "dagster_essentials", "--select", "taxi_trips_file,taxi_trips")
    without_zones = project.run(*command, "--partition-range", "2010-12-01...2011-01-01")

    assert without_zones.returncode != 0
    missing = f"{project.folder}/raw/taxi_zones.csv does not exist. Materialize taxi_zones_file first."
    assert f"2010-12 (1 of 2) failed: {missing}" in without_zones.stdout
    assert "1 of 2 months loaded: " in without_zones.stdout
    assert project.rows() == {"2011-01": 2_000}

    range_ = {
        f"dagster/asset_partition_range_{end}": key for end, key in (("start", "2010-11-01"), ("end", "2011-01-01"))
    }
    result = project.run(
        "job", "execute", "-m", "dagster_essentials", "-j", "trip_update_job", "--tags", json.dumps(range_)
    )

    assert result.returncode == 0, result.stdout
    assert project.rows() == {"2010-11": 2_000, "2010-12": 3, "2011-01": 2_000}
    assert project.query(
        "SELECT vendor_id, pickup_zone_id, payment_type FROM trips WHERE partition_date = '2010-12'"
    ) == [
        (1, 1, 2),
        (None, 1, 5),
        (1, 1, 5),
    ]
    recorded = materializations(project, "taxi_trips")
    assert set(recorded) == {"2010-11-01", "2010-12-01", "2011-01-01"}
    assert len(recorded["2010-12-01"]["zones"]) == 12
    assert "zones" not in recorded["2011-01-01"]
    unmapped = "texts that stand for no value: vendor_id of 1 trips, payment_type of 1 trips"
    assert f"values_mapped: {unmapped}" in recorded["2010-12-01"]["checks_not_passed"]
    assert "values_mapped: texts that stand for no value: none" in recorded["2011-01-01"]["quality"]
    with dg.DagsterInstance.from_config(str(project.home)) as instance:
        run, _ = instance.get_runs()
        check = check_evaluations(instance, run.run_id)["values_mapped"]
    assert (check.passed, check.description) == (False, f"1 of 3 loaded months does not pass. 2010-12: {unmapped}.")
    assert project.query("SELECT count(*) FROM trips JOIN zones ON pickup_zone_id = zone_id") == [(4_003,)]
    assert (project.folder / "outputs" / "manhattan_map.png").exists()
