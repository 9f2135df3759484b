"""Months that someone made to do harm, and months with a single damaged byte: refused in words, in time and in memory.

What DuckDB 1.5 did with them before anyone looked: 16 million claimed columns took 7 GB, 100,000 nested ones ended the
process, 10,000 nested ones took over half a minute, and 67 kB of repeated rows would have been written for an hour.
"""

import copy
import gzip
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dagster_essentials.assets import trips
from dagster_essentials.columns import COLUMNS, MOST_ROWS
from dagster_essentials.footer import LONGEST_LIST, FooterError, check_footer
from dagster_essentials.sample import write_month
from dagster_essentials.source import SourceError
from dagster_essentials_tests.support import parquet_bytes as pb
from dagster_essentials_tests.support.project import ROOT, Project, failure_text, materialize
from dagster_essentials_tests.support.source_server import SourceServer

ROWS = 3000
FLAG, VENDOR = "store_and_fwd_flag", "VendorID"
GZIP = 2
HUGE = 1 << 30


@cache
def good() -> bytes:
    with TemporaryDirectory() as folder:
        return write_month(Path(folder), "2023-01", ROWS).read_bytes()


def footer_with(change: Callable[[pb.Struct], object]) -> bytes:
    """The good month, with a footer that was changed."""
    body, footer = pb.taken_apart(good())
    footer = copy.deepcopy(footer)
    change(footer)
    return pb.put_together(body, footer)


def claiming(field: int, count: int) -> bytes:
    def change(footer: pb.Struct) -> None:
        kind, elements = footer.get(field, (pb.LIST, (pb.STRUCT, [])))[1]
        footer[field] = (pb.LIST, (kind, elements, count))

    return footer_with(change)


def with_more_columns(count: int, nested: bool) -> bytes:
    def change(footer: pb.Struct) -> None:
        schema = footer[pb.SCHEMA][1][1]
        schema[0][5] = (pb.I32, schema[0][5][1] + (1 if nested else count))
        schema += [{3: (pb.I32, 1), 4: (pb.BINARY, b"n"), 5: (pb.I32, 1)} if nested else schema[1]] * count
        chunks = footer[pb.GROUPS][1][1][0][1][1][1]
        chunks += chunks[:1] * (1 if nested else count)
        if nested:
            schema.append(schema[1])

    return footer_with(change)


def with_unknown(kind: int, content: bytes) -> bytes:
    """The good month, with one more field of `kind` in its footer, which no reader knows."""
    body, footer = pb.taken_apart(good())
    return pb.put_together(body, pb.written(pb.STRUCT, footer)[:-1] + bytes([kind]) + pb.signed(99) + content + b"\0")


def with_rows(rows: int, in_groups: bool = True) -> bytes:
    def change(footer: pb.Struct) -> None:
        footer[pb.ROWS] = (pb.I64, rows)
        if in_groups:
            footer[pb.GROUPS][1][1][0][3] = (pb.I64, rows)

    return footer_with(change)


def with_in_columns(**values: int) -> bytes:
    """The good month, with other numbers in what its footer says of each column."""
    numbers = {"size": 7, "place": 9, "dictionary": 11}

    def change(footer: pb.Struct) -> None:
        for column in pb.columns(footer):
            column.update({numbers[name]: (pb.I64, value) for name, value in values.items()})

    return footer_with(change)


def made_of(pages: dict[str, bytes], rows: int, total: int | None = None, codec: int = GZIP) -> bytes:
    """A month of `rows` equal rows in one row group, but with these `pages` in some of the columns, packed by `codec`."""
    values = {
        1: struct.pack("<i", 1),
        2: struct.pack("<q", 1),
        5: struct.pack("<d", 1.0),
        6: struct.pack("<i", 1) + b"N",
    }
    body, footer = pb.taken_apart(good())
    footer = copy.deepcopy(footer)
    written = bytearray(body)
    footer[pb.ROWS] = (pb.I64, rows if total is None else total)
    group = footer[pb.GROUPS][1][1][0]
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
        first = pb.dictionary(values[column[1][1]])
        content = pages.get(name) or first + pb.of_one_value(rows)
        dictionary_size = pb.read(content)[1] + pb.read(content)[0][3][1] if 7 in pb.read(content)[0] else 0
        column[4] = (pb.I32, codec if name in pages else 0)
        column[5] = (pb.I64, rows)
        column[6] = column[7] = (pb.I64, len(content))
        column[9] = (pb.I64, len(written) + dictionary_size)
        if dictionary_size:
            column[11] = (pb.I64, len(written))
        written += content
    return pb.put_together(bytes(written), footer)


