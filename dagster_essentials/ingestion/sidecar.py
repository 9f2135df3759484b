"""Sidecar files: a JSON file beside each downloaded file, with its URL, ETag, modification time and SHA-256.

They make conditional requests possible. A sidecar is valid only while its file has the size and the modification time that
it was written for, or the SHA-256.
"""

import hashlib
import json
import os
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from dagster_essentials.errors import WriteError
from dagster_essentials.ingestion.atomic_write import atomic_write, remove_stale_temporaries
from dagster_essentials.ingestion.data_folder import DataFolder

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class DownloadedFile:
    """A file that was downloaded.

    Attributes:
        url: the address, without any credentials.
        etag, last_modified: as sent by the source, or None.
        bytes: the size of the file.
        mtime_ns: when the file was written, in nanoseconds since 1970.
        sha256: of the content, in hexadecimal digits.
    """

    url: str
    etag: str | None
    last_modified: str | None
    bytes: int
    mtime_ns: int
    sha256: str


def read_sidecar(path: Path, file: BinaryIO | None = None) -> DownloadedFile | None:
    """The sidecar of the file at `path`, or of `file`, which was opened there; None if it is of another version.

    A copy may have lost the modification time, as one from S3 does: then the content decides.
    """
    try:
        known = DownloadedFile(**json.loads(_sidecar(path).read_text()))
        with open(path, "rb") if file is None else nullcontext(file) as content:
            status = os.fstat(content.fileno())
            if status.st_size == known.bytes and status.st_mtime_ns != known.mtime_ns:
                if _hash(content) != known.sha256:
                    return None
                # So that it is not read again the next time. Only the owner may do that.
                with suppress(OSError):
                    os.utime(content.fileno(), ns=(known.mtime_ns, known.mtime_ns))
            return known if status.st_size == known.bytes else None
    except (OSError, ValueError, TypeError):
        return None


def fetch_file(path: Path, files: DataFolder) -> None:
    """Fetch the file at `path` and its sidecar from `files`. They may be of different versions.

    Raises:
        DownloadError: they cannot be read there.
    """
    files.fetch(path, _sidecar(path))


def write_sidecar(path: Path, downloaded: DownloadedFile, files: DataFolder) -> None:
    """Write the sidecar of the file at `path`. If that fails, or two runs overlap, the next run downloads it again."""
    with suppress(WriteError), atomic_write(_sidecar(path), files) as temporary:
        temporary.write_text(json.dumps(asdict(downloaded), indent=1))


def remove_stale(path: Path) -> None:
    """Remove the temporary files of killed writers of `path` and of its sidecar, if possible."""
    with suppress(OSError):
        remove_stale_temporaries(path)
        remove_stale_temporaries(_sidecar(path))


def identify_content(path: Path, file: BinaryIO) -> DownloadedFile:
    """Identify `file`, which was opened at `path`: by its sidecar or, if that is not valid, by its content alone."""
    known = read_sidecar(path, file)
    if known is not None:
        return known
    status = os.fstat(file.fileno())
    return DownloadedFile("", None, None, status.st_size, status.st_mtime_ns, _hash(file))


def _hash(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _sidecar(path: Path) -> Path:
    return path.with_name(f".{path.name}.source.json")
