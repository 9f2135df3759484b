"""Atomic writes: a file appears under its name only when it is complete, and leaves no temporary file behind."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dagster_essentials.errors import WriteError
from dagster_essentials.ingestion.cancellation import NEVER, Cancellation
from dagster_essentials.ingestion.data_folder import DataFolder

_SUFFIX = ".partial"


@contextmanager
def atomic_write(path: Path, files: DataFolder, cancellation: Cancellation = NEVER) -> Iterator[Path]:
    """Yield an empty temporary file beside `path` in `files`, and rename it to `path` if the block ends without an error.

    Concurrent writers each have a temporary file of their own; the last to finish wins. The temporary files of killed
    processes are removed by the next writer of the same `path`: a lock that ends with its process shows which they are.

    Raises:
        WriteError: the folder or the file cannot be written. An earlier file is unchanged.
    """
    try:
        files.prepare()
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_temporaries(path)
        temporary, lock_holder = _locked_temporary(path)
        try:
            yield temporary
            files.upload(temporary, path, cancellation)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
            lock_holder.close()
    except OSError as error:
        if error.errno is None:  # Not from the file system: the errors of requests are OSErrors as well.
            raise
        raise write_error(error, path) from None


def remove_stale_temporaries(path: Path) -> None:
    """Remove the temporary files of killed writers of `path`.

    Raises:
        OSError: the folder does not exist, or cannot be written.
    """
    prefix = f".{path.name}."
    # A run lists the folder twice for each of its months, so no path is made of a name before that is the right one.
    with os.scandir(path.parent) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(prefix) and entry.name.endswith(_SUFFIX)]
    for name in names:
        entry = path.with_name(name)
        try:
            with open(entry, "rb") as stale:
                fcntl.flock(stale, fcntl.LOCK_EX | fcntl.LOCK_NB)
                entry.unlink(missing_ok=True)
        except (BlockingIOError, FileNotFoundError):
            continue  # Its writer is alive, or has just finished.


def _locked_temporary(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_SUFFIX}")
        lock_holder = open(temporary, "xb")  # noqa: SIM115 - the caller closes it
        fcntl.flock(lock_holder, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, lock_holder
        lock_holder.close()  # Between the two lines above, another writer removed it as stale.


def write_error(error: OSError, path: Path) -> WriteError:
    """The error to raise when `error` prevented writing `path` or a file beside it."""
    advice = "Free some disk space, or give this user the right to write there"
    if isinstance(error, (FileExistsError, NotADirectoryError, IsADirectoryError)):
        advice = "Something else has this name: move it away"
    return WriteError(
        # The second name of an error is the target of a rename; the first is then the temporary file.
        f"{error.filename2 or error.filename or path} could not be written ({error.strerror}). What was there before is "
        f"unchanged. {advice}, and materialize again."
    )
