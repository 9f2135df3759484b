"""Months of green, fhv and fhvhv in their table: every value of real months and of each layout that was published."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dagster_essentials.datasets import DATASETS
from dagster_essentials.datasets.fleets import FLEETS
from dagster_essentials.errors import DownloadError, NotPublishedError, QueryError, SchemaError
from dagster_essentials.ingestion.month_files import MonthFile, download_month, validate_month
from dagster_essentials_tests.support.faults.samples import read_arrow, rewrite, write_arrow
from dagster_essentials_tests.support.fleet_files import (
    ERAS,
    FLEET_TRIPS,
    as_others_write,
    as_published,
    common_columns,
    fleet_sample,
    read_trips,
    rows_as_dicts,
    trips_in_table,
)
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import DISK, NO_REAL_DATA, REAL_DATA
from dagster_essentials_tests.support.source_server import SourceServer, status

pytestmark = [pytest.mark.slow, pytest.mark.duckdb]

REAL_FLEET_MONTHS = [
    *(("green", "2023-01"), ("green", "2023-02")),
    *(("fhv", "2025-01"), ("fhvhv", "2025-01")),
]
YELLOW_MONTHS = [("yellow", "2019-01"), ("yellow", "2025-02")]
real_data = pytest.mark.skipif(not REAL_DATA.is_dir(), reason=NO_REAL_DATA)


def real_file(fleet: str, month: str) -> Path:
    return REAL_DATA / "trip-data" / f"{fleet}_tripdata_{month}.parquet"


def columns_of(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    return {name: type_ for name, type_, *_ in connection.execute(f"DESCRIBE {table}").fetchall()}


@pytest.fixture(scope="module")
def real_trips() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the published months of the fleets, and two of yellow trips."""
    with duckdb.connect() as connection:
        for fleet, month in [*REAL_FLEET_MONTHS, *YELLOW_MONTHS]:
            load_month(connection, month, real_file(fleet, month), dataset=DATASETS[fleet])
        yield connection


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


# Real months


ALL_TRIPS = {
    **{"fleet": "VARCHAR", "partition_date": "VARCHAR"},
    **dict.fromkeys(("pickup_datetime", "dropoff_datetime"), "TIMESTAMP"),
    **dict.fromkeys(("pickup_zone_id", "dropoff_zone_id"), "INTEGER"),
    **{"trip_distance": "DOUBLE", "trip_seconds": "BIGINT", "total_amount": "DOUBLE"},
}
ROUNDED = "SELECT * REPLACE (round(trip_distance, 4) AS trip_distance, round(total_amount, 4) AS total_amount)"


@real_data
@pytest.mark.parametrize(("fleet", "month"), [*REAL_FLEET_MONTHS, *YELLOW_MONTHS])
def test_every_value_of_a_real_month_is_in_the_table_in_all_trips_and_in_the_recorded_sums(
    real_trips: duckdb.DuckDBPyConnection, fleet: str, month: str
) -> None:
    path = real_file(fleet, month)
    validate_month(path, month, DATASETS[fleet])
    if fleet != "yellow":
        assert trips_in_table(real_trips, fleet, month) == read_trips(path, fleet, month)
    expected = [common_columns(trip, fleet, month) for trip in rows_as_dicts(path)]
    found = real_trips.execute(
        f"{ROUNDED} FROM all_trips WHERE fleet = ? AND partition_date = ?", [fleet, month]
    ).fetchall()
    assert Counter(found) == Counter(expected)
    sums = [math.fsum(row[-position] for row in expected if row[-position] is not None) for position in (1, 3)]
    (recorded,) = real_trips.execute(
        "SELECT version, num_trips, total_amount, trip_distance FROM month_versions WHERE fleet = ? AND month = ?",
        [fleet, month],
    ).fetchall()
    assert recorded[:2] == (1, len(expected))
    assert recorded[2:] == ((None, None) if fleet == "fhv" else pytest.approx(sums, abs=0.006))


@real_data
def test_all_trips_has_no_other_trips_and_the_tables_no_other_columns(real_trips: duckdb.DuckDBPyConnection) -> None:
    for name, columns in (("fleet_trips", FLEET_TRIPS), ("all_trips", ALL_TRIPS)):
        assert list(columns_of(real_trips, name).items()) == list(columns.items())
    months = real_trips.execute("SELECT fleet, partition_date, count(*) FROM all_trips GROUP BY ALL").fetchall()
    assert {(fleet, month): count for fleet, month, count in months} == {
        key: pq.read_metadata(real_file(*key)).num_rows for key in [*REAL_FLEET_MONTHS, *YELLOW_MONTHS]
    }


# Every layout