@cache
def packed(codec: str, length: int) -> bytes:
    """One text of `length` letters, plain and packed."""
    content = struct.pack("<I", length) + b"Y" * length
    return gzip.compress(content, 1) if codec == "gzip" else bytes(pa.compress(content, codec=codec, asbytes=True))


def bomb(codec: str, number: int) -> bytes:
    """A month whose flag is one text of a gigabyte, repeated in each row."""
    entry = pb.dictionary(packed(codec, HUGE), unpacked=4 + HUGE)
    levels = pb.none_is_null(ROWS) + b"\x01" + pb.repeated(ROWS, 0)
    numbers = gzip.compress(levels) if codec == "gzip" else bytes(pa.compress(levels, codec=codec, asbytes=True))
    return made_of({FLAG: entry + pb.page(numbers, ROWS, 8, unpacked=len(levels))}, ROWS, codec=number)


def in_flag(content: bytes, **claims: int) -> bytes:
    return made_of({FLAG: pb.page(gzip.compress(content), ROWS, 0, **claims)}, ROWS)


def in_vendor(entry: bytes, numbers: bytes) -> bytes:
    content = pb.none_is_null(ROWS) + numbers
    return made_of({VENDOR: entry + pb.page(content, ROWS, 8)}, ROWS, codec=0)


def deep(count: int) -> bytes:
    return with_unknown(pb.STRUCT, b"\x1c" * count + b"\0" * (count + 1))


VENDORS = struct.pack("<q", 1)
LIMIT = r"limits in dagster_essentials/footer\.py and columns\.py"
DAMAGED = "its footer is damaged"
UNREAD = r"rows of the file cannot be read, and it was not kept: .*Materialize again"

