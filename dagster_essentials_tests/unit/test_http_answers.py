"""The answers of a source: a missing file, a refused request and a page of a CDN or firewall are told apart."""

import re
from http.server import BaseHTTPRequestHandler
from random import Random

import pytest

from dagster_essentials.errors import DownloadError
from dagster_essentials.ingestion import http_requests
from dagster_essentials.ingestion.download import PublishedFile, find_published
from dagster_essentials.ingestion.month_files import find_published_months
from dagster_essentials.orchestration.due_partitions import due_corrections, due_months
from dagster_essentials_tests.support.faults.answers import ACCESS_DENIED, BLOCK_PAGE, NOT_PUBLISHED, STATUSES
from dagster_essentials_tests.support.faults.fault import Fault, Outcome
from dagster_essentials_tests.support.source_server import LAST_MODIFIED, Answer, SourceServer, status

PATH = "/trip-data/yellow_tripdata_2023-01.parquet"
PARQUET = b"PAR1" + bytes(10_000)
FILE = status(200, PARQUET, ETag='"1"', Last_Modified=LAST_MODIFIED)
PUBLISHED = PublishedFile('"1"', LAST_MODIFIED)


def by_method(head: Answer, get: Answer) -> Answer:
    """Answer to HEAD and GET in different ways."""
    return lambda handler: (head if handler.command == "HEAD" else get)(handler)


def ask(server: SourceServer, *answers: Answer, query: str = "") -> PublishedFile | None:
    server.answers[PATH + query] = list(answers)
    return find_published(server.url + PATH + query, sleep=lambda seconds: None)


REFUSED = [
    fault for fault in STATUSES if fault.outcome is Outcome.REFUSED and not re.match("20[0-9]|304|429|500", fault.name)
]


@pytest.mark.parametrize("fault", REFUSED, ids=lambda fault: fault.name)
def test_only_a_missing_file_counts_as_not_published(source_server: SourceServer, fault: Fault) -> None:
    answers = fault.answers(source_server, PARQUET, Random(1))

    if fault.message == NOT_PUBLISHED:
        assert ask(source_server, *answers) is None
    else:
        with pytest.raises(DownloadError, match=fault.message.replace("5 times", "2 times")):
            ask(source_server, *answers)


def close(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


HEADS = {
    **{str(code): status(code) for code in (400, 401, 403, 404, 405, 410, 500, 501, 502, 504)},
    "403 with S3's headers": status(403, ACCESS_DENIED, Content_Type="application/xml"),
    "200 as a page": status(200, BLOCK_PAGE, Content_Type="text/html; charset=utf-8"),
    "nothing": close,
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_source_that_refuses_head_is_asked_by_get(source_server: SourceServer, head: Answer) -> None:
    assert ask(source_server, by_method(head, FILE)) == PUBLISHED
    assert ask(source_server, by_method(head, status(404))) is None
    assert ask(source_server, by_method(head, status(403, ACCESS_DENIED))) is None
    with pytest.raises(
        DownloadError, match="answered 403 Forbidden, and says 'ERROR: The request could not be satisfied'"
    ):
        ask(source_server, by_method(head, status(403, BLOCK_PAGE)))


def test_the_body_of_the_file_is_not_read(source_server: SourceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_requests, "TIMEOUT_SECONDS", (5, 0.2))

    assert ask(source_server, by_method(status(405), source_server.stalled(PARQUET, after=5_000))) == PublishedFile(
        None, None
    )


@pytest.mark.parametrize("content_type", ["text/html", "application/json", "application/xml"])
def test_a_file_that_is_called_a_page_is_told_from_a_page(source_server: SourceServer, content_type: str) -> None:
    assert ask(source_server, status(200, PARQUET, Content_Type=content_type)) == PublishedFile(None, None)
    for body in (BLOCK_PAGE, b'\n{"message": "log in"}', b"<?xml version='1.0'?><ListBucketResult/>"):
        with pytest.raises(
            DownloadError, match=r"a page instead of the file \(.{9,}\)\. Open the address in a browser"
        ):
            ask(source_server, status(200, body, Content_Type=content_type))


# An address with a token


@pytest.mark.parametrize(
    ("answer", "is_missing"),
    [
        (status(403), False),
        (status(403, ACCESS_DENIED), False),
        (status(403, ACCESS_DENIED.replace(b"</Error>", b"<RequestId>TX1</RequestId></Error>")), True),
        (status(404), True),
    ],
    ids=["403 without a body", "as CloudFront", "as S3", "404"],
)
def test_a_token_that_may_have_expired_is_no_missing_month(
    source_server: SourceServer, answer: Answer, is_missing: bool
) -> None:
    if is_missing:
        assert ask(source_server, answer, query="?sig=abc") is None
    else:
        with pytest.raises(DownloadError, match="if it has a token or a signature, that may have expired"):
            ask(source_server, answer, query="?sig=abc")
        assert ask(source_server, answer) is None, "without a token, it is missing"


def test_what_a_page_repeats_of_the_address_is_not_shown(source_server: SourceServer) -> None:
    page = b"<title>You asked for /trip-data?sig=hunter22 with the token hunter22</title>"
    with pytest.raises(DownloadError, match="You asked for /trip-data") as refused:
        ask(source_server, status(403, page), query="?sig=hunter22")
    assert "hunter22" not in str(refused.value)


# Schedules


@pytest.mark.parametrize("page", [status(403, BLOCK_PAGE), status(200, BLOCK_PAGE, Content_Type="text/html")])
def test_schedules_neither_wait_for_a_blocked_month_nor_call_it_withdrawn(
    source_server: SourceServer, page: Answer
) -> None:
    source_server.answers[PATH] = [page]
    url = source_server.url + PATH

    corrections = due_corrections({"2023-01-01": PUBLISHED}, find_published_months({"2023-01-01": url}))
    due = due_months(["2023-01-01"], [], "2023-01-01", lambda _: find_published(url, 1) is not None)

    for months in (corrections, due):
        assert months.months == []
        assert re.search("Could not ask the source about 2023-01.* The request could not be satisfied", months.reason)
        assert "does not have" not in months.reason
        assert "Not published" not in months.reason
