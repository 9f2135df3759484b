"""`make setup` on machines with other Pythons and installers. These are scripts that write down how they are called."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dagster_essentials_tests.support.commands import run
from dagster_essentials_tests.support.dagster_dev import copy_of_project
from dagster_essentials_tests.support.project import ROOT

TOOLS = ("cat", "cp", "dirname", "find", "grep", "make", "mkdir", "mv", "rm", "sed", "sh", "touch")
# The environment's `python` is a copy of the one that made it, and has its name.
ENVIRONMENT = (
    "mkdir -p .venv/bin && cp '{python}' .venv/bin/python && echo '    unset VIRTUAL_ENV' > .venv/bin/activate"
)
PYTHON = """#!/bin/sh
case "$*" in
    --version) echo 'Python {version}' ;;
    "-m venv .venv") {venv} ;;
    "-m pip install "*uv) exit 1 ;;
    "-m pip install "*) {has_pip} && echo pip >> installers ;;
    *"import dagster"*) ;;
    *requires*) [ -e .venv/complete ] && exec '{real}' -c "$2" || exec '{real}' -S -c "$2" ;;
    *) exec '{real}' -c 'import sys
sys.version_info, sys.executable = {version_info}, "{path}"
exec(sys.argv[1])' "$2" ;;
esac
"""
UV = """#!/bin/sh
case "$1" in
    venv) {venv} ;;
    pip) {pip} && echo uv >> installers ;;
