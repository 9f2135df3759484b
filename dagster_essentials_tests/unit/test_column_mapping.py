"""The mapping from a month's file to `trips`: every modern schema, what is refused, and that no value changes."""

import datetime
import errno
import io
import os
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dagster_essentials.datasets.yellow import COLUMNS, COURSE_COLUMNS, YELLOW
from dagster_essentials.errors import SchemaError
from dagster_essentials.ingestion.column_mapping import map_columns
from dagster_essentials.ingestion.file_format import FileSchema, InvalidFileError, Parquet
from dagster_essentials_tests.support.project import NO_REAL_DATA, REAL_DATA, REAL_MONTHS

pytestmark = pytest.mark.duckdb

COURSE = [
    ("vendor_id", "INTEGER"),
    ("pickup_zone_id", "INTEGER"),
    ("dropoff_zone_id", "INTEGER"),
    ("rate_code_id", "DOUBLE"),
    ("payment_type", "INTEGER"),
    ("dropoff_datetime", "TIMESTAMP"),
    ("pickup_datetime", "TIMESTAMP"),
    ("trip_distance", "DOUBLE"),
    ("passenger_count", "DOUBLE"),
    ("total_amount", "DOUBLE"),
    ("partition_date", "VARCHAR"),
]
ADDED = [
    ("fare_amount", "DOUBLE"),
    ("extra", "DOUBLE"),
    ("mta_tax", "DOUBLE"),
    ("tip_amount", "DOUBLE"),
    ("tolls_amount", "DOUBLE"),
    ("improvement_surcharge", "DOUBLE"),
    ("congestion_surcharge", "DOUBLE"),
    ("airport_fee", "DOUBLE"),
    ("cbd_congestion_fee", "DOUBLE"),
    ("store_and_fwd_flag", "VARCHAR"),
    ("request_source", "VARCHAR"),
    ("pickup_longitude", "DOUBLE"),
    ("pickup_latitude", "DOUBLE"),
    ("dropoff_longitude", "DOUBLE"),
    ("dropoff_latitude", "DOUBLE"),
]
# Columns that have another name in the file.
RENAMED = {
    "vendor_id": "VendorID",
    "pickup_zone_id": "PULocationID",
    "dropoff_zone_id": "DOLocationID",
    "rate_code_id": "RatecodeID",
    "dropoff_datetime": "tpep_dropoff_datetime",
    "pickup_datetime": "tpep_pickup_datetime",
}
OPTIONAL = ["improvement_surcharge", "congestion_surcharge", "airport_fee", "cbd_congestion_fee", "request_source"]
INTEGERS = ["VendorID", "PULocationID", "DOLocationID", "payment_type"]


def schema_of(month: str, nulls: Sequence[str] = ()) -> dict[str, pa.DataType]:
    """The columns of the published file of `month`, in its order; `nulls` are null-typed in it."""
    ids = pa.int32() if month >= "2023-02" else pa.int64()
    counts = pa.float64() if "2018-07" <= month <= "2023-01" else pa.int64()
    types = {
        "VendorID": ids,
        "tpep_pickup_datetime": pa.timestamp("us"),
        "tpep_dropoff_datetime": pa.timestamp("us"),
        "passenger_count": counts,
        "trip_distance": pa.float64(),
        "RatecodeID": counts,
        "store_and_fwd_flag": pa.string(),
        "PULocationID": ids,
        "DOLocationID": ids,
        "payment_type": pa.int64(),
        "fare_amount": pa.float64(),
        "extra": pa.float64(),
        "mta_tax": pa.float64(),
        "tip_amount": pa.float64(),
        "tolls_amount": pa.float64(),
        "improvement_surcharge": pa.float64(),
        "total_amount": pa.float64(),
        "congestion_surcharge": pa.float64(),
        "Airport_fee" if month >= "2023-02" else "airport_fee": pa.float64(),
    }
    if month >= "2025-01":
        types["cbd_congestion_fee"] = pa.float64()
    if month >= "2026-06":
        types["request_source"] = pa.string()
    return {**types, **dict.fromkeys(nulls, pa.null())}


