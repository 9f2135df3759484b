"""Atomic writes, also when processes are killed and when writers are concurrent; and reading one version of a file."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dagster_essentials.errors import LoadError, QueryError, RowCountMismatchError, WriteError
from dagster_essentials.ingestion.atomic_write import atomic_write
from dagster_essentials.ingestion.column_mapping import map_columns
from dagster_essentials.ingestion.file_format import Parquet
from dagster_essentials.ingestion.month_files import OpenMonthFile, open_month_file
from dagster_essentials.warehouse import load as month_load
from dagster_essentials.warehouse.file import file_tables
from dagster_essentials.warehouse.tables import Tables
from dagster_essentials_tests.support.faults.samples import sample
from dagster_essentials_tests.support.loading import load_month, month_file
from dagster_essentials_tests.support.project import DISK

WRITER = """
import sys
from pathlib import Path
from dagster_essentials.ingestion.atomic_write import atomic_write
from dagster_essentials.ingestion.data_folder import DataFolder
with atomic_write(Path(sys.argv[1]), DataFolder(Path("/"))) as temporary:
    temporary.write_text("from the other process")
    print(temporary, flush=True)
    sys.stdin.readline()
"""
READER = """
import duckdb, sys
from pathlib import Path
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.ingestion.month_files import MonthFile, open_month_file
with open_month_file(MonthFile(YELLOW, "2023-01", "", Path(sys.argv[1]), DataFolder(Path("/")))) as file:
    print(file.reader_path, flush=True)
    sys.stdin.readline()
    print(*duckdb.execute("SELECT version FROM read_parquet($file)", {"file": file.reader_path}).fetchone())
