"""The file of a month: downloading it, validating it before it replaces an earlier one, and opening one version of it.

Which columns it needs is decided in `column_mapping.py`, how it is transferred in `download.py`.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import BinaryIO

import duckdb

from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.errors import DownloadError, LoadError, NotPublishedError, PipelineError, SchemaError
from dagster_essentials.ingestion.column_mapping import (
    FROM_FILE,
    ColumnMapping,
    NotParquetError,
    literal_path,
    map_columns,
    read_file_schema,
)
from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.ingestion.download import PublishedFile, download, find_published
from dagster_essentials.ingestion.http_requests import redact_url
from dagster_essentials.ingestion.object_files import forget
from dagster_essentials.ingestion.sidecar import DownloadedFile, fetch_file, read_sidecar

PARALLEL_DOWNLOADS = 4
"""Enough to use the bandwidth while one download ends and the next starts, and few enough not to be throttled."""

PARALLEL_QUESTIONS = 8
"""Two hundred months, at 50 ms for each answer, take over a second."""

_READ_AGAIN = (
    "Materialize again; if it fails in the same way, the file at the source is damaged or has values that "
    "dagster_essentials/ingestion/column_mapping.py does not accept."
)


@dataclass(frozen=True)
class DownloadedMonth:
    """A month's file after its download: the file, whether it was transferred, its number of trips, and the seconds."""

    file: DownloadedFile
    transferred: bool
    rows: int
    seconds: float

    @property
    def bytes_transferred(self) -> int:
        return self.file.bytes if self.transferred else 0


@dataclass(frozen=True)
class MonthFile:
    """The file of `month` (``YYYY-MM``): where its source has it, and where it goes."""

    month: str
    url: str
    path: Path
    dataset: Dataset = YELLOW


def download_months(months: Mapping[str, MonthFile]) -> Iterator[tuple[str, Callable[[], DownloadedMonth]]]:
    """Download several months at a time, each given by any key.

    Yields:
        Each key as soon as its download has ended, with a function that returns the result or raises the error.
    """
    pool = ThreadPoolExecutor(max_workers=min(PARALLEL_DOWNLOADS, len(months)))
    try:
        futures = {pool.submit(download_month, month): key for key, month in months.items()}
        for future in as_completed(futures):
            yield futures[future], future.result
    finally:
        # If the run is interrupted, no further download starts.
        pool.shutdown(cancel_futures=True)


def find_published_months(urls: Mapping[str, str]) -> dict[str, PublishedFile | DownloadError | None]:
    """Ask the source about several months at a time, each given as an address by any key, oldest first.

    Returns:
        For each key the answer or the error. After an error no further month is asked for: each would take as long, and a
        schedule's tick has only a minute.
    """
    answers: dict[str, PublishedFile | DownloadError | None] = {}
    pool = ThreadPoolExecutor(max_workers=PARALLEL_QUESTIONS)
    try:
        for key, answer in zip(urls, pool.map(find_published_month, urls.values()), strict=True):
            answers[key] = answer
    except DownloadError as error:
        answers[list(urls)[len(answers)]] = error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return answers


def find_published_month(url: str, attempts: int = 2) -> PublishedFile | None:
    """What the source says of the month at `url`, or None if it does not have it. As `find_published`.

    Raises:
        DownloadError: the source gave no clear answer.
    """
    try:
        return find_published(url, attempts)
    except DownloadError as error:
        error.source = redact_url(url)
        raise


def download_month(month: MonthFile) -> DownloadedMonth:
    """Download a month, unless it is unchanged. Its file is valid in either case.

    Raises:
        PipelineError: the month is not published, cannot be transferred or written, or is not valid.
    """
    started = time.monotonic()
    dataset, path = month.dataset, month.path
    if month.month < dataset.first_month:
        # The source would answer as it does for a month that is late.
        raise NotPublishedError(
            f"there is no such month: {dataset.title} are published since {dataset.first_month}. "
            f"{dataset.before_first_month or 'Materialize months from then on.'}"
        )
    try:
        file, transferred = download(
            month.url,
            path,
            partial(validate_trips_file, month=month.month, dataset=dataset),
            if_not_published=(
                f"The TLC publishes a month of {dataset.title} about {dataset.months_to_publication} months after its "
                "end: materialize it again then. For an earlier month, check the address (TAXI_TRIPS_URL)."
            ),
        )
        try:
            with open(path, "rb") as content:
                rows = read_file_schema(content).rows
        except (NotParquetError, OSError):
            raise DownloadError(f"the downloaded file {path} is damaged. Delete it, and materialize again.") from None
    except (DownloadError, SchemaError) as error:
        error.source = redact_url(month.url)
        raise
    return DownloadedMonth(file, transferred, rows, time.monotonic() - started)


