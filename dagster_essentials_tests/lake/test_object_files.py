"""The files of the project on S3: whole or not at all, and the same for every worker."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import dagster as dg
import pytest
from pyarrow.fs import FileSelector, S3FileSystem

from dagster_essentials import defs, settings
from dagster_essentials.errors import DownloadError, WriteError
from dagster_essentials.ingestion.atomic_write import atomic_write
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.sample import write_month, write_zones
from dagster_essentials.sensors import adhoc_request_sensor
from dagster_essentials_tests.cluster.servers import PASSWORD, free_port
from dagster_essentials_tests.support.commands import run
from dagster_essentials_tests.support.lake_servers import LakeServers

pytestmark = pytest.mark.cluster

SECONDS = 120


@dataclass
class Bucket:
    """A bucket, and processes that use it: each worker has a disk of its own."""

    name: str
    folder: Path
    environ: dict[str, str]

    @property
    def files(self) -> S3FileSystem:
        return S3FileSystem(
            access_key="local", secret_key=PASSWORD, endpoint_override=self.environ["AWS_ENDPOINT_URL"], scheme="http"
        )

    def objects(self) -> dict[str, bytes]:
        """The objects of the data folder, without sidecars, with their content."""
        prefix = f"{self.name}/taxi"
        found = self.files.get_file_info(FileSelector(prefix, recursive=True, allow_not_found=True))
        names = [info.path for info in found if info.is_file and not info.base_name.startswith(".")]
        return {name.removeprefix(f"{prefix}/"): self.files.open_input_file(name).read() for name in names}

    def put(self, name: str, content: bytes) -> None:
        with self.files.open_output_stream(f"{self.name}/taxi/{name}") as target:
            target.write(content)

    def materialize(self, worker: str, assets: str, *partition: str, fails: bool = False) -> str:
        command = ("-m", "dagster", "asset", "materialize", "-m", "dagster_essentials", "--select", assets, *partition)
        disk = self.folder / worker
        disk.mkdir(exist_ok=True)
        done = run(
            [sys.executable, *command],
            env={**self.environ, "TMPDIR": str(disk), "DAGSTER_HOME": str(self.folder)},
            cwd=self.folder,
            timeout=SECONDS,
        )
        assert PASSWORD not in done.stdout
        assert bool(done.returncode) == fails, done.stdout
        return done.stdout


@pytest.fixture
def bucket(lake_servers: LakeServers, tmp_path: Path) -> Iterator[Bucket]:
    source = tmp_path / "source"
    write_month(source, "2023-01", 5_000)
    write_zones(source / "taxi_zones.csv")
    name = f"files-{uuid4().hex[:12]}"
    bucket = Bucket(
        name,
        tmp_path,
        {
            **os.environ,
            **lake_servers.s3,
            "TAXI_DATA_DIR": f"s3://{name}/taxi",
            "TAXI_TRIPS_URL": str(source),
            "TAXI_ZONES_URL": str(source / "taxi_zones.csv"),
            "DUCKDB_DATABASE": str(tmp_path / "data.duckdb"),
        },
    )
    lake_servers.create_bucket(name)
    yield bucket
    # Nothing is anywhere but in the bucket, the database, and what is fetched for a while.
    assert not list(tmp_path.glob("*/**/raw/*.fetched"))


def test_workers_share_what_is_on_s3_and_nothing_else(bucket: Bucket) -> None:
    month = ("--partition", "2023-01-01")
    bucket.materialize("one", "taxi_trips_file,taxi_zones_file", *month)
    source = bucket.folder / "source"
    assert bucket.objects() == {
        "raw/taxi_trips_2023-01.parquet": (source / "yellow_tripdata_2023-01.parquet").read_bytes(),
        "raw/taxi_zones.csv": (source / "taxi_zones.csv").read_bytes(),
    }

    output = bucket.materialize("two", "taxi_trips_file", *month)
    assert "unchanged at the source" in output
    bucket.materialize("three", "taxi_trips,taxi_zones,manhattan/manhattan_stats", *month)
    assert not list((bucket.folder / "three").rglob("*.parquet"))
    bucket.materialize("four", "manhattan_map,trips_by_week", "--partition", "2023-01-08")
    objects = bucket.objects()
    assert json.loads(objects["staging/manhattan_stats.geojson"])["months"] == ["2023-01"]
    assert objects["outputs/manhattan_map.png"].startswith(b"\x89PNG")
    assert len(objects["outputs/trips_by_week.csv"].splitlines()) == 2

    # What is not on S3 is not taken from a disk.
    bucket.files.delete_file(f"{bucket.name}/taxi/raw/taxi_trips_2023-01.parquet")
    assert list((bucket.folder / "one").rglob("taxi_trips_2023-01.parquet"))
    output = bucket.materialize("one", "taxi_trips", *month, fails=True)
    assert "Materialize taxi_trips_file for this month first" in output


LARGE = bytes(range(256)) * (50 << 12)
"""50 MiB, which are uploaded in several parts."""
INTERRUPTED = """
import os, signal, threading
from urllib.request import urlopen
from dagster_essentials import settings
from dagster_essentials.ingestion.atomic_write import atomic_write
from dagster_essentials.ingestion.data_folder import DataFolder

