"""Commands as people enter them."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def run(command: Sequence[str | Path], timeout: float = 300, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a command, whatever its exit code; what it prints, errors as well, is in `stdout`."""
    return subprocess.run(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        check=False,
        **options,
    )
