"""Requests: what may stand in a file, which ticks ask for a run, and that the picture shows the trips of the files."""

import csv
import json
import os
import signal
import sys
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from io import BytesIO
from pathlib import Path
from shutil import copyfile
from typing import Any

import dagster as dg
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from dagster_essentials import defs, pictures
from dagster_essentials.assets import constants, trips
from dagster_essentials.assets.requests import AdhocRequestConfig, adhoc_request
from dagster_essentials.resources import TurnTakingDuckDBResource
from dagster_essentials.sample import write_month, write_zones
from dagster_essentials.sensors import LARGEST_REQUEST, RequestError, adhoc_request_sensor, read_request
from dagster_essentials.settings import SETTINGS
from dagster_essentials_tests.support.project import REAL_DATA, Project, failure_text, materialize

GOOD = {"start_date": "2023-01-10", "end_date": "2023-01-25", "borough": "Staten Island"}


def text(**values: object) -> bytes:
    """A good request's file, with `values` in place of, or beside, its own; a key with the value `...` is left out."""
    return json.dumps({key: value for key, value in {**GOOD, **values}.items() if value is not ...}).encode()


def refusal(content: bytes) -> str:
    with pytest.raises(RequestError) as refused:
        read_request("a.json", content)
    return str(refused.value)


# What may stand in a file


def test_a_request_says_what_its_file_says() -> None:
    request = read_request("january staten-island.json", text())
    assert request.model_dump() == {"filename": "january staten-island.json", **GOOD}


@pytest.mark.parametrize("borough", ["Bronx", "Brooklyn", "EWR", "Manhattan", "Queens", "Staten Island"])
def test_each_borough_of_the_zones_may_be_asked_for(borough: str) -> None:
    assert read_request("a.json", text(borough=borough)).borough == borough


@pytest.mark.parametrize(("start", "end"), [("2024-02-28", "2024-02-29"), ("2023-12-31", "2024-01-01")])
def test_a_single_day_is_a_period(start: str, end: str) -> None:
    request = read_request("a.json", text(start_date=start, end_date=end))
    assert (request.start_date, request.end_date) == (start, end)


def test_other_ways_to_write_the_same_json_are_read() -> None:
    pretty = json.dumps(dict(reversed(GOOD.items())), indent="\t").replace("\n", "\r\n") + "\r\n"
    for content in (pretty.encode(), b"\xef\xbb\xbf" + pretty.encode(), text().replace(b"Staten", rb"\u0053taten")):
        assert read_request("a.json", content) == read_request("a.json", text())


