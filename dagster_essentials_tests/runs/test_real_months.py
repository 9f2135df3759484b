"""Published months, loaded by runs: every value and every figure equals that of the files."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import dagster as dg
import duckdb
import pyarrow.parquet as pq
import pytest

from dagster_essentials import settings
from dagster_essentials.assets import constants
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials_tests.support.project import NO_REAL_DATA, REAL_DATA, REAL_MONTHS, Project, materialize
from dagster_essentials_tests.support.run_results import TRIPS, ZONES

pytestmark = [pytest.mark.slow, pytest.mark.duckdb, pytest.mark.skipif(not REAL_DATA.is_dir(), reason=NO_REAL_DATA)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, dg.DagsterInstance]]:
    """A project with all real months, three of them loaded as a range, and the zones; and its history."""
    folder, zones_url = tmp_path_factory.mktemp("real"), (REAL_DATA / "taxi_zones.csv").as_uri()
    project = Project(folder, str(REAL_DATA / "trip-data"), zones_url)
    changed = replace(
        settings.SETTINGS,
        trips_url=project.trips_url,
        zones_url=zones_url,
        files=DataFolder(folder),
        database=project.database,
    )
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setattr(settings, "SETTINGS", changed)
        patch.setattr(constants, "TAXI_TRIPS_TEMPLATE_FILE_PATH", f"{folder}/raw/taxi_trips_{{}}.parquet")
        patch.setattr(constants, "TAXI_ZONES_FILE_PATH", f"{folder}/raw/taxi_zones.csv")
        assert materialize(project, instance, ZONES).success
        for first, last in (("2019-01", "2019-03"), ("2020-04", None), ("2025-02", None)):
            assert materialize(project, instance, TRIPS, first, last).success
        yield project, instance


@pytest.fixture
def loaded_project(loaded: tuple[Project, dg.DagsterInstance]) -> Project:
    return loaded[0]


def _file(month: str) -> str:
    return str(REAL_DATA / "trip-data" / f"yellow_tripdata_{month}.parquet")


@pytest.mark.parametrize("month", REAL_MONTHS)
def test_every_value_of_a_real_month_is_in_the_table(loaded_project: Project, month: str) -> None:
    # Read by pyarrow, as DuckDB would repeat its own mistakes. The rows of both have no order.
    frame = pq.read_table(_file(month)).to_pandas()
    fee = "Airport_fee" if "Airport_fee" in frame else "airport_fee"
    expected = {
        "vendor_id": "VendorID",
        "pickup_zone_id": "PULocationID",
        "dropoff_zone_id": "DOLocationID",
        "rate_code_id": "RatecodeID",
        "payment_type": "payment_type",
        "pickup_datetime": "tpep_pickup_datetime",
        "dropoff_datetime": "tpep_dropoff_datetime",
        "trip_distance": "trip_distance",
        "passenger_count": "passenger_count",
        "total_amount": "total_amount",
        "fare_amount": "fare_amount",
        "extra": "extra",
        "mta_tax": "mta_tax",
        "tip_amount": "tip_amount",
        "tolls_amount": "tolls_amount",
        "improvement_surcharge": "improvement_surcharge",
        "congestion_surcharge": "congestion_surcharge",
        "airport_fee": fee,
        "store_and_fwd_flag": "store_and_fwd_flag",
    }
    if "cbd_congestion_fee" in frame:
        expected["cbd_congestion_fee"] = "cbd_congestion_fee"
    rows = loaded_project.query(f"SELECT {', '.join(expected)} FROM trips WHERE partition_date = ?", month)
    assert len(rows) == len(frame)

    in_file = frame[list(expected.values())].itertuples(index=False, name=None)
    for loaded, published in zip(_comparable(rows), _comparable(in_file), strict=True):
        assert loaded == published


def _comparable(rows: Iterable[tuple[object, ...]]) -> list[tuple[str, ...]]:
    def text(value: object) -> str:
        # What has no value is NaN or NaT in a frame, and neither equals itself.
        if value is None or value != value:
            return "None"
        if isinstance(value, (int, float)):
            return f"{float(value):.9g}"
        return str(value)

    return sorted(tuple(map(text, row)) for row in rows)


@pytest.mark.parametrize("month", REAL_MONTHS)
def test_counts_and_sums_of_a_real_month_equal_those_of_the_file(loaded_project: Project, month: str) -> None:
    sums = "count(*), sum(total_amount), sum(trip_distance), sum(fare_amount), sum(tip_amount)"
    (in_file,) = duckdb.connect().execute(f"SELECT {sums} FROM read_parquet(?)", [_file(month)]).fetchall()
    (in_table,) = loaded_project.query(f"SELECT {sums} FROM trips WHERE partition_date = ?", month)
    assert in_table[0] == in_file[0]
    assert all(
        math.isclose(loaded, published, rel_tol=1e-12)
        for loaded, published in zip(in_table[1:], in_file[1:], strict=True)
    )


def test_every_trip_joins_one_zone_on_both_ends(loaded_project: Project) -> None:
    (trips,) = loaded_project.query("SELECT count(*) FROM trips")
    (joined,) = loaded_project.query(
        "SELECT count(*) FROM trips JOIN zones AS pickup ON pickup.zone_id = pickup_zone_id "
        "JOIN zones AS dropoff ON dropoff.zone_id = dropoff_zone_id"
    )
    # So no trip without a zone makes up for one that is counted twice.
    assert loaded_project.query("SELECT count(*), count(DISTINCT zone_id) FROM zones") == [(265, 265)]
    assert joined == trips
    # Trips that the LocationIDs of the zones CSV would lose, and those from nowhere in the city.
    repaired, nowhere = loaded_project.query(
        "SELECT count(*) FILTER (57 IN (pickup_zone_id, dropoff_zone_id)), "
        "count(*) FILTER (pickup_zone_id >= 264 OR dropoff_zone_id >= 264) FROM trips"
    )[0]
    assert repaired > 0
    assert nowhere > 0


def test_the_zones_of_green_trips_are_in_the_table(loaded_project: Project) -> None:
    (zones,) = zip(*loaded_project.query("SELECT zone_id FROM zones"), strict=True)
    months = sorted((REAL_DATA / "trip-data").glob("green_tripdata_*.parquet"))
    used = {
        zone
        for month in months
        for column in pq.read_table(month, columns=["PULocationID", "DOLocationID"]).columns
        for zone in column.to_pylist()
    }
    assert {57, 264, 265} <= used <= set(zones)


def test_row_count_and_data_version_of_each_month_are_recorded(loaded: tuple[Project, dg.DagsterInstance]) -> None:
    for asset in TRIPS:
        records = loaded[1].fetch_materializations(asset.key, limit=100).records
        found = {}
        versions = set()
        for record in records:
            materialization = record.asset_materialization
            assert materialization is not None
            assert materialization.tags is not None
            found[str(record.partition_key)[:7]] = materialization.metadata["dagster/partition_row_count"].value
            versions.add(materialization.tags["dagster/data_version"])
        assert found == {month: pq.read_metadata(_file(month)).num_rows for month in REAL_MONTHS}
        assert len(versions) == len(REAL_MONTHS)
