"""Files made to do harm: footers and pages that claim, or decompress to, more than any machine has.

What DuckDB 1.5 does with them unless the footer is checked first: 16 million claimed columns took 7 GB, 100,000 nested
ones ended the process, 10,000 nested ones took half a minute, and 67 kB of repeated rows would have been written for an
hour.
"""

import copy
import gzip
import struct
from collections.abc import Callable
from functools import cache
from random import Random

import pyarrow as pa

from dagster_essentials.ingestion.file_format import MAX_FOOTER_LIST
from dagster_essentials_tests.support import parquet_bytes as pb
from dagster_essentials_tests.support.faults.fault import Change, Fault, refused_file
from dagster_essentials_tests.support.faults.files import FOOTER, UNREADABLE
from dagster_essentials_tests.support.faults.samples import count_rows

ROWS = 3000
"""Of the months that are made of pages of their own."""
FLAG, VENDOR = "store_and_fwd_flag", "VendorID"
UNCOMPRESSED, SNAPPY, GZIP, ZSTD = 0, 1, 2, 6
"""Codecs of the format."""
BOMB_BYTES = 256 << 20
"""Far more than the reader is given, and little enough for a test."""

LIMIT = r"the limits in dagster_essentials/ingestion/file_format\.py"
LIST_TOO_LONG = rf"footer lists more columns or row groups than any month has.*{LIMIT}"
TOO_MANY_ROWS = rf"footer counts [\d,]+ rows, and no month has more than.*{LIMIT}"
TOO_LONG = f"{FLAG} holds a text of more than 100 bytes"


# Footers


def _edit_footer(edit: Callable[[pb.Struct], object]) -> Change:
    def change(good: bytes, random: Random) -> bytes:
        body, footer = pb.split(good)
        footer = copy.deepcopy(footer)
        edit(footer)
        return pb.join(body, footer)

    return change


def _claim(field: int, count: int) -> Change:
    """The list `field` of the footer claims `count` elements."""

    def edit(footer: pb.Struct) -> None:
        type_, elements = footer.get(field, (pb.LIST, (pb.STRUCT, [])))[1]
        footer[field] = (pb.LIST, (type_, elements, count))

    return _edit_footer(edit)


def _more_columns(count: int, nested: bool = False) -> Change:
    def edit(footer: pb.Struct) -> None:
        schema = footer[pb.SCHEMA][1][1]
        schema[0][5] = (pb.I32, schema[0][5][1] + (1 if nested else count))
        schema += [{3: (pb.I32, 1), 4: (pb.BINARY, b"n"), 5: (pb.I32, 1)} if nested else schema[1]] * count
        chunks = footer[pb.ROW_GROUPS][1][1][0][1][1][1]
        chunks += chunks[:1] * (1 if nested else count)
        if nested:
            schema.append(schema[1])

    return _edit_footer(edit)


def _unknown_field(type_: int, encoded: bytes) -> Change:
    """The footer has one more field of `type_`, which no reader knows."""

    def change(good: bytes, random: Random) -> bytes:
        body, footer = pb.split(good)
        fields = pb.encode(pb.STRUCT, footer).removesuffix(b"\0")
        return pb.join(body, fields + bytes([type_]) + pb.zigzag(99) + encoded + b"\0")

    return change


def _nested_structs(depth: int) -> Change:
    return _unknown_field(pb.STRUCT, b"\x1c" * depth + b"\0" * (depth + 1))


def _row_count(count: Callable[[bytes], int]) -> Change:
    """Another number of rows, in total and in the row group."""

    def change(good: bytes, random: Random) -> bytes:
        rows = count(good)

        def edit(footer: pb.Struct) -> None:
            footer[pb.ROWS] = footer[pb.ROW_GROUPS][1][1][0][3] = (pb.I64, rows)

        return _edit_footer(edit)(good, random)

    return change


def _page_offsets(offset: Callable[[bytes], int]) -> Change:
    """All pages are at another offset, says the footer."""

    def change(good: bytes, random: Random) -> bytes:
        def edit(footer: pb.Struct) -> None:
            for column in pb.columns(footer):
                column[9] = column[11] = (pb.I64, offset(good))

        return _edit_footer(edit)(good, random)

    return change


# Pages


