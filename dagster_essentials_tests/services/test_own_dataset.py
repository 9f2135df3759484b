"""docs/your-own-dataset.md, executed as it stands in a copy of the project, with months of its own."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from dagster_essentials.sample import write_month
from dagster_essentials.warehouse.file import file_tables
from dagster_essentials_tests.support.commands import run
from dagster_essentials_tests.support.dagster_dev import BIN, copy_of_project
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import ROOT
from dagster_essentials_tests.support.source_server import SourceServer

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs/your-own-dataset.md").read_text()
FILES = dict(re.findall(r"^`(dagster_essentials/\S+\.py)`\n\n```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
MAX_LINES = 120

TICKS = """
import json, sys
from datetime import datetime, timezone
import dagster as dg
from dagster_essentials.definitions import defs
repository = defs.get_repository_def()
requested = {}
for name, at in zip(sys.argv[1::2], sys.argv[2::2]):
    with dg.DagsterInstance.get() as instance, dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=datetime.fromisoformat(at).replace(tzinfo=timezone.utc),
        repository_def=repository,
    ) as context:
        result = repository.get_schedule_def(name).evaluate_tick(context)
    requested[name] = [request.partition_key for request in result.run_requests]
print(json.dumps(requested))
"""


class Copy:
    """A copy of the project to which the page was applied, with an instance, a data folder and a database of its own."""

    def __init__(self, root: Path, source: SourceServer, trips: Path) -> None:
        self.root, self.source = root, source
        self.environ = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("TAXI_", "DUCKDB_", "DAGSTER_"))
            },
            "PYTHONPATH": str(root),
            "DAGSTER_HOME": str(root / ".dagster"),
            "BIKE_TRIPS_URL": f"{source.url}/bikes",
            "TAXI_TRIPS_URL": str(trips),
        }

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        # Not in the copy, whose .env builds DAGSTER_HOME from PWD.
        return run([BIN / command[0], *command[1:]], cwd=self.root.parent, env=self.environ)

    def launch(self, first: str, last: str) -> subprocess.CompletedProcess[str]:
        range_ = ("--partition-range", f"{first}-01...{last}-01")
        return self.run("dg", "launch", "-m", "dagster_essentials", "--job", "bike_update_job", *range_)

    def requested(self, **ticks: str) -> Any:
        """The partitions that the schedules request at these times."""
        arguments = [each for pair in ticks.items() for each in pair]
        result = self.run(Path(sys.executable).name, "-W", "ignore", "-c", TICKS, *arguments)
        assert result.returncode == 0, result.stdout
        return json.loads(result.stdout.splitlines()[-1])

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.root / "data/staging/data.duckdb"), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    def publish(self, month: str, rides: list[dict[str, str]]) -> None:
        self.source.files[path(month)] = zipped(rides)


def path(month: str) -> str:
    return f"/bikes/JC-{month.replace('-', '')}-citibike-tripdata.csv.zip"


def zipped(rides: list[dict[str, str]]) -> bytes:
    text, archive = io.StringIO(), io.BytesIO()
    writer = csv.DictWriter(text, rides[0])
    writer.writeheader()
    writer.writerows(rides)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("rides.csv", text.getvalue())
        target.writestr("__MACOSX/._rides.csv", "")
    return archive.getvalue()


def rides(month: str, number: int) -> list[dict[str, str]]:
    """So many rides of `month`, one in 50 of which ended at no station."""
    return [
        {
            "ride_id": f"{month}-{ride}",
            "rideable_type": "electric_bike" if ride % 3 else "classic_bike",
            "started_at": f"{month}-{ride % 28 + 1:02} {ride % 24:02}:{ride % 60:02}:00",
            "ended_at": f"{month}-{ride % 28 + 1:02} {ride % 24:02}:{ride % 60:02}:59.5",
            "start_station_name": f'Grove St, "PATH" {ride % 7}',
            "start_station_id": f"JC{ride % 7:03}",
            "end_station_name": f"Station {ride % 11}" if ride % 50 else "",
            "end_station_id": f"HB{ride % 11:03}" if ride % 50 else "",
            "start_lat": f"{40.7 + ride / 1e5}",
            "start_lng": f"{-74 - ride / 1e5}",
            "end_lat": "40.72",
            "end_lng": "-74.05",
            "member_casual": "member" if ride % 4 else "casual",
        }
        for ride in range(number)
    ]


def as_published(published: list[dict[str, str]]) -> list[tuple[str, str, str | None]]:
    return sorted((ride["ride_id"], ride["started_at"], ride["end_station_name"] or None) for ride in published)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    root = copy_of_project(ROOT, tmp_path_factory.mktemp("clone") / "project")
    for name, content in FILES.items():
        (root / name).write_text(content)
    definitions = root / "dagster_essentials/definitions.py"
    (line,) = re.findall(r"^OWN_DATASETS.*bikes.*$", PAGE, re.MULTILINE)
    changed, times = re.subn(r"^OWN_DATASETS.*$", line, definitions.read_text(), flags=re.MULTILINE)
    assert times == 1
    definitions.write_text(changed)
    trips = root.parent / "trip-data"
    with file_tables(root / "data/staging/data.duckdb", {}, wait_seconds=0, log=print) as tables:
        load_month(tables, "2023-01", write_month(trips, "2023-01", 500))
    with SourceServer() as source:
        yield Copy(root, source, trips)


def test_it_takes_two_files_and_one_line() -> None:
    assert len(FILES) == 2
    assert sum(len(content.splitlines()) for content in FILES.values()) < MAX_LINES


def test_a_range_loads_what_is_published_and_names_the_rest(copy: Copy) -> None:
    copy.publish("2023-01", rides("2023-01", 300))
    copy.publish("2023-02", rides("2023-02", 200))
    result = copy.launch("2023-01", "2023-03")
    assert result.returncode == 1
    assert "2 of 3 months loaded: 500 rides" in result.stdout
    reason = r"2023-03 \(3 of 3\) failed \(http\S+\): not published .*Citi Bike publishes a month of Citi Bike rides"
    assert re.search(reason, result.stdout)
    assert "BIKE_TRIPS_URL" in result.stdout
    assert "taxi" not in result.stdout.lower().replace("dagster_essentials", "").replace("trips_file", "")
    found = copy.query(
        "SELECT ride_id, strftime(started_at, '%Y-%m-%d %H:%M:%S'), end_station FROM bike_trips ORDER BY 1"
    )
    assert found == as_published(rides("2023-01", 300) + rides("2023-02", 200))


def test_the_schedules_request_a_new_and_a_corrected_month_and_an_unchanged_one_is_left_alone(copy: Copy) -> None:
    copy.publish("2023-02", rides("2023-02", 230))
    copy.publish("2023-03", rides("2023-03", 100))
    requested = copy.requested(bike_update_job_schedule="2023-05-10", bike_corrections="2023-05-14")
    assert requested == {"bike_update_job_schedule": ["2023-03-01"], "bike_corrections": ["2023-02-01"]}
    before = copy.source.bytes_sent(path("2023-01"))
    result = copy.launch("2023-01", "2023-03")
    assert result.returncode == 0, result.stdout
    assert len(re.findall("2 of 3 months (?:downloaded|loaded), 1 unchanged", result.stdout)) == 2
    assert copy.source.bytes_sent(path("2023-01")) == before
    assert copy.query("SELECT partition_date, count(*) FROM bike_trips GROUP BY ALL ORDER BY ALL") == [
        ("2023-01", 300),
        ("2023-02", 230),
        ("2023-03", 100),
    ]
    assert copy.query("SELECT version, num_trips FROM month_versions WHERE fleet = 'bikes' AND month = '2023-02'") == [
        (1, 200),
        (2, 230),
    ]


def test_files_that_are_no_such_month_change_nothing(copy: Copy) -> None:
    copy.source.files[path("2023-01")] = b"<html>Service unavailable</html>"
    copy.publish("2023-02", rides("2023-03", 50))
    before = copy.query("FROM bike_trips ORDER BY ALL")
    result = copy.launch("2023-01", "2023-02")
    assert result.returncode == 1
    assert re.search(r"2023-01 \(\d of 2\) failed .*not a complete zip archive", result.stdout), result.stdout
    other = "50 of the 50 rides in the file do not lie in 2023-02 .* it seems to be 2023-03"
    assert re.search(rf"2023-02 \(\d of 2\) failed .*{other}", result.stdout), result.stdout
    assert copy.query("FROM bike_trips ORDER BY ALL") == before


def test_a_lost_record_is_made_anew(copy: Copy) -> None:
    for name in ("storage", "history", "schedules"):
        (copy.root / ".dagster" / name).rename(copy.root / f"lost-{name}")
    result = copy.run("dg", "launch", "-m", "dagster_essentials", "--job", "reconcile_job")
    assert result.returncode == 0, result.stdout
    assert "bike_trips: 3 of 3 months recorded" in result.stdout
    assert "taxi_trips: 1 of 1 months recorded" in result.stdout


def test_the_pattern_records_each_partition_and_keeps_those_of_a_run_that_fails(tmp_path: Path) -> None:
    (code,) = re.findall(r"^`each_partition.py`\n\n```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) <= 32
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    tags = {"dagster/asset_partition_range_start": "2023-01-01", "dagster/asset_partition_range_end": "2023-03-01"}
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([namespace["trips"]], instance=instance, tags=tags, raise_on_error=False)
        assert not result.success
        asset = dg.AssetKey("trips")
        assert instance.get_materialized_partitions(asset) == {"2023-01-01", "2023-03-01"}
        tags["dagster/asset_partition_range_start"] = "2023-03-01"
        tags["dagster/asset_partition_range_end"] = "2023-04-01"
        assert dg.materialize([namespace["trips"]], instance=instance, tags=tags).success
        records = instance.fetch_materializations(dg.AssetRecordsFilter(asset), limit=10, ascending=True).records
    found = [(record.partition_key, record.asset_materialization) for record in records]
    versions = [(key, each.tags["dagster/data_version"]) for key, each in found if each and each.tags]
    assert versions == [
        ("2023-01-01", "version of 2023-01-01"),
        ("2023-03-01", "version of 2023-03-01"),
        ("2023-03-01", "version of 2023-03-01"),
        ("2023-04-01", "version of 2023-04-01"),
    ]


CORE = ("errors.py", "ingestion", "warehouse", "orchestration")


def test_the_core_works_in_a_project_of_its_own(tmp_path: Path) -> None:
    package = tmp_path / "bikes"
    package.mkdir()
    for name in CORE:
        source = ROOT / "dagster_essentials" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, package / name)
    dataset, assets = FILES.values()
    (package / "dataset.py").write_text(dataset)
    (package / "assets.py").write_text(
        assets.replace("dagster_essentials.datasets.bikes", "bikes.dataset")
        .replace(
            "from dagster_essentials import settings",
            "from pathlib import Path\n\nfrom bikes.ingestion.data_folder import DataFolder",
        )
        .replace("settings.SETTINGS.files", "DataFolder(Path('data'))")
        .replace("settings.SETTINGS.data_dir", "Path('data').absolute()")
    )
    (package / "definitions.py").write_text(
        "import dagster as dg\nfrom bikes.assets import bike_trips, bike_trips_file\n"
        "from bikes.orchestration.database import LockedDuckDBResource\n"
        "defs = dg.Definitions(assets=[bike_trips_file, bike_trips], executor=dg.in_process_executor, "
        "resources={'database': LockedDuckDBResource(database='bikes.duckdb')})\n"
    )
    (package / "__init__.py").touch()
    for module in package.rglob("*.py"):
        module.write_text(module.read_text().replace("dagster_essentials.", "bikes."))
    source = tmp_path / "source"
    source.mkdir()
    (source / Path(path("2023-01")).name).write_bytes(zipped(rides("2023-01", 60)))
    result = run(
        [
            *(str(BIN / "dagster"), "asset", "materialize", "-m", "bikes.definitions"),
            *("--select", "bike_trips_file,bike_trips", "--partition", "2023-01-01"),
        ],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "BIKE_TRIPS_URL": str(source)},
    )
    assert result.returncode == 0, result.stdout
    with duckdb.connect(str(tmp_path / "bikes.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM bike_trips").fetchall() == [(60,)]


def test_the_trips_are_what_they_were(copy: Copy) -> None:
    assert copy.query("SELECT partition_date, count(*) FROM trips GROUP BY ALL") == [("2023-01", 500)]
    assert copy.query("SELECT month, version, num_trips FROM month_versions WHERE fleet = 'yellow'") == [
        ("2023-01", 1, 500)
    ]
