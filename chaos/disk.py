"""Blows by the disk: no room left, or none for large files, at any moment."""

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos.stage import Stage

DISK_MB = 64


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Make `folder` a disk of its own, in memory; gives False where this user may not do that."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def full_disk(stage: Stage, blows: int) -> None:
    """Leave little room on the stage's disk, from nothing to a few megabytes, and load."""
    ballast = stage.root / "ballast"
    for _ in range(blows):
        months = stage.months()
        for month in months:
            stage.publish(month)
        # Evenly over the orders of magnitude: an event of the log takes a few kB, a file or a load half a MB.
        left = int(2 ** stage.random.uniform(12, 23))
        _fill(stage.root, ballast, left)
        succeeded = stage.materialize(months)
        ballast.unlink()
        stage.report.blows[f"a disk with {_about(left)} left"] += 1
        # Where the event log had no room for it, a month that stands in the table is not recorded.
        stage.look(f"a disk with {left:,} bytes left", months, killed=True, succeeded=succeeded)
        if stage.random.random() < 0.3:
            stage.mend("after a full disk")
    stage.mend("after full disks")


def _fill(folder: Path, ballast: Path, left: int) -> None:
    found = subprocess.run(
        ["df", "--block-size=1", "--output=avail", str(folder)], capture_output=True, text=True, check=True
    )
    with open(ballast, "wb") as file:
        remaining = int(found.stdout.split()[-1]) - left
        while remaining > 0:
            remaining -= file.write(bytes(min(remaining, 1 << 20)))


def _about(size: int) -> str:
    return "less than 64 kB" if size < 1 << 16 else "less than 512 kB" if size < 1 << 19 else "some MB"


def no_large_files(stage: Stage, blows: int) -> None:
    """Let no file of a run grow beyond a size near that of the month's file, of the database or of the event log."""
    for _ in range(blows):
        months = stage.months()
        for month in months:
            stage.publish(month)
        sizes = {
            "the month's file": 500_000,
            "the database": stage.oracle.database.stat().st_size if stage.oracle.database.exists() else 500_000,
            "the event log": 150_000,
        }
        which = stage.random.choice(list(sizes))
        limit = int(sizes[which] * stage.random.uniform(0.2, 1.3))

        def no_larger(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        succeeded = stage.end(stage.begin(stage.command(months), preexec=no_larger))
        stage.report.blows[f"no file larger than {which}"] += 1
        stage.look(f"no file larger than {limit:,} bytes", months, killed=True, succeeded=succeeded)
    stage.mend("after files that could not grow")
