"""The same months on a lake: runs on one, two and three workers of a cluster on this machine, and what a commit costs."""

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import duckdb
from processes import serving, show, wait_until
from project import DATA, Project, samples

from dagster_essentials.ingestion.months import months_between
from dagster_essentials.sample import write_month
from dagster_essentials.settings import read_settings
from dagster_essentials.warehouse.lake import Lake
from dagster_essentials.warehouse.lake.connection import lake_tables
from dagster_essentials.warehouse.lake.tables import LakeTables
from dagster_essentials_tests.cluster.local import WORKERS, LocalCluster, local_cluster
from dagster_essentials_tests.cluster.servers import ServerError, postgres, s3
from dagster_essentials_tests.support.loading import load_month

FIRST, LAST = "2023-01", "2023-12"
MONTHS = months_between(FIRST, LAST)
CONFIG: dict[str, Any] = {"memory_limit": "512MB"}
SUM = "SELECT partition_date, count(*), round(sum(total_amount)) FROM trips GROUP BY ALL ORDER BY ALL"
SUMS = 5
"""Measurements of the sum over all rows."""
COMMITS = 200
COMPARED_COMMITS = 20
COMMIT_ROWS = 1000
RUN_SECONDS = 1800
"""For the runs of a backfill to end: a time-out."""


def measure_workers(rows: int) -> None:
    """Measure and print twelve months of `rows` trips on the file and on a cluster, then the commits of small months."""
    source = DATA / "published"
    shutil.rmtree(source, ignore_errors=True)
    # Later, the source has other files of the same months: loaded months whose file is the same are left alone.
    versions = [samples(FIRST, LAST, rows), samples(FIRST, LAST, rows + 1)]
    source.mkdir()
    try:
        with serving(source) as url:
            _measure_months(url, rows, lambda number: _publish(versions[number - 1], source))
        _measure_commits()
    except ServerError as error:
        sys.exit(str(error))


def _publish(version: Path, source: Path) -> None:
    # Without the time of the files: the server sends it, and an older one would mean that nothing has changed.
    shutil.copytree(version, source, copy_function=shutil.copyfile, dirs_exist_ok=True)


def _measure_months(url: str, rows: int, publish: Callable[[int], None]) -> None:
    total = rows * len(MONTHS)
    publish(1)
    project = Project("one-process", url)
    first = _load_in_one_process(project)
    _show_rate(f"one process, file, {len(MONTHS)} months of {rows:,} trips", total, first)
    publish(2)
    again = _load_in_one_process(project)
    _show_rate("  other files of the same months", total, again)
    with closing(duckdb.connect(str(project.database), read_only=True, config=CONFIG)) as connection:
        sums, reference = _sum(connection)
    for workers in range(1, WORKERS + 1):
        publish(1)
        with _cluster(url, workers) as cluster:
            what = f"lake, {workers} worker{'s' if workers > 1 else ''}, {len(MONTHS)} runs"
            _show_rate(what, total, *_backfill(cluster), reference=first)
            if workers == WORKERS:
                publish(2)
                _show_rate("  other files of the same months", total, *_backfill(cluster), reference=again)
                with lake_tables(cluster.lake, CONFIG, wait_seconds=60, log=print) as tables:
                    lake_sums, seconds = _sum(tables.connection)
                if lake_sums != sums:
                    raise SystemExit("the lake has other trips than the file")
    show(f"sum by month of {total:,} rows, file", reference, f"  (median of {SUMS})", decimals=3)
    show("  lake", seconds, f" {seconds / reference:6.2f} x", decimals=3)


def _load_in_one_process(project: Project) -> float:
    usage = project.timed(
        *("launch", "-m", "dagster_essentials", "--job", "trip_update_job"),
        *("--partition-range", f"{FIRST}-01...{LAST}-01"),
        program="dg",
    )
    return usage.seconds


@contextmanager
def _cluster(url: str, workers: int) -> Iterator[LocalCluster]:
    # Not in the data folder of the project: PostgreSQL has to reach it as another user.
    with (
        tempfile.TemporaryDirectory(prefix="taxi-bench-", ignore_cleanup_errors=True) as folder,
        local_cluster(
            Path(folder), f"{url}/trip-data", f"{url}/taxi_zones.csv", has_ui=False, workers=workers
        ) as cluster,
    ):
        yield cluster


