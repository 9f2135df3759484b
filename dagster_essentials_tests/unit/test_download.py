"""Downloads: atomic, conditional, retried after transient errors, and with an error message for everything that lasts."""

import base64
import hashlib
import os
import shutil
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import pytest

from dagster_essentials.errors import DownloadError, NotPublishedError, WriteError
from dagster_essentials.ingestion import download, http_requests
from dagster_essentials.ingestion.sidecar import CHUNK_BYTES, DownloadedFile, identify_content, read_sidecar
from dagster_essentials_tests.support.project import DISK
from dagster_essentials_tests.support.source_server import Answer, SourceServer, cut_off, status

# Longer than two chunks of a transfer, and not a multiple of one.
CONTENT = os.urandom(2 * CHUNK_BYTES + 4321)
OTHER = os.urandom(2 * CHUNK_BYTES + 4321)
ACCESS_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def download_file(url: str, path: Path, slept: list[float] | None = None) -> tuple[DownloadedFile, bool]:
    """Download without back-off; the seconds that each back-off would have taken are appended to `slept`."""
    return download.download(url, path, DISK, validate=lambda _: None, sleep=([] if slept is None else slept).append)


def contents(folder: Path) -> dict[str, bytes]:
    """The content of each file in `folder`, by name; hidden files too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


@contextmanager
def unused_port() -> Iterator[int]:
    """A port on which no process listens, reserved so that no other process can use it meanwhile."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@pytest.fixture
def https_server(certificate: Path) -> Iterator[SourceServer]:
    """A source that speaks https with that certificate."""
    with SourceServer(certificate) as server:
        server.files["/a/file.parquet"] = CONTENT
        yield server


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process trusts the certificate, as docs/operations.md describes."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.with_suffix(".crt")))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The target of the downloads; its folder does not exist yet."""
    return tmp_path / "raw" / "a month.parquet"


@pytest.fixture
def url(source_server: SourceServer) -> str:
    """The address of a file at the source, with the content `CONTENT`."""
    source_server.files["/a/file.parquet"] = CONTENT
    return f"{source_server.url}/a/file.parquet"


# Transfers


def test_a_download_writes_the_complete_file_and_returns_its_metadata(url: str, path: Path) -> None:
    downloaded, transferred = download_file(url, path)

    assert transferred
    assert path.read_bytes() == CONTENT
    assert downloaded.etag is not None
    assert downloaded == DownloadedFile(
        url=url,
        etag=downloaded.etag,
        last_modified="Mon, 20 Mar 2023 12:00:00 GMT",
        bytes=len(CONTENT),
        mtime_ns=path.stat().st_mtime_ns,
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )


def test_the_complete_temporary_file_is_validated_before_the_rename(url: str, path: Path) -> None:
    validated = []

    def validate(temporary: Path) -> None:
        validated.append((temporary.parent, temporary.read_bytes(), path.exists()))

    download.download(url, path, DISK, validate)
    download.download(url, path, DISK, validate)

    assert validated == [(path.parent, CONTENT, False)], "once, and not again for an unchanged file"


def test_an_invalid_file_does_not_replace_the_earlier_one(source_server: SourceServer, url: str, path: Path) -> None:
    def validate(temporary: Path) -> None:
        raise DownloadError("not a valid file")

    download_file(url, path)
    before = contents(path.parent)
    source_server.files["/a/file.parquet"] = OTHER

    with pytest.raises(DownloadError, match="not a valid file"):
        download.download(url, path, DISK, validate)

    assert contents(path.parent) == before
    assert source_server.requested("/a/file.parquet") == 2, "an invalid file is not retried"


def test_a_redirect_is_followed_and_the_metadata_has_the_requested_url(
    source_server: SourceServer, url: str, path: Path
) -> None:
    source_server.answers["/moved"] = [status(302, Location="/a/file.parquet")]

    downloaded, _ = download_file(f"{source_server.url}/moved", path)

    assert path.read_bytes() == CONTENT
    assert downloaded.url == f"{source_server.url}/moved"


def test_concurrent_downloads_of_one_file_both_succeed(url: str, path: Path) -> None:
    both_are_complete = threading.Barrier(2, timeout=30)
    results: list[tuple[DownloadedFile, bool]] = []

    def run() -> None:
        results.append(download.download(url, path, DISK, validate=lambda _: both_are_complete.wait()))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [transferred for _, transferred in results] == [True, True]
    assert path.read_bytes() == CONTENT
    assert len(contents(path.parent)) == 2, "the file and its sidecar"


# Conditional requests and the sidecar


@pytest.mark.parametrize(
    "validators", [("ETag", "Last-Modified"), ("ETag",), ("Last-Modified",)], ids=["both", "only ETag", "only date"]
)
def test_an_unchanged_file_is_not_transferred(
    source_server: SourceServer, url: str, path: Path, validators: tuple[str, ...]
) -> None:
    source_server.validators = validators
    first, _ = download_file(url, path)
    before = contents(path.parent)

    second, transferred = download_file(url, path)

    assert not transferred
    assert second == first
    assert contents(path.parent) == before
    assert path.stat().st_mtime_ns == first.mtime_ns
    assert source_server.requested("/a/file.parquet") == 2, "the source was asked"
    assert source_server.bytes_sent("/a/file.parquet") == len(CONTENT)


def test_stale_temporary_files_are_removed_even_if_the_file_is_unchanged(url: str, path: Path) -> None:
    download_file(url, path)
    before = contents(path.parent)
    os.link(path, path.with_name(f".{path.name}.0a1b2c3d.partial"))
    path.with_name(f".{path.name}.4e5f6a7b.partial").write_bytes(CONTENT[:1000])
    # Of the sidecar, whose own name begins with a dot.
    path.with_name(f"..{path.name}.source.json.8c9d0e1f.partial").write_bytes(b"{")

    _, transferred = download_file(url, path)

    assert not transferred
    assert contents(path.parent) == before


@pytest.mark.parametrize(
    "validators", [("ETag", "Last-Modified"), ("ETag",), ("Last-Modified",), ()], ids=["both", "etag", "date", "none"]
)
def test_a_new_version_at_the_source_replaces_the_file_and_changes_its_hash(
    source_server: SourceServer, url: str, path: Path, validators: tuple[str, ...]
) -> None:
    source_server.validators = validators
    first, _ = download_file(url, path)
    source_server.files["/a/file.parquet"] = OTHER
    source_server.modified["/a/file.parquet"] = "Tue, 21 Mar 2023 12:00:00 GMT"

    second, transferred = download_file(url, path)

    assert transferred
    assert path.read_bytes() == OTHER
    assert (first.sha256, second.sha256) == (hashlib.sha256(CONTENT).hexdigest(), hashlib.sha256(OTHER).hexdigest())


def test_without_etag_and_date_an_unchanged_file_is_transferred_and_keeps_its_hash(
    source_server: SourceServer, url: str, path: Path
) -> None:
    source_server.validators = ()
    first, _ = download_file(url, path)

    second, transferred = download_file(url, path)

    assert transferred
    assert (second.sha256, second.etag, second.last_modified) == (first.sha256, None, None)


def edited(path: Path) -> None:
    path.write_bytes(OTHER)
    # The clock of the file system may not have advanced since the transfer.
    os.utime(path, ns=(path.stat().st_mtime_ns + 1_000_000_000,) * 2)


def truncated(path: Path) -> None:
    before = path.stat()
    os.truncate(path, 1000)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # As if within one tick of the file system's clock.


def removed(path: Path) -> None:
    path.unlink()


def without_a_sidecar(path: Path) -> None:
    for sidecar in path.parent.glob(".*"):
        sidecar.unlink()


def with_a_truncated_sidecar(path: Path) -> None:
    for sidecar in path.parent.glob(".*"):
        os.truncate(sidecar, 20)


