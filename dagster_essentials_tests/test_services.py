"""The units of docs/systemd: the commands in them, started as systemd starts them, are the whole of a deployment."""

import configparser
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from dagster_essentials.sample import write_month, write_zones
from dagster_essentials_tests.support.dagster_dev import BIN, JOB, Dev, copy_of_project
from dagster_essentials_tests.support.project import ROOT

UNITS = ("code", "webserver", "daemon")
HOME = "/srv/nyc-taxi"


def unit(name: str) -> configparser.SectionProxy:
    """What the unit says under [Service]; of a key that stands twice, the lines."""
    lines = (ROOT / f"docs/systemd/dagster-{name}.service").read_text().splitlines()
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    environment = " ".join(line.removeprefix("Environment=") for line in lines if line.startswith("Environment="))
    parser.read_string("\n".join(lines))
    parser["Service"]["Environment"] = environment
    return parser["Service"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Services(Dev):
    """The three processes, in a copy of the project, with the folder and the ports of the units replaced."""

    def __init__(self, root: Path, settings: dict[str, str]):
        super().__init__(root, settings)
        self.code_port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        workspace = root / "docs/systemd/workspace.yaml"
        workspace.write_text(self._here(workspace.read_text()))

    def _here(self, text: str) -> str:
        return (
            text.replace(f"{HOME}/.venv/bin", str(BIN))
            .replace(HOME, str(self.root))
            .replace("4266", str(self.code_port))
            .replace("3000", str(self.port))
        )

    def start_unit(self, name: str) -> None:
        service = unit(name)
        variables = dict(pair.split("=", 1) for pair in shlex.split(self._here(service["Environment"])))
        # systemd hands on nothing of the shell's, and the shell's PWD least of all.
        environment = {key: value for key, value in self.env.items() if key != "PWD"} | variables
        with open(self.root / "dev.log", "ab") as log:

            def run(command: str) -> None:
                subprocess.run(
                    shlex.split(self._here(command)),
                    cwd=self._here(service["WorkingDirectory"]),
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    check=True,
                    timeout=90,
                )

            if before := service.get("ExecStartPre"):
                run(before)
            self.processes[name] = subprocess.Popen(
                shlex.split(self._here(service["ExecStart"])),
                cwd=self._here(service["WorkingDirectory"]),
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Whoever starts the tests in the background hands on an ignored SIGINT, which Dagster relies on.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
            if after := service.get("ExecStartPost"):
                run(after)

    def stop_unit(self, name: str, seconds: float) -> None:
        """Ask it to end, as systemd does, and see that it has within `seconds`."""
        process = self.processes.pop(name)
        process.terminate()
        try:
            process.wait(timeout=seconds)
        finally:
            os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    write_month(tmp_path / "source", "2023-01", 1_001)
    write_month(tmp_path / "source", "2023-02", 1_002)
    write_zones(tmp_path / "source" / "taxi_zones.csv")
    services = Services(
        copy_of_project(ROOT, tmp_path / "clone"),
        {
            "TAXI_TRIPS_URL": str(tmp_path / "source"),
            "TAXI_ZONES_URL": str(tmp_path / "source" / "taxi_zones.csv"),
            "TAXI_END_DATE": "2023-03-01",
        },
    )
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
    (run,) = services.ended_runs(1, **{"dagster/partition": f"{month}-01"})
    assert run.status == dg.DagsterRunStatus.SUCCESS


def test_the_units_load_a_month_also_after_the_code_server_was_restarted_and_end_when_asked(services: Services) -> None:
    services.wait_for(services.is_loaded, "the code location to be loaded")
    load(services, "2023-01")

    services.stop_unit("code", float(unit("code")["TimeoutStopSec"]))
    services.wait_for(lambda: not services.is_loaded(), "the webserver to notice")
    services.start_unit("code")
    services.wait_for(services.is_loaded, "the code location to be loaded again")
    load(services, "2023-02")

    assert services.rows() == {"2023-01": 1_001, "2023-02": 1_002}
    assert (services.root / ".dagster/matplotlib").is_dir()


def test_nothing_but_this_machine_can_reach_them(services: Services) -> None:
    services.wait_for(services.is_loaded, "the code location to be loaded")
    for port in (services.port, services.code_port):
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            pass
        # Another address of this same machine, where a process that listens on all of them would answer.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=10)
