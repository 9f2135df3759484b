"""Benchmark: the time of this project relative to one plain process that does the same work, measured in one run.

    make bench            # 24 months of 3,000,000 trips; a quarter of an hour and 6 GB on disk
    make bench ROWS=300000
    make bench ONLY=history SCALE=0.02
    make bench ONLY=fleets
    make bench ONLY=cluster

The sample months are served by an HTTP server on this machine. They are generated once and kept in `data/bench`.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import dagster as dg
import duckdb
from fleets import measure_fleets
from history import measure_history
from processes import Usage, compare, connects, report, serving, show, show_usage, timed, wait_until
from project import BIN, CODE_LOCATION, DATA, Project, samples

FIRST, LAST = "2023-01", "2024-12"
KEYS = [f"{year}-{month:02}-01" for year in (2023, 2024) for month in range(1, 13)]
FORCE = json.dumps({"ops": {"taxi_trips": {"config": {"force": True}}}})

# The baseline: the work that is necessary in any case, in one process that does nothing else.
PLAIN = """
import sys, urllib.request, shutil, duckdb, os
url, folder, months = sys.argv[1], sys.argv[2], sys.argv[3:]
connection = duckdb.connect(f"{folder}/plain.duckdb")
connection.execute(
    "CREATE TABLE trips (vendor_id integer, pickup_zone_id integer, dropoff_zone_id integer, rate_code_id double, "
    "payment_type integer, dropoff_datetime timestamp, pickup_datetime timestamp, trip_distance double, "
    "passenger_count double, total_amount double, partition_date varchar, fare_amount double, extra double, "
    "mta_tax double, tip_amount double, tolls_amount double, improvement_surcharge double, congestion_surcharge double, "
    "airport_fee double, cbd_congestion_fee double, store_and_fwd_flag varchar, request_source varchar)"
)
for month in months:
    path = f"{folder}/{month}.parquet"
    with urllib.request.urlopen(f"{url}/trip-data/yellow_tripdata_{month}.parquet") as response, open(path, "wb") as file:
        shutil.copyfileobj(response, file, 1 << 20)
    connection.execute("BEGIN")
    connection.execute("DELETE FROM trips WHERE partition_date = ?", [month])
    connection.execute(
        "INSERT INTO trips SELECT VendorID, PULocationID, DOLocationID, RatecodeID, payment_type, tpep_dropoff_datetime, "
        "tpep_pickup_datetime, trip_distance, passenger_count, total_amount, ?, fare_amount, extra, mta_tax, tip_amount, "
        "tolls_amount, improvement_surcharge, congestion_surcharge, Airport_fee, NULL, store_and_fwd_flag, NULL "
        "FROM read_parquet(?)",
        [month, path],
    )
    connection.execute("COMMIT")
