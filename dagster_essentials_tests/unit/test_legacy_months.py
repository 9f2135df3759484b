"""The months of 2009 and 2010: every real row as it should be in `trips`, and what happens to values that are none."""

import csv
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import shapely

from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.datasets.zone_lookup import ZoneLookup
from dagster_essentials.datasets.zones import fingerprint, read_zones
from dagster_essentials.errors import DownloadError, LoadError, PipelineError, QueryError, SchemaError, ZonesError
from dagster_essentials.ingestion.month_files import validate_month
from dagster_essentials.sample import write_month, write_zones
from dagster_essentials.warehouse.load import LoadedMonth
from dagster_essentials_tests.support.faults.samples import sample
from dagster_essentials_tests.support.legacy_files import (
    LEGACY_DATA,
    LEGACY_MONTHS,
    TYPES_2009,
    TYPES_2010,
    legacy_file,
    real_file,
    real_rows,
)
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import DISK, REAL_DATA

pytestmark = [pytest.mark.slow, pytest.mark.duckdb]

NULL = None


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        yield connection


@pytest.fixture(scope="module")
def zones_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four squares that meet at (-74.17, 40.56): 1 and 2, and east of them 17 and 18."""
    path = tmp_path_factory.mktemp("zones") / "taxi_zones.csv"
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["the_geom", "zone", "LocationID", "borough"])
        for zone_id, west, south in ((1, -74.2, 40.53), (2, -74.2, 40.56), (17, -74.17, 40.53), (18, -74.17, 40.56)):
            outline = shapely.MultiPolygon([shapely.box(west, south, round(west + 0.03, 2), round(south + 0.03, 2))])
            rows.writerow([outline.wkt, f"Zone {zone_id}", zone_id, "Queens"])
    return path


def trips(connection: duckdb.DuckDBPyConnection, month: str) -> list[dict[str, Any]]:
    cursor = connection.execute("SELECT * FROM trips WHERE partition_date = ?", [month])
    names = [name for name, *_ in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


# Real rows


@pytest.fixture(scope="module")
def outlines() -> dict[int, shapely.Geometry]:
    if not LEGACY_DATA.is_dir():
        pytest.skip("the real rows of 2009 and 2010 are not beside this project")
    csv.field_size_limit(1 << 24)
    with open(REAL_DATA / "taxi_zones.csv", newline="", encoding="utf-8") as file:
        return {int(row["OBJECTID"]): shapely.from_wkt(row["the_geom"]) for row in csv.DictReader(file)}


def expected_zone(longitude: float, latitude: float, outlines: Mapping[int, shapely.Geometry]) -> int:
    if longitude == 0 or latitude == 0 or (round(longitude, 6), round(latitude, 6)) == (-73.137393, 41.366138):
        return 264
    point = shapely.Point(longitude, latitude)
    return min((zone for zone, outline in outlines.items() if outline.intersects(point)), default=265)


def expected_trip(
    row: Mapping[str, str | None], month: str, outlines: Mapping[int, shapely.Geometry]
) -> dict[str, Any]:
    """The expected row for a row of a published CSV, one spelling after another."""
    is_2009 = month < "2010-01"
    names = dict(zip(TYPES_2010, TYPES_2009 if is_2009 else TYPES_2010, strict=True))
    text = {name: row[names[name]] for name in TYPES_2010}

    def number(name: str) -> float | None:
        return None if text[name] is None else float(str(text[name]))

    start, end = (
        (float(str(text[f"{place}_longitude"])), float(str(text[f"{place}_latitude"])))
        for place in ("pickup", "dropoff")
    )
    payments = {
        **{"CASH": 2, "Cash": 2, "CAS": 2, "Cas": 2, "CSH": 2, "CREDIT": 1, "Credit": 1, "CRE": 1, "Cre": 1, "CRD": 1},
        **{"No Charge": 3, "No ": 3, "NOC": 3, "Dispute": 4, "Dis": 4, "DIS": 4, "NA ": 5},
    }
    return {
        "vendor_id": {"CMT": 1, "VTS": 2, "DDS": 3}[str(text["vendor_id"])],
        "pickup_zone_id": expected_zone(*start, outlines),
        "dropoff_zone_id": expected_zone(*end, outlines),
        "rate_code_id": number("rate_code"),
        "payment_type": payments[str(text["payment_type"])],
        "dropoff_datetime": datetime.fromisoformat(str(text["dropoff_datetime"])),
        "pickup_datetime": datetime.fromisoformat(str(text["pickup_datetime"])),
        "trip_distance": number("trip_distance"),
        "passenger_count": number("passenger_count"),
        "total_amount": number("total_amount"),
        "partition_date": month,
        "fare_amount": number("fare_amount"),
        "extra": number("surcharge"),
        "mta_tax": number("mta_tax"),
        "tip_amount": number("tip_amount"),
        "tolls_amount": number("tolls_amount"),
        **dict.fromkeys(("improvement_surcharge", "congestion_surcharge", "airport_fee", "cbd_congestion_fee")),
        "store_and_fwd_flag": {"0": "N", "1": "Y", "N": "N", "Y": "Y", None: None}[text["store_and_fwd_flag"]],
        "request_source": None,
        "pickup_longitude": start[0],
        "pickup_latitude": start[1],
        "dropoff_longitude": end[0],
        "dropoff_latitude": end[1],
    }


@pytest.mark.parametrize("month", LEGACY_MONTHS)
def test_every_real_row_is_in_the_table_as_it_should_be(
    month: str, outlines: dict[int, shapely.Geometry], tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    path = real_file(tmp_path / "month.parquet", month)
    validate_month(path, month, YELLOW)
    loaded = load_month(connection, month, path, REAL_DATA / "taxi_zones.csv")
    expected = [expected_trip(row, month, outlines) for row in real_rows(month)]
    assert len(expected) >= 3
    assert trips(connection, month) == expected
    assert (loaded.version.columns_unknown, loaded.version.texts_unmapped) == ([], {})
    assert loaded.version.zones == fingerprint(read_zones(REAL_DATA / "taxi_zones.csv", DISK))
    without_values = {
        "improvement_surcharge",
        "congestion_surcharge",
        "airport_fee",
        "cbd_congestion_fee",
        "request_source",
    }
    assert set(loaded.version.columns_absent) == without_values


def test_the_coordinates_of_a_modern_month_are_null(tmp_path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    loaded = load_month(connection, "2023-01", write_month(tmp_path, "2023-01", 100), tmp_path / "missing.csv")
    coordinates = "coalesce(pickup_longitude, pickup_latitude, dropoff_longitude, dropoff_latitude)"
    assert connection.execute(f"SELECT count(*), count({coordinates}) FROM trips").fetchall() == [(100, 0)]
    assert (loaded.version.zones, loaded.version.texts_unmapped) == (None, {})
    assert not any(name.endswith("itude") for name in loaded.version.columns_absent)


# Values


def load(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    zones_csv: Path,
    month: str,
    *rows: Mapping[str, Any],
    **types: Any,
) -> tuple[list[dict[str, Any]], LoadedMonth]:
    """Validate and load a file of `month` with these trips; the rows of the table, and what is known of the load."""
    legacy_file(path, month, *rows, **types)
    validate_month(path, month, YELLOW)
    loaded = load_month(connection, month, path, zones_csv)
    return trips(connection, month), loaded


@pytest.mark.parametrize(
    ("month", "name", "column", "values", "unmapped"),
    [
        ("2010-05", "vendor_id", "vendor_id", {"CMT": 1, "vts": 2, " DDS ": 3, "TSL": NULL, "": NULL, NULL: NULL}, 2),
        (
            *("2010-05", "payment_type", "payment_type"),
            {" cash": 2, "UNK": 5, "na": 5, "no": 3, "NOC  ": 3, "dis": 4, "Voucher": 5, "": 5, "1": 5, NULL: NULL},
            3,
        ),
        (
            "2009-05",
            "Payment_Type",
            "payment_type",
            {"CREDIT": 1, "No Charge": 3, "Dispute": 4, "Free": 5, NULL: NULL},
            1,
        ),
        (
            *("2010-05", "rate_code", "rate_code_id"),
            {"1": 1.0, "2.0": 2.0, " 6": 6.0, "99": 99.0, "one": NULL, "": NULL, "nan": NULL, "inf": NULL, NULL: NULL},
            4,
        ),
        ("2010-02", "rate_code", "rate_code_id", {1: 1.0, 210: 210.0, NULL: NULL}, 0),
        ("2009-05", "Rate_Code", "rate_code_id", {NULL: NULL, 1.0: 1.0}, 0),
        ("2009-05", "store_and_forward", "store_and_fwd_flag", {0.0: "N", 1.0: "Y", NULL: NULL, 2.0: NULL}, 1),
        (
            *("2010-02", "store_and_fwd_flag", "store_and_fwd_flag"),
            {
                "0": "N",
                "1": "Y",
                "*": NULL,
                "": NULL,
                "N": "N",
                "y": "Y",
                "0.0": "N",
                "1.0": "Y",
                "X": NULL,
                NULL: NULL,
            },
            1,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_texts_become_codes_and_those_that_stand_for_none_are_kept_and_counted(
    month: str,
    name: str,
    column: str,
    values: Mapping[Any, Any],
    unmapped: int,
    tmp_path: Path,
    zones_csv: Path,
    connection: duckdb.DuckDBPyConnection,
) -> None:
    rows, loaded = load(connection, tmp_path / "month.parquet", zones_csv, month, *({name: value} for value in values))
    assert [row[column] for row in rows] == list(values.values())
    assert loaded.version.texts_unmapped == ({name: unmapped} if unmapped else {})


def test_a_text_column_of_pandas_categories_is_mapped(
    tmp_path: Path, zones_csv: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    categories = pa.dictionary(pa.int32(), pa.string())
    rows, _ = load(
        *(connection, tmp_path / "month.parquet", zones_csv, "2010-05", {}, {"vendor_id": "VTS"}),
        **dict.fromkeys(("vendor_id", "pickup_datetime", "payment_type"), categories),
    )
    assert [row["vendor_id"] for row in rows] == [1, 2]
    assert rows[0]["pickup_datetime"] == datetime(2010, 5, 28, 15, 58, 9)


def test_the_index_of_pandas_is_known_and_not_loaded(
    tmp_path: Path, zones_csv: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    new = {"types": pa.string()}
    _, loaded = load(connection, tmp_path / "month.parquet", zones_csv, "2010-03", {"__index_level_0__": 7}, **new)
    assert loaded.version.columns_unknown == ["types"]


WITHIN, ON_A_BORDER, AT_A_VERTEX = (-74.19, 40.54), (-74.17, 40.545), (-74.17, 40.56)


@pytest.mark.parametrize(
    ("place", "zone_id"),
    [
        (WITHIN, 1),
        (ON_A_BORDER, 1),  # of 1 and 17
        (AT_A_VERTEX, 1),  # of 1, 2, 17 and 18
        ((NULL, 40.54), 264),
        ((-74.19, NULL), 264),
        ((NULL, NULL), 264),
        ((0.0, 0.0), 264),
        ((-74.19, 0.0), 264),
        ((float("nan"), 40.54), 264),
        ((-74.19, float("-inf")), 264),
        ((-73.137393000000003, 41.366137999999999), 264),
        ((40.54, -74.19), 265),
        ((-73.0, 40.0), 265),
    ],
    ids=str,
)
def test_a_position_has_its_zone_and_is_kept(
    place: tuple[float | None, float | None],
    zone_id: int,
    tmp_path: Path,
    zones_csv: Path,
    connection: duckdb.DuckDBPyConnection,
) -> None:
    longitude, latitude = place
    rows, _ = load(
        *(connection, tmp_path / "month.parquet", zones_csv, "2009-05"),
        {"Start_Lon": longitude, "Start_Lat": latitude},
        {"End_Lon": longitude, "End_Lat": latitude},
    )
    assert [(row["pickup_zone_id"], row["dropoff_zone_id"]) for row in rows] == [(zone_id, 17), (1, zone_id)]
    kept = (rows[0]["pickup_longitude"], rows[0]["pickup_latitude"])
    assert str(kept) == str(place)
    assert str((rows[1]["dropoff_longitude"], rows[1]["dropoff_latitude"])) == str(place)


def test_coordinates_of_type_null_are_no_position(
    tmp_path: Path, zones_csv: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    (row,), loaded = load(
        *(connection, tmp_path / "month.parquet", zones_csv, "2009-05"),
        {"Start_Lon": NULL, "Start_Lat": NULL},
        Start_Lon=pa.null(),
        Start_Lat=pa.null(),
    )
    assert (row["pickup_zone_id"], row["dropoff_zone_id"]) == (264, 17)
    assert {"pickup_longitude", "pickup_latitude"} < set(loaded.version.columns_absent)


TIMES = ["pickup_datetime", "dropoff_datetime"]
NOT_TIMES = (
    *("", "unknown", "infinity", "epoch", "x" * 10**6, "28/05/2010 15:58:09", "2010-05-28", "2010-05-28 15:58"),
    *("2010-05-28 15:58+05", "2010-05-28 15:58:09 UTC", "2010-05-28 15:58:09+05:00", "2010-05-28 15:58:09.5"),
    *(
        "2010-05-28T15:58:09",
        "2010-05-28 15:58:09 ",
        "2010-02-30 15:58:09",
        "2010-05-28 25:00:00",
        "2010-13-01 15:58:09",
    ),
)


@pytest.mark.parametrize(
    ("name", "text"),
    # Both columns are read by the same expression: the texts alternate between them.
    [(TIMES[number % 2], text) for number, text in enumerate(NOT_TIMES)],
    ids=lambda text: text[:30] or "empty",
)
def test_a_time_that_is_none_fails_the_month_before_it_is_kept_and_before_it_is_loaded(
    name: str, text: str, tmp_path: Path, zones_csv: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    path = tmp_path / "month.parquet"
    load(connection, path, zones_csv, "2010-05", {}, {})
    legacy_file(path, "2010-05", {}, {name: text})
    shown = re.escape(text[:40])
    message = f"{name} holds a text that is not a time: {shown}\\.|field value out of range: .{shown}"
    with pytest.raises(DownloadError, match=f"the rows of the file cannot be read.*({message})"):
        validate_month(path, "2010-05", YELLOW)
    with pytest.raises(QueryError, match=message) as failed:
        load_month(connection, "2010-05", path, zones_csv)
    assert len(str(failed.value)) < 600
    assert len(trips(connection, "2010-05")) == 2


def test_a_missing_time_is_null(tmp_path: Path, zones_csv: Path, connection: duckdb.DuckDBPyConnection) -> None:
    without = dict.fromkeys(TIMES)
    (row, _), _ = load(connection, tmp_path / "month.parquet", zones_csv, "2010-05", without, {})
    assert (row["pickup_datetime"], row["dropoff_datetime"]) == (None, None)


@pytest.mark.parametrize("name", ["vendor_id", "rate_code", "payment_type", "store_and_fwd_flag"])
def test_a_long_text_fails_the_month(
    name: str, tmp_path: Path, zones_csv: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    path = legacy_file(tmp_path / "month.parquet", "2010-05", {name: "1" * 101})
    for attempt in (
        lambda: validate_month(path, "2010-05", YELLOW),
        lambda: load_month(connection, "2010-05", path, zones_csv),
    ):
        with pytest.raises(PipelineError, match=f"{name} holds a text of more than 100 bytes"):
            attempt()


# Files


@pytest.mark.parametrize(
    ("made_for", "named", "message"),
    [
        ("2009-05", "2023-01", r"has the columns of 2009 \(Start_Lon\), and 2023-01 needs those of 2011 and later"),
        (
            "2010-05",
            "2011-01",
            r"has the columns of 2010 \(pickup_longitude\), and 2011-01 needs those of 2011 and later",
        ),
        ("2010-05", "2009-12", r"has the columns of 2010 \(pickup_longitude\), and 2009-12 needs those of 2009"),
        ("2009-05", "2010-01", r"has the columns of 2009 \(Start_Lon\), and 2010-01 needs those of 2010"),
        ("2023-01", "2010-12", r"has the columns of 2011 and later \(PULocationID\), and 2010-12 needs those of 2010"),
        ("2023-01", "2009-01", r"has the columns of 2011 and later \(PULocationID\), and 2009-01 needs those of 2009"),
    ],
)
def test_a_month_under_the_name_of_another_layout_is_refused(
    made_for: str, named: str, message: str, tmp_path: Path, zones_csv: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    path = tmp_path / "month.parquet"
    path.write_bytes(sample(made_for))
    with pytest.raises(SchemaError, match=rf"{message} .*Check whether the file is this month"):
        validate_month(path, named, YELLOW)
    with pytest.raises(SchemaError, match=message):
        load_month(connection, named, path, zones_csv)


@pytest.mark.parametrize(("month", "types"), [("2009-05", TYPES_2009), ("2010-05", TYPES_2010)])
def test_every_column_of_a_legacy_month_is_required_in_any_case_of_its_name(
    month: str, types: Mapping[str, pa.DataType], tmp_path: Path, zones_csv: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    path = legacy_file(tmp_path / "month.parquet", month, {})
    for name in types:
        others = {other: type_ for other, type_ in types.items() if other != name}
        for renamed, is_refused in ((f"new_{name}", True), (name.swapcase(), False)):
            columns = {**{other: other for other in others}, renamed: name}
            listed = ", ".join(f'"{old}" AS "{new}"' for new, old in columns.items())
            with duckdb.connect() as other_connection:
                other_connection.execute(f"COPY (SELECT {listed} FROM '{path}') TO '{tmp_path}/other.parquet'")
            if not is_refused:
                validate_month(tmp_path / "other.parquet", month, YELLOW)
                continue
            with pytest.raises(SchemaError, match=f"the file has no column {name}, which becomes"):
                validate_month(tmp_path / "other.parquet", month, YELLOW)


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("pickup_longitude", pa.string()),
        ("fare_amount", pa.string()),
        ("payment_type", pa.bool_()),
        ("pickup_datetime", pa.int64()),
    ],
    ids=str,
)
def test_a_column_of_the_wrong_type_is_refused(name: str, type_: pa.DataType, tmp_path: Path) -> None:
    path = legacy_file(tmp_path / "month.parquet", "2010-05", {name: None}, **{name: type_})
    with pytest.raises(SchemaError, match=f"column {name} is {type_}, and becomes {name}"):
        validate_month(path, "2010-05", YELLOW)


@pytest.mark.parametrize("month", ["2009-06", "2010-06"])
def test_without_usable_zones_nothing_changes(
    month: str, tmp_path: Path, zones_csv: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    path = tmp_path / "month.parquet"
    load(connection, path, zones_csv, month, {}, {})
    legacy_file(path, month, {})
    missing, damaged = tmp_path / "missing.csv", tmp_path / "damaged.csv"
    damaged.write_text('LocationID,zone,borough,the_geom\n1,Zone,Queens,"MULTIPOLYGON (((1 2, 3)))"\n')
    for csv_path, message in (
        (missing, r"missing.csv does not exist. Materialize taxi_zones_file first"),
        (damaged, r"zone 1 \(Zone\) has an outline that is not WKT"),
        (
            None,
            "need more than the file of the month: give the MonthFile of taxi_trips a `reference`",
        ),
    ):
        with pytest.raises(ZonesError if csv_path else LoadError, match=message):
            load_month(connection, month, path, csv_path)
        assert len(trips(connection, month)) == 2
    assert connection.execute(
        "SELECT count(*) FROM duckdb_functions() WHERE function_name = 'zones_of_trip'"
    ).fetchall() == [(0,)]


def test_other_zones_give_other_zones_and_another_fingerprint(
    tmp_path: Path, zones_csv: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    (row,), loaded = load(connection, tmp_path / "month.parquet", zones_csv, "2010-05", {})
    swapped = tmp_path / "swapped.csv"
    swapped.write_text(zones_csv.read_text().replace("Zone 1,1,", "Zone 1,999,"))
    (other,), reloaded = load(connection, tmp_path / "month.parquet", swapped, "2010-05", {})
    assert (row["pickup_zone_id"], other["pickup_zone_id"]) == (1, 999)
    assert loaded.version.zones != reloaded.version.zones


def test_both_zones_of_2048_trips_take_one_call(
    tmp_path: Path, zones_csv: Path, connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    found = ZoneLookup.trip_zones

    def counted(self: ZoneLookup, a: Any, b: Any, c: Any, d: Any) -> Any:
        calls.append(len(a))
        return found(self, a, b, c, d)

    monkeypatch.setattr(ZoneLookup, "trip_zones", counted)
    load_month(connection, "2010-05", write_month(tmp_path, "2010-05", 20_000), zones_csv)
    assert (sum(calls), max(calls)) == (20_000, 2_048)


def test_a_sample_month_has_the_zones_that_its_squares_give_it(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    zones = write_zones(tmp_path / "taxi_zones.csv")
    load_month(connection, "2009-02", write_month(tmp_path, "2009-02", 20_000), zones)
    cell = "floor(({0}_longitude + 74.2) / 0.03) * 16 + floor(({0}_latitude - 40.5) / 0.03)"
    for end in ("pickup", "dropoff"):
        (counts,) = connection.execute(
            f"SELECT count(*), count(*) FILTER ({end}_zone_id = {cell.format(end)}), "
            f"count(*) FILTER ({end}_zone_id = 264 AND ({end}_longitude = 0 OR {end}_longitude = -73.137393)), "
            f"count(*) FILTER ({end}_zone_id = 265 AND {end}_latitude BETWEEN 40 AND 40.5) FROM trips"
        ).fetchall()
        # A few, with six decimals, are on the border of two squares.
        assert 19_990 < sum(counts[1:]) <= counts[0] == 20_000
        assert min(counts) > 100
