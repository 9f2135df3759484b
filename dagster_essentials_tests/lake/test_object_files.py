"""The files of the project on S3: whole or not at all, and the same for every worker."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from pyarrow.fs import FileSelector, S3FileSystem

from dagster_essentials.sample import write_month, write_zones
from dagster_essentials_tests.cluster.servers import PASSWORD, free_port
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

    def run(self, worker: str, *command: str, fails: bool = False, **environ: str) -> str:
        disk = self.folder / worker
        disk.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, *command],
            env={**self.environ, "TMPDIR": str(disk), "DAGSTER_HOME": str(self.folder), **environ},
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
        )
        assert PASSWORD not in done.stdout
        assert bool(done.returncode) == fails, done.stdout
        return done.stdout

    def materialize(self, worker: str, assets: str, *partition: str, fails: bool = False, **environ: str) -> str:
        command = ("-m", "dagster", "asset", "materialize", "-m", "dagster_essentials", "--select", assets)
        return self.run(worker, *command, *partition, fails=fails, **environ)


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


def test_a_worker_loads_what_another_one_downloaded(bucket: Bucket) -> None:
    bucket.materialize("one", "taxi_trips_file", "--partition", "2023-01-01")
    bucket.materialize("one", "taxi_zones_file")
    source = bucket.folder / "source"
    assert bucket.objects() == {
        "raw/taxi_trips_2023-01.parquet": (source / "yellow_tripdata_2023-01.parquet").read_bytes(),
        "raw/taxi_zones.csv": (source / "taxi_zones.csv").read_bytes(),
    }

    output = bucket.materialize("two", "taxi_trips_file", "--partition", "2023-01-01")
    assert "unchanged at the source" in output
    bucket.materialize("three", "taxi_trips", "--partition", "2023-01-01")
    assert not list((bucket.folder / "three").rglob("*.parquet"))
    bucket.materialize("three", "taxi_zones,manhattan/manhattan_stats")
    bucket.materialize("two", "manhattan_map")
    bucket.materialize("two", "trips_by_week", "--partition", "2023-01-08")
    objects = bucket.objects()
    assert json.loads(objects["staging/manhattan_stats.geojson"])["months"] == ["2023-01"]
    assert objects["outputs/manhattan_map.png"].startswith(b"\x89PNG")
    assert len(objects["outputs/trips_by_week.csv"].splitlines()) == 2


def test_a_month_that_is_not_on_s3_is_not_taken_from_a_disk(bucket: Bucket) -> None:
    bucket.materialize("one", "taxi_trips_file", "--partition", "2023-01-01")
    bucket.files.delete_file(f"{bucket.name}/taxi/raw/taxi_trips_2023-01.parquet")
    assert list((bucket.folder / "one").rglob("taxi_trips_2023-01.parquet"))
    output = bucket.materialize("one", "taxi_trips", "--partition", "2023-01-01", fails=True)
    assert "Materialize taxi_trips_file for this month first" in output


LARGE = bytes(range(256)) * (50 << 12)
"""50 MiB, which are uploaded in several parts."""
INTERRUPTED = """
import os, signal, threading
from urllib.request import urlopen
from dagster_essentials import settings
from dagster_essentials.ingestion.atomic_write import atomic_write

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


def test_requests_are_read_from_s3(bucket: Bucket) -> None:
    request = {"start_date": "2023-01-10", "end_date": "2023-01-20", "borough": "Manhattan"}
    bucket.put("requests/january.json", json.dumps(request).encode())
    code = (
        "import dagster as dg\n"
        "from dagster_essentials import defs\n"
        "from dagster_essentials.sensors import adhoc_request_sensor\n"
        "context = dg.build_sensor_context(repository_def=defs.get_repository_def())\n"
        "print([run.run_config for run in adhoc_request_sensor(context).run_requests])\n"
    )
    assert "january.json" in bucket.run("one", "-c", code)
    bucket.files.delete_file(f"{bucket.name}/taxi/requests/january.json")
    assert "january.json" not in bucket.run("one", "-c", code)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"TAXI_DATA_DIR": "s3://no-such-bucket/taxi"}, "TAXI_DATA_DIR"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:{port}"}, "AWS_ENDPOINT_URL"),
    ],
    ids=["no such bucket", "no server"],
)
def test_a_bucket_that_cannot_be_used_is_reported(bucket: Bucket, changed: dict[str, str], text: str) -> None:
    environ = {name: value.format(port=free_port()) for name, value in changed.items()}
    began = time.monotonic()
    output = bucket.materialize("one", "taxi_trips_file", "--partition", "2023-01-01", fails=True, **environ)
    assert time.monotonic() - began < 60
    assert text in output
    assert "materialize again" in output
