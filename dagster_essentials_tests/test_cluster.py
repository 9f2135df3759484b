"""A whole cluster on this machine: months are loaded once and completely, also if a worker and connections are killed."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import pyarrow.parquet as pq
import pytest
import yaml
from pyarrow.fs import FileSelector, S3FileSystem

from cluster.local import LocalCluster, local_cluster
from cluster.servers import PASSWORD
from dagster_essentials.sample import months_between, write_month, write_zones
from dagster_essentials.warehouse.month_versions import versions_by_month
from dagster_essentials_tests.support.lake_servers import opened
from dagster_essentials_tests.support.project import ROOT

MONTHS = list(months_between("2023-01", "2024-12"))
ROWS = 5_000
SECONDS = 600
"""For all runs of a test to end: a time-out, not a wait."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with tempfile.TemporaryDirectory(prefix="taxi-cluster-", ignore_cleanup_errors=True) as name:
        source = Path(name) / "source"
        for number, month in enumerate(MONTHS):
            write_month(source, month, ROWS + number)
        zones = write_zones(source / "taxi_zones.csv")
        with local_cluster(Path(name), str(source), str(zones), has_ui=False) as cluster:
            yield cluster


def until(condition: Callable[[], bool], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


def rows(cluster: LocalCluster) -> dict[str, int]:
    with opened(cluster.lake) as connection:
        if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'trips'").fetchall():
            return {}
        return dict(connection.execute("SELECT partition_date, count(*) FROM trips GROUP BY ALL").fetchall())


def rows_in_files(cluster: LocalCluster) -> dict[str, int]:
    folder = cluster.folder / "source"
    return {month: pq.read_metadata(folder / f"yellow_tripdata_{month}.parquet").num_rows for month in MONTHS}


def assert_loaded(cluster: LocalCluster) -> None:
    """Every month is there once, by its rows, its only version, and both aggregates."""
    expected = rows_in_files(cluster)
    assert rows(cluster) == expected
    with opened(cluster.lake) as connection:
        versions = versions_by_month(connection)
        assert {month: [each.num_trips for each in found] for (_, month), found in versions.items()} == {
            month: [count] for month, count in expected.items()
        }
        for table in ("trips_by_day", "pickups_by_zone"):
            sums = f"SELECT partition_date, sum(num_trips) FROM {table} GROUP BY ALL"
            assert dict(connection.execute(sums).fetchall()) == expected


def keys(months: list[str]) -> str:
    return ",".join(f"{month}-01" for month in months)


def failed_months(cluster: LocalCluster) -> list[str]:
    """The months of which the last run failed."""
    import psycopg2

    with closing(psycopg2.connect(cluster.history)) as session, session.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT ON (value) value, status FROM runs JOIN run_tags USING (run_id) "
            "WHERE key = 'dagster/partition' ORDER BY value, runs.id DESC"
        )
        return [key[:7] for key, status in cursor.fetchall() if status != "SUCCESS"]


def test_a_backfill_over_three_workers_survives_kills(cluster: LocalCluster) -> None:
    expected = rows_in_files(cluster)
    seen: set[tuple[str, int]] = set()
    is_over = threading.Event()

    def read() -> None:
        while not is_over.wait(0.5):
            seen.update(rows(cluster).items())

    reader = threading.Thread(target=read)
    cluster.backfill("trip_update_job", keys(MONTHS))
    reader.start()
    try:
        until(lambda: len(seen) >= 3, lambda: _logs(cluster))
        # The worker with the process that executes its run.
        os.killpg(cluster.workers["worker-1"].pid, signal.SIGKILL)
        until(lambda: len(seen) >= 8, lambda: _logs(cluster))
        _end_connections(cluster)
        until(lambda: cluster.is_idle(runs=len(MONTHS)), lambda: (cluster.run_states(), _logs(cluster)))
        # What lost its connection says so, and is launched again, as its message asks for.
        if failed := failed_months(cluster):
            assert len(failed) <= 3
            cluster.backfill("trip_update_job", keys(failed))
            queued = sum(cluster.run_states().values())
            until(lambda: cluster.is_idle(runs=queued), lambda: (cluster.run_states(), _logs(cluster)))
            assert failed_months(cluster) == []
    finally:
        is_over.set()
        reader.join(SECONDS)
    assert seen <= set(expected.items())
    assert_loaded(cluster)
    assert PASSWORD not in _logs(cluster)


def _end_connections(cluster: LocalCluster) -> None:
    """End all connections to the catalogue, as a restart of PostgreSQL does."""
    import psycopg2

    with closing(psycopg2.connect(cluster.history)) as session, session.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'lake'")


def _logs(cluster: LocalCluster) -> str:
    return "\n".join(path.read_text(errors="replace")[-5000:] for path in cluster.folder.glob("*/log"))


def test_the_same_month_four_times_at_once_is_there_once(cluster: LocalCluster) -> None:
    before = sum(cluster.run_states().values())
    for _ in range(4):
        cluster.backfill("trip_update_job", keys(MONTHS[:1]))
    until(lambda: cluster.is_idle(runs=before + 4), lambda: (cluster.run_states(), _logs(cluster)))
    assert failed_months(cluster) == []
    assert_loaded(cluster)


def test_the_files_of_a_worker_are_in_no_other_place_than_s3(cluster: LocalCluster) -> None:
    found = (path.relative_to(cluster.folder) for path in cluster.folder.glob("worker-*/**/*.parquet"))
    # What a killed worker was reading stays in its TMPDIR.
    assert [path for path in found if path.parts[1] != "tmp"] == []
    environ = cluster.environ
    scheme, _, host = environ["AWS_ENDPOINT_URL"].partition("://")
    store = S3FileSystem(
        access_key=environ["AWS_ACCESS_KEY_ID"],
        secret_key=environ["AWS_SECRET_ACCESS_KEY"],
        region=environ["AWS_REGION"],
        scheme=scheme,
        endpoint_override=host,
    )
    folder = environ["TAXI_DATA_DIR"].removeprefix("s3://") + "/raw"
    on_s3 = {info.base_name for info in store.get_file_info(FileSelector(folder))}
    assert {f"taxi_trips_{month}.parquet" for month in MONTHS} <= on_s3


def test_the_containers_have_the_settings_of_the_local_cluster(cluster: LocalCluster) -> None:
    """No test starts containers."""
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    names = {name for name in cluster.environ if name.startswith(("TAXI_", "DUCK", "AWS_")) or "POSTGRES" in name}
    parts = {name for name, service in compose["services"].items() if service.get("image") == "nyc-taxi"}
    assert parts == {"code", "daemon", "webserver", "worker"}
    for part in parts:
        # The months are the TLC's there.
        assert names - set(compose["services"][part]["environment"]) == {"TAXI_TRIPS_URL", "TAXI_ZONES_URL"}
    limits = yaml.safe_load((ROOT / "deploy/dagster.yaml").read_text())["concurrency"]["runs"]
    assert compose["services"]["worker"]["deploy"]["replicas"] == limits["max_concurrent_runs"]


def test_the_command_ends_everything_it_started() -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "cluster", "--end", "2023-01", "--rows", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    address = next(line.removeprefix("UI: ").strip() for line in lines if line.startswith("UI: "))
    with urlopen(f"{address}/server_info", timeout=30) as answer:
        assert answer.status == 200
    assert any(line == "2023-01: 1,000 trips\n" for line in lines)
    group = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    started = [int(pid) for pid in group.stdout.split()]
    assert len(started) >= 8
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=SECONDS)
    assert output.endswith("ended\n")
    assert process.returncode == 0
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []
