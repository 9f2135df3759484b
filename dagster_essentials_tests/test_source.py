"""Fetching: a file comes whole or not at all, is not transferred twice, and what the source does wrong is told."""

import base64
import hashlib
import os
import socket
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path

import pytest

from dagster_essentials import source
from dagster_essentials.source import Fetched, NotPublishedError, SourceError
from dagster_essentials_tests.support.source_server import Answer, SourceServer, cut_off, status

# Longer than two pieces of a transfer, and not a multiple of one.
CONTENT = os.urandom(2 * source.CHUNK_BYTES + 4321)
OTHER = os.urandom(2 * source.CHUNK_BYTES + 4321)
ACCESS_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def fetch(url: str, path: Path, pauses: list[float] | None = None) -> tuple[Fetched, bool]:
    """Fetch without waiting between the attempts; the `pauses` there would have been are noted."""
    return source.fetch(url, path, validate=lambda _: None, pause=([] if pauses is None else pauses).append)


def contents(folder: Path) -> dict[str, bytes]:
    """All files in `folder`, hidden ones too: by name, to the byte."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


@contextmanager
def unused_port() -> Iterator[int]:
    """A port on which no one listens, and that no one else gets meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for this machine that no authority has signed, with its key in the same file."""
    path = tmp_path_factory.mktemp("certificate") / "own.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(
        [*command.split(), "-keyout", path, "-out", path.with_suffix(".crt")], check=True, capture_output=True
    )
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


@pytest.fixture
def secure_server(certificate: Path) -> Iterator[SourceServer]:
    """A source that speaks https with that certificate."""
    with SourceServer(certificate) as server:
        server.files["/a/file.parquet"] = CONTENT
        yield server


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process takes the certificate for good, as docs/operations.md says."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.with_suffix(".crt")))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the tests fetch to; its folder does not exist yet."""
    return tmp_path / "raw" / "a month.parquet"


@pytest.fixture
def url(source_server: SourceServer) -> str:
    """The address of a file that the source has, with the content `CONTENT`."""
    source_server.files["/a/file.parquet"] = CONTENT
    return f"{source_server.url}/a/file.parquet"


# What comes


def test_a_file_comes_whole_with_what_is_known_of_it(url: str, path: Path) -> None:
    fetched, transferred = fetch(url, path)

    assert transferred
    assert path.read_bytes() == CONTENT
    assert fetched.etag is not None
    assert fetched == Fetched(
        url=url,
        etag=fetched.etag,
        last_modified="Mon, 20 Mar 2023 12:00:00 GMT",
        bytes=len(CONTENT),
        mtime_ns=path.stat().st_mtime_ns,
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )


def test_a_file_is_validated_when_it_is_complete_and_before_it_counts(url: str, path: Path) -> None:
    seen = []

    def validate(temporary: Path) -> None:
        seen.append((temporary.parent, temporary.read_bytes(), path.exists()))

    source.fetch(url, path, validate)
    source.fetch(url, path, validate)

    assert seen == [(path.parent, CONTENT, False)], "once, and not again for a file that did not change"


def test_a_file_that_is_not_valid_leaves_the_earlier_one(source_server: SourceServer, url: str, path: Path) -> None:
    def refuse(temporary: Path) -> None:
        raise SourceError("not what it should be")

    fetch(url, path)
    before = contents(path.parent)
    source_server.files["/a/file.parquet"] = OTHER

    with pytest.raises(SourceError, match="not what it should be"):
        source.fetch(url, path, validate=refuse)

    assert contents(path.parent) == before
    assert source_server.requested("/a/file.parquet") == 2, "an invalid file is not asked for again"


def test_a_redirect_is_followed_and_the_file_keeps_the_address_that_was_asked_for(
    source_server: SourceServer, url: str, path: Path
) -> None:
    source_server.answers["/moved"] = [status(302, Location="/a/file.parquet")]

    fetched, _ = fetch(f"{source_server.url}/moved", path)

    assert path.read_bytes() == CONTENT
    assert fetched.url == f"{source_server.url}/moved"


def test_two_runs_that_fetch_the_same_file_at_once_both_succeed(url: str, path: Path) -> None:
    both_have_it_all = threading.Barrier(2, timeout=30)
    results: list[tuple[Fetched, bool]] = []

    def run() -> None:
        results.append(source.fetch(url, path, validate=lambda _: both_have_it_all.wait()))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [transferred for _, transferred in results] == [True, True]
    assert path.read_bytes() == CONTENT
    assert len(contents(path.parent)) == 2, "the file, and the note beside it"


