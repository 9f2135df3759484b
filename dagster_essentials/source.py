"""Where the files come from: asks whether one is published, and brings it here, whole or not at all.

Works for ``http(s)://`` addresses, ``file://`` addresses and local paths alike. What makes a file a good one is the
caller's business, through the `validate` of `fetch`; what is in it is none of this module's.
"""

import hashlib
import json
import os
import re
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar
from urllib.parse import urljoin, urlsplit, urlunsplit
from urllib.request import url2pathname

import requests

from dagster_essentials.files import remove_leftovers, replacing

ATTEMPTS = 5
"""How often a request is made before a passing trouble counts as lasting: with the pauses below, over 7.5 seconds."""
PAUSE_SECONDS = 0.5
"""The pause after the first failure; each further one is twice as long."""
LONGEST_PAUSE_SECONDS = 30.0
"""How long a source that answers with Retry-After can hold up a run, each time."""
TIMEOUT_SECONDS = (10.0, 20.0)
"""To connect, and between two pieces of an answer: the TLC's CDN sends a month of 50 MB in a few seconds."""
CHUNK_BYTES = 1 << 20


class SourceError(Exception):
    """A file could not be had from the source. The message says what happened and what to do; who asked knows for what."""


class NotPublishedError(SourceError):
    """The source does not have the file (yet): it answered 403 or 404, or the local file is not there."""


class _PassingTroubleError(Exception):
    """Something that may be gone at the next attempt."""

    def __init__(self, what: str, retry_after_seconds: float = 0.0):
        super().__init__(what)
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True)
class Fetched:
    """A file as it came from its source.

    Attributes:
        url: the address, without any credentials.
        etag, last_modified: as the source sent them, or None.
        bytes: the size of the file.
        mtime_ns: when the file was put here, in nanoseconds; with `bytes` it tells whether it is still the same.
        sha256: of the content, in hexadecimal digits.
    """

    url: str
    etag: str | None
    last_modified: str | None
    bytes: int
    mtime_ns: int
    sha256: str


class _Headers(Protocol):
    def get(self, name: str, /) -> str | None: ...


def shown(url: str) -> str:
    """`url` as it can stand in a log: without user name, password and query."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return url
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _without_secrets(said: str, url: str) -> str:
    """`said`, an error of the request for `url`, without the user names, passwords and queries of any address in it."""
    said = said.replace(url, shown(url)).replace("".join(urlsplit(url).netloc.rpartition("@")[:2]) or "\0", "")
    # A redirect may have led to an address with a password of its own.
    return re.sub(r"\?[^\s'\"]*", "", re.sub(r"//\S*@", "//", said))


class _Session(requests.Session):
    """Follows redirects, but not from https to http, where others could read and change what comes."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None and urlsplit(resp.url).scheme == "https":
            address = urljoin(resp.url, target)
            if urlsplit(address).scheme == "http":
                raise SourceError(
                    f"the source redirects from https to {shown(address)}, where nothing proves who answers. Look whether "
                    "the address has moved, or set that one if it is to be trusted."
                )
        return target