def with_a_sidecar_of_other_keys(path: Path) -> None:
    for sidecar in path.parent.glob(".*"):
        sidecar.write_text('{"etag": 1}')


@pytest.mark.parametrize(
    "change",
    [edited, truncated, removed, without_a_sidecar, with_a_truncated_sidecar, with_a_sidecar_of_other_keys],
    ids=lambda change: str(change.__name__),
)
def test_a_file_that_was_changed_locally_is_downloaded_again(
    source_server: SourceServer, url: str, path: Path, change: Callable[[Path], None]
) -> None:
    download_file(url, path)
    change(path)

    downloaded, transferred = download_file(url, path)

    assert transferred
    assert path.read_bytes() == CONTENT
    assert downloaded.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert source_server.bytes_sent("/a/file.parquet") == 2 * len(CONTENT)
    assert download_file(url, path) == (downloaded, False), "from now on it is known again"


def copied(path: Path) -> None:
    """As by `cp -r`, which does not keep the modification times."""
    folder = path.parent
    folder.rename(folder.with_name("before"))
    shutil.copytree(folder.with_name("before"), folder, copy_function=shutil.copyfile)


def copied_in_whole_seconds(path: Path) -> None:
    """As by a FAT disk, or by some archives."""
    copied(path)
    os.utime(path, (1_700_000_000, 1_700_000_000))


def from_1970(path: Path) -> None:
    copied(path)
    os.utime(path, (0, 0))


@pytest.mark.parametrize("copy", [copied, copied_in_whole_seconds, from_1970], ids=lambda copy: str(copy.__name__))
def test_a_file_that_was_copied_is_known_by_its_content(
    source_server: SourceServer, url: str, path: Path, copy: Callable[[Path], None]
) -> None:
    before, _ = download_file(url, path)
    copy(path)
    assert path.stat().st_mtime_ns != before.mtime_ns

    with open(path, "rb") as file:
        assert identify_content(path, file) == before
    assert read_sidecar(path) == before
    assert download_file(url, path) == (before, False)
    assert source_server.bytes_sent("/a/file.parquet") == len(CONTENT)


