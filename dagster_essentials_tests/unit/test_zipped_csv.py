"""Zipped CSVs: rows as the csv module reads them, and a clear error for every archive that is something else."""

import csv
import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import pytest

from dagster_essentials.errors import DownloadError, LoadError, QueryError, SchemaError
from dagster_essentials.ingestion.dataset import Column, Dataset, Layout, QualityRule
from dagster_essentials.ingestion.month_files import MonthFile, validate_month
from dagster_essentials.ingestion.zipped_csv import ZippedCsv
from dagster_essentials.warehouse.load import LoadedMonth, Replacement, replace_month
from dagster_essentials.warehouse.tables import Tables
from dagster_essentials_tests.support.project import DISK

pytestmark = pytest.mark.duckdb

COLUMNS = [
    Column("number", "INTEGER", "Number", True, "A whole number"),
    Column("name", "VARCHAR", "Name", True, "A text"),
    Column("share", "DOUBLE", "Share", False, "A number"),
    Column("seen_at", "TIMESTAMP", "At", True, "A time"),
    Column("partition_date", "VARCHAR", None, True, "Month of the file"),
]
DATASET = Dataset(
    name="numbers",
    title="numbers",
    noun="numbers",
    publisher="the test",
    address_setting="NUMBERS_URL",
    declared_in="this file",
    table="numbers",
    comment="Numbers",
    first_month="2023-01",
    months_to_publication=1,
    longest_delay_days=10,
    file_asset="numbers_file",
    table_asset="numbers",
    columns=COLUMNS,
    layouts=[Layout("all years", "9999-12", "Number", {each.name: each.source for each in COLUMNS if each.source})],
    rules=[QualityRule("has_name", "count(*) FILTER (name = '')", 0.5, "Numbers without a name.")],
    time="seen_at",
    file_format=ZippedCsv(max_bytes=1_000_000),
)
STATEMENTS = Replacement(
    delete="DELETE FROM numbers WHERE partition_date = $month",
    insert="INSERT INTO numbers BY NAME SELECT *, $month AS partition_date FROM month_file",
)
HEADER = "Number,Name,Share,At\n"
ROWS = [
    ("1", "plain", "0.5", "2023-01-01 00:00:00"),
    ("2", 'a "quoted", text', "", "2023-01-15 12:30:00.123"),
    ("3", "two\nlines", "-1e300", "2023-01-31 23:59:59"),
    ("", "", "nan", "2023-01-02T03:04:05"),
]


def as_csv(rows: Sequence[tuple[str, ...]] = ROWS, delimiter: str = ",") -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows([("Number", "Name", "Share", "At"), *rows])
    return text.getvalue().encode()


