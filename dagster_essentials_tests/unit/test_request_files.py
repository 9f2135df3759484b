"""The files that are requests, and the ticks of the sensor that request a run."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import dagster as dg
import pytest

from dagster_essentials import sensors
from dagster_essentials.assets import constants
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.reports.request_files import MAX_REQUEST_BYTES, RequestFile, read_request, request_files
from dagster_essentials.reports.requests import Request, RequestError
from dagster_essentials.sensors import adhoc_request_sensor
from dagster_essentials_tests.support.project import Project

GOOD = {"start_date": "2023-01-10", "end_date": "2023-01-25", "borough": "Staten Island"}


def text(**values: object) -> bytes:
    """The file of a valid request with other or additional `values`; a key with the value `...` is left out."""
    return json.dumps({key: value for key, value in {**GOOD, **values}.items() if value is not ...}).encode()


def rejection(content: bytes) -> str:
    with pytest.raises(RequestError) as error:
        read_request("a.json", content)
    return str(error.value)


# The content of a file.


def test_a_request_has_the_values_of_its_file() -> None:
    request = read_request("january staten-island.json", text())
    assert asdict(request) == {"filename": "january staten-island.json", **GOOD}


@pytest.mark.parametrize("borough", ["Bronx", "Brooklyn", "EWR", "Manhattan", "Queens", "Staten Island"])
def test_every_borough_of_the_zones_is_valid(borough: str) -> None:
    assert read_request("a.json", text(borough=borough)).borough == borough


@pytest.mark.parametrize(("start", "end"), [("2024-02-28", "2024-02-29"), ("2023-12-31", "2024-01-01")])
def test_a_single_day_is_a_period(start: str, end: str) -> None:
    request = read_request("a.json", text(start_date=start, end_date=end))
    assert (request.start_date, request.end_date) == (start, end)


def test_other_notations_of_the_same_json_are_the_same_request() -> None:
    pretty = json.dumps(dict(reversed(GOOD.items())), indent="\t").replace("\n", "\r\n") + "\r\n"
    for content in (pretty.encode(), b"\xef\xbb\xbf" + pretty.encode(), text().replace(b"Staten", rb"\u0053taten")):
        assert read_request("a.json", content) == read_request("a.json", text())


NOT_JSON = {
    "empty": b"",
    "blank": b" \n",
    "words": b"please plot Manhattan",
    "half-written": text()[:40],
    "without its last character": text()[:-1],
    "two requests": text() * 2,
    "single quotes": text().replace(b'"', b"'"),
    "not UTF-8": text(borough="?").replace(b"?", b"\xe9"),
    "binary": bytes(range(256)),
    "deep": b"[" * 100_000,
    "deep in a value": b'{"borough":' * 50_000,
    "a number of 5000 digits": b"1" * 5000,
}


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON)
def test_a_file_that_is_not_json_is_rejected(content: bytes) -> None:
    assert rejection(content).startswith("not JSON, or not complete yet: ")


@pytest.mark.parametrize("content", [b"[]", b"[" + text() + b"]", b"1", b'"Bronx"', b"null", b"true", b"NaN"])
def test_json_that_is_not_an_object_is_rejected(content: bytes) -> None:
    assert rejection(content) == "not a JSON object with the keys start_date, end_date and borough"


INVALID_VALUES: dict[str, tuple[dict[str, object], list[str]]] = {
    "no start": ({"start_date": ...}, ["start_date is missing"]),
    "no end": ({"end_date": ...}, ["end_date is missing"]),
    "no borough": ({"borough": ...}, ["borough is missing"]),
    "nothing": (dict.fromkeys(GOOD, ...), ["borough is missing", "end_date is missing", "start_date is missing"]),
    "another case": ({"borough": ..., "Borough": "Bronx"}, ["borough is missing", "'Borough' is not a key"]),
    "an extra key": ({"colour": "red"}, ["'colour' is not a key"]),
    "an extra name": ({"filename": "../evil.json"}, ["'filename' is not a key"]),
    "a long key": ({"k" * 3000: 1}, ["'" + "k" * 40 + "' is not a key"]),
    "a number": ({"start_date": 20230101}, ["start_date has to be text in quotes"]),
    "null": ({"end_date": None}, ["end_date has to be text in quotes"]),
    "a list": ({"borough": ["Bronx", "Queens"]}, ["borough has to be text in quotes"]),
    "several problems": (
        {"start_date": ..., "borough": 1, "x": 2},
        ["start_date is missing", "'x' is not a key", "borough has to be text in quotes"],
    ),
    "another city": ({"borough": "Hoboken"}, ["borough 'Hoboken' is none of Bronx, Brooklyn, EWR, Manhattan"]),
    "a borough in lower case": ({"borough": "bronx"}, ["borough 'bronx' is none of"]),
    "a borough and a space": ({"borough": "Bronx "}, ["borough 'Bronx ' is none of"]),
    "no name": ({"borough": ""}, ["borough '' is none of"]),
    "an unpaired surrogate": ({"borough": "\ud800"}, [r"borough '\ud800' is none of"]),
    "SQL": ({"borough": "Bronx' OR 1=1 --"}, ['borough "Bronx\' OR 1=1 --" is none of']),
    "SQL as a date": ({"start_date": "2023-01-01' OR 1=1 --"}, ["OR 1=1", "is not a date, written YYYY-MM-DD"]),
    "not a date": ({"start_date": "yesterday"}, ["'yesterday' is not a date, written YYYY-MM-DD"]),
    "a day that was not": ({"end_date": "2023-02-30"}, ["'2023-02-30' is not a date"]),
    "no leap year": ({"end_date": "2023-02-29"}, ["'2023-02-29' is not a date"]),
    "the year 0": ({"start_date": "0000-01-01"}, ["'0000-01-01' is not a date"]),
    "without dashes": ({"start_date": "20230101"}, ["'20230101' is not a date"]),
    "a week": ({"start_date": "2023-W01-1"}, ["'2023-W01-1' is not a date"]),
    "one digit": ({"start_date": "2023-1-1"}, ["'2023-1-1' is not a date"]),
    "with a time": ({"end_date": "2023-02-01T00:00:00"}, ["'2023-02-01T00:00:00' is not a date"]),
    "with a line end": ({"end_date": "2023-02-01\n"}, ["is not a date"]),
    "digits of full width": (
        {"start_date": "\uff12\uff10\uff12\uff13-\uff10\uff11-\uff10\uff11"},
        ["is not a date, written YYYY-MM-DD"],
    ),
    "two bad values": ({"borough": "X", "start_date": "Y"}, ["borough 'X' is none of", "'Y' is not a date"]),
    "no day": ({"end_date": "2023-01-10"}, ["end_date 2023-01-10 has to be after start_date 2023-01-10"]),
    "backwards": ({"end_date": "2023-01-09"}, ["end_date 2023-01-09 has to be after start_date 2023-01-10"]),
    "a year backwards": ({"end_date": "2022-12-31"}, ["end_date 2022-12-31 has to be after start_date 2023-01-10"]),
}


@pytest.mark.parametrize(("values", "problems"), INVALID_VALUES.values(), ids=INVALID_VALUES)
def test_an_invalid_request_is_rejected_with_all_its_problems(values: dict[str, object], problems: list[str]) -> None:
    message = rejection(text(**values))
    assert [part for part in problems if part not in message] == []
    assert len(message.encode()) < 500  # It can be shown: unpaired surrogates are escaped.
    assert "validation error" not in message
    assert "pydantic" not in message


# The name of a file.


def named(filename: str) -> Request:
    return Request(filename, **GOOD)


@pytest.mark.parametrize(
    ("filename", "picture"),
    [
        ("january staten-island.json", "january staten-island"),
        ("été 2023 (2).json", "été 2023 (2)"),
        ("a.b.json", "a.b"),
        ("a.json.json", "a.json"),
        ("2023-01+02_x.json", "2023-01+02_x"),
        ("manhattan.json", "manhattan"),
        ("x" * 200 + ".json", "x" * 200),
    ],
)
def test_the_name_of_a_picture_is_that_of_its_request(filename: str, picture: str) -> None:
    assert named(filename).name == picture


@pytest.mark.parametrize(
    "filename",
    [
        *("../evil.json", "a/b.json", "/etc/x.json", "..", ".", "a\\b.json", "~x.json", "~", "$HOME.json", "{}.json"),
        *(".hidden", ".hidden.json", ".json", "", " a.json", "-x.json", "*.json", "a;b.json", "a:b.json", "a%b.json"),
        *("a\nb.json", "a.json\n", "a\tb.json", "a\x00b.json", "a\x1b[2Jb.json", "a\x7fb.json", "a\u202eb.json"),
        *("x" * 300 + ".json", "x" * 201 + ".json", "é" * 101 + ".json"),
    ],
    ids=lambda filename: repr(filename[:20]),
)
def test_a_name_that_could_lead_to_another_folder_is_rejected(filename: str) -> None:
    with pytest.raises(RequestError, match=r"cannot be a picture's.*Rename the file"):
        named(filename)


@pytest.mark.parametrize("filename", ["manhattan_map.json", "Manhattan_Map.json", "MANHATTAN_MAP.json"])
def test_a_request_cannot_replace_the_picture_of_another_asset(filename: str) -> None:
    assert constants.MANHATTAN_MAP_FILE_PATH.endswith("/manhattan_map.png")
    with pytest.raises(RequestError, match="picture of another asset"):
        named(filename)


# The sensor.


class Folder:
    """A folder of requests, and the sensor that reads it: each tick has the cursor of the last one."""

    def __init__(self, path: Path, instance: dg.DagsterInstance):
        self.path = path
        self.instance = instance
        self.cursor: str | None = None
        self.keys: set[str] = set()
        self.latest = 0

    def put(self, name: str, content: bytes) -> Path:
        """Write a file with a later change time than all before: the clock may be coarse."""
        path = self.path / name
        path.write_bytes(content)
        while path.stat().st_ctime_ns <= self.latest:
            path.write_bytes(content)
        self.latest = path.stat().st_ctime_ns
        return path

    def tick(self) -> tuple[list[dg.RunRequest], str]:
        """The run requests of the next tick, or the reason why it skips."""
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor) as context:
            data = adhoc_request_sensor.evaluate_tick(context)
        assert data.run_requests is not None
        self.cursor = data.cursor
        for request in data.run_requests:
            # Dagster launches no run for a key that exists already.
            assert request.run_key is not None
            assert request.run_key not in self.keys
            self.keys.add(request.run_key)
            request.run_key.encode()
        reason = data.skip_message or ""
        assert bool(data.run_requests) != bool(reason)
        reason.encode()
        (self.cursor or "").encode()
        return list(data.run_requests), reason

    def requested(self) -> list[str]:
        """The names of the files for which the next tick requests a run."""
        return [request.run_config["ops"]["adhoc_request"]["config"]["filename"] for request in self.tick()[0]]

    def skipped(self) -> str:
        """The reason why the next tick skips."""
        requests, reason = self.tick()
        assert requests == []
        return reason


@pytest.fixture
def folder(project: Project, instance: dg.DagsterInstance) -> Folder:
    path = project.folder / "requests"
    path.mkdir()
    return Folder(path, instance)


def test_a_new_file_is_one_run_with_its_values(folder: Folder) -> None:
    folder.put("january.json", text())
    requests, _ = folder.tick()
    (request,) = requests
    assert request.run_config["ops"] == {"adhoc_request": {"config": {"filename": "january.json", **GOOD}}}
    assert folder.skipped() == f"No new request in {folder.path}."
    assert folder.requested() == []


def test_each_of_several_files_is_a_run(folder: Folder) -> None:
    boroughs = ["Queens", "Bronx", "EWR"]
    for number, borough in enumerate(boroughs):
        folder.put(f"{number}.json", text(borough=borough))
    requests, _ = folder.tick()
    configs = [request.run_config["ops"]["adhoc_request"]["config"] for request in requests]
    assert [(config["filename"], config["borough"]) for config in configs] == [
        (f"{number}.json", borough) for number, borough in enumerate(boroughs)
    ]
    assert len({request.run_key for request in requests}) == 3
    folder.put("3.json", text())
    assert folder.requested() == ["3.json"]


def test_two_files_with_the_same_content_are_two_runs(folder: Folder) -> None:
    folder.put("a.json", text())
    folder.put("b.json", text())
    assert folder.requested() == ["a.json", "b.json"]


def test_every_change_of_a_file_is_a_run_also_to_earlier_content(folder: Folder) -> None:
    for borough in ("Bronx", "Queens", "Bronx", "Queens", "Bronx"):
        folder.put("a.json", text(borough=borough))
        (request,) = folder.tick()[0]
        assert request.run_config["ops"]["adhoc_request"]["config"]["borough"] == borough
        assert folder.requested() == []


def test_two_changes_between_ticks_are_one_run(folder: Folder) -> None:
    folder.put("a.json", text())
    assert folder.requested() == ["a.json"]
    for borough in ("Bronx", "Queens"):
        folder.put("a.json", text(borough=borough))
    (request,) = folder.tick()[0]
    assert request.run_config["ops"]["adhoc_request"]["config"]["borough"] == "Queens"


def test_a_change_at_the_same_modification_time_is_a_run(folder: Folder) -> None:
    path = folder.put("a.json", text(borough="Bronx"))
    assert folder.requested() == ["a.json"]
    modified = path.stat().st_mtime_ns
    path.write_bytes(text(borough="Queens"))
    os.utime(path, ns=(modified, modified))
    assert folder.requested() == ["a.json"]


def test_changes_at_the_same_time_of_a_coarse_clock_have_different_run_keys(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def request_files_with_coarse_clock(path: Path, files: DataFolder) -> Iterator[RequestFile]:
        return (replace(file, changed=1) for file in request_files(path, files))

    monkeypatch.setattr(sensors, "request_files", request_files_with_coarse_clock)
    for borough in ("Bronx", "Queens"):
        folder.put("a.json", text(borough=borough))
        assert folder.requested() == ["a.json"]


def test_a_file_with_another_time_and_the_same_content_is_no_run(folder: Folder) -> None:
    path = folder.put("a.json", text())
    assert folder.requested() == ["a.json"]
    os.utime(path, ns=(1, 1))
    assert folder.requested() == []
    folder.put("a.json", text())
    assert folder.requested() == []
    path.replace(path.with_name("moved"))
    path.with_name("moved").replace(path)
    assert folder.requested() == []


def test_a_file_that_was_removed_is_a_run_when_it_is_written_again(folder: Folder) -> None:
    folder.put("a.json", text())
    folder.put("b.json", text())
    assert folder.requested() == ["a.json", "b.json"]
    for others in (["b.json"], []):
        for name in {"a.json", "b.json"} - set(others):
            (folder.path / name).unlink(missing_ok=True)
        assert folder.requested() == []
        folder.put("a.json", text())
        assert folder.requested() == ["a.json"]


def test_a_renamed_file_is_a_new_request(folder: Folder) -> None:
    path = folder.put("a.json", text())
    assert folder.requested() == ["a.json"]
    path.rename(folder.path / "b.json")
    assert folder.requested() == ["b.json"]


def test_an_invalid_file_is_in_the_reason_of_every_tick_until_it_is_fixed(folder: Folder) -> None:
    folder.put("bad.json", text(borough="Hoboken"))
    for _ in range(3):
        assert "not a request: bad.json: borough 'Hoboken' is none of" in folder.skipped()
    folder.put("bad.json", text(borough="Bronx")[:-5])
    assert "not a request: bad.json: not JSON" in folder.skipped()
    folder.put("bad.json", text(borough="Bronx"))
    (request,) = folder.tick()[0]
    assert request.run_config["ops"]["adhoc_request"]["config"] == {**GOOD, "filename": "bad.json", "borough": "Bronx"}
    assert "bad.json" not in folder.skipped()


def test_an_invalid_file_does_not_prevent_the_runs_of_others(folder: Folder) -> None:
    folder.put("a.json", text())
    folder.put("b.json", b"{")
    folder.put("c.json", b"[" * (MAX_REQUEST_BYTES - 1))
    folder.put("d.json", text())
    assert folder.requested() == ["a.json", "d.json"]
    reason = folder.skipped()
    assert "b.json: not JSON" in reason
    assert "c.json: not JSON" in reason
    assert "a.json" not in reason
    assert "d.json" not in reason


def test_a_request_that_was_invalid_meanwhile_is_a_run(folder: Folder) -> None:
    folder.put("a.json", text())
    assert folder.requested() == ["a.json"]
    folder.put("a.json", b"")
    assert "a.json" in folder.skipped()
    folder.put("a.json", text())
    assert folder.requested() == ["a.json"]


@pytest.mark.parametrize(
    "name", ["a.csv", "a.json.bak", "a.JSON~", "json", ".json", ".a.json", ".a.json.swp", "a.json~"]
)
def test_other_files_are_ignored(name: str, folder: Folder) -> None:
    folder.put(name, text())
    assert folder.skipped() == f"No new request in {folder.path}."


@pytest.mark.parametrize("name", ["-x.json", "manhattan_map.json", "a\nb.json", "a;b.json"])
def test_a_file_with_an_invalid_name_is_in_the_reason_of_every_tick(name: str, folder: Folder) -> None:
    folder.put(name, text())
    assert "Rename the file" in folder.skipped()
    assert "Rename the file" in folder.skipped()


def test_folders_are_ignored(folder: Folder) -> None:
    (folder.path / "x.json").mkdir()
    (folder.path / "x.json" / "a.json").write_bytes(text())
    assert folder.skipped() == f"No new request in {folder.path}."


def test_symbolic_links_are_followed_and_broken_ones_ignored(folder: Folder) -> None:
    (folder.path / "elsewhere").write_bytes(text())
    (folder.path / "a.json").symlink_to(folder.path / "elsewhere")
    (folder.path / "b.json").symlink_to(folder.path / "nowhere")
    (folder.path / "c.json").symlink_to(folder.path / "c.json")
    (folder.path / "d.json").symlink_to("/dev/null")
    assert folder.requested() == ["a.json"]
    assert folder.skipped() == f"No new request in {folder.path}."


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail if the block takes longer."""

    def time_out(*_: object) -> None:
        pytest.fail(f"timed out after {seconds} s")

    before = signal.signal(signal.SIGALRM, time_out)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_named_pipe_does_not_block_the_tick(folder: Folder) -> None:
    os.mkfifo(folder.path / "pipe.json")
    folder.put("z.json", text())
    with within(seconds=10):
        assert folder.requested() == ["z.json"]


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_a_name_that_is_not_utf_8_is_in_the_reason_and_does_not_prevent_other_runs(folder: Folder) -> None:
    folder.put("a.json", text())
    names = [b"caf\xe9.json", b"caf\xe8.json"]
    for name in names:
        folder.put(os.fsdecode(name), text())
    assert folder.requested() == ["a.json"]
    reason = folder.skipped()
    assert r"caf\xe9.json: " in reason
    assert r"caf\xe8.json: " in reason
    (folder.path / os.fsdecode(names[0])).rename(folder.path / "café.json")
    assert folder.requested() == ["café.json"]


