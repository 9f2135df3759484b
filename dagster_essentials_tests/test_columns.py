"""The mapping from a month's file to `trips`: every modern layout, what is refused, and that no value changes."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dagster_essentials.columns import COLUMNS, COURSE_COLUMNS, Layout, LayoutError, read_layout, select_columns
from dagster_essentials_tests.support.project import REAL_DATA, REAL_MONTHS

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


def layout_of(month: str, nulls: Sequence[str] = ()) -> dict[str, str]:
    """The columns of the published file of `month`, in its order; `nulls` are typed null in it."""
    ids = "INTEGER" if month >= "2023-02" else "BIGINT"
    counts = "DOUBLE" if "2018-07" <= month <= "2023-01" else "BIGINT"
    types = {
        "VendorID": ids,
        "tpep_pickup_datetime": "TIMESTAMP",
        "tpep_dropoff_datetime": "TIMESTAMP",
        "passenger_count": counts,
        "trip_distance": "DOUBLE",
        "RatecodeID": counts,
        "store_and_fwd_flag": "VARCHAR",
        "PULocationID": ids,
        "DOLocationID": ids,
        "payment_type": "BIGINT",
        "fare_amount": "DOUBLE",
        "extra": "DOUBLE",
        "mta_tax": "DOUBLE",
        "tip_amount": "DOUBLE",
        "tolls_amount": "DOUBLE",
        "improvement_surcharge": "DOUBLE",
        "total_amount": "DOUBLE",
        "congestion_surcharge": "DOUBLE",
        "Airport_fee" if month >= "2023-02" else "airport_fee": "DOUBLE",
    }
    if month >= "2025-01":
        types["cbd_congestion_fee"] = "DOUBLE"
    if month >= "2026-06":
        types["request_source"] = "VARCHAR"
    return {**types, **dict.fromkeys(nulls, "NULL")}


# The first month of every layout that has been published since 2011, with the fees that are typed null in it.
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
LAYOUTS = {month: layout_of(month, nulls) for month, nulls in NULLS.items()}
MODERN = LAYOUTS["2026-06"]

ARROW = {
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "TIMESTAMP": pa.timestamp("us"),
    "VARCHAR": pa.string(),
    "NULL": pa.null(),
}


def write_parquet(path: Path, columns: Mapping[str, pa.Array]) -> Path:
    pq.write_table(pa.table(dict(columns)), path)
    return path


def load(path: Path, month: str = "2023-01") -> list[dict[str, object]]:
    """The rows of the file as they arrive in a table with the columns of `trips`."""
    expressions = ", ".join(select_columns(read_layout(path)).expressions)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE trips ({', '.join(f'{name} {type_}' for name, type_ in COURSE + ADDED)})")
        connection.execute(
            f"INSERT INTO trips SELECT {expressions} FROM read_parquet($file)", {"month": month, "file": str(path)}
        )
        cursor = connection.execute("SELECT * FROM trips")
        names = [name for name, *_ in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def modern_file(path: Path, rows: int = 1, **replaced: pa.Array) -> Path:
    """A file with the newest layout; `replaced` columns are the given ones."""
    columns = {name: pa.nulls(rows, ARROW[type_]) for name, type_ in MODERN.items()}
    return write_parquet(path, {**columns, **replaced})


def test_the_table_begins_with_the_columns_of_the_course() -> None:
    assert [(column.name, column.type) for column in COLUMNS[:11]] == COURSE
    assert list(COURSE_COLUMNS) == list(COLUMNS[:11])


def test_after_them_stand_the_other_columns_of_the_modern_file() -> None:
    assert [(column.name, column.type) for column in COLUMNS[11:]] == ADDED


def test_only_columns_that_came_or_went_may_be_missing() -> None:
    assert [column.name for column in COLUMNS if not column.required] == OPTIONAL


@pytest.mark.parametrize("month", LAYOUTS)
def test_every_published_layout_becomes_rows_of_trips(month: str, tmp_path: Path) -> None:
    # A value of its own for each column, so that no two can be mixed up.
    values: dict[str, object] = {}
    columns = {}
    for number, (name, type_) in enumerate(LAYOUTS[month].items(), start=1):
        day = datetime.datetime(2019, 1, number, 12, 34, 56, 789)
        by_type = {"NULL": None, "TIMESTAMP": day, "VARCHAR": f"text {number}", "DOUBLE": number + 0.25}
        values[name.lower()] = by_type.get(type_, number)
        columns[name] = pa.array([values[name.lower()]], ARROW[type_])
    path = write_parquet(tmp_path / "month.parquet", columns)

    assert read_layout(path) == Layout(1, LAYOUTS[month])
    selection = select_columns(read_layout(path))
    assert selection.unknown == []
    nulls = {*NULLS[month], *(["cbd_congestion_fee"] if month < "2025" else [])}
    nulls |= {"request_source"} if month < "2026-06" else set()
    assert selection.absent == [name for name, _ in COURSE + ADDED if name in nulls]
    expected = {name: values.get(RENAMED.get(name, name).lower()) for name, _ in COURSE + ADDED}
    assert load(path, month) == [{**expected, "partition_date": month}]


def test_the_month_of_the_file_counts_and_not_that_of_the_pickup(tmp_path: Path) -> None:
    pickup = datetime.datetime(2088, 1, 1)
    path = modern_file(tmp_path / "month.parquet", tpep_pickup_datetime=pa.array([pickup], pa.timestamp("us")))
    (trip,) = load(path, "2019-02")
    assert (trip["partition_date"], trip["pickup_datetime"]) == ("2019-02", pickup)


@pytest.mark.parametrize("name", ["airport_fee", "Airport_fee", "AIRPORT_FEE"])
def test_the_case_of_a_name_does_not_matter(name: str, tmp_path: Path) -> None:
    columns = {name if key == "Airport_fee" else key: pa.nulls(1, ARROW[type_]) for key, type_ in MODERN.items()}
    path = write_parquet(tmp_path / "month.parquet", {**columns, name: pa.array([1.75])})
    selection = select_columns(read_layout(path))
    assert "airport_fee" not in selection.absent
    assert selection.unknown == []
    assert load(path)[0]["airport_fee"] == 1.75


@pytest.mark.parametrize(
    "type_", ["TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UBIGINT", "FLOAT", "DOUBLE", "DECIMAL(9,2)"]
)
@pytest.mark.parametrize("name", [*INTEGERS, "passenger_count", "RatecodeID", "fare_amount", "Airport_fee"])
def test_a_number_column_takes_every_type_of_number(name: str, type_: str) -> None:
    selection = select_columns(Layout(2, {**MODERN, name: type_}))
    table_type, values = ("INTEGER", [1, 99]) if name in INTEGERS else ("DOUBLE", [1.0, 99.0])
    with duckdb.connect() as connection:
        connection.execute(f'CREATE TABLE file ("{name}" {type_})')
        connection.execute("INSERT INTO file VALUES (1), (99)")
        (expression,) = [text for text in selection.expressions if f'"{name}"' in text]
        rows = connection.execute(f"SELECT n, typeof(n) FROM (SELECT {expression} AS n FROM file)").fetchall()
    assert rows == [(value, table_type) for value in values]


@pytest.mark.parametrize("type_", ["TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"])
def test_a_time_column_takes_every_resolution(type_: str) -> None:
    assert select_columns(Layout(1, {**MODERN, "tpep_pickup_datetime": type_})).absent == []


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("VendorID", "VARCHAR"),
        ("PULocationID", "VARCHAR"),
        ("payment_type", "VARCHAR"),
        ("passenger_count", "BOOLEAN"),
        ("trip_distance", "VARCHAR"),
        ("fare_amount", "DOUBLE[]"),
        ("Airport_fee", "VARCHAR"),
        ("tpep_pickup_datetime", "DATE"),
        ("tpep_pickup_datetime", "VARCHAR"),
        ("tpep_pickup_datetime", "BIGINT"),
        ("tpep_dropoff_datetime", "TIMESTAMP WITH TIME ZONE"),
        ("store_and_fwd_flag", "DOUBLE"),
        ("store_and_fwd_flag", "BLOB"),
        ("request_source", "INTEGER"),
        ("cbd_congestion_fee", "STRUCT(dollars INTEGER)"),
    ],
)
def test_a_column_of_the_wrong_type_is_refused_by_name(name: str, type_: str) -> None:
    with pytest.raises(LayoutError) as refused:
        select_columns(Layout(1, {**MODERN, name: type_}))
    into = {source: column for column, source in RENAMED.items()}.get(name, name.lower())
    assert f"column {name} is {type_}, and becomes {into}" in str(refused.value)
    assert f"Expected: {dict(COURSE + ADDED)[into]}" in str(refused.value)


@pytest.mark.parametrize("name", [name for name in MODERN if name.lower() not in OPTIONAL])
def test_a_file_without_a_column_that_every_month_has_is_refused(name: str) -> None:
    types = {key: type_ for key, type_ in MODERN.items() if key != name}
    with pytest.raises(LayoutError) as refused:
        select_columns(Layout(1, types))
    assert f"the file has no column {name}" in str(refused.value)
    assert f"Found: {', '.join(types)}." in str(refused.value)


def test_a_fee_that_is_not_in_the_file_becomes_null(tmp_path: Path) -> None:
    types = {name: type_ for name, type_ in MODERN.items() if name.lower() not in OPTIONAL}
    assert select_columns(Layout(1, types)).absent == OPTIONAL
    path = write_parquet(tmp_path / "month.parquet", {name: pa.nulls(1, ARROW[type_]) for name, type_ in types.items()})
    assert {load(path)[0][name] for name in OPTIONAL} == {None}


def test_files_from_before_2011_are_refused() -> None:
    names = ["vendor_id", "pickup_datetime", "dropoff_datetime", "passenger_count", "pickup_longitude", "rate_code"]
    with pytest.raises(LayoutError, match=r"no column VendorID.*Found: vendor_id, pickup_datetime.*from 2011 on"):
        select_columns(Layout(1, dict.fromkeys(names, "VARCHAR")))


def test_columns_that_the_table_does_not_know_are_named_and_left_out(tmp_path: Path) -> None:
    new = {"surge_fee": pa.array([1.0]), "partition_date": pa.array(["1999-01"]), "__index_level_0__": pa.array([7])}
    path = modern_file(tmp_path / "month.parquet", **new)
    assert select_columns(read_layout(path)).unknown == list(new)
    assert load(path)[0]["partition_date"] == "2023-01"


def test_the_order_of_the_columns_in_the_file_does_not_matter(tmp_path: Path) -> None:
    backwards = dict(reversed(MODERN.items()))
    assert select_columns(Layout(1, backwards)) == select_columns(Layout(1, MODERN))
    columns = {name: pa.nulls(1, ARROW[type_]) for name, type_ in backwards.items()}
    path = write_parquet(
        tmp_path / "month.parquet",
        {**columns, "PULocationID": pa.array([161], pa.int32()), "DOLocationID": pa.array([237], pa.int32())},
    )
    (trip,) = load(path)
    assert (trip["pickup_zone_id"], trip["dropoff_zone_id"]) == (161, 237)


def test_quotes_in_the_names_of_columns_and_files_do_no_harm(tmp_path: Path) -> None:
    odd = {'a "quoted" name': pa.array([1]), 'ends with "': pa.nulls(1), "it's": pa.array(["x"]), "a; b": pa.nulls(1)}
    path = modern_file(tmp_path / 'it\'s a "month".parquet', VendorID=pa.array([2], pa.int32()), **odd)
    assert select_columns(read_layout(path)).unknown == list(odd)
    assert load(path)[0]["vendor_id"] == 2


def test_a_column_without_any_value_has_the_type_null(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "month.parquet",
        {"nothing": pa.nulls(3), "empty": pa.nulls(3, pa.int32()), "text": pa.array(["a", None, "b"])},
    )
    assert read_layout(path) == Layout(3, {"nothing": "NULL", "empty": "INTEGER", "text": "VARCHAR"})


def test_a_null_within_another_column_does_not_empty_the_column_of_its_name(tmp_path: Path) -> None:
    nested = pa.struct([("total_amount", pa.null()), ("more", pa.list_(pa.struct([("fare_amount", pa.null())])))])
    path = modern_file(
        tmp_path / "month.parquet",
        total_amount=pa.array([12.5]),
        extras=pa.array([{"total_amount": None, "more": [{"fare_amount": None}]}], nested),
        # Behind the nested one, so that it is found by counting.
        Airport_fee=pa.array([1.75]),
        fare_amount=pa.array([10.25]),
    )
    layout = read_layout(path)
    assert (layout.types["total_amount"], layout.types["fare_amount"]) == ("DOUBLE", "DOUBLE")
    assert select_columns(layout).unknown == ["extras"]
    (trip,) = load(path)
    assert (trip["total_amount"], trip["fare_amount"], trip["airport_fee"]) == (12.5, 10.25, 1.75)


@pytest.mark.parametrize("second", ["total_amount", "Total_Amount"])
@pytest.mark.parametrize("first", [12.5, None])
def test_of_two_columns_with_the_same_name_the_first_counts_and_a_null_is_told_by_its_place(
    first: float | None, second: str, tmp_path: Path
) -> None:
    columns = {name: pa.nulls(1, ARROW[type_]) for name, type_ in MODERN.items() if name != "total_amount"}
    value, null = pa.array([12.5]), pa.nulls(1)
    both = [value, null] if first is not None else [null, value]
    path = tmp_path / "month.parquet"
    pq.write_table(
        pa.Table.from_arrays([*both, *columns.values()], names=["total_amount", second, *columns]),
        path,
    )
    layout = read_layout(path)
    assert list(layout.types.values())[:2] == (["DOUBLE", "NULL"] if first is not None else ["NULL", "DOUBLE"])
    selection = select_columns(layout)
    assert ("total_amount" in selection.absent) == (first is None)
    assert selection.unknown == [f"{second}_1"]
    assert load(path)[0]["total_amount"] == first


def test_large_strings_and_dictionaries_are_text(tmp_path: Path) -> None:
    texts = pa.array(["Y", "N"])
    path = write_parquet(
        tmp_path / "month.parquet", {"a": texts.cast(pa.large_string()), "b": texts.dictionary_encode()}
    )
    assert read_layout(path) == Layout(2, {"a": "VARCHAR", "b": "VARCHAR"})


def test_rows_are_counted_over_all_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "month.parquet"
    pq.write_table(pa.table({"n": list(range(2500))}), path, row_group_size=1000)
    assert read_layout(path).rows == 2500
    pq.write_table(pa.table({"n": pa.array([], pa.int64())}), path)
    assert read_layout(path) == Layout(0, {"n": "BIGINT"})


@pytest.mark.parametrize("month", REAL_MONTHS)
def test_published_months_are_read_whole(month: str) -> None:
    path = REAL_DATA / "trip-data" / f"yellow_tripdata_{month}.parquet"
    if not path.exists():
        pytest.skip(f"the published month {month} is not in {REAL_DATA}")
    layout = read_layout(path)
    published = pq.read_metadata(path)
    assert layout.rows == published.num_rows
    assert list(layout.types) == published.schema.names
    assert select_columns(layout).unknown == []
    sums = {"vendor_id": "VendorID", "pickup_zone_id": "PULocationID", "total_amount": "total_amount"}
    table = pq.read_table(path, columns=list(sums.values()))
    rows = load(path)
    for column, source in sums.items():
        arrived = [row[column] for row in rows]
        assert arrived == table.column(source).to_pylist()


def footer_bytes(whole: bytes) -> int:
    return int.from_bytes(whole[-8:-4], "little")


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"PAR1",
        lambda _: b"PAR1PAR1",
        lambda _: b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-1],
        lambda whole: whole[:-8] + b"\xff\xff\xff\x7fPAR1",
        lambda whole: whole[: -8 - footer_bytes(whole)] + bytes(footer_bytes(whole)) + whole[-8:],
    ],
    ids=["empty", "magic", "magic twice", "error page", "half", "a byte short", "huge footer", "empty footer"],
)
def test_what_is_not_a_whole_parquet_file_is_an_error(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = modern_file(tmp_path / "month.parquet", rows=100)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(duckdb.Error):
        read_layout(path)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(duckdb.Error, match=r"nothing\.parquet"):
        read_layout(tmp_path / "nothing.parquet")


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("type_", [pa.float64(), pa.float32(), pa.decimal128(5, 1)], ids=str)
def test_an_id_that_is_not_whole_fails_and_is_not_rounded(name: str, type_: pa.DataType, tmp_path: Path) -> None:
    numbers = [Decimal(1), Decimal("1.5")] if pa.types.is_decimal(type_) else [1.0, 1.5]
    path = modern_file(tmp_path / "month.parquet", rows=2, **{name: pa.array(numbers, type_)})
    with pytest.raises(duckdb.Error, match=rf"{name} holds a number that is not whole: 1\.5"):
        load(path)


@pytest.mark.parametrize("name", INTEGERS)
def test_whole_ids_of_type_double_are_loaded(name: str, tmp_path: Path) -> None:
    path = modern_file(tmp_path / "month.parquet", rows=4, **{name: pa.array([1.0, 265.0, None, -0.0])})
    column = {source: column for column, source in RENAMED.items()}.get(name, name)
    loaded = [row[column] for row in load(path)]
    assert loaded == [1, 265, None, 0]
    assert [type(value) for value in loaded] == [int, int, type(None), int]


@pytest.mark.parametrize(
    "numbers", [pa.array([2**31]), pa.array([3e9]), pa.array([float("nan")]), pa.array([float("inf")])], ids=str
)
def test_an_id_that_no_integer_can_hold_fails(numbers: pa.Array, tmp_path: Path) -> None:
    path = modern_file(tmp_path / "month.parquet", PULocationID=numbers)
    with pytest.raises(duckdb.Error):
        load(path)
