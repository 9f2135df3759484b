"""A database that somebody else has open: runs wait for it, give up with a clear error, and record in the order of commits."""

import logging
import re
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import dagster as dg
import pytest

from dagster_essentials.assets import trips
from dagster_essentials.orchestration import partition_run
from dagster_essentials.orchestration.events import record_materialization
from dagster_essentials_tests.support.database_holder import NOTEBOOK, RUN, held, releasing_when_waited_for
from dagster_essentials_tests.support.faults.samples import ZONES_CSV, sample
from dagster_essentials_tests.support.project import Project, failure_text, materialize
from dagster_essentials_tests.support.run_results import (
    TRIPS,
    ZONES,
    load_two_months,
    materialized_partitions,
    publish,
    step_log,
    take_snapshot,
)
from dagster_essentials_tests.support.source_server import SourceServer


@pytest.mark.parametrize("how", [NOTEBOOK, RUN], ids=["by a notebook", "by a run of another instance"])
def test_a_run_waits_for_a_database_in_use_and_succeeds(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, how: str
) -> None:
    load_two_months(project, instance, source_server)
    publish(source_server, "2023-03", sample("2023-03"))

    with held(project.database, how) as holder, releasing_when_waited_for(holder) as messages:
        result = materialize(project, instance, TRIPS, "2023-03")

    assert result.success
    assert project.rows() == {"2023-01": 300, "2023-02": 300, "2023-03": 300}
    (waiting,) = messages
    assert f"data.duckdb is in use by process {holder.pid}" in waiting
    assert "60 seconds" in waiting
    first, loaded = step_log(instance, result.run_id, "taxi_trips")
    assert first == waiting, "it is in the run's log"
    assert re.fullmatch(
        r"2023-03: 300 trips, .* kB, loaded in \d\.\d s after \d+\.\d s of waiting for the database", loaded
    )


@pytest.mark.parametrize("how", [NOTEBOOK, RUN], ids=["by a notebook", "by a run of another instance"])
def test_a_run_gives_up_on_a_database_that_stays_in_use_and_names_the_process(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, how: str
) -> None:
    before = load_two_months(project, instance, source_server)
    for month in ("2023-01", "2023-02", "2023-03"):
        publish(source_server, month, sample(month, 200))

    with held(project.database, how) as holder:
        result = materialize(project, instance, TRIPS, "2023-01", "2023-03", wait_seconds=0.3)

    assert not result.success
    text = failure_text(result)
    in_use = f"{project.database} was in use by process {holder.pid} for "
    assert f"3 of 3 months failed:\n2023-01, 2023-02, 2023-03: {in_use}" in text
    assert "materialize again" in text
    _, first, others, summary = step_log(instance, result.run_id, "taxi_trips")
    assert first.startswith(f"2023-01 (1 of 3) failed: {in_use}")
    assert others == "not tried, for the same reason: 2023-02, 2023-03"
    assert re.fullmatch(r"0 of 3 months loaded in \d+\.\d s; failed: 2023-01, 2023-02, 2023-03", summary)
    for record in instance.fetch_observations(trips.taxi_trips.key, limit=10).records:
        assert record.asset_observation is not None
        assert in_use in str(record.asset_observation.metadata["failed"].value), "each month's page has the reason"
    waits = [entry for entry in instance.all_logs(result.run_id) if "aiting" in entry.user_message]
    assert len(waits) == 1, "the other months do not wait as well"
    after = take_snapshot(project)
    assert (after.columns, after.rows) == (before.columns, before.rows)
    assert materialized_partitions(instance, trips.taxi_trips) == ["2023-01-01", "2023-02-01"]


def test_a_database_in_use_is_the_first_thing_in_the_error_of_any_asset(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    source_server.files["/taxi_zones.csv"] = ZONES_CSV
    project.database.parent.mkdir()

    with held(project.database, NOTEBOOK) as holder:
        result = materialize(project, instance, ZONES, wait_seconds=0.3)

    (failed,) = [event for event in result.all_events if event.is_step_failure]
    error = failed.step_failure_data.error
    assert error is not None
    assert f"{project.database} was in use by process {holder.pid} for " in error.message.partition("\n")[0]
    assert (error.cause, error.context) == (None, None), "DuckDB's own traceback is not printed below it"


def test_the_last_record_of_two_overlapping_runs_is_the_version_in_the_table(
    project: Project, history: dg.DagsterInstance, source_server: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))
    other: list[Future[dg.ExecuteInProcessResult]] = []
    waits_or_ends = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting" in record.getMessage().lower():
                waits_or_ends.set()

    def record_while_another_run_loads(context: dg.AssetExecutionContext, *arguments: Any, **options: Any) -> None:
        if context.asset_key == trips.taxi_trips.key and not other:
            publish(source_server, "2023-01", sample("2023-01", 310))
            other.append(pool.submit(materialize, project, history, TRIPS, "2023-01"))
            other[0].add_done_callback(lambda _: waits_or_ends.set())
            assert waits_or_ends.wait(60)
        record_materialization(context, *arguments, **options)

    monkeypatch.setattr(partition_run, "record_materialization", record_while_another_run_loads)
    listener = Listener()
    dg.get_dagster_logger().addHandler(listener)
    try:
        with ThreadPoolExecutor(1) as pool:
            assert materialize(project, history, TRIPS, "2023-01").success
            assert other[0].result().success
    finally:
        dg.get_dagster_logger().removeHandler(listener)

    last, first = history.fetch_materializations(trips.taxi_trips.key, limit=2).records
    versions = [
        record.asset_materialization.tags["dagster/data_version"].partition("-")[0]  # type: ignore[union-attr, index]
        for record in (first, last)
    ]
    assert versions == [sha256(sample("2023-01", rows)).hexdigest() for rows in (300, 310)]
    assert project.rows() == {"2023-01": 310}
