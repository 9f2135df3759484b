"""How the columns of a month's file map to those of its table.

It is decided by the dataset (`datasets/`), and by names and types alone; no row is read here. What the months of 2009 and
2010 have instead of codes and zones is in `legacy_columns.py`.
"""

import glob
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from dagster_essentials.datasets import legacy_columns
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.errors import PipelineError, SchemaError
from dagster_essentials.ingestion.casts import cast, literal
from dagster_essentials.ingestion.dataset import Column, Dataset, Layout

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROWS = 30_000_000
"""No real month has more than 24 million rows. A file of 67 kB can claim a billion, and keep DuckDB busy for an hour."""
MAX_FOOTER_BYTES = 4_000_000
"""A real month's footer has 10,000 to 80,000; 24 million rows in DuckDB's row groups of 122,880 rows need 600,000."""
MAX_FOOTER_LIST = 2_000
"""Columns, row groups and so on. A real month has 7 to 25 columns and up to 140 row groups. Without a limit, a footer of
67 kB that claims 16 million columns took 7 GB, and one of 100,000 nested columns ended the process (SIGSEGV)."""
MAX_FOOTER_TEXT_BYTES = 1_000_000
"""A name, or the writer's own metadata: that of pandas has 10,000 bytes."""


@dataclass(frozen=True)
class FileSchema:
    """A month's file as its footer describes it: the number of rows, and the name and Arrow type of each column."""

    rows: int
    columns: "Sequence[tuple[str, pa.DataType]]"


@dataclass(frozen=True)
class ColumnMapping:
    """How a month's columns map to those of its table.

    Attributes:
        expressions: for each column of the table, in order, the SQL expression over the file. `$month` is bound to the
            month.
        unknown: columns of the file that are not in the table.
        absent: columns of the table that the file does not have, or has only as type null; they become null. The
            coordinates are not listed for the months that have zones.
        unmapped: for columns of the file, SQL that is true where a text stands for no value of the table.
    """

    expressions: Sequence[str]
    unknown: Sequence[str]
    absent: Sequence[str]
    unmapped: Mapping[str, str]

    @property
    def values(self) -> Sequence[str]:
        """The expressions that take a value of the file: all but those that find the zones of its coordinates."""
        return [text for text in self.expressions if legacy_columns.ZONES_FUNCTION not in text]

    @property
    def needs_zones(self) -> bool:
        """Whether the expressions call `legacy_columns.ZONES_FUNCTION`."""
        return len(self.values) < len(self.expressions)


FROM_FILE = "read_parquet($file, hive_partitioning = false)"
"""The rows of a month's file, bound as `$file`, without columns that DuckDB derives from a folder like ``env=prod``."""


def literal_path(path: Path) -> str:
    """`path`, escaped for DuckDB's readers, which treat ``*``, ``?`` and ``[`` as patterns."""
    return glob.escape(str(path))


class NotParquetError(PipelineError):
    """It is not a complete parquet file. The message says what it is; the caller adds what to do about it."""


def read_file_schema(file: BinaryIO) -> FileSchema:
    """Read the footer of a month's parquet file.

    Raises:
        NotParquetError: it is not a complete parquet file.
        SchemaError: the footer exceeds the limits for a month's file.
        OSError: it cannot be read.
    """
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
        raise NotParquetError("not a complete parquet file: its footer is damaged") from None
    if metadata.num_rows != rows_in_groups:
        raise SchemaError(
            f"its footer counts {metadata.num_rows:,} rows, and {rows_in_groups:,} in its row groups. {_IF_IT_IS_REAL}"
        )
    if rows_in_groups < 0:
        raise NotParquetError("not a complete parquet file: its footer is damaged, and counts less than no rows")
    if rows_in_groups > MAX_ROWS:
        raise SchemaError(
            f"its footer counts {rows_in_groups:,} rows, and no month has more than 24 million. {_IF_IT_IS_REAL}"
        )
    return FileSchema(rows_in_groups, columns)


def _check_frame(file: BinaryIO) -> None:
    """Check the first and last four bytes of a parquet file, and the size of its footer."""
    file.seek(0)
    start = file.read(60)
    size = file.seek(0, 2)
    file.seek(max(size - 8, 0))
    end = file.read(8)
    if not size:
        raise NotParquetError("not a complete parquet file: it is empty")
    if not start.startswith(b"PAR1"):
        text = start.decode("utf-8", "replace").strip()
        raise NotParquetError(f"not a complete parquet file: it begins with {text!r}")
    if not end.endswith(b"PAR1"):
        raise NotParquetError(f"not a complete parquet file: it does not end like one ({size:,} bytes)")
    footer = int.from_bytes(end[:4], "little")
    if MAX_FOOTER_BYTES < footer < size:
        raise SchemaError(f"its footer has {footer:,} bytes; a real month's has at most 80,000. {_IF_IT_IS_REAL}")


