"""The assets of the other fleets: partitions of a fleet and a month, in ranges and alone, loaded as the yellow months are."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_essentials import defs
from dagster_essentials.assets.fleets import fleet_trips, fleet_trips_file, trips_by_fleet
from dagster_essentials.datasets.fleets import FLEETS as DATASETS
from dagster_essentials.resources import LockedDuckDBResource
from dagster_essentials_tests.support.faults.answers import ERROR_PAGE
from dagster_essentials_tests.support.faults.samples import query_file
from dagster_essentials_tests.support.fleet_files import as_published, fleet_sample
from dagster_essentials_tests.support.project import ROOT, Project, failure_text, materialize
from dagster_essentials_tests.support.run_results import (
    FLEETS,
    check_evaluations,
    materialized_partitions,
    month_page,
    not_passed,
    publish,
    step_log,
    warnings,
)
from dagster_essentials_tests.support.source_server import SourceServer

pytestmark = pytest.mark.slow

NAMES = ("green", "fhv", "fhvhv")
MONTHS = ("2023-01", "2023-02", "2023-03")
ROWS = {(fleet, month): 300 + 10 * NAMES.index(fleet) + MONTHS.index(month) for fleet in NAMES for month in MONTHS}
"""The trips of each month: no two have the same number."""
KEYS = sorted(f"{fleet}|{month}-01" for fleet, month in ROWS)


@pytest.fixture
def published(project: Project, source_server: SourceServer) -> Project:
    """A source with three months of each fleet."""
    for (fleet, month), rows in ROWS.items():
        publish(source_server, month, fleet_sample(fleet, month, rows), fleet)
    return project


def fleet_rows(project: Project) -> dict[tuple[str, str], int]:
    """The number of rows of each fleet and month in `fleet_trips`."""
    query = "SELECT fleet, partition_date, count(*) FROM fleet_trips GROUP BY ALL"
    return {(fleet, month): rows for fleet, month, rows in project.query(query)}


def fleet_file(project: Project, fleet: str, month: str) -> Path:
    return project.folder / "raw" / f"{fleet}_trips_{month}.parquet"


def latest(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, key: str) -> dg.AssetMaterialization:
    """The latest materialization of the partition `key`."""
    partition = dg.AssetRecordsFilter(asset.key, asset_partitions=[key])
    (record,) = instance.fetch_materializations(partition, limit=1).records
    assert record.asset_materialization is not None
    return record.asset_materialization


def test_a_range_is_the_product_of_a_range_of_fleets_and_a_range_of_months(
    published: Project, instance: dg.DagsterInstance
) -> None:
    result = materialize(published, instance, FLEETS, "green|2023-01", "fhvhv|2023-03")

    assert result.success, failure_text(result)
    assert fleet_rows(published) == ROWS
    for asset in FLEETS:
        assert materialized_partitions(instance, asset) == KEYS
    for (fleet, month), rows in ROWS.items():
        assert fleet_file(published, fleet, month).read_bytes() == fleet_sample(fleet, month, rows)
    *loads, summary = step_log(instance, result.run_id, "fleet_trips")
    assert {text.split(" (")[0] for text in loads} == {f"{fleet} {month}" for fleet, month in ROWS}
    assert re.fullmatch(rf"9 of 9 months loaded: {sum(ROWS.values()):,} trips, .*", summary)


def test_a_range_with_the_tags_of_one_of_its_partitions_is_the_whole_range(
    published: Project, instance: dg.DagsterInstance
) -> None:
    """A run of a backfill of the job, as the UI launches it."""
    one = {"dagster/partition/fleet": "green", "dagster/partition/month": "2023-01-01"}
    result = materialize(published, instance, FLEETS, "green|2023-02", "fhv|2023-03", tags=one)
    assert result.success, failure_text(result)
    keys = ["fhv|2023-02-01", "fhv|2023-03-01", "green|2023-02-01", "green|2023-03-01"]
    for asset in FLEETS:
        assert materialized_partitions(instance, asset) == keys
    assert fleet_rows(published) == {
        (fleet, month): rows for (fleet, month), rows in ROWS.items() if f"{fleet}|{month}-01" in keys
    }


def test_a_range_of_one_fleet_leaves_the_others_alone(published: Project, instance: dg.DagsterInstance) -> None:
    assert materialize(published, instance, FLEETS, "fhv|2023-02", "fhv|2023-03").success
    assert fleet_rows(published) == {key: ROWS[key] for key in [("fhv", "2023-02"), ("fhv", "2023-03")]}
    assert materialized_partitions(instance, fleet_trips) == ["fhv|2023-02-01", "fhv|2023-03-01"]


def test_a_run_of_one_partition_loads_it_alone(published: Project, instance: dg.DagsterInstance) -> None:
    result = materialize(published, instance, FLEETS, "fhvhv|2023-02")
    assert result.success
    assert fleet_rows(published) == {("fhvhv", "2023-02"): 321}
    (line,) = step_log(instance, result.run_id, "fleet_trips_file")
    assert re.fullmatch(r"fhvhv 2023-02: 321 trips, \d+\.\d kB, downloaded in \d+\.\d s", line)


@pytest.mark.parametrize(
    ("first", "last"), [("fhv|2023-01", "green|2023-03"), ("green|2023-03", "fhvhv|2023-01")], ids=["fleets", "months"]
)
def test_a_range_backwards_in_one_dimension_says_that_it_has_no_partition(
    first: str, last: str, published: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    text = failure_text(materialize(published, instance, FLEETS, first, last))
    assert f"The range from {first}-01 to {last}-01 has no partition." in text
    assert "from an earlier one to a later one" in text
    assert source_server.requests == []


def test_what_is_recorded_of_a_month_is_that_of_the_fleet(published: Project, instance: dg.DagsterInstance) -> None:
    assert materialize(published, instance, FLEETS, "green|2023-01", "fhvhv|2023-03").success
    versions = set()
    for (fleet, month), rows in ROWS.items():
        key = f"{fleet}|{month}-01"
        file, table = latest(instance, fleet_trips_file, key), latest(instance, fleet_trips, key)
        (sha256,) = [row[0] for row in query_version(published, fleet, month)]
        assert (file.tags or {})["dagster/data_version"] == sha256
        assert (table.tags or {})["dagster/data_version"].startswith(f"{sha256}-")
        versions.add((table.tags or {})["dagster/data_version"])
        # As Dagster's own: a filter on a fleet finds its events by these.
        dimensions = {"dagster/partition/fleet": fleet, "dagster/partition/month": f"{month}-01"}
        assert dimensions.items() <= (file.tags or {}).items() & (table.tags or {}).items()
        of_file, of_table = month_page(instance, fleet_trips_file, key), month_page(instance, fleet_trips, key)
        assert of_file["path"] == str(fleet_file(published, fleet, month))
        assert of_file["dagster/uri"] == f"{published.trips_url}/{fleet}_tripdata_{month}.parquet"
        assert of_file["dagster/partition_row_count"] == of_table["dagster/partition_row_count"] == rows
        assert (of_table["version"], of_table["unchanged"]) == (1, False)
        assert of_table["checks_not_passed"] == "none"
        # Only what this fleet could have counts as missing.
        of_fleet = {column.name for column in DATASETS[fleet].columns if column.source is not None}
        assert set(of_table["columns_without_values"].split(", ")) <= of_fleet | {"none"}
    assert len(versions) == len(ROWS)


def query_version(project: Project, fleet: str, month: str) -> list[tuple[Any, ...]]:
    return project.query("SELECT sha256 FROM month_versions WHERE (fleet, month) = (?, ?)", fleet, month)


OF_EVERY_FLEET = {"rows_match_file", "values_present", "columns_known", "similar_to_previous_version"}


def test_every_check_is_about_the_months_of_the_fleets_that_have_its_rule(
    published: Project, instance: dg.DagsterInstance
) -> None:
    result = materialize(published, instance, FLEETS, "green|2023-01", "fhvhv|2023-02")
    evaluations = check_evaluations(instance, result.run_id)
    # Otherwise Dagster would show a check of the asset as skipped.
    assert set(evaluations) == {spec.name for spec in fleet_trips.check_specs}
    assert all(evaluation.passed for evaluation in evaluations.values())
    rules = {fleet: {rule.name for rule in DATASETS[fleet].rules} | OF_EVERY_FLEET for fleet in NAMES}
    for name, evaluation in evaluations.items():
        fleets = [fleet for fleet in NAMES if name in rules[fleet]]
        assert evaluation.metadata["months"].value == 2 * len(fleets), name
    assert str(evaluations["pickup_zone_present"].description).startswith(
        "2 loaded months: all pass. The highest is fhv 2023-0"
    )

    # A month's page has the figures of its fleet.
    counts = {
        ("green", "no_negative_amounts"): "total_amount < 0",
        ("fhv", "pickup_zone_present"): "PUlocationID IS NULL",
        ("fhvhv", "zones_known"): "PULocationID IN (264, 265) OR DOLocationID IN (264, 265)",
    }
    for (fleet, name), where in counts.items():
        content = fleet_sample(fleet, "2023-01", ROWS[fleet, "2023-01"])
        ((expected,),) = query_file(content, f"SELECT count(*) FROM month WHERE {where}")
        quality = month_page(instance, fleet_trips, f"{fleet}|2023-01-01")["quality"]
        assert f"- {name}: {expected:,} of {ROWS[fleet, '2023-01']:,} trips, " in quality
        assert ("pickup_zone_present" in quality) == (fleet == "fhv")
        assert (fleet, expected) != ("fhv", 0)


@pytest.mark.parametrize("bad", ["not published", "an error page"])
def test_in_a_range_the_good_months_are_recorded_and_the_run_fails_naming_the_bad_one(
    bad: str, published: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    url = publish(source_server, "2023-02", ERROR_PAGE, "green")
    if bad == "not published":
        del source_server.files["/trip-data/green_tripdata_2023-02.parquet"]

    result = materialize(published, instance, FLEETS, "green|2023-01", "fhvhv|2023-03")

    assert not result.success
    text = failure_text(result)
    assert "1 of 9 months failed; the other 8 are done:" in text
    assert f"green 2023-02 ({url}): not " in text
    if bad == "not published":
        assert (
            "The TLC publishes a month of green taxi trips about 2 months after its end: materialize it again" in text
        )
    assert not any(f"{fleet} {month}" in text for fleet, month in ROWS if (fleet, month) != ("green", "2023-02"))
    good = {key: rows for key, rows in ROWS.items() if key != ("green", "2023-02")}
    assert fleet_rows(published) == good
    for asset in FLEETS:
        assert materialized_partitions(instance, asset) == [key for key in KEYS if key != "green|2023-02-01"]
        (record,) = instance.fetch_observations(asset.key, limit=10).records
        observation = record.asset_observation
        assert observation is not None
        assert observation.partition == "green|2023-02-01"
        assert str(observation.metadata["failed"].value).startswith(f"green 2023-02 ({url}): not ")
    assert not fleet_file(published, "green", "2023-02").exists()
    # The checks are about the months that are loaded, and have their results in a run that fails, too.
    evaluations = check_evaluations(instance, result.run_id)
    assert set(evaluations) == {spec.name for spec in fleet_trips.check_specs}
    assert (evaluations["rows_match_file"].passed, evaluations["rows_match_file"].metadata["months"].value) == (True, 8)

    publish(source_server, "2023-02", fleet_sample("green", "2023-02", ROWS["green", "2023-02"]), "green")
    assert materialize(published, instance, FLEETS, "green|2023-02").success
    assert fleet_rows(published) == ROWS


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (
            "fhvhv|2019-01",
            "fhvhv 2019-01: there is no such month: high-volume for-hire vehicle trips (fhvhv) are published since 2019-02. "
            "Until 2019-01 the trips of Uber, Lyft, Via and Juno are in fhv.",
        ),
        (
            "fhv|2014-12",
            "fhv 2014-12: there is no such month: for-hire vehicle trips (fhv) are published since 2015-01.",
        ),
        ("green|2013-08", "green 2013-08: there is no such month: green taxi trips are published since 2014-01."),
    ],
)
def test_a_month_before_the_first_of_its_fleet_is_a_message_and_no_request(
    key: str, says: str, project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    text = failure_text(materialize(project, instance, FLEETS, key))
    assert says in text
    assert not text.rstrip("\n").endswith(" ")
    assert source_server.requests == []
    assert project.query("SELECT table_name FROM duckdb_tables()") == []
    assert not (project.folder / "raw").exists()
    assert instance.get_materialized_partitions(fleet_trips_file.key) == set()


def test_a_range_over_the_first_month_of_fhvhv_loads_what_there_is(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    for month in ("2019-01", "2019-02"):
        publish(source_server, month, fleet_sample("fhv", month), "fhv")
    publish(source_server, "2019-02", as_published(fleet_sample("fhvhv", "2019-02"), "2019-02"), "fhvhv")
    text = failure_text(materialize(project, instance, FLEETS, "fhv|2019-01", "fhvhv|2019-02"))
    assert "1 of 4 months failed; the other 3 are done:" in text
    assert "fhvhv 2019-01: there is no such month" in text
    assert sorted(fleet_rows(project)) == [("fhv", "2019-01"), ("fhv", "2019-02"), ("fhvhv", "2019-02")]


def test_the_newest_month_of_fhv_that_is_not_published_says_when_it_is(
    published: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    del source_server.files["/trip-data/fhv_tripdata_2023-03.parquet"]
    text = failure_text(materialize(published, instance, FLEETS, "green|2023-03", "fhvhv|2023-03"))
    assert "1 of 3 months failed; the other 2 are done:" in text
    assert "fhv 2023-03 (http" in text
    assert "not published (the source answered 403)" in text
    assert "The TLC publishes a month of for-hire vehicle trips (fhv) about 3 months after its end" in text
    assert sorted(fleet_rows(published)) == [("fhvhv", "2023-03"), ("green", "2023-03")]
    assert sorted(path.name for path in (published.folder / "raw").glob("fhv_*")) == []


def test_months_that_are_loaded_and_unchanged_are_left_alone_and_recorded_as_such(
    published: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    assert materialize(published, instance, FLEETS, "green|2023-01", "fhv|2023-02").success
    before = published.query("SELECT fleet, month, loaded_at FROM month_versions ORDER BY ALL")
    source_server.requests.clear()
    publish(source_server, "2023-02", fleet_sample("fhv", "2023-02", 333), "fhv")

    result = materialize(published, instance, FLEETS, "green|2023-01", "fhv|2023-02")

    assert result.success
    after = published.query("SELECT fleet, month, loaded_at FROM month_versions WHERE version = 1 ORDER BY ALL")
    assert after == before
    sent = {path: size for _, path, size in source_server.requests if size}
    assert list(sent) == ["/trip-data/fhv_tripdata_2023-02.parquet"]
    unchanged = {
        "green|2023-01-01": True,
        "green|2023-02-01": True,
        "fhv|2023-01-01": True,
        "fhv|2023-02-01": False,
    }
    assert {key: month_page(instance, fleet_trips, key)["unchanged"] for key in unchanged} == unchanged
    assert fleet_rows(published)["fhv", "2023-02"] == 333
    assert step_log(instance, result.run_id, "fleet_trips")[-1].startswith("1 of 4 months loaded, 3 unchanged: ")


def test_a_correction_is_a_version_of_its_fleet(
    published: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    assert materialize(published, instance, FLEETS, "green|2023-01", "fhvhv|2023-01").success
    publish(source_server, "2023-01", fleet_sample("green", "2023-01", 200), "green")

    result = materialize(published, instance, FLEETS, "green|2023-01", "fhvhv|2023-01")

    assert result.success
    assert warnings(instance, result.run_id) == {"similar_to_previous_version"}
    assert not_passed(instance, fleet_trips) == {("green|2023-01-01", "similar_to_previous_version")}
    corrected = month_page(instance, fleet_trips, "green|2023-01-01")
    assert (corrected["version"], corrected["dagster/partition_row_count"]) == (2, 200)
    versions = published.query("SELECT fleet, version, num_trips FROM month_versions ORDER BY ALL")
    assert versions == [("fhv", 1, 310), ("fhvhv", 1, 320), ("green", 1, 300), ("green", 2, 200)]


def test_a_load_is_forced_by_the_config_of_the_run(published: Project, instance: dg.DagsterInstance) -> None:
    assert materialize(published, instance, FLEETS, "green|2023-01", "fhv|2023-01").success
    when = "SELECT fleet, loaded_at FROM month_versions ORDER BY ALL"
    before = dict(published.query(when))
    result = materialize(
        published, instance, FLEETS, "green|2023-01", "green|2023-01", config={"fleet_trips": {"force": True}}
    )
    assert result.success
    after = dict(published.query(when))
    assert after["green"] > before["green"]
    assert after["fhv"] == before["fhv"]
    assert month_page(instance, fleet_trips, "green|2023-01-01")["version"] == 1


def fleet_job() -> dg.JobDefinition:
    """The job with the database of the test, which `database` in its config says."""
    return dg.Definitions(
        assets=[fleet_trips_file, fleet_trips],
        jobs=[dg.define_asset_job("fleet_job")],
        resources={"database": LockedDuckDBResource.configure_at_launch()},
        executor=dg.in_process_executor,
    ).resolve_job_def("fleet_job")


@pytest.mark.parametrize("last", ["green|2023-02-01", "fhv|2023-02-01"], ids=["alone", "in a range"])
def test_a_month_that_failed_is_tried_again_by_a_run_from_the_failure(
    last: str, published: Project, history: dg.DagsterInstance, source_server: SourceServer
) -> None:
    def run(**options: Any) -> dg.JobExecutionResult:
        return dg.execute_job(
            dg.reconstructable(fleet_job),
            instance=history,
            tags={
                "dagster/asset_partition_range_start": last.replace("fhv|2023-02", "green|2023-01"),
                "dagster/asset_partition_range_end": last,
            },
            run_config={"resources": {"database": {"config": {"database": str(published.database)}}}},
            **options,
        )

    url = publish(source_server, "2023-02", ERROR_PAGE, "green")
    failed = run()
    assert not failed.success

    # The step of the files went on, for the sake of the other months: from the failure, only fleet_trips is executed.
    options = dg.ReexecutionOptions.from_failure(failed.run_id, history)
    retry = run(reexecution_options=options)
    assert not retry.success
    (failure,) = [line for line in step_log(history, retry.run_id, "fleet_trips") if line.startswith("green 2023-02")]
    assert re.match(rf"green 2023-02( \(1 of 4\))? failed \({url}\): not a complete parquet file", failure)

    publish(source_server, "2023-02", fleet_sample("green", "2023-02"), "green")
    options = dg.ReexecutionOptions.from_failure(retry.run_id, history)
    again = run(reexecution_options=options)
    assert again.success
    assert {event.step_key for event in again.all_events if event.is_step_success} == {"fleet_trips"}
    assert fleet_rows(published)["green", "2023-02"] == 300
    sha256 = query_version(published, "green", "2023-02")[0][0]
    assert (latest(history, fleet_trips_file, "green|2023-02-01").tags or {})["dagster/data_version"] == sha256


# The jobs.


def test_each_job_has_the_assets_of_its_own_partitions() -> None:
    fleets = {fleet_trips_file.key, fleet_trips.key, trips_by_fleet.key}
    assert defs.resolve_job_def("fleet_update_job").asset_layer.selected_asset_keys == fleets
    assert not fleets & set(defs.resolve_job_def("trip_update_job").asset_layer.selected_asset_keys)


LIST_DEFINITIONS = """
from dagster_essentials import defs
from dagster_essentials.jobs import FLEET_TRIPS

repository = defs.get_repository_def()
print(*[key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()])
print(*[job.name for job in repository.get_all_jobs()], *[schedule.name for schedule in repository.schedule_defs])
print(*[dataset.name for dataset in FLEET_TRIPS.datasets])
"""


def test_the_settings_say_which_fleets_there_are(project: Project) -> None:
    command = [sys.executable, "-W", "ignore", "-c", LIST_DEFINITIONS]
    environ = {**project.env(), "TAXI_FLEETS": "green,fhvhv"}
    listed = subprocess.run(command, env=environ, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    *definitions, scheduled_and_watched = listed.splitlines()
    assert {name for line in definitions for name in line.split() if "fleet" in name} == {
        *("fleet_trips_file", "fleet_trips", "trips_by_fleet", "fleet_update_job"),
        *("fleet_update_job_schedule", "fleet_corrections_schedule"),
    }
    assert scheduled_and_watched == "green fhvhv"
