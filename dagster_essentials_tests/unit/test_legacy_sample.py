"""Sample months before 2011: the columns and types of the published ones, and their problems at real rates."""

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.ingestion.month_files import validate_month
from dagster_essentials.sample import write_month
from dagster_essentials_tests.support.legacy_files import LEGACY_DATA, LEGACY_MONTHS, real_rows, types_of
from dagster_essentials_tests.unit.test_sample import count, query

pytestmark = pytest.mark.slow

ROWS = 100_000


@pytest.mark.parametrize("month", LEGACY_MONTHS)
def test_a_month_has_the_columns_and_types_of_the_published_one_and_is_valid(month: str, tmp_path: Path) -> None:
    path = write_month(tmp_path, month, 200)
    assert [(field.name, field.type) for field in pq.read_schema(path)] == list(types_of(month).items())
    assert pq.read_metadata(path).num_rows == 200
    validate_month(path, month, YELLOW)


@pytest.mark.parametrize("month", LEGACY_MONTHS)
def test_the_texts_are_spelled_as_in_the_published_month(month: str, tmp_path: Path) -> None:
    if not LEGACY_DATA.is_dir():
        pytest.skip("the real rows of 2009 and 2010 are not beside this project")
    path = write_month(tmp_path, month, 20_000)
    vendor, payment = ("vendor_name", "Payment_Type") if month < "2010" else ("vendor_id", "payment_type")
    made = set(query(path, f"SELECT DISTINCT {vendor}, {payment} FROM trips"))
    assert {(row[vendor], row[payment]) for row in real_rows(month)} <= made
    flag = "store_and_forward" if month < "2010" else "store_and_fwd_flag"
    flags = {
        None if value is None else str(value).removesuffix(".0")
        for (value,) in query(path, f"SELECT {flag} FROM trips")
    }
    # An empty text of the CSV may be null or an empty text in the parquet file.
    assert {row[flag] for row in real_rows(month)} - {None} <= flags


@pytest.fixture(scope="module")
def months(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("months")
    return {2009: write_month(folder, "2009-12", ROWS), 2010: write_month(folder, "2010-05", ROWS)}


NAMES = {2009: ("Start_Lon", "Start_Lat", "End_Lon", "End_Lat", "vendor_name", "Trip_Pickup_DateTime")}
NAMES[2010] = (
    "pickup_longitude",
    "pickup_latitude",
    "dropoff_longitude",
    "dropoff_latitude",
    "vendor_id",
    "pickup_datetime",
)


@pytest.mark.parametrize(
    ("year", "without_pickup", "without_dropoff", "of_dds"), [(2009, 2.30, 2.17, 0.38), (2010, 1.85, 1.72, 0.0)]
)
def test_positions_are_missing_as_often_as_in_real_months(
    year: int, without_pickup: float, without_dropoff: float, of_dds: float, months: dict[int, Path]
) -> None:
    longitude, latitude, to_longitude, to_latitude, vendor, _ = NAMES[year]

    def percent(condition: str) -> float:
        return count(months[year], condition) / ROWS * 100

    assert percent(f"{longitude} = 0 AND {latitude} = 0") == pytest.approx(without_pickup, rel=0.1)
    assert percent(f"{to_longitude} = 0 AND {to_latitude} = 0") == pytest.approx(without_dropoff, rel=0.1)
    default = f"{longitude} = -73.137393 AND {latitude} = 41.366138"
    assert percent(default) == pytest.approx(of_dds, rel=0.2)
    assert percent(f"({default}) AND {vendor} <> 'DDS'") == 0
    # The others are in the area of the city, and within two degrees of it.
    on_grid = f"{longitude} BETWEEN -74.2 AND -73.69 AND {latitude} BETWEEN 40.5 AND 40.98"
    assert percent(f"{longitude} <> 0 AND NOT ({default}) AND NOT ({on_grid})") == pytest.approx(0.9, rel=0.2)
    assert percent(f"{longitude} <> 0 AND ({longitude} < -76 OR {longitude} > -72)") == 0


def test_times_are_texts_and_those_of_vts_have_no_seconds(months: dict[int, Path]) -> None:
    for year, path in months.items():
        *_, vendor, pickup = NAMES[year]
        assert count(path, f"NOT regexp_full_match({pickup}, '\\d{{4}}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d')") == 0
        assert count(path, f"{vendor} = 'VTS' AND NOT suffix({pickup}, ':00')") == 0
        assert count(path, f"{vendor} = 'CMT' AND NOT suffix({pickup}, ':00')") > 20_000


def test_the_tax_begins_in_november_2009_and_the_index_is_in_two_months(tmp_path: Path) -> None:
    taxes = {
        month: query(write_month(tmp_path, month, 100), "SELECT max(mta_tax) FROM trips") for month in LEGACY_MONTHS
    }
    assert [month for month, tax in taxes.items() if tax == [(None,)]] == LEGACY_MONTHS[:10]
    assert {str(tax) for tax in list(taxes.values())[10:]} == {"[(0.5,)]"}


def test_the_same_month_has_the_same_trips_as_in_earlier_releases(tmp_path: Path) -> None:
    for month, digest in (("2009-01", "8d7d3ad1beced99e"), ("2010-02", "1cbf455cd1d1037e")):
        trips = query(write_month(tmp_path, month, 1000), "FROM trips")
        assert hashlib.sha256(repr(trips).encode()).hexdigest()[:16] == digest