def map_columns(schema: FileSchema, month: str, dataset: Dataset = YELLOW) -> ColumnMapping:
    """Decide how the file of `month` (``YYYY-MM``) with this `schema` becomes rows of the dataset's table.

    Raises:
        SchemaError: it has the columns of other months, a required one is missing, or its type cannot become the table's.
    """
    names = [name for name, _ in schema.columns]
    # Of columns whose names differ only in case, or not at all, DuckDB reads the first by that name.
    found = {name.lower(): number for number, name in reversed(list(enumerate(names)))}
    layout = _layout(found, month, dataset)
    values = {name: literal(value) for name, value in dataset.constants.items()} | {"partition_date": "$month"}
    unmapped, mapped = {}, set()
    for column in dataset.columns:
        source = layout.sources.get(column.name)
        number = found.get(source.lower()) if source else None
        if source and number is None and column.required:
            raise SchemaError(
                f"the file has no column {source}, which becomes {column.name} ({column.type}). Found: "
                f"{', '.join(names)}. {_what_to_do(dataset)}"
            )
        if number is not None:
            mapped.add(number)
            if value := _map_value(column, *schema.columns[number], layout, dataset):
                values[column.name], unmapped[names[number]] = value
    if layout.is_legacy:
        values.update(legacy_columns.map_zones(values))
    return ColumnMapping(
        [values.get(column.name, f"NULL::{column.type}") for column in dataset.columns],
        [
            name
            for number, name in enumerate(names)
            if number not in mapped and not (layout.is_legacy and name == legacy_columns.INDEX)
        ],
        [
            column.name
            for column in dataset.columns
            if column.name not in values and (column.source or layout.is_legacy)
        ],
        {name: condition for name, condition in unmapped.items() if condition},
    )


def _map_value(
    column: Column, name: str, type_: "pa.DataType", layout: Layout, dataset: Dataset
) -> tuple[str, str | None] | None:
    """SQL for the value of `column` by the file's column `name`, and for where its text stands for none; None for type null."""
    import pyarrow as pa

    if pa.types.is_null(type_):
        return None
    if layout.is_legacy and (text := legacy_columns.map_text(column.name, name, _plain(type_))):
        return text
    if not _is_accepted(_plain(type_), column.type):
        raise SchemaError(
            f"column {name} is {type_}, and becomes {column.name}. Expected: {column.type}, or what can become "
            f"one without loss. {_what_to_do(dataset)}"
        )
    return cast(name, column.type, is_integer=pa.types.is_integer(type_)), None


def _layout(names: Container[str], month: str, dataset: Dataset) -> Layout:
    """The layout that the file of `month` has to have. `names` are those of its columns, in lower case."""
    own = next(layout for layout in dataset.layouts if month <= layout.last_month)
    # The newest first: a modern file to which the TLC adds coordinates has one more column, which is ignored.
    found = next((layout for layout in reversed(dataset.layouts) if layout.mark.lower() in names), own)
    if found is not own:
        raise SchemaError(
            f"the file has the columns of {found.period} ({found.mark}), and {month} needs those of {own.period} "
            f"({own.mark}). {_what_to_do(dataset)}"
        )
    return own


def _what_to_do(dataset: Dataset) -> str:
    return (
        f"Check whether the file is this month of {dataset.title}; if the TLC has changed its schema, extend the columns in "
        "dagster_essentials/datasets, or the types in dagster_essentials/ingestion/column_mapping.py."
    )


_IF_IT_IS_REAL = (
    "Materialize again; if it fails in the same way, check the file at the source. If that is a month of trips after "
    "all, the limits in dagster_essentials/ingestion/column_mapping.py are too narrow for it."
)


def _plain(type_: "pa.DataType") -> "pa.DataType":
    import pyarrow as pa

    # pandas writes categories as dictionaries; DuckDB reads plain values.
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _is_accepted(type_: "pa.DataType", target: str) -> bool:
    import pyarrow as pa

    if target == "VARCHAR":
        return legacy_columns.is_text(type_)
    if target == "TIMESTAMP":
        return bool(pa.types.is_timestamp(type_) and type_.tz is None)
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))
