"""Hostile months, and months with a single damaged byte: refused with a message, in little time and memory."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pyarrow.parquet as pq
import pytest

from dagster_essentials.assets import trips
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.errors import DownloadError
from dagster_essentials.ingestion.file_format import InvalidFileError, Parquet
from dagster_essentials.ingestion.month_files import validate_month
from dagster_essentials_tests.support import parquet_bytes as pb
from dagster_essentials_tests.support.faults import FAULTS, HOSTILE_FILES
from dagster_essentials_tests.support.faults.files import DAMAGED_FILES, UNREADABLE
from dagster_essentials_tests.support.faults.samples import read_arrow, sample, write_arrow
from dagster_essentials_tests.support.project import ROOT, Project, failure_text, materialize
from dagster_essentials_tests.support.run_results import TRIPS
from dagster_essentials_tests.support.source_server import SourceServer

pytestmark = pytest.mark.slow

ROWS = 3000
MEASURED = [*HOSTILE_FILES, *(fault for fault in DAMAGED_FILES if fault.name.startswith(("footer size", "a billion")))]

# Validates and loads each file of a folder, as a run does, and prints the outcome.
CHILD = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))  # A file that is not refused must not take down the machine.
from pathlib import Path
import duckdb
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.ingestion.month_files import validate_month
from dagster_essentials_tests.support.loading import load_month

folder = Path(sys.argv[1])
good = folder / "good.parquet"

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def outcome(do, file):
    start, before = time.monotonic(), peak()
    try:
        do(file)
        text = "accepted"
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    return [text, time.monotonic() - start, peak() - before]

with duckdb.connect(str(folder / "data.duckdb"), config={"memory_limit": "512MB"}) as connection:
    connection.execute("SET enable_progress_bar = false")
    load_month(connection, "2023-01", good)
    for file in [good, *sorted(folder.glob("*.hostile"))]:
        validated = outcome(lambda file: validate_month(file, "2023-01", YELLOW), file)
        loaded = outcome(lambda file: load_month(connection, "2023-01", file), file)
        rows = connection.execute("SELECT count(*) FROM trips").fetchall()[0][0]
        print(json.dumps([file.stem, validated, loaded, rows]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The output of the child for each file; a file is missing if the process died of it."""
    folder = tmp_path_factory.mktemp("hostile")
    good = sample("2023-01", ROWS)
    (folder / "good.parquet").write_bytes(good)
    for number, fault in enumerate(MEASURED):
        (folder / f"{number:03}.hostile").write_bytes(fault.file(good))
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("[")]
    names = ["good", *(fault.name for fault in MEASURED)]
    found = {names[0 if stem == "good" else int(stem) + 1]: rest for stem, *rest in lines}
    assert set(found) == set(names), f"ended with {child.returncode} after {list(found)[-1:]}: {child.stderr[-500:]}"
    return found


def test_a_good_month_is_accepted(outcomes: dict[str, Any]) -> None:
    (validated, *_), (loaded, *_), rows = outcomes["good"]
    assert (validated, loaded, rows) == ("accepted", "accepted", ROWS)


@pytest.mark.parametrize("name", [fault.name for fault in MEASURED])
def test_a_hostile_month_is_refused_with_a_message_in_little_time_and_memory(
    outcomes: dict[str, Any], name: str
) -> None:
    validated, loaded, rows = outcomes[name]

    assert re.search(FAULTS[name].message, validated[0]), validated[0]
    assert re.match("SchemaError|LoadError|RowCountMismatchError|QueryError", loaded[0]), loaded[0]
    assert rows == ROWS, "the table is unchanged"
    for _, seconds, megabytes in (validated, loaded):
        assert seconds < 20
        assert megabytes < 400, "a dictionary of 2^31 values takes 256 MB for a moment, all others less"


def test_a_run_with_hostile_months_names_them_and_leaves_everything_unchanged(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    names = [
        "100,000 nested columns",
        "16,777,216 columns claimed",
        "a billion repeated rows",
        "a text of 256 MiB, zstd",
    ]
    faults = {f"2023-{number:02}": FAULTS[name] for number, name in enumerate(names, start=1)}
    good = {month: sample(month, ROWS) for month in faults}
    for month, content in good.items():
        source_server.put_month(month, content)
    assert materialize(project, instance, TRIPS, min(faults), max(faults)).success
    hostile = {month: fault.file(good[month]) for month, fault in faults.items()}
    for month, content in hostile.items():
        source_server.put_month(month, content)

    result = materialize(project, instance, TRIPS, min(faults), max(faults))

    assert not result.success
    for month, fault in faults.items():
        assert re.search(rf"{month} \(http.*\): .*({fault.message})", failure_text(result))
        assert project.file(month).read_bytes() == good[month]
    assert project.rows() == dict.fromkeys(faults, ROWS)
    assert project.temporary_files() == []

    for month, content in hostile.items():
        project.file(month).write_bytes(content)
    by_hand = materialize(project, instance, [trips.taxi_trips], min(faults), max(faults))

    assert not by_hand.success
    for month in faults:
        assert f"{month} ({project.file(month)}): " in failure_text(by_hand)
    assert project.rows() == dict.fromkeys(faults, ROWS)


def test_the_limit_of_rows_is_above_that_of_any_month() -> None:
    assert Parquet().max_rows > 1.5 * 17_000_000


# Footers of all writers


def test_every_footer_of_a_writer_is_accepted(tmp_path: Path) -> None:
    table = read_arrow(sample("2023-01", ROWS))
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
            assert Parquet().read_schema(BytesIO(path.read_bytes())).rows == ROWS
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (FROM '{path}') TO '{tmp_path}/other.parquet' (ROW_GROUP_SIZE 2048, KV_METADATA {{a: 'b'}})"
        )
    assert Parquet().read_schema(BytesIO((tmp_path / "other.parquet").read_bytes())).rows == ROWS


def test_every_truncated_footer_is_refused() -> None:
    body, footer = pb.split(sample("2023-01", ROWS))
    encoded = pb.encode(pb.STRUCT, footer)
    for length in range(1, len(encoded), 7):
        with pytest.raises(InvalidFileError, match="its footer is damaged"):
            Parquet().read_schema(BytesIO(pb.join(body, encoded[:length])))


# A single byte


@cache
def in_many_pages() -> bytes:
    """A good month as pyarrow writes it: several row groups, and several pages of each column in them."""
    return write_arrow(
        read_arrow(sample("2023-01", ROWS)),
        row_group_size=1500,
        data_page_size=64,
        write_batch_size=64,
        compression="snappy",
    )


USED = ["VendorID", "passenger_count", "store_and_fwd_flag", "tpep_pickup_datetime", "total_amount"]
"""A column or two of each type."""


@pytest.mark.parametrize("name", USED)
def test_a_single_zero_byte_in_the_last_pages_of_any_column_is_refused(tmp_path: Path, name: str) -> None:
    content = in_many_pages()
    _, footer = pb.split(content)
    (column,) = (column for column in pb.columns(footer, group=1) if pb.column_name(column) == name)
    pages = pb.pages(content, column)
    assert len(pages) > 2
    path = tmp_path / "month.parquet"
    path.write_bytes(content)
    validate_month(path, "2023-01", YELLOW)

    for start, _, _ in pages:  # The first byte of a page's header, so that it ends before it begins.
        path.write_bytes(content[:start] + b"\0" + content[start + 1 :])
        with pytest.raises(DownloadError, match=UNREADABLE):
            validate_month(path, "2023-01", YELLOW)
