"""Downloads: whether a file is published, conditional requests, retries with back-off, and the atomic write of the result.

Works for ``http(s)://`` and ``file://`` addresses and local paths alike. The caller decides what makes a file valid
(`validate`).
"""

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests

from dagster_essentials.errors import DownloadError, NotPublishedError
from dagster_essentials.ingestion.atomic_write import atomic_write
from dagster_essentials.ingestion.cancellation import NEVER, Cancellation
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.ingestion.http_answers import is_page, raise_for_page, raise_for_status
from dagster_essentials.ingestion.http_requests import TransientError, redact_url, request
from dagster_essentials.ingestion.sidecar import (
    CHUNK_BYTES,
    DownloadedFile,
    fetch_file,
    read_sidecar,
    remove_stale,
    write_sidecar,
)

ATTEMPTS = 5
"""Requests before a transient error counts as permanent: with the back-off below, over 7.5 seconds."""
BACKOFF_SECONDS = 0.5
"""Before the first retry; doubled for each further one."""
MAX_RETRY_AFTER_SECONDS = 30.0
"""The longest delay of a retry by a Retry-After of the source."""


@dataclass(frozen=True)
class PublishedFile:
    """A file that a source has, by the headers that tell one version of it from another; None for one that it does not send."""

    etag: str | None
    last_modified: str | None

    def differs_from(self, other: "PublishedFile") -> bool:
        """True if this is another version than `other`: by the ETags, or by Last-Modified where one of them has no ETag."""
        if self.etag and other.etag:
            # A proxy that compresses marks an ETag as weak; the file is the same.
            return self.etag.removeprefix("W/") != other.etag.removeprefix("W/")
        return bool(self.last_modified and other.last_modified and self.last_modified != other.last_modified)


def find_published(url: str, attempts: int = 2, sleep: Callable[[float], None] = time.sleep) -> PublishedFile | None:
    """Ask the source about the file at `url`, which it does not send; None if it does not have it.

    Few `attempts`, because it is called by a schedule, which has a minute for all its months.

    Raises:
        DownloadError: the source gave no clear answer.
    """
    local = _local_path(url)
    if local is not None:
        try:
            status = local.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(error) from error
        headers = _local_headers(status)
        return PublishedFile(headers["ETag"], headers["Last-Modified"]) if stat.S_ISREG(status.st_mode) else None

    methods = iter(["HEAD"])

    def ask() -> PublishedFile | None:
        # After an error, or an answer that says too little, by GET, of which no more is read than tells a file from a page:
        # some sources refuse HEAD, and a missing file, a page of a firewall and an expired token may have the same status.
        if next(methods, "GET") == "HEAD":
            with request("HEAD", url, {}) as response:
                if response.status_code == 200 and not is_page(response):
                    return _published(response)
                if response.status_code in (429, 503):
                    raise_for_status(response)
        with request("GET", url, {}) as response:
            try:
                raise_for_status(response)
            except NotPublishedError:
                return None
            if is_page(response):
                raise_for_page(response)
            return _published(response)

    return _with_retries(ask, attempts, sleep, "Check that the address can be reached from this machine.")


def _published(response: requests.Response) -> PublishedFile:
    return PublishedFile(response.headers.get("ETag"), response.headers.get("Last-Modified"))


def download(
    url: str,
    path: Path,
    files: DataFolder,
    validate: Callable[[Path], object],
    if_not_published: str = "Check the address.",
    if_unreachable: str = "",
    sleep: Callable[[float], None] = time.sleep,
    cancellation: Cancellation = NEVER,
) -> tuple[DownloadedFile, bool]:
    """Download the file at `url` to `path` in `files`, unless it exists there and is unchanged at the source.

    `validate` gets the path of the complete temporary file and raises an error if it must not be kept. Only then does
    the file replace an earlier one. `if_not_published` is the advice in the error if the source does not have it, and
    `if_unreachable` the last sentence of the advice if it does not answer.

    Returns:
        What is known of the file, and whether it was transferred.

    Raises:
        NotPublishedError: the source does not have it.
        DownloadError: it could not be transferred, or is not valid. An earlier file is unchanged.
        WriteError: the file could not be written.
        CancelledError: the run was cancelled. An earlier file is unchanged.
    """
    fetch_file(path, files)
    known = read_sidecar(path)
    if known is not None and known.url != redact_url(url):
        known = None

    def transfer() -> tuple[DownloadedFile, bool]:
        cancellation.check()
        with _open_source(url, known, if_not_published, cancellation) as answer:
            if answer is None:
                assert known is not None
                remove_stale(path)
                return known, False
            with atomic_write(path, files, cancellation) as temporary:
                downloaded = _write(temporary, url, *answer, cancellation)
                validate(temporary)
        write_sidecar(path, downloaded, files)
        return downloaded, True

    advice = f"Check that the address can be reached from this machine, and materialize again. {if_unreachable}"
    return _with_retries(transfer, ATTEMPTS, sleep, advice.rstrip())