def test_a_copy_that_belongs_to_another_user_is_known_too(
    url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    before, _ = download_file(url, path)
    copied(path)
    monkeypatch.setattr(os, "utime", refuse)

    assert read_sidecar(path) == before
    assert download_file(url, path) == (before, False)


def test_a_file_from_another_url_is_downloaded_again(source_server: SourceServer, url: str, path: Path) -> None:
    source_server.validators = ("Last-Modified",)  # Equal for both files: only the URLs differ.
    source_server.files["/b/file.parquet"] = OTHER
    download_file(url, path)

    _, transferred = download_file(f"{source_server.url}/b/file.parquet", path)

    assert transferred
    assert path.read_bytes() == OTHER


@pytest.mark.parametrize("change", [None, edited, without_a_sidecar])
def test_the_content_sha256_is_read_from_the_sidecar_only_while_it_fits(
    url: str, path: Path, change: Callable[[Path], None] | None
) -> None:
    download_file(url, path)
    if change is not None:
        change(path)

    with open(path, "rb") as file:
        assert identify_content(path, file).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (file.tell() == 0) == (change is None), "a file with a sidecar is not read"


def test_the_content_sha256_is_that_of_the_opened_version(source_server: SourceServer, url: str, path: Path) -> None:
    download_file(url, path)

    with open(path, "rb") as file:
        source_server.files["/a/file.parquet"] = OTHER
        source_server.modified["/a/file.parquet"] = "Tue, 21 Mar 2023 12:00:00 GMT"
        assert download_file(url, path)[1]
        assert identify_content(path, file).sha256 == hashlib.sha256(CONTENT).hexdigest()


# Not published


@pytest.mark.parametrize("code", [403, 404])
def test_a_file_that_is_not_published_is_requested_once(source_server: SourceServer, path: Path, code: int) -> None:
    source_server.answers["/soon"] = [status(code, ACCESS_DENIED)]
    slept: list[float] = []

    with pytest.raises(NotPublishedError) as refused:
        download_file(f"{source_server.url}/soon", path, slept)

    assert str(refused.value) == f"not published (the source answered {code}). Check the address."
    assert source_server.requested("/soon") == 1
    assert slept == []
    assert contents(path.parent) == {}


def test_the_caller_says_what_to_do_about_a_file_that_is_not_published(source_server: SourceServer, path: Path) -> None:
    source_server.answers["/soon"] = [status(404)]

    with pytest.raises(NotPublishedError, match=r"^not published \(the source answered 404\)\. Wait a month\.$"):
        download.download(f"{source_server.url}/soon", path, DISK, lambda _: None, if_not_published="Wait a month.")


def test_asking_whether_a_file_is_published_transfers_no_bytes(source_server: SourceServer, url: str) -> None:
    assert download.find_published(url)
    assert source_server.requests == [("HEAD", "/a/file.parquet", 0)]


@pytest.mark.parametrize("code", [403, 404])
def test_whether_a_missing_file_is_published_is_asked_once_by_head_and_get(
    source_server: SourceServer, code: int
) -> None:
    source_server.answers["/soon"] = [status(code)]
    slept: list[float] = []

    assert not download.find_published(f"{source_server.url}/soon", sleep=slept.append)
    assert [method for method, *_ in source_server.requests] == ["HEAD", "GET"]
    assert slept == []


@pytest.mark.parametrize("code", [429, 503])
def test_whether_a_file_is_published_is_asked_again_after_a_transient_error(
    source_server: SourceServer, url: str, code: int
) -> None:
    source_server.answers["/a/file.parquet"] = [status(code), source_server.published]
    slept: list[float] = []

    assert download.find_published(url, sleep=slept.append)
    assert slept == [download.BACKOFF_SECONDS]


@pytest.mark.parametrize(("code", "requests"), [(400, 2), (401, 2), (410, 2), (429, 2), (500, 3)])
def test_no_clear_answer_whether_a_file_is_published_is_an_error(
    source_server: SourceServer, url: str, code: int, requests: int
) -> None:
    source_server.answers["/a/file.parquet"] = [status(code)]

    with pytest.raises(DownloadError, match=str(code)):
        download.find_published(url, attempts=2, sleep=lambda _: None)

    assert source_server.requested("/a/file.parquet") == requests


# Transient errors


@pytest.mark.parametrize(
    "errors",
    [
        [status(429), status(429)],
        [status(503), status(503), status(503)],
        [status(500), status(502), status(504)],
        [cut_off(CONTENT, 1_500_000, reset=True), status(503)],
        [cut_off(CONTENT, 0), cut_off(CONTENT, len(CONTENT) - 1)],
    ],
    ids=["429", "503", "other 5xx", "reset", "short"],
)
def test_transient_errors_are_retried_with_exponential_backoff(
    source_server: SourceServer, url: str, path: Path, errors: list[Answer]
) -> None:
    source_server.answers["/a/file.parquet"] = [*errors, source_server.published]
    slept: list[float] = []

    downloaded, transferred = download_file(url, path, slept)

    assert transferred
    assert path.read_bytes() == CONTENT
    assert downloaded.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert source_server.requested("/a/file.parquet") == len(errors) + 1
    assert len(slept) == len(errors)
    assert slept[0] == download.BACKOFF_SECONDS
    assert all(later == 2 * earlier for earlier, later in pairwise(slept))
    assert len(contents(path.parent)) == 2, "the file and its sidecar"


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("7", 7.0),
        ("0", download.BACKOFF_SECONDS),
        ("86400", download.MAX_RETRY_AFTER_SECONDS),
        ("-5", download.BACKOFF_SECONDS),
        ("soon", download.BACKOFF_SECONDS),
        ("²", download.BACKOFF_SECONDS),
    ],
)
def test_retry_after_is_honoured_up_to_a_limit(
    source_server: SourceServer, url: str, path: Path, code: int, retry_after: str, seconds: float
) -> None:
    source_server.answers["/a/file.parquet"] = [status(code, Retry_After=retry_after), source_server.published]
    slept: list[float] = []

    download_file(url, path, slept)

    assert slept == [seconds]
    assert path.read_bytes() == CONTENT


