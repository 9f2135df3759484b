"""A fresh copy of this project with `dagster dev` running in it, driven as people drive it: commands and the UI's API."""

import os
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

BIN = Path(sys.executable).parent
JOB = {"repositoryLocationName": "dagster_essentials", "repositoryName": "__repository__"}


class Dev:
    """`dagster dev` in `root`, a copy of the project, with `settings` set in the shell that started it."""

    def __init__(self, root: Path, settings: dict[str, str]):
        self.root = root
        self.env = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("TAXI_", "DUCKDB_", "DAGSTER_"))
            },
            # What a shell does on `cd`; the project's .env builds DAGSTER_HOME from it.
            "PWD": str(root),
            **settings,
        }
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.root / "dev.log", "ab") as log:
            self.process = subprocess.Popen(
                [str(BIN / "dagster"), "dev", "-p", str(self.port)],
                cwd=self.root,
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_for(self._is_up, "the webserver and the daemon to be up")

    def stop(self) -> None:
        """Stop it as a service manager does: asked first, and ended with all its processes when it takes too long."""
        assert self.process is not None
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=30)
        self.kill()

    def kill(self) -> None:
        """End all of its processes at once, as a power cut does."""
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
        """Whether the webserver has the code location."""
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

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float = 180) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}:\n{self.log()}"
            time.sleep(0.2)
        return value

    def log(self) -> str:
        return (self.root / "dev.log").read_text(errors="replace")[-6000:]

    def dagster(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run `dagster ...` in the project's root, beside `dagster dev`."""
        return subprocess.run(
            [str(BIN / "dagster"), *command],
            cwd=self.root,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
            check=False,
        )

    def graphql(self, query: str, **variables: Any) -> Any:
        """What the UI asks and does."""
        response = requests.post(
            f"http://127.0.0.1:{self.port}/graphql", json={"query": query, "variables": variables}, timeout=60
        )
        answer = response.json()
        assert "errors" not in answer, answer
        return answer["data"]

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with dg.DagsterInstance.from_config(str(self.root / ".dagster")) as instance:
            yield instance

    def runs(self, **tags: str) -> list[dg.DagsterRun]:
        with self.instance() as instance:
            return list(instance.get_runs(dg.RunsFilter(tags=tags)))

    def ended_runs(self, count: int, **tags: str) -> list[dg.DagsterRun]:
        """Wait until `count` runs with these tags have ended."""

        def ended() -> list[dg.DagsterRun]:
            runs = [run for run in self.runs(**tags) if run.is_finished]
            return runs if len(runs) >= count else []

        return self.wait_for(ended, f"{count} ended runs with {tags}")  # type: ignore[no-any-return]

    def materialized(self, asset: str) -> list[str]:
        """The months recorded for `asset`, once for each materialization, sorted."""
        with self.instance() as instance:
            records = instance.fetch_materializations(dg.AssetKey(asset), limit=1000).records
        return sorted(str(record.partition_key) for record in records)

    def rows(self) -> dict[str, int]:
        with duckdb.connect(str(self.root / "data/staging/data.duckdb"), read_only=True) as connection:
            return dict(connection.execute("SELECT partition_date, count(*) FROM trips GROUP BY ALL").fetchall())


def copy_of_project(root: Path, target: Path) -> Path:
    """What a fresh clone has: the files that git knows, as they are now."""
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
