"""The formats of months' files: `FileFormat`, and `Parquet`, which a dataset has unless it names another.

A format knows no dataset: it checks that a file is whole, says which columns it has, and gives DuckDB a path to read it by.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, runtime_checkable

from dagster_essentials.errors import PipelineError, SchemaError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class FileSchema:
    """A month's file.

    Attributes:
        rows: how many it says it has; None if it does not say so.
        columns: the name and Arrow type of each.
        row_groups: in how many of them its rows are, if in any.
    """

    rows: int | None
    columns: "Sequence[tuple[str, pa.DataType]]"
    row_groups: int = field(default=0, compare=False)


class InvalidFileError(PipelineError):
    """It is not a complete file of its format. The message says what it is; the caller adds what to do about it."""


@runtime_checkable
class FileFormat(Protocol):
    """The way to read the files of a dataset."""

    extension: str
    """Of the files, for example ``parquet``."""
    is_text: bool
    """True if all values are texts, to be cast to the types of the table."""

    @property
    def relation(self) -> str:
        """SQL for the rows of a file, which is bound as `$file`."""

    def read_schema(self, file: BinaryIO) -> FileSchema:
        """Read the columns of an open file.

        Raises:
            InvalidFileError: it is not a complete file of this format.
            SchemaError: it exceeds the limits for a month's file.
            OSError: it cannot be read.
        """

    def open(self, file: BinaryIO, path: Path) -> AbstractContextManager[str]:
        """The path by which DuckDB reads the `file`, which was opened at `path`, in the block."""


@runtime_checkable
class ReadInParts(Protocol):
    """A `FileFormat` whose files several threads can read at a time; optional."""

    def in_parts(self, schema: FileSchema, threads: int) -> str:
        """SQL for the rows of `FileFormat.relation`, in any order, that keeps so many `threads` busy."""


@dataclass(frozen=True)
class Parquet:
    """Parquet files, of which no value has to be trusted before it is read.

    Attributes:
        max_rows: no file has more. The TLC's have at most 24 million; one of 67 kB can claim a billion, and keep DuckDB busy
            for an hour.
    """

    max_rows: int = 30_000_000
    extension = "parquet"
    is_text = False

    @property
    def relation(self) -> str:
        """SQL for the rows of a file, without columns that DuckDB derives from a folder like ``env=prod``."""
        return "read_parquet($file, hive_partitioning = false)"

    def in_parts(self, schema: FileSchema, threads: int) -> str:
        """The rows in parts of equal size, one for each thread, unless there are many row groups for each.

        DuckDB gives a thread whole row groups, and most of the TLC's months have three: of two threads, one reads the last
        alone. Of the rows before or after a part it reads nothing, so that the parts take as much CPU time as the whole.
        """
        parts = min(threads, (schema.rows or 0) // MIN_PART_ROWS)
        is_balanced = schema.row_groups >= ROW_GROUPS_PER_THREAD * threads
        if parts < 2 or is_balanced or "file_row_number" in [name.lower() for name, _ in schema.columns]:
            return self.relation
        rows = "SELECT * FROM read_parquet($file, hive_partitioning = false, file_row_number = true) WHERE"
        bounds = [(schema.rows or 0) * part // parts for part in range(1, parts)]
        # Open at both ends: no row is left out, however many the footer counts.
        conditions = [
            f"file_row_number < {bounds[0]}",
            *(f"file_row_number >= {first} AND file_row_number < {end}" for first, end in pairwise(bounds)),
            f"file_row_number >= {bounds[-1]}",
        ]
        return f"({' UNION ALL '.join(f'{rows} {condition}' for condition in conditions)})"

    def read_schema(self, file: BinaryIO) -> FileSchema:
        """Read the footer. See `FileFormat.read_schema`."""
        # Imported here, so that runs of other assets do not pay for it: 0.08 s and 38 MB.
        import pyarrow as pa
        import pyarrow.parquet as pq

        _check_frame(file)
        try:
            with pq.ParquetFile(
                file, thrift_string_size_limit=MAX_FOOTER_TEXT_BYTES, thrift_container_size_limit=MAX_FOOTER_LIST
            ) as parquet:
                metadata, schema = parquet.metadata, parquet.schema_arrow
                rows_in_groups = sum(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
                columns = [(field.name, field.type) for field in schema]
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            if "Exceeded size limit" in str(error):
                raise SchemaError(
                    f"its footer lists more columns or row groups than any month has. {_IF_IT_IS_REAL}"
                ) from None
            raise InvalidFileError("not a complete parquet file: its footer is damaged") from None
        if metadata.num_rows != rows_in_groups:
            raise SchemaError(
                f"its footer counts {metadata.num_rows:,} rows, and {rows_in_groups:,} in its row groups. {_IF_IT_IS_REAL}"
            )
        if rows_in_groups < 0:
            raise InvalidFileError("not a complete parquet file: its footer is damaged, and counts less than no rows")
        if rows_in_groups > self.max_rows:
            raise SchemaError(
                f"its footer counts {rows_in_groups:,} rows, and no month has more than {self.max_rows:,}. {_IF_IT_IS_REAL}"
            )
        return FileSchema(rows_in_groups, columns, metadata.num_row_groups)

    @contextmanager
    def open(self, file: BinaryIO, path: Path) -> Iterator[str]:
        """The name of the open descriptor in ``/dev/fd``, so that the block reads one version even if a run replaces the file.

        Linux and macOS have it. Without it, DuckDB reads `path`, and a replacement is detected only if the number of rows
        differs.
        """
        descriptor = f"/dev/fd/{file.fileno()}"
        try:
            same = os.path.samestat(Path(descriptor).stat(), os.fstat(file.fileno()))
        except OSError:
            same = False
        if not same:
            getLogger(__name__).warning("%s is not available: reading %s by its name instead", descriptor, path)
        # DuckDB's readers treat *, ? and [ in a path as patterns.
        yield descriptor if same else glob.escape(str(path))


MIN_PART_ROWS = 122_880
"""A row group of a table in DuckDB. Smaller parts would only make smaller ones."""
ROW_GROUPS_PER_THREAD = 4
"""So many are shared well enough: a month of fhvhv in 8 row groups takes 20.7 s of CPU time as a whole, in two parts 22.6."""

MAX_FOOTER_BYTES = 4_000_000
"""A real month's footer has 10,000 to 80,000; 24 million rows in DuckDB's row groups of 122,880 rows need 600,000."""
MAX_FOOTER_LIST = 2_000
"""Columns, row groups and so on. A real month has 7 to 25 columns and up to 140 row groups. Without a limit, a footer of
67 kB that claims 16 million columns took 7 GB, and one of 100,000 nested columns ended the process (SIGSEGV)."""
MAX_FOOTER_TEXT_BYTES = 1_000_000
"""A name, or the writer's own metadata: that of pandas has 10,000 bytes."""

_IF_IT_IS_REAL = (
    "Materialize again; if it fails in the same way, check the file at the source. If that is a month after all, the limits in "
    "dagster_essentials/ingestion/file_format.py are too narrow for it."
)


def _check_frame(file: BinaryIO) -> None:
    """Check the first and last four bytes of a parquet file, and the size of its footer."""
    file.seek(0)
    start = file.read(60)
    size = file.seek(0, 2)
    file.seek(max(size - 8, 0))
    end = file.read(8)
    if not size:
        raise InvalidFileError("not a complete parquet file: it is empty")
    if not start.startswith(b"PAR1"):
        text = start.decode("utf-8", "replace").strip()
        raise InvalidFileError(f"not a complete parquet file: it begins with {text!r}")
    if not end.endswith(b"PAR1"):
        raise InvalidFileError(f"not a complete parquet file: it does not end like one ({size:,} bytes)")
    footer = int.from_bytes(end[:4], "little")
    if MAX_FOOTER_BYTES < footer < size:
        raise SchemaError(f"its footer has {footer:,} bytes; a real month's has at most 80,000. {_IF_IT_IS_REAL}")
