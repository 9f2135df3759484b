"""Files that appear under their name only when they are whole, and leave nothing behind."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_SUFFIX = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give an empty temporary file beside `path`; it takes the place of `path` when the block ends without an error.

    Runs may overlap: each has a temporary file of its own, and the last to finish wins. What a killed process left
    is removed by the next one that writes the same `path`; a lock that dies with its process tells which ones those are.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary, held = _locked_temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        held.close()


@contextmanager
def second_name(path: Path) -> Iterator[Path]:
    """Give another name to the file that `path` is now: whatever takes its place meanwhile, the block has one file.

    A killed process leaves its second name, which the next reader or writer of `path` removes.

    Raises:
        FileNotFoundError: there is no such file.
    """
    try:
        remove_leftovers(path)
        name, held = _locked_link(path)
    except FileNotFoundError:
        raise
    except OSError:
        # A file system without second names: a file that changes while it is read shows only in its number of rows.
        yield path
        return
    try:
        yield name
    finally:
        name.unlink(missing_ok=True)
        held.close()


def _locked_link(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        name = _temporary_name(path)
        try:
            os.link(path, name)
        except FileNotFoundError:
            if path.exists():
                continue  # Another file took its place in that very moment.
            raise
        try:
            held = open(name, "rb")  # noqa: SIM115 - the caller closes it
        except FileNotFoundError:
            continue  # Another run took it for a leftover, as below.
        fcntl.flock(held, fcntl.LOCK_SH)
        if name.exists():
            return name, held
        held.close()


def _locked_temporary(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        temporary = _temporary_name(path)
        held = open(temporary, "xb")  # noqa: SIM115 - the caller closes it
        fcntl.flock(held, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, held
        held.close()  # Between the two lines above, another run took it for a leftover.


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{_SUFFIX}")


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes have left beside `path`.

    Raises:
        OSError: the folder is not there, or cannot be written.
    """
    prefix = f".{path.name}."
    for entry in path.parent.iterdir():
        if not (entry.name.startswith(prefix) and entry.name.endswith(_SUFFIX)):
            continue
        try:
            with open(entry, "rb") as leftover:
                fcntl.flock(leftover, fcntl.LOCK_EX | fcntl.LOCK_NB)
                entry.unlink(missing_ok=True)
        except (BlockingIOError, FileNotFoundError):
            continue  # Another run is writing it, or has just finished.
