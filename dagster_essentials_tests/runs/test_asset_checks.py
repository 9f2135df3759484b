"""Unusual months: loaded as they are, while the asset checks count what deserves a look; but never as another month."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from dagster._core.loader import LoadingContextForTest
from dagster_duckdb import DuckDBResource

from dagster_essentials.assets import trips
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.errors import DatabaseBusyError, LoadError
from dagster_essentials.orchestration.checks import evaluate_checks
from dagster_essentials.warehouse.month_versions import MonthVersion
from dagster_essentials.warehouse.tables import Tables
from dagster_essentials_tests.support.faults.samples import query_file, rewrite, sample
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import FILE_AND_LAKE, Project, failure_text, materialize
from dagster_essentials_tests.support.run_results import (
    TRIPS,
    check_evaluations,
    load_two_months,
    materialized_partitions,
    month_page,
    not_passed,
    publish,
    step_log,
    warnings,
)
from dagster_essentials_tests.support.source_server import SourceServer

OUTSIDE = "SELECT count(*) FROM month WHERE strftime(tpep_pickup_datetime, '%Y-%m') IS DISTINCT FROM '2023-01'"


def with_pickups(outside: int, value: str) -> bytes:
    """January 2023, 300 trips, of which the pickup of so many is `value` in SQL."""
    pickup = f"if(row_number() OVER () <= {outside}, {value}, TIMESTAMP '2023-01-31 23:59:59')"
    return rewrite(sample("2023-01"), f"SELECT * REPLACE ({pickup} AS tpep_pickup_datetime) FROM month")


@pytest.mark.parametrize(
    ("content", "seems"),
    [
        (sample("2022-01", 200), "it seems to be 2022-01"),
        (with_pickups(151, "TIMESTAMP '2022-12-31 23:59:59'"), "it seems to be 2022-12"),
        (with_pickups(200, "TIMESTAMP '2023-02-01 00:00:00'"), "it seems to be 2023-02"),
        (with_pickups(300, "NULL::TIMESTAMP"), "no month is known"),
    ],
    ids=["another year", "half and one more", "two thirds", "no pickups"],
)
def test_a_file_most_of_whose_trips_are_not_of_its_month_is_refused(content: bytes, seems: str, tmp_path: Path) -> None:
    ((outside,),), ((rows,),) = query_file(content, OUTSIDE), query_file(content, "SELECT count(*) FROM month")
    path = tmp_path / "month.parquet"
    with duckdb.connect() as connection:
        path.write_bytes(sample("2023-01"))
        load_month(connection, "2023-01", path)
        before = connection.execute("FROM trips ORDER BY ALL").fetchall()
        path.write_bytes(content)
        says = rf"{outside} of the {rows} trips in the file do not lie in 2023-01 \(pickup_datetime\); {seems}\."
        with pytest.raises(LoadError, match=says):
            load_month(connection, "2023-01", path)
        assert connection.execute("FROM trips ORDER BY ALL").fetchall() == before


@FILE_AND_LAKE
def test_a_run_with_the_file_of_another_month_fails_and_leaves_the_month_until_the_source_is_right_again(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    before = load_two_months(project, instance, source_server)
    publish(source_server, "2023-01", sample("2023-02", 200))
    publish(source_server, "2023-02", sample("2023-02", 250))

    result = materialize(project, instance, TRIPS, "2023-01", "2023-02")

    assert not result.success
    text = failure_text(result)
    assert "1 of 2 months failed; the other one is done:\n2023-01 (" in text
    assert "of the 200 trips in the file do not lie in 2023-01 (pickup_datetime); it seems to be 2023-02." in text
    assert "The month is unchanged. Check the address (TAXI_TRIPS_URL), delete the file, and materialize" in text
    january = [row for row in before.rows if "2023-01" in row]
    assert len(january) == 300
    assert project.query("FROM trips WHERE partition_date = '2023-01' ORDER BY ALL") == january
    assert project.rows() == {"2023-01": 300, "2023-02": 250}
    assert materialized_partitions(instance, trips.taxi_trips) == ["2023-01-01", "2023-02-01", "2023-02-01"]

    publish(source_server, "2023-01", sample("2023-01", 310))
    assert materialize(project, instance, TRIPS, "2023-01").success
    assert project.rows() == {"2023-01": 310, "2023-02": 250}


def test_a_file_half_of_whose_trips_are_of_its_month_is_loaded_with_a_warning(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    publish(source_server, "2023-01", with_pickups(150, "TIMESTAMP '2022-12-31 23:59:59'"))
    result = materialize(project, instance, TRIPS, "2023-01")
    assert result.success
    assert project.rows() == {"2023-01": 300}
    assert "pickups_in_month" in warnings(instance, result.run_id)


def test_an_unknown_column_is_left_out_with_a_warning(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    publish(source_server, "2023-01", rewrite(sample("2023-01"), "SELECT *, 1.25 AS \"New 'Fee'\" FROM month"))
    publish(source_server, "2023-02", sample("2023-02"))

    result = materialize(project, instance, TRIPS, "2023-01", "2023-02")

    assert result.success
    assert project.rows() == {"2023-01": 300, "2023-02": 300}
    assert warnings(instance, result.run_id) == {"columns_known"}
    assert not_passed(instance) == {("2023-01-01", "columns_known")}
    found = "columns that are not in the table: New 'Fee'"
    evaluation = check_evaluations(instance, result.run_id)["columns_known"]
    assert evaluation.description == f"1 of 2 loaded months does not pass. 2023-01: {found}."
    assert f"- columns_known: {found}\n" in month_page(instance, trips.taxi_trips, "2023-01-01")["quality"]


@pytest.mark.parametrize(
    ("columns", "missing"),
    [
        (["total_amount"], ["total_amount"]),
        (["trip_distance"], ["trip_distance"]),
        (["tpep_dropoff_datetime"], ["dropoff_datetime"]),
        (["PULocationID", "DOLocationID"], ["pickup_zone_id", "dropoff_zone_id"]),
        (["extra", "store_and_fwd_flag"], []),
    ],
    ids=lambda names: " and ".join(names),
)
def test_a_column_without_any_value_is_loaded_and_recorded_with_a_warning_if_real_months_have_it(
    project: Project,
    instance: dg.DagsterInstance,
    source_server: SourceServer,
    columns: list[str],
    missing: list[str],
) -> None:
    month = sample("2023-01")
    types = dict(query_file(month, "SELECT column_name, column_type FROM (DESCRIBE month)"))
    nulls = ", ".join(f"NULL::{types[column]} AS {column}" for column in columns)
    publish(source_server, "2023-01", rewrite(month, f"SELECT * REPLACE ({nulls}) FROM month"))

    result = materialize(project, instance, TRIPS, "2023-01")

    assert result.success
    assert project.rows() == {"2023-01": 300}
    assert materialized_partitions(instance, trips.taxi_trips) == ["2023-01-01"]
    assert ("values_present" in warnings(instance, result.run_id)) == bool(missing)
    assert ("2023-01-01", "values_present") in not_passed(instance) or not missing
    description = str(check_evaluations(instance, result.run_id)["values_present"].description)
    assert all(f"{name} in 100.00% of the trips" in description for name in missing)
    # Every rule has a number to show.
    quality = month_page(instance, trips.taxi_trips, "2023-01-01")["quality"]
    assert all(f"- {name}: " in quality for name in VIOLATIONS)
    assert "None" not in quality


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
    rows = {month: query_file(content, "SELECT count(*) FROM month")[0][0] for month, content in files.items()}
    for month, content in files.items():
        publish(source_server, month, content)

    result = materialize(project, instance, TRIPS, min(months), max(months))

    assert result.success
    assert project.rows() == rows
    assert warnings(instance, result.run_id) == set(VIOLATIONS)
    assert not_passed(instance) == {(f"{month}-01", name) for month, name in months.items()}
    evaluations = check_evaluations(instance, result.run_id)
    assert set(evaluations) == {
        *VIOLATIONS,
        *("rows_match_file", "values_present", "columns_known", "similar_to_previous_version"),
    }
    log = step_log(instance, result.run_id, "taxi_trips")
    for month, content in files.items():
        page = month_page(instance, trips.taxi_trips, f"{month}-01")
        assert page["upstream"] == trips.taxi_trips_file.key
        for name, (_, count) in VIOLATIONS.items():
            violations = query_file(content, count.format(month=month))[0][0]
            assert (
                f"- {name}: {violations:,} of {rows[month]:,} trips, {violations / rows[month]:.2%};" in page["quality"]
            )
            found = f"{month}: {name}: {violations:,} of {rows[month]:,} trips, "
            assert any(line.startswith(found) for line in log) == (months[month] == name)
            if months[month] == name:
                listed = f"1 of 7 loaded months does not pass. {month}: {violations:,} of {rows[month]:,} trips, "
                assert str(evaluations[name].description).startswith(listed)
                assert evaluations[name].metadata["months_beyond_the_limit"].value == 1


def test_a_check_is_about_all_loaded_months_whichever_of_them_the_run_has_loaded(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    bad, violations = VIOLATIONS["no_negative_totals"][0], VIOLATIONS["no_negative_totals"][1]
    january = rewrite(sample("2023-01"), bad)
    publish(source_server, "2023-01", january)
    publish(source_server, "2023-02", sample("2023-02"))
    found = f"2023-01: {query_file(january, violations)[0][0]:,} of 300 trips, "

    def evaluate(first: str, last: str) -> tuple[dg.AssetCheckEvaluation, list[str]]:
        result = materialize(project, instance, TRIPS, first, last)
        log = step_log(instance, result.run_id, "taxi_trips")
        evaluation = check_evaluations(instance, result.run_id)["no_negative_totals"]
        return evaluation, [line for line in log if "no_negative_totals" in line]

    evaluation, logged = evaluate("2023-01", "2023-01")
    assert str(evaluation.description).startswith(f"1 of 1 loaded month does not pass. {found}")
    assert len(logged) == 1
    # Months that are left as they are say nothing in the log.
    evaluation, logged = evaluate("2023-01", "2023-02")
    assert str(evaluation.description).startswith(f"1 of 2 loaded months does not pass. {found}")
    assert logged == []
    # Neither does a run that has loaded none: 2023-03 is not published.
    evaluation, logged = evaluate("2023-03", "2023-03")
    assert str(evaluation.description).startswith(f"1 of 2 loaded months does not pass. {found}")
    assert logged == []
    publish(source_server, "2023-01", sample("2023-01"))
    evaluation, _ = evaluate("2023-01", "2023-01")
    assert evaluation.passed
    assert str(evaluation.description).startswith("2 loaded months: all pass.")


@pytest.mark.parametrize("has_failed", [False, True])
def test_if_the_checks_cannot_be_evaluated_the_run_says_so(
    has_failed: bool,
    project: Project,
    instance: dg.DagsterInstance,
    source_server: SourceServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextmanager
    def busy(database: DuckDBResource) -> Iterator[Tables]:
        raise DatabaseBusyError("it is in use. Materialize again.")
        yield

    publish(source_server, "2023-01", sample("2023-01"))
    # Of a month, the assets open the database themselves.
    monkeypatch.setattr("dagster_essentials.orchestration.month_run.open_tables", busy)
    result = materialize(project, instance, TRIPS, "2023-01", "2023-02" if has_failed else "2023-01")
    assert not result.success
    assert project.rows() == {"2023-01": 300}
    assert materialized_partitions(instance, trips.taxi_trips) == ["2023-01-01"]
    text, log = failure_text(result), "\n".join(step_log(instance, result.run_id, "taxi_trips"))
    assert ("The months are loaded, but the checks could not be evaluated. it is in use." in text) != has_failed
    assert ("The checks could not be evaluated. it is in use." in log) == has_failed
    assert ("2023-02 (http" in text) == has_failed
    assert "Materialize again." in text + log


def test_a_check_names_the_twelve_newest_months_that_do_not_pass() -> None:
    months = [f"2022-{number:02}" for number in range(1, 13)] + ["2023-01", "2023-02"]
    versions = {
        ("yellow", month): [MonthVersion(month=month, version=1, num_trips=9, fleet="yellow", columns_unknown=["new"])]
        for month in months
    }
    (result,) = evaluate_checks(["columns_known"], [YELLOW], versions, {})
    assert not result.passed
    named = "; ".join(f"{month}: columns that are not in the table: new" for month in months[2:])
    assert result.description == f"14 of 14 loaded months do not pass. {named}, and 2 earlier ones."


def test_the_checks_count_for_the_latest_materialization(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    for month in ("2023-01", "2023-02", "2023-03"):
        publish(source_server, month, sample(month))
    keys = [spec.key for spec in trips.taxi_trips.check_specs]

    def current() -> set[tuple[str, bool]]:
        """The last results of the checks, and whether they are those of the latest materialization."""
        latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
        assert set(latest) == set(keys)
        return {
            (each.status.value, asyncio.run(each.targets_latest_materialization(LoadingContextForTest(instance))))
            for each in latest.values()
        }

    assert materialize(project, instance, TRIPS, "2023-01", "2023-03").success
    assert current() == {("SUCCEEDED", True)}
    assert materialize(project, instance, TRIPS, "2023-02").success
    assert current() == {("SUCCEEDED", True)}
    # In the lineage, a month that fails is no check that fails.
    assert not materialize(project, instance, TRIPS, "2023-03", "2023-04").success
    assert current() == {("SUCCEEDED", True)}
    # Dagster compares the time of the last materialization with that of the run, which it keeps in whole seconds.
    last = int(time.time())
    while int(time.time()) == last:
        time.sleep(0.05)
    assert not materialize(project, instance, TRIPS, "2023-04").success
    assert current() == {("SUCCEEDED", True)}