def _backfill(cluster: LocalCluster) -> tuple[float, str]:
    """Load the months by a run each: the seconds from the command to the end of the last run, and those of the runs."""
    before = sum(cluster.run_states().values())
    started = time.monotonic()
    cluster.backfill("trip_update_job", ",".join(f"{month}-01" for month in MONTHS))
    wait_until(lambda: cluster.is_idle(runs=before + len(MONTHS)), RUN_SECONDS)
    seconds = time.monotonic() - started
    if set(states := cluster.run_states()) != {"SUCCESS"}:
        raise SystemExit(f"not all runs succeeded: {states}")
    spans = _seconds_of_runs(cluster)[before:]
    lasted = max(end for _, end in spans) - min(start for start, _ in spans)
    return seconds, f"; runs {lasted:.1f} s, each {statistics.median(end - start for start, end in spans):.1f} s"


def _seconds_of_runs(cluster: LocalCluster) -> list[tuple[float, float]]:
    """Start and end of each run, in the order in which they were queued."""
    import psycopg2

    with closing(psycopg2.connect(cluster.history)) as session, session.cursor() as cursor:
        cursor.execute("SELECT start_time, end_time FROM runs ORDER BY id")
        return list(cursor.fetchall())


def _show_rate(what: str, rows: int, seconds: float, note: str = "", reference: float | None = None) -> None:
    ratio = f" {seconds / reference:6.2f} x" if reference else ""
    show(what, seconds, f"{ratio}  ({rows / seconds:,.0f} rows a second{note})")


def _sum(connection: duckdb.DuckDBPyConnection) -> tuple[list[object], float]:
    """The trips and dollars of each month, and the median seconds of adding them up."""
    sums: list[object] = []
    seconds = []
    for _ in range(SUMS):
        started = time.monotonic()
        sums = list(connection.execute(SUM).fetchall())
        seconds.append(time.monotonic() - started)
    return sums, statistics.median(seconds)


def _measure_commits() -> None:
    """Load small months into a new lake by direct calls, and compare the first transactions with the last ones."""
    # With the columns of the file: those before 2011 have others.
    months = months_between("2011-01", "2027-12")[:COMMITS]
    with tempfile.TemporaryDirectory(prefix="taxi-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        # The months differ in the pickups alone, which lie in the month, so that only their number does.
        file = write_month(folder, FIRST, COMMIT_ROWS)
        with postgres(folder / "postgres") as database, s3(folder / "s3", "taxi") as environ:
            lake = read_settings(
                {
                    **environ,
                    "DUCKDB_DATABASE": f"ducklake:postgres:{database.url('lake')}",
                    "DUCKLAKE_DATA_PATH": "s3://taxi/lake",
                }
            ).lake
            assert lake is not None
            with _timed_transactions() as seconds:
                for month in months:
                    _load(lake, month, file)
    first, last = (statistics.median(part) for part in (seconds[:COMPARED_COMMITS], seconds[-COMPARED_COMMITS:]))
    show(f"a month's transaction, the first {COMPARED_COMMITS}", first, "  (median)", decimals=3)
    show(f"  the last {COMPARED_COMMITS} of {len(seconds)} months", last, f" {last / first:6.2f} x", decimals=3)


@contextmanager
def _timed_transactions() -> Iterator[list[float]]:
    """In the block, note the seconds of each transaction that loads a month."""
    original, seconds = LakeTables.transaction, list[float]()

    @contextmanager
    def timed(tables: LakeTables) -> Iterator[None]:
        started = time.monotonic()
        with original(tables):
            yield
        seconds.append(time.monotonic() - started)

    LakeTables.transaction = timed  # type: ignore[assignment,method-assign]
    try:
        yield seconds
    finally:
        LakeTables.transaction = original  # type: ignore[method-assign]


def _load(lake: Lake, month: str, file: Path) -> None:
    in_month = file.with_name("month.parquet")
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT * REPLACE (tpep_pickup_datetime + (TIMESTAMP '{month}-01' - TIMESTAMP '{FIRST}-01') "
            f"AS tpep_pickup_datetime) FROM '{file}') TO '{in_month}'"
        )
    with lake_tables(lake, CONFIG, wait_seconds=60, log=print) as tables:
        load_month(tables, month, in_month)
