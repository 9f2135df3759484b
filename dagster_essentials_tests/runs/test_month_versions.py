"""Nothing twice: when a month is loaded again, what the database knows of its versions, and what Dagster shows of it."""

from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import dagster as dg
import duckdb
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from dagster_essentials import defs
from dagster_essentials.assets import trips
from dagster_essentials.assets.metrics import trips_by_week
from dagster_essentials.assets.trips import taxi_trips, taxi_trips_file
from dagster_essentials.datasets.aggregates import loaded_months
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.ingestion import column_mapping
from dagster_essentials.schedules import weekly_update_schedule
from dagster_essentials.warehouse import month_versions
from dagster_essentials_tests.support.faults.samples import query_file, rewrite, sample
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import FILE_AND_LAKE, Project, failure_text, materialize
from dagster_essentials_tests.support.run_results import (
    TRIPS,
    check_evaluations,
    month_page,
    not_passed,
    publish,
    warnings,
)
from dagster_essentials_tests.support.source_server import SourceServer
from dagster_essentials_tests.support.ticks import tick

MARK = "UPDATE trips SET vendor_id = 99 WHERE rowid IN (SELECT min(rowid) FROM trips GROUP BY partition_date)"
"""Changes a row of each month: only a load of the month undoes it."""


def is_marked(project: Project, month: str = "2023-01") -> bool:
    return bool(project.query("SELECT 1 FROM trips WHERE vendor_id = 99 AND partition_date = ?", month))


def change(project: Project, statement: str) -> None:
    with project.connect() as tables:
        tables.execute(statement)


def load(project: Project, instance: dg.DagsterInstance, months: str = "2023-01") -> dg.ExecuteInProcessResult:
    result = materialize(project, instance, TRIPS, months[:7], months[-7:])
    assert result.success, failure_text(result)
    return result


def versions(project: Project, month: str = "2023-01") -> list[tuple[Any, ...]]:
    return project.query(
        "SELECT version, sha256, num_trips FROM month_versions WHERE month = ? ORDER BY version", month
    )


@pytest.fixture
def loaded(project: Project, instance: dg.DagsterInstance, source_server: SourceServer) -> Project:
    """January 2023, 300 trips, in which one is marked."""
    publish(source_server, "2023-01", sample("2023-01"))
    load(project, instance)
    change(project, MARK)
    return project


def page(instance: dg.DagsterInstance) -> dict[str, Any]:
    return month_page(instance, taxi_trips, "2023-01-01")


@FILE_AND_LAKE
def test_a_month_that_is_loaded_is_left_alone_and_recorded_as_unchanged(
    loaded: Project, instance: dg.DagsterInstance
) -> None:
    result = load(loaded, instance)

    assert is_marked(loaded)
    assert versions(loaded) == [(1, sha256(sample("2023-01")).hexdigest(), 300)]
    metadata = page(instance)
    assert (metadata["unchanged"], metadata["version"], metadata["dagster/partition_row_count"]) == (True, 1, 300)
    # The checks count for this materialization as well, with the figures of the load.
    assert set(check_evaluations(instance, result.run_id)) == {spec.name for spec in taxi_trips.check_specs}
    assert "- no_zero_distances: " in metadata["quality"]
    assert warnings(instance, result.run_id) == set()


@FILE_AND_LAKE
def test_a_month_with_another_number_of_rows_than_it_was_loaded_with_is_loaded_again(
    loaded: Project, instance: dg.DagsterInstance
) -> None:
    change(loaded, "DELETE FROM trips WHERE rowid IN (SELECT max(rowid) FROM trips)")
    load(loaded, instance)
    assert (loaded.rows(), is_marked(loaded)) == ({"2023-01": 300}, False)
    assert len(versions(loaded)) == 1