def find_downloaded(path: Path) -> DownloadedMonth | None:
    """The month's file at `path`, if it has been downloaded there and not been changed since."""
    fetch_file(path)
    file = read_sidecar(path)
    if file is None:
        return None
    try:
        with open(path, "rb") as content:
            return DownloadedMonth(file, False, read_file_schema(content).rows, 0.0)
    except (PipelineError, OSError):
        return None


def validate_trips_file(path: Path, month: str, dataset: Dataset = YELLOW) -> None:
    """Check that the file at `path` has the trips of `month` (``YYYY-MM``), and that every value can be loaded.

    Raises:
        DownloadError, SchemaError: it is not, and must not be kept.
    """
    try:
        with open(path, "rb") as file:
            schema = read_file_schema(file)
    except NotParquetError as error:
        raise DownloadError(f"{error}. It was not kept. {_advice(path)}") from None
    if schema.rows == 0:
        raise DownloadError(
            "the file has no rows, and was not kept. Materialize again when the source has a better one."
        )
    try:
        rows = scan_all_values(path, map_columns(schema, month, dataset))
    except duckdb.Error as error:
        text = first_line(error).replace(f' "{path}"', "").replace(str(path), "the file")
        raise DownloadError(
            f"the rows of the file cannot be read, and it was not kept: {text}. {_READ_AGAIN}"
        ) from None
    if rows != schema.rows:
        raise DownloadError(
            f"the file has {rows:,} rows where its footer counts {schema.rows:,}, and was not kept. {_READ_AGAIN}"
        )


def _advice(path: Path) -> str:
    with open(path, "rb") as file:
        is_damaged_parquet = file.read(4) == b"PAR1"
    if is_damaged_parquet:
        return "Materialize again; if it fails in the same way, the file at the source is damaged."
    return "Open the address in a browser to see what the source answers, and materialize again."


def scan_all_values(path: Path, mapping: ColumnMapping) -> int:
    """Read every value that the table would take from the file at `path`, and return the number of rows.

    Raises:
        duckdb.Error: a page is damaged, or a value cannot become the table's.
    """
    # `last` is the cheapest aggregate that no statistics of the file can answer: 0.26 s for the 3 million rows of a month
    # of 45 MB, beside 2 s or more for the load.
    values = ", ".join(f"last({expression})" for expression in mapping.values)
    # One thread and little memory, because four months are validated at a time. 32 MB were enough for 3 million rows in one
    # row group; the 15 million of a month of 2010, whose columns are texts, need more than 122.
    with duckdb.connect(config={"threads": 1, "memory_limit": "256MB"}) as connection:
        connection.execute("SET enable_progress_bar = false")
        scanned = connection.execute(
            f"SELECT count(*), {values} FROM {FROM_FILE}", {"file": literal_path(path), "month": "9999-12"}
        ).fetchall()
    rows: int = scanned[0][0]
    return rows


def first_line(error: duckdb.Error) -> str:
    """The message of `error`, without the hints and the query that follow."""
    return str(error).partition("\n")[0].rstrip(".!")


@dataclass(frozen=True)
class OpenTripsFile:
    """One version of a month's file, held open.

    Attributes:
        path: where it was opened. Another version may have replaced it since.
        content: the open file.
        reader_path: the path by which DuckDB reads this version.
    """

    path: Path
    content: BinaryIO
    reader_path: str

    @property
    def bytes(self) -> int:
        return os.fstat(self.content.fileno()).st_size


@contextmanager
def open_trips_file(path: Path, dataset: Dataset = YELLOW) -> Iterator[OpenTripsFile]:
    """Open the month's file at `path`, so that the block reads one version even if a concurrent run replaces it.

    DuckDB reads the open descriptor by its name in ``/dev/fd``, which Linux and macOS have. Without it, DuckDB reads
    `path`, and a concurrent replacement is detected only if the number of rows differs.

    Raises:
        LoadError: there is no such file, or it cannot be read.
    """
    fetch_file(path)
    try:
        content = open(path, "rb")  # noqa: SIM115 - closed below, by the with
    except FileNotFoundError:
        raise LoadError(
            f"there is no such file. Materialize {dataset.file_asset} for this month first.", path
        ) from None
    except OSError as error:
        raise LoadError(
            f"the file cannot be read ({error.strerror}). Materialize {dataset.assets} again.", path
        ) from None
    with content:
        descriptor = f"/dev/fd/{content.fileno()}"
        try:
            same = os.path.samestat(Path(descriptor).stat(), os.fstat(content.fileno()))
        except OSError:
            same = False
        if not same:
            getLogger(__name__).warning("%s is not available: reading %s by its name instead", descriptor, path)
        yield OpenTripsFile(path, content, descriptor if same else literal_path(path))
    forget(path)