"""


@contextmanager
def process_in_block(script: str, path: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """A process within the block of WRITER or READER, and the path it got there; it continues when it reads a line."""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# Writing


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    with atomic_write(path, DISK) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("complete")
        assert not path.exists()
    assert path.read_text() == "complete"
    assert names(tmp_path) == ["trips.parquet"]


def test_the_temporary_file_is_empty_and_matches_no_pattern_for_months(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "taxi_trips_2023-01.parquet", DISK) as temporary:
        assert temporary.read_bytes() == b""
        assert temporary.parent == tmp_path
        assert list(tmp_path.glob("taxi_trips_*")) == list(tmp_path.glob("*.parquet")) == []


def test_an_earlier_file_is_unchanged_until_the_rename(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    path.write_text("earlier, and longer")
    with atomic_write(path, DISK) as temporary:
        temporary.write_text("later")
        assert path.read_text() == "earlier, and longer"
    assert path.read_text() == "later"


def test_an_open_reader_continues_with_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    path.write_text("earlier")
    with open(path) as reader:
        with atomic_write(path, DISK) as temporary:
            temporary.write_text("later")
        assert reader.read() == "earlier"


@pytest.mark.parametrize(
    "error",
    # The errors of requests are OSErrors without an errno.
    [ValueError("not a parquet file"), OSError("connection broken"), KeyboardInterrupt(), SystemExit(1)],
    ids=repr,
)
@pytest.mark.parametrize("earlier", [None, "earlier"])
def test_an_error_in_the_block_leaves_no_temporary_file_and_an_earlier_file_unchanged(
    error: BaseException, earlier: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "trips.parquet"
    if earlier is not None:
        path.write_text(earlier)
        os.utime(path, ns=(1, 1))

    def write() -> None:
        with atomic_write(path, DISK) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)) as raised:
        write()
    assert raised.value is error
    assert names(tmp_path) == ([] if earlier is None else ["trips.parquet"])
    if earlier is not None:
        assert (path.read_text(), path.stat().st_mtime_ns) == (earlier, 1)


def test_missing_folders_are_created(tmp_path: Path) -> None:
    path = tmp_path / "data" / "raw" / "trips.parquet"
    with atomic_write(path, DISK) as temporary:
        temporary.write_text("complete")
    assert path.read_text() == "complete"


def test_a_full_disk_is_a_write_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    path.write_text("earlier")
    with pytest.raises(WriteError) as raised, atomic_write(path, DISK):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(raised.value) == (
        f"{path} could not be written (No space left on device). What was there before is unchanged. Free some disk space, "
        "or give this user the right to write there, and materialize again."
    )
    assert names(tmp_path) == ["trips.parquet"]
    assert path.read_text() == "earlier"


def test_a_folder_that_cannot_be_created_is_a_write_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(WriteError) as raised, atomic_write(tmp_path / "data" / "trips.parquet", DISK):
        pytest.fail("there is nothing to write to")
    assert str(raised.value) == (
        f"{tmp_path}/data could not be written (File exists). What was there before is unchanged. Something else has this "
        "name: move it away, and materialize again."
    )


def test_a_folder_with_the_name_of_the_file_is_a_write_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    path.mkdir()
    with pytest.raises(WriteError) as raised, atomic_write(path, DISK):
        pass
    assert str(raised.value).startswith(f"{path} could not be written (Is a directory).")
    assert "Something else has this name" in str(raised.value)
    assert names(tmp_path) == ["trips.parquet"]


def test_the_temporary_file_of_a_killed_process_is_removed_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    path.write_text("earlier")
    with process_in_block(WRITER, path) as (process, stale):
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=10) == -signal.SIGKILL
    assert stale.read_text() == "from the other process"
    assert path.read_text() == "earlier"
    with atomic_write(path, DISK) as temporary:
        assert not stale.exists()
        temporary.write_text("later")
    assert names(tmp_path) == ["trips.parquet"]
    assert path.read_text() == "later"


def test_stale_temporary_files_are_removed_even_if_the_next_writer_fails(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    with process_in_block(WRITER, path) as (process, stale):
        process.kill()
        process.wait(timeout=10)
    assert stale.exists()
    with pytest.raises(ValueError, match="bad month"), atomic_write(path, DISK):
        raise ValueError("bad month")
    assert names(tmp_path) == []


def test_the_temporary_file_of_a_running_process_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    with process_in_block(WRITER, path) as (process, others):
        with atomic_write(path, DISK) as temporary:
            assert temporary != others
            assert others.read_text() == "from the other process"
            temporary.write_text("from this process")
        assert path.read_text() == "from this process"
        assert others.exists()
        process.communicate("continue\n", timeout=10)
        assert process.returncode == 0
    assert path.read_text() == "from the other process"
    assert names(tmp_path) == ["trips.parquet"]


def test_temporary_files_of_other_paths_are_not_removed(tmp_path: Path) -> None:
    others = [
        ".trips_2023-01.parquet",
        ".trips_2023-01.parquet.source.json",
        ".trips_2023-02.parquet.0.partial",
        "trips_2023-01.parquet.partial",
    ]
    for name in others:
        (tmp_path / name).write_text("not ours")
    with atomic_write(tmp_path / "trips_2023-01.parquet", DISK) as temporary:
        temporary.write_text("complete")
    assert names(tmp_path) == sorted([*others, "trips_2023-01.parquet"])


def test_of_two_writers_the_last_to_finish_wins(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    with atomic_write(path, DISK) as outer:
        outer.write_text("started first, finished last")
        with atomic_write(path, DISK) as inner:
            inner.write_text("finished first")
        assert path.read_text() == "finished first"
    assert path.read_text() == "started first, finished last"
    assert names(tmp_path) == ["trips.parquet"]


def test_many_concurrent_writers_all_succeed_and_readers_see_only_complete_files(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    writers, rounds = 6, 40
    start = threading.Barrier(writers)
    done = threading.Event()
    with atomic_write(path, DISK) as temporary:
        temporary.write_bytes(b"x" * 10_000)

    def write(number: int) -> int:
        start.wait(timeout=10)
        for _ in range(rounds):
            with atomic_write(path, DISK) as temporary:
                for _ in range(10):
                    with open(temporary, "ab") as file:
                        file.write(bytes([number]) * 1000)
        return rounds

    def read() -> set[tuple[int, int]]:
        seen = set()
        while not done.is_set():
            content = path.read_bytes()
            seen.add((len(set(content)), len(content)))
        return seen

    with ThreadPoolExecutor(writers + 1) as pool:
        reader = pool.submit(read)
        try:
            assert sum(pool.map(write, range(writers))) == writers * rounds
        finally:
            done.set()
        assert reader.result() == {(1, 10_000)}
    assert names(tmp_path) == ["trips.parquet"]


# Reading one version


def write_version(path: Path, version: str, rows: int = 1000) -> Path:
    with atomic_write(path, DISK) as temporary, duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT '{version}' AS version FROM range({rows})) TO '{temporary}' "
            "(FORMAT parquet, USE_TMP_FILE false)"
        )
    return path


def read_versions(
    file: OpenMonthFile, connection: Tables | duckdb.DuckDBPyConnection | None = None
) -> list[tuple[Any, ...]]:
    """Each version among the rows that DuckDB reads, with the number of its rows."""
    return (
        (connection or duckdb.connect())
        .execute("SELECT version, count(*) FROM read_parquet($file) GROUP BY ALL", {"file": file.reader_path})
        .fetchall()
    )


def without_dev_fd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process find no open files in /dev/fd."""
    original = Path.stat

    def stat(self: Path, **options: Any) -> os.stat_result:
        if str(self).startswith("/dev/fd/"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return original(self, **options)

    monkeypatch.setattr(Path, "stat", stat)


def with_other_files_in_dev_fd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files in /dev/fd be others than the open ones."""
    monkeypatch.setattr("os.path.samestat", lambda first, second: False)


def test_a_file_that_is_replaced_while_open_is_still_read_as_the_old_version(tmp_path: Path) -> None:
    path = write_version(tmp_path / "month.parquet", "old", 1000)
    old = path.read_bytes()

    with open_month_file(month_file(path)) as file:
        write_version(path, "new", 2000)
        assert names(tmp_path) == ["month.parquet"], "no second file, which a killed process would leave"
        assert read_versions(file) == [("old", 1000)]
        file.content.seek(0)
        assert (file.bytes, file.content.read()) == (len(old), old)
        path.unlink()
        assert read_versions(file) == [("old", 1000)]


def test_every_reader_gets_one_complete_version_while_others_replace_the_file(tmp_path: Path) -> None:
    path = write_version(tmp_path / "month.parquet", "version 1", 1000)
    versions = [path.read_bytes(), write_version(path, "version 2", 2000).read_bytes()]
    stop = threading.Event()

    def replace_repeatedly() -> None:
        while not stop.is_set():
            for version in versions:
                with atomic_write(path, DISK) as temporary:
                    temporary.write_bytes(version)

    writer = threading.Thread(target=replace_repeatedly)
    writer.start()
    try:
        with file_tables(tmp_path / "database" / "data.duckdb", {}, 0, print) as tables:
            for _ in range(300):
                with open_month_file(month_file(path)) as file:
                    file.content.seek(0)
                    number = versions.index(file.content.read()) + 1
                    assert read_versions(file, tables) == [(f"version {number}", 1000 * number)]
    finally:
        stop.set()
        writer.join()
    assert names(tmp_path) == ["database", "month.parquet"]


def test_two_files_with_the_same_descriptor_size_and_time_are_read_one_after_the_other(tmp_path: Path) -> None:
    paths = [write_version(tmp_path / f"{version}.parquet", version) for version in ("first", "other")]
    for path in paths:
        os.utime(path, (1e9, 1e9))
    assert paths[0].stat().st_size == paths[1].stat().st_size

    found = []
    with duckdb.connect() as connection:
        for path in paths:
            with open_month_file(month_file(path)) as file:
                found.append((file.reader_path, read_versions(file, connection)))

    assert found[0][0] == found[1][0]
    assert [rows for _, rows in found] == [[("first", 1000)], [("other", 1000)]], (
        "DuckDB has not read the first one twice"
    )


def test_files_with_the_same_descriptor_are_not_confused_if_they_are_replaced_during_a_query(tmp_path: Path) -> None:
    path = tmp_path / "month.parquet"
    results = []

    with file_tables(tmp_path / "database" / "data.duckdb", {}, 0, print) as tables:
        for number in range(1, 5):
            write_version(path, f"version {number}", 1000 * number)
            with open_month_file(month_file(path)) as file:
                # The footer is read here, and the rows when they are fetched.
                query = tables.connection.sql(
                    f"SELECT version, count(*) FROM read_parquet('{file.reader_path}') GROUP BY ALL"
                )
                write_version(path, "replaced", 10)
                results.append(query.fetchall())

    assert results == [[(f"version {number}", 1000 * number)] for number in range(1, 5)]


def test_a_killed_reader_leaves_nothing_behind(tmp_path: Path) -> None:
    path = write_version(tmp_path / "month.parquet", "old")
    before = path.read_bytes()

    with process_in_block(READER, path) as (process, reader_path):
        assert reader_path.parent == Path("/dev/fd")
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=10) == -signal.SIGKILL

    assert names(tmp_path) == ["month.parquet"]
    assert path.read_bytes() == before


def test_a_reader_in_another_process_is_not_disturbed_by_a_writer(tmp_path: Path) -> None:
    path = write_version(tmp_path / "month.parquet", "old")

    with process_in_block(READER, path) as (process, _):
        write_version(path, "new")
        output, _ = process.communicate("continue\n", timeout=30)
        assert process.returncode == 0

    assert output == "old\n"
    assert names(tmp_path) == ["month.parquet"]


@pytest.mark.parametrize("unavailable", [without_dev_fd, with_other_files_in_dev_fd])
def test_without_dev_fd_the_file_is_read_by_its_own_name_and_a_warning_is_logged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    unavailable: Callable[[pytest.MonkeyPatch], None],
) -> None:
    (tmp_path / "a").mkdir()
    write_version(tmp_path / "a" / "month.parquet", "matched by the pattern")
    path = write_version(tmp_path / "[a]" / "month.parquet", "old")
    unavailable(monkeypatch)

    with open_month_file(month_file(path)) as file:
        assert read_versions(file) == [("old", 1000)]
        (message,) = caplog.messages
        assert message.startswith("/dev/fd/")
        assert message.endswith(f" is not available: reading {path} by its name instead")


def test_a_missing_file_is_a_load_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "nothing.parquet"
    with pytest.raises(LoadError) as raised, duckdb.connect() as connection:
        load_month(connection, "2023-01", path)
    assert raised.value.describe("2023-01") == (
        f"2023-01 ({path}): there is no such file. Materialize taxi_trips_file for this month first."
    )


def test_a_file_that_cannot_be_opened_is_a_load_error_that_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(LoadError, match=r"cannot be read \(Is a directory\)\. Materialize.*again"),
        open_month_file(month_file(tmp_path)),
    ):
        pytest.fail("there is nothing to read")


# Loading one version


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with 300 trips of January 2023."""
    path = tmp_path / "january.parquet"
    path.write_bytes(sample("2023-01"))
    with duckdb.connect() as connection:
        load_month(connection, "2023-01", path)
        yield connection


def trips(connection: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    return connection.execute("SELECT * FROM trips ORDER BY ALL").fetchall()


def replaced_during_the_load(path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another run replace `path` by `content` when a load has read the schema, and not the rows yet."""

    def map_columns_late(*arguments: Any) -> Any:
        with atomic_write(path, DISK) as temporary:
            temporary.write_bytes(content)
        return map_columns(*arguments)

    monkeypatch.setattr(month_load, "map_columns", map_columns_late)


def test_a_file_that_is_replaced_during_its_load_is_loaded_as_the_old_version(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, old = tmp_path / "month.parquet", sample("2023-01", 200)
    path.write_bytes(old)
    replaced_during_the_load(path, sample("2023-01", 400), monkeypatch)

    month = load_month(connection, "2023-01", path)

    assert (month.version.num_trips, len(trips(connection))) == (200, 200)
    assert (month.version.sha256, month.bytes) == (hashlib.sha256(old).hexdigest(), len(old))
    assert path.read_bytes() == sample("2023-01", 400)


def test_without_dev_fd_a_file_that_is_replaced_during_its_load_is_found_by_its_row_count(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = trips(connection)
    path = tmp_path / "month.parquet"
    path.write_bytes(sample("2023-01", 200))
    without_dev_fd(monkeypatch)
    replaced_during_the_load(path, sample("2023-01", 400), monkeypatch)

    with pytest.raises(RowCountMismatchError, match="the file has 200 rows, but 400 were loaded") as raised:
        load_month(connection, "2023-01", path)

    assert (raised.value.rows_in_file, raised.value.rows_in_table) == (200, 400)
    assert trips(connection) == before


@pytest.mark.parametrize(("owner", "function"), [(Parquet, "read_schema"), (month_load, "identify_content")])
def test_an_error_while_the_file_is_read_leaves_the_month_unchanged(
    tmp_path: Path,
    connection: duckdb.DuckDBPyConnection,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    function: str,
) -> None:
    before = trips(connection)
    path = tmp_path / "month.parquet"
    path.write_bytes(sample("2023-01", 200))

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(owner, function, fail)

    with pytest.raises(LoadError, match=r"cannot be read \(Input/output error\)\. The month is unchanged") as raised:
        load_month(connection, "2023-01", path)

    assert raised.value.source == path
    assert trips(connection) == before


def test_a_message_of_duckdb_names_the_file_and_not_its_descriptor(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    good = sample("2023-01", 200)
    path = tmp_path / "month.parquet"
    # The footer is complete, and the pages are gone.
    path.write_bytes(good[:4] + bytes(len(good) // 4) + good[4 + len(good) // 4 :])

    with pytest.raises(QueryError, match="loading the file failed") as raised:
        load_month(connection, "2023-01", path)

    assert "/dev/fd" not in str(raised.value)
    assert raised.value.source == path