esac
"""
# All of `make setup`, as a machine that is switched off does.
KILL = "kill -9 0"


class Machine:
    """A clone, on a machine that has nothing but `TOOLS`, `make` and what a test adds."""

    def __init__(self, folder: Path):
        self.clone, self.bin = copy_of_project(ROOT, folder / "clone"), folder / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(str(shutil.which(tool)))

    def _add(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def add_python(self, name: str, version: str, has_venv: bool = True, has_pip: bool = True) -> None:
        path, numbers = self.bin / name, tuple(map(int, version.split(".")))
        venv = ENVIRONMENT.format(python=path) if has_venv else "exit 1"
        text = PYTHON.format(
            path=path,
            version=version,
            version_info=numbers,
            venv=venv,
            has_pip=str(has_pip).lower(),
            real=sys.executable,
        )
        self._add(name, text)

    def add_uv(self, python: str = "python3", pip: str = "true") -> None:
        self._add("uv", UV.format(venv=ENVIRONMENT.format(python=self.bin / python), pip=pip))

    def setup(self, *arguments: str, code: int = 0) -> str:
        """The output of `make setup`."""
        result = run(
            ["make", "setup", *arguments],
            cwd=self.clone,
            env={"PATH": str(self.bin)},
            start_new_session=True,
        )
        assert bool(result.returncode) == bool(code), result.stdout
        assert (self.clone / ".venv/.ready").exists() or code
        return result.stdout

    @property
    def python(self) -> str:
        """The name of the Python in the environment."""
        path = subprocess.run(
            [self.clone / ".venv/bin/python", "-c", "import sys; print(sys.executable)"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        return Path(path.strip()).name

    def installers(self) -> list[str]:
        """The programs that have installed the packages since the last call."""
        path = self.clone / "installers"
        names = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return names


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_environment_is_made_once_and_updated_when_its_versions_change(machine: Machine) -> None:
    machine.add_python("python3", "3.12.4")
    machine.add_uv()
    assert "Python 3.12.4" in machine.setup()
    assert machine.installers() == ["uv"]
    assert machine.setup() == ""
    assert machine.installers() == []
    for name in ("pyproject.toml", "setup.py", "deploy/constraints.txt"):
        ready = (machine.clone / ".venv/.ready").stat().st_mtime
        os.utime(machine.clone / name, (ready + 1, ready + 1))
        os.utime(machine.clone / ".venv/bin/python", (1, 1))
        machine.setup()
        assert machine.installers() == ["uv"], name
        assert (machine.clone / ".venv/bin/python").stat().st_mtime == 1, "the environment itself is kept"
        os.utime(machine.clone / name, (ready, ready))


@pytest.mark.parametrize(
    ("pythons", "chosen"),
    [
        ({"python3": "3.11.2", "python3.14": "3.14.0"}, "python3"),
        ({"python3": "3.9.18", "python3.11": "3.11.2", "python3.13": "3.13.1"}, "python3.13"),
        ({"python3": "3.15.0", "python3.12": "3.12.4"}, "python3.12"),
        ({"python3.14": "3.14.0"}, "python3.14"),
    ],
    ids=["python3", "too old", "too new", "no python3"],
)
def test_a_suitable_python_is_found(machine: Machine, pythons: dict[str, str], chosen: str) -> None:
    for name, version in pythons.items():
        machine.add_python(name, version)
    machine.setup()
    assert machine.python == chosen


@pytest.mark.parametrize(
    ("version", "arguments", "found"),
    [
        ("3.10.13", (), "python3 is Python 3.10.13"),
        ("3.15.0", (), "python3 is Python 3.15.0"),
        (None, (), "python3 is missing"),
        ("3.12.4", ("PYTHON=python3.9",), "python3.9 is missing"),
    ],
)
def test_without_a_suitable_python_the_needed_versions_and_the_found_one_are_named(
    machine: Machine, version: str | None, arguments: tuple[str, ...], found: str
) -> None:
    if version is not None:
        machine.add_python("python3", version)
    output = machine.setup(*arguments, code=2)
    assert "needs Python 3.11, 3.12, 3.13 or 3.14" in output
    assert found in output
    assert "make setup PYTHON=" in output
    assert not (machine.clone / ".venv").exists()


def test_without_uv_and_without_the_venv_module_both_are_named(machine: Machine) -> None:
    machine.add_python("python3", "3.11.2", has_venv=False)
    output = machine.setup(code=2)
    assert "/python3 has no venv module, and there is no uv" in output
    assert "python3-venv" in output
    machine.add_uv()
    machine.setup()
    assert machine.python == "python3"


@pytest.mark.parametrize("uv", [None, "false"], ids=["no uv, and it cannot be fetched", "uv cannot reach the index"])
def test_pip_installs_where_uv_does_not(machine: Machine, uv: str | None) -> None:
    machine.add_python("python3", "3.13.1")
    if uv is not None:
        machine.add_uv(pip=uv)
    machine.setup()
    assert machine.installers() == ["pip"]


def test_an_interrupted_set_up_starts_again(machine: Machine) -> None:
    machine.add_python("python3", "3.12.4")
    machine.add_uv(pip=KILL)
    machine.setup(code=2)
    (machine.clone / ".venv/half-made").touch()
    machine.add_uv()
    machine.setup()
    assert not (machine.clone / ".venv/half-made").exists()
    # So does an interrupted update.
    (machine.clone / "pyproject.toml").touch()
    machine.add_uv(pip=KILL)
    machine.setup(code=2)
    (machine.clone / ".venv/half-made").touch()
    machine.add_uv()
    machine.setup()
    assert not (machine.clone / ".venv/half-made").exists()


@pytest.mark.parametrize("left", ["of a Python that is too old", "of a Python that is gone", "not an environment"])
def test_what_cannot_be_used_is_replaced(machine: Machine, left: str) -> None:
    machine.add_python("python3", "3.12.4")
    machine.add_python("python3.9", "3.9.18")
    folder = machine.clone / ".venv"
    (folder / "bin").mkdir(parents=True)
    (folder / ".ready").touch()
    if left == "of a Python that is too old":
        shutil.copy(machine.bin / "python3.9", folder / "bin/python")
    elif left == "of a Python that is gone":
        (folder / "bin/python").symlink_to(machine.bin / "python3.8")
    machine.setup()
    assert machine.python == "python3"


def test_another_python_makes_a_new_environment_and_the_same_one_does_not(machine: Machine) -> None:
    machine.add_python("python3", "3.12.4")
    machine.add_python("python3.14", "3.14.0")
    machine.setup()
    machine.setup("PYTHON=python3.14")
    assert machine.python == "python3.14"
    machine.installers()
    machine.setup("PYTHON=python3.14")
    machine.setup()
    assert machine.python == "python3.14"
    assert machine.installers() == []


@pytest.mark.parametrize("complete", [True, False])
def test_an_environment_that_was_made_by_hand_is_kept(machine: Machine, complete: bool) -> None:
    machine.add_python("python3", "3.12.4")
    machine.add_python("python3.13", "3.13.1")
    machine.add_uv("python3.13")
    # As the README's lines for uv make it.
    subprocess.run([machine.bin / "uv", "venv"], cwd=machine.clone, env={"PATH": str(machine.bin)}, check=True)
    if complete:
        (machine.clone / ".venv/complete").touch()
    machine.setup()
    assert machine.python == "python3.13"
    assert machine.installers() == ([] if complete else ["uv"])
    # The activated environment has the settings of the project's Dagster, however it was made.
    assert (machine.clone / ".venv/bin/activate").read_text().splitlines() == [
        "    unset VIRTUAL_ENV DAGSTER_HOME",
        'export DAGSTER_HOME="${VIRTUAL_ENV%/.venv}/.dagster"',
    ]


def test_a_failed_installation_leaves_an_environment_that_was_made_by_hand(machine: Machine) -> None:
    machine.add_python("python3", "3.12.4")
    machine.add_python("python3.13", "3.13.1", has_pip=False)
    machine.add_uv("python3.13", pip="false")
    subprocess.run([machine.bin / "uv", "venv"], cwd=machine.clone, env={"PATH": str(machine.bin)}, check=True)
    (machine.clone / ".venv/by hand").touch()
    assert "could not be installed" in machine.setup(code=2)
    machine.add_uv("python3.13")
    machine.setup()
    assert (machine.clone / ".venv/by hand").exists()


def test_the_list_of_versions_is_for_all_platforms_and_names_no_index() -> None:
    """One version of a package, or one for older Pythons and one for newer ones."""
    lines = (ROOT / "deploy/constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert "--universal" in "".join(line for line in lines if line.startswith("#"))
    for line in pins:
        pin, _, marker = line.partition(" ; ")
        name, _, version = pin.partition("==")
        assert name.replace("-", "").replace(".", "").isalnum(), line
        assert version.replace(".", "").isalnum(), line
        assert "http" not in marker