# What does not come again


@pytest.mark.parametrize(
    "validators", [("ETag", "Last-Modified"), ("ETag",), ("Last-Modified",)], ids=["both", "only ETag", "only date"]
)
def test_an_unchanged_file_moves_no_bytes(
    source_server: SourceServer, url: str, path: Path, validators: tuple[str, ...]
) -> None:
    source_server.validators = validators
    first, _ = fetch(url, path)
    before = contents(path.parent)

    second, transferred = fetch(url, path)

    assert not transferred
    assert second == first
    assert contents(path.parent) == before
    assert path.stat().st_mtime_ns == first.mtime_ns
    assert source_server.requested("/a/file.parquet") == 2, "the source was asked"
    assert source_server.bytes_sent("/a/file.parquet") == len(CONTENT)


def test_what_a_killed_process_left_is_removed_also_when_the_source_has_nothing_new(url: str, path: Path) -> None:
    fetch(url, path)
    before = contents(path.parent)
    os.link(path, path.with_name(f".{path.name}.0a1b2c3d.partial"))
    path.with_name(f".{path.name}.4e5f6a7b.partial").write_bytes(CONTENT[:1000])
    # Of what is noted of the file, whose name begins with a dot already.
    path.with_name(f"..{path.name}.source.json.8c9d0e1f.partial").write_bytes(b"{")

    _, transferred = fetch(url, path)

    assert not transferred
    assert contents(path.parent) == before


@pytest.mark.parametrize(
    "validators", [("ETag", "Last-Modified"), ("ETag",), ("Last-Modified",), ()], ids=["both", "etag", "date", "none"]
)
def test_a_new_version_at_the_source_replaces_the_file_and_changes_its_hash(
    source_server: SourceServer, url: str, path: Path, validators: tuple[str, ...]
) -> None:
    source_server.validators = validators
    first, _ = fetch(url, path)
    source_server.files["/a/file.parquet"] = OTHER
    source_server.modified["/a/file.parquet"] = "Tue, 21 Mar 2023 12:00:00 GMT"

    second, transferred = fetch(url, path)

    assert transferred
    assert path.read_bytes() == OTHER
    assert (first.sha256, second.sha256) == (hashlib.sha256(CONTENT).hexdigest(), hashlib.sha256(OTHER).hexdigest())


def test_a_source_that_never_says_whether_a_file_changed_sends_it_again_with_the_same_hash(
    source_server: SourceServer, url: str, path: Path
) -> None:
    source_server.validators = ()
    first, _ = fetch(url, path)

    second, transferred = fetch(url, path)

    assert transferred
    assert (second.sha256, second.etag, second.last_modified) == (first.sha256, None, None)


def edited(path: Path) -> None:
    path.write_bytes(OTHER)
    # The clock of the file system may not have moved on since the transfer.
    os.utime(path, ns=(path.stat().st_mtime_ns + 1_000_000_000,) * 2)


def truncated(path: Path) -> None:
    before = path.stat()
    os.truncate(path, 1000)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # As if within one tick of the file system's clock.


def removed(path: Path) -> None:
    path.unlink()


def put_there_by_hand(path: Path) -> None:
    for note in path.parent.glob(".*"):
        note.unlink()


def with_a_note_that_is_cut_off(path: Path) -> None:
    for note in path.parent.glob(".*"):
        os.truncate(note, 20)


def with_a_note_of_another_shape(path: Path) -> None:
    for note in path.parent.glob(".*"):
        note.write_text('{"etag": 1}')


@pytest.mark.parametrize(
    "change",
    [edited, truncated, removed, put_there_by_hand, with_a_note_that_is_cut_off, with_a_note_of_another_shape],
    ids=lambda change: str(change.__name__),
)
def test_a_file_that_changed_here_is_transferred_again(
    source_server: SourceServer, url: str, path: Path, change: Callable[[Path], None]
) -> None:
    fetch(url, path)
    change(path)

    fetched, transferred = fetch(url, path)

    assert transferred
    assert path.read_bytes() == CONTENT
    assert fetched.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert source_server.bytes_sent("/a/file.parquet") == 2 * len(CONTENT)
    assert fetch(url, path) == (fetched, False), "and from now on it is known again"


