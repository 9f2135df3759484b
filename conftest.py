"""What the tests share: a project of their own each, a source that can misbehave, and the real months."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
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
from dagster_essentials.settings import SETTINGS  # noqa: E402
from dagster_essentials_tests.support.project import Project  # noqa: E402
from dagster_essentials_tests.support.source_server import SourceServer  # noqa: E402

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