@pytest.mark.parametrize("write", [as_published, as_others_write])
@pytest.mark.parametrize(("fleet", "month"), ERAS)
def test_months_of_every_layout_are_loaded(
    connection: duckdb.DuckDBPyConnection,
    tmp_path: Path,
    fleet: str,
    month: str,
    write: Callable[[bytes, str], bytes],
) -> None:
    path = tmp_path / "month.parquet"
    path.write_bytes(write(fleet_sample(fleet, month), month))
    validate_month(path, month, FLEETS[fleet])

    loaded = load_month(connection, month, path, dataset=FLEETS[fleet])

    found = trips_in_table(connection, fleet, month)
    assert found == read_trips(path, fleet, month)
    assert found.total() == loaded.version.num_trips == 300
    assert loaded.version.columns_unknown == []
    rows = connection.execute(f"{ROUNDED} FROM all_trips").fetchall()
    assert Counter(rows) == Counter(common_columns(trip, fleet, month) for trip in rows_as_dicts(path))


ABSENT = {
    ("green", "2014-02"): {"ehail_fee", "improvement_surcharge", "congestion_surcharge", "cbd_congestion_fee"},
    ("green", "2019-09"): {"ehail_fee", "cbd_congestion_fee"},
    ("green", "2025-01"): set[str](),
    ("fhv", "2019-03"): {"sr_flag"},
    ("fhvhv", "2019-02"): {"airport_fee", "wav_match_flag", "cbd_congestion_fee"},
    ("fhvhv", "2020-04"): {"airport_fee", "cbd_congestion_fee"},
    ("fhvhv", "2025-01"): set[str](),
}


@pytest.mark.parametrize(("fleet", "month"), ABSENT)
def test_columns_without_values_are_listed_and_those_of_other_fleets_are_not(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, fleet: str, month: str
) -> None:
    path = tmp_path / "month.parquet"
    path.write_bytes(as_published(fleet_sample(fleet, month), month))
    loaded = load_month(connection, month, path, dataset=FLEETS[fleet])
    later = {"request_source"} if fleet == "green" and month < "2026-06" else set()
    assert set(loaded.version.columns_absent) == ABSENT[fleet, month] | later


def test_a_dropoff_in_the_year_3019_is_kept(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    path = tmp_path / "month.parquet"
    path.write_bytes(as_published(fleet_sample("fhv", "2019-02"), "2019-02"))
    validate_month(path, "2019-02", FLEETS["fhv"])
    load_month(connection, "2019-02", path, dataset=FLEETS["fhv"])
    assert trips_in_table(connection, "fhv", "2019-02") == read_trips(path, "fhv", "2019-02")
    years = "SELECT count(*) FROM all_trips WHERE year(dropoff_datetime) = 3019 AND trip_seconds > 31e9"
    assert connection.execute(years).fetchall() == [(1,)]


# What is refused


def refusal(content: bytes, fleet: str, month: str, tmp_path: Path) -> str:
    """The message with which the file is refused, by its validation and by a load alike."""
    path = tmp_path / "month.parquet"
    path.write_bytes(content)
    with pytest.raises((SchemaError, DownloadError)) as validated:
        validate_month(path, month, DATASETS[fleet])
    with duckdb.connect() as connection:
        with pytest.raises((SchemaError, QueryError)) as loaded:
            load_month(connection, month, path, dataset=DATASETS[fleet])
        assert connection.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]
    if isinstance(loaded.value, SchemaError):
        assert str(loaded.value) == str(validated.value)
    return str(validated.value)


TITLES = {
    "yellow": "yellow taxi trips",
    "green": "green taxi trips",
    "fhv": "for-hire vehicle trips (fhv)",
    "fhvhv": "high-volume for-hire vehicle trips (fhvhv)",
}


@pytest.mark.parametrize("month", ["2019-03", "2025-01"])
@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("content", DATASETS)
def test_the_file_of_another_fleet_is_refused(content: str, name: str, month: str, tmp_path: Path) -> None:
    file = as_published(fleet_sample(content, month), month)
    if content == name:
        (tmp_path / "month.parquet").write_bytes(file)
        validate_month(tmp_path / "month.parquet", month, DATASETS[name])
        return
    message = refusal(file, name, month, tmp_path)
    assert message.startswith("the file has no column ")
    assert (
        f"Check whether the file is this month of {TITLES[name]}; if the TLC has changed its schema, extend" in message
    )


REQUIRED = {
    "green": ("VendorID", "lpep_pickup_datetime", "total_amount", "trip_type"),
    "fhv": ("dispatching_base_num", "dropOff_datetime", "PUlocationID", "Affiliated_base_number"),
    "fhvhv": ("hvfhs_license_num", "request_datetime", "DOLocationID", "trip_miles", "driver_pay"),
}


@pytest.mark.parametrize(("fleet", "name"), [(fleet, name) for fleet, names in REQUIRED.items() for name in names])
def test_a_month_without_a_column_that_every_month_has_is_refused(fleet: str, name: str, tmp_path: Path) -> None:
    content = write_arrow(read_arrow(fleet_sample(fleet, "2025-01")).drop_columns([name]))
    message = refusal(content, fleet, "2025-01", tmp_path)
    assert message.startswith(f"the file has no column {name}, which becomes ")
    assert TITLES[fleet] in message


