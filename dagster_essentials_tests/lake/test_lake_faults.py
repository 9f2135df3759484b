"""A DuckLake whose writers are killed, whose connections are cut, or that cannot be used: whole months, and clear errors."""

import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import dagster as dg
import pytest

from dagster_essentials import settings
from dagster_essentials.assets.trips import taxi_trips, taxi_zones
from dagster_essentials.errors import ConnectionLostError, DatabaseUnusableError
from dagster_essentials.orchestration.failures import RETRIES
from dagster_essentials.sample import write_zones
from dagster_essentials.warehouse.lake import Lake
from dagster_essentials_tests.cluster.servers import PASSWORD, free_port
from dagster_essentials_tests.support.faults.samples import sample
from dagster_essentials_tests.support.lake_servers import (
    LOAD,
    SECONDS,
    LakeServers,
    assert_consistent,
    file,
    opened,
)
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import (
    Project,
    failure_text,
    materialize,
)
from dagster_essentials_tests.support.run_results import TRIPS, publish
from dagster_essentials_tests.support.source_server import SourceServer

pytestmark = pytest.mark.cluster

# What is left after a kill

LOAD_MODULE = "dagster_essentials.warehouse.load"
BEFORE_COMMIT = "dagster_essentials.warehouse.lake.locks.CatalogLocks.confirm"
"""The last that a transaction does before it commits."""

HANG = """
import sys
from pkgutil import resolve_name
def hang(*args):
    print("here", flush=True)
    sys.stdin.readline()
parent, _, name = {target!r}.rpartition(".")
setattr(resolve_name(parent), name, hang)
"""


@pytest.mark.parametrize("target", [f"{LOAD_MODULE}.profile_month", BEFORE_COMMIT], ids=["staged", "before the commit"])
def test_a_killed_writer_leaves_the_month_as_it_was_and_frees_it(
    lake_servers: LakeServers, lake: Lake, samples: Path, tmp_path: Path, target: str
) -> None:
    with opened(lake) as tables:
        load_month(tables, "2023-01", file(samples, "2023-01"))
    code = HANG.format(target=target) + LOAD.format(months=["2023-01"], folder=str(samples), rounds=[True])
    process = lake_servers.start(lake, code)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    assert "here\n" in iter(process.stdout.readline, "")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=SECONDS)
    assert_consistent(lake, samples, ["2023-01"])
    with opened(lake, wait_seconds=30) as tables:
        load_month(tables, "2023-01", file(samples, "2023-01"), force=True)
    assert_consistent(lake, samples, ["2023-01"])


OF_LOCKS = "application_name LIKE 'taxi trips%'"


def end_connections(lake_servers: LakeServers, lake: Lake, whose: str = "true") -> None:
    """End the connections to the catalogue, as a restart of PostgreSQL does."""
    database = lake.catalog.rpartition("/")[2]
    lake_servers.query(
        "postgres", f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' AND {whose}"
    )


@pytest.mark.parametrize("whose", [OF_LOCKS, f"NOT {OF_LOCKS}"], ids=["its locks", "DuckDB's"])
@pytest.mark.parametrize(
    "target",
    [f"{LOAD_MODULE}.profile_month", f"{LOAD_MODULE}.record_version", BEFORE_COMMIT],
    ids=["while it writes the file", "in the transaction", "before the commit"],
)
def test_a_writer_that_lost_a_connection_leaves_the_month_once_and_complete(
    lake_servers: LakeServers,
    lake: Lake,
    samples: Path,
    monkeypatch: pytest.MonkeyPatch,
    whose: str,
    target: str,
) -> None:
    with opened(lake) as tables:
        load_month(tables, "2023-01", file(samples, "2023-01"))
    called = resolve_name(target)

    def lose_connection(*arguments: object) -> object:
        end_connections(lake_servers, lake, whose)
        return called(*arguments)

    monkeypatch.setattr(target, lose_connection)
    # DuckDB replaces its own connections, except in the middle of a transaction.
    is_lost = suppress(ConnectionLostError) if whose.startswith("NOT") else pytest.raises(ConnectionLostError)
    with is_lost, opened(lake) as tables:
        load_month(tables, "2023-01", file(samples, "2023-01"), force=True)
    monkeypatch.undo()
    assert_consistent(lake, samples, ["2023-01"])
    with opened(lake) as tables:
        load_month(tables, "2023-01", file(samples, "2023-01"), force=True)
    assert_consistent(lake, samples, ["2023-01"])


def test_a_connection_that_was_ended_while_nobody_used_it_is_replaced(
    lake_servers: LakeServers, lake: Lake, samples: Path
) -> None:
    with opened(lake) as tables:
        load_month(tables, "2023-01", file(samples, "2023-01"))
    end_connections(lake_servers, lake)
    with opened(lake) as tables:
        load_month(tables, "2023-02", file(samples, "2023-02"))
    assert_consistent(lake, samples, ["2023-01", "2023-02"])


