"""The project as it is measured: a data folder, a database and a Dagster instance of its own."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import dagster as dg
import duckdb
from processes import Usage, timed

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data" / "bench"
BIN = Path(sys.executable).parent
CODE_LOCATION = ("-m", "dagster_essentials.definitions")
MATERIALIZE = ("asset", "materialize", *CODE_LOCATION, "--select")


def samples(first: str, last: str, rows: int) -> Path:
    """The folder with sample months of so many `rows`, from `first` to `last` (``YYYY-MM``), generated once."""
    folder = DATA / f"source-{first}-{last}-{rows}"
    if not (folder / "taxi_zones.csv").exists():
        print(f"generating sample months of {rows:,} trips in {folder}", flush=True)
        subprocess.run(
            [
                *(sys.executable, "-m", "dagster_essentials.sample", str(folder)),
                *("--start", first, "--end", last, "--rows", str(rows)),
            ],
            stdout=subprocess.DEVNULL,
            check=True,
        )
    return folder


class Project:
    """A data folder, a database and a Dagster instance with the committed `dagster.yaml`, for months of 2023 and 2024."""

    def __init__(self, name: str, url: str, environ: Mapping[str, str] | None = None):
        self.folder = DATA / name
        shutil.rmtree(self.folder, ignore_errors=True)
        home = self.folder / "home"
        home.mkdir(parents=True)
        shutil.copy(ROOT / ".dagster" / "dagster.yaml", home)
        self.database = self.folder / "data.duckdb"
        self.env = {
            **{
                name: value
                for name, value in os.environ.items()
                # With the last one, the modules of this package, unlike those of others, would be compiled at each start.
                if not name.startswith(("TAXI_", "DUCKDB_", "DAGSTER_", "PYTHONDONTWRITEBYTECODE"))
            },
            "DAGSTER_HOME": str(home),
            "TAXI_DATA_DIR": str(self.folder),
            "DUCKDB_DATABASE": str(self.database),
            "TAXI_TRIPS_URL": f"{url}/trip-data",
            "TAXI_ZONES_URL": f"{url}/taxi_zones.csv",
            "TAXI_END_DATE": "2025-01-01",
            "PATH": f"{BIN}:{os.environ['PATH']}",
            **(environ or {}),
        }

    def timed(self, *command: str, program: str = "dagster") -> Usage:
        return timed([str(BIN / program), *command], cwd=self.folder, env=self.env)

    def load_zones(self) -> None:
        self.timed(*MATERIALIZE, "taxi_zones_file,taxi_zones")

    def load_range(self, first: str, last: str, *options: str) -> Usage:
        """Load the months from `first` to `last` (``YYYY-MM``) in one run."""
        return self.timed(
            *(*MATERIALIZE, "taxi_trips_file,taxi_trips", "--partition-range", f"{first}-01...{last}-01", *options)
        )

    @contextlib.contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with dg.DagsterInstance.from_config(str(self.folder / "home")) as instance:
            yield instance

    def check_months(self, expected: Mapping[str, int]) -> None:
        """Exit if one of the months (``YYYY-MM``) has not the `expected` number of trips."""
        with duckdb.connect(str(self.database), read_only=True) as connection:
            found = dict(connection.execute("SELECT partition_date, count(*) FROM trips GROUP BY ALL").fetchall())
        if differing := [month for month, rows in expected.items() if found.get(month) != rows]:
            raise SystemExit(f"{self.database}: other numbers of trips than expected in {', '.join(differing)}")
