"""A project of its own for a test: a data folder, a database and a Dagster instance, and what runs in it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from dagster_duckdb import DuckDBResource

from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.resources import DuckLakeResource, LockedDuckDBResource
from dagster_essentials.warehouse.file import file_tables
from dagster_essentials.warehouse.lake import LAKE_NAME, Lake
from dagster_essentials.warehouse.tables import Tables
from dagster_essentials_tests.support.commands import run
from dagster_essentials_tests.support.lake_servers import opened

ROOT = Path(__file__).resolve().parent.parent.parent
REAL_DATA = ROOT.parent / "shared" / "data"
DISK = DataFolder(Path("/"))
"""The data folder of a test that needs no folder of its own: every path on this disk is in it."""
NO_REAL_DATA = "needs the published files, which are not beside this project"
"""The one reason for which CI lets a test be skipped, and only where there is no `REAL_DATA`."""
REAL_MONTHS = ("2019-01", "2019-02", "2019-03", "2020-04", "2025-02")

FILE_AND_LAKE = pytest.mark.parametrize("storage", ["file", pytest.param("lake", marks=pytest.mark.cluster)])
"""For a test of `project` that runs twice: `make test` has the one whose tables are in a file, `make test-cluster` the other."""


@dataclass
class Project:
    """A data folder, a database and a Dagster instance of its own, under `folder`, reading from `trips_url`.

    If there is a `lake`, that is its database for what the test runs in its own process.
    """

    folder: Path
    trips_url: str
    zones_url: str
    environ: dict[str, str] = field(default_factory=dict)
    lake: Lake | None = None

    @property
    def database(self) -> Path:
        return self.folder / "staging" / "data.duckdb"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def file(self, month: str) -> Path:
        """The path of the file of `month` (``YYYY-MM``)."""
        return self.folder / "raw" / f"taxi_trips_{month}.parquet"

    def connect(self) -> AbstractContextManager[Tables]:
        """The tables, opened as runs open them."""
        return opened(self.lake) if self.lake else file_tables(self.database, {}, wait_seconds=60, log=print)

    def resource(self, wait_seconds: float = 60) -> DuckDBResource:
        """The database resource of the assets."""
        if self.lake:
            return DuckLakeResource(database=LAKE_NAME, wait_seconds=wait_seconds)
        return LockedDuckDBResource(database=str(self.database), wait_seconds=wait_seconds)

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.connect() if self.lake else duckdb.connect(str(self.database), read_only=True) as connection:
            return connection.execute(sql, list(parameters)).fetchall()

    def rows(self) -> dict[str, int]:
        """The number of rows of each month in `trips`; empty when there is no such table."""
        if not self.lake and not self.database.exists():
            return {}
        if not self.query("SELECT 1 FROM duckdb_tables() WHERE table_name = 'trips'"):
            return {}
        return dict(self.query("SELECT partition_date, count(*) FROM trips GROUP BY ALL"))

    def temporary_files(self) -> list[Path]:
        """Temporary files in the data folder."""
        return [path for path in self.folder.rglob("*") if path.name.endswith((".partial", ".tmp"))]

    def env(self) -> dict[str, str]:
        self.home.mkdir(parents=True, exist_ok=True)
        settings = self.home / "dagster.yaml"
        if not settings.exists():
            settings.write_text((ROOT / ".dagster" / "dagster.yaml").read_text())
        return {
            **os.environ,
            "DAGSTER_HOME": str(self.home),
            "DUCKDB_DATABASE": str(self.database),
            "TAXI_DATA_DIR": str(self.folder),
            "TAXI_TRIPS_URL": self.trips_url,
            "TAXI_ZONES_URL": self.zones_url,
            **self.environ,
        }

    def run(self, *command: str, timeout: float = 300, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `dagster ...` as a person would, in a folder without `.env`, so that the instance is this project's own."""
        dagster = Path(sys.executable).parent / "dagster"
        return run([dagster, *command], timeout, cwd=self.folder, env=self.env(), **options)


def materialize(
    project: Project,
    instance: dg.DagsterInstance,
    assets: list[dg.AssetsDefinition],
    first: str | None = None,
    last: str | None = None,
    wait_seconds: float = 60,
    config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    """Materialize `assets` for the months from `first` to `last`, in this process; errors do not raise.

    A month is ``YYYY-MM``, or with its fleet, ``green|YYYY-MM``. `config` is that of the assets, by their names, and
    `tags` are further ones of the run.
    """
    range_ = {}
    if first is not None and last is not None:
        range_ = {
            "dagster/asset_partition_range_start": f"{first}-01",
            "dagster/asset_partition_range_end": f"{last}-01",
        }
    return dg.materialize(
        assets,
        instance=instance,
        resources={"database": project.resource(wait_seconds)},
        run_config={"ops": {name: {"config": values} for name, values in (config or {}).items()}},
        raise_on_error=False,
        partition_key=f"{first}-01" if first is not None and last is None else None,
        tags={**range_, **(tags or {})},
    )


def failure_text(result: dg.ExecuteInProcessResult) -> str:
    """The messages of the failed steps of `result`, as the UI and the command line print them."""
    return "\n".join(
        str(event.event_specific_data.error.message)  # type: ignore[union-attr]
        for event in result.all_events
        if event.is_step_failure
    )
