"""The job that makes Dagster's record follow the database, after the one or the other was lost."""

import re
import shlex
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_essentials import defs
from dagster_essentials.assets.fleets import fleet_trips
from dagster_essentials.assets.trips import taxi_trips, taxi_trips_file
from dagster_essentials.orchestration.records import recorded_version
from dagster_essentials.resources import LockedDuckDBResource
from dagster_essentials_tests.support.faults.samples import sample
from dagster_essentials_tests.support.fleet_files import fleet_sample
from dagster_essentials_tests.support.loaded_trips import load_file
from dagster_essentials_tests.support.project import Project, failure_text, materialize
from dagster_essentials_tests.support.run_results import FLEETS, TRIPS, check_evaluations, publish, step_log
from dagster_essentials_tests.support.source_server import SourceServer

pytestmark = pytest.mark.slow

MONTHS = ("2022-12", "2023-01", "2023-02")


@pytest.fixture
def loaded(project: Project, instance: dg.DagsterInstance, source_server: SourceServer) -> Project:
    for month in MONTHS:
        publish(source_server, month, sample(month))
    assert materialize(project, instance, TRIPS, MONTHS[0], MONTHS[-1]).success
    source_server.requests.clear()
    return project


def load_fleets(project: Project, instance: dg.DagsterInstance, source_server: SourceServer) -> list[str]:
    """Load two months of green, fhv and fhvhv each; return their partitions."""
    fleets, months = ("green", "fhv", "fhvhv"), ("2023-01", "2023-02")
    for fleet in fleets:
        for month in months:
            publish(source_server, month, fleet_sample(fleet, month), fleet)
    assert materialize(project, instance, FLEETS, "green|2023-01", "fhvhv|2023-02").success
    source_server.requests.clear()
    return [f"{fleet}|{month}-01" for fleet in fleets for month in months]


def reconcile(project: Project, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    job: dg.JobDefinition = defs.resolve_job_def("reconcile_job")
    return job.execute_in_process(
        instance=instance,
        resources={"database": LockedDuckDBResource(database=str(project.database))},
        raise_on_error=False,
    )


def recorded_lines(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> list[str]:
    """What the log says of each month that the job has recorded in a table."""
    return [line for line in step_log(instance, result.run_id, "reconcile_trips") if ": recorded version " in line]


def records(instance: dg.DagsterInstance, asset: dg.AssetsDefinition) -> dict[str, Any]:
    """The version and the metadata of each partition that is recorded, without what differs in each run."""
    found = {}
    for key in sorted(instance.get_materialized_partitions(asset.key)):
        (record,) = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset.key, asset_partitions=[key]), limit=1
        ).records
        assert record.asset_materialization is not None
        metadata = {name: value.value for name, value in record.asset_materialization.metadata.items()}
        of_the_run = ("unchanged", "seconds", "seconds_waited", "bytes_transferred", "upstream")
        found[key] = (
            (record.asset_materialization.tags or {})["dagster/data_version"],
            {name: value for name, value in metadata.items() if name not in of_the_run},
        )
    return found