# Lasting errors


@pytest.mark.parametrize("earlier", [True, False], ids=["with an earlier file", "with none"])
@pytest.mark.parametrize(
    ("answer", "requests", "message"),
    [
        (status(403, ACCESS_DENIED), 1, "not published"),
        (status(404), 1, "not published"),
        (status(429, Retry_After="1"), download.ATTEMPTS, "429 Too Many Requests, 5 times.*materialize again"),
        (status(500, b"<html>"), download.ATTEMPTS, "500 Internal Server Error, 5 times.*materialize again"),
        (cut_off(OTHER, 1_500_000, reset=True), download.ATTEMPTS, "connection failed.*5 times.*materialize again"),
        (cut_off(OTHER, 1_500_000), download.ATTEMPTS, "5 times.*materialize again"),
        (cut_off(OTHER, 0), download.ATTEMPTS, "5 times.*materialize again"),
        (status(400), 1, "400 Bad Request.*Check the address"),
        (status(401), 1, "401 Unauthorized.*Check the address"),
        (status(410), 1, "410 Gone.*Check the address"),
        (status(416), 1, "416.*Check the address"),
        (status(204), 1, "204 No Content.*Check the address"),
        (status(302, Location="/a/file.parquet"), 31, "redirects.*Check the address"),
        (status(302, Location="ftp://127.0.0.1/file.parquet"), 1, "cannot be requested.*Check the address"),
        (status(302, Location="http://[::1"), 1, "Check the address"),
    ],
    ids=[
        *("403", "404", "429", "500", "reset", "short", "no body", "400", "401", "410", "416", "204"),
        *("redirect loop", "redirect to ftp", "redirect to an invalid address"),
    ],
)
def test_a_failed_download_says_why_and_leaves_the_folder_unchanged(
    source_server: SourceServer, url: str, path: Path, earlier: bool, answer: Answer, requests: int, message: str
) -> None:
    if earlier:
        download_file(url, path)
    before = contents(path.parent)
    source_server.requests.clear()
    source_server.answers["/a/file.parquet"] = [answer]
    slept: list[float] = []

    with pytest.raises(DownloadError, match=message):
        download_file(url, path, slept)

    assert contents(path.parent) == before
    assert source_server.requested("/a/file.parquet") == requests
    assert len(slept) == (download.ATTEMPTS - 1 if requests == download.ATTEMPTS else 0)


@pytest.mark.parametrize("after", [None, 0, 1_500_000], ids=["before the headers", "after them", "halfway"])
def test_a_stalled_transfer_times_out(
    source_server: SourceServer, url: str, path: Path, monkeypatch: pytest.MonkeyPatch, after: int | None
) -> None:
    download_file(url, path)
    before = contents(path.parent)
    source_server.requests.clear()
    source_server.answers["/a/file.parquet"] = [source_server.stalled(OTHER, after)]
    monkeypatch.setattr(http_requests, "TIMEOUT_SECONDS", (0.05, 0.05))

    with pytest.raises(DownloadError, match=r"5 times in a row.*materialize again"):
        download_file(url, path)

    assert contents(path.parent) == before
    assert source_server.requested("/a/file.parquet") == download.ATTEMPTS