@FILE_AND_LAKE
def test_a_load_can_be_forced(loaded: Project, instance: dg.DagsterInstance) -> None:
    assert materialize(loaded, instance, [taxi_trips], "2023-01", config={"taxi_trips": {"force": True}}).success
    assert not is_marked(loaded)
    assert len(versions(loaded)) == 1, "the same version"
    assert page(instance)["unchanged"] is False


@pytest.mark.parametrize("what", ["a rule", "a column"])
def test_another_rule_or_mapping_makes_every_month_due(
    what: str, loaded: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = loaded.query("SELECT mapping FROM month_versions")
    if what == "a rule":
        monkeypatch.setattr(month_versions, "_rules", lambda dataset: [("another", "count(*)", 1.0)])
    else:
        mapping = column_mapping.map_columns

        def mapped_otherwise(*arguments: Any) -> Any:
            result = mapping(*arguments)
            return replace(result, expressions=["7::INTEGER", *result.expressions[1:]])

        monkeypatch.setattr("dagster_essentials.warehouse.load.map_columns", mapped_otherwise)
    load(loaded, instance)
    assert not is_marked(loaded)
    assert [number for number, *_ in versions(loaded)] == [1, 2]
    assert before[0] != loaded.query("SELECT mapping FROM month_versions WHERE version = 2")[0]
    assert warnings(instance, instance.get_runs(limit=1)[0].run_id) == set(), "the same file is no correction"


@FILE_AND_LAKE
def test_a_correction_is_loaded_and_the_versions_before_it_stay_on_record(
    loaded: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    corrected = sample("2023-01", 330)
    publish(source_server, "2023-01", corrected)
    result = load(loaded, instance)

    assert (loaded.rows(), is_marked(loaded)) == ({"2023-01": 330}, False)
    assert versions(loaded) == [
        (1, sha256(sample("2023-01")).hexdigest(), 300),
        (2, sha256(corrected).hexdigest(), 330),
    ]
    sums = "SELECT round(sum(total_amount), 2), round(sum(trip_distance), 2) FROM month"
    assert loaded.query("SELECT total_amount, trip_distance FROM month_versions ORDER BY version") == [
        *query_file(sample("2023-01"), sums),
        *query_file(corrected, sums),
    ]
    assert warnings(instance, result.run_id) == set(), "a month that grows is no reason for a warning"
    assert page(instance)["version"] == 2


@pytest.mark.parametrize(("query", "says"), [
    ("FROM month LIMIT 298", None),
    ("FROM month LIMIT 296", "296 trips, 300 in the version before; columns that differ: none"),
    (
        "SELECT *, 1 AS new FROM month",
        "300 trips, 300 in the version before; columns that differ: new int32",
    ),
    (
        "SELECT * REPLACE (trip_distance::FLOAT AS trip_distance) FROM month",
        "300 trips, 300 in the version before; columns that differ: trip_distance double, trip_distance float",
    ),
])  # fmt: skip
def test_a_correction_that_shrinks_a_month_or_changes_its_columns_is_loaded_with_a_warning(
    query: str, says: str | None, project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    publish(source_server, "2023-01", rewrite(sample("2023-01"), "FROM month"))
    load(project, instance)
    corrected = rewrite(sample("2023-01"), query)
    publish(source_server, "2023-01", corrected)
    result = load(project, instance)

    assert project.rows() == {"2023-01": query_file(corrected, "SELECT count(*) FROM month")[0][0]}

    def evaluate(result: dg.ExecuteInProcessResult) -> tuple[bool, str | None]:
        evaluation = check_evaluations(instance, result.run_id)["similar_to_previous_version"]
        return evaluation.passed, evaluation.description

    passes = "1 loaded month: all pass."
    assert evaluate(result) == (not says, f"1 of 1 loaded month does not pass. 2023-01: {says}." if says else passes)
    assert (says or "similar_to_previous_version: 298 trips, 300 in the version before") in page(instance)["quality"]
    # It says so until there is another version, also in a run that leaves the month alone.
    assert evaluate(load(project, instance)) == evaluate(result)


@pytest.mark.parametrize("validators", [("ETag",), ("ETag", "Last-Modified")])
def test_another_etag_of_the_same_file_loads_nothing_and_is_noted(
    validators: tuple[str, ...], project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    source_server.validators = validators
    publish(source_server, "2023-01", sample("2023-01"))
    load(project, instance)
    change(project, MARK)
    before = project.query("SELECT etag FROM month_versions")
    sidecar = project.folder / "raw" / ".taxi_trips_2023-01.parquet.source.json"
    sidecar.write_text(sidecar.read_text().replace(before[0][0].strip('"'), "earlier"))
    change(project, "UPDATE month_versions SET etag = 'earlier'")

    load(project, instance)

    assert source_server.requests[-1][2] > 0, "transferred"
    assert is_marked(project)
    assert project.query("SELECT etag FROM month_versions") == before
    assert page(instance)["etag"] == before[0][0]


@FILE_AND_LAKE
def test_the_rows_of_an_older_database_are_its_first_version(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))
    load(project, instance)
    change(project, "DROP TABLE month_versions")
    publish(source_server, "2023-01", sample("2023-01", 200))
    result = load(project, instance)
    assert versions(project) == [(1, None, 300), (2, sha256(sample("2023-01", 200)).hexdigest(), 200)]
    assert warnings(instance, result.run_id) == {"similar_to_previous_version"}
    assert not_passed(instance) == {("2023-01-01", "similar_to_previous_version")}


@FILE_AND_LAKE
@pytest.mark.parametrize("step", ["the aggregates", "the version"])
def test_a_load_that_ends_between_its_rows_and_its_version_changes_nothing(
    step: str,
    loaded: Project,
    instance: dg.DagsterInstance,
    source_server: SourceServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = ("trips", "month_versions", "trips_by_day", "pickups_by_zone")
    before = [loaded.query(f"FROM {table} ORDER BY ALL") for table in tables]
    publish(source_server, "2023-01", sample("2023-01", 310))

    def broken(*_: Any) -> None:
        raise RuntimeError("the process ends here")

    if step == "the aggregates":
        monkeypatch.setattr(trips, "REPLACE_MONTH", replace(trips.REPLACE_MONTH, aggregates=[broken]))
    else:
        monkeypatch.setattr("dagster_essentials.warehouse.load.record_version", broken)
    assert "the process ends here" in str(materialize(loaded, instance, TRIPS, "2023-01").all_events[-1])
    assert [loaded.query(f"FROM {table} ORDER BY ALL") for table in tables] == before


AGGREGATES = {
    "trips_by_day": "SELECT partition_date, pickup_datetime::DATE AS day, count(*), round(sum(total_amount), 6), "
    "round(sum(trip_distance), 6), sum(passenger_count) FROM trips GROUP BY ALL ORDER BY ALL",
    "pickups_by_zone": "SELECT partition_date, pickup_zone_id, count(*) FROM trips GROUP BY ALL ORDER BY ALL",
}


def aggregates(project: Project) -> list[list[tuple[Any, ...]]]:
    days = "SELECT * REPLACE (round(total_amount, 6) AS total_amount, round(trip_distance, 6) AS trip_distance)"
    return [
        project.query(f"{days} FROM trips_by_day ORDER BY ALL"),
        project.query("FROM pickups_by_zone ORDER BY ALL"),
    ]


@FILE_AND_LAKE
def test_the_aggregates_are_those_of_the_trips_after_every_load(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    for month, rows in [("2023-01", 300), ("2021-02", 5000), ("2023-01", 290)]:
        publish(source_server, month, sample(month, rows))
        load(project, instance, month)
        assert aggregates(project) == [project.query(query) for query in AGGREGATES.values()]


@FILE_AND_LAKE
def test_the_aggregates_follow_rows_that_something_else_has_written(
    loaded: Project,
) -> None:
    change(loaded, "INSERT INTO trips SELECT * REPLACE ('2022-12' AS partition_date) FROM trips LIMIT 10")
    with loaded.connect() as tables:
        assert loaded_months(tables) == ["2022-12", "2023-01"]
        assert loaded_months(tables, ["2022-12", "2022-11"]) == ["2022-12"]
    assert aggregates(loaded) == [loaded.query(query) for query in AGGREGATES.values()]


def test_weeks_are_due_again_only_when_one_of_their_months_has_changed(
    project: Project, history: dg.DagsterInstance, source_server: SourceServer
) -> None:
    def due() -> list[str | None]:
        at = datetime(2023, 5, 15, tzinfo=UTC)
        return [request.partition_key for request in tick(history, at, weekly_update_schedule)[0]]

    publish(source_server, "2023-01", sample("2023-01"))
    load(project, history)
    weeks = due()
    assert "2023-01-08" in weeks
    for week in weeks:
        history.report_runless_asset_event(dg.AssetMaterialization(trips_by_week.key, partition=week))
    load(project, history)
    (unchanged,) = history.fetch_materializations(trips.taxi_trips.key, limit=1).records
    assert unchanged.asset_materialization is not None
    for _ in range(12):  # More than one page of the event log.
        history.report_runless_asset_event(unchanged.asset_materialization)
    assert due() == []
    publish(source_server, "2023-01", sample("2023-01", 310))
    load(project, history)
    load(project, history)
    assert due() == weeks
    for week in weeks:
        history.report_runless_asset_event(dg.AssetMaterialization(trips_by_week.key, partition=week))
    # A run is killed after its commit: it is the next one that records the change.
    file = project.folder / "2023-01.parquet"
    file.write_bytes(sample("2023-01", 320))
    with project.connect() as tables:
        load_month(tables, "2023-01", file)
    assert due() == []
    publish(source_server, "2023-01", sample("2023-01", 320))
    load(project, history)
    load(project, history)
    assert due() == weeks


def test_a_month_is_stale_while_the_source_has_another_version_or_the_code_another_mapping(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    def status() -> StaleStatus:
        graph = defs.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        return resolver.get_status(taxi_trips.key, "2023-01-01")

    publish(source_server, "2023-01", sample("2023-01"))
    load(project, instance)
    assert status() == StaleStatus.FRESH
    load(project, instance)
    assert status() == StaleStatus.FRESH
    publish(source_server, "2023-01", sample("2023-01", 310))
    assert materialize(project, instance, [taxi_trips_file], "2023-01").success
    assert status() == StaleStatus.STALE
    load(project, instance)
    assert status() == StaleStatus.FRESH
    (record,) = instance.fetch_materializations(taxi_trips.key, limit=1).records
    assert record.asset_materialization is not None
    assert (record.asset_materialization.tags or {})["dagster/code_version"] == month_versions.code_version(YELLOW)
    assert taxi_trips.code_versions_by_key[taxi_trips.key] == month_versions.code_version(YELLOW)


def test_the_table_of_versions_says_when_each_month_was_loaded(loaded: Project) -> None:
    ((loaded_at,),) = loaded.query("SELECT loaded_at FROM month_versions")
    assert abs((datetime.now(UTC).replace(tzinfo=None) - loaded_at).total_seconds()) < 600


def test_a_foreign_table_of_that_name_is_an_error_in_words(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    project.database.parent.mkdir(parents=True)
    with duckdb.connect(str(project.database)) as connection:
        connection.execute("CREATE TABLE month_versions (mine INTEGER)")
    publish(source_server, "2023-01", sample("2023-01"))
    result = materialize(project, instance, TRIPS, "2023-01")
    assert not result.success
    assert "2023-01" in failure_text(result)
    assert project.query("SELECT count(*) FROM month_versions") == [(0,)]