NOT_JSON = {
    "empty": b"",
    "blank": b" \n",
    "words": b"please draw Manhattan",
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
def test_what_is_not_json_is_refused(content: bytes) -> None:
    assert refusal(content).startswith("not JSON, or not all of it is there yet: ")


@pytest.mark.parametrize("content", [b"[]", b"[" + text() + b"]", b"1", b'"Bronx"', b"null", b"true", b"NaN"])
def test_json_that_is_not_an_object_is_refused(content: bytes) -> None:
    assert refusal(content) == "not a JSON object with the keys start_date, end_date and borough"


BAD_VALUES: dict[str, tuple[dict[str, object], list[str]]] = {
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
    "a borough elsewhere": ({"borough": "Hoboken"}, ["borough 'Hoboken' is none of Bronx, Brooklyn, EWR, Manhattan"]),
    "a borough in lower case": ({"borough": "bronx"}, ["borough 'bronx' is none of"]),
    "a borough and a space": ({"borough": "Bronx "}, ["borough 'Bronx ' is none of"]),
    "no name": ({"borough": ""}, ["borough '' is none of"]),
    "half a character": ({"borough": "\ud800"}, [r"borough '\ud800' is none of"]),
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
    "no day": ({"end_date": "2023-01-10"}, ["end_date 2023-01-10 has to lie after start_date 2023-01-10"]),
    "backwards": ({"end_date": "2023-01-09"}, ["end_date 2023-01-09 has to lie after start_date 2023-01-10"]),
    "a year backwards": ({"end_date": "2022-12-31"}, ["end_date 2022-12-31 has to lie after start_date 2023-01-10"]),
}


@pytest.mark.parametrize(("values", "says"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_request_that_cannot_be_answered_is_refused_in_words(values: dict[str, object], says: list[str]) -> None:
    message = refusal(text(**values))
    assert [part for part in says if part not in message] == []
    assert len(message.encode()) < 500  # It is shown, and can be: half characters are written out.
    assert "validation error" not in message
    assert "pydantic" not in message


# What a file may be called


def named(filename: str) -> AdhocRequestConfig:
    return AdhocRequestConfig(filename=filename, **GOOD)


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
def test_a_picture_is_called_as_its_request(filename: str, picture: str) -> None:
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
def test_a_name_that_could_lead_elsewhere_is_refused(filename: str) -> None:
    with pytest.raises(ValidationError, match=r"cannot be a picture's.*Rename the file"):
        named(filename)


@pytest.mark.parametrize("filename", ["manhattan_map.json", "Manhattan_Map.json", "MANHATTAN_MAP.json"])
def test_a_request_cannot_take_the_place_of_another_picture(filename: str) -> None:
    assert constants.MANHATTAN_MAP_FILE_PATH.endswith("/manhattan_map.png")
    with pytest.raises(ValidationError, match="picture of another asset"):
        named(filename)


# The sensor


class Folder:
    """A folder of requests, and the sensor that looks at it: each tick has the cursor that the last one left."""

    def __init__(self, path: Path, instance: dg.DagsterInstance):
        self.path = path
        self.instance = instance
        self.cursor: str | None = None
        self.keys: set[str] = set()
        self.latest = 0

    def put(self, name: str, content: bytes) -> Path:
        """Write a file, at another time than all before: a clock may be coarser than two lines of a test."""
        path = self.path / name
        path.write_bytes(content)
        while path.stat().st_ctime_ns <= self.latest:
            path.write_bytes(content)
        self.latest = path.stat().st_ctime_ns
        return path

    def tick(self) -> tuple[list[dg.RunRequest], str]:
        """The runs that the next tick asks for, or else why it does not."""
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor) as context:
            data = adhoc_request_sensor.evaluate_tick(context)
        assert data.run_requests is not None
        self.cursor = data.cursor
        for request in data.run_requests:
            # For a key that was there before, Dagster launches no run.
            assert request.run_key is not None
            assert request.run_key not in self.keys
            self.keys.add(request.run_key)
            request.run_key.encode()
        reason = data.skip_message or ""
        assert bool(data.run_requests) != bool(reason)
        reason.encode()
        (self.cursor or "").encode()
        return list(data.run_requests), reason

    def asked(self) -> list[str]:
        """The names of the requests for which the next tick asks for a run."""
        return [request.run_config["ops"]["adhoc_request"]["config"]["filename"] for request in self.tick()[0]]

    def skipped(self) -> str:
        """Why the next tick asks for nothing."""
        requests, reason = self.tick()
        assert requests == []
        return reason


@pytest.fixture
def folder(project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Folder:
    settings = replace(SETTINGS, data_dir=project.folder, database=project.database)
    monkeypatch.setattr("dagster_essentials.sensors.SETTINGS", settings)
    path = project.folder / "requests"
    path.mkdir()
    return Folder(path, instance)


def test_a_new_file_is_one_run_with_what_it_says(folder: Folder) -> None:
    folder.put("january.json", text())
    requests, _ = folder.tick()
    (request,) = requests
    assert request.run_config["ops"] == {"adhoc_request": {"config": {"filename": "january.json", **GOOD}}}
    assert folder.skipped() == f"No new request in {folder.path}."
    assert folder.asked() == []


def test_of_many_files_each_is_a_run_of_its_own(folder: Folder) -> None:
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
    assert folder.asked() == ["3.json"]


def test_two_files_that_say_the_same_are_two_pictures(folder: Folder) -> None:
    folder.put("a.json", text())
    folder.put("b.json", text())
    assert folder.asked() == ["a.json", "b.json"]


def test_a_file_that_changes_is_a_run_and_one_that_changes_back_as_well(folder: Folder) -> None:
    for borough in ("Bronx", "Queens", "Bronx", "Queens", "Bronx"):
        folder.put("a.json", text(borough=borough))
        (request,) = folder.tick()[0]
        assert request.run_config["ops"]["adhoc_request"]["config"]["borough"] == borough
        assert folder.asked() == []


def test_two_changes_between_ticks_are_one_run(folder: Folder) -> None:
    folder.put("a.json", text())
    assert folder.asked() == ["a.json"]
    for borough in ("Bronx", "Queens"):
        folder.put("a.json", text(borough=borough))
    (request,) = folder.tick()[0]
    assert request.run_config["ops"]["adhoc_request"]["config"]["borough"] == "Queens"


def test_a_change_within_one_tick_of_a_coarse_clock_is_a_run(folder: Folder) -> None:
    path = folder.put("a.json", text(borough="Bronx"))
    assert folder.asked() == ["a.json"]
    modified = path.stat().st_mtime_ns
    path.write_bytes(text(borough="Queens"))
    os.utime(path, ns=(modified, modified))
    assert folder.asked() == ["a.json"]


def test_a_file_that_is_only_touched_is_no_run(folder: Folder) -> None:
    path = folder.put("a.json", text())
    assert folder.asked() == ["a.json"]
    os.utime(path, ns=(1, 1))
    assert folder.asked() == []
    folder.put("a.json", text())
    assert folder.asked() == []
    path.replace(path.with_name("moved"))
    path.with_name("moved").replace(path)
    assert folder.asked() == []


def test_a_file_that_was_removed_is_a_run_again_when_it_comes_back(folder: Folder) -> None:
    folder.put("a.json", text())
    folder.put("b.json", text())
    assert folder.asked() == ["a.json", "b.json"]
    for others in (["b.json"], []):
        for name in {"a.json", "b.json"} - set(others):
            (folder.path / name).unlink(missing_ok=True)
        assert folder.asked() == []
        folder.put("a.json", text())
        assert folder.asked() == ["a.json"]


def test_a_file_under_another_name_is_another_request(folder: Folder) -> None:
    path = folder.put("a.json", text())
    assert folder.asked() == ["a.json"]
    path.rename(folder.path / "b.json")
    assert folder.asked() == ["b.json"]


def test_what_is_not_a_request_is_told_in_every_tick_until_it_is_mended(folder: Folder) -> None:
    folder.put("bad.json", text(borough="Hoboken"))
    for _ in range(3):
        assert "not a request: bad.json: borough 'Hoboken' is none of" in folder.skipped()
    folder.put("bad.json", text(borough="Bronx")[:-5])
    assert "not a request: bad.json: not JSON" in folder.skipped()
    folder.put("bad.json", text(borough="Bronx"))
    (request,) = folder.tick()[0]
    assert request.run_config["ops"]["adhoc_request"]["config"] == {**GOOD, "filename": "bad.json", "borough": "Bronx"}
    assert "bad.json" not in folder.skipped()


def test_what_is_not_a_request_does_not_keep_others_from_their_runs(folder: Folder) -> None:
    folder.put("a.json", text())
    folder.put("b.json", b"{")
    folder.put("c.json", b"[" * (LARGEST_REQUEST - 1))
    folder.put("d.json", text())
    assert folder.asked() == ["a.json", "d.json"]
    reason = folder.skipped()
    assert "b.json: not JSON" in reason
    assert "c.json: not JSON" in reason
    assert "a.json" not in reason
    assert "d.json" not in reason


def test_a_good_request_that_is_spoilt_and_restored_is_a_run(folder: Folder) -> None:
    folder.put("a.json", text())
    assert folder.asked() == ["a.json"]
    folder.put("a.json", b"")
    assert "a.json" in folder.skipped()
    folder.put("a.json", text())
    assert folder.asked() == ["a.json"]


@pytest.mark.parametrize(
    "name", ["a.csv", "a.json.bak", "a.JSON~", "json", ".json", ".a.json", ".a.json.swp", "a.json~"]
)
def test_other_files_are_no_requests_and_are_not_told(name: str, folder: Folder) -> None:
    folder.put(name, text())
    assert folder.skipped() == f"No new request in {folder.path}."


@pytest.mark.parametrize("name", ["-x.json", "manhattan_map.json", "a\nb.json", "a;b.json"])
def test_a_file_whose_name_cannot_be_a_pictures_is_told(name: str, folder: Folder) -> None:
    folder.put(name, text())
    assert "Rename the file" in folder.skipped()
    assert "Rename the file" in folder.skipped()


def test_folders_are_no_requests(folder: Folder) -> None:
    (folder.path / "x.json").mkdir()
    (folder.path / "x.json" / "a.json").write_bytes(text())
    assert folder.skipped() == f"No new request in {folder.path}."


def test_links_are_followed_and_those_that_lead_nowhere_are_not_requests(folder: Folder) -> None:
    (folder.path / "elsewhere").write_bytes(text())
    (folder.path / "a.json").symlink_to(folder.path / "elsewhere")
    (folder.path / "b.json").symlink_to(folder.path / "nowhere")
    (folder.path / "c.json").symlink_to(folder.path / "c.json")
    (folder.path / "d.json").symlink_to("/dev/null")
    assert folder.asked() == ["a.json"]
    assert folder.skipped() == f"No new request in {folder.path}."


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail instead of waiting for ever."""

    def late(*_: object) -> None:
        pytest.fail("it waits for something that never comes")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_pipe_is_not_waited_for(folder: Folder) -> None:
    os.mkfifo(folder.path / "pipe.json")
    folder.put("z.json", text())
    with within(seconds=10):
        assert folder.asked() == ["z.json"]


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_a_name_that_is_not_utf_8_is_told_and_does_not_stop_others(folder: Folder) -> None:
    folder.put("a.json", text())
    names = [b"caf\xe9.json", b"caf\xe8.json"]
    for name in names:
        folder.put(os.fsdecode(name), text())
    assert folder.asked() == ["a.json"]
    reason = folder.skipped()
    assert r"caf\xe9.json: " in reason
    assert r"caf\xe8.json: " in reason
    (folder.path / os.fsdecode(names[0])).rename(folder.path / "café.json")
    assert folder.asked() == ["café.json"]


def test_a_file_that_may_not_be_read_is_told_and_is_a_run_when_it_may(
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
        assert folder.asked() == ["a.json"]
        assert "locked.json: this user may not read it" in folder.skipped()
    assert folder.asked() == ["locked.json"]


def test_a_file_that_goes_while_it_is_looked_at_does_not_stop_others(
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
    assert folder.asked() == ["b.json"]
    assert folder.skipped() == f"No new request in {folder.path}."


def test_a_file_that_is_too_large_is_told_and_not_read(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def read_bytes(path: Path) -> bytes:
        read.append(path.name)
        return readable(path)

    readable = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    folder.put("large.json", text() + b" " * 1_000_000)
    folder.put("long.json", text().ljust(LARGEST_REQUEST))
    assert folder.asked() == ["long.json"]
    assert "large.json: 1,000,0" in folder.skipped()
    assert "too many" in folder.skipped()
    assert "large.json" not in read
    folder.put("large.json", text())
    assert folder.asked() == ["large.json"]


def test_a_folder_that_is_not_there_is_named_and_what_it_had_is_remembered(folder: Folder) -> None:
    folder.put("a.json", text())
    assert folder.asked() == ["a.json"]
    moved = folder.path.rename(folder.path.with_name("moved"))
    assert f"{folder.path} cannot be read (No such file or directory)" in folder.skipped()
    folder.path.write_text("a file in its place")
    assert f"{folder.path} cannot be read (Not a directory)" in folder.skipped()
    folder.path.unlink()
    moved.rename(folder.path)
    assert folder.asked() == []
    folder.put("b.json", text())
    assert folder.asked() == ["b.json"]


def test_an_empty_folder_is_the_reason_to_skip(folder: Folder) -> None:
    assert folder.skipped() == f"No new request in {folder.path}."


@pytest.mark.parametrize("cursor", ['{"a.json": 1700000000.0, "gone.json": 1.5}', "{}", "[]", "null", "1.5", '""', ""])
def test_a_cursor_that_something_else_left_is_followed_by_one_run_a_file(cursor: str, folder: Folder) -> None:
    folder.cursor = cursor
    folder.put("a.json", text())
    folder.put("b.json", text())
    assert folder.asked() == ["a.json", "b.json"]
    assert folder.asked() == []


# The picture


@dataclass(frozen=True)
class Source:
    """A folder like the TLC's, and the months of it that are loaded."""

    folder: Path
    months: tuple[str, ...]

    def file(self, month: str) -> Path:
        return self.folder / "trip-data" / f"yellow_tripdata_{month}.parquet"

    def zones(self, borough: str) -> set[int]:
        csv.field_size_limit(1 << 24)
        with open(self.folder / "taxi_zones.csv", newline="", encoding="utf-8") as file:
            return {int(row["LocationID"]) for row in csv.DictReader(file) if row["borough"] == borough}

    def count(self, borough: str, start: str, end: str) -> Counter[tuple[int, int]]:
        """The trips by hour and day (0 is Sunday), from the files, trip by trip."""
        zones = self.zones(borough)
        days = {date.fromisoformat(start)}
        while (following := max(days) + timedelta(days=1)) < date.fromisoformat(end):
            days.add(following)
        counts: Counter[tuple[int, int]] = Counter()
        for month in self.months:
            table = pq.read_table(self.file(month), columns=["tpep_pickup_datetime", "PULocationID"])
            for moment, zone in zip(*(column.to_pylist() for column in table.columns), strict=True):
                if moment.date() in days and zone in zones:
                    counts[moment.hour, moment.isoweekday() % 7] += 1
        return counts


def load(source: Source, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Materialize the months and the zones of `source`."""
    point_to(source, project, monkeypatch)
    with dg.DagsterInstance.ephemeral() as instance:
        for month in source.months:
            assert materialize(project, instance, [trips.taxi_trips_file, trips.taxi_trips], month).success
        assert materialize(project, instance, [trips.taxi_zones_file, trips.taxi_zones]).success


def point_to(source: Source, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(
        SETTINGS,
        trips_url=str(source.folder / "trip-data"),
        zones_url=str(source.folder / "taxi_zones.csv"),
        data_dir=project.folder,
        database=project.database,
    )
    monkeypatch.setattr("dagster_essentials.assets.trips.SETTINGS", settings)
    folder = project.folder
    monkeypatch.setattr(constants, "TAXI_TRIPS_TEMPLATE_FILE_PATH", f"{folder}/raw/taxi_trips_{{}}.parquet")
    monkeypatch.setattr(constants, "TAXI_ZONES_FILE_PATH", f"{folder}/raw/taxi_zones.csv")


# At the ends of the days from 10 to 11 February 2023, a Friday and a Saturday, and where days and hours change within.
MOMENTS = (
    datetime(2023, 2, 9, 23, 59, 59, 999_999),
    datetime(2023, 2, 10, 0, 0, 0),
    datetime(2023, 2, 10, 0, 59, 59, 999_999),
    datetime(2023, 2, 10, 1, 0, 0),
    datetime(2023, 2, 10, 23, 59, 59),
    datetime(2023, 2, 11, 0, 0, 0),
    datetime(2023, 2, 11, 0, 0, 0),
    datetime(2023, 2, 11, 23, 59, 59, 999_999),
    datetime(2023, 2, 12, 0, 0, 0),
)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """January and February 2023, invented, with trips from the Bronx at `MOMENTS` and at no other time."""
    source = Source(tmp_path_factory.mktemp("source"), ("2023-01", "2023-02"))
    write_zones(source.folder / "taxi_zones.csv")
    bronx, queens = source.zones("Bronx"), source.zones("Queens")
    for month in source.months:
        path = write_month(source.folder / "trip-data", month, 3000)
        table = pq.read_table(path)
        zones = table.schema.get_field_index("PULocationID")
        elsewhere = [min(queens) if zone in bronx else zone for zone in table.column(zones).to_pylist()]
        moments = table.schema.get_field_index("tpep_pickup_datetime")
        times = table.column(moments).to_pylist()
        if month == "2023-02":
            elsewhere[: len(MOMENTS)] = [min(bronx)] * len(MOMENTS)
            times[: len(MOMENTS)] = MOMENTS
        table = table.set_column(zones, table.field(zones), pa.array(elsewhere, table.field(zones).type))
        table = table.set_column(moments, table.field(moments), pa.array(times, table.field(moments).type))
        pq.write_table(table, path)
    return source


@pytest.fixture(scope="module")
def published() -> Source:
    if not REAL_DATA.is_dir():
        pytest.skip("the published sample months are not beside this project")
    return Source(REAL_DATA, ("2019-01", "2019-02", "2019-03"))


@pytest.fixture(scope="module")
def loaded_from(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Source], Path]:
    """The database that holds a source's months and zones; each is loaded once."""
    databases: dict[Source, Path] = {}

    def database(source: Source) -> Path:
        if source not in databases:
            project = Project(tmp_path_factory.mktemp("loaded"), "", "")
            with pytest.MonkeyPatch.context() as patch:
                load(source, project, patch)
            databases[source] = project.database
        return databases[source]

    return database


@dataclass
class Studio:
    """A project whose requests are answered by the job, and what was handed to be drawn."""

    project: Project
    instance: dg.DagsterInstance
    drawn: list[tuple[Mapping[tuple[int, int], int], str]]

    @property
    def outputs(self) -> Path:
        return self.project.folder / "outputs"

    def run(self, run_config: Mapping[str, Any]) -> dg.ExecuteInProcessResult:
        result: dg.ExecuteInProcessResult = defs.resolve_job_def("adhoc_request_job").execute_in_process(
            run_config=run_config,
            instance=self.instance,
            resources={"database": TurnTakingDuckDBResource(database=str(self.project.database), wait_seconds=60)},
            raise_on_error=False,
        )
        return result

    def ask(self, borough: str, start: str, end: str, filename: str = "a.json") -> dg.ExecuteInProcessResult:
        config = {"filename": filename, "borough": borough, "start_date": start, "end_date": end}
        return self.run({"ops": {"adhoc_request": {"config": config}}})


@pytest.fixture
def studio(project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Studio:
    """A studio whose database has nothing in it."""
    studio = Studio(project, instance, [])

    def draw_hours(trips: Mapping[tuple[int, int], int], title: str) -> bytes:
        studio.drawn.append((dict(trips), title))
        return drawing(trips, title)

    drawing = pictures.draw_hours
    monkeypatch.setattr(pictures, "draw_hours", draw_hours)
    monkeypatch.setattr(constants, "REQUEST_DESTINATION_TEMPLATE_FILE_PATH", f"{project.folder}/outputs/{{}}.png")
    return studio


@pytest.fixture
def sample_studio(studio: Studio, sampled: Source, loaded_from: Callable[[Source], Path]) -> Studio:
    """A studio with the sample months."""
    return with_database(studio, loaded_from(sampled))


def with_database(studio: Studio, database: Path) -> Studio:
    studio.project.database.parent.mkdir(parents=True)
    copyfile(database, studio.project.database)
    return studio


def metadata(result: dg.ExecuteInProcessResult) -> Mapping[str, Any]:
    (materialization,) = result.asset_materializations_for_node("adhoc_request")
    return {name: value.value for name, value in materialization.metadata.items()}


def check(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.asset_key, evaluation.check_name) == (adhoc_request.key, "period_is_loaded")
    return evaluation


PERIODS = {
    "all": ("2023-01-01", "2023-03-01", "2019-01-01", "2019-04-01"),
    "across months": ("2023-01-15", "2023-02-11", "2019-01-15", "2019-03-11"),
    "one day": ("2023-02-10", "2023-02-11", "2019-03-10", "2019-03-11"),
}


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("borough", ["Manhattan", "Queens", "Bronx"])
@pytest.mark.parametrize("months", ["sampled", "published"])
def test_the_picture_shows_the_trips_that_stand_in_the_files(
    months: str,
    borough: str,
    period: str,
    studio: Studio,
    loaded_from: Callable[[Source], Path],
    request: pytest.FixtureRequest,
) -> None:
    source: Source = request.getfixturevalue(months)
    with_database(studio, loaded_from(source))
    start, end = PERIODS[period][:2] if months == "sampled" else PERIODS[period][2:]

    result = studio.ask(borough, start, end, "été 1.json")

    assert result.success
    expected = source.count(borough, start, end)
    ((shown, title),) = studio.drawn
    assert shown == expected
    said = metadata(result)
    assert said["num_trips"] == expected.total()
    assert (said["borough"], said["start_date"], said["end_date"]) == (borough, start, end)
    last = date.fromisoformat(end) - timedelta(days=1)
    assert title == f"Yellow taxi trips from {borough}, {start} to {last}: {expected.total():,}"
    assert check(result).passed
    assert [path.name for path in studio.outputs.iterdir()] == ["été 1.png"]


def test_the_first_day_counts_from_midnight_and_the_end_not_at_all(sample_studio: Studio) -> None:
    assert sample_studio.ask("Bronx", "2023-02-10", "2023-02-12").success
    ((shown, _),) = sample_studio.drawn
    assert shown == {(0, 5): 2, (1, 5): 1, (23, 5): 1, (0, 6): 2, (23, 6): 1}


def test_a_trip_counts_on_its_day_whatever_months_file_it_stands_in(
    studio: Studio, published: Source, loaded_from: Callable[[Source], Path]
) -> None:
    with_database(studio, loaded_from(published))
    result = studio.ask("Queens", "2019-03-30", "2019-04-13")
    expected = published.count("Queens", "2019-03-30", "2019-04-13")
    assert expected.total() == 1 + published.count("Queens", "2019-03-30", "2019-04-01").total()
    assert studio.drawn[0][0] == expected
    assert not check(result).passed


def test_the_picture_is_a_png_and_stands_in_the_metadata(sample_studio: Studio) -> None:
    result = sample_studio.ask("Manhattan", "2023-01-01", "2023-03-01", "my request.json")
    path = sample_studio.outputs / "my request.png"
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        width, height = image.size
        assert 600 <= width <= 2000
        assert 300 <= height <= 1500
        colours = image.convert("RGB").getcolors(1 << 20)
        assert colours is not None
        assert len(colours) > 20
    said = metadata(result)
    assert said["path"] == str(path)
    before, encoded = said["picture"].split("base64,")
    assert before == "![picture](data:image/png;"
    assert b64decode(encoded.removesuffix(")"), validate=True) == content
    assert sample_studio.project.leftovers() == []


def test_the_same_request_gives_the_same_bytes_and_another_one_others(sample_studio: Studio) -> None:
    for filename, end in (("a.json", "2023-02-11"), ("b.json", "2023-02-11"), ("c.json", "2023-02-12")):
        assert sample_studio.ask("Queens", "2023-01-15", end, filename).success
    first, same, other = ((sample_studio.outputs / f"{name}.png").read_bytes() for name in "abc")
    assert first == same
    assert first != other


def test_a_changed_request_replaces_its_picture(sample_studio: Studio) -> None:
    pictures_drawn = []
    for borough in ("Queens", "Manhattan"):
        assert sample_studio.ask(borough, "2023-01-01", "2023-02-01").success
        pictures_drawn.append((sample_studio.outputs / "a.png").read_bytes())
    assert pictures_drawn[0] != pictures_drawn[1]
    assert [path.name for path in sample_studio.outputs.iterdir()] == ["a.png"]


def test_each_part_of_a_bar_is_as_large_as_its_count() -> None:
    from matplotlib import colormaps

    def pixels(counts: Mapping[tuple[int, int], int]) -> list[int]:
        image = np.asarray(Image.open(BytesIO(pictures.draw_hours(counts, "title"))).convert("RGB")).astype(int)
        colours = [np.array(colormaps["viridis"](day / 6, bytes=True)[:3]) for day in range(7)]
        return [int((abs(image - colour).max(axis=2) <= 2).sum()) for colour in colours]

    legend = pixels({})
    counts = {(hour, day): (day + 1) * (hour + 1) for hour in range(24) for day in range(7)}
    areas = [with_bars - without for with_bars, without in zip(pixels(counts), legend, strict=True)]
    days = [sum(count for (_, day), count in counts.items() if day == number) for number in range(7)]
    for area, trips_of_day in zip(areas, days, strict=True):
        assert area / sum(areas) == pytest.approx(trips_of_day / sum(days), rel=0.15)


@pytest.mark.parametrize(
    ("start", "end", "lacking"),
    [
        ("2023-01-20", "2023-03-02", "2023-03"),
        ("2022-12-31", "2023-02-01", "2022-12"),
        ("2022-12-31", "2023-04-01", "2022-12, 2023-03"),
        ("2022-01-01", "2023-02-01", "12 months from 2022-01 to 2022-12"),
        ("0001-01-01", "2023-02-01", "24264 months from 0001-01 to 2022-12"),
    ],
)
def test_a_period_of_which_months_are_not_loaded_gives_a_picture_that_says_so(
    start: str, end: str, lacking: str, sample_studio: Studio, sampled: Source
) -> None:
    result = sample_studio.ask("Manhattan", start, end)
    assert result.success
    ((shown, title),) = sample_studio.drawn
    # Before 2001 the samples have no trip: the files are counted from there.
    assert shown == sampled.count("Manhattan", max(start, "2000-01-01"), end)
    assert title.endswith(f"\nwithout {lacking}: not loaded")
    evaluation = check(result)
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert evaluation.metadata["months_not_loaded"].value == lacking
    assert evaluation.description == f"Months of a.json that are not loaded: {lacking}."
    assert (sample_studio.outputs / "a.png").exists()


@pytest.mark.parametrize("end", ["2023-03-01", "2023-02-02"])
def test_the_end_date_itself_needs_no_month(end: str, sample_studio: Studio) -> None:
    evaluation = check(sample_studio.ask("Manhattan", "2023-02-01", end))
    assert evaluation.passed
    assert evaluation.metadata["months_not_loaded"].value == "none"


def test_a_borough_without_trips_is_a_picture_of_none(sample_studio: Studio) -> None:
    result = sample_studio.ask("Bronx", "2023-01-01", "2023-02-01")
    assert result.success
    assert sample_studio.drawn == [({}, "Yellow taxi trips from Bronx, 2023-01-01 to 2023-01-31: 0")]
    assert metadata(result)["num_trips"] == 0
    assert check(result).passed
    with Image.open(sample_studio.outputs / "a.png") as image:
        image.load()


def causes(result: dg.ExecuteInProcessResult) -> str:
    """The reasons below the first one, which the UI and the command line print as well."""
    found = []
    for event in result.all_events:
        error = event.step_failure_data.error if event.is_step_failure else None
        while error is not None:
            found.append(error.message)
            error = error.cause
    return "\n".join(found)


def assert_failed(studio: Studio, result: dg.ExecuteInProcessResult, *says: str) -> None:
    """The run failed and said so, and neither a picture nor a materialization came of it."""
    assert not result.success
    told = failure_text(result) + causes(result)
    assert [part for part in says if part not in told] == [], told
    assert result.asset_materializations_for_node("adhoc_request") == []
    assert studio.instance.fetch_materializations(adhoc_request.key, limit=1).records == []
    assert not [path for path in studio.project.folder.rglob("*") if path.suffix == ".png"]
    assert studio.project.leftovers() == []


@pytest.mark.parametrize("database", ["none", "another month"])
def test_a_period_of_which_no_month_is_loaded_fails_and_says_what_to_do(
    database: str, studio: Studio, sampled: Source, loaded_from: Callable[[Source], Path]
) -> None:
    if database == "another month":
        with_database(studio, loaded_from(sampled))
    result = studio.ask("Bronx", "2022-11-30", "2023-01-01", "winter.json")
    assert_failed(
        studio,
        result,
        "winter.json: no trips are loaded for 2022-11, 2022-12. Materialize taxi_trips_file and taxi_trips",
    )
    assert studio.drawn == []


def test_without_the_zones_it_fails_and_says_what_to_do(
    studio: Studio, sampled: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_to(sampled, studio.project, monkeypatch)
    assets = [trips.taxi_trips_file, trips.taxi_trips]
    assert materialize(studio.project, studio.instance, assets, "2023-01").success
    result = studio.ask("Bronx", "2023-01-01", "2023-02-01")
    assert_failed(studio, result, "a.json: there is no table zones. Materialize taxi_zones_file and taxi_zones")


@pytest.mark.parametrize(("table", "column"), [("trips", "partition_date"), ("zones", "borough")])
def test_a_table_that_something_else_made_is_named_with_the_request(
    table: str, column: str, sample_studio: Studio
) -> None:
    with duckdb.connect(str(sample_studio.project.database)) as connection:
        connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    result = sample_studio.ask("Bronx", "2023-01-01", "2023-02-01")
    assert "Failure: a.json: the trips could not be counted: " in failure_text(result)
    assert_failed(sample_studio, result, column, "rename or drop it", "execute this run again")


def test_a_picture_that_cannot_be_written_fails_the_run_and_says_where(sample_studio: Studio) -> None:
    sample_studio.outputs.write_text("a file in its place")
    result = sample_studio.ask("Bronx", "2023-01-01", "2023-02-01")
    assert_failed(sample_studio, result, "a.json: ", str(sample_studio.outputs), "could not be written")
    assert sample_studio.outputs.read_text() == "a file in its place"


def test_a_folder_in_the_pictures_place_stays_and_fails_the_run(sample_studio: Studio) -> None:
    (sample_studio.outputs / "a.png").mkdir(parents=True)
    result = sample_studio.ask("Bronx", "2023-01-01", "2023-02-01")
    assert not result.success
    assert "could not be written" in failure_text(result)
    assert (sample_studio.outputs / "a.png").is_dir()
    assert sample_studio.project.leftovers() == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"borough": "Hoboken"}, "borough 'Hoboken' is none of Bronx, Brooklyn, EWR"),
        ({"borough": "Bronx' OR 1=1 --"}, "OR 1=1"),
        ({"filename": "../evil.json"}, "the name '../evil.json' cannot be a picture's"),
        ({"filename": "manhattan_map.json"}, "manhattan_map.png is the picture of another asset"),
        ({"start_date": "2023-02-30"}, "'2023-02-30' is not a date, written YYYY-MM-DD"),
        ({"end_date": "2023-01-01"}, "end_date 2023-01-01 has to lie after start_date 2023-01-01"),
    ],
)
def test_the_launchpad_refuses_what_a_file_may_not_say(
    changes: dict[str, str], says: str, sample_studio: Studio
) -> None:
    good = {"filename": "a.json", "borough": "Bronx", "start_date": "2023-01-01", "end_date": "2023-02-01"}
    result = sample_studio.run({"ops": {"adhoc_request": {"config": {**good, **changes}}}})
    assert_failed(sample_studio, result, says)
    assert sample_studio.drawn == []


def test_a_request_from_the_launchpad_that_says_nothing_is_manhattan_in_the_newest_month(
    sample_studio: Studio, sampled: Source
) -> None:
    result = sample_studio.run({})
    assert result.success
    expected = sampled.count("Manhattan", "2023-02-01", "2023-03-01")
    ((shown, title),) = sample_studio.drawn
    assert shown == expected
    assert title == f"Yellow taxi trips from Manhattan, 2023-02-01 to 2023-02-28: {expected.total():,}"
    said = metadata(result)
    assert (said["start_date"], said["end_date"]) == ("2023-02-01", "2023-03-01")
    assert check(result).passed
    assert [path.name for path in sample_studio.outputs.iterdir()] == ["adhoc_request.png"]


def test_a_request_that_says_nothing_fails_without_trips_and_says_what_to_do(studio: Studio) -> None:
    assert_failed(studio, studio.run({}), "no trips are loaded. Materialize taxi_trips_file and taxi_trips")


@pytest.mark.parametrize("missing", ["start_date", "end_date"])
def test_the_launchpad_refuses_half_a_period_and_keys_that_are_none(missing: str, sample_studio: Studio) -> None:
    good = {"filename": "a.json", "borough": "Bronx", "start_date": "2023-01-01", "end_date": "2023-02-01"}
    config = {key: value for key, value in good.items() if key != missing}
    result = sample_studio.run({"ops": {"adhoc_request": {"config": config}}})
    assert_failed(sample_studio, result, f"{missing} is missing: give both or neither")
    with pytest.raises(dg.DagsterInvalidConfigError, match="colour"):
        sample_studio.run({"ops": {"adhoc_request": {"config": {**good, "colour": "red"}}}})


def test_values_are_never_sql(sample_studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["Bronx') OR 1=1 --", "' OR ''='", "Bronx') OR ($borough='"]
    monkeypatch.setattr("dagster_essentials.assets.requests.BOROUGHS", names)
    for name in names:
        assert sample_studio.ask(name, "2023-01-01", "2023-02-01").success
        assert sample_studio.drawn.pop()[0] == {}


def test_from_the_file_to_the_picture(folder: Folder, sample_studio: Studio, sampled: Source) -> None:
    folder.put("queens 2023.json", text(borough="Queens"))
    requests, _ = folder.tick()
    (request,) = requests
    assert sample_studio.run(request.run_config).success
    assert sample_studio.drawn[0][0] == sampled.count("Queens", GOOD["start_date"], GOOD["end_date"])
    assert [path.name for path in sample_studio.outputs.iterdir()] == ["queens 2023.png"]