def test_a_source_that_cannot_be_reached_is_retried(url: str, path: Path) -> None:
    download_file(url, path)
    before = contents(path.parent)
    slept: list[float] = []

    with (
        unused_port() as port,
        pytest.raises(DownloadError, match=r"Connection refused\), 5 times.*materialize again"),
    ):
        download_file(f"http://127.0.0.1:{port}/a/file.parquet", path, slept)

    assert len(slept) == download.ATTEMPTS - 1
    assert contents(path.parent) == before


def test_a_redirect_to_a_local_file_is_refused(
    source_server: SourceServer, url: str, path: Path, tmp_path: Path
) -> None:
    (tmp_path / "private").write_text("not for others")
    source_server.answers["/a/file.parquet"] = [status(302, Location=(tmp_path / "private").as_uri())]

    with pytest.raises(DownloadError, match=r"cannot be requested"):
        download_file(url, path)
    with pytest.raises(DownloadError, match=r"cannot be requested"):
        download.find_published(url)

    assert contents(path.parent) == {}
    assert source_server.requested("/a/file.parquet") == 2


def test_a_file_that_cannot_be_written_is_a_write_error_and_not_retried(
    source_server: SourceServer, url: str, path: Path
) -> None:
    path.parent.write_text("a file where the folder should be")
    slept: list[float] = []

    with pytest.raises(WriteError, match=r"raw could not be written \(File exists\)\. .* materialize again"):
        download_file(url, path, slept)

    assert path.parent.read_text() == "a file where the folder should be"
    assert source_server.requested("/a/file.parquet") == 1
    assert slept == []


# Certificates and redirects


@pytest.mark.parametrize("function", ["download", "find_published"])
def test_an_untrusted_certificate_is_refused_without_a_retry(
    https_server: SourceServer, path: Path, function: str
) -> None:
    url = f"{https_server.url}/a/file.parquet"
    slept: list[float] = []

    with pytest.raises(
        DownloadError, match=r"certificate of the source could not be verified \(self-signed.*\).*REQUESTS_CA_BUNDLE"
    ) as refused:
        download_file(url, path, slept) if function == "download" else download.find_published(url, sleep=slept.append)

    assert "Check the address" in str(refused.value)
    assert slept == []
    assert https_server.requests == []
    assert contents(path.parent) == {}


@pytest.mark.usefixtures("trusted")
def test_a_certificate_in_the_ca_bundle_is_trusted(https_server: SourceServer, path: Path) -> None:
    url = f"{https_server.url}/a/file.parquet"

    assert download.find_published(url)
    assert download_file(url, path)[1]
    assert path.read_bytes() == CONTENT


@pytest.mark.usefixtures("trusted")
def test_a_certificate_for_another_hostname_is_refused(https_server: SourceServer, path: Path) -> None:
    with pytest.raises(DownloadError, match=r"could not be verified \(Hostname mismatch"):
        download_file(f"{https_server.url}/a/file.parquet".replace("127.0.0.1", "localhost"), path)

    assert contents(path.parent) == {}


def test_a_ca_bundle_that_does_not_exist_is_not_reported_as_a_write_error(
    https_server: SourceServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path / "nowhere.pem"))

    with pytest.raises(DownloadError, match=r"cannot be requested.*nowhere\.pem.*Check REQUESTS_CA_BUNDLE"):
        download_file(f"{https_server.url}/a/file.parquet", path)


@pytest.mark.usefixtures("trusted")
def test_a_redirect_from_https_to_http_is_refused(
    https_server: SourceServer, source_server: SourceServer, url: str, path: Path
) -> None:
    location = url.replace("http://", f"http://user:{SECRET}@") + f"?token={SECRET}"
    https_server.answers["/moved"] = [status(302, Location=location)]
    https_server.answers["/twice"] = [status(302, Location="/moved")]
    # Without a scheme, a location has that of the request.
    https_server.answers["/within"] = [status(302, Location=f"//{https_server.url.partition('//')[2]}/a/file.parquet")]

    for place in ("/moved", "/twice"):
        with pytest.raises(
            DownloadError, match=f"redirects from https to {url}, which is not encrypted.*can be trusted"
        ) as refused:
            download_file(f"{https_server.url}{place}", path)
        assert SECRET not in "".join(traceback.format_exception(refused.value))
        with pytest.raises(DownloadError, match="redirects from https"):
            download.find_published(f"{https_server.url}{place}")

    assert source_server.requests == [], "the http address was not requested"
    assert contents(path.parent) == {}
    assert download_file(f"{https_server.url}/within", path)[1]


