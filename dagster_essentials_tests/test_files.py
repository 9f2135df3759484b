"""Files that appear whole or not at all, also when processes die, and when several write the same one."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from dagster_essentials import files
from dagster_essentials.files import replacing, second_name

# Loads the module alone, which takes a tenth of what the package takes, and stops within the block.
PROCESS = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("files", sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
with getattr(files, sys.argv[2])(pathlib.Path(sys.argv[3])) as name:
    if sys.argv[2] == "replacing":
        name.write_text("from the other process")
    print(name, flush=True)
    sys.stdin.readline()
"""


@contextmanager
def process_that(
    does: Callable[[Path], AbstractContextManager[Path]], path: Path
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process within the block of `does`, and what that gave for `path`; it goes on when it reads a line."""
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS, files.__file__, does.__name__, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names(tmp_path) == ["trips.parquet"]


def test_the_temporary_file_is_empty_and_cannot_be_taken_for_a_month(tmp_path: Path) -> None:
    with replacing(tmp_path / "taxi_trips_2023-01.parquet") as temporary:
        assert temporary.read_bytes() == b""
        assert temporary.parent == tmp_path
        assert list(tmp_path.glob("taxi_trips_*")) == list(tmp_path.glob("*.parquet")) == []


def test_an_earlier_file_stands_until_the_new_one_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    path.write_text("earlier, and longer")
    with replacing(path) as temporary:
        temporary.write_text("later")
        assert path.read_text() == "earlier, and longer"
    assert path.read_text() == "later"


def test_who_reads_the_earlier_file_can_finish_it(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    path.write_text("earlier")
    with open(path) as reader:
        with replacing(path) as temporary:
            temporary.write_text("later")
        assert reader.read() == "earlier"


@pytest.mark.parametrize("error", [ValueError("not a parquet file"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
@pytest.mark.parametrize("earlier", [None, "earlier"])
def test_an_error_leaves_nothing_behind_and_an_earlier_file_untouched(
    error: BaseException, earlier: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "trips.parquet"
    if earlier is not None:
        path.write_text(earlier)
        os.utime(path, ns=(1, 1))

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)) as raised:
        write()
    assert raised.value is error
    assert names(tmp_path) == ([] if earlier is None else ["trips.parquet"])
    if earlier is not None:
        assert (path.read_text(), path.stat().st_mtime_ns) == (earlier, 1)


def test_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "data" / "raw" / "trips.parquet"
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="data"), replacing(tmp_path / "data" / "trips.parquet"):
        pytest.fail("there is nothing to write to")


def test_what_a_killed_process_left_is_removed_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    path.write_text("earlier")
    with process_that(replacing, path) as (process, leftover):
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=10) == -signal.SIGKILL
    assert leftover.read_text() == "from the other process"
    assert path.read_text() == "earlier"
    with replacing(path) as temporary:
        assert not leftover.exists()
        temporary.write_text("later")
    assert names(tmp_path) == ["trips.parquet"]
    assert path.read_text() == "later"


def test_leftovers_are_removed_even_if_the_next_writer_fails(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    with process_that(replacing, path) as (process, leftover):
        process.kill()
        process.wait(timeout=10)
    assert leftover.exists()
    with pytest.raises(ValueError, match="bad month"), replacing(path):
        raise ValueError("bad month")
    assert names(tmp_path) == []


def test_the_temporary_file_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    with process_that(replacing, path) as (process, others):
        with replacing(path) as temporary:
            assert temporary != others
            assert others.read_text() == "from the other process"
            temporary.write_text("from this process")
        assert path.read_text() == "from this process"
        assert others.exists()
        process.communicate("go on\n", timeout=10)
        assert process.returncode == 0
    assert path.read_text() == "from the other process"
    assert names(tmp_path) == ["trips.parquet"]


def test_leftovers_of_other_files_are_not_touched(tmp_path: Path) -> None:
    others = [
        ".trips_2023-01.parquet",
        ".trips_2023-01.parquet.source.json",
        ".trips_2023-02.parquet.0.partial",
        "trips_2023-01.parquet.partial",
    ]
    for name in others:
        (tmp_path / name).write_text("not ours")
    with replacing(tmp_path / "trips_2023-01.parquet") as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == sorted([*others, "trips_2023-01.parquet"])


def test_of_two_writers_the_last_to_finish_wins(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    with replacing(path) as outer:
        outer.write_text("started first, finished last")
        with replacing(path) as inner:
            inner.write_text("finished first")
        assert path.read_text() == "finished first"
    assert path.read_text() == "started first, finished last"
    assert names(tmp_path) == ["trips.parquet"]


def test_many_writers_at_once_all_succeed_and_every_reader_finds_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    writers, turns = 6, 40
    together = threading.Barrier(writers)
    done = threading.Event()
    with replacing(path) as temporary:
        temporary.write_bytes(b"x" * 10_000)

    def write(number: int) -> int:
        together.wait(timeout=10)
        for _ in range(turns):
            with replacing(path) as temporary:
                for _ in range(10):
                    with open(temporary, "ab") as file:
                        file.write(bytes([number]) * 1000)
        return turns

    def read() -> set[tuple[int, int]]:
        seen = set()
        while not done.is_set():
            content = path.read_bytes()
            seen.add((len(set(content)), len(content)))
        return seen

    with ThreadPoolExecutor(writers + 1) as pool:
        reader = pool.submit(read)
        try:
            assert sum(pool.map(write, range(writers))) == writers * turns
        finally:
            done.set()
        assert reader.result() == {(1, 10_000)}
    assert names(tmp_path) == ["trips.parquet"]


def test_a_second_name_keeps_the_file_while_another_takes_its_place_and_leftovers_are_swept(tmp_path: Path) -> None:
    path = tmp_path / "month.parquet"
    path.write_text("old")
    with second_name(path) as name:
        with replacing(path) as temporary:
            temporary.write_text("new")
        assert name.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_name_is_had_however_often_others_sweep(tmp_path: Path) -> None:
    path = tmp_path / "month.parquet"
    path.write_text("old")
    stop = threading.Event()

    def write_again_and_again() -> None:
        while not stop.is_set():
            with replacing(path) as temporary:
                temporary.write_text("new")

    writer = threading.Thread(target=write_again_and_again)
    writer.start()
    try:
        # Without a second try about one in nine fails.
        for _ in range(300):
            with second_name(path) as name:
                assert name.read_text() in ("old", "new")
    finally:
        stop.set()
        writer.join()
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_name_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), second_name(tmp_path / "nothing"):
        pass


@pytest.mark.parametrize("next_one", [second_name, replacing])
def test_the_second_name_that_a_killed_process_left_is_removed_by_the_next_reader_or_writer(
    next_one: Callable[[Path], AbstractContextManager[Path]], tmp_path: Path
) -> None:
    path = tmp_path / "month.parquet"
    path.write_text("whole")
    with process_that(second_name, path) as (process, leftover):
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=10) == -signal.SIGKILL
    assert leftover.samefile(path)
    with next_one(path) as name:
        assert names(tmp_path) == sorted([name.name, "month.parquet"])
        name.write_text("whole")
    assert names(tmp_path) == ["month.parquet"]
    assert path.read_text() == "whole"


def test_the_second_name_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "month.parquet"
    path.write_text("old")
    with process_that(second_name, path) as (process, others):
        with second_name(path) as name:
            assert name != others
        with replacing(path) as temporary:
            temporary.write_text("new")
        assert others.read_text() == "old"
        process.communicate("go on\n", timeout=10)
        assert process.returncode == 0
    assert names(tmp_path) == ["month.parquet"]