def is_published(url: str, attempts: int = 2, pause: Callable[[float], None] = time.sleep) -> bool:
    """Whether the source has the file at `url`, without fetching it.

    Few `attempts`, because a schedule asks, which has a minute for all its months.

    Raises:
        SourceError: the source gave no clear answer.
    """
    local = _local_path(url)
    if local is not None:
        try:
            return stat.S_ISREG(local.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise _unreadable(error) from error

    def ask() -> bool:
        with _request("HEAD", url, {}) as response:
            if response.status_code in (403, 404):
                return False
            _raise_for_status(response)
            return True

    return _with_attempts(ask, attempts, pause, "Look whether the address can be reached from this machine.")


def fetch(
    url: str, path: Path, validate: Callable[[Path], object], pause: Callable[[float], None] = time.sleep
) -> tuple[Fetched, bool]:
    """Bring the file at `url` to `path`, unless it is there already and the source has no other one.

    `validate` gets the path of the complete temporary file and raises an error for one that must not count;
    only then does the file take the place of an earlier one.

    Returns:
        What is known of the file, and whether it was transferred.

    Raises:
        NotPublishedError: the source does not have it.
        SourceError: it could not be had, or is not what it should be. An earlier file stands unchanged.
        OSError: the file could not be written here.
    """
    known = _known(url, path)

    def transfer() -> tuple[Fetched, bool]:
        with _opened(url, known) as opened:
            if opened is None:
                assert known is not None
                with suppress(OSError):
                    remove_leftovers(path)
                    remove_leftovers(_note(path))
                return known, False
            headers, chunks = opened
            with replacing(path) as temporary:
                digest = hashlib.sha256()
                size = 0
                with open(temporary, "wb") as file:
                    for chunk in chunks:
                        file.write(chunk)
                        digest.update(chunk)
                        size += len(chunk)
                _check_length(headers, size)
                validate(temporary)
                fetched = Fetched(
                    url=shown(url),
                    etag=headers.get("ETag"),
                    last_modified=headers.get("Last-Modified"),
                    bytes=size,
                    mtime_ns=temporary.stat().st_mtime_ns,
                    sha256=digest.hexdigest(),
                )
        _remember(path, fetched)
        return fetched, True

    return _with_attempts(
        transfer,
        ATTEMPTS,
        pause,
        "Look whether the address can be reached from this machine, and materialize again.",
    )


_T = TypeVar("_T")


def _with_attempts(attempt: Callable[[], _T], attempts: int, pause: Callable[[float], None], advice: str) -> _T:
    trouble: _PassingTroubleError | None = None
    for number in range(attempts):
        if trouble is not None:
            pause(max(PAUSE_SECONDS * 2 ** (number - 1), min(trouble.retry_after_seconds, LONGEST_PAUSE_SECONDS)))
        try:
            return attempt()
        except _PassingTroubleError as error:
            trouble = error
    raise SourceError(f"{trouble}, {attempts} times in a row. {advice}")


@contextmanager
def _request(method: str, url: str, headers: dict[str, str]) -> Iterator[requests.Response]:
    # Asked for as it is: a length that can be compared, and no decompression of what a source might send.
    headers = {"Accept-Encoding": "identity", **headers}
    try:
        try:
            with _Session() as session:
                response = session.request(method, url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS)
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, ValueError) as error:
            # Their texts, and those of their causes, quote the address with user name and password.
            said = _without_secrets(_said(error), url)
            raise SourceError(f"cannot be requested ({said}). Look at the address.") from None
        except OSError as error:
            if isinstance(error, requests.exceptions.RequestException):
                raise
            raise SourceError(f"cannot be requested ({error}). Look at REQUESTS_CA_BUNDLE.") from None
        with response:
            yield response
    except requests.exceptions.Timeout as error:
        raise _PassingTroubleError(f"no answer for {TIMEOUT_SECONDS[1]:.0f} seconds") from error
    except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        said = _without_secrets(_said(error), url)
        if isinstance(_innermost(error), ssl.SSLCertVerificationError):
            raise SourceError(
                f"the source could not prove who it is ({said}). Look at the address, and at this machine's clock. If its "
                "certificate is of an authority of your own, let REQUESTS_CA_BUNDLE name the file with that authority's "
                "certificate, and materialize again."
            ) from None
        raise _PassingTroubleError(f"the connection failed ({said})") from None
    except requests.exceptions.RequestException as error:
        said = _without_secrets(_said(error), url)
        raise SourceError(f"cannot be read ({said}). Look at the address.") from None


def _innermost(error: BaseException) -> BaseException:
    """The cause at the bottom, which is the one a person understands, for example "Connection refused"."""
    while (cause := getattr(error, "reason", None) or error.__cause__ or error.__context__) is not None:
        if not isinstance(cause, BaseException):
            break
        error = cause
    return error


def _said(error: BaseException) -> str:
    error = _innermost(error)
    # OpenSSL's errors call their kind what others call their text.
    text = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)
    return str(text or type(error).__name__)


def _raise_for_status(response: requests.Response) -> None:
    status = response.status_code
    if status == 429 or status >= 500:
        retry_after = response.headers.get("Retry-After", "")
        raise _PassingTroubleError(f"the source answered {status} {response.reason}", _seconds(retry_after))
    if status not in (200, 304):
        raise SourceError(f"the source answered {status} {response.reason}. Look at the address in the settings.")


