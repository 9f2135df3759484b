"""What a source can get wrong with a month: answers, transfers, files and layouts, made on the spot from a good month.

Each kind says what a run has to make of it. Nothing here runs anything, or knows how the outcome is checked.
"""

import gzip
import zipfile
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import sleep

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from dagster_essentials.columns import COLUMNS
from dagster_essentials.sample import FIRST_MONTH, LAST_MONTH, months_between, write_month, write_zones
from dagster_essentials_tests.support.source_server import LAST_MODIFIED, Answer, SourceServer, cut_off, status


class Outcome(Enum):
    """What a run makes of a bad input."""

    REFUSED = "refused"
    """The run fails for this month; its file and its rows stay as they were."""
    RECOVERS = "recovers"
    """A passing trouble: the run gets over it by itself, and loads the good file."""
    LOADED = "loaded"
    """Odd, but a whole month: it is loaded as it is, perhaps with warnings."""


Answers = Callable[[SourceServer, bytes, Random], list[Answer]]
Fault = Callable[[bytes, Random], Answer]
"""How one request for a good month is answered wrongly."""
Change = Callable[[bytes, Random], bytes]
"""What becomes of the content of a good month."""


@dataclass(frozen=True)
class BadInput:
    """A kind of bad input.

    Attributes:
        name: short and unique.
        outcome: what a run has to make of it.
        answers: the answers of a server to the requests for a month, given its good content; the last one stays.
        content: for what is loaded, the content that then is the month's. It depends on the good content alone, so that
            it is what `answers` serves, whatever the state of the random numbers.
        slow: whether a run has to wait for a timeout.
    """

    name: str
    outcome: Outcome
    answers: Answers
    content: Change | None = None
    slow: bool = False


def _lasting(name: str, fault: Fault) -> BadInput:
    """The source answers so to every request."""
    return BadInput(name, Outcome.REFUSED, lambda _, good, random: [fault(good, random)])


def _passing(name: str, *faults: Fault) -> BadInput:
    """The source answers so to the first requests, and then behaves."""
    return BadInput(
        name,
        Outcome.RECOVERS,
        lambda server, good, random: [*(fault(good, random) for fault in faults), server.published],
    )


def _refused(name: str, change: Change) -> BadInput:
    """The source has such a file, and serves it properly."""
    return _lasting(name, lambda good, random: body(change(good, random)))


def _loaded(name: str, change: Change) -> BadInput:
    """The source has such a file, serves it properly, and it is a month."""

    def content(good: bytes, _: Random) -> bytes:
        return change(good, Random(good))

    return BadInput(name, Outcome.LOADED, lambda _, good, random: [body(content(good, random))], content)


def _unchanged(good: bytes, random: Random) -> bytes:
    return good


def _carried(name: str, fault: Fault) -> BadInput:
    """The source sends the good month, whole, in an odd way."""
    return BadInput(name, Outcome.LOADED, lambda _, good, random: [fault(good, random)], _unchanged)


# Answers


def body(content: bytes) -> Answer:
    """Serve `content` as a source that behaves: with its length and an ETag, and not again to who has it."""
    etag = f'"{sha256(content).hexdigest()}"'

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("If-None-Match") == etag:
            status(304, ETag=etag)(handler)
        else:
            status(200, content, ETag=etag, Last_Modified=LAST_MODIFIED)(handler)

    return answer


