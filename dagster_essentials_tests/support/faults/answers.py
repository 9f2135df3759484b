"""Faults of the answer: statuses, redirects and transfers. The file at the source is good."""

import gzip
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from random import Random
from time import sleep

from dagster_essentials_tests.support.faults.fault import (
    Change,
    Fault,
    Outcome,
    Responder,
    loaded_answer,
    offset_within,
    refused_answer,
    transient_answer,
    unchanged,
)
from dagster_essentials_tests.support.source_server import Answer, SourceServer, cut_off, status

ACCESS_DENIED = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'
BLOCK_PAGE = (
    b"<!DOCTYPE HTML><HTML><HEAD><TITLE>ERROR: The request could not be satisfied</TITLE></HEAD><BODY><H1>403 ERROR</H1>"
    b"Request blocked. There might be too much traffic.</BODY></HTML>"
)
FIREWALL_PAGE = (
    b"<html><head><style>h1 {color: red}</style></head><body><h1>Web Page Blocked</h1>Category: Travel</body></html>"
)
ERROR_PAGE = b"<!DOCTYPE html>\n<html><body>Temporarily moved</body></html>\n"

CHUNKED = "Transfer-Encoding: chunked"
GZIP = "Content-Encoding: gzip"

NOT_PUBLISHED = r"not published \(the source answered 40[34]\)"
REFUSED = r"the source answered 40[345] .*, 5 times in a row\. A CDN or a firewall .*materialize again"
NOT_ALLOWED = r"the source answered 40[0134] .*Check the address in the settings.*may have expired.*aterialize again"
LASTING = r".*, 5 times in a row\. .*materialize again"
"""After a transient error that has lasted for all attempts."""
ERROR_PAGE_BEGINS = r"not a complete parquet file: it begins with '<!DOCTYPE html>.*Open the address in a browser"
END_IS_MISSING = r"not a complete parquet file: it does not end like one \([\d,]+ bytes\).*Materialize again"


def _status(code: int, content: bytes = b"", **headers: str) -> Responder:
    return lambda good, random: status(code, content, **headers)


