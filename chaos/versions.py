"""Databases from elsewhere: made by the course's code or by an older release, and loaded by one DuckDB after another."""

import os
import signal
from collections.abc import Mapping, Sequence

import duckdb

from chaos.kills import killing
from chaos.phases.sitecustomize import PHASES
from chaos.stage import MONTHS, Stage
from dagster_essentials.columns import COLUMNS, COURSE_COLUMNS, Column
from dagster_essentials_tests.support.project import ROOT

FOLDERS = {"2.0.0": ROOT / ".venv" / "duckdb-2"}
"""Where `make chaos` puts the newest DuckDB that is supported, beside the one of the environment, which is the oldest."""

STORAGE_VERSIONS = ("v0.10.2", "v1.0.0", "v1.2.0", "v1.4.0", "v1.5.0")
"""In which formats a DuckDB of the last years may have written a database."""

ADDED_SINCE = ("request_source", "cbd_congestion_fee")
"""The columns that an older release did not have."""

BEFORE = ("2022-11", "2022-12")
"""Months that a database has from elsewhere, and that are not loaded here."""

VALUES = {
    "INTEGER": "(hash(range, $month) % 265)::INTEGER",
    "DOUBLE": "(hash(range, $month) % 10000) / 100",
    "VARCHAR": "if(range % 2 = 0, 'Y', NULL)",
    "TIMESTAMP": "strptime($month, '%Y-%m') + to_minutes(range)",
}
"""For each type, an invented value for each row of a month."""


def course(stage: Stage, loads: int) -> None:
    """A database as the course's code leaves it: with half of the columns."""
    _play(stage, "the course's", COURSE_COLUMNS, loads)


def older_release(stage: Stage, loads: int) -> None:
    """A database of a release in which some columns did not exist, and the others stood in another order."""
    columns = [column for column in COLUMNS if column.name not in ADDED_SINCE]
    stage.random.shuffle(columns)
    _play(stage, "an older release's", columns, loads)


def _play(stage: Stage, whose: str, columns: Sequence[Column], loads: int) -> None:
    """Make a database with `columns`, and load months into it with one DuckDB after another, some of them killed."""
    _make_database(stage, columns)
    versions = _versions(stage)
    found_log = False
    writer = None
    for number in range(loads):
        # Never the one that was there before, as long as there is another.
        version = stage.random.choice([name for name in versions if name != writer] or list(versions))
        months = stage.months()
        for month in months:
            stage.publish(month)
        phase = stage.random.choice(PHASES[PHASES.index("commit") :])
        # The last load is left alone: it finds what all the others left.
        killed = number < loads - 1 and stage.random.random() < 0.7
        if killed:
            stage.phases.wait_for(phase, stage.random.randint(1, len(months)), killing(stage, [], signal.SIGKILL))
        succeeded = stage.materialize(months, **versions[version])
        struck = killed and stage.phases.forget()
        blow = f"DuckDB {version} on {f'what {writer} left' if writer else f'a database of {whose}'}"
        stage.report.blows[f"{blow}, with a log" if found_log else blow] += 1
        if struck:
            stage.report.blows[f"{signal.SIGKILL.name} to DuckDB {version}, {phase}"] += 1
        elif not succeeded:
            stage.report.wrong.append(f"{blow}: the run failed")
        stage.look(blow, months, killed=struck, succeeded=succeeded)
        found_log = stage.oracle.database.with_name(f"{stage.oracle.database.name}.wal").exists()
        writer = version
    stage.mend("after other DuckDBs")


def _versions(stage: Stage) -> Mapping[str, Mapping[str, str]]:
    """For each DuckDB that is here, the settings with which a command uses it."""
    versions: dict[str, Mapping[str, str]] = {duckdb.__version__: {}}
    for version, folder in FOLDERS.items():
        if folder.is_dir():
            versions[version] = {"PYTHONPATH": os.pathsep.join([str(folder), stage.env["PYTHONPATH"]])}
        else:
            stage.report.notes.append(
                f"DuckDB {version}: not tried, as {folder.name} is not there; `make chaos` makes it"
            )
    return versions


def _make_database(stage: Stage, columns: Sequence[Column]) -> None:
    """Make a database with a table `trips` of `columns`, with months that are loaded again later and months that are not."""
    stage.oracle.database.parent.mkdir(parents=True, exist_ok=True)
    storage = stage.random.choice(STORAGE_VERSIONS)
    values = ", ".join("$month" if column.name == "partition_date" else VALUES[column.type] for column in columns)
    with duckdb.connect(str(stage.oracle.database), config={"storage_compatibility_version": storage}) as connection:
        connection.execute(f"CREATE TABLE trips ({', '.join(f'{column.name} {column.type}' for column in columns)})")
        for month in [*BEFORE, *stage.random.sample(MONTHS, 6)]:
            connection.execute(
                f"INSERT INTO trips SELECT {values} FROM range($rows)",
                {"month": month, "rows": stage.random.randrange(1_000, 20_000)},
            )
    stage.oracle.inherit()
