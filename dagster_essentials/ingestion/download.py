"""Downloads: whether a file is published, conditional requests, retries with back-off, and the atomic write of the result.

Works for ``http(s)://`` and ``file://`` addresses and local paths alike. The caller decides what makes a file valid
(`validate`).
"""

import hashlib
import os
import re
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar
from urllib.parse import urljoin, urlsplit, urlunsplit
from urllib.request import url2pathname

import requests

from dagster_essentials.errors import DownloadError, NotPublishedError
from dagster_essentials.ingestion.atomic_write import atomic_write
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
"""How long a Retry-After of the source can delay a retry."""
TIMEOUT_SECONDS = (10.0, 20.0)
"""To connect, and between two chunks of an answer: the TLC's CDN sends a month of 50 MB in a few seconds."""


class _TransientError(Exception):
    """The next attempt may succeed."""

    def __init__(self, message: str, retry_after_seconds: float = 0.0):
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


def redact_url(url: str) -> str:
    """`url` without user name, password and query, for logs and metadata."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return url
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@dataclass(frozen=True)
class PublishedFile:
    """A file that a source has, by the headers that tell one version of it from another; None for one that it does not send."""

    etag: str | None
    last_modified: str | None

    def differs_from(self, other: "PublishedFile") -> bool:
        """Whether this is another version than `other`: by the ETags, or by Last-Modified where one of them has no ETag."""
        if self.etag and other.etag:
            # A proxy that compresses marks an ETag as weak; the file is the same.
            return self.etag.removeprefix("W/") != other.etag.removeprefix("W/")
        return bool(self.last_modified and other.last_modified and self.last_modified != other.last_modified)


def find_published(url: str, attempts: int = 2, sleep: Callable[[float], None] = time.sleep) -> PublishedFile | None:
    """What the source says of the file at `url` without sending it, or None if it does not have it.

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

    def head() -> PublishedFile | None:
        with _request("HEAD", url, {}) as response:
            if response.status_code in (403, 404):
                return None
            _raise_for_status(response)
            return PublishedFile(response.headers.get("ETag"), response.headers.get("Last-Modified"))

    return _with_retries(head, attempts, sleep, "Check that the address can be reached from this machine.")


