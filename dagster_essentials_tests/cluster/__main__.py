"""`python -m dagster_essentials_tests.cluster`: starts a cluster on this machine, loads sample months, and runs until Ctrl-C.

See docs/scale-out.md.
"""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from dagster_essentials.ingestion.months import months_between
from dagster_essentials.sample import write_month, write_zones
from dagster_essentials.warehouse.lake.connection import lake_tables
from dagster_essentials_tests.cluster.local import LocalCluster, local_cluster
from dagster_essentials_tests.cluster.servers import ServerError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dagster_essentials_tests.cluster", description=__doc__)
    parser.add_argument("--start", default="2023-01", help="first sample month, YYYY-MM (2023-01)")
    parser.add_argument("--end", default="2023-06", help="last sample month, YYYY-MM (2023-06)")
    parser.add_argument("--rows", type=int, default=100_000, help="trips in each month (100000)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    months = months_between(arguments.start, arguments.end)
    with tempfile.TemporaryDirectory(prefix="taxi-cluster-", ignore_cleanup_errors=True) as name:
        try:
            _run(Path(name), months, arguments.rows)
        except ServerError as error:
            sys.exit(str(error))
        except KeyboardInterrupt:
            print("ended")


def _run(folder: Path, months: list[str], rows: int) -> None:
    source = folder / "source"
    for month in months:
        write_month(source, month, rows)
    zones = write_zones(source / "taxi_zones.csv")
    print("starting PostgreSQL, Redis, an S3 server, and Dagster with three workers", flush=True)
    with local_cluster(folder, str(source), str(zones)) as cluster:
        print(f"UI: {cluster.ui_url}", flush=True)
        cluster.backfill("trip_update_job", ",".join(f"{month}-01" for month in months))
        print(f"queued {len(months)} months; Ctrl-C ends everything", flush=True)
        _follow(cluster, months)
        signal.pause()


def _follow(cluster: LocalCluster, months: list[str]) -> None:
    """Wait until the runs have ended, and print what is loaded."""
    while not cluster.is_idle(runs=len(months)):
        time.sleep(1)
    with lake_tables(cluster.lake, {}, wait_seconds=60, log=print) as tables:
        for month, trips in tables.execute(
            "SELECT partition_date, count(*) FROM trips GROUP BY ALL ORDER BY ALL"
        ).fetchall():
            print(f"{month}: {trips:,} trips")
    print(f"runs: {cluster.run_states()}", flush=True)


if __name__ == "__main__":
    main()