@pytest.fixture
def storage() -> str:
    """The storage of the tables of `project`."""
    return "lake"


def cut_once(
    monkeypatch: pytest.MonkeyPatch,
    lake_servers: LakeServers,
    project: Project,
    target: str,
    is_committed: bool = False,
) -> None:
    """Let the first call of the function `target` end the connections, as a restart of PostgreSQL does."""
    called = resolve_name(target)
    cuts = iter([project.lake])

    def cut(*arguments: object) -> object:
        for lake in cuts:
            assert lake is not None
            end_connections(lake_servers, lake)
            if is_committed:
                # It is not known then whether it was.
                raise ConnectionLostError("cut")
        return called(*arguments)

    monkeypatch.setattr(target, cut)
    monkeypatch.setattr("dagster_essentials.orchestration.failures.FIRST_WAIT_SECONDS", 0.1)


def retried_steps(instance: dg.DagsterInstance, run_id: str) -> list[str | None]:
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY).records
    return [record.event_log_entry.step_key for record in records]


@pytest.mark.parametrize(
    ("target", "is_committed"),
    [(f"{LOAD_MODULE}.profile_month", False), (BEFORE_COMMIT, False), (f"{LOAD_MODULE}.LoadedMonth", True)],
    ids=["while it writes the file", "before the commit", "after the commit"],
)
def test_a_run_whose_connection_is_cut_replaces_its_month_once_and_succeeds(
    lake_servers: LakeServers,
    project: Project,
    instance: dg.DagsterInstance,
    source_server: SourceServer,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    is_committed: bool,
) -> None:
    for month in ("2023-01", "2023-02"):
        publish(source_server, month, sample(month))
    assert materialize(project, instance, TRIPS, "2023-01", "2023-02").success
    publish(source_server, "2023-01", sample("2023-01", 310))
    cut_once(monkeypatch, lake_servers, project, target, is_committed)

    result = materialize(project, instance, TRIPS, "2023-01", "2023-02")

    assert result.success, failure_text(result)
    assert retried_steps(instance, result.run_id) == ["taxi_trips"]
    assert project.rows() == {"2023-01": 310, "2023-02": 300}
    versions = project.query("SELECT month, version, num_trips FROM month_versions ORDER BY ALL")
    assert versions == [("2023-01", 1, 300), ("2023-01", 2, 310), ("2023-02", 1, 300)]
    assert project.query("SELECT partition_date, sum(num_trips) FROM trips_by_day GROUP BY ALL ORDER BY ALL") == [
        ("2023-01", 310),
        ("2023-02", 300),
    ]
    # Also if it was committed by the first attempt, so that its weeks are aggregated again.
    assert {key: is_unchanged(instance, key) for key in ("2023-01-01", "2023-02-01")} == {
        "2023-01-01": False,
        "2023-02-01": True,
    }


def is_unchanged(instance: dg.DagsterInstance, key: str) -> object:
    """True if the last materialization of the month says that it left the month as it was."""
    latest = dg.AssetRecordsFilter(taxi_trips.key, asset_partitions=[key])
    (record,) = instance.fetch_materializations(latest, limit=1).records
    assert record.asset_materialization is not None
    return record.asset_materialization.metadata["unchanged"].value


def test_other_assets_whose_connection_is_cut_are_materialized_again(
    lake_servers: LakeServers, project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_zones(project.folder / "raw" / "taxi_zones.csv")
    cut_once(monkeypatch, lake_servers, project, "dagster_essentials.datasets.zones_table.create_trip_details")
    result = materialize(project, instance, [taxi_zones])
    assert result.success, failure_text(result)
    assert retried_steps(instance, result.run_id) == ["taxi_zones"]
    assert project.query("SELECT count(*) FROM zones") == [(265,)]


def test_a_catalogue_that_does_not_come_back_fails_the_run(
    lake_servers: LakeServers,
    project: Project,
    instance: dg.DagsterInstance,
    source_server: SourceServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))
    assert project.lake is not None
    gone = replace(settings.SETTINGS, lake=replace(project.lake, catalog=f"{project.lake.catalog}-gone"))

    def lose_catalogue(*arguments: object, force: bool) -> object:
        monkeypatch.setattr(settings, "SETTINGS", gone)
        raise ConnectionLostError("it is gone")

    monkeypatch.setattr("dagster_essentials.assets.trips.replace_month", lose_catalogue)
    monkeypatch.setattr("dagster_essentials.orchestration.failures.FIRST_WAIT_SECONDS", 0.01)
    result = materialize(project, instance, TRIPS, "2023-01")
    assert not result.success
    assert retried_steps(instance, result.run_id) == ["taxi_trips"] * RETRIES
    assert "Check that it runs" in failure_text(result)
    # Whoever cannot reach it in the first place is told at once.
    result = materialize(project, instance, TRIPS, "2023-01")
    assert retried_steps(instance, result.run_id) == []
    assert "Check that it runs" in failure_text(result)


