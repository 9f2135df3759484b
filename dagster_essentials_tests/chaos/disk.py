"""Faults of the disk: no space left, or a limit on the size of files, at any moment of a load."""

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster_essentials_tests.chaos.sandbox import Sandbox

DISK_MB = 64


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small disk, in memory, at `folder`; gives False if this user may not do that."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def full_disk(sandbox: Sandbox, faults: int) -> None:
    """Leave little space on the sandbox's disk, from nothing to a few megabytes, and load."""
    ballast = sandbox.root / "ballast"
    for _ in range(faults):
        months = sandbox.random_months()
        sandbox.publish(*months)
        # Evenly over the orders of magnitude: an event of the log takes a few kB, a file or a load half a MB.
        left = int(2 ** sandbox.random.uniform(12, 23))
        _fill(sandbox.root, ballast, left)
        succeeded = sandbox.materialize(months)
        ballast.unlink()
        sandbox.report.faults[f"a disk with {_magnitude(left)} left"] += 1
        # If the event log has no space for it, a month that was loaded is not recorded.
        sandbox.check(f"a disk with {left:,} bytes left", months, killed=True, succeeded=succeeded)
        if sandbox.random.random() < 0.3:
            sandbox.repair_and_check("after a full disk")
    sandbox.repair_and_check("after full disks")


def _fill(folder: Path, ballast: Path, left: int) -> None:
    found = subprocess.run(
        ["df", "--block-size=1", "--output=avail", str(folder)], capture_output=True, text=True, check=True
    )
    with open(ballast, "wb") as file:
        remaining = int(found.stdout.split()[-1]) - left
        while remaining > 0:
            remaining -= file.write(bytes(min(remaining, 1 << 20)))


def _magnitude(size: int) -> str:
    return "less than 64 kB" if size < 1 << 16 else "less than 512 kB" if size < 1 << 19 else "some MB"


def file_size_limit(sandbox: Sandbox, faults: int) -> None:
    """Limit the size of a run's files to about that of the month's file, of the database or of the event log."""
    for _ in range(faults):
        months = sandbox.random_months()
        sandbox.publish(*months)
        sizes = {
            "the month's file": 500_000,
            "the database": sandbox.oracle.database.stat().st_size if sandbox.oracle.database.exists() else 500_000,
            "the event log": 150_000,
        }
        which = sandbox.random.choice(list(sizes))
        limit = int(sizes[which] * sandbox.random.uniform(0.2, 1.3))

        def set_limit(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        succeeded = sandbox.wait_for_command(sandbox.start_command(sandbox.command(months), preexec=set_limit))
        sandbox.report.faults[f"file size limited to that of {which}"] += 1
        sandbox.check(f"file size limited to {limit:,} bytes", months, killed=True, succeeded=succeeded)
    sandbox.repair_and_check("after file size limits")
