"""The systemd units and the container in deploy/: their commands, started as systemd and the image start them."""

import json
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest

from dagster_essentials.sample import write_month, write_zones
from dagster_essentials_tests.support.dagster_dev import BIN, JOB, Dev, copy_of_project, free_port
from dagster_essentials_tests.support.deployment import PROJECT, image, unit
from dagster_essentials_tests.support.project import ROOT

pytestmark = pytest.mark.slow

UNITS = ("code", "webserver", "daemon")


class Services(Dev):
    """The parts of Dagster in a copy of the project, with the folder and the ports of the deployment replaced."""

    def __init__(self, root: Path, settings: dict[str, str]):
        super().__init__(root, settings)
        self.code_port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def _substituted(self, text: str) -> str:
        return (
            text.replace(f"{PROJECT}/.venv/bin", str(BIN))
            .replace(str(PROJECT), str(self.root))
            .replace("4266", str(self.code_port))
            .replace("3000", str(self.port))
            # Each look at the code server is a process of a second of CPU time.
            .replace("sleep 1;", "sleep 4;")
        )

    def start_unit(self, name: str) -> None:
        service = unit(name)
        variables = dict(pair.split("=", 1) for pair in shlex.split(self._substituted(service["Environment"])))
        # A service does not inherit the shell's environment, and in particular not its PWD.
        environment = {key: value for key, value in self.env.items() if key != "PWD"} | variables
        with open(self.root / "dev.log", "ab") as log:

            def run(command: str) -> None:
                subprocess.run(
                    shlex.split(self._substituted(command)),
                    cwd=self._substituted(service["WorkingDirectory"]),
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    check=True,
                    timeout=90,
                )

            if before := service.get("ExecStartPre"):
                run(before)
            self._start(name, self._substituted(service["ExecStart"]), environment)
            if after := service.get("ExecStartPost"):
                run(after)

    def start_container(self) -> None:
        (command,) = json.loads(image("CMD"))
        script = self.root / command
        script.write_text(self._substituted(script.read_text()))
        variables = dict(pair.split("=", 1) for pair in shlex.split(self._substituted(image("ENV"))))
        path = f"{BIN}:{os.environ['PATH']}"
        self._start("container", command, {**self.env, **variables, "PATH": path})

    def _start(self, name: str, command: str, environment: dict[str, str]) -> None:
        with open(self.root / "dev.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                shlex.split(command),
                cwd=self.root,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop_unit(self, name: str, seconds: float) -> int:
        """Stop the unit with SIGTERM, as systemd does; it has to exit within `seconds`."""
        process = self.processes.pop(name)
        process.terminate()
        try:
            return process.wait(timeout=seconds)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    def files(self) -> set[Path]:
        """All but the log and the bytecode, which is written where that is possible."""
        found = (path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file())
        return {path for path in found if path.name != "dev.log" and path.suffix != ".pyc"}


def services_in(folder: Path) -> Services:
    source = folder / "source"
    write_month(source, "2023-01", 1_001)
    write_month(source, "2023-02", 1_002)
    write_zones(source / "taxi_zones.csv")
    return Services(
        copy_of_project(ROOT, folder / "clone"),
        {
            "TAXI_TRIPS_URL": str(source),
            "TAXI_ZONES_URL": str(source / "taxi_zones.csv"),
            "TAXI_END_DATE": "2023-03-01",
        },
    )


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    services = services_in(tmp_path_factory.mktemp("services"))
    for name in UNITS:
        services.start_unit(name)
    yield services
    for name in list(services.processes):
        services.stop_unit(name, seconds=30)


LAUNCH = "mutation Launch($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename } }"


def load(services: Services, month: str) -> None:
    tags = [{"key": "dagster/partition", "value": f"{month}-01"}]
    params = {
        "selector": {**JOB, "jobName": "trip_update_job"},
        "executionMetadata": {"tags": tags},
        "runConfigData": {},
    }
    assert services.graphql(LAUNCH, params=params)["launchRun"]["__typename"] == "LaunchRunSuccess"
    (run,) = services.finished_runs(1, **{"dagster/partition": f"{month}-01"})
    assert run.status == dg.DagsterRunStatus.SUCCESS
    # In the unit of the code server, with which it is restarted, and not forked by the daemon.
    assert ".dagster/grpc_info" in run.tags


def test_only_this_machine_can_connect(services: Services) -> None:
    services.wait_for(services.is_loaded, "the code location to be loaded")
    for port in (services.port, services.code_port):
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            pass
        # Another address of this machine: a process that listens on all addresses would answer there.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=10)


def test_the_units_load_a_month_before_and_after_a_restart_of_the_code_server_and_stop_in_time(
    services: Services,
) -> None:
    services.wait_for(services.is_loaded, "the code location to be loaded")
    before = services.files()
    load(services, "2023-01")

    services.stop_unit("code", float(unit("code")["TimeoutStopSec"]))
    services.wait_for(lambda: not services.is_loaded(), "the webserver to see that the code server is gone")
    services.start_unit("code")
    services.wait_for(services.is_loaded, "the code location to be loaded")
    load(services, "2023-02")

    assert services.rows() == {"2023-01": 1_001, "2023-02": 1_002}
    assert (services.root / ".dagster/matplotlib").is_dir()
    writable = [Path(path).relative_to(PROJECT) for path in unit("code")["ReadWritePaths"].split()]
    written = services.files() - before
    assert len(written) > 5
    assert [path for path in written if not any(path.is_relative_to(folder) for folder in writable)] == []


def test_the_container_loads_a_month_and_ends_when_it_is_told_to(tmp_path: Path) -> None:
    services = services_in(tmp_path)
    services.start_container()
    services.wait_for(services.is_loaded, "the code location to be loaded")
    load(services, "2023-01")
    assert services.stop_unit("container", seconds=300) == 128 + signal.SIGTERM
    assert services.rows() == {"2023-01": 1_001}


PART = """#!/bin/bash
case "${0##*/} $*" in
    *"$ENDS"*) until [ "$(wc -l < parts)" -ge 2 ]; do sleep 0.1; done; exit 3 ;;
    *"instance info" | *"grpc-health-check"* | *"liveness-check") exit ;;
esac
echo $$ >> parts
exec sleep 100
"""
"""Instead of any part: it stays, or ends when two others have started."""


@pytest.mark.parametrize("part", ["code-server", "daemon run", "webserver", "liveness-check"])
def test_the_container_ends_all_parts_when_one_ends_or_the_daemon_hangs(part: str, tmp_path: Path) -> None:
    for name in ("dagster", "dagster-daemon", "dagster-webserver"):
        (tmp_path / name).write_text(PART)
        (tmp_path / name).chmod(0o755)
    parts = tmp_path / "parts"
    parts.touch()
    (command,) = json.loads(image("CMD"))
    script = (ROOT / command).read_text().replace("sleep 300", "sleep 0.1")
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ENDS": part}
    result = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environ, timeout=60, check=False)
    # Docker starts it again.
    assert result.returncode == 1
    left = [psutil.pid_exists(int(process)) for process in parts.read_text().split()]
    assert left in ([False] * 2, [False] * 3)