def _write(
    temporary: Path, url: str, headers: "_Headers", chunks: Iterable[bytes], cancellation: Cancellation
) -> DownloadedFile:
    digest = hashlib.sha256()
    size = 0
    with open(temporary, "wb") as file:
        for chunk in chunks:
            cancellation.check()
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    _check_length(headers, size)
    return DownloadedFile(
        url=redact_url(url),
        etag=headers.get("ETag"),
        last_modified=headers.get("Last-Modified"),
        bytes=size,
        mtime_ns=temporary.stat().st_mtime_ns,
        sha256=digest.hexdigest(),
    )


_T = TypeVar("_T")


def _with_retries(attempt: Callable[[], _T], attempts: int, sleep: Callable[[float], None], advice: str) -> _T:
    last: TransientError | None = None
    for number in range(attempts):
        if last is not None:
            sleep(max(BACKOFF_SECONDS * 2 ** (number - 1), min(last.retry_after_seconds, MAX_RETRY_AFTER_SECONDS)))
        try:
            return attempt()
        except TransientError as error:
            last = error
    assert last is not None
    repeated = f", {attempts} times in a row" if attempts > 1 else ""
    raise DownloadError(f"{last}{repeated}. {last.advice or advice}")


class _Headers(Protocol):
    def get(self, name: str, /) -> str | None: ...


_Answer = tuple[_Headers, Iterator[bytes]]


@contextmanager
def _open_source(
    url: str, known: DownloadedFile | None, if_not_published: str, cancellation: Cancellation
) -> Iterator[_Answer | None]:
    """The file's headers and content, or None if it is unchanged since `known`."""
    local = _local_path(url)
    if local is not None:
        yield from _open_local(local, known, if_not_published)
        return
    conditions = {}
    if known is not None and known.etag:
        conditions["If-None-Match"] = known.etag
    if known is not None and known.last_modified:
        conditions["If-Modified-Since"] = known.last_modified
    with request("GET", url, conditions) as response, cancellation.interrupting(response.raw.shutdown):
        raise_for_status(response, if_not_published)
        if response.status_code == 304:
            if known is None:
                raise DownloadError(
                    "the source answered 304 Not Modified to an unconditional request. Check the address."
                )
            yield None
        else:
            yield response.headers, response.iter_content(CHUNK_BYTES)


def _open_local(path: Path, known: DownloadedFile | None, if_not_published: str) -> Iterator[_Answer | None]:
    try:
        file: BinaryIO = open(path, "rb")  # noqa: SIM115 - closed below, by the with
    except (FileNotFoundError, NotADirectoryError):
        raise NotPublishedError(f"no such file. Put it there, or correct its address. {if_not_published}") from None
    except OSError as error:
        raise _unreadable(error) from error
    with file:
        headers = _local_headers(os.fstat(file.fileno()))
        if known is not None and known.etag == headers["ETag"]:
            yield None
        else:
            yield headers, _chunks(file)


def _local_headers(status: os.stat_result) -> dict[str, str]:
    # A local file has no ETag; its size and modification time serve as one.
    return {
        "ETag": f"{status.st_size:x}-{status.st_mtime_ns:x}",
        "Last-Modified": formatdate(status.st_mtime, usegmt=True),
        "Content-Length": str(status.st_size),
    }


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    try:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
    except OSError as error:
        raise _unreadable(error) from error


def _check_length(headers: _Headers, size: int) -> None:
    expected = headers.get("Content-Length") or ""
    if expected.isdecimal() and int(expected) != size:
        raise TransientError(f"the transfer broke off after {size:,} of {int(expected):,} bytes")


def _unreadable(error: OSError) -> DownloadError:
    return DownloadError(f"cannot be read ({error.strerror}). Let this user read it, and materialize again.")


def _local_path(url: str) -> Path | None:
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return None
    return Path(url2pathname(parts.path) if parts.scheme == "file" else url)
