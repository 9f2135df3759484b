"""Corrections: which loaded months the weekly schedule requests again, and that the table follows a source that changes."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from dagster_essentials.assets.trips import taxi_trips, taxi_trips_file
from dagster_essentials.errors import DownloadError
from dagster_essentials.ingestion.download import PublishedFile
from dagster_essentials.orchestration.due_partitions import MAX_CORRECTIONS, due_corrections
from dagster_essentials.schedules import trip_corrections_schedule
from dagster_essentials_tests.support.faults.samples import sample
from dagster_essentials_tests.support.project import Project, materialize
from dagster_essentials_tests.support.run_results import TRIPS, publish
from dagster_essentials_tests.support.source_server import SourceServer, status
from dagster_essentials_tests.support.ticks import tick

pytestmark = pytest.mark.slow

NEW_YORK = ZoneInfo("America/New_York")
SUNDAY = datetime(2023, 6, 4, tzinfo=NEW_YORK)
MONTHS = ("2022-12", "2023-01", "2023-02")


@pytest.fixture
def loaded(project: Project, history: dg.DagsterInstance, source_server: SourceServer) -> Project:
    """Three months, as the source has them."""
    for month in MONTHS:
        publish(source_server, month, sample(month))
    assert materialize(project, history, TRIPS, MONTHS[0], MONTHS[-1]).success
    source_server.requests.clear()
    return project


def corrections(instance: dg.DagsterInstance, at: datetime = SUNDAY) -> tuple[list[str], str]:
    """The months that a tick requests, and the reason if it skips."""
    requests, reason = tick(instance, at, trip_corrections_schedule)
    return [str(request.partition_key)[:7] for request in requests], reason or ""


def path_of(month: str) -> str:
    return f"/trip-data/yellow_tripdata_{month}.parquet"


def test_what_a_tick_says_and_requests_if_nothing_is_corrected_or_the_source_gives_no_answer(
    loaded: Project, history: dg.DagsterInstance, source_server: SourceServer
) -> None:
    assert corrections(history) == (
        [],
        "Nothing is corrected: the source has the loaded version of all 3 loaded months.",
    )
    assert sorted(source_server.requests) == [("HEAD", path_of(month), 0) for month in MONTHS]

    publish(source_server, "2022-12", status(405))
    months, reason = corrections(history)
    assert months == []
    assert "Could not ask the source about 2022-12 (http://" in reason
    assert "405" in reason
    publish(source_server, "2022-12", status(403))
    months, reason = corrections(history)
    assert months == []
    assert "The source does not have these loaded months any more: 2022-12." in reason
    assert "405" not in reason

    for month in ("2022-12", "2023-02"):
        publish(source_server, month, sample(month, 310))
    # Such an answer ends the questions, but not the tick.
    for code, requested in ((405, ["2022-12"]), (501, ["2022-12"]), (403, ["2022-12", "2023-02"])):
        publish(source_server, "2023-01", status(code))
        assert corrections(history)[0] == requested


def test_corrected_months_are_requested_oldest_first_until_they_are_loaded(
    loaded: Project, history: dg.DagsterInstance, source_server: SourceServer
) -> None:
    for month in ("2023-02", "2022-12"):
        publish(source_server, month, sample(month, 310))
    assert corrections(history) == (["2022-12", "2023-02"], "")
    assert materialize(loaded, history, TRIPS, "2022-12").success
    assert corrections(history) == (["2023-02"], "")
    # A file that is downloaded but not loaded is not enough.
    assert materialize(loaded, history, [taxi_trips_file], "2023-02").success
    assert corrections(history) == (["2023-02"], "")
    assert materialize(loaded, history, TRIPS, "2023-02").success
    assert corrections(history)[0] == []
    assert loaded.rows() == {"2022-12": 310, "2023-01": 300, "2023-02": 310}


def test_a_source_without_etags_is_compared_by_last_modified(
    project: Project, history: dg.DagsterInstance, source_server: SourceServer
) -> None:
    source_server.validators = ("Last-Modified",)
    for month in MONTHS:
        publish(source_server, month, sample(month))
    assert materialize(project, history, TRIPS, MONTHS[0], MONTHS[-1]).success
    assert corrections(history)[0] == []
    source_server.modified[path_of("2023-01")] = "Tue, 23 May 2023 12:00:00 GMT"
    assert corrections(history)[0] == ["2023-01"]


def test_a_new_etag_for_the_same_content_is_requested_once(
    loaded: Project, history: dg.DagsterInstance, source_server: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = sample("2023-01")

    def with_another_etag(handler: Any) -> None:
        status(200, content, ETag='"moved"', Last_Modified="Tue, 23 May 2023 12:00:00 GMT")(handler)

    source_server.answers[path_of("2023-01")] = [with_another_etag]
    assert corrections(history)[0] == ["2023-01"]
    before = loaded.query("SELECT loaded_at FROM month_versions WHERE month = '2023-01'")
    assert materialize(loaded, history, TRIPS, "2023-01").success
    assert corrections(history)[0] == []
    assert loaded.query("SELECT loaded_at FROM month_versions WHERE month = '2023-01'") == before


def test_with_nothing_loaded_the_tick_asks_for_nothing(
    project: Project, history: dg.DagsterInstance, source_server: SourceServer
) -> None:
    assert corrections(history) == ([], "No month is loaded yet.")
    assert source_server.requests == []


def test_months_that_an_earlier_release_has_recorded_are_compared_by_their_files(
    project: Project, history: dg.DagsterInstance, source_server: SourceServer
) -> None:
    for month in ("2023-01", "2023-02"):
        publish(source_server, month, sample(month))
    assert materialize(project, history, [taxi_trips_file], "2023-01", "2023-02").success
    for key in ("2023-01-01", "2023-02-01"):
        history.report_runless_asset_event(dg.AssetMaterialization(taxi_trips.key, partition=key))
    assert corrections(history)[0] == []
    publish(source_server, "2023-02", sample("2023-02", 310))
    assert corrections(history)[0] == ["2023-02"]


def test_a_tick_requests_a_bounded_number_of_months() -> None:
    months = [f"{2009 + number // 12}-{number % 12 + 1:02}-01" for number in range(100)]
    loaded = {month: PublishedFile('"a"', None) for month in months}
    due = due_corrections(loaded, {month: PublishedFile('"b"', None) for month in months})
    assert due.months == months[:MAX_CORRECTIONS]
    assert due.reason == f"{100 - MAX_CORRECTIONS} more months are corrected; the next tick asks for them."


@pytest.mark.parametrize(
    ("loaded", "published", "is_corrected"),
    [
        (PublishedFile('"a"', "Mon"), PublishedFile('"a"', "Tue"), False),
        (PublishedFile('"a"', "Mon"), PublishedFile('W/"a"', "Mon"), False),
        (PublishedFile('"a"', "Mon"), PublishedFile('"b"', "Mon"), True),
        (PublishedFile(None, "Mon"), PublishedFile('"b"', "Mon"), False),
        (PublishedFile('"a"', "Mon"), PublishedFile(None, "Tue"), True),
        (PublishedFile('"a"', None), PublishedFile(None, "Tue"), False),
        (PublishedFile(None, None), PublishedFile(None, None), False),
    ],
)
def test_versions_are_told_apart_by_the_headers_that_both_have(
    loaded: PublishedFile, published: PublishedFile, is_corrected: bool
) -> None:
    due = due_corrections({"2023-01-01": loaded}, {"2023-01-01": published})
    assert due.months == (["2023-01-01"] if is_corrected else [])


def test_an_error_is_named_with_its_month() -> None:
    due = due_corrections({"2023-01-01": PublishedFile('"a"', None)}, {"2023-01-01": DownloadError("no answer.")})
    assert (due.months, due.reason) == (
        [],
        "Could not ask the source about 2023-01: no answer. The next tick asks again.",
    )
