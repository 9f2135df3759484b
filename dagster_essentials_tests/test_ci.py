"""CI fails for a skipped test, unless it needs the published files and the machine has none of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dagster_essentials_tests.support.dagster_dev import copy_of_project
from dagster_essentials_tests.support.project import NO_REAL_DATA, ROOT


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, in a folder of its own."""
    return copy_of_project(ROOT, tmp_path_factory.mktemp("workspace") / "clone")


@pytest.mark.parametrize("has_files", [False, True], ids=["without the published files", "with them"])
@pytest.mark.parametrize(
    ("reasons", "fails"),
    [
        ([], (False, False)),
        ([NO_REAL_DATA], (False, True)),
        (["needs a browser"], (True, True)),
        ([NO_REAL_DATA, "needs a browser"], (True, True)),
    ],
    ids=["nothing skipped", "a test of the published files", "another test", "both"],
)
def test_a_skipped_test_fails_ci(clone: Path, reasons: list[str], fails: tuple[bool, bool], has_files: bool) -> None:
    test = clone / "dagster_essentials_tests/test_example.py"
    lines = [f"def test_{number}():\n    pytest.skip({reason!r})\n" for number, reason in enumerate(reasons)]
    test.write_text("import pytest\n\ndef test_it(): pass\n" + "".join(lines))
    published = clone.parent / "shared/data"
    if has_files:
        published.mkdir(parents=True, exist_ok=True)
    elif published.exists():
        published.rmdir()

    def run(**environ: str) -> int:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
        kept = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST")}
        return subprocess.run(command, cwd=clone, env={**kept, **environ}, capture_output=True, check=False).returncode

    assert run(CI="true") == fails[has_files]
    assert run() == 0


def test_the_workflow_runs_what_a_change_has_to_pass() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in workflow["jobs"].items()}
    assert commands["ci"] == [".ci/run"]
    assert commands["cluster"][-1] == "make test-cluster"
    assert os.access(ROOT / ".ci/run", os.X_OK)