def _with_pages(
    pages: Callable[[], dict[str, bytes]], rows: int = ROWS, total: int | None = None, codec: int = UNCOMPRESSED
) -> Change:
    """`rows` equal rows in one row group, with these `pages` in some of the columns, compressed by `codec`."""
    values = {
        1: struct.pack("<i", 1),
        2: struct.pack("<q", 1),
        5: struct.pack("<d", 1.0),
        6: struct.pack("<i", 1) + b"N",
    }

    def change(good: bytes, random: Random) -> bytes:
        body, footer = pb.split(good)
        footer = copy.deepcopy(footer)
        content, given = bytearray(body), pages()
        footer[pb.ROWS] = (pb.I64, rows if total is None else total)
        group = footer[pb.ROW_GROUPS][1][1][0]
        group[3] = (pb.I64, rows)
        for element in footer[pb.SCHEMA][1][1][1:]:
            element[3] = (pb.I32, 1)
        for chunk in group[1][1][1]:
            for index in set(chunk) - {2, 3}:
                del chunk[index]
            column = chunk[3][1]
            for statistics in set(column) - {*range(1, 8), 9}:
                del column[statistics]
            name = pb.column_name(column)
            chunk_pages = given.get(name) or pb.dictionary_page(values[column[1][1]]) + pb.constant_page(rows)
            first, first_content = pb.decode(chunk_pages)
            dictionary_bytes = first_content + first[3][1] if 7 in first else 0
            column[4] = (pb.I32, codec if name in given else UNCOMPRESSED)
            column[5] = (pb.I64, rows)
            column[6] = column[7] = (pb.I64, len(chunk_pages))
            column[9] = (pb.I64, len(content) + dictionary_bytes)
            if dictionary_bytes:
                column[11] = (pb.I64, len(content))
            content += chunk_pages
        return pb.join(bytes(content), footer)

    return change


def repeated_rows(rows: int) -> Change:
    """`rows` equal rows, in a file of a few kilobytes."""
    return _with_pages(dict, rows=rows)


def _compress(content: bytes, codec: int) -> bytes:
    if codec == GZIP:
        return gzip.compress(content, 1)
    return bytes(pa.compress(content, codec={SNAPPY: "snappy", ZSTD: "zstd"}[codec], asbytes=True))


@cache
def _compressed_text(length: int, codec: int) -> bytes:
    return _compress(struct.pack("<I", length) + b"Y" * length, codec)


def _repeated_text(length: int, codec: int) -> Change:
    """The flag is one text of `length` bytes in the dictionary, repeated in each row."""

    def pages() -> dict[str, bytes]:
        text = pb.dictionary_page(_compressed_text(length, codec), uncompressed=4 + length)
        indexes = pb.no_nulls(ROWS) + b"\x01" + pb.run_length(ROWS, 0)
        compressed = _compress(indexes, codec)
        return {FLAG: text + pb.data_page(compressed, ROWS, pb.DICTIONARY, uncompressed=len(indexes))}

    return _with_pages(pages, codec=codec)


def _flag_page(content: bytes, **claims: int) -> Change:
    """The flag's page, whose header makes some `claims`."""
    return _with_pages(lambda: {FLAG: pb.data_page(gzip.compress(content), ROWS, pb.PLAIN, **claims)}, codec=GZIP)


def _vendor_pages(indexes: bytes, values: int = 1) -> Change:
    """The vendors' dictionary, which claims to have so many `values`, and indexes into it."""
    dictionary = pb.dictionary_page(struct.pack("<q", 1), values)
    return _with_pages(lambda: {VENDOR: dictionary + pb.data_page(pb.no_nulls(ROWS) + indexes, ROWS, pb.DICTIONARY)})


_TEXT_OF_2_GB = pb.no_nulls(ROWS) + b"\xff\xff\xff\x7fY"

