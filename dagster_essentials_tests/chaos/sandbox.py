"""The sandbox of a scenario: a copy of the project with a source, a Dagster instance, and hooks into its runs."""

import os
import signal
import subprocess
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
import psutil
import requests

from dagster_essentials.ingestion.months import months_between
from dagster_essentials.sample import write_month, write_zones
from dagster_essentials_tests.chaos.oracle import Oracle
from dagster_essentials_tests.chaos.phase_hooks import PhaseHooks
from dagster_essentials_tests.support.dagster_dev import BIN, JOB, Dev, copy_of_project
from dagster_essentials_tests.support.project import ROOT
from dagster_essentials_tests.support.source_server import SourceServer

MONTHS = tuple(months_between("2023-01", "2023-12"))
ROWS = 30_000
"""Half a megabyte per month: a load takes long enough for a fault in the middle of it, and a round stays short."""
COMMAND_SECONDS = 300

UNFINISHED = set(dg.DagsterRunStatus) - {
    *(dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
}
LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on PythonError { message } }
}
"""
COMPONENTS = ("dagster code-server", "dagster api grpc", "dagster_webserver", "dagster._daemon")
"""Parts of the command lines of the processes of `dagster dev`."""
ASSETS = "taxi_trips_file,taxi_trips"
FORCE = ("--config-json", '{"ops": {"taxi_trips": {"config": {"force": true}}}}')
"""The options with which a command loads months that are loaded already."""


@dataclass
class Report:
    """The faults that a scenario injected, and its findings.

    Attributes:
        faults: how often each kind of fault was injected.
        runs, failed: commands and runs of Dagster, and how many of them failed.
        violations: what the oracle found wrong; empty if every guarantee held.
        notes: what was left out, and why.
    """

    faults: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    failed: int = 0
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Sandbox(Dev):
    """A copy of the project in `root`, its source, and the oracle that checks it.

    Attributes:
        source: an HTTP server in this process, which has every month of `MONTHS`.
        hooks: pause the runs at the beginning of a phase.
        oracle: knows what may be in the warehouse.
        random: decides everything that is random.
    """

    def __init__(self, root: Path, random: Random, source: SourceServer, hooks: PhaseHooks):
        super().__init__(
            copy_of_project(ROOT, root),
            {
                "TAXI_TRIPS_URL": source.trips_url,
                "TAXI_ZONES_URL": source.zones_url,
                "TAXI_END_DATE": "2024-01-01",
                "TAXI_DATA_DIR": str(root / "data"),
                "DUCKDB_DATABASE": str(root / "data" / "staging" / "data.duckdb"),
                "CHAOS_PHASES": str(hooks.path),
                # Python imports one `sitecustomize` only: here it is that of chaos/phases.
                "PYTHONPATH": str(ROOT / "dagster_essentials_tests" / "chaos" / "phases"),
            },
        )
        self.source, self.hooks, self.random = source, hooks, random
        self.oracle = Oracle(root / "data", root / ".dagster")
        self.report = Report()
        self._extra_rows = random.randrange(1_000)
        for month in MONTHS:
            self.publish(month)
        # Two first commands on an empty DAGSTER_HOME at the same moment damage its databases; that is Dagster's own limit.
        with self.instance():
            pass
        source.files["/taxi_zones.csv"] = self.oracle.zones = write_zones(root / "zones.csv").read_bytes()

    def make_month(self, month: str) -> bytes:
        """A file of `month` with a number of rows that no other one has."""
        self._extra_rows += 1
        with TemporaryDirectory() as folder:
            return write_month(Path(folder), month, ROWS + self._extra_rows).read_bytes()

    def publish(self, *months: str) -> None:
        """Let the source have a new version of each of `months`."""
        for month in months:
            self.publish_content(month, self.make_month(month))

    def publish_content(self, month: str, content: bytes) -> None:
        self.oracle.publish(month, content)
        self.source.put_month(month, content)

    def set_answers(self, month: str, answers: Sequence[Callable[..., None]]) -> None:
        """Let the source answer the next requests for `month` like this."""
        self.source.answers[f"/trip-data/yellow_tripdata_{month}.parquet"] = [*answers]

    def random_months(self, at_most: int = 3) -> list[str]:
        """Some consecutive months."""
        count = self.random.randint(1, at_most)
        first = self.random.randrange(len(MONTHS) - count + 1)
        return list(MONTHS[first : first + count])

    # Commands, as typed in a shell

    def command(self, months: Sequence[str]) -> list[str]:
        """The command that materializes `months`, which are consecutive, now."""
        assert list(months) == list(MONTHS[MONTHS.index(months[0]) :][: len(months)]), "a range has no gaps"
        self.oracle.note_start(months)
        return [
            *(str(BIN / "dagster"), "asset", "materialize", "-m", "dagster_essentials", "--select", ASSETS),
            *("--partition-range", f"{months[0]}-01...{months[-1]}-01"),
        ]

    def start_command(
        self,
        command: Sequence[str],
        preexec: Callable[[], None] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> "subprocess.Popen[bytes]":
        """Start a command; its output is appended to the sandbox's log."""
        with open(self.root / "commands.log", "ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.root,
                env={**self.env, **(settings or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=preexec,
            )

    def wait_for_command(self, process: "subprocess.Popen[bytes]") -> bool:
        """Wait until a command has ended, and count it; returns whether it succeeded."""
        try:
            code = process.wait(timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            self.report.violations.append(f"a command had not ended after {COMMAND_SECONDS} s")
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        self.report.runs += 1
        self.report.failed += code != 0
        return code == 0

    def materialize(self, months: Sequence[str], **settings: str) -> bool:
        return self.wait_for_command(self.start_command(self.command(months), settings=settings))

    # Checks

    def add_violations(self, label: str, found: Sequence[str]) -> None:
        self.report.violations += [f"{label}: {what}" for what in found]

    def check(self, label: str, tried: Sequence[str], killed: bool = False, succeeded: bool = False) -> None:
        self.add_violations(label, self.oracle.check(tried, killed, succeeded))

    def repair_and_check(self, label: str, months: Sequence[str] = MONTHS) -> None:
        """Run the same command once more, undisturbed, after which everything must be correct and up to date.

        It leaves alone the months that are loaded in their newest version. Therefore a forced one follows, which shows that
        every month can still be replaced in what the faults have left.
        """
        self.source.answers.clear()
        for what, options in (("repaired", ()), ("loaded again", FORCE)):
            command = [*self.command(months), *options]
            if not self.wait_for_command(self.start_command(command)):
                self.report.violations.append(f"{label}, {what}: the same command again failed")
            self.add_violations(f"{label}, {what}", self.oracle.check_repaired(months))

    def check_no_failed_runs(self, label: str) -> None:
        with self.instance() as instance:
            failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        self.report.failed += len(failed)
        self.add_violations(label, [f"a run of {run.job_name} failed" for run in failed])

    # The UI

    def launch(self, months: Sequence[str], job: str | None = None) -> None:
        """Launch runs in the UI: one over all `months`, or one of `job` for each of them."""
        self.oracle.note_start(months)
        keys = [f"{month}-01" for month in months]
        if job is not None:
            self.launch_partitions(job, keys)
        else:
            self.launch_assets(
                [[asset] for asset in ASSETS.split(",")],
                {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]},
            )

    def launch_partitions(self, job: str, keys: Sequence[str]) -> None:
        """Launch a run of `job` in the UI for each of the partitions `keys`."""
        for key in keys:
            self._launch({"jobName": job}, {"dagster/partition": key})

    def launch_assets(self, assets: Sequence[Sequence[str]], tags: Mapping[str, str] | None = None) -> None:
        """Launch one run of `assets` in the UI, given by the parts of their keys."""
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
            except requests.RequestException:
                # All of it has ended because of the component that was killed, or is about to (then it answers 500).
                self.restart_if_needed()
                return False

        # While the code server restarts, the UI says that it cannot be reached, and a person tries again.
        try:
            self.wait_for(launched, "the UI to launch a run", seconds=90)
        except AssertionError:
            # `dagster dev` does not notice every end of its code server (docs/design.md): a person restarts it.
            self.report.notes.append("dagster dev was restarted, as it had not noticed the end of its code server")
            self.restart_if_needed(at_once=True)
            self.wait_for(launched, "the UI to launch a run after a restart")
        self.report.runs += 1

    def wait_until_idle(self, label: str, seconds: float = 240) -> None:
        """Wait until no run is queued or in progress; those that still are after `seconds` are violations."""
        deadline = time.monotonic() + seconds
        idle = 0
        # Dagster's daemon launches the retry of a failed run up to five seconds after its end.
        while idle < 8:
            with self.instance() as instance:
                unfinished = instance.get_runs(dg.RunsFilter(statuses=[*UNFINISHED]))
            idle = 0 if unfinished else idle + 1
            if time.monotonic() > deadline:
                self.add_violations(
                    label, [f"a run has been {run.status.value} for {seconds:.0f} s" for run in unfinished]
                )
                return
            time.sleep(1)

    def restart_if_needed(self, at_once: bool = False) -> None:
        """Restart `dagster dev`, as a person does, if it has ended or lacks a component, or `at_once`."""
        assert self.process is not None
        # It checks its components every five seconds, and ends when one is gone; some of them are restarted by themselves.
        deadline = time.monotonic() + 7
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        deadline = time.monotonic() + 30
        while not at_once and self.process.poll() is None and time.monotonic() < deadline:
            lines = self.processes().values()
            if all(any(component in line for line in lines) for component in COMPONENTS) and self.is_loaded():
                return
            time.sleep(0.5)
        self.kill()
        self.start()

    def processes(self) -> dict[int, str]:
        """The processes of `dagster dev`, with their command lines."""
        assert self.process is not None
        return processes_of_session(self.process.pid)


def processes_of_session(session: int) -> dict[int, str]:
    """The living processes of a session (those whose parent was killed are still in it), with their command lines."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = " ".join(process.cmdline())
    return found


@contextmanager
def sandbox(folder: Path, random: Random) -> Iterator[Sandbox]:
    """A sandbox in `folder`. The processes of its `dagster dev` end with it."""
    with ExitStack() as stack:
        source = stack.enter_context(SourceServer())
        # The path of a socket is limited to about a hundred characters.
        sockets = Path(stack.enter_context(TemporaryDirectory(prefix="chaos-")))
        hooks = PhaseHooks(sockets / "phases")
        stack.callback(hooks.close)
        box = Sandbox(folder, random, source, hooks)
        try:
            yield box
        finally:
            if box.process is not None:
                box.kill()
