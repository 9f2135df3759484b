"""The whole history since 2009: loading it, loading it again unchanged, a month on top of it, and its size on disk.

Each month has the number of trips that the TLC has published, times a scale.
"""

import statistics
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path

from processes import Usage, compare, serving, show, show_usage, timed
from project import DATA, Project
from published import TRIPS, published_trips

from dagster_essentials.sample import write_month, write_zones

MONTHS_ON_TOP = 7
"""The newest months come on top of the others, one at a time."""
FULL_MONTH, FULL_ROWS = "2010-05", 15_000_000
ATTEMPTS = 3
"""At loading the full month with and without zones."""

START_OF_HISTORY = {"TAXI_START_DATE": "2009-01-01", "TAXI_END_DATE": "2026-09-01"}


def measure_history(scale: float) -> None:
    """Measure and print everything about the history at `scale`."""
    trips = published_trips(scale)
    months = list(trips)
    past, on_top = months[:-MONTHS_ON_TOP], months[-MONTHS_ON_TOP:]
    total = sum(trips[month] for month in past)
    with serving(_samples(f"history-{scale}", trips)) as url:
        plain = _plain(url, past)
        show_usage(f"plain process, {len(past)} months, {total:,} trips", plain)
        project = Project("history", url, START_OF_HISTORY)
        project.load_zones()
        first = project.load_range(past[0], past[-1])
        project.check_months({month: trips[month] for month in past})
        again = _plain(url, past)
        show_usage("the plain process again", again)
        compare("one run over the history", [first], [plain, again], 1.5, f", peak {first.peak} MB (at most 1024)")
        size = project.database.stat().st_size
        unchanged = project.load_range(past[0], past[-1])
        ratio = f", {unchanged.seconds / first.seconds:.3f} x the first"
        show_usage("the same run again, all months unchanged", unchanged, ratio)
        if project.database.stat().st_size != size:
            raise SystemExit("The run over unchanged months has changed the size of the database.")
        _report_size(project, total)
        _month_on_top(project, url, on_top)
        project.check_months(trips)
    _full_month()


def _samples(name: str, trips: dict[str, int]) -> Path:
    """The folder with a sample month of so many trips for each of the months, generated once."""
    folder = DATA / name
    if not (folder / "taxi_zones.csv").exists():
        print(f"generating {len(trips)} sample months, {sum(trips.values()):,} trips, in {folder}", flush=True)
        for month, rows in trips.items():
            if not (folder / "trip-data" / f"yellow_tripdata_{month}.parquet").exists():
                write_month(folder / "trip-data", month, rows)
        write_zones(folder / "taxi_zones.csv")
    return folder


def _plain(url: str, months: list[str]) -> Usage:
    script = Path(__file__).with_name("plain_history.py")
    with tempfile.TemporaryDirectory(dir=DATA) as folder:
        return timed([sys.executable, str(script), url, folder, *months])


def _report_size(project: Project, trips: int) -> None:
    """Print what the loaded history takes on disk, and what all published trips would take in proportion."""
    published = sum(map(sum, TRIPS.values())) * 1000
    parts = {
        "database": project.database.stat().st_size,
        "files of the months": _size_of(project.folder / "raw"),
        "Dagster's history": _size_of(project.folder / "home"),
    }
    for part, size in parts.items():
        # Dagster's grows with the months and runs, not with the trips.
        at_full_size = "" if part == "Dagster's history" else f", {size * published / trips / 1e9:.0f} GB"
        note = f"  ({published / 1e9:.2f} billion trips in proportion{at_full_size})" if at_full_size else ""
        print(f"{f'{part} on disk':52} {size / 1e9:8.2f} GB{note}", flush=True)


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _month_on_top(history: Project, url: str, months: list[str]) -> None:
    """Run a month and its weeks on the history and on a database without trips, alternating, and print medians."""
    runs: dict[str, list[tuple[Usage, Usage]]] = {"trip_update_job": [], "weekly_update_job": []}
    for number, month in enumerate(months):
        alone = Project("alone", url, START_OF_HISTORY)
        # As in the history: this also creates the tables of the Dagster instance, which takes a second.
        alone.load_zones()
        sundays = _whole_weeks(month)
        for job, partitions in {
            "trip_update_job": ("--partition", f"{month}-01"),
            "weekly_update_job": ("--partition-range", f"{sundays[0]}...{sundays[-1]}"),
        }.items():
            order = [history, alone] if number % 2 else [alone, history]
            taken = {project.folder: _launch(project, job, *partitions) for project in order}
            runs[job].append((taken[history.folder], taken[alone.folder]))
    for job, pairs in runs.items():
        on_history, by_itself = zip(*pairs, strict=True)
        seconds = statistics.median(usage.seconds for usage in by_itself)
        show(f"{job} for a month, no other month loaded", seconds, f"  (medians of {len(pairs)} months)")
        each = ", ".join(f"{one.seconds / other.seconds:.2f}" for one, other in pairs)
        compare(f"{job} on top of the history", on_history, by_itself, 1.1, f"; by month {each}")


def _whole_weeks(month: str) -> list[str]:
    """The Sundays of the weeks that lie in `month` altogether."""
    first = date.fromisoformat(f"{month}-01")
    days = [first + timedelta(days=number) for number in range(31)]
    return [day.isoformat() for day in days if day.weekday() == 6 and (day + timedelta(days=6)).month == first.month]


def _launch(project: Project, job: str, *partitions: str) -> Usage:
    """Launch the job; return the seconds of its run, by Dagster's records: without the start of the process."""
    usage = project.timed("launch", "-m", "dagster_essentials", "--job", job, *partitions, program="dg")
    with project.instance() as instance:
        (record,) = instance.get_run_records(limit=1)
    assert record.start_time is not None
    assert record.end_time is not None
    return usage._replace(seconds=record.end_time - record.start_time)


def _full_month() -> None:
    """Print what a month of 2010 takes in its full size, and what its zones cost."""
    with serving(_samples(f"full-{FULL_ROWS}", {FULL_MONTH: FULL_ROWS})) as url:
        project = Project("full", url, START_OF_HISTORY)
        project.load_zones()
        run = project.load_range(FULL_MONTH, FULL_MONTH)
        project.check_months({FULL_MONTH: FULL_ROWS})
        plain = _plain(url, [FULL_MONTH])
        show_usage(f"plain process, {FULL_MONTH}, {FULL_ROWS:,} trips", plain)
        show_usage("one run over it", run, f", peak {run.peak} MB (at most 1024)")
        file = project.folder / "raw" / f"taxi_trips_{FULL_MONTH}.parquet"
        loads: dict[str, list[Usage]] = {"no-zones": [], "zones": []}
        for _ in range(ATTEMPTS):
            for variant, results in loads.items():
                results.append(_load(project, file, variant))
        without = statistics.median(usage.seconds for usage in loads["no-zones"])
        show("loading its file without zones", without, f"  (median of {ATTEMPTS})")
        peak = max(usage.peak for usage in loads["zones"])
        compare("loading its file", loads["zones"], loads["no-zones"], 2.0, f", peak {peak} MB (at most 1024)")


def _load(project: Project, file: Path, variant: str) -> Usage:
    script = Path(__file__).with_name("load_month.py")
    with tempfile.TemporaryDirectory(dir=DATA) as folder:
        zones = project.folder / "raw" / "taxi_zones.csv"
        return timed(
            [sys.executable, str(script), str(file), str(zones), f"{folder}/month.duckdb", variant], env=project.env
        )
