"""Where a scenario plays: a copy of the project with a source, a Dagster instance, and an ear for where its runs are."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import requests

from chaos.oracle import Oracle
from dagster_essentials.sample import months_between, write_month, write_zones
from dagster_essentials_tests.support.dagster_dev import BIN, JOB, Dev, copy_of_project
from dagster_essentials_tests.support.project import ROOT
from dagster_essentials_tests.support.source_server import SourceServer

MONTHS = tuple(months_between("2023-01", "2023-12"))
ROWS = 30_000
"""Half a megabyte a month: a load takes long enough to be hit in the middle, and a round no longer than it must."""
COMMAND_SECONDS = 300

UNFINISHED = set(dg.DagsterRunStatus) - {
    *(dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
}
LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on PythonError { message } }
}
"""
PARTS = ("dagster code-server", "dagster api grpc", "dagster_webserver", "dagster._daemon")
"""By what the command lines of the processes of `dagster dev` are known."""
ASSETS = "taxi_trips_file,taxi_trips"


@dataclass
class Report:
    """What a scenario did and found; the harness adds them up."""

    blows: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    failed: int = 0
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Phases:
    """Hears from every process of a stage which phase of a load it begins, and strikes at the one it waits for."""

    def __init__(self, path: Path):
        self.path = path
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(64)
        self._lock = threading.Lock()
        self._striking = threading.Lock()
        self._phase: str | None = None
        self._left = 0
        self._strike: Callable[[int, Callable[[], None]], None] | None = None
        self.struck = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def wait_for(self, phase: str, nth: int, strike: Callable[[int, Callable[[], None]], None]) -> None:
        """Call `strike` when `phase` begins for the `nth` time from now.

        It gets the process, which waits at the phase's beginning, and what lets it go on.
        """
        with self._lock:
            self._phase, self._left, self._strike = phase, nth, strike
            self.struck.clear()

    def forget(self) -> bool:
        """Wait for no phase any more; whether it had come. A strike that has begun is waited for."""
        with self._lock:
            self._phase = self._strike = None
        with self._striking:
            return self.struck.is_set()

    def _listen(self) -> None:
        while True:
            try:
                process, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=[process], daemon=True).start()

    def _answer(self, process: socket.socket) -> None:
        with process:
            phase, _, pid = process.recv(100).decode().strip().rpartition(" ")

            def go_on() -> None:
                with suppress(OSError):
                    process.sendall(b".")

            strike = None
            with self._lock:
                if phase == self._phase:
                    self._left -= 1
                    if self._left == 0:
                        strike, self._phase = self._strike, None
                        self._striking.acquire()
            if strike is None:
                go_on()
                return
            try:
                strike(int(pid), go_on)
                self.struck.set()
            finally:
                self._striking.release()


