"""The database: one at a time, whoever asks, and who waits learns for whom."""

import json
import logging
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pytest

from dagster_essentials.resources import (
    DatabaseBusyError,
    DatabaseUnusableError,
    TurnTakingDuckDBResource,
    database_resource,
)
from dagster_essentials_tests.support.database_holder import (
    LOCK_ONLY,
    NOTEBOOK,
    READER,
    RUN,
    held,
    releasing_when_waited_for,
)

# Each turn adds the number after the highest: two that overlap add the same number, or lose one.
COUNT_UP = "INSERT INTO turns SELECT $number"
HIGHEST = "SELECT coalesce(max(number), 0) FROM turns"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with the empty table `turns`."""
    path = tmp_path / "data.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE turns (number INTEGER)")
    return path


def numbers(path: Path) -> list[int]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return [number for (number,) in connection.execute("SELECT number FROM turns ORDER BY ALL").fetchall()]


# Turns


def test_a_thread_waits_until_the_other_one_is_done(path: Path) -> None:
    database = TurnTakingDuckDBResource(database=str(path), wait_seconds=60)
    events: list[str] = []
    second_is_waiting_or_in = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            second_is_waiting_or_in.set()

    def second() -> None:
        with database.get_connection() as connection:
            events.append("second in")
            second_is_waiting_or_in.set()
            [(highest,)] = connection.execute(HIGHEST).fetchall()
            connection.execute(COUNT_UP, {"number": highest + 1})

    listener = Listener()
    logging.getLogger("dagster").addHandler(listener)
    thread = threading.Thread(target=second)
    try:
        with database.get_connection() as connection:
            events.append("first in")
            thread.start()
            assert second_is_waiting_or_in.wait(30)
            [(highest,)] = connection.execute(HIGHEST).fetchall()
            connection.execute(COUNT_UP, {"number": highest + 1})
            events.append("first done")
        thread.join(30)
    finally:
        logging.getLogger("dagster").removeHandler(listener)

    assert events == ["first in", "first done", "second in"]
    assert numbers(path) == [1, 2]


EIGHT_PROCESSES = f"""
import os, sys
from dagster_essentials.resources import TurnTakingDuckDBResource

database = TurnTakingDuckDBResource(database=sys.argv[1], wait_seconds=60)
waiting, start = os.pipe()

def take_turns():
    os.close(start)
    os.read(waiting, 1)
    for _ in range(2):
        with database.get_connection() as connection:
            [(highest,)] = connection.execute({HIGHEST!r}).fetchall()
            connection.execute({COUNT_UP!r}, {{"number": highest + 1}})

children = []
for _ in range(8):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            take_turns()
            code = 0
        finally:
            os._exit(code)
    children.append(child)
os.close(start)
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_eight_processes_at_once_lose_nothing(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EIGHT_PROCESSES, str(path)], capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert numbers(path) == list(range(1, 8 * 2 + 1))


@pytest.mark.parametrize(
    "how", [NOTEBOOK, READER, RUN, LOCK_ONLY], ids=["a notebook", "a reader", "a run", "a run about to open it"]
)
def test_a_database_in_use_is_waited_for(path: Path, how: str) -> None:
    database = TurnTakingDuckDBResource(database=str(path), wait_seconds=60)

    with (
        held(path, how) as holder,
        releasing_when_waited_for(holder) as said,
        database.get_connection() as connection,
    ):
        connection.execute(COUNT_UP, {"number": 1})

    process = "another process" if how == LOCK_ONLY else f"process {holder.pid}"
    assert said == [f"data.duckdb is in use by {process}; waiting for it, 60 seconds at most."]
    assert numbers(path) == [1]


@pytest.mark.parametrize("how", [NOTEBOOK, RUN], ids=["a notebook", "a run"])
def test_the_wait_for_a_database_in_use_has_an_end(path: Path, how: str) -> None:
    database = TurnTakingDuckDBResource(database=str(path), wait_seconds=0.3)

    with held(path, how) as holder:
        before = path.read_bytes()
        started = time.monotonic()
        with pytest.raises(DatabaseBusyError) as raised, database.get_connection():
            pytest.fail("the block ran")
        seconds = time.monotonic() - started
        assert path.read_bytes() == before

    assert 0.3 <= seconds < 10
    assert str(raised.value).startswith(f"{path} was in use by process {holder.pid} for ")
    assert "DUCKDB_WAIT_SECONDS" in str(raised.value)
    assert "materialize again" in str(raised.value)


@pytest.mark.parametrize("how", [NOTEBOOK, RUN], ids=["a notebook", "a run"])
def test_a_process_that_was_killed_holds_nothing(path: Path, caplog: pytest.LogCaptureFixture, how: str) -> None:
    caplog.set_level(logging.INFO)
    with held(path, how) as holder:
        holder.kill()

    with TurnTakingDuckDBResource(database=str(path), wait_seconds=0).get_connection() as connection:
        connection.execute(COUNT_UP, {"number": 1})

    assert caplog.messages == []
    assert numbers(path) == [1]


