"""Existing databases: made by the course's code or by an older release, and loaded by different versions of DuckDB."""

import os
import signal
from collections.abc import Mapping, Sequence

import duckdb

from dagster_essentials.datasets.yellow import COLUMNS, COURSE_COLUMNS
from dagster_essentials.ingestion.dataset import Column
from dagster_essentials_tests.chaos.kills import kill
from dagster_essentials_tests.chaos.phases.sitecustomize import PHASES
from dagster_essentials_tests.chaos.sandbox import MONTHS, Sandbox
from dagster_essentials_tests.support.project import ROOT

FOLDERS = {"1.5.6": ROOT / ".venv" / "duckdb-1"}
"""The folder in which `make chaos` installs the oldest supported DuckDB; the environment has the newest."""

STORAGE_VERSIONS = ("v0.10.2", "v1.0.0", "v1.2.0", "v1.4.0", "v1.5.0")
"""The storage formats of the DuckDB releases of the last years."""

ADDED_SINCE = (
    *("request_source", "cbd_congestion_fee"),
    *("pickup_longitude", "pickup_latitude", "dropoff_longitude", "dropoff_latitude"),
)
"""The columns that an older release did not have."""

EARLIER_MONTHS = ("2022-11", "2022-12")
"""Months that are in the database already, and are not loaded here."""

VALUES = {
    "INTEGER": "(hash(range, $month) % 265)::INTEGER",
    "DOUBLE": "(hash(range, $month) % 10000) / 100",
    "VARCHAR": "if(range % 2 = 0, 'Y', NULL)",
    "TIMESTAMP": "strptime($month, '%Y-%m') + to_minutes(range)",
}
"""For each type, an invented value for each row of a month."""


def course_database(sandbox: Sandbox, loads: int) -> None:
    """A database as the course's code leaves it: with half of the columns."""
    _load_by_versions(sandbox, "the course's database", COURSE_COLUMNS, loads)


def older_database(sandbox: Sandbox, loads: int) -> None:
    """A database of a release in which some columns did not exist, and the others were in another order."""
    columns = [column for column in COLUMNS if column.name not in ADDED_SINCE]
    sandbox.random.shuffle(columns)
    _load_by_versions(sandbox, "an older release's database", columns, loads)


def _load_by_versions(sandbox: Sandbox, origin: str, columns: Sequence[Column], loads: int) -> None:
    """Make a database with `columns`, and load months into it with one DuckDB after another, some of them killed."""
    _make_database(sandbox, columns)
    versions = _versions(sandbox)
    found_wal = False
    writer = None
    for number in range(loads):
        # Never the version of the load before, if there is another.
        version = sandbox.random.choice([name for name in versions if name != writer] or list(versions))
        months = sandbox.random_months()
        sandbox.publish(*months)
        phase = sandbox.random.choice(PHASES[PHASES.index("after record_version") :])
        # The last load is not killed: it finds what all the others left.
        armed = number < loads - 1 and sandbox.random.random() < 0.7
        if armed:
            sandbox.hooks.arm(phase, sandbox.random.randint(1, len(months)), kill(sandbox, [], signal.SIGKILL))
        succeeded = sandbox.materialize(months, **versions[version])
        killed = armed and sandbox.hooks.disarm()
        label = f"DuckDB {version} on {f'a database last written by {writer}' if writer else origin}"
        sandbox.report.faults[f"{label}, with a WAL" if found_wal else label] += 1
        if killed:
            sandbox.report.faults[f"{signal.SIGKILL.name} to DuckDB {version}, {phase}"] += 1
        elif not succeeded:
            sandbox.report.violations.append(f"{label}: the run failed")
        sandbox.check(label, months, killed=killed, succeeded=succeeded)
        found_wal = sandbox.oracle.database.with_name(f"{sandbox.oracle.database.name}.wal").exists()
        writer = version
    sandbox.repair_and_check("after loads by several versions")


def _versions(sandbox: Sandbox) -> Mapping[str, Mapping[str, str]]:
    """The installed versions of DuckDB, each with the settings with which a command uses it."""
    versions: dict[str, Mapping[str, str]] = {duckdb.__version__: {}}
    for version, folder in FOLDERS.items():
        if folder.is_dir():
            versions[version] = {"PYTHONPATH": os.pathsep.join([str(folder), sandbox.env["PYTHONPATH"]])}
        else:
            sandbox.report.notes.append(
                f"DuckDB {version}: left out, as {folder.name} is missing; `make chaos` installs it"
            )
    return versions


def _make_database(sandbox: Sandbox, columns: Sequence[Column]) -> None:
    """Make a table `trips` of `columns`, with months that are loaded again later and months that are not."""
    sandbox.oracle.database.parent.mkdir(parents=True, exist_ok=True)
    storage = sandbox.random.choice(STORAGE_VERSIONS)
    values = ", ".join("$month" if column.name == "partition_date" else VALUES[column.type] for column in columns)
    with duckdb.connect(str(sandbox.oracle.database), config={"storage_compatibility_version": storage}) as connection:
        connection.execute(f"CREATE TABLE trips ({', '.join(f'{column.name} {column.type}' for column in columns)})")
        for month in [*EARLIER_MONTHS, *sandbox.random.sample(MONTHS, 6)]:
            connection.execute(
                f"INSERT INTO trips SELECT {values} FROM range($rows)",
                {"month": month, "rows": sandbox.random.randrange(1_000, 20_000)},
            )
    sandbox.oracle.adopt_database()
