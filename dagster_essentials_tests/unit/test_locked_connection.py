"""The database lock: one process at a time has the database, and those that wait log which one."""

import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
from dagster_duckdb import DuckDBResource

from dagster_essentials.errors import DatabaseBusyError, DatabaseUnusableError
from dagster_essentials.orchestration.database import open_tables
from dagster_essentials.resources import LockedDuckDBResource, database_resource
from dagster_essentials.warehouse.file import file_tables
from dagster_essentials.warehouse.tables import Tables
from dagster_essentials_tests.support.database_holder import (
    LOCK_ONLY,
    NOTEBOOK,
    READER,
    RUN,
    held,
    releasing_when_waited_for,
)

pytestmark = pytest.mark.duckdb

# Each process inserts the highest number plus one: two that overlap insert the same number, or lose one.
INSERT = "INSERT INTO counter SELECT $number"
HIGHEST = "SELECT coalesce(max(number), 0) FROM counter"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with the empty table `counter`."""
    path = tmp_path / "data.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE counter (number INTEGER)")
    return path


@contextmanager
def lock(path: Path, wait_seconds: float = 60, log: Callable[[str], object] = pytest.fail) -> Iterator[Tables]:
    """The tables of the database at `path`; by default a test fails that has to wait for it."""
    with file_tables(path, {}, wait_seconds, log) as tables:
        yield tables


def increment(tables: Tables | duckdb.DuckDBPyConnection) -> None:
    [(highest,)] = tables.execute(HIGHEST).fetchall()
    tables.execute(INSERT, {"number": highest + 1})


def numbers(path: Path) -> list[int]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return [number for (number,) in connection.execute("SELECT number FROM counter ORDER BY ALL").fetchall()]


# The lock


def test_a_thread_waits_until_the_other_one_has_finished(path: Path) -> None:
    events: list[str] = []
    second_is_waiting_or_connected = threading.Event()

    def second() -> None:
        with lock(path, log=lambda message: second_is_waiting_or_connected.set()) as tables:
            events.append("second connected")
            second_is_waiting_or_connected.set()
            increment(tables)

    thread = threading.Thread(target=second)
    with lock(path) as tables:
        events.append("first connected")
        thread.start()
        assert second_is_waiting_or_connected.wait(30)
        increment(tables)
        events.append("first finished")
    thread.join(30)

    assert events == ["first connected", "first finished", "second connected"]
    assert numbers(path) == [1, 2]


EIGHT_PROCESSES = f"""
import os, sys
from pathlib import Path
from dagster_essentials.warehouse.file import file_tables

waiting, start = os.pipe()

def increment_twice():
    os.close(start)
    os.read(waiting, 1)
    for _ in range(2):
        with file_tables(Path(sys.argv[1]), {{}}, 60, lambda message: None) as tables:
            [(highest,)] = tables.execute({HIGHEST!r}).fetchall()
            tables.execute({INSERT!r}, {{"number": highest + 1}})

children = []
for _ in range(8):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            increment_twice()
            code = 0
        finally:
            os._exit(code)
    children.append(child)
os.close(start)
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_no_write_of_eight_concurrent_processes_is_lost(path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", EIGHT_PROCESSES, str(path)], capture_output=True, text=True, timeout=120
    )

    assert process.returncode == 0, process.stderr
    assert numbers(path) == list(range(1, 8 * 2 + 1))


@pytest.mark.parametrize(
    "how", [NOTEBOOK, READER, RUN, LOCK_ONLY], ids=["a notebook", "a reader", "a run", "a run that is about to open it"]
)
def test_a_database_in_use_is_waited_for(path: Path, how: str) -> None:
    messages: list[str] = []

    with held(path, how) as holder:

        def log(message: str) -> None:
            messages.append(message)
            holder.release()

        with lock(path, log=log) as tables:
            increment(tables)

    process = "another process" if how == LOCK_ONLY else f"process {holder.pid}"
    assert messages == [f"data.duckdb is in use by {process}; waiting for it, 60 seconds at most."]
    assert numbers(path) == [1]