# The first month of every schema that has been published since 2011, with the fees that are null-typed in it.
NULLS: Mapping[str, Sequence[str]] = {
    "2011-01": [],
    "2011-02": ["congestion_surcharge", "airport_fee"],
    "2011-03": ["airport_fee"],
    "2011-04": ["congestion_surcharge", "airport_fee"],
    "2012-12": ["airport_fee"],
    "2013-01": ["congestion_surcharge", "airport_fee"],
    "2013-05": ["airport_fee"],
    "2013-06": ["congestion_surcharge", "airport_fee"],
    "2014-01": ["airport_fee"],
    "2014-02": ["congestion_surcharge", "airport_fee"],
    "2014-08": ["improvement_surcharge", "congestion_surcharge", "airport_fee"],
    "2014-09": ["congestion_surcharge", "airport_fee"],
    "2018-01": [],
    "2018-02": ["congestion_surcharge", "airport_fee"],
    "2018-06": ["airport_fee"],
    "2018-07": ["congestion_surcharge", "airport_fee"],
    "2018-09": ["airport_fee"],
    "2018-10": ["congestion_surcharge", "airport_fee"],
    "2018-11": ["airport_fee"],
    "2018-12": ["congestion_surcharge", "airport_fee"],
    "2019-01": ["airport_fee"],
    "2020-08": [],
    "2020-10": ["airport_fee"],
    "2020-11": [],
    "2023-02": [],
    "2025-01": [],
    "2026-06": [],
}
SCHEMAS = {month: schema_of(month, nulls) for month, nulls in NULLS.items()}
NEWEST = SCHEMAS["2026-06"]


def read(path: Path) -> FileSchema:
    with open(path, "rb") as file:
        return Parquet().read_schema(file)


def file_schema(types: Mapping[str, pa.DataType]) -> FileSchema:
    """The schema of a file with these columns."""
    return FileSchema(1, list(types.items()))


def write_parquet(path: Path, columns: Mapping[str, pa.Array]) -> Path:
    pq.write_table(pa.table(dict(columns)), path)
    return path


def nulls(types: Mapping[str, pa.DataType], rows: int = 1) -> dict[str, pa.Array]:
    return {name: pa.nulls(rows, type_) for name, type_ in types.items()}


def newest_file(path: Path, rows: int = 1, **replaced: pa.Array) -> Path:
    """A file with the newest schema and no values, but for the `replaced` columns."""
    return write_parquet(path, {**nulls(NEWEST, rows), **replaced})