def _seconds(retry_after: str) -> float:
    return float(retry_after) if retry_after.isdecimal() else 0.0


_Opened = tuple[_Headers, Iterator[bytes]]


@contextmanager
def _opened(url: str, known: Fetched | None) -> Iterator[_Opened | None]:
    """The file's headers and content, or None when the source has the one that is `known`."""
    local = _local_path(url)
    if local is not None:
        yield from _opened_local(local, known)
        return
    conditions = {}
    if known is not None and known.etag:
        conditions["If-None-Match"] = known.etag
    if known is not None and known.last_modified:
        conditions["If-Modified-Since"] = known.last_modified
    with _request("GET", url, conditions) as response:
        if response.status_code in (403, 404):
            raise NotPublishedError(
                f"not published (the source answered {response.status_code}). The TLC publishes a month about two months "
                "after its end: materialize it again then. For an earlier month, look at the address (TAXI_TRIPS_URL)."
            )
        _raise_for_status(response)
        if response.status_code == 304:
            if known is None:
                raise SourceError("the source answered 304 Not Modified to a plain request. Look at the address.")
            yield None
        else:
            yield response.headers, response.iter_content(CHUNK_BYTES)


def _opened_local(path: Path, known: Fetched | None) -> Iterator[_Opened | None]:
    try:
        file: BinaryIO = open(path, "rb")  # noqa: SIM115 - closed below, by the with
    except (FileNotFoundError, NotADirectoryError):
        raise NotPublishedError(
            "not there. Put the file into that folder, or point TAXI_TRIPS_URL to the folder where it is."
        ) from None
    except OSError as error:
        raise _unreadable(error) from error
    with file:
        found = os.fstat(file.fileno())
        # A local file has no ETag; size and time of its last change say the same.
        headers = {
            "ETag": f"{found.st_size:x}-{found.st_mtime_ns:x}",
            "Last-Modified": formatdate(found.st_mtime, usegmt=True),
            "Content-Length": str(found.st_size),
        }
        if known is not None and known.etag == headers["ETag"]:
            yield None
        else:
            yield headers, _chunks(file)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    try:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
    except OSError as error:
        raise _unreadable(error) from error


def _check_length(headers: _Headers, size: int) -> None:
    expected = headers.get("Content-Length") or ""
    if expected.isdecimal() and int(expected) != size:
        raise _PassingTroubleError(f"the transfer broke off after {size:,} of {int(expected):,} bytes")


def _unreadable(error: OSError) -> SourceError:
    return SourceError(f"cannot be read ({error.strerror}). Let this user read it, and materialize again.")


def _local_path(url: str) -> Path | None:
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return None
    return Path(url2pathname(parts.path) if parts.scheme == "file" else url)


def _note(path: Path) -> Path:
    return path.with_name(f".{path.name}.source.json")


def _known(url: str, path: Path) -> Fetched | None:
    """What was noted of the file at `path`, if it came from `url`."""
    noted = _noted(path, path)
    return noted if noted is not None and noted.url == shown(url) else None


def _noted(path: Path, file: Path) -> Fetched | None:
    """What was noted at `path`, if it was noted of `file`."""
    try:
        noted = Fetched(**json.loads(_note(path).read_text()))
        found = file.stat()
    except (OSError, ValueError, TypeError):
        return None
    return noted if (noted.bytes, noted.mtime_ns) == (found.st_size, found.st_mtime_ns) else None


def content_version(path: Path, file: Path | None = None) -> str:
    """The SHA-256, in hexadecimal digits, of the file at `path`, or of `file`, which was there; from the note if it fits."""
    file = file or path
    noted = _noted(path, file)
    if noted is not None:
        return noted.sha256
    with open(file, "rb") as content:
        digest = hashlib.sha256()
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _remember(path: Path, fetched: Fetched) -> None:
    # Without the note, or with one of another file because two runs crossed, the next run transfers the file again.
    with suppress(OSError), replacing(_note(path)) as temporary:
        temporary.write_text(json.dumps(asdict(fetched), indent=1))