@pytest.mark.parametrize("how", [NOTEBOOK, RUN], ids=["a notebook", "a run"])
def test_the_wait_for_a_database_in_use_has_a_limit(path: Path, how: str) -> None:
    messages: list[str] = []

    with held(path, how) as holder:
        before = path.read_bytes()
        started = time.monotonic()
        with pytest.raises(DatabaseBusyError) as raised, lock(path, wait_seconds=0.3, log=messages.append):
            pytest.fail("the block was executed")
        seconds = time.monotonic() - started
        assert path.read_bytes() == before

    assert 0.3 <= seconds < 10
    assert str(raised.value).startswith(f"{path} was in use by process {holder.pid} for ")
    assert "DUCKDB_WAIT_SECONDS" in str(raised.value)
    assert "materialize again" in str(raised.value)
    assert len(messages) == 1, "the wait is logged once"


@pytest.mark.parametrize("how", [NOTEBOOK, RUN], ids=["a notebook", "a run"])
def test_the_lock_of_a_killed_process_is_free(path: Path, how: str) -> None:
    with held(path, how) as holder:
        holder.kill()

    with lock(path, wait_seconds=0) as tables:
        increment(tables)

    assert numbers(path) == [1]


def test_a_free_database_is_not_waited_for(path: Path) -> None:
    for _ in range(2):
        with lock(path, wait_seconds=0) as tables:
            increment(tables)

    assert numbers(path) == [1, 2]


def test_an_error_in_the_block_is_raised_unchanged_rolls_back_and_releases_the_lock(path: Path) -> None:
    def fail_within_a_transaction() -> None:
        with lock(path) as tables:
            tables.execute("BEGIN")
            increment(tables)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_within_a_transaction()

    for how in (LOCK_ONLY, NOTEBOOK):
        with held(path, how):
            pass
    with lock(path, wait_seconds=0) as tables:
        assert tables.execute(HIGHEST).fetchall() == [(0,)]


def test_a_connection_is_closed_at_the_end_of_its_block(path: Path) -> None:
    with lock(path) as tables:
        pass

    with pytest.raises(duckdb.ConnectionException, match="closed"):
        tables.execute("SELECT 1")


# The database


def test_a_new_database_is_created_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "of its own" / "data.duckdb"

    with lock(path) as tables:
        tables.execute("CREATE TABLE counter AS SELECT 1 AS number")

    assert numbers(path) == [1]


def storage_version(path: Path) -> int:
    """The version that a DuckDB compares with the highest that it can read: bytes 12 to 20 of the file."""
    [number] = struct.unpack("<Q", path.read_bytes()[12:20])
    assert isinstance(number, int)
    return number


def test_a_new_database_has_the_storage_format_of_duckdb_1_5(tmp_path: Path) -> None:
    path = tmp_path / "data.duckdb"

    with lock(path) as tables:
        tables.execute("CREATE TABLE counter AS SELECT 1 AS number")
        tags = tables.execute("SELECT tags FROM duckdb_databases() WHERE path = $path", {"path": str(path)})
        assert tags.fetchall() == [({"storage_version": "v1.5.0+"},)]

    # 64 is DuckDB 1.0 and 1.1, 65 is 1.2, 66 is 1.3, 67 is 1.4, 68 is 1.5.
    assert storage_version(path) == 68


def test_a_database_of_an_older_duckdb_keeps_its_storage_format(tmp_path: Path) -> None:
    path = tmp_path / "data.duckdb"
    with duckdb.connect(str(path), config={"storage_compatibility_version": "v1.0.0"}) as connection:
        connection.execute("CREATE TABLE counter AS SELECT 1 AS number")

    with lock(path) as tables:
        increment(tables)

    assert storage_version(path) == 64
    assert numbers(path) == [1, 2]


# Databases that cannot be opened


def damaged(database: bytes) -> bytes:
    """The file of a DuckDB database with a flipped bit in each of its two headers, as after a disk error."""
    content = bytearray(database)
    for header in (4096, 8192):
        content[header + 20] ^= 1
    return bytes(content)


