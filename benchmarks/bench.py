"""Benchmark: the time of this project relative to one plain process that does the same work, measured in one run.

    make bench            # 24 months of 3,000,000 trips; about ten minutes and 6 GB on disk
    make bench ROWS=300000

The sample months are served by an HTTP server on this machine. They are generated once and kept in `data/bench`.
"""

import argparse
import contextlib
import http.server
import multiprocessing
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import duckdb

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
FIRST, LAST = "2023-01", "2024-12"
KEYS = [f"{year}-{month:02}-01" for year in (2023, 2024) for month in range(1, 13)]
CODE_LOCATION = ("-m", "dagster_essentials.definitions")


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve `folder` over HTTP from a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(folder, port), daemon=True)
    process.start()
    try:
        _wait_until(lambda: _connects(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.join()


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


def _serve(folder: Path, port: int) -> None:
    os.chdir(folder)
    http.server.ThreadingHTTPServer(("127.0.0.1", port), _Handler).serve_forever()


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} was not true within {seconds} s")
        time.sleep(0.1)


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


def timed(command: list[str], **options: object) -> tuple[float, int]:
    """Run `command`; return the seconds it took and the peak memory of its largest process in MB."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]
    assert process.stderr is not None
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr))
    reader.start()
    _, status, usage = os.wait4(process.pid, 0)
    reader.join()
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{''.join(lines[-30:])}")
    return time.monotonic() - started, usage.ru_maxrss // 1024


def plain(url: str) -> float:
    with tempfile.TemporaryDirectory(dir=ROOT / "data" / "bench") as folder:
        return timed([sys.executable, "-c", PLAIN, url, folder, *(key[:7] for key in KEYS)])[0]


class Project:
    """A data folder, a database and a Dagster instance with the committed `dagster.yaml`."""

    def __init__(self, name: str, url: str):
        self.folder = ROOT / "data" / "bench" / name
        shutil.rmtree(self.folder, ignore_errors=True)
        home = self.folder / "home"
        home.mkdir(parents=True)
        shutil.copy(ROOT / ".dagster" / "dagster.yaml", home)
        self.database = self.folder / "data.duckdb"
        self.env = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("TAXI_", "DUCKDB_", "DAGSTER_"))
            },
            "DAGSTER_HOME": str(home),
            "TAXI_DATA_DIR": str(self.folder),
            "DUCKDB_DATABASE": str(self.database),
            "TAXI_TRIPS_URL": f"{url}/trip-data",
            "TAXI_ZONES_URL": f"{url}/taxi_zones.csv",
            "TAXI_END_DATE": "2025-01-01",
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }

    def timed(self, *command: str) -> tuple[float, int]:
        return timed([str(BIN / "dagster"), *command], cwd=self.folder, env=self.env)

    @contextlib.contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with dg.DagsterInstance.from_config(str(self.folder / "home")) as instance:
            yield instance

    def months_differ(self, rows: int) -> list[str]:
        with duckdb.connect(str(self.database), read_only=True) as connection:
            found = dict(connection.execute("SELECT partition_date, count(*) FROM trips GROUP BY ALL").fetchall())
        return [key[:7] for key in KEYS if found.get(key[:7]) != rows]


def single_run(url: str, rows: int) -> tuple[float, int, list[float]]:
    project = Project("single", url)
    project.timed("asset", "materialize", *CODE_LOCATION, "--select", "taxi_zones_file,taxi_zones")
    seconds, peak = project.timed(
        *("asset", "materialize", *CODE_LOCATION, "--select", "taxi_trips_file,taxi_trips"),
        *("--partition-range", f"{KEYS[0]}...{KEYS[-1]}"),
    )
    assert not project.months_differ(rows), project.months_differ(rows)
    with project.instance() as instance:
        records = instance.fetch_materializations(dg.AssetKey("taxi_trips"), limit=100, ascending=True).records
    months = [
        float(str(record.asset_materialization.metadata["seconds"].value))
        for record in records
        if record.asset_materialization
    ]
    return seconds, peak, months


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
            _wait_until(lambda: _connects(port))
            time.sleep(10)  # The daemon starts after the webserver; the measured time does not include its start.
            started = time.monotonic()
            project.timed("job", "backfill", *CODE_LOCATION, "-j", "trip_update_job", "--all", "yes", "--noprompt")
            with project.instance() as instance:
                _wait_until(lambda: len(_ended(instance)) >= len(KEYS), seconds=3600)
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
        assert not project.months_differ(rows), project.months_differ(rows)
    return seconds, failed


def _ended(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    return list(instance.get_runs(dg.RunsFilter(statuses=ended)))


def location_load() -> tuple[float, float]:
    """Return the median seconds of loading the code location, and of importing only its dependencies."""

    def seconds(script: str, environ: dict[str, str]) -> float:
        return statistics.median(timed([sys.executable, "-c", script], env=environ)[0] for _ in range(7))

    environ = Project("load", "http://127.0.0.1").env
    return seconds("import dagster_essentials.definitions", environ), seconds(
        "import dagster, dagster_duckdb, requests", environ
    )


def growth(url: str) -> float:
    """Return the size of the database after loading every month ten times more, relative to its first size."""
    project = Project("growth", url)
    sizes = []
    for _ in range(11):
        project.timed(
            *("asset", "materialize", *CODE_LOCATION, "--select", "taxi_trips_file,taxi_trips"),
            *("--partition-range", f"{KEYS[0]}...{KEYS[-1]}"),
        )
        sizes.append(project.database.stat().st_size)
    return sizes[-1] / sizes[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000, help="trips a month (3000000)")
    parser.add_argument("--only", choices=["single", "backfill", "load", "growth"], action="append")
    arguments = parser.parse_args()
    wanted = arguments.only or ["load", "single", "backfill", "growth"]

    def report(what: str, seconds: float, reference: float, limit: float, note: str = "") -> None:
        print(f"{what:44} {seconds:8.1f} s {seconds / reference:6.2f} x  (at most {limit} x){note}", flush=True)

    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, DuckDB {duckdb.__version__}"
    )
    if "load" in wanted:
        ours, reference = location_load()
        print(f"{'import dagster, dagster_duckdb, requests':44} {reference:8.2f} s")
        report("loading the code location", ours, reference, 1.3)
    with samples(arguments.rows) as folder, serving(folder) as url:
        if "single" in wanted or "backfill" in wanted:
            limit = plain(url)
            print(f"{f'plain process, 24 months of {arguments.rows:,} trips':44} {limit:8.1f} s", flush=True)
        if "single" in wanted:
            seconds, peak, months = single_run(url, arguments.rows)
            again = plain(url)
            print(f"{'the plain process again':44} {again:8.1f} s", flush=True)
            report("one run over the range", seconds, (limit + again) / 2, 1.5, f", peak {peak} MB (at most 1024)")
            first, last = statistics.median(months[:3]), statistics.median(months[-3:])
            report("the last three months of it, each", last, first, 1.1, " of the first three (medians)")
        if "backfill" in wanted:
            seconds, failed = cli_backfill(url, arguments.rows)
            again = plain(url)
            print(f"{'the plain process again':44} {again:8.1f} s", flush=True)
            report("dagster job backfill, 24 runs", seconds, (limit + again) / 2, 5, f", {failed} failed (0)")
    if "growth" in wanted:
        with samples(arguments.rows // 10) as folder, serving(folder) as url:
            print(f"{'every month loaded ten times more':44} {growth(url):10.2f} x  the first size (at most 1.1 x)")


@contextlib.contextmanager
def samples(rows: int) -> Iterator[Path]:
    """The folder with the sample months, generated once."""
    folder = ROOT / "data" / "bench" / f"source-{rows}"
    if not (folder / "taxi_zones.csv").exists():
        print(f"generating 24 sample months of {rows:,} trips in {folder}", flush=True)
        subprocess.run(
            [
                *(sys.executable, "-m", "dagster_essentials.sample", str(folder)),
                *("--start", FIRST, "--end", LAST, "--rows", str(rows)),
            ],
            stdout=subprocess.DEVNULL,
            check=True,
        )
    yield folder


if __name__ == "__main__":
    main()