connection.close()
"""


def plain(url: str) -> Usage:
    with tempfile.TemporaryDirectory(dir=DATA) as folder:
        return timed([sys.executable, "-c", PLAIN, url, folder, *(key[:7] for key in KEYS)])


def single_run(url: str, rows: int) -> tuple[Usage, list[float]]:
    """Return what a run over all months takes, and the seconds of each month in it."""
    project = Project("single", url)
    project.load_zones()
    usage = project.load_range(FIRST, LAST)
    project.check_months(_expected(rows))
    with project.instance() as instance:
        records = instance.fetch_materializations(dg.AssetKey("taxi_trips"), limit=100, ascending=True).records
    months = [
        float(str(record.asset_materialization.metadata["seconds"].value))
        for record in records
        if record.asset_materialization
    ]
    return usage, months


def cli_backfill(url: str, rows: int) -> tuple[float, int]:
    """Return the seconds from the command to the end of the last run, and the number of failed runs."""
    project = Project("backfill", url)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with open(project.folder / "dev.log", "w") as log:
        dev = subprocess.Popen(
            [str(BIN / "dagster"), "dev", *CODE_LOCATION, "-p", str(port)],
            cwd=project.folder,
            env=project.env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until(lambda: connects(port))
            time.sleep(10)  # The daemon starts after the webserver; the measured time does not include its start.
            started = time.monotonic()
            project.timed("job", "backfill", *CODE_LOCATION, "-j", "trip_update_job", "--all", "yes", "--noprompt")
            with project.instance() as instance:
                wait_until(lambda: len(_ended(instance)) >= len(KEYS), seconds=3600)
                failed = sum(run.status != dg.DagsterRunStatus.SUCCESS for run in _ended(instance))
            seconds = time.monotonic() - started
        finally:
            dev.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                dev.wait(timeout=30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(dev.pid, signal.SIGKILL)
            dev.wait()
    if not failed:
        project.check_months(_expected(rows))
    return seconds, failed


def _expected(rows: int) -> dict[str, int]:
    return {key[:7]: rows for key in KEYS}


def _ended(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    return list(instance.get_runs(dg.RunsFilter(statuses=ended)))


def location_load() -> tuple[Sequence[Usage], Sequence[Usage]]:
    """Return what loading the code location took, and importing only its dependencies, in turns."""
    environ = Project("load", "http://127.0.0.1").env
    scripts = "import dagster_essentials.definitions", "import dagster, dagster_duckdb, requests"
    ours, reference = zip(
        *([timed([sys.executable, "-c", script], env=environ) for script in scripts] for _ in range(7)), strict=True
    )
    return ours, reference


def growth(url: str) -> float:
    """Return the size of the database after loading every month ten times more, relative to its first size."""
    project = Project("growth", url)
    sizes = []
    for _ in range(11):
        # Otherwise a month that is loaded already would be left alone.
        project.load_range(FIRST, LAST, "--config-json", FORCE)
        sizes.append(project.database.stat().st_size)
    return sizes[-1] / sizes[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="trips a month (3000000; 20000000 of fleets, 300000 of cluster)")
    parser.add_argument(
        "--scale", type=float, help="trips a month, in proportion to those published (0.1 of history, 0.05 of fleets)"
    )
    parser.add_argument(
        "--only",
        choices=["single", "backfill", "load", "growth", "history", "fleets", "cluster"],
        action="append",
        help="parts; all but history, fleets and cluster, unless given",
    )
    arguments = parser.parse_args()
    wanted = arguments.only or ["load", "single", "backfill", "growth"]
    rows = arguments.rows or 3_000_000
    DATA.mkdir(parents=True, exist_ok=True)
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, DuckDB {duckdb.__version__}"
    )
    if "load" in wanted:
        ours, reference = location_load()
        show("import dagster, dagster_duckdb, requests", statistics.median(usage.seconds for usage in reference))
        compare("loading the code location", ours, reference, 1.3)
    if "single" in wanted or "backfill" in wanted:
        _measure_months(rows, wanted)
    if "growth" in wanted:
        with serving(samples(FIRST, LAST, rows // 10)) as url:
            print(f"{'every month loaded ten times more':52} {growth(url):10.2f} x  the first size (at most 1.1 x)")
    if "history" in wanted:
        measure_history(arguments.scale or 0.1)
    if "fleets" in wanted:
        measure_fleets(arguments.rows or 20_000_000, arguments.scale or 0.05)
    if "cluster" in wanted:
        # Only here, because it needs what `make bench ONLY=cluster` adds to PYTHONPATH.
        from workers import measure_workers

        measure_workers(arguments.rows or 300_000)


def _measure_months(rows: int, wanted: list[str]) -> None:
    """Measure a run over the months and their backfill, each between two plain processes."""
    with serving(samples(FIRST, LAST, rows)) as url:
        limit = plain(url)
        show_usage(f"plain process, 24 months of {rows:,} trips", limit)
        if "single" in wanted:
            usage, months = single_run(url, rows)
            again = plain(url)
            show_usage("the plain process again", again)
            compare("one run over the range", [usage], [limit, again], 1.5, f", peak {usage.peak} MB (at most 1024)")
            first, last = statistics.median(months[:3]), statistics.median(months[-3:])
            report("the last three months of it, each", last, first, 1.1, " of the first three (medians)")
        if "backfill" in wanted:
            seconds, failed = cli_backfill(url, rows)
            again = plain(url)
            show_usage("the plain process again", again)
            reference = (limit.seconds + again.seconds) / 2
            report("dagster job backfill, 24 runs", seconds, reference, 5, f", {failed} failed (0)")


if __name__ == "__main__":
    main()
