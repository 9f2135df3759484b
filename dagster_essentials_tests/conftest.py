"""What the tests share: a project of their own each, a source that can misbehave, and the real months."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

# The settings are read when the package is imported: nothing from the shell that started the tests may reach them, and
# a test that forgets to use `project` must not find the real data.
for name in [name for name in os.environ if name.startswith(("TAXI_", "DUCKDB_", "DAGSTER_"))]:
    del os.environ[name]
os.environ["TAXI_DATA_DIR"] = tempfile.mkdtemp(prefix="no-data-")
atexit.register(shutil.rmtree, os.environ["TAXI_DATA_DIR"], ignore_errors=True)
os.environ["DUCKDB_DATABASE"] = f"{os.environ['TAXI_DATA_DIR']}/no.duckdb"
os.environ["TAXI_START_DATE"] = "2011-01-01"

from dagster_essentials.assets import constants  # noqa: E402
from dagster_essentials.resources import TurnTakingDuckDBResource  # noqa: E402
from dagster_essentials.settings import SETTINGS  # noqa: E402
from dagster_essentials_tests.source_server import SourceServer  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
REAL_DATA = ROOT.parent / "shared" / "data"
REAL_MONTHS = ("2019-01", "2019-02", "2019-03", "2020-04", "2025-02")


# What takes longest, last.
SLOW = (
    "test_requests",
    "test_metrics",
    "test_real_months",
    "test_commands",
    "test_docs",
    "test_services",
    "test_chaos",
    "test_dagster_dev",
    "test_lesson",
)
# What DuckDB does here.
DUCKDB = (
    "test_columns",
    "test_sample",
    "test_bad_input",
    "test_hostile_files",
    "test_database",
    "test_requests",
    "test_metrics",
    "test_real_months",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: SLOW.index(item.path.stem) if item.path.stem in SLOW else -1)
    for item in items:
        if item.path.stem in DUCKDB:
            item.add_marker(pytest.mark.duckdb)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where everything is there that tests need, a skipped test is a failed one."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped") and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@dataclass
class Project:
    """A data folder, a database and a Dagster instance of its own, under `folder`, reading from `trips_url`."""

    folder: Path
    trips_url: str
    zones_url: str
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def database(self) -> Path:
        return self.folder / "staging" / "data.duckdb"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def file(self, month: str) -> Path:
        """Where the file of `month` (``YYYY-MM``) goes."""
        return self.folder / "raw" / f"taxi_trips_{month}.parquet"

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.database), read_only=True) as connection:
            return connection.execute(sql, list(parameters)).fetchall()

    def rows(self) -> dict[str, int]:
        """The number of rows of each month in `trips`; empty when there is no such table."""
        if not self.database.exists():
            return {}
        if not self.query("SELECT 1 FROM duckdb_tables() WHERE table_name = 'trips'"):
            return {}
        return dict(self.query("SELECT partition_date, count(*) FROM trips GROUP BY ALL"))

    def leftovers(self) -> list[Path]:
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
        return subprocess.run(
            [str(Path(sys.executable).parent / "dagster"), *command],
            cwd=self.folder,
            env=self.env(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
            **options,
        )


@pytest.fixture
def source_server() -> Iterator[SourceServer]:
    """An HTTP source on this machine, whose answers a test chooses."""
    with SourceServer() as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source_server: SourceServer) -> Project:
    """A project that reads from `source_server`, also for what the test runs in its own process."""
    project = Project(tmp_path, source_server.trips_url, source_server.zones_url)
    monkeypatch.setattr(
        "dagster_essentials.assets.trips.SETTINGS",
        replace(
            SETTINGS,
            trips_url=project.trips_url,
            zones_url=project.zones_url,
            data_dir=project.folder,
            database=project.database,
        ),
    )
    monkeypatch.setattr(constants, "TAXI_TRIPS_TEMPLATE_FILE_PATH", f"{tmp_path}/raw/taxi_trips_{{}}.parquet")
    monkeypatch.setattr(constants, "TAXI_ZONES_FILE_PATH", f"{tmp_path}/raw/taxi_zones.csv")
    monkeypatch.setattr("dagster_essentials.source.PAUSE_SECONDS", 0.01)
    return project


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture(scope="session")
def kept_instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    # A schedule opens its instance anew, so an ephemeral one will not do, and one on disk takes half a second to make.
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("instance"))) as instance:
        yield instance


@pytest.fixture
def history(kept_instance: dg.DagsterInstance) -> dg.DagsterInstance:
    """An instance on disk in which nothing has happened."""
    kept_instance.wipe()
    return kept_instance


def materialize(
    project: Project,
    instance: dg.DagsterInstance,
    assets: list[dg.AssetsDefinition],
    first: str | None = None,
    last: str | None = None,
    wait_seconds: float = 60,
) -> dg.ExecuteInProcessResult:
    """Materialize `assets` for the months from `first` to `last` (``YYYY-MM``), in this process; errors do not raise."""
    months: dict[str, Any] = {}
    if first is not None and last is not None:
        months["tags"] = {
            "dagster/asset_partition_range_start": f"{first}-01",
            "dagster/asset_partition_range_end": f"{last}-01",
        }
    elif first is not None:
        months["partition_key"] = f"{first}-01"
    return dg.materialize(
        assets,
        instance=instance,
        resources={
            "database": TurnTakingDuckDBResource(database=str(project.database), wait_seconds=wait_seconds),
        },
        raise_on_error=False,
        **months,
    )


def failure_text(result: dg.ExecuteInProcessResult) -> str:
    """What the failed steps of `result` say, as the UI and the command line print it."""
    return "\n".join(
        str(event.event_specific_data.error.message)  # type: ignore[union-attr]
        for event in result.all_events
        if event.is_step_failure
    )
