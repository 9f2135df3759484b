"""Commands whose runs are not recorded in the project's Dagster instance say so, once."""

import os
from pathlib import Path

import pytest

from dagster_essentials.operations.instance import instance_warning
from dagster_essentials.sample import write_zones
from dagster_essentials_tests.support.commands import run
from dagster_essentials_tests.support.dagster_dev import BIN
from dagster_essentials_tests.support.project import ROOT

pytestmark = pytest.mark.slow


def test_a_run_in_a_temporary_instance_says_how_to_record_it(tmp_path: Path) -> None:
    result = run(
        [BIN / "dg", "launch", "--assets", "taxi_zones_file", "-m", "dagster_essentials.definitions"],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "TAXI_DATA_DIR": str(tmp_path / "data"),
            "TAXI_ZONES_URL": str(write_zones(tmp_path / "zones.csv")),
        },
    )
    assert result.returncode == 0, result.stdout
    assert (tmp_path / "data/raw/taxi_zones.csv").exists()
    (warning,) = [line for line in result.stdout.splitlines() if line.startswith("DAGSTER_HOME is not set")]
    assert "Dagster forgets these runs" in warning
    assert warning.endswith(f"export DAGSTER_HOME={ROOT}/.dagster")


def test_a_run_with_an_instance_of_another_folder_names_it(tmp_path: Path) -> None:
    (tmp_path / ".env").touch()
    other = tmp_path / "other folder"

    def warning(pwd: Path) -> str | None:
        return instance_warning({"DAGSTER_HOME": f"{pwd}/.dagster", "PWD": str(pwd)}, ["dg", "launch"], tmp_path)

    text = warning(other) or ""
    assert f"These runs are recorded in {other}/.dagster, not in {tmp_path}/.dagster" in text
    assert text.endswith(f"with PWD={tmp_path}.")
    assert warning(tmp_path) is None


@pytest.mark.parametrize(
    ("command", "environ", "warns"),
    [
        (["dagster", "job", "execute", "-j", "trip_update_job"], {}, True),
        (["dagster", "asset", "materialize", "--select", "*"], {"DAGSTER_HOME": ""}, True),
        # `dg` and `dagster dev` set it for the code servers that they start.
        (["dagster", "api", "grpc"], {"DAGSTER_IS_DEV_CLI": "1"}, True),
        (["dagster", "api", "grpc"], {}, False),
        (["dagster", "code-server", "start"], {}, False),
        (["dagster", "job", "list"], {}, False),
        (["dg", "launch"], {"DAGSTER_IS_DEV_CLI": "1", "DAGSTER_HOME": "/srv/dagster"}, False),
    ],
)
def test_only_commands_that_execute_runs_in_no_instance_warn(
    command: list[str], environ: dict[str, str], warns: bool, tmp_path: Path
) -> None:
    assert (instance_warning(environ, command, tmp_path) is not None) == warns