HOSTILE_FILES: list[Fault] = [
    refused_file("footer of 5 MB", LIMIT, _unknown_field(pb.BINARY, pb.varint(5_000_000) + bytes(5_000_000))),
    *(
        refused_file(f"{count:,} {what} claimed", LIST_TOO_LONG, _claim(field, count))
        for field, what in ((pb.SCHEMA, "columns"), (pb.ROW_GROUPS, "row groups"), (pb.KEY_VALUES, "key values"))
        for count in (1 << 24, (1 << 31) - 1)
    ),
    refused_file(
        "a column name that is not UTF-8",
        FOOTER,
        _edit_footer(lambda footer: footer[pb.SCHEMA][1][1][1].update({4: (pb.BINARY, b"\xff\xfe")})),
    ),
    refused_file(
        "numbers in the place of columns",
        FOOTER,
        _edit_footer(lambda footer: footer.update({pb.SCHEMA: (pb.LIST, (pb.I32, [1, 2, 3]))})),
    ),
    refused_file(f"{MAX_FOOTER_LIST:,} columns too many", LIST_TOO_LONG, _more_columns(MAX_FOOTER_LIST)),
    refused_file("100,000 columns", LIMIT, _more_columns(100_000)),
    refused_file("10,000 nested columns", LIST_TOO_LONG, _more_columns(10_000, nested=True)),
    refused_file("100,000 nested columns", LIST_TOO_LONG, _more_columns(100_000, nested=True)),
    refused_file("unknown field, 100 structs deep", FOOTER, _nested_structs(100)),
    refused_file("unknown field, 100,000 structs deep", FOOTER, _nested_structs(100_000)),
    refused_file("unknown field, 100,000 lists deep", FOOTER, _unknown_field(pb.LIST, b"\x19" * 100_000)),
    refused_file(
        "unknown field, a map of 2^31 entries",
        LIST_TOO_LONG,
        _unknown_field(pb.MAP, pb.varint((1 << 31) - 1) + b"\x55"),
    ),
    refused_file("a negative row count", FOOTER, _row_count(lambda good: -5)),
    refused_file("a billion rows claimed", TOO_MANY_ROWS, _row_count(lambda good: 10**9)),
    refused_file("2^62 rows claimed", TOO_MANY_ROWS, _row_count(lambda good: 1 << 62)),
    refused_file("ten times the rows", UNREADABLE, _row_count(lambda good: 10 * count_rows(good))),
    refused_file("a billion repeated rows", TOO_MANY_ROWS, repeated_rows(10**9)),
    refused_file(
        "a billion repeated rows, 300 in total",
        "counts 300 rows, and 1,000,000,000 in its row groups",
        _with_pages(dict, rows=10**9, total=300),
    ),
    refused_file("pages far behind the end", UNREADABLE, _page_offsets(lambda good: 1 << 40)),
    refused_file("pages before the beginning", UNREADABLE, _page_offsets(lambda good: -100)),
    refused_file("pages in the footer", UNREADABLE, _page_offsets(lambda good: len(good) - 3)),
    *(
        refused_file(f"a text of 256 MiB, {name}", f"{UNREADABLE}|{TOO_LONG}", _repeated_text(BOMB_BYTES, codec))
        for name, codec in (("gzip", GZIP), ("zstd", ZSTD), ("snappy", SNAPPY))
    ),
    refused_file("a text of 20 MiB, 3,000 times", TOO_LONG, _repeated_text(20 << 20, GZIP)),
    refused_file("a page that claims 2 GB", UNREADABLE, _flag_page(b"", uncompressed=(1 << 31) - 1)),
    refused_file("a page that claims 2 GB, compressed", UNREADABLE, _flag_page(b"", compressed=(1 << 31) - 1)),
    refused_file("a page of negative size", UNREADABLE, _flag_page(b"", uncompressed=-1)),
    refused_file("a page of 16 MiB that claims 100 bytes", UNREADABLE, _flag_page(bytes(1 << 24), uncompressed=100)),
    refused_file("a text that claims 2 GB", UNREADABLE, _flag_page(_TEXT_OF_2_GB, uncompressed=len(_TEXT_OF_2_GB))),
    refused_file(
        "a dictionary that claims 2^31 values",
        UNREADABLE,
        _vendor_pages(b"\x01" + pb.run_length(ROWS, 0), values=(1 << 31) - 1),
    ),
    refused_file("an index beyond the dictionary", UNREADABLE, _vendor_pages(b"\x08" + pb.run_length(ROWS, 200))),
    refused_file("indexes of 200 bits", UNREADABLE, _vendor_pages(b"\xc8" + pb.run_length(ROWS, 1, width=25))),
]
