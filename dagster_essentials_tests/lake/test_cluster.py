"""A whole cluster on this machine, under kills and overlapping runs: nobody helps, and the oracle finds no wrong state."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import date
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import duckdb
import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from pyarrow.fs import FileSelector, S3FileSystem, copy_files

from dagster_essentials.errors import ConnectionLostError
from dagster_essentials.ingestion.months import months_between
from dagster_essentials.sample import write_month
from dagster_essentials.warehouse.lake import Lake
from dagster_essentials_tests.chaos.oracle import Oracle
from dagster_essentials_tests.chaos.sandbox import LAUNCH
from dagster_essentials_tests.cluster.local import LocalCluster
from dagster_essentials_tests.cluster.servers import PASSWORD, accepts
from dagster_essentials_tests.support.dagster_dev import JOB, ask_ui
from dagster_essentials_tests.support.lake_servers import opened
from dagster_essentials_tests.support.project import ROOT

pytestmark = pytest.mark.cluster

MONTHS = months_between("2023-01", "2023-08")
ROWS = 5_000
SECONDS = 300
"""For all runs of a test to end: a time-out, not a wait."""


@pytest.fixture(scope="module")
def command() -> Iterator["subprocess.Popen[str]"]:
    """`make cluster`, with one month that it loads; the tests add the others to its source. The last test ends it."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "dagster_essentials_tests.cluster", "--end", MONTHS[0], "--rows", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        yield process
        process.terminate()


@pytest.fixture(scope="module")
def address(command: "subprocess.Popen[str]") -> str:
    """The address of the UI that the command prints, when it has loaded its month."""
    assert command.stdout is not None
    lines = iter(command.stdout.readline, "")
    address = next(line.removeprefix("UI: ").strip() for line in lines if line.startswith("UI: "))
    assert f"{MONTHS[0]}: 1,000 trips\n" in lines
    return address


@pytest.fixture(scope="module")
def parts(command: "subprocess.Popen[str]", address: str) -> dict[str, psutil.Process]:
    """The processes of Dagster, by the names of their folders. PostgreSQL, Redis and S3 know nothing of it."""
    processes = psutil.Process(command.pid).children()
    return {Path(each.cwd()).name: each for each in processes if "DAGSTER_HOME" in each.environ()}


@pytest.fixture(scope="module")
def cluster(address: str, parts: Mapping[str, psutil.Process]) -> Iterator[LocalCluster]:
    environ = parts["daemon"].environ()
    cluster = LocalCluster(Path(environ["DAGSTER_HOME"]).parent, environ, ui_url=address)
    for number, month in enumerate(MONTHS[1:], start=1):
        write_month(cluster.folder / "source", month, ROWS + number)
    with pytest.MonkeyPatch.context() as patch:
        # The oracle opens the instance in this process.
        for variable in ("DAGSTER_POSTGRES_URL", "TAXI_CELERY_BROKER", "TAXI_CELERY_BACKEND"):
            patch.setenv(variable, environ[variable])
        yield cluster


@contextmanager
def connected(lake: Lake) -> Iterator[duckdb.DuckDBPyConnection]:
    with opened(lake) as tables:
        yield tables.connection


@pytest.fixture(scope="module")
def oracle(cluster: LocalCluster) -> Oracle:
    oracle = Oracle(cluster.folder / "objects", cluster.folder / "home", partial(connected, cluster.lake))
    oracle.zones = (cluster.folder / "source/taxi_zones.csv").read_bytes()
    for month in MONTHS:
        oracle.publish(month, source(cluster, month).read_bytes())
    return oracle


def source(cluster: LocalCluster, month: str) -> Path:
    return cluster.folder / "source" / f"yellow_tripdata_{month}.parquet"


def files(cluster: LocalCluster) -> S3FileSystem:
    environ = cluster.environ
    scheme, _, host = environ["AWS_ENDPOINT_URL"].partition("://")
    return S3FileSystem(
        access_key=environ["AWS_ACCESS_KEY_ID"],
        secret_key=environ["AWS_SECRET_ACCESS_KEY"],
        region=environ["AWS_REGION"],
        scheme=scheme,
        endpoint_override=host,
    )


def copy_objects(cluster: LocalCluster, oracle: Oracle) -> None:
    """Copy the data folder from S3 to where the oracle looks for files."""
    shutil.rmtree(oracle.data_dir, ignore_errors=True)
    folder = cluster.environ["TAXI_DATA_DIR"].removeprefix("s3://")
    copy_files(folder, str(oracle.data_dir), source_filesystem=files(cluster))


def launch(cluster: LocalCluster, job: str = "trip_update_job", **tags: str) -> None:
    """Launch a run in the UI: Dagster retries it as one of a schedule, and not those of `dagster job backfill`."""
    assert cluster.ui_url is not None
    params = {
        "selector": {**JOB, "jobName": job},
        "runConfigData": {},
        "executionMetadata": {"tags": [{"key": f"dagster/{key}", "value": value} for key, value in tags.items()]},
    }
    assert ask_ui(cluster.ui_url, LAUNCH, params=params)["launchRun"]["__typename"] == "LaunchRunSuccess"