def test_a_file_from_another_address_is_transferred_again(source_server: SourceServer, url: str, path: Path) -> None:
    source_server.validators = ("Last-Modified",)  # The same for both, so that the address alone tells them apart.
    source_server.files["/b/file.parquet"] = OTHER
    fetch(url, path)

    _, transferred = fetch(f"{source_server.url}/b/file.parquet", path)

    assert transferred
    assert path.read_bytes() == OTHER


@pytest.mark.parametrize("change", [None, edited, put_there_by_hand])
def test_the_content_version_is_the_hash_of_what_is_there_now(
    url: str, path: Path, change: Callable[[Path], None] | None
) -> None:
    fetch(url, path)
    if change is not None:
        change(path)

    assert source.content_version(path) == hashlib.sha256(path.read_bytes()).hexdigest()


# What is not there


@pytest.mark.parametrize("code", [403, 404])
def test_a_file_that_is_not_published_is_asked_for_once(source_server: SourceServer, path: Path, code: int) -> None:
    source_server.answers["/soon"] = [status(code, ACCESS_DENIED)]
    pauses: list[float] = []

    with pytest.raises(NotPublishedError, match=rf"not published.*{code}.*materialize it again"):
        fetch(f"{source_server.url}/soon", path, pauses)

    assert source_server.requested("/soon") == 1
    assert pauses == []
    assert contents(path.parent) == {}


def test_asking_whether_a_file_is_published_moves_no_bytes(source_server: SourceServer, url: str) -> None:
    assert source.is_published(url)
    assert source_server.requests == [("HEAD", "/a/file.parquet", 0)]


@pytest.mark.parametrize("code", [403, 404])
def test_a_file_that_is_not_published_is_looked_for_once(source_server: SourceServer, code: int) -> None:
    source_server.answers["/soon"] = [status(code)]
    pauses: list[float] = []

    assert not source.is_published(f"{source_server.url}/soon", pause=pauses.append)
    assert source_server.requested("/soon") == 1
    assert pauses == []


@pytest.mark.parametrize("code", [429, 500, 503])
def test_whether_a_file_is_published_is_asked_again_after_a_passing_trouble(
    source_server: SourceServer, url: str, code: int
) -> None:
    source_server.answers["/a/file.parquet"] = [status(code), source_server.published]
    pauses: list[float] = []

    assert source.is_published(url, pause=pauses.append)
    assert pauses == [source.PAUSE_SECONDS]


@pytest.mark.parametrize(("code", "requests"), [(400, 1), (401, 1), (410, 1), (429, 2), (500, 2)])
def test_a_source_that_does_not_say_whether_a_file_is_published_is_an_error(
    source_server: SourceServer, url: str, code: int, requests: int
) -> None:
    source_server.answers["/a/file.parquet"] = [status(code)]

    with pytest.raises(SourceError, match=str(code)):
        source.is_published(url, attempts=2, pause=lambda _: None)

    assert source_server.requested("/a/file.parquet") == requests


# What passes


@pytest.mark.parametrize(
    "troubles",
    [
        [status(429), status(429)],
        [status(503), status(503), status(503)],
        [status(500), status(502), status(504)],
        [cut_off(CONTENT, 1_500_000, reset=True), status(503)],
        [cut_off(CONTENT, 0), cut_off(CONTENT, len(CONTENT) - 1)],
    ],
    ids=["429", "503", "other 5xx", "reset", "short"],
)
def test_a_passing_trouble_is_waited_for_longer_each_time(
    source_server: SourceServer, url: str, path: Path, troubles: list[Answer]
) -> None:
    source_server.answers["/a/file.parquet"] = [*troubles, source_server.published]
    pauses: list[float] = []

    fetched, transferred = fetch(url, path, pauses)

    assert transferred
    assert path.read_bytes() == CONTENT
    assert fetched.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert source_server.requested("/a/file.parquet") == len(troubles) + 1
    assert len(pauses) == len(troubles)
    assert pauses[0] == source.PAUSE_SECONDS
    assert all(later == 2 * earlier for earlier, later in pairwise(pauses))
    assert len(contents(path.parent)) == 2, "the file, and the note beside it"


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("7", 7.0),
        ("0", source.PAUSE_SECONDS),
        ("86400", source.LONGEST_PAUSE_SECONDS),
        ("-5", source.PAUSE_SECONDS),
        ("soon", source.PAUSE_SECONDS),
        ("²", source.PAUSE_SECONDS),
    ],
)
def test_retry_after_is_honoured_up_to_a_limit(
    source_server: SourceServer, url: str, path: Path, code: int, retry_after: str, seconds: float
) -> None:
    source_server.answers["/a/file.parquet"] = [status(code, Retry_After=retry_after), source_server.published]
    pauses: list[float] = []

    fetch(url, path, pauses)

    assert pauses == [seconds]
    assert path.read_bytes() == CONTENT