@pytest.mark.parametrize(
    ("fleet", "name", "value", "found", "expected"),
    [
        ("green", "trip_type", "'1'", "string", "INTEGER"),
        ("green", "lpep_pickup_datetime", "lpep_pickup_datetime::VARCHAR", "string", "TIMESTAMP"),
        ("fhv", "PUlocationID", "PUlocationID::VARCHAR", "string", "INTEGER"),
        ("fhv", "dropOff_datetime", "dropOff_datetime::TIMESTAMPTZ", "timestamp[us, tz=UTC]", "TIMESTAMP"),
        ("fhv", "Affiliated_base_number", "1", "int32", "VARCHAR"),
        ("fhvhv", "trip_miles", "'far'", "string", "DOUBLE"),
        ("fhvhv", "wav_match_flag", "true", "bool", "VARCHAR"),
    ],
)
def test_a_column_of_another_type_is_refused(
    fleet: str, name: str, value: str, found: str, expected: str, tmp_path: Path
) -> None:
    content = rewrite(fleet_sample(fleet, "2025-01"), f"SELECT * REPLACE ({value} AS {name}) FROM month")
    message = refusal(content, fleet, "2025-01", tmp_path)
    assert message.startswith(f"column {name} is {found}, and becomes ")
    assert f"Expected: {expected}, or what can become one without loss." in message
    assert TITLES[fleet] in message


@pytest.mark.parametrize(
    ("fleet", "name"),
    [("green", "payment_type"), ("green", "trip_type"), ("fhv", "PUlocationID"), ("fhv", "SR_Flag")],
)
def test_a_code_that_is_not_whole_is_refused(fleet: str, name: str, tmp_path: Path) -> None:
    query = f"SELECT * REPLACE (if(row_number() OVER () = 200, 1.5, {name}) AS {name}) FROM month"
    message = refusal(rewrite(fleet_sample(fleet, "2019-07"), query), fleet, "2019-07", tmp_path)
    assert f"{name} holds a number that is not whole: 1.5" in message


def test_a_text_that_is_no_code_is_refused(tmp_path: Path) -> None:
    query = "SELECT * REPLACE (repeat('B', 101) AS dispatching_base_num) FROM month"
    message = refusal(rewrite(fleet_sample("fhv", "2025-01"), query), "fhv", "2025-01", tmp_path)
    assert "dispatching_base_num holds a text of more than 100 bytes" in message


# At the source


def month_file(source_server: SourceServer, tmp_path: Path, fleet: str, month: str) -> tuple[MonthFile, str]:
    name = f"/trip-data/{fleet}_tripdata_{month}.parquet"
    return MonthFile(FLEETS[fleet], month, f"{source_server.url}{name}", tmp_path / "month.parquet", DISK), name


@pytest.mark.parametrize("fleet", FLEETS)
def test_an_error_page_is_not_kept(fleet: str, source_server: SourceServer, tmp_path: Path) -> None:
    file, name = month_file(source_server, tmp_path, fleet, "2025-01")
    source_server.answers[name] = [status(200, b"<html>Please come back later</html>")]
    with pytest.raises(DownloadError, match=r"begins with '<html>Please come back later</html>'\. It was not kept"):
        download_month(file)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fleet", "month", "says"),
    [
        (
            "fhvhv",
            "2019-01",
            "published since 2019-02. Until 2019-01 the trips of Uber, Lyft, Via and Juno are in fhv.",
        ),
        ("fhv", "2014-12", "for-hire vehicle trips (fhv) are published since 2015-01."),
        ("green", "2013-12", "green taxi trips are published since 2014-01."),
    ],
)
def test_a_month_that_cannot_exist_is_not_asked_for(
    fleet: str, month: str, says: str, source_server: SourceServer, tmp_path: Path
) -> None:
    with pytest.raises(NotPublishedError) as raised:
        download_month(month_file(source_server, tmp_path, fleet, month)[0])
    assert says in str(raised.value)
    assert source_server.requests == []


@pytest.mark.parametrize(("fleet", "months"), [("green", 2), ("fhv", 3), ("fhvhv", 2)])
def test_a_month_that_is_not_published_yet_says_when_it_is_due(
    fleet: str, months: int, source_server: SourceServer, tmp_path: Path
) -> None:
    with pytest.raises(NotPublishedError) as raised:
        download_month(month_file(source_server, tmp_path, fleet, "2026-08")[0])
    assert f"The TLC publishes a month of {TITLES[fleet]} about {months} months after its end" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_the_tables_of_pyarrow_are_other_types_than_those_of_duckdb() -> None:
    """The months as published are what the tests above say they are."""
    fees = read_arrow(as_published(fleet_sample("green", "2014-02"), "2014-02")).schema
    assert {fees.field(name).type for name in ("ehail_fee", "improvement_surcharge")} == {pa.null()}
    bases = read_arrow(as_published(fleet_sample("fhv", "2023-02"), "2023-02")).schema
    assert bases.field("dispatching_base_num").type == pa.large_string()
    other: Any = read_arrow(as_others_write(fleet_sample("fhv", "2023-02"), "2023-02")).schema
    assert other.field("DISPATCHING_BASE_NUM").type == pa.dictionary(pa.int32(), pa.string())