def until(condition: Callable[[], bool], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


def history(cluster: LocalCluster, query: str) -> list[Any]:
    """The answer of the PostgreSQL that has Dagster's history."""
    import psycopg2

    with closing(psycopg2.connect(cluster.history)) as session, session.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def unfinished_months(cluster: LocalCluster) -> list[str]:
    """The months of which the last run has not succeeded. Dagster retries what fails, as nobody is there who would."""
    runs = history(
        cluster,
        "SELECT DISTINCT ON (value) value, status FROM runs JOIN run_tags USING (run_id) "
        "WHERE key = 'dagster/partition' ORDER BY value, runs.id DESC",
    )
    return sorted({*MONTHS} - {key[:7] for key, status in runs if status == "SUCCESS"})


def wait_until_done(cluster: LocalCluster, runs: int) -> None:
    until(
        lambda: cluster.is_idle(runs) and not unfinished_months(cluster),
        lambda: (unfinished_months(cluster), cluster.run_states(), _logs(cluster)),
    )


def rows(cluster: LocalCluster) -> dict[str, int]:
    with opened(cluster.lake) as tables:
        if not tables.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'trips'").fetchall():
            return {}
        return dict(tables.execute("SELECT partition_date, count(*) FROM trips GROUP BY ALL").fetchall())


@contextmanager
def counting(cluster: LocalCluster) -> Iterator[set[tuple[str, int]]]:
    """Count the trips of each month all the time, and yield the counts that were seen."""
    seen: set[tuple[str, int]] = set()
    is_over = Event()

    def count() -> None:
        while not is_over.wait(2):
            with suppress(ConnectionLostError):
                seen.update(rows(cluster).items())

    with ThreadPoolExecutor() as pool:
        reader = pool.submit(count)
        try:
            yield seen
        finally:
            is_over.set()
        reader.result()


def test_the_containers_have_the_settings_and_commands_of_the_local_cluster(
    cluster: LocalCluster, parts: Mapping[str, psutil.Process]
) -> None:
    """No test starts containers."""
    services = yaml.safe_load((ROOT / "deploy/compose-cluster.yaml").read_text())["services"]
    names = {name for name in cluster.environ if name.startswith(("TAXI_", "DUCK", "AWS_")) or "POSTGRES" in name}
    assert len(parts) == 6
    for name, part in parts.items():
        service = services[re.sub(r"-\d+$", "", name)]
        # What is loaded is up to the user there, and the image has the port.
        others = {"TAXI_TRIPS_URL", "TAXI_ZONES_URL", "TAXI_FLEETS", "TAXI_CODE_PORT"}
        assert names - set(service["environment"]) == others
        options = re.findall(r"--(?!host|port)[\w-]+ [^\s\"]+", service["command"])
        assert options
        executed = " ".join(part.cmdline())
        assert [option for option in options if option.replace("deploy/", f"{ROOT}/deploy/") not in executed] == []


def test_a_backfill_over_three_workers_survives_kills(
    cluster: LocalCluster, parts: Mapping[str, psutil.Process], oracle: Oracle
) -> None:
    oracle.note_start(MONTHS)
    for month in MONTHS[1:]:
        launch(cluster, partition=f"{month}-01")
    with counting(cluster) as seen:
        until(lambda: len(seen) >= 3 and _is_loading(cluster, parts["worker-1"]), lambda: _logs(cluster))
        # With the process that executes the run.
        os.killpg(parts["worker-1"].pid, signal.SIGKILL)
        until(lambda: len(seen) >= 5, lambda: _logs(cluster))
        until(lambda: _has_interrupted_a_load(cluster), lambda: _logs(cluster))
        wait_until_done(cluster, runs=len(MONTHS))
    assert seen <= {(month, pq.read_metadata(source(cluster, month)).num_rows) for month in MONTHS}
    copy_objects(cluster, oracle)
    assert oracle.check(MONTHS, killed=True, succeeded=True) == []
    assert oracle.table.keys() == {*MONTHS}


def _is_loading(cluster: LocalCluster, worker: psutil.Process) -> bool:
    """True if the worker executes a run whose month is not loaded yet.

    If it is killed earlier, while Dagster counts the run as starting, that is noticed after two minutes. If it is killed
    later, there may be no step that Dagster would have to execute again.
    """
    starts = history(
        cluster,
        "SELECT event FROM event_logs JOIN runs USING (run_id) "
        "WHERE dagster_event_type = 'PIPELINE_START' AND status = 'STARTED' AND run_id NOT IN "
        "(SELECT run_id FROM event_logs WHERE dagster_event_type = 'STEP_SUCCESS' AND step_key = 'taxi_trips')",
    )
    processes = {process.pid for process in worker.children()}
    return any(int(pid) in processes for (event,) in starts for pid in re.findall(r'"pid": (\d+)', event))


def _has_interrupted_a_load(cluster: LocalCluster) -> bool:
    """End all connections to the catalogue, as a restart of PostgreSQL does; whether a step has noticed."""
    history(cluster, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'lake'")
    return bool(history(cluster, "SELECT 1 FROM event_logs WHERE dagster_event_type = 'STEP_UP_FOR_RETRY' LIMIT 1"))


def _logs(cluster: LocalCluster) -> str:
    return "\n".join(path.read_text(errors="replace")[-5000:] for path in cluster.folder.glob("*/log"))


def test_overlapping_runs_replace_each_month_once(cluster: LocalCluster, oracle: Oracle) -> None:
    months = MONTHS[:3]
    for month in months:
        write_month(source(cluster, month).parent, month, 2 * ROWS)
        oracle.publish(month, source(cluster, month).read_bytes())
    before = sum(cluster.run_states().values())
    # The limit in dagster.yaml lets runs of one month wait for each other, but not for a run over a range.
    launch(
        cluster,
        asset_partition_range_start=f"{months[0]}-01",
        asset_partition_range_end=f"{months[-1]}-01",
    )
    for _ in range(3):
        launch(cluster, partition=f"{months[0]}-01")
    wait_until_done(cluster, runs=before + 4)
    copy_objects(cluster, oracle)
    # Also that the newest versions are recorded, and that nothing is left behind.
    assert oracle.check_repaired(MONTHS) == []


def test_weeks_and_maintenance_are_runs_of_the_workers(cluster: LocalCluster, oracle: Oracle) -> None:
    before = sum(cluster.run_states().values())
    launch(
        cluster,
        "weekly_update_job",
        asset_partition_range_start="2023-01-01",
        asset_partition_range_end="2023-01-22",
    )
    wait_until_done(cluster, runs=before + 1)
    launch(cluster, "lake_maintenance_job")
    wait_until_done(cluster, runs=before + 2)
    assert history(cluster, "SELECT count(*) FROM event_logs WHERE event LIKE '%merged % files, expired %'") == [(1,)]
    pickups = pq.read_table(source(cluster, "2023-01"))["tpep_pickup_datetime"].to_pylist()
    counts = Counter((pickup.date() - date(2023, 1, 1)).days // 7 for pickup in pickups)
    with opened(cluster.lake) as tables:
        weeks = tables.execute("SELECT num_trips FROM trips_by_week ORDER BY period").fetchall()
    assert weeks == [(counts[week],) for week in range(4)]
    copy_objects(cluster, oracle)
    assert len((oracle.data_dir / "outputs/trips_by_week.csv").read_text().splitlines()) == 1 + 4
    assert json.loads((oracle.data_dir / "staging/manhattan_stats.geojson").read_text())["months"] == MONTHS
    assert oracle.check([], killed=False) == []
    assert PASSWORD not in _logs(cluster)


def test_the_oracle_finds_what_is_wrong_in_the_lake(cluster: LocalCluster, oracle: Oracle) -> None:
    with opened(cluster.lake) as tables:
        tables.execute("INSERT INTO trips FROM trips WHERE partition_date = '2023-07' LIMIT 1")
    assert oracle.check([], killed=True) == [
        "2023-07: 5,007 rows, neither the previous version nor one that was tried",
        "2023-07: trips_by_day is not what the rows in the table add up to",
        "2023-07: pickups_by_zone is not what the rows in the table add up to",
        "2023-07: recorded in Dagster, but not in the table",
    ]


def test_the_files_of_a_worker_are_in_no_other_place_than_s3(cluster: LocalCluster) -> None:
    found = (path.relative_to(cluster.folder) for path in cluster.folder.glob("worker-*/**/*.parquet"))
    # What a killed worker was reading stays in its TMPDIR.
    assert [path for path in found if path.parts[1] != "tmp"] == []
    folder = cluster.environ["TAXI_DATA_DIR"].removeprefix("s3://") + "/raw"
    on_s3 = {info.base_name for info in files(cluster).get_file_info(FileSelector(folder))}
    assert {f"taxi_trips_{month}.parquet" for month in MONTHS} <= on_s3


def test_the_command_ends_everything_it_started(command: "subprocess.Popen[str]", cluster: LocalCluster) -> None:
    started = psutil.Process(command.pid).children(recursive=True)
    assert len(started) >= 8
    command.send_signal(signal.SIGINT)
    output, _ = command.communicate(timeout=SECONDS)
    assert output.endswith("ended\n")
    assert command.returncode == 0
    _, left = psutil.wait_procs(started, timeout=10)
    assert left == []
    environ = cluster.environ
    servers = [cluster.history, environ["TAXI_CELERY_BROKER"], environ["AWS_ENDPOINT_URL"], cluster.ui_url]
    assert [address for address in servers if accepts(urlsplit(address).port or 0)] == []
    assert not cluster.folder.exists()