class Stage(Dev):
    """A copy of the project in `root`, its source, and the oracle that watches it.

    Attributes:
        source: an HTTP server of this process, which has every month of `MONTHS`.
        phases: hears where the runs are.
        oracle: knows what is true.
        random: decides everything that is left to chance.
    """

    def __init__(self, root: Path, random: Random, source: SourceServer, phases: Phases):
        super().__init__(
            copy_of_project(ROOT, root),
            {
                "TAXI_TRIPS_URL": source.trips_url,
                "TAXI_ZONES_URL": source.zones_url,
                "TAXI_END_DATE": "2024-01-01",
                "TAXI_DATA_DIR": str(root / "data"),
                "DUCKDB_DATABASE": str(root / "data" / "staging" / "data.duckdb"),
                "CHAOS_PHASES": str(phases.path),
                "PYTHONPATH": str(ROOT / "chaos" / "phases"),
            },
        )
        self.source, self.phases, self.random = source, phases, random
        self.oracle = Oracle(root / "data", root / ".dagster")
        self.report = Report()
        self._sizes = random.randrange(1_000)
        for month in MONTHS:
            self.publish(month)
        # Of two first commands on an empty home, at the same moment, each spoils the other's databases: Dagster's own.
        with self.instance():
            pass
        source.files["/taxi_zones.csv"] = self.oracle.zones = write_zones(root / "zones.csv").read_bytes()

    def good(self, month: str) -> bytes:
        """A file of `month` with a number of rows that no other one has."""
        self._sizes += 1
        with TemporaryDirectory() as folder:
            return write_month(Path(folder), month, ROWS + self._sizes).read_bytes()

    def publish(self, month: str) -> bytes:
        """Let the source have a new version of `month`."""
        content = self.good(month)
        self.publish_content(month, content)
        return content

    def publish_content(self, month: str, content: bytes) -> None:
        self.oracle.publish(month, content)
        self.source.put_month(month, content)

    def months(self, most: int = 3) -> list[str]:
        """Some months in a row."""
        count = self.random.randint(1, most)
        first = self.random.randrange(len(MONTHS) - count + 1)
        return list(MONTHS[first : first + count])

    def command(self, months: Sequence[str]) -> list[str]:
        """What a person types, now, to materialize `months`, which follow one another."""
        assert list(months) == list(MONTHS[MONTHS.index(months[0]) :][: len(months)]), "a range has no gaps"
        self.oracle.note_begin(months)
        return [
            *(str(BIN / "dagster"), "asset", "materialize", "-m", "dagster_essentials", "--select", ASSETS),
            *("--partition-range", f"{months[0]}-01...{months[-1]}-01"),
        ]

    def begin(
        self,
        command: Sequence[str],
        preexec: Callable[[], None] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> "subprocess.Popen[bytes]":
        """Start a command, with its output in the stage's log."""

        def prepare() -> None:
            # Whoever starts the harness in the background hands on an ignored SIGINT, on which Dagster relies.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if preexec is not None:
                preexec()

        with open(self.root / "commands.log", "ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.root,
                env={**self.env, **(settings or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=prepare,
            )

    def end(self, process: "subprocess.Popen[bytes]") -> bool:
        """Wait until a command has ended, and count it; whether it succeeded."""
        try:
            code = process.wait(timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            self.report.wrong.append(f"a command had not ended after {COMMAND_SECONDS} s")
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        self.report.runs += 1
        self.report.failed += code != 0
        return code == 0

    def materialize(self, months: Sequence[str], **settings: str) -> bool:
        return self.end(self.begin(self.command(months), settings=settings))

    def note_wrong(self, blow: str, found: Sequence[str]) -> None:
        self.report.wrong += [f"{blow}: {what}" for what in found]

    def look(self, blow: str, tried: Sequence[str], killed: bool = False, succeeded: bool = False) -> None:
        self.note_wrong(blow, self.oracle.look(tried, killed, succeeded))

    def mend(self, blow: str, months: Sequence[str] = MONTHS) -> None:
        """Do what a person does after trouble, the same command once more, and see that everything is right."""
        self.source.answers.clear()
        if not self.materialize(months):
            self.report.wrong.append(f"{blow}: afterwards, the same command again failed")
        self.note_wrong(f"{blow}, afterwards", self.oracle.look_when_right(months))

    def launch(self, months: Sequence[str], job: str | None = None) -> None:
        """Ask for runs in the UI: one over all `months`, or one of `job` for each of them."""
        self.oracle.note_begin(months)
        keys = [f"{month}-01" for month in months]
        if job is not None:
            self.launch_keys(job, keys)
        else:
            self.launch_assets(
                [[asset] for asset in ASSETS.split(",")],
                {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]},
            )

    def launch_keys(self, job: str, keys: Sequence[str]) -> None:
        """Ask in the UI for a run of `job` for each of the partitions `keys`."""
        for key in keys:
            self._launch({"jobName": job}, {"dagster/partition": key})

    def launch_assets(self, assets: Sequence[Sequence[str]], tags: Mapping[str, str] | None = None) -> None:
        """Ask in the UI for one run of `assets`, by the parts of their keys."""
        self._launch({"jobName": "__ASSET_JOB", "assetSelection": [{"path": path} for path in assets]}, tags or {})

    def _launch(self, selector: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        params = {
            "selector": {**JOB, **selector},
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }

        def launched() -> bool:
            try:
                return bool(self.graphql(LAUNCH, params=params)["launchRun"]["__typename"] == "LaunchRunSuccess")
            except requests.ConnectionError:
                # All of it has ended after all, for the part that was killed.
                self.revive()
                return False

        # While the code server comes up again the UI says that it cannot be reached, and a person asks once more.
        self.wait_for(launched, "the UI to take a run")
        self.report.runs += 1

    def note_failed_runs(self, blow: str) -> None:
        """Note the runs of the instance that have failed, where none may."""
        with self.instance() as instance:
            failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        self.report.failed += len(failed)
        self.note_wrong(blow, [f"a run of {run.job_name} failed" for run in failed])

    def settle(self, blow: str, seconds: float = 240) -> None:
        """Wait until no run is waiting or in progress, and note those that still are after `seconds`."""
        deadline = time.monotonic() + seconds
        quiet = 0
        while quiet < 2:
            with self.instance() as instance:
                unfinished = instance.get_runs(dg.RunsFilter(statuses=[*UNFINISHED]))
            quiet = 0 if unfinished else quiet + 1
            if time.monotonic() > deadline:
                self.note_wrong(blow, [f"a run has been {run.status.value} for {seconds:.0f} s" for run in unfinished])
                return
            time.sleep(1)

    def revive(self, at_once: bool = False) -> None:
        """Start `dagster dev` again, as a person does, if it has come to its end or lacks a part, or `at_once`."""
        assert self.process is not None
        # It looks at its parts every five seconds, and ends when one is gone; some of them come back by themselves.
        deadline = time.monotonic() + 7
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        deadline = time.monotonic() + 30
        while not at_once and self.process.poll() is None and time.monotonic() < deadline:
            lines = self.processes().values()
            if all(any(part in line for line in lines) for part in PARTS) and self.is_loaded():
                return
            time.sleep(0.5)
        self.kill()
        self.start()

    def processes(self) -> dict[int, str]:
        """The processes of `dagster dev`, with their command lines."""
        assert self.process is not None
        return processes_of_session(self.process.pid)


def processes_of_session(session: int) -> dict[int, str]:
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] != "Z":
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


@contextmanager
def stage(folder: Path, random: Random) -> Iterator[Stage]:
    """A stage under `folder`. What it started ends with it."""
    with ExitStack() as stack:
        source = stack.enter_context(SourceServer())
        # The address of a socket has room for a hundred characters.
        sockets = Path(stack.enter_context(TemporaryDirectory(prefix="chaos-")))
        phases = Phases(sockets / "phases")
        stack.callback(phases.close)
        it = Stage(folder, random, source, phases)
        try:
            yield it
        finally:
            if it.process is not None:
                it.kill()
