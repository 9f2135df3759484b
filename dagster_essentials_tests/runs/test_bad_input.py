"""Bad months: the catalogue of faults, and what runs do about them. Nothing that was there is lost."""

import re
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
from dagster_essentials_tests.support.faults.samples import rewrite, sample
from dagster_essentials_tests.support.project import DISK, NO_REAL_DATA, REAL_DATA, Project, failure_text, materialize
from dagster_essentials_tests.support.run_results import (
    TRIPS,
    Snapshot,
    check_evaluations,
    load_two_months,
    materialized_partitions,
    publish,
    take_snapshot,
    warnings,
)
from dagster_essentials_tests.support.source_server import SourceServer

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


def assert_is_refused(
    project: Project,
    instance: dg.DagsterInstance,
    source_server: SourceServer,
    url: str,
    message: str,
    before: Snapshot,
) -> None:
    result = materialize(project, instance, TRIPS, "2023-01")

    assert not result.success
    text = failure_text(result)
    assert f"2023-01 ({url}): " in text
    assert re.search(message, text)
    assert MATERIALIZE_AGAIN.search(text) or "column_mapping.py" in text, "it says what to do"
    assert "2023-02" not in text
    assert take_snapshot(project) == before
    assert materialized_partitions(instance, trips.taxi_trips_file) == ["2023-01-01", "2023-02-01"]
    assert materialized_partitions(instance, trips.taxi_trips) == ["2023-01-01", "2023-02-01"]

    publish(source_server, "2023-01", sample("2023-01", 250))
    assert materialize(project, instance, TRIPS, "2023-01").success, "it is loaded when the source is right again"
    assert project.rows() == {"2023-01": 250, "2023-02": 300}


@pytest.mark.parametrize("name", IN_RUNS)
def test_a_refused_month_fails_the_run_and_is_unchanged(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, name: str
) -> None:
    before = load_two_months(project, instance, source_server)
    (answer,) = FAULTS[name].answers(source_server, sample("2023-01", 400), Random(1))
    url = publish(source_server, "2023-01", answer)

    assert_is_refused(project, instance, source_server, url, FAULTS[name].message, before)


REAL_FILES = {
    "error_page_saved_as.parquet": r"it begins with '.*\"not_found\".*Open the address in a browser",
    "truncated_2024-01.parquet": r"it does not end like one \(2,471,291 bytes\)",
}


@pytest.mark.parametrize("name", REAL_FILES)
def test_a_real_bad_file_fails_the_run_and_the_month_is_unchanged(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, name: str
) -> None:
    file = REAL_DATA / "bad" / name
    if not file.exists():
        pytest.skip(NO_REAL_DATA)
    before = load_two_months(project, instance, source_server)
    url = publish(source_server, "2023-01", file.read_bytes())

    assert_is_refused(project, instance, source_server, url, REAL_FILES[name], before)


@pytest.mark.parametrize(
    "name", ["403", "closed halfway, always", "an HTML page", "no rows", "a column missing", "zeroed pages"]
)
def test_a_refused_month_leaves_nothing_where_nothing_was(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, name: str
) -> None:
    (answer,) = FAULTS[name].answers(source_server, sample("2023-01", 400), Random(1))
    url = publish(source_server, "2023-01", answer)

    result = materialize(project, instance, TRIPS, "2023-01")

    assert not result.success
    assert re.search(re.escape(f"2023-01 ({url}): ") + f".*({FAULTS[name].message})", failure_text(result))
    assert take_snapshot(project) == Snapshot({}, [], [])
    assert materialized_partitions(instance, trips.taxi_trips_file) == []
    assert materialized_partitions(instance, trips.taxi_trips) == []


# Files that were put there by hand, or changed, after the download


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("zeroed pages", "TProtocolException|Invalid"),
        ("half a vendor", r"VendorID holds a number that is not whole: 1\.5"),
        ("a number beyond 32 bits", "3000000000"),
        ("a flag of 101 bytes", "store_and_fwd_flag holds a text of more than 100 bytes"),
    ],
)
def test_a_bad_file_put_there_by_hand_leaves_the_table_unchanged(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, name: str, cause: str
) -> None:
    before = load_two_months(project, instance, source_server)
    project.file("2023-01").write_bytes(FAULTS[name].file(sample("2023-01", 400)))

    result = materialize(project, instance, [trips.taxi_trips], "2023-01")

    assert not result.success
    text = failure_text(result)
    assert f"2023-01 ({project.file('2023-01')}): " in text
    assert "the month is unchanged" in text
    assert re.search(cause, text)
    assert re.search(r"Delete the file, and materialize.*column_mapping\.py", text)
    assert ".partial" not in text
    assert "/dev/fd" not in text, "the file has the name by which a person finds it"
    after = take_snapshot(project)
    assert (after.columns, after.rows) == (before.columns, before.rows)
    february = project.file("2023-02").name
    assert after.files[february] == before.files[february]
    assert materialized_partitions(instance, trips.taxi_trips) == ["2023-01-01", "2023-02-01"]
    assert warnings(instance, result.run_id) == set(), "they are about what is loaded"

    publish(source_server, "2023-01", sample("2023-01", 250))
    assert materialize(project, instance, TRIPS, "2023-01").success, "it is loaded when the source is right again"
    assert project.rows() == {"2023-01": 250, "2023-02": 300}


def test_an_empty_file_put_there_by_hand_does_not_empty_the_month(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    before = load_two_months(project, instance, source_server)
    project.file("2023-01").write_bytes(rewrite(sample("2023-01"), "FROM month LIMIT 0"))

    result = materialize(project, instance, [trips.taxi_trips], "2023-01")

    assert not result.success
    text = failure_text(result)
    assert f"2023-01 ({project.file('2023-01')}): " in text
    assert "the file has no rows" in text
    assert MATERIALIZE_AGAIN.search(text) or "Delete the file, and materialize" in text
    assert take_snapshot(project).rows == before.rows


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