def test_a_file_without_read_permission_is_in_the_reason_and_a_run_once_it_has_it(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_bytes(path: Path) -> bytes:
        if path.name == "locked.json":
            raise PermissionError(13, "Permission denied", str(path))
        return readable(path)

    readable = Path.read_bytes
    folder.put("a.json", text())
    folder.put("locked.json", text())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", read_bytes)
        assert folder.requested() == ["a.json"]
        assert "locked.json: this user may not read it" in folder.skipped()
    assert folder.requested() == ["locked.json"]


def test_a_file_that_is_removed_during_a_tick_does_not_prevent_other_runs(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_bytes(path: Path) -> bytes:
        if path.name == "a.json":
            path.unlink(missing_ok=True)
        return readable(path)

    readable = Path.read_bytes
    for name in ("a.json", "b.json"):
        folder.put(name, text())
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert folder.requested() == ["b.json"]
    assert folder.skipped() == f"No new request in {folder.path}."


def test_a_file_that_is_too_large_is_in_the_reason_and_not_read(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def read_bytes(path: Path) -> bytes:
        read.append(path.name)
        return readable(path)

    readable = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    folder.put("large.json", text() + b" " * 1_000_000)
    folder.put("long.json", text().ljust(MAX_REQUEST_BYTES))
    assert folder.requested() == ["long.json"]
    assert "large.json: it has 1,000,0" in folder.skipped()
    assert "at most 10,000" in folder.skipped()
    assert "large.json" not in read
    folder.put("large.json", text())
    assert folder.requested() == ["large.json"]


def test_a_missing_folder_is_the_reason_to_skip_and_its_files_are_remembered(folder: Folder) -> None:
    folder.put("a.json", text())
    assert folder.requested() == ["a.json"]
    moved = folder.path.rename(folder.path.with_name("moved"))
    assert f"{folder.path} cannot be read (No such file or directory)" in folder.skipped()
    folder.path.write_text("a file of its name")
    assert f"{folder.path} cannot be read (Not a directory)" in folder.skipped()
    folder.path.unlink()
    moved.rename(folder.path)
    assert folder.requested() == []
    folder.put("b.json", text())
    assert folder.requested() == ["b.json"]


def test_an_empty_folder_is_a_reason_to_skip(folder: Folder) -> None:
    assert folder.skipped() == f"No new request in {folder.path}."


@pytest.mark.parametrize("cursor", ['{"a.json": 1700000000.0, "gone.json": 1.5}', "{}", "[]", "null", "1.5", '""', ""])
def test_after_a_cursor_of_another_sensor_each_file_is_one_run(cursor: str, folder: Folder) -> None:
    folder.cursor = cursor
    folder.put("a.json", text())
    folder.put("b.json", text())
    assert folder.requested() == ["a.json", "b.json"]
    assert folder.requested() == []