def _raw(*pieces: bytes, pause_seconds: float = 0) -> Answer:
    """Write `pieces`, which are all of the answer, its status line too, and close the connection."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        for piece in pieces:
            handler.wfile.write(piece)
            handler.wfile.flush()
            sleep(pause_seconds)

    return answer


def _ok(content: bytes, *headers: str) -> bytes:
    """An answer with the status 200, just these `headers`, and `content`."""
    return "\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""]).encode("latin-1") + content


def _sent(content: bytes, *headers: str) -> Answer:
    """Answer so, and close the connection."""
    return _raw(_ok(content, *headers))


def _length(content: bytes, more: int = 0) -> str:
    return f"Content-Length: {len(content) + more}"


def _not_modified(handler: BaseHTTPRequestHandler) -> None:
    """Answer with 304 although nothing was asked for but the file; to a condition, that it is not met."""
    conditional = "If-None-Match" in handler.headers or "If-Modified-Since" in handler.headers
    status(412 if conditional else 304)(handler)


def _to_itself(handler: BaseHTTPRequestHandler) -> None:
    status(302, Location=handler.path)(handler)


def _redirected(content: Change, hops: int = 1) -> Answers:
    """Redirect, in so many hops, to where the server has `content`."""

    def answers(server: SourceServer, good: bytes, random: Random) -> list[Answer]:
        places = [f"/moved/{random.getrandbits(32):08x}" for _ in range(hops)]
        for place, following in pairwise(places):
            server.answers[place] = [_moved(following, random)]
        server.files[places[-1]] = content(good, random)
        return [_moved(places[0], random)]

    return answers


def _moved(place: str, random: Random) -> Answer:
    return status(random.choice([301, 302, 303, 307, 308]), Location=place)


def _stalled(server: SourceServer, good: bytes, random: Random) -> list[Answer]:
    return [server.stalled(good, random.choice([None, 0, _within(good, random)]), seconds=60), server.published]


def _trickled(good: bytes, random: Random) -> Answer:
    """Send it in some pieces of any size, within about a second."""
    ends = sorted(_within(good, random) for _ in range(20))
    pieces = [good[start:end] for start, end in zip([0, *ends], [*ends, len(good)], strict=True)]
    return _raw(_ok(b"", _length(good)), *pieces, pause_seconds=0.05)


def _within(content: bytes, random: Random) -> int:
    """A place within `content`: neither its beginning nor its end."""
    return random.randrange(1, len(content) - 1)


def _cut(good: bytes, random: Random) -> bytes:
    return good[: _within(good, random)]


def _first_half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _in_chunks(content: bytes, random: Random) -> bytes:
    """`content` in the chunked transfer coding, without the empty chunk that ends it."""
    size = random.randrange(100, 10_000)
    chunks = [content[start : start + size] for start in range(0, len(content), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


def _zipped(content: bytes) -> Answer:
    """Call `content` zipped, and send it with its length."""
    return _sent(content, GZIP, _length(content))


def _no_number(random: Random) -> str:
    return random.choice(["many", "-1", "", "1e9", "0x7fff"])


CHUNKED = "Transfer-Encoding: chunked"
GZIP = "Content-Encoding: gzip"

ACCESS_DENIED = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'
ERROR_PAGE = b"<!DOCTYPE html>\n<html><body>Temporarily moved</body></html>\n"
NO_VIEW = b'{\n  "code" : "not_found",\n  "error" : true,\n  "message" : "Cannot find view with id 755u-8jsi"\n}\n'


def _status(code: int, content: bytes = b"", **headers: str) -> Fault:
    return lambda good, random: status(code, content, **headers)


STATUSES = [
    _lasting("403", _status(403, ACCESS_DENIED)),
    *(_lasting(str(code), _status(code)) for code in (400, 401, 402, 404, 405, 406, 410, 416, 418, 451)),
    _lasting("429 for ever", _status(429)),
    _lasting("500 for ever", _status(500, ERROR_PAGE)),
    _lasting("204", lambda good, random: _raw(b"HTTP/1.1 204 No Content\r\n\r\n")),
    _lasting("201 with the file", lambda good, random: status(201, good)),
    _lasting("203 with the file", lambda good, random: status(203, good)),
    _lasting("206 with a part", lambda good, random: status(206, _cut(good, random))),
    _lasting("300 without a choice", _status(300)),
    _lasting("304 to a plain request", lambda good, random: _not_modified),
    *(_passing(f"{code} once", _status(code, ERROR_PAGE)) for code in (429, 500, 502, 503, 504, 599)),
    *(_passing(f"{code} with Retry-After", _status(code, Retry_After="1")) for code in (429, 503)),
    _passing("503 with a strange Retry-After", _status(503, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT")),
    _carried("100 before 200", lambda good, random: _raw(b"HTTP/1.1 100 Continue\r\n\r\n", _ok(good))),
]

REDIRECTS = [
    _lasting("redirected in a circle", lambda good, random: _to_itself),
    _lasting("redirected to a file here", _status(302, Location=Path(__file__).as_uri())),
    _lasting("redirected to ftp", _status(302, Location="ftp://127.0.0.1/month.parquet")),
    _lasting("redirected to nonsense", _status(302, Location="http://[::1")),
    _lasting("redirected to nowhere", _status(302)),
    BadInput("redirected to a page", Outcome.REFUSED, _redirected(lambda good, random: ERROR_PAGE)),
    _passing("redirected to a closed port", _status(302, Location="http://127.0.0.1:1/month.parquet")),
    BadInput("redirected", Outcome.LOADED, _redirected(_unchanged), _unchanged),
    BadInput("redirected five times", Outcome.LOADED, _redirected(_unchanged, hops=5), _unchanged),
]

TRANSFERS = [
    _passing("closed before the status", lambda good, random: _raw()),
    _passing("closed within the status", lambda good, random: _raw(_ok(b"")[: random.randrange(1, 12)])),
    # To HTTP's parser the end is that of the headers: what follows is a file without length, and without bytes.
    _lasting(
        "closed within the headers", lambda good, random: _raw(_ok(b"", _length(good))[: random.randrange(12, 33)])
    ),
    _passing("closed after the headers", lambda good, random: cut_off(good, 0)),
    _passing("closed half-way", lambda good, random: cut_off(good, _within(good, random))),
    _passing("one byte short", lambda good, random: cut_off(good, len(good) - 1)),
    _passing("reset after the headers", lambda good, random: cut_off(good, 0, reset=True)),
    _passing("reset half-way", lambda good, random: cut_off(good, _within(good, random), reset=True)),
    _lasting("reset for ever", lambda good, random: cut_off(good, _within(good, random), reset=True)),
    BadInput("stalled", Outcome.RECOVERS, _stalled, slow=True),
    _carried("in small pieces", _trickled),
    _passing("not HTTP", lambda good, random: _raw(b"220 ftp.example ready\r\n")),
    _passing("too many headers", lambda good, random: _sent(good, _length(good), *(f"X-{n}: {n}" for n in range(200)))),
    _passing("a header too long", lambda good, random: _sent(good, _length(good), f"X-Long: {'x' * 70_000}")),
    _passing("Content-Length too large", lambda good, random: _sent(good, _length(good, random.randrange(1, 10_000)))),
    _lasting("Content-Length too small", lambda good, random: _sent(good, _length(good, -_within(good, random)))),
    _lasting("two Content-Lengths", lambda good, random: _sent(good, _length(good), _length(good, 1))),
    _carried("Content-Length no number", lambda good, random: _sent(good, f"Content-Length: {_no_number(random)}")),
    _lasting("cut, Content-Length no number", lambda good, random: _sent(_cut(good, random), "Content-Length: many")),
    _carried("no Content-Length", lambda good, random: _sent(good)),
    _lasting("cut, no Content-Length", lambda good, random: _sent(_cut(good, random))),
    _carried("chunked", lambda good, random: _sent(_in_chunks(good, random) + b"0\r\n\r\n", CHUNKED)),
    _passing("chunked, cut", lambda good, random: _sent(_cut(_in_chunks(good, random), random), CHUNKED)),
    _passing("chunked, without the last chunk", lambda good, random: _sent(_in_chunks(good, random), CHUNKED)),
    _passing("chunked, nonsense for a size", lambda good, random: _sent(_in_chunks(good, random) + b"zz\r\n", CHUNKED)),
    _passing(
        "chunked, with another length",
        lambda good, random: _sent(_in_chunks(good, random) + b"0\r\n\r\n", CHUNKED, _length(good, -1)),
    ),
    _carried("gzip unasked for", lambda good, random: _sent(gzip.compress(good), GZIP)),
    _passing("gzip unasked for, with its length", lambda good, random: _zipped(gzip.compress(good))),
    _lasting("gzip in name only", lambda good, random: _zipped(good)),
    _lasting("gzip, cut", lambda good, random: _sent(_cut(_first_half(gzip.compress(good)), random), GZIP)),
    _carried("an unknown Content-Encoding", lambda good, random: _sent(good, "Content-Encoding: aws-chunked")),
    _carried("the Content-Type of a page", lambda good, random: _sent(good, _length(good), "Content-Type: text/html")),
    _passing(
        "another trouble each time",
        _status(503),
        lambda good, random: cut_off(good, _within(good, random)),
        lambda good, random: cut_off(good, _within(good, random), reset=True),
    ),
    BadInput(
        "first 500, then a page",
        Outcome.REFUSED,
        lambda _, good, random: [status(500), status(200, ERROR_PAGE)],
    ),
    _carried("neither ETag nor date", lambda good, random: status(200, good)),
    _carried("ETag over two lines", lambda good, random: _sent(good, _length(good), 'ETag: "one,\r\n two"')),
    _carried("ETag in Latin-1", lambda good, random: _sent(good, _length(good), 'ETag: "Übergröße"')),
    _carried("ETag without end", lambda good, random: _sent(good, _length(good), f'ETag: "{"x" * 60_000}"')),
    _carried("nonsense for a date", lambda good, random: _sent(good, _length(good), "Last-Modified: the day before")),
]


# Files

REQUIRED = [column.source for column in COLUMNS if column.source is not None and column.required]
OPTIONAL = [column.source for column in COLUMNS if column.source is not None and not column.required]
WHOLE = [column.source for column in COLUMNS if column.source is not None and column.type == "INTEGER"]
TIMES = [column.source for column in COLUMNS if column.source is not None and column.type == "TIMESTAMP"]
AMOUNTS = [name for name in REQUIRED if name not in (*WHOLE, *TIMES, "store_and_fwd_flag")]
NUMBERS = [*WHOLE, *AMOUNTS]


def _query(content: bytes, query: str, form: str = "parquet") -> bytes:
    """What `query` makes of the parquet file `content`, which it knows as the table `month`, in the format `form`."""
    with TemporaryDirectory() as folder, duckdb.connect() as connection:
        source, target = Path(folder) / "month.parquet", Path(folder) / "changed"
        source.write_bytes(content)
        connection.execute(f"CREATE VIEW month AS FROM '{source}'")
        connection.execute(f"COPY ({query}) TO '{target}' (FORMAT {form})")
        return target.read_bytes()


def _table(content: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(content))


def _parquet(table: pa.Table, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return bytes(sink.getvalue())


def _rows(content: bytes) -> int:
    return int(pq.read_metadata(pa.BufferReader(content)).num_rows)


def _footer_bytes(content: bytes) -> int:
    """The size of the footer, without its length and the magic number behind it."""
    return int.from_bytes(content[-8:-4], "little")


def _with_footer(content: bytes, footer: bytes) -> bytes:
    """`content` with another footer, whose length is right."""
    return content[: -8 - _footer_bytes(content)] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def _with_footer_length(content: bytes, length: int) -> bytes:
    return content[:-8] + length.to_bytes(4, "little") + b"PAR1"


def _flipped(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def _pages(content: bytes, random: Random) -> tuple[int, int]:
    """Where the pages of a random required column begin and end."""
    group = pq.read_metadata(pa.BufferReader(content)).row_group(0)
    chunks = [group.column(number) for number in range(group.num_columns)]
    chunk = random.choice([chunk for chunk in chunks if chunk.path_in_schema in REQUIRED])
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    return start, start + chunk.total_compressed_size


def _zeroed_pages(good: bytes, random: Random) -> bytes:
    footer = _footer_bytes(good) + 8
    return good[:4] + bytes(len(good) - 4 - footer) + good[-footer:]


def _zeroed_column(good: bytes, random: Random) -> bytes:
    start, end = _pages(good, random)
    return good[:start] + bytes(end - start) + good[end:]


def _flipped_in_a_page(good: bytes, random: Random) -> bytes:
    """One bit of the number by which compressed pages begin: another bit might go unnoticed, pages have no checksum."""
    start, _ = _pages(good, random)
    return _flipped(good, good.index(b"\x28\xb5\x2f\xfd", start) + random.randrange(4), random.randrange(8))


def _flipped_in_the_footer(good: bytes, random: Random) -> bytes:
    """One bit of the name of a required column, which then has another name."""
    name = random.choice(REQUIRED).encode()
    place = good.index(name, len(good) - 8 - _footer_bytes(good))
    return _flipped(good, place + random.randrange(len(name)), random.randrange(4))


def _varint(number: int) -> bytes:
    """A natural number as the footer has it: seven bits a byte, the lowest first."""
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def _zigzag(number: int) -> bytes:
    """An integer of 64 bits as the footer has it: the sign is the lowest bit."""
    return _varint(number << 1 ^ number >> 63)


def _counted(content: bytes, rows: int) -> bytes:
    """`content` with a footer that counts so many `rows`."""
    footer = content[-8 - _footer_bytes(content) : -8]
    # Field 3, an integer, and the head of the list that is field 4: the row groups.
    before, found, after = footer.partition(b"\x16" + _zigzag(_rows(content)) + b"\x19")
    assert found
    return _with_footer(content, before + b"\x16" + _zigzag(rows) + b"\x19" + after)


def _nested_without_end(good: bytes, random: Random) -> bytes:
    """A footer without row groups, of one column that lies a hundred thousand groups deep."""
    depth = 100_000
    root, group = b"\x48\x01r\x15\x02\x00", b"\x35\x02\x18\x01g\x15\x02\x00"
    column = b"\x15\x02\x25\x02\x18\x01n\x00"
    schema = b"\x19\xfc" + _varint(depth + 2) + root + group * depth + column
    return _with_footer(good, b"\x15\x02" + schema + b"\x16\x02\x19\x0c\x00")


def _other_month(good: bytes, random: Random) -> bytes:
    """As many trips of any other month."""
    with TemporaryDirectory() as folder:
        month = random.choice(list(months_between(FIRST_MONTH, LAST_MONTH)))
        return write_month(Path(folder), month, _rows(good)).read_bytes()


def _zones(form: str) -> Change:
    """The zones, in the format `form`."""

    def change(good: bytes, random: Random) -> bytes:
        with TemporaryDirectory() as folder:
            return _query(good, f"FROM read_csv('{write_zones(Path(folder) / 'zones.csv')}')", form)

    return change


def _archived(good: bytes, random: Random) -> bytes:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("month.parquet", good)
    return archive.getvalue()


def _arrow_file(good: bytes, random: Random) -> bytes:
    table, sink = _table(good), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    return bytes(sink.getvalue())


def _database(good: bytes, random: Random) -> bytes:
    with TemporaryDirectory() as folder:
        duckdb.connect(f"{folder}/month.duckdb").close()
        return Path(folder, "month.duckdb").read_bytes()


BODIES: Mapping[str, Change] = {
    "empty": lambda good, random: b"",
    "an HTML page": lambda good, random: ERROR_PAGE,
    "AccessDenied as 200": lambda good, random: ACCESS_DENIED,
    "Cannot find view": lambda good, random: NO_VIEW,
    "trips as CSV": lambda good, random: _query(good, "FROM month", "csv"),
    "trips as JSON": lambda good, random: _query(good, "FROM month", "json"),
    "the zones CSV": _zones("csv"),
    "a zip of the file": _archived,
    "a gzip of the file": lambda good, random: gzip.compress(good),
    "Base64 of the file": lambda good, random: b64encode(good),
    "an Arrow file": _arrow_file,
    "a DuckDB database": _database,
    "ORC's magic": lambda good, random: b"ORC" + good[4:-4] + b"\x03ORC",
    "PARE": lambda good, random: b"PARE" + good[4:-4] + b"PARE",
    "random bytes": lambda good, random: random.randbytes(len(good)),
    "as many zeros": lambda good, random: bytes(len(good)),
    "only PAR1": lambda good, random: b"PAR1",
    "PAR1 twice": lambda good, random: b"PAR1PAR1",
    "garbage between PAR1s": lambda good, random: b"PAR1" + random.randbytes(len(good)) + b"PAR1",
    "the first half": lambda good, random: _first_half(good),
    "the last half": lambda good, random: good[len(good) // 2 :],
    "without the last byte": lambda good, random: good[:-1],
    "a newline behind it": lambda good, random: good + b"\n",
    "a byte order mark before it": lambda good, random: b"\xef\xbb\xbf" + good,
    "a hole": lambda good, random: good[:4] + good[_within(good, random) // 2 + 5 :],
    "newlines of Windows": lambda good, random: good.replace(b"\n", b"\r\n"),
    "recoded as UTF-8": lambda good, random: good.decode("latin-1").encode(),
    "footer of no length": lambda good, random: _with_footer_length(good, 0),
    "footer longer than the file": lambda good, random: _with_footer_length(good, len(good) + random.randrange(9999)),
    "footer of 4 GiB": lambda good, random: _with_footer_length(good, 2**32 - 1),
    "footer of zeros": lambda good, random: _with_footer(good, bytes(_footer_bytes(good))),
    "footer without pages": _zeroed_pages,
    "a column of zeros": _zeroed_column,
    "a flipped bit in a page": _flipped_in_a_page,
    "a flipped bit in the footer": _flipped_in_the_footer,
    "one row more in the footer": lambda good, random: _counted(good, _rows(good) + 1),
    "one row less in the footer": lambda good, random: _counted(good, _rows(good) - 1),
    "no row in the footer": lambda good, random: _counted(good, 0),
    "fewer rows than none in the footer": lambda good, random: _counted(good, -random.randint(1, 9999)),
    "quintillions of rows": lambda good, random: _counted(good, random.randrange(2**60, 2**62)),
    "nested without end": _nested_without_end,
}

# Layouts

LAYOUT_2009 = """SELECT 'VTS' AS vendor_name, tpep_pickup_datetime::VARCHAR AS Trip_Pickup_DateTime,
tpep_dropoff_datetime::VARCHAR AS Trip_Dropoff_DateTime, passenger_count AS Passenger_Count,
trip_distance AS Trip_Distance, -73.99 AS Start_Lon, 40.73 AS Start_Lat, NULL::DOUBLE AS Rate_Code,
NULL::DOUBLE AS store_and_forward, -73.98 AS End_Lon, 40.75 AS End_Lat, 'CASH' AS Payment_Type, fare_amount AS Fare_Amt,
extra AS surcharge, mta_tax, tip_amount AS Tip_Amt, tolls_amount AS Tolls_Amt, total_amount AS Total_Amt FROM month"""
LAYOUT_2010 = """SELECT 'CMT' AS vendor_id, tpep_pickup_datetime::VARCHAR AS pickup_datetime,
tpep_dropoff_datetime::VARCHAR AS dropoff_datetime, passenger_count, trip_distance, -73.99 AS pickup_longitude,
40.73 AS pickup_latitude, '1' AS rate_code, store_and_fwd_flag, -73.98 AS dropoff_longitude, 40.75 AS dropoff_latitude,
'CAS' AS payment_type, fare_amount, extra AS surcharge, mta_tax, tip_amount, tolls_amount, total_amount FROM month"""
LAYOUT_GREEN = """SELECT * RENAME (tpep_pickup_datetime AS lpep_pickup_datetime,
tpep_dropoff_datetime AS lpep_dropoff_datetime), NULL::DOUBLE AS ehail_fee, 1 AS trip_type FROM month"""
LAYOUT_FOR_HIRE = """SELECT 'B00254' AS dispatching_base_num, tpep_pickup_datetime AS pickup_datetime,
tpep_dropoff_datetime AS "dropOff_datetime", PULocationID AS "PUlocationID", DOLocationID AS "DOlocationID",
NULL::INTEGER AS "SR_Flag" FROM month"""


def _selected(query: str) -> Change:
    return lambda good, random: _query(good, query)


def _replaced(names: Sequence[str], expression: str) -> Change:
    """A random column of `names` becomes `expression`, where {name} stands for it, and {odd} for being a random row."""

    def change(good: bytes, random: Random) -> bytes:
        name = random.choice(names)
        odd = f"row_number() OVER () = {random.randint(1, _rows(good))}"
        return _query(good, f"SELECT * REPLACE ({expression.format(name=name, odd=odd)} AS {name}) FROM month")

    return change


def _without_one(good: bytes, random: Random) -> bytes:
    return _parquet(_table(good).drop_columns([random.choice(REQUIRED)]))


def _with_column(good: bytes, name: str, values: pa.Array) -> bytes:
    """`good` with `values` in the column `name`, whatever its type was."""
    table = _table(good)
    return _parquet(table.set_column(table.column_names.index(name), name, values))


def _flag_that_is_no_text(good: bytes, random: Random) -> bytes:
    """Bytes in the flag that are not UTF-8, though the footer says so."""
    flags = pa.array([b"\xff\xfe"] * _rows(good), pa.binary())
    return _with_column(good, "store_and_fwd_flag", pa.Array.from_buffers(pa.string(), len(flags), flags.buffers()))


def _time_beyond_all_times(good: bytes, random: Random) -> bytes:
    return _with_column(good, random.choice(TIMES), pa.array([2**62] * _rows(good), pa.timestamp("ms")))


BAD_LAYOUTS: Mapping[str, Change] = {
    "no rows": _selected("FROM month WHERE false"),
    "no columns": lambda good, random: _parquet(pa.table({})),
    "a column missing": _without_one,
    "text for a number": _replaced(NUMBERS, "'much'"),
    "digits for a number": _replaced(NUMBERS, "{name}::VARCHAR"),
    "text for a time": _replaced(TIMES, "{name}::VARCHAR"),
    "a day for a time": _replaced(TIMES, "{name}::DATE"),
    "a number for a time": _replaced(TIMES, "epoch_us({name})"),
    "a time zone": _replaced(TIMES, "{name}::TIMESTAMPTZ"),
    "a time beyond all times": _time_beyond_all_times,
    "a number for the flag": _replaced(["store_and_fwd_flag"], "1"),
    "bytes for the flag": _replaced(["store_and_fwd_flag"], "'N'::BLOB"),
    "a flag that is no text": _flag_that_is_no_text,
    "a long flag": _replaced(["store_and_fwd_flag"], "if({odd}, repeat('N', 1_000_000), {name})"),
    "a nested column": _replaced(NUMBERS, "struct_pack(value := {name})"),
    "a list for a number": _replaced(NUMBERS, "[{name}]"),
    "a boolean for a number": _replaced(NUMBERS, "{name} > 1"),
    "half a vendor": _replaced(["VendorID"], "if({odd}, 1.5, {name})"),
    "a number beyond 32 bits": _replaced(WHOLE, "if({odd}, 3_000_000_000, {name})"),
    "NaN for a whole number": _replaced(WHOLE, "if({odd}, 'nan'::DOUBLE, {name})"),
    "infinity for a whole number": _replaced(WHOLE, "if({odd}, '-inf'::DOUBLE, {name})"),
    "the layout of 2009": _selected(LAYOUT_2009),
    "the layout of 2010": _selected(LAYOUT_2010),
    "green taxis": _selected(LAYOUT_GREEN),
    "for-hire vehicles": _selected(LAYOUT_FOR_HIRE),
    "the zones as parquet": _zones("parquet"),
}

# Months that are odd

NEW_NAMES = [
    *("it's new", 'a "new" fee', '"VendorID"', 'Robert"); DROP TABLE trips; --', "a; b", "$month", "{name}", "%s", "*"),
    *("NULL", "select", "partition_date", "vendor_id", "filename", "file_row_number", "__index_level_0__", "🚕"),
    *("", "two\nlines", "a zero\0byte", "a long name" * 100),
]


def _with_new_columns(good: bytes, names: Sequence[str], random: Random) -> bytes:
    """Columns that nobody knows, among the others."""
    table = _table(good)
    for name in names:
        table = table.add_column(random.randrange(table.num_columns), name, pa.array(range(table.num_rows)))
    return _parquet(table)


def _with_a_null_namesake(good: bytes, random: Random) -> bytes:
    """A column stands there again, of type null: the one with values is the first."""
    return _parquet(_table(good).append_column(random.choice(REQUIRED), pa.nulls(_rows(good))))


def _with_a_nested_namesake(good: bytes, random: Random) -> bytes:
    """A column that nobody knows has a member of type null that is called like a required column."""
    nested = pa.array([{random.choice(REQUIRED): None}] * _rows(good))
    return _parquet(_table(good).append_column("extras", nested))


def _with_a_column_twice(good: bytes, random: Random) -> bytes:
    """A column stands there again, with the same values and its name in the other case."""
    name, table = random.choice(REQUIRED), _table(good)
    return _parquet(table.append_column(name.swapcase(), table.column(name)))


def _shuffled(good: bytes, random: Random) -> bytes:
    table = _table(good)
    return _parquet(table.select(random.sample(table.column_names, table.num_columns)))


def _in_upper_case(good: bytes, random: Random) -> bytes:
    table = _table(good)
    return _parquet(table.rename_columns([name.upper() for name in table.column_names]))


def _fees(good: bytes) -> list[str]:
    return [name for name in _table(good).column_names if name.lower() in OPTIONAL]


def _written(**options: object) -> Change:
    """The same trips, written by another program in another way."""
    return lambda good, random: _parquet(_table(good), **options)


ODD_MONTHS: Mapping[str, Change] = {
    "another month's trips": _other_month,
    "one trip": _selected("FROM month LIMIT 1"),
    "all trips twice": _selected("FROM month UNION ALL FROM month"),
    "trips in another order": lambda good, random: _query(good, f"FROM month ORDER BY hash(month, {random.random()})"),
    "columns that nobody knows": lambda good, random: _with_new_columns(good, random.sample(NEW_NAMES, 5), random),
    "hundreds of columns that nobody knows": lambda good, random: _with_new_columns(
        good, [f"new {number}" for number in range(300)], random
    ),
    "a nested column that nobody knows": _selected("SELECT *, {'a': [{'b': VendorID}]} AS extras FROM month"),
    "a column twice": _with_a_column_twice,
    "a column twice, then of type null": _with_a_null_namesake,
    "a column's name within a nested one": _with_a_nested_namesake,
    "columns in another order": _shuffled,
    "names in upper case": _in_upper_case,
    "a fee of type null": lambda good, random: _with_column(good, random.choice(_fees(good)), pa.nulls(_rows(good))),
    "no fees": lambda good, random: _parquet(_table(good).drop_columns(_fees(good))),
    "nobody counted the passengers": lambda good, random: _with_column(good, "passenger_count", pa.nulls(_rows(good))),
    "a required column of nulls": _replaced(AMOUNTS, "NULL::DOUBLE"),
    "whole numbers as DOUBLE": _replaced(WHOLE, "{name}::DOUBLE"),
    "an amount as DECIMAL": _replaced(AMOUNTS, "{name}::DECIMAL(9, 2)"),
    "an amount as FLOAT": _replaced(AMOUNTS, "{name}::FLOAT"),
    "an amount that is no number": _replaced(AMOUNTS, "if({odd}, 'nan'::DOUBLE, {name})"),
    "an infinite amount": _replaced(AMOUNTS, "if({odd}, 'inf'::DOUBLE, {name})"),
    "a time in the far future": _replaced(TIMES, "if({odd}, TIMESTAMP '294246-01-01', {name})"),
    "a time before our era": _replaced(TIMES, "if({odd}, TIMESTAMP '0044-03-15 (BC)', {name})"),
    "an infinite time": _replaced(TIMES, "if({odd}, TIMESTAMP 'infinity', {name})"),
    "a flag with a zero byte": _replaced(["store_and_fwd_flag"], "if({odd}, 'Y' || chr(0) || 'N', {name})"),
    "many small row groups": lambda good, random: _parquet(_table(good), row_group_size=max(1, _rows(good) // 200)),
    **{f"written with {codec}": _written(compression=codec) for codec in ("none", "snappy", "gzip", "brotli", "lz4")},
    "written without dictionaries": _written(use_dictionary=False),
    "written in small pages of version 2": _written(data_page_version="2.0", data_page_size=500),
    "written with checksums and an index": _written(write_page_checksum=True, write_page_index=True),
    "written by version 1.0": _written(version="1.0"),
    "written with 96-bit times": _written(use_deprecated_int96_timestamps=True),
    "times in nanoseconds": _replaced(TIMES, "{name}::TIMESTAMP_NS"),
    "the file twice, one behind the other": lambda good, random: good + good,
}

BAD_INPUTS: Sequence[BadInput] = [
    *STATUSES,
    *REDIRECTS,
    *TRANSFERS,
    *(_refused(name, change) for name, change in BODIES.items()),
    *(_refused(name, change) for name, change in BAD_LAYOUTS.items()),
    *(_loaded(name, change) for name, change in ODD_MONTHS.items()),
]
