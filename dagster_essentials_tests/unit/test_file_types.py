"""Every file that pyarrow can write is loaded value by value as it was written, or refused with a message."""

import math
import struct
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from dagster_essentials.datasets.yellow import COLUMNS, YELLOW
from dagster_essentials.errors import DownloadError, PipelineError, SchemaError
from dagster_essentials.ingestion.column_mapping import map_columns
from dagster_essentials.ingestion.month_files import validate_month
from dagster_essentials_tests.support import parquet_bytes as pb
from dagster_essentials_tests.support.faults.samples import read_arrow, sample, write_arrow
from dagster_essentials_tests.support.random_files import NANOSECONDS, random_file

pytestmark = pytest.mark.duckdb

# Columns of `trips` that have another name in the file. The names of the others differ in case only.
RENAMED = {
    "vendor_id": "vendorid",
    "pickup_zone_id": "pulocationid",
    "dropoff_zone_id": "dolocationid",
    "rate_code_id": "ratecodeid",
    "pickup_datetime": "tpep_pickup_datetime",
    "dropoff_datetime": "tpep_dropoff_datetime",
}
WRONG = "a value that the table cannot have"


def expected(column: pa.ChunkedArray, in_table: str) -> list[Any]:
    """The values of `column` as those of the type `in_table`, times in microseconds; `WRONG` for one that is to be refused."""
    type_ = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not pa.types.is_timestamp(type_):
        return [None if value is None else _converted(value, in_table) for value in column.to_pylist()]
    unit = NANOSECONDS[type_.unit]
    times = [None if value is None else value * unit for value in column.cast(type_).cast(pa.int64()).to_pylist()]
    is_right = in_table == "TIMESTAMP" and type_.tz is None
    return [None if time is None else time // 1000 if is_right and time % 1000 == 0 else WRONG for time in times]


def _converted(value: Any, in_table: str) -> Any:
    if in_table == "VARCHAR":
        return value if isinstance(value, str) else WRONG
    if in_table == "TIMESTAMP" or isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return WRONG
    if in_table == "DOUBLE":
        return float(value)  # Python rounds an int and a Decimal to the nearest double.
    return int(value) if math.isfinite(value) and value == int(value) and -(2**31) <= value < 2**31 else WRONG


def same(one: Any, other: Any) -> bool:
    """Whether they are equal; NaN equals itself, and -0.0 is not 0.0."""
    if isinstance(one, float) and isinstance(other, float):
        return one.hex() == other.hex()
    return type(one) is type(other) and one == other


def load(path: Path) -> dict[str, tuple[str, list[Any]]]:
    """The type and the values of each column of the table, as a load of the file at `path` puts them there."""
    with open(path, "rb") as file:
        expressions = map_columns(YELLOW.file_format.read_schema(file), "2023-01", YELLOW).expressions
    columns = [each for each in zip(COLUMNS, expressions, strict=True) if each[0].source is not None]
    selected = ", ".join(f"epoch_us({value})" if column.type == "TIMESTAMP" else value for column, value in columns)
    with duckdb.connect() as connection:
        rows = connection.execute(
            f"SELECT {selected} FROM {YELLOW.file_format.relation}", {"file": str(path)}
        ).fetchall()
    return {column.name: (column.type, [row[number] for row in rows]) for number, (column, _) in enumerate(columns)}


def assert_loaded_as_written(table: pa.Table, content: bytes, path: Path) -> None:
    """Validate and load the file, if it is not refused: each value is the one of `table`, of which it was written."""
    path.write_bytes(content)
    validate_month(path, "2023-01", YELLOW)
    columns = {name.lower(): column for name, column in zip(table.column_names, table.columns, strict=True)}
    for name, (in_table, loaded) in load(path).items():
        column = columns.get(RENAMED.get(name, name), pa.chunked_array([pa.nulls(len(table))]))
        for wanted, found in zip(expected(column, in_table), loaded, strict=True):
            assert same(found, wanted), f"{name}, {column.type}: {found!r} instead of {wanted!r}"


@pytest.mark.parametrize("seed", range(4))
def test_a_random_file_is_loaded_as_written_or_refused(tmp_path: Path, seed: int) -> None:
    random, loaded = Random(seed), 0
    for _ in range(30):
        with suppress(PipelineError):
            assert_loaded_as_written(*random_file(sample("2023-01"), random), tmp_path / "month.parquet")
            loaded += 1
    assert 8 <= loaded <= 22


def with_values(name: str, values: Sequence[Any], type_: pa.DataType, **options: Any) -> tuple[pa.Table, bytes]:
    """A month with these `values` in the column `name`, as numbers if it is a time, and its file."""
    array = pa.array(values, pa.int64()).cast(type_) if pa.types.is_timestamp(type_) else pa.array(values, type_)
    table = read_arrow(sample("2023-01", len(values)))
    table = table.set_column(table.column_names.index(name), name, array)
    return table, write_arrow(table, **options)


# Decimals


@pytest.mark.parametrize("name", ["fare_amount", "total_amount", "VendorID", "airport_fee"])
@pytest.mark.parametrize(("precision", "scale"), [(39, 2), (40, 2), (57, 0), (76, 2), (76, 38)])
@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", None], ids=str)
def test_a_decimal_of_more_digits_than_duckdb_has_is_refused(
    tmp_path: Path, name: str, precision: int, scale: int, encoding: str | None
) -> None:
    options = {"use_dictionary": False, "column_encoding": {name: encoding}} if encoding else {}
    month = with_values(name, [Decimal(1), Decimal(2), None], pa.decimal256(precision, scale), **options)
    with pytest.raises(SchemaError, match=rf"column {name} is decimal256\({precision}, {scale}\).* up to 38 digits\."):
        assert_loaded_as_written(*month, tmp_path / "month.parquet")


@pytest.mark.parametrize(
    "type_",
    [
        *(pa.decimal32(9, 2), pa.decimal64(18, 2), pa.decimal64(18, 15)),
        *(pa.decimal128(9, 2), pa.decimal128(15, 2), pa.decimal128(16, 2), pa.decimal128(38, 2)),
        # Spark's default, and one that a division in it has.
        *(pa.decimal128(38, 18), pa.decimal128(38, 35)),
        *(pa.decimal256(9, 2), pa.decimal256(38, 18), pa.decimal256(38, 35)),
    ],
    ids=str,
)
def test_an_amount_as_a_decimal_is_loaded_as_the_nearest_number(tmp_path: Path, type_: pa.DataType) -> None:
    # A direct cast misses 86 of the million amounts up to 10,000 dollars at a scale of 18, these three among them.
    amounts = ["10.70", "-7.94", "15.62", "-15.87", "0.01", "0.29", "0.00", "999.99"]
    values = [Decimal(amount) for amount in amounts if type_.precision - type_.scale >= 3 or len(amount) < 6]
    table, content = with_values("fare_amount", values, type_)
    assert_loaded_as_written(table, content, tmp_path / "month.parquet")
    assert load(tmp_path / "month.parquet")["fare_amount"][1] == [float(value) for value in values]


@pytest.mark.parametrize("type_", [pa.decimal128(38, 18), pa.decimal128(18, 2), pa.decimal256(38, 0)], ids=str)
def test_an_id_as_a_decimal_is_loaded_if_it_is_whole(tmp_path: Path, type_: pa.DataType) -> None:
    path = tmp_path / "month.parquet"
    assert_loaded_as_written(*with_values("VendorID", [Decimal(1), None, Decimal(265)], type_), path)
    for value in ("2147483648", "-2147483649", "1.5" if type_.scale else "1e30"):
        with pytest.raises(DownloadError, match="not kept"):
            assert_loaded_as_written(*with_values("VendorID", [Decimal(value)], type_), path)


# Times


@pytest.mark.parametrize("nanoseconds", [1, -1, 999, 1_672_531_200_000_000_500, 2**63 - 1, 1 - 2**63])
def test_a_time_that_is_not_in_whole_microseconds_is_refused(tmp_path: Path, nanoseconds: int) -> None:
    month = with_values("tpep_pickup_datetime", [0, nanoseconds], pa.timestamp("ns"))
    with pytest.raises(DownloadError, match="tpep_pickup_datetime holds a time that is not in whole microseconds: "):
        assert_loaded_as_written(*month, tmp_path / "month.parquet")


@pytest.mark.parametrize("nanoseconds", [-1000, 0, 1000, 1_672_531_200_000_000_000, 2**63 - 2**63 % 1000])
def test_a_time_in_nanoseconds_is_loaded_if_it_is_in_whole_microseconds(tmp_path: Path, nanoseconds: int) -> None:
    month = with_values("tpep_pickup_datetime", [0, nanoseconds, None], pa.timestamp("ns"))
    assert_loaded_as_written(*month, tmp_path / "month.parquet")


@pytest.mark.parametrize("milliseconds", [2**62, -(2**62)])
def test_a_time_that_is_out_of_range_is_refused(tmp_path: Path, milliseconds: int) -> None:
    month = with_values("tpep_dropoff_datetime", [0, milliseconds], pa.timestamp("ms"))
    with pytest.raises(DownloadError, match="cannot be read, and it was not kept"):
        assert_loaded_as_written(*month, tmp_path / "month.parquet")


# Statistics


# DuckDB 2.0 does not read a column at all whose statistics say that it has no values.
@pytest.mark.parametrize(
    "nulls", [0, 1] if duckdb.__version__ >= "2" else [0, 1, 4], ids=lambda count: f"{count} of 4 values null"
)
@pytest.mark.parametrize(("least", "most"), [(1.0, 1.0), (0.0, 2.0)])
@pytest.mark.parametrize("value", [3.5, 3e9])
def test_wrong_statistics_do_not_hide_a_value_that_is_to_be_refused(
    tmp_path: Path, value: float, least: float, most: float, nulls: int
) -> None:
    _, content = with_values("VendorID", [1.0, 2.0, None, value], pa.float64())
    body, footer = pb.split(content)
    (column,) = (column for column in pb.columns(footer) if pb.column_name(column) == "VendorID")
    # Fields of the statistics: the number of nulls, the greatest value and the least.
    column[12] = (
        pb.STRUCT,
        {
            3: (pb.I64, nulls),
            5: (pb.BINARY, struct.pack("<d", most)),
            6: (pb.BINARY, struct.pack("<d", least)),
        },
    )
    path = tmp_path / "month.parquet"
    path.write_bytes(pb.join(body, footer))
    with pytest.raises(DownloadError, match="not kept"):
        validate_month(path, "2023-01", YELLOW)
