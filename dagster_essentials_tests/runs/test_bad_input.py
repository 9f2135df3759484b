"""Bad months: the catalogue of faults, and what runs do about them. Nothing that was there is lost."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import BinaryIO

import dagster as dg
import pytest

from dagster_essentials.assets import trips
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.errors import PipelineError
from dagster_essentials.ingestion.download import download
from dagster_essentials.ingestion.file_format import FileSchema, Parquet
from dagster_essentials.ingestion.month_files import validate_month
from dagster_essentials_tests.support.faults import FAULTS, Fault, Outcome
from dagster_essentials_tests.support.faults.samples import sample
from dagster_essentials_tests.support.project import DISK, REAL_DATA, Project, failure_text, materialize
from dagster_essentials_tests.support.run_results import (
    TRIPS,
    check_evaluations,
    load_two_months,
    materialized_partitions,
    publish,
    take_snapshot,
    warnings,
)
from dagster_essentials_tests.support.source_server import Answer, SourceServer

MATERIALIZE_AGAIN = re.compile(r"[Mm]aterialize( it)? again")

# Every fault of the catalogue, without a run

FAST = [fault for fault in FAULTS.values() if not fault.slow]
"""In `test_download.py` a stalled transfer has a shorter timeout."""


@pytest.mark.parametrize("fault", FAST, ids=lambda fault: fault.name)
def test_every_fault_of_the_catalogue_has_its_outcome(
    source_server: SourceServer, tmp_path: Path, fault: Fault
) -> None:
    good, file = sample("2023-01"), tmp_path / "raw" / "month.parquet"
    path = source_server.put_month("2023-01", good)
    source_server.answers[path] = fault.answers(source_server, good, Random(1))
    url = source_server.url + path
    validate = partial(validate_month, month="2023-01", dataset=YELLOW)

    if fault.outcome is Outcome.REFUSED:
        with pytest.raises(PipelineError) as refused:
            download(url, file, DISK, validate, sleep=lambda seconds: None)
        assert fault.message
        assert re.search(fault.message, str(refused.value), re.DOTALL)
        assert list(file.parent.iterdir() if file.parent.exists() else []) == []
    else:
        download(url, file, DISK, validate, sleep=lambda seconds: None)
        assert file.read_bytes() == (fault.file(good) if fault.change else good)


def test_the_names_of_the_catalogue_are_unique() -> None:
    assert len(FAULTS) > 220
    assert all(name == fault.name for name, fault in FAULTS.items())


# Runs

IN_RUNS = [
    *("403", "404", "500, always", "reset halfway, always", "closed halfway, always"),
    *("an HTML page", "empty", "the first half", "zeroed pages"),
    *("no rows", "a column missing", "text for a number", "text for a time"),
    *("half a vendor", "a number beyond 32 bits", "a flag of 101 bytes"),
]
"""One or more for each way in which a month is refused; the harness in `chaos/` runs all of them."""


REAL_FILES = {
    "error_page_saved_as.parquet": r"it begins with '.*\"not_found\".*Open the address in a browser",
    "truncated_2024-01.parquet": r"it does not end like one \(2,471,291 bytes\)",
}
"""Published bad files, and the messages with which they are refused."""


def months_from_2021(count: int) -> list[str]:
    return [f"{2021 + number // 12}-{number % 12 + 1:02}" for number in range(count)]


def assert_are_named(text: str, expected: Mapping[str, tuple[str, str]]) -> None:
    """The failure of a run has a line for each month, with its address or path, its reason, a pattern, and what to do."""
    for month, (place, message) in expected.items():
        (reason,) = [line for line in text.splitlines() if line.startswith(f"{month} ({place}): ")]
        assert re.search(message, reason), (month, reason)
        assert MATERIALIZE_AGAIN.search(reason) or "column_mapping.py" in reason, "it says what to do"


def test_each_refused_month_of_a_range_is_unchanged_and_loaded_when_the_source_is_right_again(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    messages = {name: FAULTS[name].message for name in IN_RUNS}
    if (REAL_DATA / "bad").is_dir():
        messages |= REAL_FILES
    *months, good = months_from_2021(len(messages) + 1)
    # The first half has been loaded before.
    loaded = months[: len(months) // 2]
    for month in loaded:
        publish(source_server, month, sample(month))
    assert materialize(project, instance, TRIPS, loaded[0], loaded[-1]).success
    before = take_snapshot(project)

    def answer(name: str, month: str) -> bytes | Answer:
        if name in REAL_FILES:
            return (REAL_DATA / "bad" / name).read_bytes()
        return FAULTS[name].answers(source_server, sample(month, 400), Random(1))[0]

    names = Random(1).sample(sorted(messages), len(messages))
    urls = {
        month: publish(source_server, month, answer(name, month)) for month, name in zip(months, names, strict=True)
    }
    publish(source_server, good, sample(good))
    result = materialize(project, instance, TRIPS, months[0], good)

    assert not result.success
    text = failure_text(result)
    assert_are_named(text, {month: (urls[month], messages[name]) for month, name in zip(months, names, strict=True)})
    assert f"{good} (" not in text
    after = take_snapshot(project)
    assert {name: after.files.get(name) for name in before.files} == before.files
    assert [row for row in after.rows if good not in row] == before.rows
    assert set(project.rows()) == {*loaded, good}
    assert {path.name for path in (project.folder / "raw").glob("*.parquet")} == {
        project.file(month).name for month in (*loaded, good)
    }
    for asset in TRIPS:
        assert materialized_partitions(instance, asset) == [f"{month}-01" for month in (*loaded, good)]

    for month in months:
        publish(source_server, month, sample(month, 250))
    assert materialize(project, instance, TRIPS, months[0], good).success
    assert project.rows() == {**dict.fromkeys(months, 250), good: 300}


# Files that were put there by hand, or changed, after the download


BY_HAND = {
    "zeroed pages": "TProtocolException|Invalid",
    "half a vendor": r"VendorID holds a number that is not whole: 1\.5",
    "a number beyond 32 bits": "3000000000",
    "a flag of 101 bytes": "store_and_fwd_flag holds a text of more than 100 bytes",
    "no rows": "the file has no rows",
}
"""The messages of bad files that no download has refused."""


def test_bad_files_put_there_by_hand_leave_the_table_unchanged(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    *months, good = months_from_2021(len(BY_HAND) + 1)
    for month in (*months, good):
        publish(source_server, month, sample(month))
    loaded = materialize(project, instance, TRIPS, months[0], good)
    assert loaded.success
    before, recorded = take_snapshot(project), materialized_partitions(instance, trips.taxi_trips)
    for month, name in zip(months, BY_HAND, strict=True):
        project.file(month).write_bytes(FAULTS[name].file(sample(month, 400)))

    result = materialize(project, instance, [trips.taxi_trips], months[0], months[-1])

    assert not result.success
    text = failure_text(result)
    for month, cause in zip(months, BY_HAND.values(), strict=True):
        (reason,) = [line for line in text.splitlines() if line.startswith(f"{month} ({project.file(month)}): ")]
        assert "the month is unchanged" in reason.lower()
        assert re.search(cause, reason)
        assert re.search(r"Delete the file, and materialize", reason)
    assert ".partial" not in text
    assert "/dev/fd" not in text, "a file has the name by which a person finds it"
    after = take_snapshot(project)
    assert (after.columns, after.rows) == (before.columns, before.rows)
    assert after.files[project.file(good).name] == before.files[project.file(good).name]
    assert materialized_partitions(instance, trips.taxi_trips) == recorded
    assert warnings(instance, result.run_id) == warnings(instance, loaded.run_id), "they are about what is loaded"

    for month in months:
        publish(source_server, month, sample(month, 250))
    assert materialize(project, instance, TRIPS, months[0], good).success, (
        "they are loaded when the source is right again"
    )
    assert project.rows() == {**dict.fromkeys(months, 250), good: 300}


def test_a_missing_file_says_what_to_materialize_first(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    before = load_two_months(project, instance, source_server)
    project.file("2023-01").unlink()

    result = materialize(project, instance, [trips.taxi_trips], "2023-01")

    assert not result.success
    text = failure_text(result)
    assert f"2023-01 ({project.file('2023-01')}): there is no such file. Materialize taxi_trips_file for this" in text
    assert take_snapshot(project).rows == before.rows


def test_a_row_count_that_differs_from_the_footer_is_rolled_back_and_fails_the_check(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_two_months(project, instance, source_server)

    read_schema = Parquet.read_schema

    def count_one_more(parquet: Parquet, file: BinaryIO) -> FileSchema:
        schema = read_schema(parquet, file)
        assert schema.rows is not None
        return replace(schema, rows=schema.rows + 1)

    publish(source_server, "2023-01", sample("2023-01", 310))
    assert materialize(project, instance, [trips.taxi_trips_file], "2023-01").success
    monkeypatch.setattr(Parquet, "read_schema", count_one_more)

    result = materialize(project, instance, [trips.taxi_trips], "2023-01")

    assert not result.success
    text = failure_text(result)
    assert f"2023-01 ({project.file('2023-01')}): " in text
    assert re.search("311 rows.*310", text)
    assert take_snapshot(project).rows == before.rows
    evaluations = check_evaluations(instance, result.run_id)
    assert {name for name, each in evaluations.items() if not each.passed} == {"rows_match_file"}
    assert evaluations["rows_match_file"].severity == dg.AssetCheckSeverity.ERROR
    assert evaluations["rows_match_file"].description == (
        "1 of 2 loaded months does not pass. 2023-01: 311 rows in the file, 310 loaded, and rolled back."
    )