def test_a_run_that_conflicts_with_an_update_by_hand_is_repeated_and_succeeds(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for month in ("2023-01", "2023-02"):
        publish(source_server, month, sample(month))
    assert materialize(project, instance, TRIPS, "2023-01", "2023-02").success
    publish(source_server, "2023-01", sample("2023-01", 310))
    updates = iter(["UPDATE trips SET vendor_id = 7 WHERE partition_date = '2023-02'"])

    def confirm(locks: Any) -> None:
        for update in updates:
            with project.connect() as person:
                person.execute(update)

    monkeypatch.setattr(BEFORE_COMMIT, confirm)
    monkeypatch.setattr("dagster_essentials.orchestration.failures.FIRST_WAIT_SECONDS", 0.1)

    result = materialize(project, instance, TRIPS, "2023-01", "2023-02")

    assert result.success, failure_text(result)
    assert retried_steps(instance, result.run_id) == ["taxi_trips"]
    assert project.rows() == {"2023-01": 310, "2023-02": 300}
    assert project.query("SELECT DISTINCT vendor_id FROM trips WHERE partition_date = '2023-02'") == [(7,)]


# Errors


def assert_unusable(lake: Lake, *texts: str) -> None:
    """A connection to `lake` fails within seconds, with `texts` in the message, and no secret."""
    began = time.monotonic()
    with pytest.raises(DatabaseUnusableError) as raised, opened(lake):
        pass
    assert time.monotonic() - began < 20
    message = str(raised.value)
    assert all(text in message for text in texts), message
    assert PASSWORD not in message
    assert "wrong-word" not in message


def test_a_wrong_password_is_reported(lake: Lake) -> None:
    wrong = replace(lake, catalog=lake.catalog.replace(PASSWORD, "wrong-word"))
    assert_unusable(wrong, "password authentication failed", "Check that it runs", "DUCKDB_DATABASE")


def test_a_catalogue_that_is_not_there_is_reported(lake: Lake) -> None:
    assert_unusable(replace(lake, catalog=f"{lake.catalog}-none"), "does not exist", "DUCKDB_DATABASE")
    closed = replace(lake, catalog=f"host=127.0.0.1 port={free_port()} user=lake password=wrong-word dbname=lake")
    assert_unusable(closed, "Connection refused", "DUCKDB_DATABASE")
    assert_unusable(replace(lake, catalog="host password=wrong-word"), "connection string", "postgresql://")


def test_a_bucket_that_is_not_there_is_reported(lake: Lake) -> None:
    assert_unusable(replace(lake, data_path="s3://no-such-bucket/lake/"), "NoSuchBucket", "DUCKLAKE_DATA_PATH")


def test_an_s3_server_that_does_not_answer_is_reported(lake: Lake) -> None:
    assert lake.store is not None
    closed = replace(lake.store, endpoint=f"http://127.0.0.1:{free_port()}")
    assert_unusable(replace(lake, store=closed), "Could not connect", "AWS_ENDPOINT_URL")


def test_keys_that_s3_refuses_are_reported(lake: Lake, source_server: SourceServer) -> None:
    assert lake.store is not None
    refusing = replace(lake.store, endpoint=source_server.url)
    assert_unusable(replace(lake, store=refusing), "DUCKLAKE_DATA_PATH", "keys")


def test_another_data_path_than_that_of_the_lake_is_reported(lake: Lake) -> None:
    with opened(lake):
        pass
    other = f"{lake.data_path}elsewhere/"
    assert_unusable(replace(lake, data_path=other), "does not match", lake.data_path, "DUCKLAKE_DATA_PATH")


def test_a_missing_extension_is_reported(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("dagster_essentials.warehouse.lake.connection.EXTENSIONS", ("no_such_extension",))
    assert_unusable(lake, "no_such_extension", "DuckDB's extension repository", "docs/scale-out.md")


def test_a_missing_driver_is_reported(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2.extensions", None)
    assert_unusable(lake, "psycopg2", "docs/scale-out.md")


def test_no_secret_is_in_an_error_of_a_query(lake: Lake) -> None:
    with opened(lake) as tables:
        paths = tables.execute("SELECT path FROM duckdb_databases()").fetchall()
        secrets = tables.execute("FROM duckdb_secrets()").fetchall()
    assert PASSWORD not in repr(paths)
    assert PASSWORD not in repr(secrets)
    assert PASSWORD not in repr(lake)