# What each file is like, and what is said of it.
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a footer of 4 GB": (lambda: good()[:-8] + b"\xff\xff\xff\xffPAR1", DAMAGED),
    "a footer of 2 GB": (lambda: good()[:-8] + b"\xff\xff\xff\x7fPAR1", DAMAGED),
    "a footer of all the file": (lambda: good()[:-8] + len(good()).to_bytes(4, "little") + b"PAR1", DAMAGED),
    "a footer of nothing": (lambda: good()[:-8] + b"\0\0\0\0PAR1", rf"its footer breaks off.*{LIMIT}"),
    "a footer of 5 MB": (
        lambda: with_unknown(pb.BINARY, pb.number(5_000_000) + bytes(5_000_000)),
        rf"a month's has .*{LIMIT}",
    ),
    **{
        f"{count:,} {name}": (partial(claiming, field, count), rf"lists {count:,} columns.*{LIMIT}")
        for field, name in ((pb.SCHEMA, "columns"), (pb.GROUPS, "row groups"), (pb.NOTES, "notes"))
        for count in (1 << 24, (1 << 31) - 1)
    },
    "columns that count as numbers": (
        lambda: footer_with(lambda footer: footer.update({2: (pb.LIST, (pb.I32, [1, 2, 3]))})),
        rf"lists something else than the format says.*{LIMIT}",
    ),
    "2,001 columns": (lambda: with_more_columns(LONGEST_LIST, nested=False), rf"lists 2,020 columns.*{LIMIT}"),
    "100,000 columns": (lambda: with_more_columns(100_000, nested=False), rf"footer has [\d,]+ bytes.*{LIMIT}"),
    "10,000 nested columns": (lambda: with_more_columns(10_000, nested=True), rf"lists 10,021 columns.*{LIMIT}"),
    "100,000 nested columns": (lambda: with_more_columns(100_000, nested=True), rf"lists 100,021 columns.*{LIMIT}"),
    "a field nested 100": (lambda: deep(100), rf"nested more than 16 deep.*{LIMIT}"),
    "a field nested 100,000": (lambda: deep(100_000), rf"nested more than 16 deep.*{LIMIT}"),
    "a list in lists": (lambda: with_unknown(pb.LIST, b"\x19" * 100_000), rf"nested more than 16 deep.*{LIMIT}"),
    "a map": (lambda: with_unknown(11, pb.number((1 << 31) - 1) + b"\x55"), rf"of the kind 11, .*{LIMIT}"),
    "less than no rows": (lambda: with_rows(-5), DAMAGED),
    "less than no rows in all": (lambda: with_rows(-5, in_groups=False), DAMAGED),
    "a billion rows": (lambda: with_rows(10**9), rf"counts 1,000,000,000 rows, and no month has had.*{LIMIT}"),
    "2^62 rows": (lambda: with_rows(1 << 62), rf"counts 4,611,686,018,427,387,904 rows, .*{LIMIT}"),
    "rows that are not there": (lambda: with_rows(ROWS * 10), UNREAD),
    "two counts of rows": (
        lambda: with_rows(10**9, in_groups=False),
        rf"counts 1,000,000,000 rows, and 3,000 in .*{LIMIT}",
    ),
    "a billion repeated rows": (lambda: made_of({}, 10**9), rf"counts 1,000,000,000 rows, .*{LIMIT}"),
    "a billion rows that count as 300": (
        lambda: made_of({}, 10**9, total=300),
        rf"300 rows, and 1,000,000,000 in .*{LIMIT}",
    ),
    "columns far outside": (lambda: with_in_columns(place=1 << 40, dictionary=1 << 40), UNREAD),
    "columns before the beginning": (lambda: with_in_columns(place=-100, dictionary=-100), UNREAD),
    "columns in the footer": (lambda: with_in_columns(place=len(good()) - 3, dictionary=len(good()) - 3), UNREAD),
    "a gigabyte of text, gzip": (lambda: bomb("gzip", GZIP), UNREAD),
    "a gigabyte of text, zstd": (lambda: bomb("zstd", 6), UNREAD),
    "a gigabyte of text, snappy": (lambda: bomb("snappy", 1), UNREAD),
    "20 MB of text, 3,000 times": (
        lambda: made_of(
            {
                FLAG: pb.dictionary(packed("gzip", 20 << 20), unpacked=4 + (20 << 20))
                + pb.page(
                    gzip.compress(one := pb.none_is_null(ROWS) + b"\x01" + pb.repeated(ROWS, 0)), ROWS, 8, len(one)
                )
            },
            ROWS,
        ),
        "store_and_fwd_flag holds a text of more than 100 bytes",
    ),
    "a page that claims 2 GB": (lambda: in_flag(b"", unpacked=(1 << 31) - 1), UNREAD),
    "a page that claims 2 GB, packed": (lambda: in_flag(b"", packed=(1 << 31) - 1), UNREAD),
    "a page that claims less than nothing": (lambda: in_flag(b"", unpacked=-1), UNREAD),
    "a page that is more than it claims": (lambda: in_flag(bytes(1 << 24), unpacked=100), UNREAD),
    "a text that claims 2 GB": (
        lambda: in_flag(text := pb.none_is_null(ROWS) + b"\xff\xff\xff\x7fY", unpacked=len(text)),
        UNREAD,
    ),
    "a dictionary that claims 2^31 values": (
        lambda: in_vendor(pb.dictionary(VENDORS, values=(1 << 31) - 1), b"\x01" + pb.repeated(ROWS, 0)),
        UNREAD,
    ),
    "a number that the dictionary lacks": (
        lambda: in_vendor(pb.dictionary(VENDORS), b"\x08" + pb.repeated(ROWS, 200)),
        UNREAD,
    ),
    "numbers of 200 bits": (lambda: in_vendor(pb.dictionary(VENDORS), b"\xc8" + pb.repeated(ROWS, 1, 25)), UNREAD),
}

# Checks and loads each file of a folder, as a run does, and says what came of it.
CHILD = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))  # What goes wrong must not take the machine with it.
from pathlib import Path
import duckdb
from dagster_essentials.assets import trips

folder = Path(sys.argv[1])
good = folder / "good.parquet"

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def outcome(do, file):
    start, before = time.monotonic(), peak()
    try:
        do(file)
        said = "taken"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    return [said, time.monotonic() - start, peak() - before]