def load(path: Path, month: str = "2023-01") -> list[dict[str, object]]:
    """The rows of the file in a table with the columns of `trips`."""
    expressions = ", ".join(map_columns(read(path), month, YELLOW).expressions)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE trips ({', '.join(f'{name} {type_}' for name, type_ in COURSE + ADDED)})")
        connection.execute(
            f"INSERT INTO trips SELECT {expressions} FROM read_parquet($file)", {"month": month, "file": str(path)}
        )
        cursor = connection.execute("SELECT * FROM trips")
        names = [name for name, *_ in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


# The columns of the table


def test_the_table_begins_with_the_columns_of_the_course() -> None:
    assert [(column.name, column.type) for column in COLUMNS[:11]] == COURSE
    assert list(COURSE_COLUMNS) == list(COLUMNS[:11])


def test_the_other_columns_of_the_newest_file_and_the_coordinates_follow() -> None:
    assert [(column.name, column.type) for column in COLUMNS[11:]] == ADDED


def test_only_columns_that_were_added_or_dropped_may_be_missing() -> None:
    assert [column.name for column in COLUMNS if not column.required] == OPTIONAL


# Schemas of published months


@pytest.mark.parametrize("month", SCHEMAS)
def test_every_published_schema_is_mapped_to_trips(month: str, tmp_path: Path) -> None:
    # Each column has a value of its own, so that no two can be confused.
    values: dict[str, object] = {}
    columns = {}
    for number, (name, type_) in enumerate(SCHEMAS[month].items(), start=1):
        by_type = {
            pa.null(): None,
            pa.timestamp("us"): datetime.datetime(2019, 1, number, 12, 34, 56, 789),
            pa.string(): f"text {number}",
            pa.float64(): number + 0.25,
        }
        values[name.lower()] = by_type.get(type_, number)
        columns[name] = pa.array([values[name.lower()]], type_)
    path = write_parquet(tmp_path / "month.parquet", columns)

    assert read(path) == file_schema(SCHEMAS[month])
    mapping = map_columns(read(path), "2026-06", YELLOW)
    assert mapping.unknown == []
    absent = {*NULLS[month], *(["cbd_congestion_fee"] if month < "2025" else [])}
    absent |= {"request_source"} if month < "2026-06" else set()
    assert mapping.absent == [name for name, _ in COURSE + ADDED if name in absent]
    expected = {name: values.get(RENAMED.get(name, name).lower()) for name, _ in COURSE + ADDED}
    assert load(path, month) == [{**expected, "partition_date": month}]


@pytest.mark.parametrize("month", REAL_MONTHS)
def test_published_months_are_read_completely(month: str) -> None:
    path = REAL_DATA / "trip-data" / f"yellow_tripdata_{month}.parquet"
    if not path.exists():
        pytest.skip(NO_REAL_DATA)
    schema = read(path)
    published = pq.read_metadata(path)
    assert schema.rows == published.num_rows
    assert [name for name, _ in schema.columns] == published.schema.names
    assert map_columns(schema, "2026-06", YELLOW).unknown == []
    compared = {"vendor_id": "VendorID", "pickup_zone_id": "PULocationID", "total_amount": "total_amount"}
    table = pq.read_table(path, columns=list(compared.values()))
    rows = load(path)
    for column, source in compared.items():
        assert [row[column] for row in rows] == table.column(source).to_pylist()


def test_the_partition_date_is_the_month_of_the_file_and_not_of_the_pickup(tmp_path: Path) -> None:
    pickup = datetime.datetime(2088, 1, 1)
    path = newest_file(tmp_path / "month.parquet", tpep_pickup_datetime=pa.array([pickup], pa.timestamp("us")))
    (trip,) = load(path, "2019-02")
    assert (trip["partition_date"], trip["pickup_datetime"]) == ("2019-02", pickup)


# Names


@pytest.mark.parametrize("name", ["airport_fee", "Airport_fee", "AIRPORT_FEE"])
def test_names_are_compared_without_case(name: str, tmp_path: Path) -> None:
    columns = {name if key == "Airport_fee" else key: array for key, array in nulls(NEWEST).items()}
    path = write_parquet(tmp_path / "month.parquet", {**columns, name: pa.array([1.75])})
    mapping = map_columns(read(path), "2026-06", YELLOW)
    assert "airport_fee" not in mapping.absent
    assert mapping.unknown == []
    assert load(path)[0]["airport_fee"] == 1.75


@pytest.mark.parametrize("name", [name for name in NEWEST if name.lower() not in OPTIONAL])
def test_a_file_without_a_required_column_is_refused(name: str) -> None:
    types = {key: type_ for key, type_ in NEWEST.items() if key != name}
    with pytest.raises(SchemaError) as refused:
        map_columns(file_schema(types), "2026-06", YELLOW)
    assert f"the file has no column {name}" in str(refused.value)
    assert f"Found: {', '.join(types)}." in str(refused.value)


def test_a_missing_fee_becomes_null(tmp_path: Path) -> None:
    types = {name: type_ for name, type_ in NEWEST.items() if name.lower() not in OPTIONAL}
    assert map_columns(file_schema(types), "2026-06", YELLOW).absent == OPTIONAL
    path = write_parquet(tmp_path / "month.parquet", nulls(types))
    assert {load(path)[0][name] for name in OPTIONAL} == {None}


def test_every_column_that_is_not_mapped_is_unknown_also_with_a_name_that_occurs_twice() -> None:
    columns = [*NEWEST.items(), ("surge_fee", pa.float64()), ("Surge_Fee", pa.float64()), ("VendorID", pa.int32())]
    assert map_columns(FileSchema(1, columns), "2026-06", YELLOW).unknown == ["surge_fee", "Surge_Fee", "VendorID"]


def test_unknown_columns_are_reported_and_not_loaded(tmp_path: Path) -> None:
    unknown = {
        "surge_fee": pa.array([1.0]),
        "partition_date": pa.array(["1999-01"]),
        "__index_level_0__": pa.array([7]),
    }
    path = newest_file(tmp_path / "month.parquet", **unknown)
    assert map_columns(read(path), "2026-06", YELLOW).unknown == list(unknown)
    assert load(path)[0]["partition_date"] == "2023-01"


def test_the_order_of_the_columns_in_the_file_does_not_matter(tmp_path: Path) -> None:
    reverse = dict(reversed(NEWEST.items()))
    assert map_columns(file_schema(reverse), "2026-06", YELLOW) == map_columns(file_schema(NEWEST), "2026-06", YELLOW)
    ids = {"PULocationID": pa.array([161], pa.int32()), "DOLocationID": pa.array([237], pa.int32())}
    path = write_parquet(tmp_path / "month.parquet", {**nulls(reverse), **ids})
    (trip,) = load(path)
    assert (trip["pickup_zone_id"], trip["dropoff_zone_id"]) == (161, 237)


def test_quotes_in_the_names_of_columns_and_files_are_escaped(tmp_path: Path) -> None:
    unknown = {
        'a "quoted" name': pa.array([1]),
        'ends with "': pa.nulls(1),
        "it's": pa.array(["x"]),
        "a; b": pa.nulls(1),
    }
    path = newest_file(tmp_path / 'it\'s a "month".parquet', VendorID=pa.array([2], pa.int32()), **unknown)
    assert map_columns(read(path), "2026-06", YELLOW).unknown == list(unknown)
    assert load(path)[0]["vendor_id"] == 2


# Null-typed columns, nested columns and duplicate names


def test_a_null_typed_column_is_distinguished_from_one_that_only_has_nulls(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "month.parquet",
        {"null-typed": pa.nulls(3), "only nulls": pa.nulls(3, pa.int32()), "text": pa.array(["a", None, "b"])},
    )
    assert read(path) == FileSchema(3, [("null-typed", pa.null()), ("only nulls", pa.int32()), ("text", pa.string())])


def test_a_null_typed_field_of_a_nested_column_does_not_affect_the_column_with_its_name(tmp_path: Path) -> None:
    nested = pa.struct([("total_amount", pa.null()), ("more", pa.list_(pa.struct([("fare_amount", pa.null())])))])
    path = newest_file(
        tmp_path / "month.parquet",
        total_amount=pa.array([12.5]),
        extras=pa.array([{"total_amount": None, "more": [{"fare_amount": None}]}], nested),
        # After the nested column, whose fields have column numbers of their own in the file.
        Airport_fee=pa.array([1.75]),
        fare_amount=pa.array([10.25]),
    )
    schema = read(path)
    types = dict(schema.columns)
    assert (types["total_amount"], types["fare_amount"]) == (pa.float64(), pa.float64())
    assert map_columns(schema, "2026-06", YELLOW).unknown == ["extras"]
    (trip,) = load(path)
    assert (trip["total_amount"], trip["fare_amount"], trip["airport_fee"]) == (12.5, 10.25, 1.75)


@pytest.mark.parametrize("second", ["total_amount", "Total_Amount"])
@pytest.mark.parametrize("first", [12.5, None])
def test_of_two_columns_with_the_same_name_the_first_is_loaded_even_if_one_is_null_typed(
    first: float | None, second: str, tmp_path: Path
) -> None:
    others = nulls({name: type_ for name, type_ in NEWEST.items() if name != "total_amount"})
    value, null = pa.array([12.5]), pa.nulls(1)
    both = [value, null] if first is not None else [null, value]
    path = tmp_path / "month.parquet"
    pq.write_table(
        pa.Table.from_arrays([*both, *others.values()], names=["total_amount", second, *others]),
        path,
    )
    schema = read(path)
    assert [type_ for _, type_ in schema.columns[:2]] == [array.type for array in both]
    mapping = map_columns(schema, "2026-06", YELLOW)
    assert ("total_amount" in mapping.absent) == (first is None)
    assert mapping.unknown == [second]
    assert load(path)[0]["total_amount"] == first


# Types


@pytest.mark.parametrize(
    ("type_", "in_duckdb"),
    [
        (pa.int8(), "TINYINT"),
        (pa.int16(), "SMALLINT"),
        (pa.int32(), "INTEGER"),
        (pa.int64(), "BIGINT"),
        (pa.uint64(), "UBIGINT"),
        (pa.float32(), "FLOAT"),
        (pa.float64(), "DOUBLE"),
        (pa.decimal128(9, 2), "DECIMAL(9,2)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", [*INTEGERS, "passenger_count", "RatecodeID", "fare_amount", "Airport_fee"])
def test_a_number_column_accepts_every_number_type(name: str, type_: pa.DataType, in_duckdb: str) -> None:
    mapping = map_columns(file_schema({**NEWEST, name: type_}), "2026-06", YELLOW)
    table_type, values = ("INTEGER", [1, 99]) if name in INTEGERS else ("DOUBLE", [1.0, 99.0])
    with duckdb.connect() as connection:
        connection.execute(f'CREATE TABLE file ("{name}" {in_duckdb})')
        connection.execute("INSERT INTO file VALUES (1), (99)")
        (expression,) = [text for text in mapping.expressions if f'"{name}"' in text]
        rows = connection.execute(f"SELECT n, typeof(n) FROM (SELECT {expression} AS n FROM file)").fetchall()
    assert rows == [(value, table_type) for value in values]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_timestamp_column_accepts_every_resolution(unit: str) -> None:
    assert (
        map_columns(file_schema({**NEWEST, "tpep_pickup_datetime": pa.timestamp(unit)}), "2026-06", YELLOW).absent == []
    )


@pytest.mark.parametrize(
    "type_",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=["string", "large_string", "string_view", "dictionary"],
)
def test_a_text_column_accepts_every_string_type(type_: pa.DataType, tmp_path: Path) -> None:
    texts = pa.array(["Y", None, "N"])
    flags = texts.dictionary_encode() if pa.types.is_dictionary(type_) else texts.cast(type_)
    path = newest_file(tmp_path / "month.parquet", rows=3, store_and_fwd_flag=flags)
    assert dict(read(path).columns)["store_and_fwd_flag"] == type_
    assert [trip["store_and_fwd_flag"] for trip in load(path)] == ["Y", None, "N"]


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("VendorID", pa.string()),
        ("PULocationID", pa.string()),
        ("payment_type", pa.string()),
        ("payment_type", pa.duration("us")),
        ("passenger_count", pa.bool_()),
        ("trip_distance", pa.string()),
        ("fare_amount", pa.list_(pa.float64())),
        ("Airport_fee", pa.string()),
        ("tpep_pickup_datetime", pa.date32()),
        ("tpep_pickup_datetime", pa.string()),
        ("tpep_pickup_datetime", pa.int64()),
        ("tpep_dropoff_datetime", pa.timestamp("us", "UTC")),
        ("store_and_fwd_flag", pa.float64()),
        ("store_and_fwd_flag", pa.binary()),
        ("store_and_fwd_flag", pa.dictionary(pa.int32(), pa.binary())),
        ("request_source", pa.int32()),
        ("cbd_congestion_fee", pa.struct([("dollars", pa.int32())])),
    ],
    ids=str,
)
def test_a_column_of_the_wrong_type_is_refused_by_name(name: str, type_: pa.DataType) -> None:
    with pytest.raises(SchemaError) as refused:
        map_columns(file_schema({**NEWEST, name: type_}), "2026-06", YELLOW)
    column = {source: column for column, source in RENAMED.items()}.get(name, name.lower())
    assert f"column {name} is {type_}, and becomes {column}" in str(refused.value)
    assert f"Expected: {dict(COURSE + ADDED)[column]}" in str(refused.value)


# Values


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("type_", [pa.float64(), pa.float32(), pa.decimal128(5, 1)], ids=str)
def test_an_id_that_is_not_a_whole_number_fails_and_is_not_rounded(
    name: str, type_: pa.DataType, tmp_path: Path
) -> None:
    numbers = [Decimal(1), Decimal("1.5")] if pa.types.is_decimal(type_) else [1.0, 1.5]
    path = newest_file(tmp_path / "month.parquet", rows=2, **{name: pa.array(numbers, type_)})
    with pytest.raises(duckdb.Error, match=rf"{name} holds a number that is not whole: 1\.5"):
        load(path)


@pytest.mark.parametrize("name", INTEGERS)
def test_whole_ids_of_type_double_are_loaded(name: str, tmp_path: Path) -> None:
    path = newest_file(tmp_path / "month.parquet", rows=4, **{name: pa.array([1.0, 265.0, None, -0.0])})
    column = {source: column for column, source in RENAMED.items()}.get(name, name)
    loaded = [row[column] for row in load(path)]
    assert loaded == [1, 265, None, 0]
    assert [type(value) for value in loaded] == [int, int, type(None), int]


@pytest.mark.parametrize(
    "numbers", [pa.array([2**31]), pa.array([3e9]), pa.array([float("nan")]), pa.array([float("inf")])], ids=str
)
def test_an_id_out_of_the_range_of_an_integer_fails(numbers: pa.Array, tmp_path: Path) -> None:
    path = newest_file(tmp_path / "month.parquet", PULocationID=numbers)
    with pytest.raises(duckdb.Error):
        load(path)


# Reading the schema


def test_rows_are_counted_over_all_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "month.parquet"
    pq.write_table(pa.table({"n": list(range(2500))}), path, row_group_size=1000)
    assert read(path).rows == 2500
    pq.write_table(pa.table({"n": pa.array([], pa.int64())}), path)
    assert read(path) == FileSchema(0, [("n", pa.int64())])


def test_the_file_stays_open_after_its_schema_was_read(tmp_path: Path) -> None:
    path = newest_file(tmp_path / "month.parquet")
    with open(path, "rb") as file:
        assert Parquet().read_schema(file) == Parquet().read_schema(file)
        file.seek(0)
        assert file.read() == path.read_bytes()


def footer_bytes(content: bytes) -> int:
    return int.from_bytes(content[-8:-4], "little")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: b"", "it is empty"),
        (lambda _: b"PAR1", "its footer is damaged"),
        (lambda _: b"PAR1PAR1", "its footer is damaged"),
        (
            lambda _: b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
            r"it begins with \"<\?xml version=",
        ),
        (lambda content: content[: len(content) // 2], r"it does not end like one \([\d,]+ bytes\)"),
        (lambda content: content[:-1], r"it does not end like one \([\d,]+ bytes\)"),
        (lambda content: content[:-8] + b"\xff\xff\xff\x7fPAR1", "its footer is damaged"),
        (
            lambda content: content[: -8 - footer_bytes(content)] + bytes(footer_bytes(content)) + content[-8:],
            "its footer is damaged",
        ),
    ],
    ids=["empty", "magic", "magic twice", "error page", "half", "a byte short", "huge footer", "empty footer"],
)
def test_an_incomplete_parquet_file_is_refused_with_what_is_wrong(
    damage: Callable[[bytes], bytes], message: str, tmp_path: Path
) -> None:
    path = newest_file(tmp_path / "month.parquet", rows=100)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InvalidFileError, match=f"^not a complete parquet file: {message}"):
        read(path)


@pytest.mark.parametrize("failing", [1, 2], ids=["its end", "its footer"])
def test_a_file_that_cannot_be_read_is_not_reported_as_a_damaged_one(failing: int, tmp_path: Path) -> None:
    class FailingDisk(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.reads += 1
            if self.reads >= failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    with pytest.raises(OSError, match="Input/output error") as raised:
        Parquet().read_schema(FailingDisk(newest_file(tmp_path / "month.parquet").read_bytes()))
    assert raised.value.errno == errno.EIO
