"""A run that is cancelled ends at once, wherever it is, and leaves no partial file.

Here are its parts; `runs/test_cancelled_runs.py` has whole runs.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random

import duckdb
import pytest

from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.ingestion.atomic_write import atomic_write
from dagster_essentials.ingestion.data_folder import ObjectStore, S3DataFolder
from dagster_essentials.ingestion.month_files import PARALLEL_DOWNLOADS, MonthFile, download_months
from dagster_essentials.warehouse.file import file_tables
from dagster_essentials.warehouse.tables import Tables
from dagster_essentials_tests.support.faults.hostile import repeated_rows
from dagster_essentials_tests.support.faults.samples import sample
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import DISK
from dagster_essentials_tests.support.source_server import Answer, SourceServer, status

SECONDS = 3.0
"""For a cancelled run to end, on a machine that is busy with other tests."""
MONTHS = [f"2023-{month:02}" for month in range(1, 13)]


class Interrupted(BaseException):
    """As Dagster's, which its signal handler raises in the main thread."""


@contextmanager
def cancelled(when: Callable[[], bool]) -> Iterator[None]:
    """Send a signal to this process once `when` is true: the block ends with `Interrupted` within `SECONDS`."""
    sent: list[float] = []
    ended = threading.Event()

    def interrupt() -> None:
        while not when():
            if ended.wait(0.01):
                return
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    def handler(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGINT, handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(Interrupted):
            yield
        assert time.monotonic() - sent[0] < SECONDS
    finally:
        ended.set()
        thread.join()
        signal.signal(signal.SIGINT, before)


def after(seconds: float) -> Callable[[], bool]:
    began = time.monotonic()
    return lambda: time.monotonic() - began > seconds


def months_of(url: str, folder: Path) -> dict[str, MonthFile]:
    return {
        month: MonthFile(YELLOW, month, f"{url}/yellow_tripdata_{month}.parquet", folder / f"{month}.parquet", DISK)
        for month in MONTHS
    }


# Downloads


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Send four bytes of a large file every tenth of a second: there is no time-out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while True:
        handler.wfile.write(b"PAR1")
        handler.wfile.flush()
        time.sleep(0.1)


def without_length(handler: BaseHTTPRequestHandler) -> None:
    """As `drip`, but the file may end at any byte."""
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        handler.wfile.write(b"PAR1")
        handler.wfile.flush()
        time.sleep(0.1)


ANSWERS = {
    "slowly": drip,
    "slowly, without a length": without_length,
    "with Retry-After": status(429, Retry_After="25"),
    "with a challenge": status(403, Retry_After="25", cf_mitigated="challenge"),
}


@pytest.mark.parametrize("answer", ["not at all", "headers only", "halfway", *ANSWERS])
@pytest.mark.parametrize("protocol", ["http", "https"])
def test_downloads_end_and_leave_no_file(
    source_server: SourceServer,
    certificate: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    protocol: str,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.with_suffix(".crt")))
    with SourceServer(certificate) as https_server:
        server = https_server if protocol == "https" else source_server
        stalled = {"not at all": None, "headers only": 0, "halfway": 5_000}
        slow = server.stalled(bytes(10_000), stalled[answer]) if answer in stalled else ANSWERS[answer]
        months = months_of(server.trips_url, tmp_path / "raw")
        for month in MONTHS:
            server.answers[f"/trip-data/yellow_tripdata_{month}.parquet"] = [slow]
        threads = threading.active_count()

        with cancelled(lambda: len(server.requests) == PARALLEL_DOWNLOADS):
            list(download_months(months))

        assert list((tmp_path / "raw").glob("*")) == []
        assert len(server.requests) == PARALLEL_DOWNLOADS, "no further month is requested"
        if answer != "not at all":
            assert threading.active_count() <= threads + PARALLEL_DOWNLOADS, "only the server's are left"