files = settings.SETTINGS.files

def interrupt():
    bucket = files.url.removeprefix("s3://").partition("/")[0]
    while b"<Key>" not in urlopen(f"{{files.store.endpoint}}/{{bucket}}?uploads").read():
        pass
    os.kill(os.getpid(), signal.{name})

with atomic_write(files.path / "raw" / "taxi_trips_2023-01.parquet", files) as temporary:
    temporary.write_bytes(bytes(range(256)) * (50 << 12))
    threading.Thread(target=interrupt, daemon=True).start()
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=lambda sent: sent.name)
def test_an_upload_that_is_interrupted_leaves_no_part_of_a_file(bucket: Bucket, sent: signal.Signals) -> None:
    bucket.put("raw/taxi_trips_2023-01.parquet", b"before")
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(name=sent.name)],
        env={**bucket.environ, "TMPDIR": str(bucket.folder)},
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == -sent, done.stderr
    (content,) = bucket.objects().values()
    assert len(content) in (len(b"before"), len(LARGE))
    assert content in (b"before", LARGE)


def test_requests_are_read_from_s3(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(bucket.folder))
    monkeypatch.setattr(settings, "SETTINGS", settings.read_settings(bucket.environ))
    request = {"start_date": "2023-01-10", "end_date": "2023-01-20", "borough": "Manhattan"}

    def requested() -> list[str]:
        result = adhoc_request_sensor(dg.build_sensor_context(repository_def=defs.get_repository_def()))
        assert isinstance(result, dg.SensorResult)
        return [run.tags["taxi/request"] for run in result.run_requests or ()]

    bucket.put("requests/january.json", json.dumps(request).encode())
    assert requested() == ["january.json"]
    bucket.files.delete_file(f"{bucket.name}/taxi/requests/january.json")
    assert requested() == []


def read(path: Path, files: DataFolder) -> None:
    files.fetch(path)


def write(path: Path, files: DataFolder) -> None:
    with atomic_write(path, files):
        pass


NO_BUCKET = {"TAXI_DATA_DIR": "s3://no-such-bucket/taxi"}
NO_SERVER = {"AWS_ENDPOINT_URL": "http://127.0.0.1:{port}"}


@pytest.mark.parametrize(("use", "changed"), [(write, NO_BUCKET), (write, NO_SERVER), (read, NO_SERVER)])
def test_a_bucket_that_cannot_be_used_is_reported(
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[[Path, DataFolder], None],
    changed: dict[str, str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(bucket.folder))
    environ = {name: value.format(port=free_port()) for name, value in changed.items()}
    files = settings.read_settings({**bucket.environ, **environ}).files
    began = time.monotonic()
    with pytest.raises((DownloadError, WriteError)) as raised:
        use(files.path / "raw" / "taxi_trips_2023-01.parquet", files)
    assert time.monotonic() - began < 60
    for text in (*changed, "materialize again"):
        assert text in str(raised.value)
    assert PASSWORD not in str(raised.value)