@pytest.mark.usefixtures("trusted")
def test_a_redirect_from_http_to_https_is_followed(
    https_server: SourceServer, source_server: SourceServer, path: Path
) -> None:
    source_server.answers["/moved"] = [status(301, Location=f"{https_server.url}/a/file.parquet")]

    assert download_file(f"{source_server.url}/moved", path)[1]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/f", "data:,x", "javascript:x", "gopher://127.0.0.1/", "s3://b/f"])
def test_a_redirect_to_another_scheme_is_refused(
    source_server: SourceServer, url: str, path: Path, target: str
) -> None:
    source_server.answers["/a/file.parquet"] = [status(302, Location=target)]

    with pytest.raises(DownloadError, match="cannot be requested"):
        download_file(url, path)

    assert contents(path.parent) == {}


# Redaction

SECRET = "hunter2"


def demanding_password(content: bytes) -> Answer:
    """Answer with `content` to the right user name and password, and with 401 to all others."""
    expected = "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        authorized = handler.headers.get("Authorization") == expected
        (status(200, content) if authorized else status(401))(handler)

    return answer


def test_credentials_in_a_url_are_sent_and_not_stored(source_server: SourceServer, url: str, path: Path) -> None:
    source_server.answers["/a/file.parquet"] = [demanding_password(CONTENT)]

    downloaded, _ = download_file(url.replace("http://", f"http://user:{SECRET}@"), path)

    assert path.read_bytes() == CONTENT
    assert downloaded.url == url
    assert SECRET not in repr(downloaded)
    assert [name for name, content in contents(path.parent).items() if SECRET.encode() in content] == []


@pytest.mark.parametrize(
    "place",
    [
        "127.0.0.1:{port}/403",
        "127.0.0.1:{port}/401",
        "127.0.0.1:{port}/500",
        "127.0.0.1:{port}/short",
        "127.0.0.1:{port}/ftp",
        "127.0.0.1:{port}/to/0",
        "127.0.0.1:{port}/to/1",
        "127.0.0.1:{port}/to/2",
        "127.0.0.1:{port}/to/3",
        "127.0.0.1:{port}/to/4",
        "127.0.0.1:{port}/500?token={secret}",
        "127.0.0.1:{unused}/file?token={secret}",
        "127.0.0.1:99999/file?token={secret}",
        "127.0.0.1:{unused}/file",
        "127.0.0.1:99999/file",
        "127.0.0.1:port/file",
        "/file",
        ".example./file",
    ],
)
@pytest.mark.parametrize("function", ["download", "find_published"])
def test_credentials_in_a_url_never_appear_in_an_error(
    source_server: SourceServer, path: Path, place: str, function: str
) -> None:
    for code in (401, 403, 500):
        source_server.answers[f"/{code}"] = [status(code)]
    source_server.answers[f"/500?token={SECRET}"] = [status(500)]
    source_server.answers["/short"] = [cut_off(CONTENT, 10)]
    source_server.answers["/ftp"] = [status(302, Location=f"ftp://other:{SECRET}@127.0.0.1/?token={SECRET}")]
    port = source_server.url.rpartition(":")[2]
    texts = []
    # Redirects to URLs with secrets of their own.
    for number, target in enumerate(("127.0.0.1:99999/f", "/f", "127.0.0.1:port/f", "[::1/f", "127.0.0.1:1/f")):
        location = f"http://other:{SECRET}@{target}?token={SECRET}"
        source_server.answers[f"/to/{number}"] = [status(302, Location=location)]

    with unused_port() as unused:
        url = f"http://user:{SECRET}@" + place.format(port=port, unused=unused, secret=SECRET)
        try:
            if function == "download":
                download_file(url, path)
            else:
                texts.append(f"published: {download.find_published(url, sleep=lambda _: None)}")
        except DownloadError as error:
            # As Dagster shows it: with the errors that caused it.
            texts.extend(traceback.format_exception(error))

    assert texts
    assert [text for text in texts if SECRET in text] == []


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("https://host/trip-data/a.parquet", "https://host/trip-data/a.parquet"),
        (f"https://user:{SECRET}@host:8443/a.parquet", "https://host:8443/a.parquet"),
        (f"http://{SECRET}@host/a.parquet?sig={SECRET}#x", "http://host/a.parquet"),
        ("/data/100%?/a@b.parquet", "/data/100%?/a@b.parquet"),
    ],
)
def test_a_redacted_url_has_neither_credentials_nor_query(url: str, redacted: str) -> None:
    assert http_requests.redact_url(url) == redacted


