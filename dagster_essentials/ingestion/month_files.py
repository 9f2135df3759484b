"""The file of a month: downloading it, validating it before it replaces an earlier one, and opening one version of it.

Which columns it needs is decided in `column_mapping.py`, how it is transferred in `download.py`.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Semaphore
from typing import BinaryIO, Protocol

import duckdb

from dagster_essentials.errors import DownloadError, LoadError, NotPublishedError, PipelineError, SchemaError
from dagster_essentials.ingestion.cancellation import NEVER, Cancellation, interrupt_until_done, start_thread
from dagster_essentials.ingestion.column_mapping import ColumnMapping, map_columns
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.ingestion.download import PublishedFile, download, find_published
from dagster_essentials.ingestion.file_format import FileSchema, InvalidFileError
from dagster_essentials.ingestion.http_requests import redact_url
from dagster_essentials.ingestion.sidecar import DownloadedFile, fetch_file, read_sidecar
from dagster_essentials.ingestion.sql import first_line

PARALLEL_DOWNLOADS = 4
"""Enough to use the bandwidth while one download ends and the next starts, and few enough not to be throttled."""

CANCEL_SECONDS = 2.0
"""For downloads to remove their temporary files when a run is cancelled; most need a tenth of a second."""

PARALLEL_QUESTIONS = 8
"""Two hundred months, at 50 ms for each answer, take over a second."""

_READ_AGAIN = (
    "Materialize again; if it fails in the same way, the file at the source is damaged or has values that "
    "dagster_essentials/ingestion/column_mapping.py does not accept."
)


class Reference(Protocol):
    """Data on which the rows of a month depend beside its file, such as the outlines of zones."""

    fingerprint: str
    """Changes when the same file would become other rows."""

    def functions(self, connection: duckdb.DuckDBPyConnection) -> AbstractContextManager[None]:
        """Let the connection call the functions of the layout's `derive` in the block."""


@dataclass(frozen=True)
class MonthFile:
    """The file of a month of a dataset.

    Attributes:
        dataset: whose month it is.
        month: ``YYYY-MM``.
        url: where its source has it.
        path, files: where it goes, and the data folder in which that is.
        reference: reads what else the rows depend on, for the months of which the layout derives columns.
    """

    dataset: Dataset
    month: str
    url: str
    path: Path
    files: DataFolder
    reference: Callable[[], Reference] | None = None

    @property
    def label(self) -> str:
        """The name of the month in logs, errors and alerts."""
        return self.dataset.label(self.month)

    @property
    def location(self) -> str:
        """The place of the file, for people."""
        return self.files.location(self.path)


@dataclass(frozen=True)
class DownloadedMonth:
    """A month's file after its download: the file, whether it was transferred, its number of rows if known, and the seconds."""

    file: DownloadedFile
    transferred: bool
    rows: int | None
    seconds: float

    @property
    def bytes_transferred(self) -> int:
        return self.file.bytes if self.transferred else 0


def download_months(months: Mapping[str, MonthFile]) -> Iterator[tuple[str, "Future[DownloadedMonth]"]]:
    """Download several months at a time, each given by any key.

    Yields:
        Each key with its download, in their order, as soon as it has ended.
    """
    cancellation = Cancellation()
    slots = Semaphore(PARALLEL_DOWNLOADS)

    def download_one(month: MonthFile) -> DownloadedMonth:
        with slots:
            cancellation.check()
            return download_month(month, cancellation)

    downloads: dict[str, Future[DownloadedMonth]] = {}
    try:
        for key, month in months.items():
            downloads[key] = start_thread(download_one, month)
        for key, ended in downloads.items():
            ended.exception()
            yield key, ended
    finally:
        # If the run is cancelled, the downloads are, too. One whose source has not begun to answer has no file, and ends with
        # the process.
        interrupt_until_done(downloads.values(), cancellation.cancel, CANCEL_SECONDS)


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
    """As `find_published`, for the month at `url`.

    Raises:
        DownloadError: the source gave no clear answer.
    """
    try:
        return find_published(url, attempts)
    except DownloadError as error:
        error.source = redact_url(url)
        raise


def download_month(month: MonthFile, cancellation: Cancellation = NEVER) -> DownloadedMonth:
    """Download a month, unless it is unchanged. Its file is valid in either case.

    Raises:
        PipelineError: the month is not published, cannot be transferred or written, or is not valid.
        CancelledError: the run was cancelled.
    """
    started = time.monotonic()
    dataset, path = month.dataset, month.path
    if month.month < dataset.first_month:
        # The source would answer as it does for a month that is late.
        raise NotPublishedError(
            f"there is no such month: {dataset.title} are published since {dataset.first_month}. "
            f"{dataset.before_first_month or 'Materialize months from then on.'}"
        )
    delay = "about a month" if dataset.months_to_publication == 1 else f"about {dataset.months_to_publication} months"
    published = f"{dataset.publisher[0].upper()}{dataset.publisher[1:]} publishes a month of {dataset.title} {delay}"
    try:
        file, transferred = download(
            month.url,
            path,
            month.files,
            partial(validate_month, month=month.month, dataset=dataset, cancellation=cancellation),
            if_not_published=(
                f"{published} after its end: materialize it again then. For an earlier month, check the address "
                f"({dataset.address_setting})."
            ),
            if_unreachable=dataset.without_network,
            sleep=cancellation.sleep,
            cancellation=cancellation,
        )
        try:
            with open(path, "rb") as content:
                rows = dataset.file_format.read_schema(content).rows
        except (InvalidFileError, OSError):
            raise DownloadError(f"the downloaded file {path} is damaged. Delete it, and materialize again.") from None
    except (DownloadError, SchemaError) as error:
        error.source = redact_url(month.url)
        raise
    return DownloadedMonth(file, transferred, rows, time.monotonic() - started)