with duckdb.connect(str(folder / "data.duckdb"), config={"memory_limit": "512MB"}) as connection:
    connection.execute("SET enable_progress_bar = false")
    trips.load_month(connection, "2023-01", good)
    for file in [good, *sorted(folder.glob("*.hostile"))]:
        checked = outcome(trips._check_trips, file)
        loaded = outcome(lambda file: trips.load_month(connection, "2023-01", file), file)
        rows = connection.execute("SELECT count(*) FROM trips").fetchall()[0][0]
        print(json.dumps([file.stem, checked, loaded, rows]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the child said of each file; a file is missing if the process ended on it."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "good.parquet").write_bytes(good())
    for number, (make, _) in enumerate(HOSTILE.values()):
        (folder / f"{number:03}.hostile").write_bytes(make())
    result = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[")]
    names = ["good", *HOSTILE]
    found = {names[0 if stem == "good" else int(stem) + 1]: rest for stem, *rest in said}
    assert set(found) == set(names), f"ended with {result.returncode} after {list(found)[-1:]}: {result.stderr[-500:]}"
    return found


def test_a_good_month_is_taken(outcomes: dict[str, Any]) -> None:
    (checked, *_), (loaded, *_), rows = outcomes["good"]
    assert (checked, loaded, rows) == ("taken", "taken", ROWS)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_month_is_refused_in_words_in_time_and_in_memory(outcomes: dict[str, Any], name: str) -> None:
    checked, loaded, rows = outcomes[name]

    assert re.search(HOSTILE[name][1], checked[0]), checked[0]
    assert re.match("LayoutError|LoadError|RowsDifferError|[A-Za-z]*Exception|Error", loaded[0]), loaded[0]
    assert rows == ROWS, "the table has what it had"
    for _, seconds, megabytes in (checked, loaded):
        assert seconds < 20
        assert megabytes < 400, "a dictionary of 2^31 values takes 256 MB for a moment, all others less"


@pytest.mark.parametrize(
    "name", ["100,000 nested columns", "16,777,216 columns", "a billion repeated rows", "a gigabyte of text, zstd"]
)
def test_a_run_with_a_hostile_month_names_it_and_leaves_all_as_it_was(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, name: str
) -> None:
    assets = [trips.taxi_trips_file, trips.taxi_trips]
    source_server.put_month("2023-01", good())
    assert materialize(project, instance, assets, "2023-01").success
    source_server.put_month("2023-01", HOSTILE[name][0]())

    result = materialize(project, instance, assets, "2023-01")

    assert not result.success
    told = failure_text(result)
    assert re.search(rf"2023-01 \(http.*\): .*({HOSTILE[name][1]})", told)
    assert project.file("2023-01").read_bytes() == good()
    assert project.rows() == {"2023-01": ROWS}
    assert project.leftovers() == []

    project.file("2023-01").write_bytes(HOSTILE[name][0]())
    by_hand = materialize(project, instance, [trips.taxi_trips], "2023-01")

    assert not by_hand.success
    assert f"2023-01 ({project.file('2023-01')}): " in failure_text(by_hand)
    assert project.rows() == {"2023-01": ROWS}


def test_the_most_rows_are_above_those_of_any_month() -> None:
    assert MOST_ROWS > 1.5 * 17_000_000


# A footer that is read here in another way than by DuckDB would be no use


def test_every_footer_of_a_writer_is_taken(tmp_path: Path) -> None:
    table = pq.read_table(BytesIO(good()))
    path = tmp_path / "month.parquet"
    for version in ("1.0", "2.6"):
        for codec in ("none", "snappy", "gzip", "zstd"):
            pq.write_table(
                table,
                path,
                compression=codec,
                version=version,
                row_group_size=700,
                write_page_index=True,
                sorting_columns=[pq.SortingColumn(1)],
                store_decimal_as_integer=True,
            )
            check_footer(path)
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (FROM '{path}') TO '{tmp_path}/other.parquet' (ROW_GROUP_SIZE 2048, KV_METADATA {{a: 'b'}})"
        )
    check_footer(tmp_path / "other.parquet")


def test_every_footer_that_breaks_off_is_refused(tmp_path: Path) -> None:
    body, footer = pb.taken_apart(good())
    text = pb.written(pb.STRUCT, footer)
    path = tmp_path / "month.parquet"
    for length in range(1, len(text), 7):
        path.write_bytes(pb.put_together(body, text[:length]))
        with pytest.raises(FooterError, match=r"its footer (breaks off|\w+ .*)"):
            check_footer(path)


# A single byte


@cache
def in_many_pages() -> bytes:
    """The good month as pyarrow writes it: several row groups, and several pages of each column in them."""
    written = BytesIO()
    table = pq.read_table(BytesIO(good()))
    pq.write_table(table, written, row_group_size=1500, data_page_size=64, write_batch_size=64, compression="snappy")
    return written.getvalue()


USED = [column.source for column in COLUMNS if column.source in pq.read_schema(BytesIO(good())).names]


@pytest.mark.parametrize("name", USED)
def test_one_zero_in_the_last_page_of_any_column_keeps_the_file_from_its_place(tmp_path: Path, name: str) -> None:
    content = in_many_pages()
    _, footer = pb.taken_apart(content)
    (column,) = (column for column in pb.columns(footer, group=1) if pb.column_name(column) == name)
    pages = pb.page_headers(content, column)
    assert len(pages) > 2
    path = tmp_path / "month.parquet"
    path.write_bytes(content)
    trips._check_trips(path)

    for start, _, _ in pages:  # The first byte of a page's header, so that it ends before it begins.
        path.write_bytes(content[:start] + b"\0" + content[start + 1 :])
        with pytest.raises(SourceError, match=UNREAD):
            trips._check_trips(path)