def download(
    url: str,
    path: Path,
    validate: Callable[[Path], object],
    if_not_published: str = "Check the address.",
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[DownloadedFile, bool]:
    """Download the file at `url` to `path`, unless it exists there and is unchanged at the source.

    `validate` gets the path of the complete temporary file and raises an error if it must not be kept. Only then does
    the file replace an earlier one. `if_not_published` is the advice in the error if the source does not have it.

    Returns:
        What is known of the file, and whether it was transferred.

    Raises:
        NotPublishedError: the source does not have it.
        DownloadError: it could not be transferred, or is not valid. An earlier file is unchanged.
        WriteError: the file could not be written.
    """
    fetch_file(path)
    known = read_sidecar(path)
    if known is not None and known.url != redact_url(url):
        known = None

    def transfer() -> tuple[DownloadedFile, bool]:
        with _open_source(url, known, if_not_published) as answer:
            if answer is None:
                assert known is not None
                remove_stale(path)
                return known, False
            headers, chunks = answer
            with atomic_write(path) as temporary:
                digest = hashlib.sha256()
                size = 0
                with open(temporary, "wb") as file:
                    for chunk in chunks:
                        file.write(chunk)
                        digest.update(chunk)
                        size += len(chunk)
                _check_length(headers, size)
                validate(temporary)
                downloaded = DownloadedFile(
                    url=redact_url(url),
                    etag=headers.get("ETag"),
                    last_modified=headers.get("Last-Modified"),
                    bytes=size,
                    mtime_ns=temporary.stat().st_mtime_ns,
                    sha256=digest.hexdigest(),
                )
        write_sidecar(path, downloaded)
        return downloaded, True

    advice = "Check that the address can be reached from this machine, and materialize again."
    return _with_retries(transfer, ATTEMPTS, sleep, advice)


_T = TypeVar("_T")


def _with_retries(attempt: Callable[[], _T], attempts: int, sleep: Callable[[float], None], advice: str) -> _T:
    last: _TransientError | None = None
    for number in range(attempts):
        if last is not None:
            sleep(max(BACKOFF_SECONDS * 2 ** (number - 1), min(last.retry_after_seconds, MAX_RETRY_AFTER_SECONDS)))
        try:
            return attempt()
        except _TransientError as error:
            last = error
    raise DownloadError(f"{last}, {attempts} times in a row. {advice}")


class _Headers(Protocol):
    def get(self, name: str, /) -> str | None: ...


_Answer = tuple[_Headers, Iterator[bytes]]


@contextmanager
def _open_source(url: str, known: DownloadedFile | None, if_not_published: str) -> Iterator[_Answer | None]:
    """The file's headers and content, or None if it is unchanged since `known`."""
    local = _local_path(url)
    if local is not None:
        yield from _open_local(local, known)
        return
    conditions = {}
    if known is not None and known.etag:
        conditions["If-None-Match"] = known.etag
    if known is not None and known.last_modified:
        conditions["If-Modified-Since"] = known.last_modified
    with _request("GET", url, conditions) as response:
        if response.status_code in (403, 404):
            raise NotPublishedError(f"not published (the source answered {response.status_code}). {if_not_published}")
        _raise_for_status(response)
        if response.status_code == 304:
            if known is None:
                raise DownloadError(
                    "the source answered 304 Not Modified to an unconditional request. Check the address."
                )
            yield None
        else:
            yield response.headers, response.iter_content(CHUNK_BYTES)


def _open_local(path: Path, known: DownloadedFile | None) -> Iterator[_Answer | None]:
    try:
        file: BinaryIO = open(path, "rb")  # noqa: SIM115 - closed below, by the with
    except (FileNotFoundError, NotADirectoryError):
        raise NotPublishedError(
            "no such file. Put it into that folder, or point the setting to the folder that has it."
        ) from None
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
        raise _TransientError(f"the transfer broke off after {size:,} of {int(expected):,} bytes")


def _unreadable(error: OSError) -> DownloadError:
    return DownloadError(f"cannot be read ({error.strerror}). Let this user read it, and materialize again.")


def _local_path(url: str) -> Path | None:
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return None
    return Path(url2pathname(parts.path) if parts.scheme == "file" else url)


class _Session(requests.Session):
    """Follows redirects, but not from https to http, where others could read and change the answer."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None and urlsplit(resp.url).scheme == "https":
            address = urljoin(resp.url, target)
            if urlsplit(address).scheme == "http":
                raise DownloadError(
                    f"the source redirects from https to {redact_url(address)}, which is not encrypted. Check whether the "
                    "address has moved, or set that one if it can be trusted."
                )
        return target


@contextmanager
def _request(method: str, url: str, headers: dict[str, str]) -> Iterator[requests.Response]:
    # No compression: the length can be compared, and an answer cannot expand to gigabytes.
    headers = {"Accept-Encoding": "identity", **headers}
    try:
        try:
            with _Session() as session:
                response = session.request(method, url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS)
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, ValueError) as error:
            # Their messages, and those of their causes, contain the address with user name and password.
            raise DownloadError(f"cannot be requested ({_redact(_text(error), url)}). Check the address.") from None
        except OSError as error:
            if isinstance(error, requests.exceptions.RequestException):
                raise
            raise DownloadError(f"cannot be requested ({error}). Check REQUESTS_CA_BUNDLE.") from None
        with response:
            yield response
    except requests.exceptions.Timeout as error:
        raise _TransientError(f"no answer for {TIMEOUT_SECONDS[1]:.0f} seconds") from error
    except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        text = _redact(_text(error), url)
        if isinstance(root_cause(error), ssl.SSLCertVerificationError):
            raise DownloadError(
                f"the certificate of the source could not be verified ({text}). Check the address, and the clock of this "
                "machine. If the certificate is issued by an authority of your own, set REQUESTS_CA_BUNDLE to the file with "
                "that authority's certificate, and materialize again."
            ) from None
        raise _TransientError(f"the connection failed ({text})") from None
    except requests.exceptions.RequestException as error:
        raise DownloadError(f"cannot be read ({_redact(_text(error), url)}). Check the address.") from None


def _raise_for_status(response: requests.Response) -> None:
    status = response.status_code
    if status == 429 or status >= 500:
        retry_after = response.headers.get("Retry-After", "")
        seconds = float(retry_after) if retry_after.isdecimal() else 0.0
        raise _TransientError(f"the source answered {status} {response.reason}", seconds)
    if status not in (200, 304):
        raise DownloadError(f"the source answered {status} {response.reason}. Check the address in the settings.")


def _redact(text: str, url: str) -> str:
    """`text`, of an error of the request for `url`, without user names, passwords and queries of any address in it."""
    text = text.replace(url, redact_url(url)).replace("".join(urlsplit(url).netloc.rpartition("@")[:2]) or "\0", "")
    # A redirect may have led to an address with a password of its own.
    return re.sub(r"\?[^\s'\"]*", "", re.sub(r"//\S*@", "//", text))


def root_cause(error: BaseException) -> BaseException:
    """The innermost cause, which has the clearest message, for example "Connection refused"."""
    while (cause := getattr(error, "reason", None) or error.__cause__ or error.__context__) is not None:
        if not isinstance(cause, BaseException):
            break
        error = cause
    return error


def _text(error: BaseException) -> str:
    error = root_cause(error)
    # The message is `verify_message` in OpenSSL's errors, and `strerror` in the system's.
    text = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)
    return str(text or type(error).__name__).rstrip(".")
