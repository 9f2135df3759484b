"""The mapping of a month's file to its table: by the dataset, and by names and types alone; no row is read here."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dagster_essentials.errors import SchemaError
from dagster_essentials.ingestion.casts import cast, cast_text, is_text, plain_type
from dagster_essentials.ingestion.dataset import Column, Dataset, Layout, Translation
from dagster_essentials.ingestion.file_format import FileSchema
from dagster_essentials.ingestion.sql import literal

if TYPE_CHECKING:
    import pyarrow as pa

MAX_DECIMAL_DIGITS = 38
"""DuckDB has no longer decimals, and reads them as DOUBLE: 1.5.6 reads 10.70 as 3e15, and 2.0.1 rounds some values twice."""


@dataclass(frozen=True)
class ColumnMapping:
    """The mapping of a month's columns to those of its table.

    Attributes:
        expressions: for each column of the table, in order, the SQL expression over the file. `$month` is bound to the
            month.
        unknown: columns of the file that are not in the table.
        absent: columns of the table that the file does not have, or has only as type null; they become null.
        unmapped: for columns of the file, SQL that is true where a text stands for no value of the table.
        derived: the expressions that are computed from others, and may call a function of the month's `Reference`.
    """

    expressions: Sequence[str]
    unknown: Sequence[str]
    absent: Sequence[str]
    unmapped: Mapping[str, str]
    derived: frozenset[str] = frozenset()

    @property
    def values(self) -> Sequence[str]:
        """The expressions that take a value of the file: all but those that are derived."""
        return [text for text in self.expressions if text not in self.derived]


def map_columns(schema: FileSchema, month: str, dataset: Dataset) -> ColumnMapping:
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
    derived = layout.derive(values) if layout.derive else {}
    values |= derived
    return ColumnMapping(
        expressions=[values.get(column.name, f"NULL::{column.type}") for column in dataset.columns],
        unknown=[name for number, name in enumerate(names) if number not in mapped and name not in layout.ignored],
        absent=[
            column.name
            for column in dataset.columns
            if column.name not in values and (column.source or column.name in layout.sources)
        ],
        unmapped={name: condition for name, condition in unmapped.items() if condition},
        derived=frozenset(derived.values()),
    )


def _map_value(column: Column, name: str, type_: "pa.DataType", layout: Layout, dataset: Dataset) -> Translation | None:
    """SQL for the value of `column` by the file's column `name`, and for where its text stands for none; None for type null."""
    import pyarrow as pa

    if pa.types.is_null(type_):
        return None
    plain = plain_type(type_)
    if layout.translate and (translation := layout.translate(column.name, name, plain)):
        return translation
    if dataset.file_format.is_text:
        return cast_text(name, column.type, column.max_bytes), None
    if not _is_accepted(plain, column.type):
        limit = f"; DuckDB reads decimals of up to {MAX_DECIMAL_DIGITS} digits" if pa.types.is_decimal(plain) else ""
        raise SchemaError(
            f"column {name} is {type_}, and becomes {column.name}. Expected: {column.type}, or what can become "
            f"one without loss{limit}. {_what_to_do(dataset)}"
        )
    return cast(name, column.type, type_, column.max_bytes), None


def _layout(names: Container[str], month: str, dataset: Dataset) -> Layout:
    """The layout that the file of `month` has to have. `names` are those of its columns, in lower case."""
    own = next(layout for layout in dataset.layouts if month <= layout.last_month)
    # The newest first: a modern file to which older columns are added has one more column, which is ignored.
    found = next((layout for layout in reversed(dataset.layouts) if layout.mark.lower() in names), own)
    if found is not own:
        raise SchemaError(
            f"the file has the columns of {found.period} ({found.mark}), and {month} needs those of {own.period} "
            f"({own.mark}). {_what_to_do(dataset)}"
        )
    return own


def _what_to_do(dataset: Dataset) -> str:
    return (
        f"Check whether the file is this month of {dataset.title}; if {dataset.publisher} has changed its schema, extend the "
        f"columns in {dataset.declared_in}, or the types in dagster_essentials/ingestion/column_mapping.py."
    )


def _is_accepted(type_: "pa.DataType", target: str) -> bool:
    import pyarrow as pa

    if target == "VARCHAR":
        return is_text(type_)
    if target == "TIMESTAMP":
        return bool(pa.types.is_timestamp(type_) and type_.tz is None)
    if pa.types.is_decimal(type_):
        return bool(type_.precision <= MAX_DECIMAL_DIGITS)
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))
