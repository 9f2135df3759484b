"""A fresh copy of this project with `dagster dev` or `dg dev` running in it; its command line and the API of its UI."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import requests

from dagster_essentials_tests.support.commands import run

BIN = Path(sys.executable).parent
STARTUP = Path(__file__).parent / "startup"
JOB = {"repositoryLocationName": "dagster_essentials", "repositoryName": "__repository__"}


def free_port() -> int:
    """A port on which nothing listens, below the range that the kernel uses for outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def ask_ui(url: str, query: str, **variables: Any) -> Any:
    """Send a query or mutation to the UI at `url`, as its pages do."""
    answer = requests.post(f"{url}/graphql", json={"query": query, "variables": variables}, timeout=60).json()
    assert "errors" not in answer, answer
    return answer["data"]


class Dev:
    """`dagster dev` in `root`, a copy of the project, with `settings` as its environment variables.

    `daemon_interval` is the number of seconds after which the daemon looks for new backfills again; Dagster's own is 30.
    With `program="dg"`, it is `dg dev`. The `database` is a path in `root`.
    """

    def __init__(
        self,
        root: Path,
        settings: dict[str, str],
        daemon_interval: float | None = None,
        program: str = "dagster",
        database: str = "data/staging/data.duckdb",
    ):
        self.root, self.database = root, root / database
        self.env = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("TAXI_", "DUCKDB_", "DAGSTER_"))
            },
            # As a shell sets it on `cd`; the project's .env builds DAGSTER_HOME from it.
            "PWD": str(root),
            **settings,
        }
        if daemon_interval is not None:
            self.env["TEST_DAEMON_INTERVAL_SECONDS"] = str(daemon_interval)
            self.env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(STARTUP), self.env.get("PYTHONPATH")]))
        self.port = free_port()
        self.argv = [str(BIN / program), "dev", "-p", str(self.port)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.root / "dev.log", "ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                cwd=self.root,
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_for(self._is_up, "the webserver and the daemon to be up")

    def stop(self) -> None:
        """Stop it as a service manager does: SIGTERM, and after a timeout SIGKILL to all of its processes."""
        assert self.process is not None
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=30)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to all of its processes at once, like a power failure."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        try:
            health = self.graphql("{ instance { daemonHealth { allDaemonStatuses { daemonType healthy required } } } }")
        except requests.ConnectionError:
            return False
        daemons = health["instance"]["daemonHealth"]["allDaemonStatuses"]
        return all(daemon["healthy"] for daemon in daemons if daemon["required"])

    def is_loaded(self) -> bool:
        """True if the webserver has the code location."""
        try:
            answer = self.graphql(
                "{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError { __typename } } } } }"
            )
        except OSError:
            return False
        entries = answer["workspaceOrError"]["locationEntries"]
        return [(entry["name"], (entry["locationOrLoadError"] or {}).get("__typename")) for entry in entries] == [
            ("dagster_essentials", "RepositoryLocation")
        ]

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float = 300) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"timed out after {seconds} s waiting for {what}:\n{self.log()}"
            time.sleep(0.2)
        return value

    def log(self) -> str:
        return (self.root / "dev.log").read_text(errors="replace")[-6000:]

    def dagster(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run `dagster ...` in the project's root while `dagster dev` runs."""
        return run([BIN / "dagster", *command], cwd=self.root, env=self.env)

    def graphql(self, query: str, **variables: Any) -> Any:
        """Send a query or mutation, as the UI does."""
        return ask_ui(f"http://127.0.0.1:{self.port}", query, **variables)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with dg.DagsterInstance.from_config(str(self.root / ".dagster")) as instance:
            yield instance

    def runs(self, **tags: str) -> list[dg.DagsterRun]:
        with self.instance() as instance:
            return list(instance.get_runs(dg.RunsFilter(tags=tags)))

    def finished_runs(self, count: int, **tags: str) -> list[dg.DagsterRun]:
        """Wait until `count` runs with these tags have finished."""
        # One instance for all queries: to open it takes twenty times as long as to ask it.
        with self.instance() as instance:

            def finished() -> list[dg.DagsterRun]:
                runs = [run for run in instance.get_runs(dg.RunsFilter(tags=tags)) if run.is_finished]
                return runs if len(runs) >= count else []

            return self.wait_for(finished, f"{count} finished runs with {tags}")  # type: ignore[no-any-return]

    def materialized(self, asset: str) -> list[str]:
        """The partition keys of all materializations of `asset`, sorted."""
        with self.instance() as instance:
            records = instance.fetch_materializations(dg.AssetKey(asset), limit=1000).records
        return sorted(str(record.partition_key) for record in records)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The result of `sql` in the database. Waits while a run has it open."""

        def read() -> list[list[tuple[Any, ...]]]:
            with (
                suppress(duckdb.IOException),
                duckdb.connect(str(self.database), read_only=True) as connection,
            ):
                return [connection.execute(sql).fetchall()]
            return []

        (rows,) = self.wait_for(read, "the database to be readable")
        return rows  # type: ignore[no-any-return]

    def rows(self) -> dict[str, int]:
        """The number of rows of each month in `trips`."""
        return dict(self.query("SELECT partition_date, count(*) FROM trips GROUP BY ALL"))


def copy_of_project(root: Path, target: Path) -> Path:
    """Copy the files that a fresh clone would have, as they are in the working tree."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, names.split("\0")):
        if (root / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
    return target


def copy_with_environment(root: Path, target: Path) -> Path:
    """A copy that shares the environment of the project, which `make setup` would create in the same way."""
    ready = root / ".venv/.ready"
    assert ready.exists(), "the tests were started without `make setup`"
    copy_of_project(root, target)
    # With files newer than the environment, `make` would install the copy into it. In nanoseconds, as `find -newer` compares.
    time_ns = ready.stat().st_mtime_ns
    for name in ("pyproject.toml", "setup.py", "deploy/constraints.txt"):
        os.utime(target / name, ns=(time_ns, time_ns))
    (target / ".venv").symlink_to(root / ".venv")
    return target
