"""`make lesson`, and the commands of the concept page in another shell beside it."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest
import requests

from dagster_essentials_tests.support.dagster_dev import ask_ui, copy_with_environment, restore_sigint
from dagster_essentials_tests.support.project import ROOT

pytestmark = pytest.mark.slow

MONTHS = ["2023-01-01", "2023-02-01", "2023-03-01"]
# A person's own settings, of which none may reach the lesson.
EXPORTED = {"DAGSTER_HOME": "/nowhere", "TAXI_FLEETS": "green", "TAXI_END_DATE": "2024-01-01", "DUCKDB_THREADS": "many"}


class Lesson:
    """A running `make lesson` in a fresh copy of the project."""

    def __init__(self, clone: Path):
        self.folder, self._log = clone / "data/lesson", clone / "lesson.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["make", "-C", str(clone), "lesson"],
                env={"PATH": os.environ["PATH"], "HOME": str(clone.parent), **EXPORTED},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=restore_sigint,
            )
        self.url = ""

    def __enter__(self) -> "Lesson":
        with ExitStack() as stack:
            stack.callback(self.kill)
            self._wait_until_it_is_up()
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _wait_until_it_is_up(self) -> None:
        self.url = self.wait_for(lambda: re.search(r"Serving dagster-webserver on (http://\S+)", self.log))[1]
        # While the daemons write for the first time, a command that does so as well may find Dagster's database locked.
        self.wait_for(self._has_daemons)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 180
        while not (value := condition()):
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.2)
        return value

    def _has_daemons(self) -> bool:
        query = "{ instance { daemonHealth { allDaemonStatuses { healthy required } } } }"
        # The address is printed a moment before the webserver listens.
        with suppress(requests.ConnectionError):
            daemons = ask_ui(self.url, query)["instance"]["daemonHealth"]["allDaemonStatuses"]
            return all(daemon["healthy"] for daemon in daemons if daemon["required"])
        return False

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.killpg(self._process.pid, signal.SIGINT)
        self._process.wait(timeout=60)

    def kill(self) -> None:
        """End all of its processes that are left."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def assets(self) -> dict[str, tuple[list[str], int]]:
        """The partitions of each asset, and how many of them are materialized."""

        def ask() -> Any:
            return ask_ui(
                self.url,
                "{ assetNodes { assetKey { path } partitionKeys partitionStats { numMaterialized } } }",
            )["assetNodes"]

        return {
            node["assetKey"]["path"][-1]: (
                node["partitionKeys"],
                node["partitionStats"]["numMaterialized"] if node["partitionStats"] else 0,
            )
            for node in self.wait_for(ask)
        }

    def enter(self, command: str) -> str:
        """What a command prints, entered in another shell as `make lesson` says."""
        (start,) = re.findall(r"open another shell: (.*)", self.log)
        result = subprocess.run(
            ["bash", "-c", f"{start} && {command}"],
            cwd=self.folder.parents[1],
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == 0, result.stdout
        return result.stdout

    def rows(self) -> list[tuple[str, int]]:
        """The rows of each month. Waits while a run has the database open."""

        def read() -> list[tuple[str, int]]:
            path = str(self.folder / "staging/data.duckdb")
            with suppress(duckdb.IOException), duckdb.connect(path, read_only=True) as connection:
                return connection.execute(
                    "SELECT partition_date, count(*) FROM trips GROUP BY ALL ORDER BY ALL"
                ).fetchall()
            return []

        return self.wait_for(read)  # type: ignore[no-any-return]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return copy_with_environment(ROOT, tmp_path / "a clone")


@pytest.fixture
def lesson(clone: Path) -> Iterator[Lesson]:
    with Lesson(clone) as lesson:
        yield lesson


def test_make_lesson_has_three_months_of_which_none_is_loaded_and_keeps_what_is_done(
    lesson: Lesson, clone: Path
) -> None:
    assert "fleet_trips" not in lesson.assets()
    assert lesson.assets()["taxi_trips"] == (MONTHS, 0)
    lesson.enter("dagster job backfill -j trip_update_job --from 2023-01-01 --to 2023-02-01 --noprompt")
    lesson.wait_for(lambda: lesson.assets()["taxi_trips"] == (MONTHS, 2))
    output = lesson.enter("dg launch --assets taxi_trips_file,taxi_trips --partition 2023-03-01")
    assert "Telemetry" not in output
    assert lesson.assets()["taxi_trips"] == (MONTHS, 3)
    assert lesson.rows() == [(month[:7], 100_000) for month in MONTHS]
    # The real data and its history are not touched.
    assert sorted(path.name for path in (clone / "data").iterdir()) == [".gitkeep", "lesson", "requests"]
    assert [path.name for path in (clone / ".dagster").iterdir()] == ["dagster.yaml"]
    lesson.interrupt()
    with Lesson(clone) as again:
        assert again.assets()["taxi_trips"] == (MONTHS, 3)