# Local files


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "a folder, 100% full" / "a file#1.parquet"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


def as_path(path: Path) -> str:
    return str(path)


def as_uri(path: Path) -> str:
    return path.as_uri()


def as_uri_with_host(path: Path) -> str:
    return path.as_uri().replace("file://", "file://localhost")


ADDRESSES = pytest.mark.parametrize("address", [as_path, as_uri, as_uri_with_host])


@ADDRESSES
def test_a_local_file_is_copied_and_not_again_while_unchanged(
    local: Path, path: Path, address: Callable[[Path], str]
) -> None:
    assert download.find_published(address(local))

    downloaded, transferred = download_file(address(local), path)

    assert transferred
    assert path.read_bytes() == local.read_bytes() == CONTENT
    assert (downloaded.bytes, downloaded.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert download_file(address(local), path) == (downloaded, False)


def test_a_new_version_of_a_local_file_replaces_the_earlier_one(local: Path, path: Path) -> None:
    first, _ = download_file(str(local), path)
    edited(local)

    second, transferred = download_file(str(local), path)

    assert transferred
    assert path.read_bytes() == OTHER
    assert second.sha256 != first.sha256


def test_a_local_file_that_is_truncated_while_it_is_copied_is_retried(
    local: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_chunks = download._chunks

    def truncate_after_the_first_chunk(file: BinaryIO) -> Iterator[bytes]:
        for chunk in read_chunks(file):
            yield chunk
            os.truncate(local, 1000)

    monkeypatch.setattr(download, "_chunks", truncate_after_the_first_chunk)
    slept: list[float] = []

    downloaded, _ = download_file(str(local), path, slept)

    assert slept == [download.BACKOFF_SECONDS]
    assert path.read_bytes() == CONTENT[:1000]
    assert downloaded.sha256 == hashlib.sha256(CONTENT[:1000]).hexdigest()


@ADDRESSES
def test_a_missing_local_file_is_not_published(local: Path, path: Path, address: Callable[[Path], str]) -> None:
    download_file(address(local), path)
    before = contents(path.parent)
    local.unlink()

    assert not download.find_published(address(local))
    with pytest.raises(NotPublishedError, match=r"no such file\. Put it there, or correct its address"):
        download_file(address(local), path)

    assert contents(path.parent) == before


@pytest.mark.parametrize(
    ("place", "kind"),
    [("a file/in a file", NotPublishedError), ("a folder", DownloadError)],
    ids=["in a file", "a folder"],
)
def test_a_local_path_that_is_not_a_file_is_refused(
    tmp_path: Path, path: Path, place: str, kind: type[DownloadError]
) -> None:
    (tmp_path / "a file").write_text("")
    (tmp_path / "a folder").mkdir()

    assert not download.find_published(str(tmp_path / place))
    with pytest.raises(kind):
        download_file(str(tmp_path / place), path)

    assert contents(path.parent) == {}