def find_downloaded(month: MonthFile) -> DownloadedMonth | None:
    """The month's file, if it has been downloaded and not been changed since."""
    fetch_file(month.path, month.files)
    file = read_sidecar(month.path)
    if file is None:
        return None
    try:
        with open(month.path, "rb") as content:
            return DownloadedMonth(file, False, month.dataset.file_format.read_schema(content).rows, 0.0)
    except (PipelineError, OSError):
        return None


def validate_month(path: Path, month: str, dataset: Dataset, cancellation: Cancellation = NEVER) -> None:
    """Check that the file at `path` can be `month` (``YYYY-MM``) of `dataset`, and that every value can be loaded.

    Raises:
        DownloadError, SchemaError: it is not, and must not be kept.
    """
    file_format = dataset.file_format
    with open(path, "rb") as file:
        try:
            schema = file_format.read_schema(file)
            mapping = map_columns(schema, month, dataset) if schema.rows != 0 else None
            with file_format.open(file, path) as reader_path:
                rows = _scan_rows(file_format.relation, reader_path, mapping, cancellation) if mapping else 0
        except InvalidFileError as error:
            raise DownloadError(f"{error}. It was not kept. {_advice(file, file_format.extension)}") from None
    if rows == 0:
        raise DownloadError(
            "the file has no rows, and was not kept. Materialize again when the source has a better one."
        )
    if schema.rows is not None and rows != schema.rows:
        raise DownloadError(
            f"the file has {rows:,} rows where its footer counts {schema.rows:,}, and was not kept. {_READ_AGAIN}"
        )


def _scan_rows(relation: str, reader_path: str, mapping: ColumnMapping, cancellation: Cancellation) -> int:
    try:
        return scan_all_values(relation, reader_path, mapping, cancellation)
    except duckdb.Error as error:
        text = first_line(error).replace(f' "{reader_path}"', "").replace(reader_path, "the file")
        raise DownloadError(
            f"the rows of the file cannot be read, and it was not kept: {text}. {_READ_AGAIN}"
        ) from None


def _advice(file: BinaryIO, extension: str) -> str:
    file.seek(0)
    if extension == "parquet" and file.read(4) == b"PAR1":
        return "Materialize again; if it fails in the same way, the file at the source is damaged."
    return "Open the address in a browser to see what the source answers, and materialize again."


def scan_all_values(relation: str, reader_path: str, mapping: ColumnMapping, cancellation: Cancellation = NEVER) -> int:
    """Read every value that the table would take from a file, and return the number of rows.

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
        # Several files may be /dev/fd/3 one after the other.
        connection.execute("SET enable_external_file_cache = false")
        # By the statistics in the footer, DuckDB leaves out checks. If they are wrong, 3.5 passes as a whole number.
        connection.execute("SET disabled_optimizers = 'statistics_propagation'")
        with cancellation.interrupting(connection.interrupt):
            scanned = connection.execute(
                f"SELECT count(*), {values} FROM {relation}", {"file": reader_path, "month": "9999-12"}
            ).fetchall()
    rows: int = scanned[0][0]
    return rows


@dataclass(frozen=True)
class OpenMonthFile:
    """One version of a month's file, held open. A run may have replaced it at its path since.

    Attributes:
        content: the open file.
        schema: its columns.
        reader_path: the path by which DuckDB reads this version.
    """

    content: BinaryIO
    schema: FileSchema
    reader_path: str

    @property
    def bytes(self) -> int:
        return os.fstat(self.content.fileno()).st_size


@contextmanager
def open_month_file(month: MonthFile) -> Iterator[OpenMonthFile]:
    """Open the month's file, so that the block reads one version even if a concurrent run replaces it.

    Raises:
        LoadError, SchemaError: there is no such file, it cannot be read, or it is not a file of the dataset's format.
    """
    dataset = month.dataset
    again = f"Delete the file, and materialize {dataset.assets} again."
    fetch_file(month.path, month.files)
    try:
        content = open(month.path, "rb")  # noqa: SIM115 - closed below, by the with
    except FileNotFoundError:
        raise LoadError(f"there is no such file. Materialize {dataset.file_asset} for this month first.") from None
    except OSError as error:
        raise LoadError(f"the file cannot be read ({error.strerror}). Materialize {dataset.assets} again.") from None
    with content:
        try:
            schema = dataset.file_format.read_schema(content)
        except InvalidFileError as error:
            raise LoadError(f"{error}. The month is unchanged. {again}") from None
        except OSError as error:
            raise LoadError(f"the file cannot be read ({error.strerror}). The month is unchanged. {again}") from None
        if schema.rows == 0:
            raise LoadError(f"the file has no rows. The month is unchanged. {again}")
        with ExitStack() as stack:
            try:
                reader_path = stack.enter_context(dataset.file_format.open(content, month.path))
            except InvalidFileError as error:
                raise LoadError(f"{error}. The month is unchanged. {again}") from None
            yield OpenMonthFile(content, schema, reader_path)
    month.files.forget(month.path)
