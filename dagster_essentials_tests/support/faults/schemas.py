"""Faults of the schema and of the values, in complete parquet files; and months that are unusual but valid."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pyarrow as pa

from dagster_essentials.datasets.yellow import COLUMNS
from dagster_essentials.ingestion.dataset import MAX_TEXT_BYTES
from dagster_essentials.ingestion.months import months_between
from dagster_essentials.sample import FIRST_MODERN_MONTH, LAST_MONTH, write_month
from dagster_essentials_tests.support.faults.fault import Change, loaded_file, refused_file
from dagster_essentials_tests.support.faults.files import REQUIRED, UNREADABLE, zones_file
from dagster_essentials_tests.support.faults.samples import count_rows, read_arrow, rewrite, write_arrow

FLAG = "store_and_fwd_flag"
OPTIONAL = [column.source for column in COLUMNS if column.source is not None and not column.required]
INTEGERS = [column.source for column in COLUMNS if column.source is not None and column.type == "INTEGER"]
TIMES = [column.source for column in COLUMNS if column.source is not None and column.type == "TIMESTAMP"]
AMOUNTS = [name for name in REQUIRED if name not in (*INTEGERS, *TIMES, FLAG)]
NUMBERS = [*INTEGERS, *AMOUNTS]

NO_COLUMN = r"the file has no column \w+, which becomes \w+.*Found: .*column_mapping\.py"
NO_ROWS = r"the file has no rows.*Materialize again"


def _wrong_type(found: str, expected: str) -> str:
    return rf"column \w+ is {found}.*Expected: {expected}.*column_mapping\.py"


def _wrong_layout(found: str) -> str:
    return rf"the file has the columns of {found} \(\w+\), and \d{{4}}-\d\d needs those of 2011 and later.*column_mapping\.py"


LAYOUT_2009 = """SELECT 'VTS' AS vendor_name, tpep_pickup_datetime::VARCHAR AS Trip_Pickup_DateTime,
tpep_dropoff_datetime::VARCHAR AS Trip_Dropoff_DateTime, passenger_count AS Passenger_Count,
trip_distance AS Trip_Distance, -73.99 AS Start_Lon, 40.73 AS Start_Lat, NULL::DOUBLE AS Rate_Code,
NULL::DOUBLE AS store_and_forward, -73.98 AS End_Lon, 40.75 AS End_Lat, 'CASH' AS Payment_Type, fare_amount AS Fare_Amt,
extra AS surcharge, mta_tax, tip_amount AS Tip_Amt, tolls_amount AS Tolls_Amt, total_amount AS Total_Amt FROM month"""
LAYOUT_2010 = """SELECT 'CMT' AS vendor_id, tpep_pickup_datetime::VARCHAR AS pickup_datetime,
tpep_dropoff_datetime::VARCHAR AS dropoff_datetime, passenger_count, trip_distance, -73.99 AS pickup_longitude,
40.73 AS pickup_latitude, '1' AS rate_code, store_and_fwd_flag, -73.98 AS dropoff_longitude, 40.75 AS dropoff_latitude,
'CAS' AS payment_type, fare_amount, extra AS surcharge, mta_tax, tip_amount, tolls_amount, total_amount FROM month"""
LAYOUT_GREEN = """SELECT * RENAME (tpep_pickup_datetime AS lpep_pickup_datetime,
tpep_dropoff_datetime AS lpep_dropoff_datetime), NULL::DOUBLE AS ehail_fee, 1 AS trip_type FROM month"""
LAYOUT_FOR_HIRE = """SELECT 'B00254' AS dispatching_base_num, tpep_pickup_datetime AS pickup_datetime,
tpep_dropoff_datetime AS "dropOff_datetime", PULocationID AS "PUlocationID", DOLocationID AS "DOlocationID",
NULL::INTEGER AS "SR_Flag" FROM month"""


def _select(query: str) -> Change:
    return lambda good, random: rewrite(good, query)


def _replace(names: Sequence[str], expression: str) -> Change:
    """A random column of `names` becomes `expression`; in it, {name} is that column and {one_row} is true in one row."""

    def change(good: bytes, random: Random) -> bytes:
        name = random.choice(names)
        one_row = f"row_number() OVER () = {random.randint(1, count_rows(good))}"
        value = expression.format(name=name, one_row=one_row)
        return rewrite(good, f"SELECT * REPLACE ({value} AS {name}) FROM month")

    return change


def _in_one_row(names: Sequence[str], value: str) -> Change:
    return _replace(names, f"if({{one_row}}, {value}, {{name}})")


def _without_one_column(good: bytes, random: Random) -> bytes:
    return write_arrow(read_arrow(good).drop_columns([random.choice(REQUIRED)]))


def _with_values(good: bytes, name: str, values: pa.Array) -> bytes:
    """`good` with `values` in the column `name`, whatever its type was."""
    table = read_arrow(good)
    return write_arrow(table.set_column(table.column_names.index(name), name, values))


def _flag_with_invalid_utf8(good: bytes, random: Random) -> bytes:
    flags = pa.array([b"\xff\xfe"] * count_rows(good), pa.binary())
    return _with_values(good, FLAG, pa.Array.from_buffers(pa.string(), len(flags), flags.buffers()))


def _time_out_of_range(good: bytes, random: Random) -> bytes:
    return _with_values(good, random.choice(TIMES), pa.array([2**62] * count_rows(good), pa.timestamp("ms")))


WRONG_SCHEMAS = [
    refused_file("no rows", NO_ROWS, _select("FROM month WHERE false")),
    refused_file("no columns", NO_ROWS, lambda good, random: write_arrow(pa.table({}))),
    refused_file("a column missing", NO_COLUMN, _without_one_column),
    refused_file("text for a number", _wrong_type("string", "(DOUBLE|INTEGER)"), _replace(NUMBERS, "'much'")),
    refused_file(
        "digits for a number", _wrong_type("string", "(DOUBLE|INTEGER)"), _replace(NUMBERS, "{name}::VARCHAR")
    ),
    refused_file("text for a time", _wrong_type("string", "TIMESTAMP"), _replace(TIMES, "{name}::VARCHAR")),
    refused_file("a date for a time", _wrong_type("date32", "TIMESTAMP"), _replace(TIMES, "{name}::DATE")),
    refused_file("a number for a time", _wrong_type("int64", "TIMESTAMP"), _replace(TIMES, "epoch_us({name})")),
    refused_file(
        "a time with a zone", _wrong_type("timestamp.*UTC", "TIMESTAMP"), _replace(TIMES, "{name}::TIMESTAMPTZ")
    ),
    refused_file("a number for the flag", _wrong_type("int32", "VARCHAR"), _replace([FLAG], "1")),
    refused_file("bytes for the flag", _wrong_type("binary", "VARCHAR"), _replace([FLAG], "'N'::BLOB")),
    refused_file(
        "a struct for a number",
        _wrong_type("struct", "(DOUBLE|INTEGER)"),
        _replace(NUMBERS, "struct_pack(value := {name})"),
    ),
    refused_file("a list for a number", _wrong_type("list", "(DOUBLE|INTEGER)"), _replace(NUMBERS, "[{name}]")),
    refused_file("a boolean for a number", _wrong_type("bool", "(DOUBLE|INTEGER)"), _replace(NUMBERS, "{name} > 1")),
    refused_file("the layout of 2009", _wrong_layout("2009"), _select(LAYOUT_2009)),
    refused_file("the layout of 2010", _wrong_layout("2010"), _select(LAYOUT_2010)),
    refused_file("green taxis", NO_COLUMN, _select(LAYOUT_GREEN)),
    refused_file("for-hire vehicles", NO_COLUMN, _select(LAYOUT_FOR_HIRE)),
    refused_file("the zones as parquet", NO_COLUMN, zones_file("parquet")),
]

WRONG_VALUES = [
    refused_file("half a vendor", r"VendorID holds a number that is not whole: 1\.5", _in_one_row(["VendorID"], "1.5")),
    refused_file("a number beyond 32 bits", "3000000000", _in_one_row(INTEGERS, "3_000_000_000")),
    refused_file("NaN for an integer", UNREADABLE, _in_one_row(INTEGERS, "'nan'::DOUBLE")),
    refused_file("infinity for an integer", UNREADABLE, _in_one_row(INTEGERS, "'-inf'::DOUBLE")),
    refused_file("a time out of range", UNREADABLE, _time_out_of_range),
    refused_file("a flag with invalid UTF-8", UNREADABLE, _flag_with_invalid_utf8),
    *(
        refused_file(name, f"{FLAG} holds a text of more than 100 bytes", _in_one_row([FLAG], f"repeat('N', {length})"))
        for name, length in (("a flag of 101 bytes", MAX_TEXT_BYTES + 1), ("a flag of 1 MB", 1_000_000))
    ),
]

# Unusual months

NEW_NAMES = [
    *("it's new", 'a "new" fee', '"VendorID"', 'Robert"); DROP TABLE trips; --', "a; b", "$month", "{name}", "%s", "*"),
    *("NULL", "select", "partition_date", "vendor_id", "filename", "file_row_number", "__index_level_0__", "🚕"),
    *("", "two\nlines", "a zero\0byte", "a long name" * 100),
]


def _other_month(good: bytes, random: Random) -> bytes:
    """As many trips of some other month."""
    with TemporaryDirectory() as folder:
        month = random.choice(months_between(FIRST_MODERN_MONTH, LAST_MONTH))
        return write_month(Path(folder), month, count_rows(good)).read_bytes()


def _with_new_columns(good: bytes, names: Sequence[str], random: Random) -> bytes:
    """Unknown columns, among the others."""
    table = read_arrow(good)
    for name in names:
        table = table.add_column(random.randrange(table.num_columns), name, pa.array(range(table.num_rows)))
    return write_arrow(table)


def _with_a_null_duplicate(good: bytes, random: Random) -> bytes:
    """A second column of the same name, of type null: the one with values is the first."""
    return write_arrow(read_arrow(good).append_column(random.choice(REQUIRED), pa.nulls(count_rows(good))))


def _with_a_nested_duplicate(good: bytes, random: Random) -> bytes:
    """An unknown column has a member of type null with the name of a required column."""
    nested = pa.array([{random.choice(REQUIRED): None}] * count_rows(good))
    return write_arrow(read_arrow(good).append_column("extras", nested))


def _with_a_duplicate(good: bytes, random: Random) -> bytes:
    """A second column with the same values, its name in the other case."""
    name, table = random.choice(REQUIRED), read_arrow(good)
    return write_arrow(table.append_column(name.swapcase(), table.column(name)))


def _shuffled(good: bytes, random: Random) -> bytes:
    table = read_arrow(good)
    return write_arrow(table.select(random.sample(table.column_names, table.num_columns)))


def _in_upper_case(good: bytes, random: Random) -> bytes:
    table = read_arrow(good)
    return write_arrow(table.rename_columns([name.upper() for name in table.column_names]))


def _fees(good: bytes) -> list[str]:
    return [name for name in read_arrow(good).column_names if name.lower() in OPTIONAL]


def _nulls(name: str, good: bytes) -> bytes:
    return _with_values(good, name, pa.nulls(count_rows(good)))


def _written(**options: object) -> Change:
    """The same trips, written by another program in another way."""
    return lambda good, random: write_arrow(read_arrow(good), **options)


UNUSUAL_MONTHS = [
    loaded_file("another month's trips", _other_month),
    loaded_file("one trip", _select("FROM month LIMIT 1")),
    loaded_file("all trips twice", _select("FROM month UNION ALL FROM month")),
    loaded_file(
        "trips in another order",
        lambda good, random: rewrite(good, f"FROM month ORDER BY hash(month, {random.random()})"),
    ),
    loaded_file("unknown columns", lambda good, random: _with_new_columns(good, random.sample(NEW_NAMES, 5), random)),
    loaded_file(
        "300 unknown columns",
        lambda good, random: _with_new_columns(good, [f"new {number}" for number in range(300)], random),
    ),
    loaded_file("an unknown nested column", _select("SELECT *, {'a': [{'b': VendorID}]} AS extras FROM month")),
    loaded_file("a column twice", _with_a_duplicate),
    loaded_file("a column twice, then of type null", _with_a_null_duplicate),
    loaded_file("a column's name within a nested one", _with_a_nested_duplicate),
    loaded_file("columns in another order", _shuffled),
    loaded_file("names in upper case", _in_upper_case),
    loaded_file("a fee of type null", lambda good, random: _nulls(random.choice(_fees(good)), good)),
    loaded_file("no fees", lambda good, random: write_arrow(read_arrow(good).drop_columns(_fees(good)))),
    loaded_file("passengers of type null", lambda good, random: _nulls("passenger_count", good)),
    loaded_file("a required column of nulls", _replace(AMOUNTS, "NULL::DOUBLE")),
    loaded_file("integers as DOUBLE", _replace(INTEGERS, "{name}::DOUBLE")),
    loaded_file("an amount as DECIMAL", _replace(AMOUNTS, "{name}::DECIMAL(9, 2)")),
    loaded_file("an amount as FLOAT", _replace(AMOUNTS, "{name}::FLOAT")),
    loaded_file("NaN for an amount", _in_one_row(AMOUNTS, "'nan'::DOUBLE")),
    loaded_file("an infinite amount", _in_one_row(AMOUNTS, "'inf'::DOUBLE")),
    loaded_file("a time in the far future", _in_one_row(TIMES, "TIMESTAMP '294246-01-01'")),
    loaded_file("a time before year 1", _in_one_row(TIMES, "TIMESTAMP '0044-03-15 (BC)'")),
    loaded_file("an infinite time", _in_one_row(TIMES, "TIMESTAMP 'infinity'")),
    loaded_file("a flag with a zero byte", _in_one_row([FLAG], "'Y' || chr(0) || 'N'")),
    loaded_file(
        "many small row groups",
        lambda good, random: write_arrow(read_arrow(good), row_group_size=max(1, count_rows(good) // 200)),
    ),
    *(
        loaded_file(f"written with {codec}", _written(compression=codec))
        for codec in ("none", "snappy", "gzip", "brotli", "lz4")
    ),
    loaded_file("written without dictionaries", _written(use_dictionary=False)),
    loaded_file("written in small pages of version 2", _written(data_page_version="2.0", data_page_size=500)),
    loaded_file("written with checksums and an index", _written(write_page_checksum=True, write_page_index=True)),
    loaded_file("written by version 1.0", _written(version="1.0")),
    loaded_file("written with 96-bit times", _written(use_deprecated_int96_timestamps=True)),
    loaded_file("times in nanoseconds", _replace(TIMES, "{name}::TIMESTAMP_NS")),
    loaded_file("the file twice, concatenated", lambda good, random: good + good),
]
