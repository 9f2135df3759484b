"""A cluster on this machine: the servers, and the parts of Dagster as `deploy/` describes them, each worker in a folder."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dagster_essentials.settings import read_settings
from dagster_essentials.warehouse.lake import Lake
from dagster_essentials_tests.cluster.servers import ServerError, accepts, free_port, postgres, redis, running, s3
from dagster_essentials_tests.support.commands import run

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 3
BUCKET = "taxi"
JOB_SECONDS = 600
"""For a command to end: a time-out. To queue 24 runs took more than two minutes on a busy machine."""


@dataclass
class LocalCluster:
    """The running parts, and the environment variables with which a command uses them."""

    folder: Path
    environ: dict[str, str] = field(repr=False)
    parts: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)
    ui_url: str | None = None

    def dagster(self, *arguments: str) -> str:
        """Execute a `dagster` command in the cluster, and return what it prints.

        Raises:
            ServerError: it failed.
        """
        done = run(
            [sys.executable, "-m", "dagster", *arguments],
            env=self.environ,
            cwd=self.folder,
            timeout=JOB_SECONDS,
        )
        if done.returncode:
            raise ServerError(f"dagster {' '.join(arguments)} failed:\n{done.stdout[-3000:]}")
        return done.stdout

    @property
    def history(self) -> str:
        """The address of the database with Dagster's history."""
        return self.environ["DAGSTER_POSTGRES_URL"]

    @property
    def lake(self) -> Lake:
        """The database of the cluster."""
        settings = read_settings(self.environ)
        assert settings.lake is not None
        return settings.lake

    def run_states(self) -> dict[str, int]:
        """The number of runs in each state, such as ``SUCCESS``."""
        import psycopg2

        with closing(psycopg2.connect(self.history)) as session, session.cursor() as cursor:
            cursor.execute("SELECT status, count(*) FROM runs GROUP BY status")
            return dict(cursor.fetchall())

    def is_idle(self, runs: int) -> bool:
        """True if at least so many `runs` have been queued, and none is waiting or executed."""
        states = self.run_states()
        return sum(states.values()) >= runs and set(states) <= {"SUCCESS", "FAILURE", "CANCELED"}

    def backfill(self, job: str, partitions: str) -> str:
        """Queue a run for each of the `partitions`, which are keys separated by commas."""
        workspace = ("--workspace", str(ROOT / "deploy" / "workspace.yaml"), "--location", "dagster_essentials")
        return self.dagster("job", "backfill", *workspace, "--noprompt", "-j", job, "--partitions", partitions)


@contextmanager
def local_cluster(
    folder: Path, trips_url: str, zones_url: str, has_ui: bool = True, workers: int = WORKERS
) -> Iterator[LocalCluster]:
    """Start all of it in the empty `folder`, with so many `workers`, and end all of it after the block.

    Raises:
        ServerError: something is not installed, or does not start.
    """
    folder.chmod(0o755)
    home = folder / "home"
    home.mkdir()
    shutil.copy(ROOT / "deploy" / "dagster.yaml", home)
    with ExitStack() as stack:
        database = stack.enter_context(postgres(folder / "postgres", ("lake", "dagster")))
        broker = stack.enter_context(redis(folder / "redis"))
        code_port = free_port()
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TAXI_", "DUCK", "AWS_"))},
            **stack.enter_context(s3(folder / "s3", BUCKET)),
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(ROOT), str(ROOT / "deploy"), os.environ.get("PYTHONPATH")])
            ),
            "DAGSTER_HOME": str(home),
            "DAGSTER_POSTGRES_URL": database.url("dagster"),
            "TAXI_CELERY_BROKER": broker,
            "TAXI_CELERY_BACKEND": broker,
            "TAXI_CODE_HOST": "127.0.0.1",
            "TAXI_CODE_PORT": str(code_port),
            "DUCKDB_DATABASE": f"ducklake:postgres:{database.url('lake')}",
            "DUCKLAKE_DATA_PATH": f"s3://{BUCKET}/lake",
            "TAXI_DATA_DIR": f"s3://{BUCKET}/files",
            "TAXI_TRIPS_URL": trips_url,
            "TAXI_ZONES_URL": zones_url,
            "TAXI_FLEETS": "green,fhv,fhvhv",
            "MPLCONFIGDIR": str(folder / "matplotlib"),
        }
        cluster = LocalCluster(folder, environ)
        # Creates the tables: the parts, started together, would all do so.
        cluster.dagster("instance", "info")
        _start_parts(stack, cluster, code_port, has_ui, workers)
        try:
            yield cluster
        finally:
            # All at once: a part takes up to ten seconds to end.
            for process in cluster.parts.values():
                process.terminate()


def _start_parts(stack: ExitStack, cluster: LocalCluster, code_port: int, has_ui: bool, workers: int) -> None:
    module = ("--module-name", "dagster_essentials.definitions", "--location-name", "dagster_essentials")
    address = ("--host", "127.0.0.1", "--port")
    for number in range(1, workers + 1):
        name = f"worker-{number}"
        # A process for each run would import everything again; a run of a month takes a second.
        options = f"--concurrency 1 --prefetch-multiplier 1 --queues dagster --hostname {name}@%h".split()
        _start(stack, cluster, name, "celery", "-A", "dagster_celery.app", "worker", *options)
    _start(stack, cluster, "code", "dagster", "code-server", "start", *address, str(code_port), *module, port=code_port)
    workspace = str(ROOT / "deploy" / "workspace.yaml")
    _start(stack, cluster, "daemon", "dagster._daemon", "run", "--workspace", workspace)
    if has_ui:
        port = free_port()
        _start(
            stack, cluster, "webserver", "dagster_webserver", "--workspace", workspace, *address, str(port), port=port
        )
        cluster.ui_url = f"http://127.0.0.1:{port}"


def _start(
    stack: ExitStack, cluster: LocalCluster, name: str, module: str, *arguments: str, port: int | None = None
) -> None:
    """Start a part in a folder of its own, also for temporary files, and wait until it answers at `port`."""
    folder = cluster.folder / name
    (folder / "tmp").mkdir(parents=True)
    cluster.parts[name] = stack.enter_context(
        running(
            [sys.executable, "-m", module, *arguments],
            folder / "log",
            lambda: port is None or accepts(port),
            cwd=folder,
            env={**cluster.environ, "TMPDIR": str(folder / "tmp")},
        )
    )
