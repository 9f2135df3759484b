"""What deploy/ says beside the commands that test_services.py executes: sandbox, users, containers."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dagster_essentials_tests.support.deployment import PROJECT, SYSTEMD, image, unit
from dagster_essentials_tests.support.project import ROOT

UNITS = [path.name for path in sorted(SYSTEMD.glob("*.service"))]


def services(name: str) -> dict[str, dict[str, Any]]:
    """Those of a compose file that run this project."""
    compose = yaml.safe_load((ROOT / f"deploy/compose-{name}.yaml").read_text())
    return {part: service for part, service in compose["services"].items() if service["image"] == "nyc-taxi"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_valid_and_its_exposure_is_under_4_of_10(name: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=39", "--no-pager", str(SYSTEMD / name)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-500:] + result.stderr
    # Such as an unknown setting.
    assert f"{SYSTEMD}" not in result.stderr


def test_a_service_can_write_the_data_and_the_instance_only() -> None:
    writable = {Path(path) for path in unit("code")["ReadWritePaths"].split()}
    assert writable == {PROJECT / "data", PROJECT / ".dagster"}
    assert image("USER") == "taxi"
    (container,) = services("one-machine").values()
    assert container["read_only"] is True
    volumes = [volume.split(":") for volume in container["volumes"]]
    assert {Path(volume[1]) for volume in volumes if "ro" not in volume[2:]} == writable


def test_the_containers_of_a_cluster_execute_the_commands_of_the_units() -> None:
    parts = services("cluster")
    assert parts.keys() == {"code", "daemon", "webserver", "worker"}
    for name, part in parts.items():
        expected = unit(name)["ExecStart"].replace(f"{PROJECT}/.venv/bin/", "")
        # Containers have addresses of their own, and their host names are different.
        expected = expected.replace("127.0.0.1", "0.0.0.0").removesuffix(" --hostname worker@%%h")
        assert expected in part["command"]
        assert "healthcheck" in part


def test_the_container_of_one_machine_is_the_image_as_it_is() -> None:
    (container,) = services("one-machine").values()
    assert {"command", "entrypoint", "environment", "user"} & container.keys() == set()
    assert "liveness-check" in image("HEALTHCHECK")


def test_a_cluster_has_as_many_workers_as_runs() -> None:
    limits = yaml.safe_load((ROOT / "deploy/dagster.yaml").read_text())["concurrency"]["runs"]
    assert services("cluster")["worker"]["deploy"]["replicas"] == limits["max_concurrent_runs"]
