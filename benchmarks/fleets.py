"""The other fleets: a month of high-volume trips in full size, and a year of all three in one run."""

import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import duckdb
from processes import Usage, compare, serving, show_usage, timed
from project import DATA, Project
from published import FLEET_TRIPS_2024

from dagster_essentials.sample import write_zones

FULL_MONTH = "2025-10"
ATTEMPTS = 3
"""At loading the full month, by the project and by plain DuckDB in turn."""
FLEETS_IN_2024 = {"TAXI_FLEETS": "green,fhv,fhvhv", "TAXI_START_DATE": "2024-01-01", "TAXI_END_DATE": "2026-09-01"}

WRITE = (
    "import sys; from pathlib import Path; from dagster_essentials.sample import write_fleet_month; "
    "write_fleet_month(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))"
)


def measure_fleets(rows: int, scale: float) -> None:
    """Measure and print a month of `rows` high-volume trips, and twelve months of the three fleets at `scale`."""
    _full_month(rows)
    _a_year(scale)


def _samples(name: str, trips: Mapping[str, int]) -> Path:
    """The folder with a sample month of so many trips for each key (``fleet|YYYY-MM``), generated once."""
    folder = DATA / name
    if not (folder / "taxi_zones.csv").exists():
        print(f"generating {len(trips)} sample months, {sum(trips.values()):,} trips, in {folder}", flush=True)
        for key, rows in trips.items():
            fleet, _, month = key.partition("|")
            # In a process of its own: DuckDB takes memory for as many rows as there are.
            timed([sys.executable, "-c", WRITE, str(folder / "trip-data"), fleet, month, str(rows)])
        write_zones(folder / "taxi_zones.csv")
    return folder


def _full_month(rows: int) -> None:
    folder = _samples(f"fhvhv-{rows}", {f"fhvhv|{FULL_MONTH}": rows})
    file = folder / "trip-data" / f"fhvhv_tripdata_{FULL_MONTH}.parquet"
    loads: dict[str, list[Usage]] = {"plain": [], "project": []}
    for _ in range(ATTEMPTS):
        for variant, results in loads.items():
            results.append(_load(file, variant))
    for usage in loads["plain"]:
        show_usage(f"plain DuckDB, fhvhv {FULL_MONTH}, {rows:,} trips", usage, f", peak {usage.peak} MB")
    peak = max(usage.peak for usage in loads["project"])
    compare("loading its file", loads["project"], loads["plain"], 1.3, f", peak {peak} MB (at most 1024)")
    with serving(folder) as url:
        project = Project("fleet", url, FLEETS_IN_2024)
        run = project.timed(
            *("asset", "materialize", "-m", "dagster_essentials", "--select", "fleet_trips_file,fleet_trips"),
            *("--partition", f"fhvhv|{FULL_MONTH}-01"),
        )
        _check(project, {f"fhvhv|{FULL_MONTH}": rows})
        show_usage("one run over it, with download and validation", run, f", peak {run.peak} MB (at most 1024)")


def _load(file: Path, variant: str) -> Usage:
    script = Path(__file__).with_name("load_fleet_month.py")
    with tempfile.TemporaryDirectory(dir=DATA) as folder:
        return timed([sys.executable, str(script), str(file), f"{folder}/month.duckdb", variant])


def _a_year(scale: float) -> None:
    trips = {
        f"{fleet}|2024-{number:02}": round(thousands * 1000 * scale)
        for fleet, months in FLEET_TRIPS_2024.items()
        for number, thousands in enumerate(months, start=1)
    }
    with serving(_samples(f"fleets-{scale}", trips)) as url:
        plain = [_plain(url, trips)]
        project = Project("fleets", url, FLEETS_IN_2024)
        run = project.timed(
            *("launch", "-m", "dagster_essentials", "--job", "fleet_update_job"),
            *("--partition-range", "green|2024-01-01...fhvhv|2024-12-01"),
            program="dg",
        )
        _check(project, trips)
        plain.append(_plain(url, trips))
        for usage in plain:
            show_usage(f"plain process, 3 fleets x 12 months, {sum(trips.values()):,} trips", usage)
        ratio = run.seconds / statistics.mean(usage.seconds for usage in plain)
        show_usage("one run of fleet_update_job", run, f" {ratio:.2f} x, peak {run.peak} MB (at most 1024)")
        medians = _seconds_of_loads(project)
        print(f"{'  loading a month of it, medians':52} {medians}", flush=True)


def _plain(url: str, months: Mapping[str, int]) -> Usage:
    script = Path(__file__).with_name("plain_fleets.py")
    with tempfile.TemporaryDirectory(dir=DATA) as folder:
        return timed([sys.executable, str(script), url, folder, *months])


def _check(project: Project, expected: Mapping[str, int]) -> None:
    """Exit if one of the months (``fleet|YYYY-MM``) has not the `expected` number of trips."""
    with duckdb.connect(str(project.database), read_only=True) as connection:
        rows = connection.execute(
            "SELECT fleet || '|' || partition_date, count(*) FROM fleet_trips GROUP BY 1"
        ).fetchall()
    if dict(rows) != dict(expected):
        raise SystemExit(f"{project.database}: other numbers of trips than expected")


def _seconds_of_loads(project: Project) -> str:
    """The median seconds of a load of each fleet, as the run has recorded them."""
    seconds: dict[str, list[float]] = {}
    with project.instance() as instance:
        records = instance.fetch_materializations(dg.AssetKey("fleet_trips"), limit=100).records
    for record in records:
        assert record.asset_materialization is not None
        fleet = str(record.partition_key).partition("|")[0]
        seconds.setdefault(fleet, []).append(float(str(record.asset_materialization.metadata["seconds"].value)))
    return ", ".join(f"{fleet} {statistics.median(values):.2f} s" for fleet, values in seconds.items())