# What lasts


@pytest.mark.parametrize("earlier", [True, False], ids=["with an earlier file", "with none"])
@pytest.mark.parametrize(
    ("answer", "requests", "says"),
    [
        (status(403, ACCESS_DENIED), 1, "not published"),
        (status(404), 1, "not published"),
        (status(429, Retry_After="1"), source.ATTEMPTS, "429 Too Many Requests, 5 times.*materialize again"),
        (status(500, b"<html>"), source.ATTEMPTS, "500 Internal Server Error, 5 times.*materialize again"),
        (cut_off(OTHER, 1_500_000, reset=True), source.ATTEMPTS, "connection failed.*5 times.*materialize again"),
        (cut_off(OTHER, 1_500_000), source.ATTEMPTS, "5 times.*materialize again"),
        (cut_off(OTHER, 0), source.ATTEMPTS, "5 times.*materialize again"),
        (status(400), 1, "400 Bad Request.*Look at the address"),
        (status(401), 1, "401 Unauthorized.*Look at the address"),
        (status(410), 1, "410 Gone.*Look at the address"),
        (status(416), 1, "416.*Look at the address"),
        (status(204), 1, "204 No Content.*Look at the address"),
        (status(302, Location="/a/file.parquet"), 31, "redirects.*Look at the address"),
        (status(302, Location="ftp://127.0.0.1/file.parquet"), 1, "cannot be requested.*Look at the address"),
        (status(302, Location="http://[::1"), 1, "Look at the address"),
    ],
    ids=[
        *("403", "404", "429", "500", "reset", "short", "no body", "400", "401", "410", "416", "204"),
        *("redirected in a circle", "redirected to ftp", "redirected to nonsense"),
    ],
)
def test_a_fetch_that_fails_says_why_and_leaves_all_as_it_was(
    source_server: SourceServer, url: str, path: Path, earlier: bool, answer: Answer, requests: int, says: str
) -> None:
    if earlier:
        fetch(url, path)
    before = contents(path.parent)
    source_server.requests.clear()
    source_server.answers["/a/file.parquet"] = [answer]
    pauses: list[float] = []

    with pytest.raises(SourceError, match=says):
        fetch(url, path, pauses)

    assert contents(path.parent) == before
    assert source_server.requested("/a/file.parquet") == requests
    assert len(pauses) == (source.ATTEMPTS - 1 if requests == source.ATTEMPTS else 0)


@pytest.mark.parametrize("after", [None, 0, 1_500_000], ids=["before the headers", "after them", "half-way"])
def test_a_source_that_stalls_is_given_up(
    source_server: SourceServer, url: str, path: Path, monkeypatch: pytest.MonkeyPatch, after: int | None
) -> None:
    fetch(url, path)
    before = contents(path.parent)
    source_server.requests.clear()
    source_server.answers["/a/file.parquet"] = [source_server.stalled(OTHER, after)]
    monkeypatch.setattr(source, "TIMEOUT_SECONDS", (0.05, 0.05))

    with pytest.raises(SourceError, match=r"5 times in a row.*materialize again"):
        fetch(url, path)

    assert contents(path.parent) == before
    assert source_server.requested("/a/file.parquet") == source.ATTEMPTS


def test_a_source_that_cannot_be_reached_is_tried_as_often(url: str, path: Path) -> None:
    fetch(url, path)
    before = contents(path.parent)
    pauses: list[float] = []

    with unused_port() as port, pytest.raises(SourceError, match=r"Connection refused\), 5 times.*materialize again"):
        fetch(f"http://127.0.0.1:{port}/a/file.parquet", path, pauses)

    assert len(pauses) == source.ATTEMPTS - 1
    assert contents(path.parent) == before


