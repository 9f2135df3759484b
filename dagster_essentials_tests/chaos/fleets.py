"""Kills of runs that load months of the other fleets, while another run loads the same months of yellow trips."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import duckdb

from dagster_essentials.sample import write_fleet_month
from dagster_essentials_tests.chaos.kills import SIGNALS, kill
from dagster_essentials_tests.chaos.oracle import DATA_VERSION_TAG
from dagster_essentials_tests.chaos.phases.sitecustomize import PHASES
from dagster_essentials_tests.chaos.sandbox import MONTHS, Sandbox
from dagster_essentials_tests.support.dagster_dev import BIN
from dagster_essentials_tests.support.fleet_files import read_trips, trips_in_table
from dagster_essentials_tests.support.source_server import SourceServer

FLEETS = ("green", "fhv", "fhvhv")
ROWS = 3_000
# Only yellow trips are aggregated by day.
FLEET_PHASES = tuple(phase for phase in PHASES if phase != "replace_aggregates")

Key = tuple[str, str]
"""A fleet and a month (``YYYY-MM``)."""


@dataclass(frozen=True)
class FleetVersion:
    """A file that the source had for a month of a fleet: its SHA-256, and its rows as pyarrow reads them."""

    sha256: str
    rows: "Counter[tuple[Any, ...]]"


@dataclass
class FleetOracle:
    """Knows what the source has had of each month of each fleet, and which of it was in the table at the last check."""

    published: dict[Key, list[FleetVersion]] = field(default_factory=dict)
    table: dict[Key, FleetVersion] = field(default_factory=dict)

    def publish(self, source: SourceServer, key: Key) -> None:
        """Let the source have a new version of the month, with a number of rows that no other one has."""
        versions = self.published.setdefault(key, [])
        fleet, month = key
        with TemporaryDirectory() as folder:
            path = write_fleet_month(Path(folder), fleet, month, ROWS + len(versions))
            content = path.read_bytes()
            versions.append(FleetVersion(hashlib.sha256(content).hexdigest(), read_trips(path, fleet, month)))
        source.files[f"/trip-data/{fleet}_tripdata_{month}.parquet"] = content

    def check(self, database: Path, tried: Collection[Key], newest: bool = False) -> Iterator[str]:
        """The violations after runs that `tried` to load months; with `newest`, each of those must have its last version."""
        with duckdb.connect(str(database), read_only=True) as connection:
            if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'fleet_trips'").fetchall():
                yield from (f"{' '.join(key)}: the table is missing" for key in self.table)
                return
            found = connection.execute("SELECT DISTINCT fleet, partition_date FROM fleet_trips").fetchall()
            recorded: dict[Key, list[tuple[int, str, int]]] = {}
            for fleet, month, *version in connection.execute(
                "SELECT fleet, month, version, sha256, num_trips FROM month_versions WHERE fleet <> 'yellow' ORDER BY ALL"
            ).fetchall():
                recorded.setdefault((fleet, month), []).append((version[0], version[1], version[2]))
            for key in sorted({*found, *recorded, *self.table}):
                allowed = self.published[key][-1:] if key in tried else []
                if not newest and key in self.table:
                    allowed = [self.table[key], *allowed]
                rows = trips_in_table(connection, *key)
                now = next((version for version in allowed if version.rows == rows), None)
                if now is None:
                    yield f"{' '.join(key)}: {rows.total():,} rows, neither the previous version nor the one that was tried"
                    continue
                self.table[key] = now
                numbers = [number for number, *_ in recorded.get(key, [])]
                if numbers != [*range(1, len(numbers) + 1)] or not numbers:
                    yield f"{' '.join(key)}: the versions in month_versions are numbered {numbers}"
                elif recorded[key][-1][1:] != (now.sha256, rows.total()):
                    yield f"{' '.join(key)}: the last version in month_versions is not that of the rows in the table"

    def check_records(self, instance: dg.DagsterInstance, tried: Collection[Key]) -> Iterator[str]:
        """The months whose newest version Dagster has not recorded, after a run that succeeded."""
        for asset in ("fleet_trips_file", "fleet_trips"):
            for fleet, month in tried:
                records = instance.fetch_materializations(
                    dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[f"{fleet}|{month}-01"]), limit=1
                ).records
                found = records[0].asset_materialization if records else None
                version = (found.tags or {})[DATA_VERSION_TAG].partition("-")[0] if found else None
                if version != self.published[fleet, month][-1].sha256:
                    yield f"{fleet} {month}: the newest version of {asset} is not recorded"


def kill_fleet_runs(sandbox: Sandbox, faults: int) -> None:
    """Kill one of two runs, over a rectangle of fleets and months and over the same months of yellow trips."""
    sandbox.env["TAXI_FLEETS"] = ",".join(FLEETS)
    oracle = FleetOracle()
    everything: set[Key] = set()
    for number in range(faults):
        months = sandbox.random_months(2)
        first = sandbox.random.randrange(len(FLEETS))
        fleets = FLEETS[first : sandbox.random.randint(first + 1, len(FLEETS))]
        tried = [(fleet, month) for fleet in fleets for month in months]
        everything.update(tried)
        for key in tried:
            oracle.publish(sandbox.source, key)
        sandbox.publish(*months)
        phase = FLEET_PHASES[number % len(FLEET_PHASES)]
        (sent,) = sandbox.random.choices(list(SIGNALS), list(SIGNALS.values()))
        sandbox.hooks.arm(phase, sandbox.random.randint(1, len(tried)), kill(sandbox, [], sent))
        running = [
            sandbox.start_command(_command(fleets, months)),
            sandbox.start_command(sandbox.command(months)),
        ]
        for process in running:
            sandbox.wait_for_command(process)
        label = f"{sent.name} to a run over {len(tried)} months of fleets or a yellow one, {phase}"
        if sandbox.hooks.disarm():
            sandbox.report.faults[f"{sent.name} to a run beside fleets, {phase}"] += 1
        sandbox.check(label, months, killed=True)
        sandbox.add_violations(label, [*oracle.check(sandbox.oracle.database, tried)])
    _repair_and_check(sandbox, oracle, everything)
    sandbox.repair_and_check("after kills of fleet runs")


def _command(fleets: Sequence[str], months: Sequence[str]) -> list[str]:
    """The command that materializes these months of these fleets, which are consecutive, in one run."""
    return [
        *(str(BIN / "dagster"), "asset", "materialize", "-m", "dagster_essentials"),
        *("--select", "fleet_trips_file,fleet_trips"),
        *("--partition-range", f"{fleets[0]}|{months[0]}-01...{fleets[-1]}|{months[-1]}-01"),
    ]


def _repair_and_check(sandbox: Sandbox, oracle: FleetOracle, everything: Collection[Key]) -> None:
    """Run all months of all fleets undisturbed, after which each must have its newest version."""
    months = MONTHS[: 1 + max(MONTHS.index(month) for _, month in everything)]
    # A range has no gaps.
    keys = [(fleet, month) for fleet in FLEETS for month in months]
    for key in keys:
        if key not in oracle.published:
            oracle.publish(sandbox.source, key)
    label = "after kills of fleet runs"
    if not sandbox.wait_for_command(sandbox.start_command(_command(FLEETS, months))):
        sandbox.report.violations.append(f"{label}: the same command again failed")
    violations = [*oracle.check(sandbox.oracle.database, keys, newest=True)]
    violations += [f"{' '.join(key)}: not in the table" for key in keys if key not in oracle.table]
    with sandbox.instance() as instance:
        violations += oracle.check_records(instance, keys)
    sandbox.add_violations(label, violations)