@pytest.mark.parametrize("folder", ["data", "clocks"])  # DuckDB's messages contain the path: here, the word "lock".
@pytest.mark.parametrize("kind", ["text", "empty", "a damaged database", "half a database"])
def test_a_file_that_is_not_a_database_is_refused_at_once_and_unchanged(path: Path, folder: str, kind: str) -> None:
    database = path.read_bytes()
    content = {
        "text": b"vendor_id,pickup_zone_id\n1,2\n" * 500,
        "empty": b"",
        "a damaged database": damaged(database),
        "half a database": database[: len(database) // 2],
    }[kind]
    file = path.parent / folder / "data.duckdb"
    file.parent.mkdir()
    file.write_bytes(content)

    with (
        pytest.raises(DatabaseUnusableError, match=r"cannot be opened as a DuckDB database .*move it away"),
        lock(file),
    ):
        pytest.fail("the block was executed")

    assert file.read_bytes() == content


def test_a_folder_that_cannot_be_created_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "staging").write_text("a file where the folder should be")

    with (
        pytest.raises(DatabaseUnusableError, match=r"staging: File exists.*needs a folder that this user can write"),
        lock(tmp_path / "staging" / "data.duckdb"),
    ):
        pytest.fail("the block was executed")

    assert (tmp_path / "staging").read_text() == "a file where the folder should be"


# The resource


@pytest.mark.parametrize("how", [NOTEBOOK, LOCK_ONLY], ids=["a notebook", "a run that is about to open it"])
def test_the_resource_logs_in_dagster_what_it_waits_for(path: Path, how: str) -> None:
    database = LockedDuckDBResource(database=str(path), wait_seconds=60)

    with (
        held(path, how) as holder,
        releasing_when_waited_for(holder) as messages,
        database.get_connection() as connection,
    ):
        increment(connection)

    process = "another process" if how == LOCK_ONLY else f"process {holder.pid}"
    assert messages == [f"data.duckdb is in use by {process}; waiting for it, 60 seconds at most."]
    assert numbers(path) == [1]


def test_the_resource_waits_as_long_as_it_is_configured_to(path: Path) -> None:
    database = LockedDuckDBResource(database=str(path), wait_seconds=0)

    with held(path), pytest.raises(DatabaseBusyError, match="for the 0 seconds"), database.get_connection():
        pytest.fail("the block was executed")


@pytest.mark.parametrize("resource", [LockedDuckDBResource, DuckDBResource], ids=["locked", "plain"])
def test_an_asset_of_somebody_else_gets_a_plain_connection_and_those_of_this_project_get_tables(
    resource: type[DuckDBResource], path: Path
) -> None:
    database = resource(database=str(path))

    with database.get_connection() as connection:
        assert isinstance(connection, duckdb.DuckDBPyConnection)
        increment(connection)
    with open_tables(database) as tables, tables.transaction():
        increment(tables)

    assert numbers(path) == [1, 2]


def test_the_tables_of_the_resource_are_locked_like_its_connection(path: Path) -> None:
    database = LockedDuckDBResource(database=str(path), wait_seconds=0)

    with held(path), pytest.raises(DatabaseBusyError, match="for the 0 seconds"), open_tables(database):
        pytest.fail("the block was executed")


def test_the_default_memory_limit_is_that_of_the_settings(path: Path) -> None:
    database = LockedDuckDBResource(database=str(path), connection_config=database_resource.connection_config)

    with database.get_connection() as connection:
        assert connection.execute("SELECT current_setting('memory_limit')").fetchall() == [("488.2 MiB",)]


SHOW_SETTINGS = """
import json
from dagster_essentials.orchestration.database import open_tables
from dagster_essentials.resources import database_resource

with database_resource.get_connection() as connection:
    connection.execute("SELECT current_setting('memory_limit'), current_setting('threads'), current_database()")
    print(json.dumps([*connection.fetchall()[0], database_resource.wait_seconds]))
"""


def test_the_settings_are_applied_to_duckdb(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "taxi.duckdb"
    settings = {
        "DUCKDB_DATABASE": str(path),
        "DUCKDB_MEMORY_LIMIT": "384MiB",
        "DUCKDB_THREADS": "3",
        "DUCKDB_WAIT_SECONDS": "7",
    }

    process = subprocess.run(
        [sys.executable, "-c", SHOW_SETTINGS],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert json.loads(process.stdout) == ["384.0 MiB", 3, "taxi", 7]
    assert path.exists()
