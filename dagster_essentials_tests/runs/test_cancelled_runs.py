"""Runs that are cancelled, as by Ctrl-C or when the machine is shut down, and by Terminate in the UI, which sends SIGINT, too.

They end within seconds, wherever they are, leave no partial file, and their months can be launched again at once.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random

import pytest

from dagster_essentials_tests.support.faults.hostile import repeated_rows
from dagster_essentials_tests.support.faults.samples import sample
from dagster_essentials_tests.support.project import Project
from dagster_essentials_tests.support.source_server import SourceServer

pytestmark = pytest.mark.slow

SECONDS = 15.0
"""For a cancelled run to end: Dagster alone needs two, and more on a machine that is busy."""
MONTHS = ("2023-01", "2023-02", "2023-03")
ASSETS = ("asset", "materialize", "-m", "dagster_essentials", "--select", "taxi_trips_file,taxi_trips")
RANGE = ("--partition-range", "2023-01-01...2023-03-01")


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Send four bytes of a large file each second: there is no time-out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while True:
        handler.wfile.write(b"PAR1")
        handler.wfile.flush()
        time.sleep(1)


def cancel(project: Project, sent: signal.Signals, when: Callable[[str], bool]) -> None:
    """Start a run of all months, and send it a signal once `when` is true of what it has printed."""
    project.env()
    output = project.folder / "output.txt"
    with open(output, "w") as file:
        run = subprocess.Popen(
            [str(Path(sys.executable).parent / "dagster"), *ASSETS, *RANGE],
            cwd=project.folder,
            env=project.env(),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while not when(output.read_text()):
            assert run.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.05)
        began = time.monotonic()
        os.killpg(run.pid, sent)
        assert run.wait(60) == 1, output.read_text()
        assert time.monotonic() - began < SECONDS, output.read_text()
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    assert project.temporary_files() == []


def assert_can_be_launched_again(project: Project, source_server: SourceServer, rows: int) -> None:
    """A run right after, from a source that is well, loads all months: `rows` trips in the first, one more in each next."""
    source_server.answers.clear()
    expected = {month: rows + number for number, month in enumerate(MONTHS)}
    for month, trips in expected.items():
        source_server.put_month(month, sample(month, trips))
    done = project.run(*ASSETS, *RANGE)
    assert done.returncode == 0, done.stdout
    assert project.rows() == expected


def test_a_run_ends_wherever_it_is_cancelled_and_can_be_launched_again(
    project: Project, source_server: SourceServer
) -> None:
    """Each run is the one that is launched again after the one before it was cancelled."""
    # While it downloads.
    source_server.put_month("2023-01", sample("2023-01"))
    for month in MONTHS[1:]:
        source_server.answers[source_server.put_month(month, b"")] = [drip]
    for sent in (signal.SIGINT, signal.SIGTERM):
        source_server.requests.clear()
        cancel(project, sent, lambda _: len(source_server.requests) == 3 and project.file("2023-01").exists())
        assert [month for month in MONTHS if project.file(month).exists()] == ["2023-01"]

    # While it waits for the database.
    source_server.answers.clear()
    for month in MONTHS:
        source_server.put_month(month, sample(month))
    with project.connect():
        cancel(project, signal.SIGINT, lambda output: "in use by process" in output)
    assert project.rows() == {}
    assert_can_be_launched_again(project, source_server, 310)

    # While it loads: 29 million rows take several seconds.
    before = project.rows()
    source_server.put_month("2023-01", repeated_rows(29_000_000)(sample("2023-01"), Random(1)))
    lock = project.database.with_name("data.duckdb.lock")
    lock.unlink()
    cancel(project, signal.SIGTERM, lambda _: lock.exists())
    assert project.rows() == before
    assert_can_be_launched_again(project, source_server, 320)