def test_a_redirect_never_leads_to_a_file_of_this_machine(
    source_server: SourceServer, url: str, path: Path, tmp_path: Path
) -> None:
    (tmp_path / "private").write_text("not for others")
    source_server.answers["/a/file.parquet"] = [status(302, Location=(tmp_path / "private").as_uri())]

    with pytest.raises(SourceError, match=r"cannot be requested"):
        fetch(url, path)
    with pytest.raises(SourceError, match=r"cannot be requested"):
        source.is_published(url)

    assert contents(path.parent) == {}
    assert source_server.requested("/a/file.parquet") == 2


# Who it is


@pytest.mark.parametrize("asked", ["fetch", "is_published"])
def test_a_source_that_cannot_prove_who_it_is_is_refused_at_once(
    secure_server: SourceServer, path: Path, asked: str
) -> None:
    url = f"{secure_server.url}/a/file.parquet"
    pauses: list[float] = []

    with pytest.raises(
        SourceError, match=r"could not prove who it is \(self-signed.*\).*REQUESTS_CA_BUNDLE"
    ) as refused:
        fetch(url, path, pauses) if asked == "fetch" else source.is_published(url, pause=pauses.append)

    assert "Look at the address" in str(refused.value)
    assert pauses == []
    assert secure_server.requests == []
    assert contents(path.parent) == {}


@pytest.mark.usefixtures("trusted")
def test_an_own_authority_that_is_named_is_believed(secure_server: SourceServer, path: Path) -> None:
    url = f"{secure_server.url}/a/file.parquet"

    assert source.is_published(url)
    assert fetch(url, path)[1]
    assert path.read_bytes() == CONTENT


@pytest.mark.usefixtures("trusted")
def test_a_certificate_of_another_name_is_refused(secure_server: SourceServer, path: Path) -> None:
    with pytest.raises(SourceError, match=r"could not prove who it is \(Hostname mismatch"):
        fetch(f"{secure_server.url}/a/file.parquet".replace("127.0.0.1", "localhost"), path)

    assert contents(path.parent) == {}


def test_an_authority_whose_file_is_not_there_is_not_taken_for_a_trouble_of_the_disk(
    secure_server: SourceServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path / "nowhere.pem"))

    with pytest.raises(SourceError, match=r"cannot be requested.*nowhere\.pem.*Look at REQUESTS_CA_BUNDLE"):
        fetch(f"{secure_server.url}/a/file.parquet", path)


@pytest.mark.usefixtures("trusted")
def test_a_redirect_never_leads_from_https_to_http(
    secure_server: SourceServer, source_server: SourceServer, url: str, path: Path
) -> None:
    elsewhere = url.replace("http://", f"http://user:{SECRET}@") + f"?token={SECRET}"
    secure_server.answers["/moved"] = [status(302, Location=elsewhere)]
    secure_server.answers["/twice"] = [status(302, Location="/moved")]
    # Without a scheme it stays with the one there was.
    secure_server.answers["/within"] = [
        status(302, Location=f"//{secure_server.url.partition('//')[2]}/a/file.parquet")
    ]

    for place in ("/moved", "/twice"):
        with pytest.raises(SourceError, match=f"redirects from https to {url}, where nothing proves") as refused:
            fetch(f"{secure_server.url}{place}", path)
        assert SECRET not in "".join(traceback.format_exception(refused.value))
        with pytest.raises(SourceError, match="redirects from https"):
            source.is_published(f"{secure_server.url}{place}")

    assert source_server.requests == [], "it was not even asked"
    assert contents(path.parent) == {}
    assert fetch(f"{secure_server.url}/within", path)[1]


@pytest.mark.usefixtures("trusted")
def test_a_redirect_may_lead_from_http_to_https(
    secure_server: SourceServer, source_server: SourceServer, path: Path
) -> None:
    source_server.answers["/moved"] = [status(301, Location=f"{secure_server.url}/a/file.parquet")]

    assert fetch(f"{source_server.url}/moved", path)[1]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/f", "data:,x", "javascript:x", "gopher://127.0.0.1/", "s3://b/f"])
def test_a_redirect_never_leaves_http(source_server: SourceServer, url: str, path: Path, target: str) -> None:
    source_server.answers["/a/file.parquet"] = [status(302, Location=target)]

    with pytest.raises(SourceError, match="cannot be requested"):
        fetch(url, path)

    assert contents(path.parent) == {}