def _raw(*pieces: bytes, seconds_between: float = 0) -> Answer:
    """Write `pieces`, which are the whole answer including its status line, and close the connection."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        for piece in pieces:
            handler.wfile.write(piece)
            handler.wfile.flush()
            sleep(seconds_between)

    return answer


def _ok(content: bytes, *headers: str) -> bytes:
    """An answer with the status 200, these `headers` only, and `content`."""
    return "\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""]).encode("latin-1") + content


def _send(content: bytes, *headers: str) -> Answer:
    return _raw(_ok(content, *headers))


def _length(content: bytes, more: int = 0) -> str:
    return f"Content-Length: {len(content) + more}"


def _cut(content: bytes, random: Random) -> bytes:
    return content[: offset_within(content, random)]


def _cut_off(reset: bool = False) -> Responder:
    return lambda good, random: cut_off(good, offset_within(good, random), reset)


def _not_modified(handler: BaseHTTPRequestHandler) -> None:
    """Answer with 304 to an unconditional request; to a conditional one, that its condition is not met."""
    conditional = "If-None-Match" in handler.headers or "If-Modified-Since" in handler.headers
    status(412 if conditional else 304)(handler)


def _redirect_to_itself(handler: BaseHTTPRequestHandler) -> None:
    status(302, Location=handler.path)(handler)


def _redirected(name: str, outcome: Outcome, change: Change, hops: int = 1, message: str = "") -> Fault:
    """Redirected, in `hops` hops, to where the server has the changed file."""

    def answers(server: SourceServer, good: bytes, random: Random) -> list[Answer]:
        places = [f"/moved/{random.getrandbits(32):08x}" for _ in range(hops)]
        for place, following in pairwise(places):
            server.answers[place] = [_moved(following, random)]
        server.files[places[-1]] = change(good, random)
        return [_moved(places[0], random)]

    return Fault(name, outcome, answers, change, message)


def _moved(place: str, random: Random) -> Answer:
    return status(random.choice([301, 302, 303, 307, 308]), Location=place)


def _stalled(server: SourceServer, good: bytes, random: Random) -> list[Answer]:
    return [server.stalled(good, random.choice([None, 0, offset_within(good, random)]), seconds=60), server.published]


def _in_small_pieces(good: bytes, random: Random) -> Answer:
    """Send 21 pieces of random sizes, within about a second."""
    ends = sorted(offset_within(good, random) for _ in range(20))
    pieces = [good[start:end] for start, end in zip([0, *ends], [*ends, len(good)], strict=True)]
    return _raw(_ok(b"", _length(good)), *pieces, seconds_between=0.05)


def _in_chunks(content: bytes, random: Random) -> bytes:
    """`content` in the chunked transfer coding, without the empty chunk that ends it."""
    size = random.randrange(100, 10_000)
    chunks = [content[start : start + size] for start in range(0, len(content), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


def _labelled_gzip(content: bytes) -> Answer:
    """Call `content` gzip, and send it with its length."""
    return _send(content, GZIP, _length(content))


def _first_half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _invalid_number(random: Random) -> str:
    return random.choice(["many", "-1", "", "1e9", "0x7fff"])


def _denied(code: str, message: str, status_code: int = 403) -> Responder:
    """An error of S3, as XML."""
    error = f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>TX1</RequestId></Error>"
    return _status(status_code, error.encode(), Content_Type="application/xml")


STATUSES = [
    refused_answer("403", NOT_PUBLISHED, _status(403, ACCESS_DENIED)),
    refused_answer("404", NOT_PUBLISHED, _status(404)),
    refused_answer("404 with a page", NOT_PUBLISHED, _status(404, ERROR_PAGE, Content_Type="text/html")),
    refused_answer("403 without a body", NOT_PUBLISHED, _status(403)),
    refused_answer("no such key", NOT_PUBLISHED, _denied("NoSuchKey", "The specified key does not exist.", 404)),
    *(
        refused_answer(name, REFUSED, respond)
        for name, respond in {
            "a CDN's block page, always": _status(403, BLOCK_PAGE, Content_Type="text/html"),
            "a block page without a type, always": _status(403, BLOCK_PAGE),
            "a firewall's page, always": _status(403, FIREWALL_PAGE, Content_Type="text/html"),
            "a firewall's page with 404, always": _status(404, FIREWALL_PAGE, Content_Type="text/html"),
            "403 in a word, always": _status(403, b"Forbidden", Content_Type="text/plain"),
            "403 in JSON, always": _status(403, b'{"message": "Forbidden"}', Content_Type="application/json"),
            "403 with a challenge, always": _status(403, b"", cf_mitigated="challenge"),
            "405 with a captcha, always": _status(405, BLOCK_PAGE, x_amzn_waf_action="captcha"),
            "too many requests as 403, always": _denied("RequestLimitExceeded", "Please slow down."),
        }.items()
    ),
    *(
        refused_answer(name, NOT_ALLOWED, respond)
        for name, respond in {
            "an expired token": _denied("ExpiredToken", "The provided token has expired.", 400),
            "an expired address": _denied("AccessDenied", "Request has expired"),
            "an invalid signature": _denied("SignatureDoesNotMatch", "The signature we calculated does not match."),
            "an unknown key": _denied("InvalidAccessKeyId", "The access key does not exist in our records."),
            "a wrong clock": _denied("RequestTimeTooSkewed", "The difference is too large."),
            "an expired token in JSON": _status(403, b'{"error": "token expired"}', Content_Type="application/json"),
            "403 that asks for a password": _status(403, b"no", WWW_Authenticate="Basic"),
            "no such bucket": _denied("NoSuchBucket", "The specified bucket does not exist", 404),
            "an error code in a header": _status(403, b"", x_ms_error_code="AuthorizationFailure"),
        }.items()
    ),
    *(
        refused_answer(str(code), rf"the source answered {code}.*Check the address", _status(code))
        for code in (400, 401, 402, 405, 406, 410, 416, 418, 451)
    ),
    refused_answer("429, always", f"the source answered 429{LASTING}", _status(429)),
    refused_answer("500, always", f"the source answered 500{LASTING}", _status(500, ERROR_PAGE)),
    refused_answer("204", "the source answered 204", lambda good, random: _raw(b"HTTP/1.1 204 No Content\r\n\r\n")),
    refused_answer("201 with the file", "the source answered 201", lambda good, random: status(201, good)),
    refused_answer("203 with the file", "the source answered 203", lambda good, random: status(203, good)),
    refused_answer("206 with a part", "the source answered 206", lambda good, random: status(206, _cut(good, random))),
    refused_answer("300 without a choice", "the source answered 300", _status(300)),
    refused_answer(
        "304 to an unconditional request", "the source answered (304|412)", lambda good, random: _not_modified
    ),
    *(transient_answer(f"{code} once", _status(code, ERROR_PAGE)) for code in (429, 500, 502, 503, 504, 599)),
    *(transient_answer(f"{code} with Retry-After", _status(code, Retry_After="1")) for code in (403, 429, 503)),
    transient_answer("a block page once", _status(403, BLOCK_PAGE, Content_Type="text/html")),
    transient_answer(
        "a block page, a challenge", _status(403, BLOCK_PAGE), _status(202, x_amzn_waf_action="challenge")
    ),
    transient_answer("503 with an unusual Retry-After", _status(503, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT")),
    loaded_answer("100 before 200", lambda good, random: _raw(b"HTTP/1.1 100 Continue\r\n\r\n", _ok(good))),
]

REDIRECTS = [
    refused_answer(
        "redirect loop", "Exceeded 30 redirects.*Check the address", lambda good, random: _redirect_to_itself
    ),
    refused_answer(
        "redirect to a local file", "cannot be requested.*Check", _status(302, Location=Path(__file__).as_uri())
    ),
    refused_answer(
        "redirect to ftp", "cannot be requested.*Check", _status(302, Location="ftp://127.0.0.1/month.parquet")
    ),
    refused_answer("redirect to an invalid address", "Check the address", _status(302, Location="http://[::1")),
    refused_answer("redirect without a location", "the source answered 302", _status(302)),
    _redirected(
        "redirect to an error page", Outcome.REFUSED, lambda good, random: ERROR_PAGE, message=ERROR_PAGE_BEGINS
    ),
    transient_answer("redirect to a closed port", _status(302, Location="http://127.0.0.1:1/month.parquet")),
    _redirected("redirect", Outcome.LOADED, unchanged),
    _redirected("five redirects", Outcome.LOADED, unchanged, hops=5),
]

TRANSFERS = [
    transient_answer("closed before the status", lambda good, random: _raw()),
    transient_answer("closed within the status", lambda good, random: _raw(_ok(b"")[: random.randrange(1, 12)])),
    # For the HTTP parser the headers end here: what follows is a file without length, and without bytes.
    refused_answer(
        "closed within the headers",
        "not a complete parquet file: it is empty",
        lambda good, random: _raw(_ok(b"", _length(good))[: random.randrange(12, 33)]),
    ),
    transient_answer("closed after the headers", lambda good, random: cut_off(good, 0)),
    transient_answer("closed halfway", _cut_off()),
    refused_answer("closed halfway, always", rf"[\d,]+ bytes( read)?.*{LASTING}", _cut_off()),
    transient_answer("one byte short", lambda good, random: cut_off(good, len(good) - 1)),
    transient_answer("reset after the headers", lambda good, random: cut_off(good, 0, reset=True)),
    transient_answer("reset halfway", _cut_off(reset=True)),
    refused_answer("reset halfway, always", f"the connection failed .*{LASTING}", _cut_off(reset=True)),
    Fault("stalled", Outcome.RECOVERS, _stalled, slow=True),
    loaded_answer("in small pieces", _in_small_pieces),
    transient_answer("not HTTP", lambda good, random: _raw(b"220 ftp.example ready\r\n")),
    transient_answer(
        "too many headers", lambda good, random: _send(good, _length(good), *(f"X-{n}: {n}" for n in range(200)))
    ),
    transient_answer("too long a header", lambda good, random: _send(good, _length(good), f"X-Long: {'x' * 70_000}")),
    transient_answer(
        "Content-Length too large", lambda good, random: _send(good, _length(good, random.randrange(1, 10_000)))
    ),
    refused_answer(
        "Content-Length too small",
        END_IS_MISSING,
        lambda good, random: _send(good, _length(good, -offset_within(good, random))),
    ),
    refused_answer(
        "two Content-Lengths",
        "cannot be requested|cannot be read",
        lambda good, random: _send(good, _length(good), _length(good, 1)),
    ),
    loaded_answer(
        "invalid Content-Length",
        lambda good, random: _send(good, f"Content-Length: {_invalid_number(random)}"),
    ),
    refused_answer(
        "cut, invalid Content-Length",
        END_IS_MISSING,
        lambda good, random: _send(_cut(good, random), "Content-Length: many"),
    ),
    loaded_answer("no Content-Length", lambda good, random: _send(good)),
    refused_answer("cut, no Content-Length", END_IS_MISSING, lambda good, random: _send(_cut(good, random))),
    loaded_answer("chunked", lambda good, random: _send(_in_chunks(good, random) + b"0\r\n\r\n", CHUNKED)),
    transient_answer("chunked, cut", lambda good, random: _send(_cut(_in_chunks(good, random), random), CHUNKED)),
    transient_answer("chunked, no last chunk", lambda good, random: _send(_in_chunks(good, random), CHUNKED)),
    transient_answer(
        "chunked, invalid chunk size", lambda good, random: _send(_in_chunks(good, random) + b"zz\r\n", CHUNKED)
    ),
    transient_answer(
        "chunked, with another length",
        lambda good, random: _send(_in_chunks(good, random) + b"0\r\n\r\n", CHUNKED, _length(good, -1)),
    ),
    loaded_answer("unrequested gzip", lambda good, random: _send(gzip.compress(good), GZIP)),
    transient_answer("unrequested gzip, with its length", lambda good, random: _labelled_gzip(gzip.compress(good))),
    refused_answer("not gzip, but labelled so", "cannot be read|gzip", lambda good, random: _labelled_gzip(good)),
    refused_answer(
        "gzip, cut", END_IS_MISSING, lambda good, random: _send(_cut(_first_half(gzip.compress(good)), random), GZIP)
    ),
    loaded_answer("unknown Content-Encoding", lambda good, random: _send(good, "Content-Encoding: aws-chunked")),
    loaded_answer(
        "Content-Type of a web page", lambda good, random: _send(good, _length(good), "Content-Type: text/html")
    ),
    transient_answer("three different errors", _status(503), _cut_off(), _cut_off(reset=True)),
    Fault(
        "500, then an error page",
        Outcome.REFUSED,
        lambda _, good, random: [status(500), status(200, ERROR_PAGE)],
        message=ERROR_PAGE_BEGINS,
    ),
    loaded_answer("neither ETag nor date", lambda good, random: status(200, good)),
    loaded_answer("ETag over two lines", lambda good, random: _send(good, _length(good), 'ETag: "one,\r\n two"')),
    loaded_answer("ETag in Latin-1", lambda good, random: _send(good, _length(good), 'ETag: "Übergröße"')),
    loaded_answer("ETag of 60 kB", lambda good, random: _send(good, _length(good), f'ETag: "{"x" * 60_000}"')),
    loaded_answer("invalid date", lambda good, random: _send(good, _length(good), "Last-Modified: the day before")),
]