def test_a_free_database_is_not_waited_for(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for number in (1, 2):
        with TurnTakingDuckDBResource(database=str(path), wait_seconds=0).get_connection() as connection:
            connection.execute(COUNT_UP, {"number": number})

    assert caplog.messages == []
    assert numbers(path) == [1, 2]


def test_an_error_in_the_block_keeps_its_kind_undoes_its_transaction_and_frees_the_database(path: Path) -> None:
    database = TurnTakingDuckDBResource(database=str(path), wait_seconds=0)

    def fail_half_way() -> None:
        with database.get_connection() as connection:
            connection.execute("BEGIN")
            connection.execute(COUNT_UP, {"number": 1})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()

    for how in (LOCK_ONLY, NOTEBOOK):
        with held(path, how):  # Somebody else can have it,
            pass
    with database.get_connection() as connection:  # and this process again.
        assert connection.execute(HIGHEST).fetchall() == [(0,)]


def test_a_connection_is_closed_at_the_end_of_its_block(path: Path) -> None:
    with TurnTakingDuckDBResource(database=str(path)).get_connection() as connection:
        pass

    with pytest.raises(duckdb.ConnectionException, match="closed"):
        connection.execute("SELECT 1")


# What is opened


def test_a_database_is_made_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "of its own" / "data.duckdb"

    with TurnTakingDuckDBResource(database=str(path)).get_connection() as connection:
        connection.execute("CREATE TABLE turns AS SELECT 1 AS number")

    assert numbers(path) == [1]


def storage_version(path: Path) -> int:
    """The number that a DuckDB compares with the highest it can read: bytes 12 to 20 of the file."""
    [number] = struct.unpack("<Q", path.read_bytes()[12:20])
    assert isinstance(number, int)
    return number


def test_a_new_database_has_the_storage_format_of_duckdb_1_5(tmp_path: Path) -> None:
    path = tmp_path / "data.duckdb"

    with TurnTakingDuckDBResource(database=str(path)).get_connection() as connection:
        connection.execute("CREATE TABLE turns AS SELECT 1 AS number")
        tags = connection.execute("SELECT tags FROM duckdb_databases() WHERE path = $path", {"path": str(path)})
        assert tags.fetchall() == [({"storage_version": "v1.5.0+"},)]

    # 64 is DuckDB 1.0 and 1.1, 65 is 1.2, 66 is 1.3, 67 is 1.4, 68 is 1.5.
    assert storage_version(path) == 68


def test_a_database_of_an_older_duckdb_is_still_read_by_it_after_a_turn(tmp_path: Path) -> None:
    path = tmp_path / "data.duckdb"
    with duckdb.connect(str(path), config={"storage_compatibility_version": "v1.0.0"}) as connection:
        connection.execute("CREATE TABLE turns AS SELECT 1 AS number")

    with TurnTakingDuckDBResource(database=str(path)).get_connection() as connection:
        connection.execute(COUNT_UP, {"number": 2})

    assert storage_version(path) == 64
    assert numbers(path) == [1, 2]


def test_memory_is_limited_unless_the_settings_say_otherwise(path: Path) -> None:
    database = TurnTakingDuckDBResource(database=str(path), connection_config=database_resource.connection_config)

    with database.get_connection() as connection:
        assert connection.execute("SELECT current_setting('memory_limit')").fetchall() == [("488.2 MiB",)]


SHOW_SETTINGS = """
import json
from dagster_essentials.resources import database_resource

with database_resource.get_connection() as connection:
    connection.execute("SELECT current_setting('memory_limit'), current_setting('threads'), current_database()")
    print(json.dumps([*connection.fetchall()[0], database_resource.wait_seconds]))
"""


def test_the_settings_arrive_in_duckdb(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "taxi.duckdb"
    settings = {
        "DUCKDB_DATABASE": str(path),
        "DUCKDB_MEMORY_LIMIT": "384MiB",
        "DUCKDB_THREADS": "3",
        "DUCKDB_WAIT_SECONDS": "7",
    }

    shown = subprocess.run(
        [sys.executable, "-c", SHOW_SETTINGS],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert json.loads(shown.stdout) == ["384.0 MiB", 3, "taxi", 7]
    assert path.exists()


# What cannot be opened


def damaged(database: bytes) -> bytes:
    """The file of a DuckDB database with a bit flipped in each of its two headers, as a failing disk leaves it."""
    content = bytearray(database)
    for header in (4096, 8192):
        content[header + 20] ^= 1
    return bytes(content)


@pytest.mark.parametrize("folder", ["data", "clocks"])  # DuckDB's errors hold the path, and some hold the word lock.
@pytest.mark.parametrize("what", ["text", "nothing", "a damaged database", "half a database"])
def test_a_file_that_is_no_database_is_told_at_once_and_stays(path: Path, folder: str, what: str) -> None:
    database = path.read_bytes()
    content = {
        "text": b"vendor_id,pickup_zone_id\n1,2\n" * 500,
        "nothing": b"",
        "a damaged database": damaged(database),
        "half a database": database[: len(database) // 2],
    }[what]
    place = path.parent / folder / "data.duckdb"
    place.parent.mkdir()
    place.write_bytes(content)

    with (
        pytest.raises(DatabaseUnusableError, match=r"cannot be opened as a DuckDB database .*move it away"),
        TurnTakingDuckDBResource(database=str(place), wait_seconds=0.2).get_connection(),
    ):
        pytest.fail("the block ran")

    assert place.read_bytes() == content


def test_a_folder_that_cannot_be_made_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "staging").write_text("a file where the folder should be")

    with (
        pytest.raises(DatabaseUnusableError, match=r"staging: File exists.*needs a folder that this user can write"),
        TurnTakingDuckDBResource(database=str(tmp_path / "staging" / "data.duckdb")).get_connection(),
    ):
        pytest.fail("the block ran")

    assert (tmp_path / "staging").read_text() == "a file where the folder should be"
