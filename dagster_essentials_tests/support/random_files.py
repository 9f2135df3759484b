"""Months with columns of random types in random encodings, of all that pyarrow can write.

Whether DuckDB can read them does not matter here.
"""

from collections.abc import Sequence
from contextlib import suppress
from decimal import Context, Decimal
from random import Random
from typing import Any

import pyarrow as pa

from dagster_essentials_tests.support.faults.samples import read_arrow, write_arrow

INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
FLOATS = (pa.float16(), pa.float32(), pa.float64())
DECIMALS = ((pa.decimal32, 9), (pa.decimal64, 18), (pa.decimal128, 38), (pa.decimal256, 76))
"""The kinds of decimals, each with the most digits that it can have."""
TIMES = (
    *(pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("ns")),
    *(pa.timestamp("us", "UTC"), pa.timestamp("ns", "America/New_York")),
    *(pa.date32(), pa.date64(), pa.time64("us"), pa.duration("us"), pa.int64(), pa.string()),
)
TEXTS = (
    *(pa.string(), pa.large_string(), pa.string_view()),
    *(pa.binary(), pa.large_binary(), pa.bool_(), pa.int32()),
)
ENCODINGS = (
    *("PLAIN", "DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY", "BYTE_STREAM_SPLIT", "RLE"),
    *("with a dictionary", "without one"),
)
NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}
_EXACT = Context(prec=100)


def random_file(good: bytes, random: Random, extremes: bool = True) -> tuple[pa.Table, bytes]:
    """The month `good`, in which one to three columns have other types, and the file that pyarrow writes of it.

    With `extremes`, some columns also have the least and the greatest numbers of their type.
    """
    while True:
        table = read_arrow(good)
        changed = random.sample(table.column_names, random.randint(1, 3))
        # pyarrow cannot write each type in each encoding, nor convert each text.
        with suppress(pa.ArrowException, OSError):
            for name in changed:
                array = _retyped(table.column(name), random, extremes)
                table = table.set_column(table.column_names.index(name), name, array)
            return table, write_arrow(table, **_options(table.schema, changed, random))


def _retyped(column: pa.ChunkedArray, random: Random, extremes: bool) -> pa.Array:
    """About the same values, in another type."""
    if pa.types.is_timestamp(column.type):
        array = _times(column, random.choice(TIMES), random)
    elif pa.types.is_string(column.type):
        type_ = random.choice(TEXTS)
        array = column.combine_chunks()
        array = (
            pa.array([len(text or "") for text in array.to_pylist()], type_)
            if type_ == pa.int32()
            else array.cast(type_)
        )
    else:
        array = _numbers(column.to_pylist(), _number_type(random), random, extremes)
    if random.random() < 0.2:
        with suppress(pa.ArrowException):
            return array.dictionary_encode()
    return array


def _number_type(random: Random) -> pa.DataType:
    kind = random.choice(("integer", "float", "decimal", "decimal"))
    if kind == "decimal":
        decimal, digits = random.choice(DECIMALS)
        precision = random.randint(1, digits)
        return decimal(precision, random.choice([0, min(2, precision), random.randint(0, precision)]))
    return random.choice(INTEGERS if kind == "integer" else FLOATS)


def _numbers(values: Sequence[float | None], type_: pa.DataType, random: Random, with_extremes: bool) -> pa.Array:
    """`values`, as near as `type_` can hold them; in some columns, also the least and the greatest that it can hold."""
    numbers: list[Any] = [None if value is None else float(value) for value in values]
    extremes: list[Any] = [float("nan"), float("inf"), float("-inf"), -0.0, 65504.0]
    if not pa.types.is_floating(type_):
        scale = type_.scale if pa.types.is_decimal(type_) else 0
        least, most = _bounds(type_)
        extremes = [least, most, least + 1, random.randint(least, most)]
        for row, value in enumerate(values):
            if value is not None:
                numbers[row] = min(max(int(Decimal(str(value)).scaleb(scale, _EXACT)), least), most)
        if scale or pa.types.is_decimal(type_):
            extremes = [Decimal(value).scaleb(-scale, _EXACT) for value in extremes]
            numbers = [None if value is None else Decimal(value).scaleb(-scale, _EXACT) for value in numbers]
    if with_extremes and random.random() < 0.3:
        for row in random.sample(range(len(numbers)), 5):
            numbers[row] = random.choice(extremes)
    return pa.array(numbers, pa.float64()).cast(type_) if pa.types.is_floating(type_) else pa.array(numbers, type_)


def _bounds(type_: pa.DataType) -> tuple[int, int]:
    """The least and the greatest number of `type_`, as an integer without a decimal point."""
    if pa.types.is_decimal(type_):
        return 1 - 10**type_.precision, 10**type_.precision - 1
    if pa.types.is_unsigned_integer(type_):
        return 0, 2**type_.bit_width - 1
    return -(2 ** (type_.bit_width - 1)), 2 ** (type_.bit_width - 1) - 1


def _times(column: pa.ChunkedArray, type_: pa.DataType, random: Random) -> pa.Array:
    microseconds = column.cast(pa.timestamp("us")).combine_chunks()
    if not pa.types.is_timestamp(type_):
        if pa.types.is_duration(type_):
            return microseconds.cast(pa.int64()).cast(type_)
        return microseconds.cast(type_, safe=False)
    unit = NANOSECONDS[type_.unit]
    values = [None if value is None else value * 1000 // unit for value in microseconds.cast(pa.int64()).to_pylist()]
    if random.random() < 0.3:
        for row in random.sample(range(len(values)), 5):
            # From 1930 to 2010, or one unit before or after 1970.
            values[row] = random.choice([-1, 0, 1, random.randrange(-(2**60), 2**60) // unit])
    return pa.array(values, pa.int64()).cast(type_)


def _options(schema: pa.Schema, changed: Sequence[str], random: Random) -> dict[str, Any]:
    """Options of pyarrow's writer for a file with this `schema`."""
    # Written as 96 bits, a time with a zone is one without.
    has_zones = any(pa.types.is_timestamp(type_) and type_.tz for type_ in schema.types)
    options: dict[str, Any] = {
        "version": random.choice(["1.0", "2.4", "2.6"]),
        "data_page_version": random.choice(["1.0", "2.0"]),
        "compression": random.choice(["none", "snappy", "gzip", "zstd", "lz4", "brotli"]),
        "data_page_size": random.choice([64, 1000, 1 << 20]),
        "row_group_size": random.choice([50, 1 << 20]),
        "write_statistics": random.random() < 0.8,
        "store_schema": random.random() < 0.8,
        "store_decimal_as_integer": random.random() < 0.5,
        "write_page_checksum": random.random() < 0.5,
        "use_deprecated_int96_timestamps": not has_zones and random.random() < 0.1,
    }
    encoding = random.choice(ENCODINGS)
    if encoding == "without one":
        options["use_dictionary"] = False
    elif encoding != "with a dictionary":
        options |= {"use_dictionary": False, "column_encoding": dict.fromkeys(changed, encoding)}
    return options
