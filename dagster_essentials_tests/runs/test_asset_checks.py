"""Unusual months: they are loaded as they are, and the asset checks count what deserves a look."""

import dagster as dg
import pytest

from dagster_essentials.assets import trips
from dagster_essentials_tests.support.faults.samples import query_file, rewrite, sample
from dagster_essentials_tests.support.project import FILE_AND_LAKE, Project, materialize
from dagster_essentials_tests.support.run_results import (
    TRIPS,
    check_evaluations,
    materialized_partitions,
    publish,
    warnings,
)
from dagster_essentials_tests.support.source_server import SourceServer


def test_another_months_trips_are_loaded_with_a_warning(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    publish(source_server, "2023-01", sample("2023-02", 200))
    publish(source_server, "2023-02", sample("2023-02"))

    result = materialize(project, instance, TRIPS, "2023-01", "2023-02")

    assert result.success
    assert project.rows() == {"2023-01": 200, "2023-02": 300}
    assert warnings(instance, result.run_id) == {("2023-01-01", "pickups_in_month")}


def test_an_unknown_column_is_left_out_with_a_warning(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    publish(source_server, "2023-01", rewrite(sample("2023-01"), "SELECT *, 1.25 AS \"New 'Fee'\" FROM month"))
    publish(source_server, "2023-02", sample("2023-02"))

    result = materialize(project, instance, TRIPS, "2023-01", "2023-02")

    assert result.success
    assert project.rows() == {"2023-01": 300, "2023-02": 300}
    assert warnings(instance, result.run_id) == {("2023-01-01", "columns_known")}
    evaluation = check_evaluations(instance, result.run_id)["2023-01-01", "columns_known"]
    assert evaluation.metadata["unknown_columns"].value == "New 'Fee'"


@pytest.mark.parametrize(
    "columns",
    [
        ["total_amount"],
        ["trip_distance"],
        ["tpep_pickup_datetime"],
        ["tpep_dropoff_datetime"],
        ["PULocationID", "DOLocationID"],
    ],
    ids=" and ".join,
)
def test_a_column_without_any_value_is_loaded_and_recorded(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, columns: list[str]
) -> None:
    month = sample("2023-01")
    types = dict(query_file(month, "SELECT column_name, column_type FROM (DESCRIBE month)"))
    nulls = ", ".join(f"NULL::{types[column]} AS {column}" for column in columns)
    publish(source_server, "2023-01", rewrite(month, f"SELECT * REPLACE ({nulls}) FROM month"))

    result = materialize(project, instance, TRIPS, "2023-01")

    assert result.success
    assert project.rows() == {"2023-01": 300}
    assert materialized_partitions(instance, trips.taxi_trips) == ["2023-01-01"]
    counted = {name: each.metadata for (_, name), each in check_evaluations(instance, result.run_id).items()}
    assert all(isinstance(counted[name]["trips"].value, int) for name in VIOLATIONS)


# For each check: how to make trips violate it, and how to count them in a file. 30 % of 300 are above every limit but that
# of the flex fares; those get 60 %.
SOME_ROWS = "row_number() OVER () % 10 < 3"
VIOLATIONS = {
    "pickups_in_month": (
        f"SELECT * REPLACE (if({SOME_ROWS}, TIMESTAMP '2088-01-24 00:25:39', tpep_pickup_datetime) "
        f"AS tpep_pickup_datetime, if({SOME_ROWS}, TIMESTAMP '2088-01-24 01:25:39', tpep_dropoff_datetime) "
        "AS tpep_dropoff_datetime) FROM month",
        "SELECT count(*) FROM month WHERE strftime(tpep_pickup_datetime, '%Y-%m') != '{month}'",
    ),
    "no_negative_totals": (
        f"SELECT * REPLACE (if({SOME_ROWS}, -abs(total_amount), total_amount) AS total_amount) FROM month",
        "SELECT count(*) FROM month WHERE total_amount < 0",
    ),
    "no_zero_distances": (
        f"SELECT * REPLACE (if({SOME_ROWS}, 0, trip_distance) AS trip_distance) FROM month",
        "SELECT count(*) FROM month WHERE trip_distance = 0",
    ),
    "dropoff_after_pickup": (
        f"SELECT * REPLACE (if({SOME_ROWS}, tpep_pickup_datetime - INTERVAL 1 SECOND, tpep_dropoff_datetime) "
        "AS tpep_dropoff_datetime) FROM month",
        "SELECT count(*) FROM month WHERE tpep_dropoff_datetime < tpep_pickup_datetime",
    ),
    "zones_known": (
        f"SELECT * REPLACE (if({SOME_ROWS}, 264, PULocationID) AS PULocationID, "
        "if(row_number() OVER () % 10 = 1, 265, DOLocationID) AS DOLocationID) FROM month",
        "SELECT count(*) FROM month WHERE PULocationID >= 264 OR DOLocationID >= 264",
    ),
    "flex_fare_share": (
        "SELECT * REPLACE (if(row_number() OVER () % 10 < 6, NULL, passenger_count) AS passenger_count, "
        "if(row_number() OVER () % 10 < 6, NULL, RatecodeID) AS RatecodeID, "
        "if(row_number() OVER () % 10 < 6, NULL, store_and_fwd_flag) AS store_and_fwd_flag) FROM month",
        "SELECT count(*) FROM month WHERE coalesce(passenger_count, RatecodeID) IS NULL AND store_and_fwd_flag IS NULL",
    ),
    "no_duplicates": (
        f"FROM month UNION ALL SELECT * EXCLUDE repeated FROM (SELECT *, {SOME_ROWS} AS repeated FROM month) WHERE repeated",
        "SELECT (SELECT count(*) FROM month) - (SELECT count(*) FROM (SELECT DISTINCT * FROM month))",
    ),
}


@FILE_AND_LAKE
def test_violations_are_kept_and_counted_month_by_month(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    months = {f"2023-{number:02}": name for number, name in enumerate(VIOLATIONS, start=1)}
    files = {month: rewrite(sample(month), VIOLATIONS[name][0]) for month, name in months.items()}
    for month, content in files.items():
        publish(source_server, month, content)

    result = materialize(project, instance, TRIPS, min(months), max(months))

    assert result.success
    assert project.rows() == {
        month: query_file(content, "SELECT count(*) FROM month")[0][0] for month, content in files.items()
    }
    assert warnings(instance, result.run_id) == {(f"{month}-01", name) for month, name in months.items()}
    found = check_evaluations(instance, result.run_id)
    counted = {key: evaluation.metadata["trips"].value for key, evaluation in found.items() if key[1] in VIOLATIONS}
    assert counted == {
        (f"{month}-01", name): query_file(content, count.format(month=month))[0][0]
        for month, content in files.items()
        for name, (_, count) in VIOLATIONS.items()
    }
    assert {key[1] for key in found} == {*VIOLATIONS, "rows_match_file", "columns_known", "similar_to_previous_version"}
    # The month's own page names them, and what it was made from.
    materializations = instance.fetch_materializations(trips.taxi_trips.key, limit=len(months)).records
    pages = {str(record.partition_key)[:7]: record.asset_materialization.metadata for record in materializations}  # type: ignore[union-attr]
    assert {month: page["checks_not_passed"].value for month, page in pages.items()} == months
    assert {page["upstream"].value for page in pages.values()} == {trips.taxi_trips_file.key}


def test_the_checks_count_for_the_materialization_that_they_evaluated(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    months = ("2023-01", "2023-02", "2023-03")
    for month in months:
        publish(source_server, month, sample(month))
    result = materialize(project, instance, TRIPS, months[0], months[-1])
    assert materialize(project, instance, TRIPS, "2023-02").success

    names = {name for _, name in check_evaluations(instance, result.run_id)}
    keys = [dg.AssetCheckKey(trips.taxi_trips.key, name) for name in names]
    states = instance.event_log_storage.get_asset_check_partition_info(keys)

    # A check that points to no materialization, or to an earlier one, counts as missing on its page.
    assert [state for state in states if not state.is_current] == []
    assert {(state.check_key, state.partition_key) for state in states} == {
        (key, f"{month}-01") for key in keys for month in months
    }