def test_what_ended_before_is_kept_and_can_be_downloaded_again(source_server: SourceServer, tmp_path: Path) -> None:
    months = months_of(source_server.trips_url, tmp_path / "raw")
    for month in MONTHS:
        path = source_server.put_month(month, sample(month))
        if month > "2023-06":
            source_server.answers[path] = [drip]
    ended: list[str] = []

    with cancelled(lambda: len(ended) == 6):
        for month, download in download_months(months):
            ended.append(month)
            assert download.result().rows == 300

    assert sorted(path.name for path in (tmp_path / "raw").glob("*.parquet")) == [
        f"{month}.parquet" for month in MONTHS[:6]
    ]
    assert list((tmp_path / "raw").glob(".*.partial")) == []
    source_server.answers.clear()
    again = {month: download.result().transferred for month, download in download_months(months)}
    assert again == {month: month > "2023-06" for month in MONTHS}


@pytest.fixture(scope="module")
def large() -> bytes:
    """A month whose 29 million rows take several seconds to validate, and longer to load."""
    return repeated_rows(29_000_000)(sample("2023-01"), Random(1))


def test_the_validation_of_a_month_ends_and_leaves_no_file(
    source_server: SourceServer, tmp_path: Path, large: bytes
) -> None:
    months = months_of(source_server.trips_url, tmp_path / "raw")
    for month in MONTHS:
        source_server.put_month(month, large)

    def is_validated() -> bool:
        return len([file for file in (tmp_path / "raw").glob(".*.partial") if file.stat().st_size == len(large)]) >= 2

    with cancelled(is_validated):
        list(download_months(months))

    assert list((tmp_path / "raw").iterdir()) == []


# Files


def test_an_upload_to_s3_ends(source_server: SourceServer, tmp_path: Path) -> None:
    def stalled(handler: BaseHTTPRequestHandler) -> None:
        source_server.stopping.wait(30)

    class Silent(dict[str, list[Answer]]):
        def get(self, path: str, default: object = None) -> list[Answer]:
            return [stalled]

    source_server.answers = Silent()
    store = ObjectStore(source_server.url, "us-east-1", "key", "secret", None)
    files = S3DataFolder(tmp_path / "cache", "s3://bucket/taxi", store)

    with (
        cancelled(lambda: (tmp_path / "cache" / "raw").exists()),
        atomic_write(files.path / "raw" / "file", files) as file,
    ):
        file.write_bytes(b"content")

    assert list((tmp_path / "cache" / "raw").iterdir()) == []


# The database


def test_the_wait_for_the_database_ends(tmp_path: Path) -> None:
    database, logged = tmp_path / "data.duckdb", list[str]()

    with (
        file_tables(database, {}, 0, print),
        cancelled(lambda: bool(logged)),
        file_tables(database, {}, 60, logged.append),
    ):
        pass

    assert "in use" in logged[0]
    with file_tables(database, {}, 0, print) as tables:
        assert tables.execute("SELECT 1").fetchall() == [(1,)]


STATEMENTS = {
    "a query": "SELECT sum(random()) FROM range(1_000_000_000_000)",
    "an insert": "INSERT INTO numbers SELECT random() FROM range(10_000_000_000)",
    "a query with rows": "SELECT random() FROM range(1_000_000_000_000) WHERE random() < 1e-13",
}


@pytest.mark.duckdb
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_ends_and_its_transaction_is_rolled_back(name: str, threads: int) -> None:
    with duckdb.connect(config={"threads": threads}) as connection:
        tables = Tables(connection)
        tables.execute("CREATE TABLE numbers (number DOUBLE)")

        with cancelled(after(0.2)), tables.transaction():
            tables.execute("INSERT INTO numbers VALUES (1)")
            tables.execute(STATEMENTS[name]).fetchall()

        assert tables.execute("SELECT count(*) FROM numbers").fetchall() == [(0,)]


@pytest.mark.duckdb
def test_the_load_of_a_month_ends_and_the_month_is_as_it_was(tmp_path: Path, large: bytes) -> None:
    path, database = tmp_path / "month.parquet", tmp_path / "data.duckdb"
    path.write_bytes(sample("2023-01"))
    with file_tables(database, {}, 0, print) as tables:
        load_month(tables, "2023-01", path)
    path.write_bytes(large)

    with cancelled(after(1)), file_tables(database, {}, 0, print) as tables:
        load_month(tables, "2023-01", path)

    path.write_bytes(sample("2023-01", 400))
    with file_tables(database, {}, 0, print) as tables:
        assert tables.execute("SELECT count(*) FROM trips").fetchall() == [(300,)]
        load_month(tables, "2023-01", path)
        assert tables.execute("SELECT count(*) FROM trips").fetchall() == [(400,)]
