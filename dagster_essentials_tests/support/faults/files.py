"""Faults of the bytes: what the source serves is not a complete parquet file, or one with damaged pages."""

import gzip
import zipfile
from base64 import b64encode
from io import BytesIO
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from dagster_essentials.datasets.yellow import COLUMNS
from dagster_essentials.sample import write_zones
from dagster_essentials_tests.support import parquet_bytes as pb
from dagster_essentials_tests.support.faults.answers import (
    ACCESS_DENIED,
    END_IS_MISSING,
    ERROR_PAGE,
    ERROR_PAGE_BEGINS,
)
from dagster_essentials_tests.support.faults.fault import Change, offset_within, refused_file
from dagster_essentials_tests.support.faults.samples import count_rows, read_arrow, rewrite

NO_VIEW = b'{\n  "code" : "not_found",\n  "error" : true,\n  "message" : "Cannot find view with id 755u-8jsi"\n}\n'
REQUIRED = [column.source for column in COLUMNS if column.source is not None and column.required]

BEGINS = "not a complete parquet file: it begins with .*Open the address in a browser"
FOOTER = "not a complete parquet file: its footer is damaged.*Materialize again"
UNREADABLE = r"rows of the file cannot be read, and it was not kept: .*Materialize again"
WRONG_COUNT = r"footer counts -?[\d,]+ rows"


def zones_file(file_format: str) -> Change:
    """The zones, in another file format."""

    def change(good: bytes, random: Random) -> bytes:
        with TemporaryDirectory() as folder:
            return rewrite(good, f"FROM read_csv('{write_zones(Path(folder) / 'zones.csv')}')", file_format)

    return change


def _zip(good: bytes, random: Random) -> bytes:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("month.parquet", good)
    return archive.getvalue()


def _arrow_file(good: bytes, random: Random) -> bytes:
    table, sink = read_arrow(good), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    return bytes(sink.getvalue())


def _database(good: bytes, random: Random) -> bytes:
    with TemporaryDirectory() as folder:
        duckdb.connect(f"{folder}/month.duckdb").close()
        return Path(folder, "month.duckdb").read_bytes()


def _gap(good: bytes, random: Random) -> bytes:
    """Some bytes after the first four are missing."""
    return good[:4] + good[offset_within(good, random) // 2 + 5 :]


def _with_footer(content: bytes, footer: bytes) -> bytes:
    return pb.join(content[: -8 - pb.footer_size(content)], footer)


def _with_footer_size(content: bytes, size: int) -> bytes:
    return content[:-8] + size.to_bytes(4, "little") + b"PAR1"


def _with_row_count(content: bytes, rows: int) -> bytes:
    """Another total in the footer; the row groups count as before."""
    body, footer = pb.split(content)
    return pb.join(body, {**footer, pb.ROWS: (pb.I64, rows)})


def _flip(content: bytes, offset: int, bit: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ 1 << bit]) + content[offset + 1 :]


def _column_chunk(content: bytes, random: Random) -> tuple[int, int]:
    """The first offset and the end of the pages of a random required column."""
    group = pq.read_metadata(pa.BufferReader(content)).row_group(0)
    chunks = [group.column(number) for number in range(group.num_columns)]
    chunk = random.choice([chunk for chunk in chunks if chunk.path_in_schema in REQUIRED])
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    return start, start + chunk.total_compressed_size


def zeroed_pages(good: bytes, random: Random | None = None) -> bytes:
    """The good footer, and zeros in the place of all pages."""
    footer = pb.footer_size(good) + 8
    return good[:4] + bytes(len(good) - 4 - footer) + good[-footer:]


def _zeroed_column(good: bytes, random: Random) -> bytes:
    start, end = _column_chunk(good, random)
    return good[:start] + bytes(end - start) + good[end:]


def _flipped_page_bit(good: bytes, random: Random) -> bytes:
    """One bit of zstd's magic number in a page: another bit may go unnoticed, as the pages have no checksum."""
    start, _ = _column_chunk(good, random)
    return _flip(good, good.index(b"\x28\xb5\x2f\xfd", start) + random.randrange(4), random.randrange(8))


def _flipped_footer_bit(good: bytes, random: Random) -> bytes:
    """One bit of the name of a required column, which then has another name."""
    name = random.choice(REQUIRED).encode()
    start = good.index(name, len(good) - 8 - pb.footer_size(good))
    return _flip(good, start + random.randrange(len(name)), random.randrange(4))


