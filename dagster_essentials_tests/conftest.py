"""Fixtures of all tests: a project of their own each, a source that can misbehave, and the real months."""

import atexit
import os
import shutil
import signal
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
os.environ["TAXI_FLEETS"] = "green,fhv,fhvhv"

from dagster_essentials import settings  # noqa: E402
from dagster_essentials.assets import constants  # noqa: E402
from dagster_essentials.datasets.zones import read_zones  # noqa: E402
from dagster_essentials.datasets.zones_table import replace_zones  # noqa: E402
from dagster_essentials.ingestion.data_folder import DataFolder  # noqa: E402
from dagster_essentials.sample import write_month, write_zones  # noqa: E402
from dagster_essentials.warehouse.file import file_tables  # noqa: E402
from dagster_essentials_tests.cluster.servers import postgres, s3  # noqa: E402
from dagster_essentials_tests.support.lake_servers import LakeServers  # noqa: E402
from dagster_essentials_tests.support.loading import load_month  # noqa: E402
from dagster_essentials_tests.support.project import DISK, NO_REAL_DATA, REAL_DATA, REAL_MONTHS, ROOT, Project  # noqa: E402
from dagster_essentials_tests.support.source_server import SourceServer  # noqa: E402

# Processes that tests start have the default: no fleets.
del os.environ["TAXI_FLEETS"]

# A shell that starts the tests in the background lets them ignore Ctrl-C, and so would what they start. Dagster needs it to
# stop its processes.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The files with the longest times, which pytest-xdist distributes first, so that the short ones balance the workers at the
# end. Each file stays on one worker, because its tests may share a `dagster dev` and build on each other.
LONGEST_FIRST = (
    "test_cluster",
    "test_lake",
    "test_lesson",
    "test_two_dimensions",
    "test_dagster_dev",
    "test_chaos",
    "test_docs",
    "test_services",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: position for position, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: (order.get(item.path.stem, len(order)), item.get_closest_marker("slow") is None))


@pytest.fixture
def source_server() -> Iterator[SourceServer]:
    """An HTTP source on this machine, whose answers a test chooses."""
    with SourceServer() as server:
        yield server


@pytest.fixture
def storage() -> str:
    """The storage of the tables of `project`: a file, unless the test is marked with `FILE_AND_LAKE`."""
    return "file"


@pytest.fixture
def project(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source_server: SourceServer,
    storage: str,
    request: pytest.FixtureRequest,
) -> Project:
    """A project that reads from `source_server`, also for what the test runs in its own process."""
    project = Project(tmp_path, source_server.trips_url, source_server.zones_url)
    if storage == "lake":
        servers: LakeServers = request.getfixturevalue("lake_servers")
        # In a folder, as S3 is tested in test_lake.py.
        project.lake = servers.new_lake(tmp_path / "lake")
    changed = replace(
        settings.SETTINGS,
        trips_url=project.trips_url,
        zones_url=project.zones_url,
        files=DataFolder(project.folder),
        database=project.database,
        lake=project.lake,
    )
    monkeypatch.setattr(settings, "SETTINGS", changed)
    for name in [name for name in vars(constants) if name.endswith("_FILE_PATH")]:
        monkeypatch.setattr(
            constants, name, getattr(constants, name).replace(os.environ["TAXI_DATA_DIR"], str(tmp_path))
        )
    monkeypatch.setattr("dagster_essentials.ingestion.download.BACKOFF_SECONDS", 0.01)
    return project


@pytest.fixture(scope="session")
def real_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the published sample months and zones. Tests use copies of it."""
    if not REAL_DATA.is_dir():
        pytest.skip(NO_REAL_DATA)
    path = tmp_path_factory.mktemp("real") / "data.duckdb"
    with file_tables(path, {}, wait_seconds=0, log=print) as tables:
        for month in REAL_MONTHS:
            load_month(tables, month, REAL_DATA / "trip-data" / f"yellow_tripdata_{month}.parquet")
        replace_zones(tables, read_zones(REAL_DATA / "taxi_zones.csv", DISK))
    return path


@pytest.fixture
def real(project: Project, real_database: Path) -> Project:
    """A project in which the published sample months and zones are loaded, and no report exists."""
    project.database.parent.mkdir()
    shutil.copy(real_database, project.database)
    return project


@pytest.fixture(scope="session")
def instance_in_memory() -> Iterator[dg.DagsterInstance]:
    # To make one takes 0.2 seconds, to empty it a tenth of that.
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def instance(instance_in_memory: dg.DagsterInstance) -> dg.DagsterInstance:
    """An instance in memory in which nothing has happened."""
    instance_in_memory.wipe()
    return instance_in_memory


@pytest.fixture(scope="session")
def kept_instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    # A schedule opens its instance anew, so an ephemeral one will not do, and one on disk takes half a second to make.
    folder = tmp_path_factory.mktemp("instance")
    shutil.copy(ROOT / ".dagster/dagster.yaml", folder)
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        yield instance


@pytest.fixture
def history(kept_instance: dg.DagsterInstance) -> dg.DagsterInstance:
    """An instance on disk in which nothing has happened."""
    kept_instance.wipe()
    kept_instance.wipe_all_schedules()
    return kept_instance


@pytest.fixture(scope="session")
def lake_servers() -> Iterator[LakeServers]:
    """PostgreSQL and an S3 server, for the tests of the cluster."""
    with tempfile.TemporaryDirectory(prefix="servers-") as name:
        # PostgreSQL's user has to reach the folder. Those of pytest are for its own user only.
        folder = Path(name)
        folder.chmod(0o755)
        with postgres(folder / "postgres") as database, s3(folder / "s3", "taxi") as environ:
            yield LakeServers(database, environ)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight sample months, 20,000 trips each, and the zones."""
    folder = tmp_path_factory.mktemp("samples")
    for month in range(1, 9):
        write_month(folder, f"2023-{month:02}", 20_000)
    write_zones(folder / "taxi_zones.csv")
    return folder