def archive(path: Path, **members: bytes) -> Path:
    """A zip at `path`; in the names of the `members`, two underscores stand for a dot."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in members.items():
            target.writestr(name.replace("__", "."), content)
    return path


def load(
    path: Path, connection: duckdb.DuckDBPyConnection | None = None
) -> tuple[LoadedMonth, list[tuple[object, ...]]]:
    with duckdb.connect() if connection is None else connection as target:
        loaded = replace_month(Tables(target), STATEMENTS, MonthFile(DATASET, "2023-01", "", path, DISK))
        return loaded, target.execute("SELECT number, name, share::VARCHAR, seen_at::VARCHAR FROM numbers").fetchall()


def test_the_rows_are_those_of_the_csv_module(tmp_path: Path) -> None:
    path = archive(tmp_path / "month.zip", numbers__csv=as_csv())
    validate_month(path, "2023-01", DATASET)
    loaded, rows = load(path)
    assert loaded.version.num_trips == len(ROWS)
    assert sorted(rows, key=str) == sorted(
        [
            (1, "plain", "0.5", "2023-01-01 00:00:00"),
            (2, 'a "quoted", text', None, "2023-01-15 12:30:00.123"),
            (3, "two\nlines", "-1e+300", "2023-01-31 23:59:59"),
            (None, None, "nan", "2023-01-02 03:04:05"),
        ],
        key=str,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["month.zip"]


def test_a_folder_of_macos_beside_the_csv_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "month.zip"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("__MACOSX/._numbers.csv", b"\0")
        target.writestr("numbers.csv", as_csv())
    validate_month(path, "2023-01", DATASET)
    assert load(path)[0].version.num_trips == len(ROWS)


def bomb(path: Path) -> Path:
    return archive(path, numbers__csv=HEADER.encode() + b"1,a,1,2023-01-01 00:00:00\n" * 100_000)


def encrypted(path: Path) -> Path:
    content = bytearray(archive(path, numbers__csv=as_csv()).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    return path


def damaged(path: Path) -> Path:
    rows = [(str(number), f"{number * 7919 % 10007}", "1", "2023-01-01 00:00:00") for number in range(5_000)]
    content = bytearray(archive(path, numbers__csv=as_csv(rows)).read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return path


def truncated(path: Path) -> Path:
    path.write_bytes(archive(path, numbers__csv=as_csv()).read_bytes()[:-30])
    return path


def page(path: Path) -> Path:
    path.write_bytes(b"<html>Not found</html>")
    return path


INVALID: dict[str, tuple[Callable[[Path], Path], str]] = {
    "two files": (lambda path: archive(path, a__csv=as_csv(), b__csv=as_csv()), "the zip has 2 files .a.csv, b.csv."),
    "no file": (lambda path: archive(path), "the zip has 0 files .none."),
    "a nested zip": (lambda path: archive(path, a__zip=b"PK"), "the zip has a.zip, which is no CSV"),
    "an empty CSV": (lambda path: archive(path, a__csv=b""), "a.csv in the zip is empty"),
    "a header alone": (lambda path: archive(path, a__csv=HEADER.encode()), "has no rows"),
    "a bomb": (bomb, "has more than 1,000,000 bytes"),
    "an encrypted one": (encrypted, "encrypted"),
    "a damaged one": (damaged, "not a complete zip archive"),
    "a truncated one": (truncated, "not a complete zip archive"),
    "a page": (page, "not a complete zip archive.*Open the address in a browser"),
    "another delimiter": (lambda path: archive(path, a__csv=as_csv(delimiter=";")), "no column Number.*Number;Name"),
    "another header": (lambda path: archive(path, a__csv=b"x,y\n1,2\n"), "no column Number.*Found: x, y"),
    "no header": (lambda path: archive(path, a__csv=as_csv()[len(HEADER) :]), "no column Number"),
    "Latin-1": (
        lambda path: archive(path, a__csv=HEADER.encode() + "1,é,1,2023-01-01 00:00:00\n".encode("latin-1")),
        "rows of the file cannot be read",
    ),
    "a header in UTF-16": (lambda path: archive(path, a__csv=HEADER.encode("utf-16")), "is not UTF-8 text"),
    "a part of a number": (
        lambda path: archive(path, a__csv=HEADER.encode() + b"5.7,a,1,2023-01-01 00:00:00\n"),
        "Number holds a text that is not a whole number: 5.7",
    ),
    "a time with an offset": (
        lambda path: archive(path, a__csv=HEADER.encode() + b"5,a,1,2023-01-01 00:00:00+01\n"),
        "At holds a text that is not a local time",
    ),
    # DuckDB would cut off the last digit.
    "a time in nanoseconds": (
        lambda path: archive(path, a__csv=HEADER.encode() + b"5,a,1,2023-01-01 00:00:00.123456700\n"),
        "At holds a text that is not a local time",
    ),
    "a missing value in a row": (
        lambda path: archive(path, a__csv=HEADER.encode() + b"5,a,1\n6,b,1,2023-01-01 00:00:00\n"),
        "rows of the file cannot be read",
    ),
    "a text that is too long": (
        lambda path: archive(path, a__csv=HEADER.encode() + b"5," + b"x" * 101 + b",1,2023-01-01 00:00:00\n"),
        "Name holds a text of more than 100 bytes",
    ),
}


@pytest.mark.parametrize("kind", INVALID)
def test_what_is_no_month_is_not_kept_and_not_loaded(kind: str, tmp_path: Path) -> None:
    make, message = INVALID[kind]
    path = make(tmp_path / "month.zip")
    with pytest.raises((DownloadError, SchemaError), match=f"(?s){message}"):
        validate_month(path, "2023-01", DATASET)
    with duckdb.connect() as connection:
        with pytest.raises((LoadError, QueryError, SchemaError)):
            replace_month(Tables(connection), STATEMENTS, MonthFile(DATASET, "2023-01", "", path, DISK))
        tables = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
        assert ("numbers",) not in tables or connection.execute("SELECT count(*) FROM numbers").fetchall() == [(0,)]
    assert [each.name for each in tmp_path.iterdir()] == ["month.zip"]