def test_a_file_that_cannot_be_written_here_is_an_error_of_this_machine(url: str, path: Path) -> None:
    path.parent.write_text("a file where the folder should be")

    with pytest.raises(OSError, match="File exists"):
        fetch(url, path)

    assert path.parent.read_text() == "a file where the folder should be"


# What nobody may read in a log

SECRET = "hunter2"


def demanding_password(content: bytes) -> Answer:
    expected = "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        known = handler.headers.get("Authorization") == expected
        (status(200, content) if known else status(401))(handler)

    return answer


def test_credentials_in_an_address_are_used_and_not_kept(source_server: SourceServer, url: str, path: Path) -> None:
    source_server.answers["/a/file.parquet"] = [demanding_password(CONTENT)]

    fetched, _ = fetch(url.replace("http://", f"http://user:{SECRET}@"), path)

    assert path.read_bytes() == CONTENT
    assert fetched.url == url
    assert SECRET not in repr(fetched)
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
@pytest.mark.parametrize("asked", ["fetch", "is_published"])
def test_credentials_in_an_address_never_appear_in_an_error(
    source_server: SourceServer, path: Path, place: str, asked: str
) -> None:
    for code in (401, 403, 500):
        source_server.answers[f"/{code}"] = [status(code)]
    source_server.answers[f"/500?token={SECRET}"] = [status(500)]
    source_server.answers["/short"] = [cut_off(CONTENT, 10)]
    source_server.answers["/ftp"] = [status(302, Location=f"ftp://other:{SECRET}@127.0.0.1/?token={SECRET}")]
    port = source_server.url.rpartition(":")[2]
    told = []
    # Redirects to addresses with secrets of their own.
    for number, place_behind in enumerate(("127.0.0.1:99999/f", "/f", "127.0.0.1:port/f", "[::1/f", "127.0.0.1:1/f")):
        source_server.answers[f"/to/{number}"] = [
            status(302, Location=f"http://other:{SECRET}@{place_behind}?token={SECRET}")
        ]

    with unused_port() as unused:
        address = f"http://user:{SECRET}@" + place.format(port=port, unused=unused, secret=SECRET)
        try:
            if asked == "fetch":
                fetch(address, path)
            else:
                told.append(f"published: {source.is_published(address, pause=lambda _: None)}")
        except SourceError as error:
            # As Dagster shows it: with the errors that it came from.
            told.extend(traceback.format_exception(error))

    assert told
    assert [text for text in told if SECRET in text] == []


# Files of this machine


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
def test_a_local_file_comes_like_a_published_one(local: Path, path: Path, address: Callable[[Path], str]) -> None:
    assert source.is_published(address(local))

    fetched, transferred = fetch(address(local), path)

    assert transferred
    assert path.read_bytes() == local.read_bytes() == CONTENT
    assert (fetched.bytes, fetched.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert fetch(address(local), path) == (fetched, False)


def test_a_new_version_of_a_local_file_replaces_the_earlier_one(local: Path, path: Path) -> None:
    first, _ = fetch(str(local), path)
    edited(local)

    second, transferred = fetch(str(local), path)

    assert transferred
    assert path.read_bytes() == OTHER
    assert second.sha256 != first.sha256


@ADDRESSES
def test_a_local_file_that_is_missing_is_not_published(local: Path, path: Path, address: Callable[[Path], str]) -> None:
    fetch(address(local), path)
    before = contents(path.parent)
    local.unlink()

    assert not source.is_published(address(local))
    with pytest.raises(NotPublishedError, match=r"not there\. Put the file into that folder"):
        fetch(address(local), path)

    assert contents(path.parent) == before


@pytest.mark.parametrize(
    ("place", "kind"),
    [("a file/in a file", NotPublishedError), ("a folder", SourceError)],
    ids=["no folder", "a folder"],
)
def test_something_else_in_the_place_of_a_local_file_is_not_taken_for_it(
    tmp_path: Path, path: Path, place: str, kind: type[SourceError]
) -> None:
    (tmp_path / "a file").write_text("")
    (tmp_path / "a folder").mkdir()

    assert not source.is_published(str(tmp_path / place))
    with pytest.raises(kind):
        fetch(str(tmp_path / place), path)

    assert contents(path.parent) == {}