def test_an_empty_instance_gets_the_records_of_all_that_is_there(
    loaded: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    with dg.DagsterInstance.ephemeral() as emptied:
        result = reconcile(loaded, emptied)
        assert result.success
        for asset in (taxi_trips_file, taxi_trips):
            assert records(emptied, asset) == records(instance, asset)
        evaluations = check_evaluations(emptied, result.run_id)
        assert set(evaluations) == {spec.name for spec in taxi_trips.check_specs}
        assert {evaluation.metadata["months"].value for evaluation in evaluations.values()} == {3}
        log = step_log(emptied, result.run_id, "reconcile_trips")
        assert log[0].startswith("2022-12: recorded version 1, of ")
        assert "taxi_trips: 3 of 3 months recorded; Dagster had the others already." in log
        assert source_server.requests == []

        again = reconcile(loaded, emptied)
        assert again.success
        assert recorded_lines(emptied, again) == []
        assert "taxi_trips: 0 of 3 months recorded; Dagster had the others already." in step_log(
            emptied, again.run_id, "reconcile_trips"
        )
        assert check_evaluations(emptied, again.run_id) == {}


def test_the_months_of_the_other_fleets_are_recorded_as_well(
    loaded: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    keys = load_fleets(loaded, instance, source_server)
    with dg.DagsterInstance.ephemeral() as emptied:
        result = reconcile(loaded, emptied)
        assert result.success, failure_text(result)
        for asset in (taxi_trips_file, taxi_trips, *FLEETS):
            assert records(emptied, asset) == records(instance, asset)
        assert {*records(emptied, FLEETS[1])} == {*keys}
        assert [line.partition(":")[0] for line in recorded_lines(emptied, result)] == [
            *MONTHS,
            *(f"{fleet} {month[:7]}" for fleet, _, month in (key.partition("|") for key in keys)),
        ]
        checks = check_evaluations(emptied, result.run_id, fleet_trips)
        assert checks["rows_match_file"].metadata["months"].value == 6
        assert checks["pickup_zone_present"].metadata["months"].value == 2, "those of fhv"
        assert recorded_lines(emptied, reconcile(loaded, emptied)) == []
        assert source_server.requests == []


def test_a_month_of_a_fleet_that_the_table_lacks_is_named_with_the_command_that_loads_it(
    loaded: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    load_fleets(loaded, instance, source_server)
    with loaded.connect() as tables:
        for table, month in (("fleet_trips", "partition_date"), ("month_versions", "month")):
            tables.execute(f"DELETE FROM {table} WHERE fleet = 'green' AND {month} = '2023-02'")
            tables.execute(f"DELETE FROM {table} WHERE fleet = 'fhv' AND {month} = '2023-01'")
    text = failure_text(reconcile(loaded, instance))
    assert "in the table fleet_trips: green 2023-02, fhv 2023-01. Load them again: " in text
    (command,) = re.findall(r"dagster (job backfill .*)", text)
    arguments = shlex.split(command)
    assert arguments == [
        *("job", "backfill", "-j", "fleet_update_job", "--partitions", "green|2023-02-01,fhv|2023-01-01")
    ]

    # The command launches a run for each partition.
    for key in arguments[-1].split(","):
        assert materialize(loaded, instance, FLEETS, key.removesuffix("-01")).success
    assert reconcile(loaded, instance).success


def test_an_older_database_is_recorded_as_it_is_and_what_it_lacks_is_named(
    loaded: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    before = loaded.database.read_bytes()
    publish(source_server, "2023-01", sample("2023-01", 310))
    publish(source_server, "2023-03", sample("2023-03"))
    older = recorded_version(instance, taxi_trips.key, "2023-01-01")
    assert materialize(loaded, instance, TRIPS, "2023-01", "2023-03").success
    loaded.database.write_bytes(before)

    result = reconcile(loaded, instance)

    assert not result.success
    text = failure_text(result)
    assert "Recorded in Dagster, but not in the table trips: 2023-03." in text
    assert "dagster job backfill -j trip_update_job --partitions 2023-03-01" in text
    assert recorded_version(instance, taxi_trips.key, "2023-01-01") == older
    # What it advises is enough.
    assert materialize(loaded, instance, TRIPS, "2023-03").success
    assert reconcile(loaded, instance).success


def test_a_version_that_is_older_than_a_rule_is_recorded_without_its_check(
    loaded: Project, instance: dg.DagsterInstance
) -> None:
    older = "map_from_entries(list_filter(map_entries(violations), lambda entry: entry.key <> 'zones_known'))"
    with loaded.connect() as tables:
        tables.execute(f"UPDATE month_versions SET violations = {older}")
    with dg.DagsterInstance.ephemeral() as emptied:
        result = reconcile(loaded, emptied)
        assert result.success, failure_text(result)
        assert emptied.get_materialized_partitions(taxi_trips.key) == {f"{month}-01" for month in MONTHS}
        evaluations = check_evaluations(emptied, result.run_id)
        without = {name for name, evaluation in evaluations.items() if evaluation.metadata["months"].value == 0}
        assert without == {"zones_known"}
        assert evaluations["zones_known"].description == "No month is loaded to which this applies."


def test_rows_that_an_earlier_release_has_loaded_are_named_where_dagster_does_not_know_them(
    loaded: Project, instance: dg.DagsterInstance
) -> None:
    with loaded.connect() as tables:
        tables.execute("DROP TABLE month_versions")
    assert reconcile(loaded, instance).success, "recorded and loaded"
    with dg.DagsterInstance.ephemeral() as emptied:
        result = reconcile(loaded, emptied)
        assert result.success
        unknown = "not recorded: loaded by an earlier release, in a version that is not known. Load it again."
        log = step_log(emptied, result.run_id, "reconcile_trips")
        assert [line for line in log if line.endswith(unknown)] == [f"{month}: {unknown}" for month in MONTHS]
        assert recorded_lines(emptied, result) == []
        assert emptied.get_materialized_partitions(taxi_trips.key) == set()


def test_without_a_database_everything_that_is_recorded_is_missing(
    loaded: Project, instance: dg.DagsterInstance
) -> None:
    loaded.database.unlink()
    text = failure_text(reconcile(loaded, instance))
    assert "not in the table trips: 2022-12, 2023-01, 2023-02." in text


def test_a_month_that_was_loaded_without_a_download_is_recorded_without_its_file(
    project: Project, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    path = tmp_path / "month.parquet"
    path.write_bytes(sample("2023-01"))
    load_file(project, "2023-01", path)
    assert reconcile(project, instance).success
    assert instance.get_materialized_partitions(taxi_trips.key) == {"2023-01-01"}
    assert instance.get_materialized_partitions(taxi_trips_file.key) == set()