OTHER_FILES = [
    refused_file("empty", "not a complete parquet file: it is empty.*materialize again", lambda good, random: b""),
    refused_file("an HTML page", ERROR_PAGE_BEGINS, lambda good, random: ERROR_PAGE),
    refused_file("AccessDenied with 200", BEGINS, lambda good, random: ACCESS_DENIED),
    refused_file("Cannot find view", BEGINS, lambda good, random: NO_VIEW),
    refused_file("trips as CSV", BEGINS, lambda good, random: rewrite(good, "FROM month", "csv")),
    refused_file("trips as JSON", BEGINS, lambda good, random: rewrite(good, "FROM month", "json")),
    refused_file("the zones CSV", BEGINS, zones_file("csv")),
    refused_file("a zip of the file", BEGINS, _zip),
    refused_file("a gzip of the file", BEGINS, lambda good, random: gzip.compress(good)),
    refused_file("Base64 of the file", BEGINS, lambda good, random: b64encode(good)),
    refused_file("an Arrow file", BEGINS, _arrow_file),
    refused_file("a DuckDB database", BEGINS, _database),
    refused_file("the magic number of ORC", BEGINS, lambda good, random: b"ORC" + good[4:-4] + b"\x03ORC"),
    refused_file("PARE", BEGINS, lambda good, random: b"PARE" + good[4:-4] + b"PARE"),
    refused_file("random bytes", BEGINS, lambda good, random: random.randbytes(len(good))),
    refused_file("zeros", BEGINS, lambda good, random: bytes(len(good))),
    refused_file("a byte order mark before it", BEGINS, lambda good, random: b"\xef\xbb\xbf" + good),
    refused_file("the last half", BEGINS, lambda good, random: good[len(good) // 2 :]),
]

DAMAGED_FILES = [
    refused_file("only PAR1", FOOTER, lambda good, random: b"PAR1"),
    refused_file("PAR1 twice", FOOTER, lambda good, random: b"PAR1PAR1"),
    refused_file(
        "random bytes between PAR1s",
        "footer has|not a complete parquet file",
        lambda good, random: b"PAR1" + random.randbytes(len(good)) + b"PAR1",
    ),
    refused_file("the first half", END_IS_MISSING, lambda good, random: good[: len(good) // 2]),
    refused_file("without the last byte", END_IS_MISSING, lambda good, random: good[:-1]),
    refused_file("a newline behind it", END_IS_MISSING, lambda good, random: good + b"\n"),
    refused_file("a gap", f"{UNREADABLE}|{FOOTER}", _gap),
    refused_file("Windows newlines", f"{UNREADABLE}|not a complete", lambda good, random: good.replace(b"\n", b"\r\n")),
    refused_file(
        "recoded as UTF-8",
        f"footer has|{UNREADABLE}|not a complete",
        lambda good, random: good.decode("latin-1").encode(),
    ),
    refused_file("footer size 0", FOOTER, lambda good, random: _with_footer_size(good, 0)),
    refused_file("footer size of the file", FOOTER, lambda good, random: _with_footer_size(good, len(good))),
    refused_file(
        "footer size beyond the file",
        FOOTER,
        lambda good, random: _with_footer_size(good, len(good) + random.randrange(9999)),
    ),
    refused_file("footer size 2 GiB", FOOTER, lambda good, random: _with_footer_size(good, 2**31 - 1)),
    refused_file("footer size 4 GiB", FOOTER, lambda good, random: _with_footer_size(good, 2**32 - 1)),
    refused_file("zeroed footer", FOOTER, lambda good, random: _with_footer(good, bytes(pb.footer_size(good)))),
    refused_file("zeroed pages", UNREADABLE, zeroed_pages),
    refused_file("zeroed column", UNREADABLE, _zeroed_column),
    refused_file("a flipped bit in a page", UNREADABLE, _flipped_page_bit),
    refused_file("a flipped bit in the footer", "the file has no column", _flipped_footer_bit),
    refused_file(
        "one row more in the footer", WRONG_COUNT, lambda good, random: _with_row_count(good, count_rows(good) + 1)
    ),
    refused_file(
        "one row less in the footer", WRONG_COUNT, lambda good, random: _with_row_count(good, count_rows(good) - 1)
    ),
    refused_file("no rows in the footer", WRONG_COUNT, lambda good, random: _with_row_count(good, 0)),
    refused_file(
        "a negative row count in total",
        f"{WRONG_COUNT}|{FOOTER}",
        lambda good, random: _with_row_count(good, -random.randint(1, 9999)),
    ),
    refused_file(
        "quintillions of rows in total",
        WRONG_COUNT,
        lambda good, random: _with_row_count(good, random.randrange(2**60, 2**62)),
    ),
    refused_file(
        "a billion rows in total", "counts 1,000,000,000 rows", lambda good, random: _with_row_count(good, 10**9)
    ),
]
