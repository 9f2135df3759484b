"""Trips and zones that a test loads into the tables, and what reports say of them."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from dagster_essentials.datasets.zones import read_zones
from dagster_essentials.datasets.zones_table import replace_zones
from dagster_essentials.sample import write_month, write_zones
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import DISK, REAL_DATA, REAL_MONTHS, Project

REAL_FILES = [REAL_DATA / "trip-data" / f"yellow_tripdata_{month}.parquet" for month in REAL_MONTHS]


@dataclass(frozen=True)
class Trip:
    """One row of a file; zone 100 is in Manhattan, in the published zones and in the sample's."""

    at: str
    zone: int | None = 100
    dollars: float = 10.0
    miles: float = 1.0
    passengers: int | None = 1
    vendor: int | None = 2


def daily(first: str, last: str, **trip: Any) -> list[Trip]:
    """A trip at noon of every day from `first` to `last`."""
    days = (date.fromisoformat(last) - date.fromisoformat(first)).days + 1
    return [Trip(f"{date.fromisoformat(first) + timedelta(days=number)}T12:00:00", **trip) for number in range(days)]


def load_trips(project: Project, month: str, trips: Sequence[Trip]) -> Path:
    """Load `trips` as the file of `month` (``YYYY-MM``); return the file."""
    folder = project.folder / "source"
    table = pq.read_table(write_month(folder, month, len(trips)))
    columns = {
        "tpep_pickup_datetime": [datetime.fromisoformat(trip.at) for trip in trips],
        "PULocationID": [trip.zone for trip in trips],
        "total_amount": [trip.dollars for trip in trips],
        "trip_distance": [trip.miles for trip in trips],
        "passenger_count": [trip.passengers for trip in trips],
        "VendorID": [trip.vendor for trip in trips],
    }
    for name, values in columns.items():
        # DuckDB 2.0 declares a column in which it wrote no null as one that has none.
        field = table.schema.field(name).with_nullable(True)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    path = folder / f"{month}.parquet"
    pq.write_table(table, path)
    load_file(project, month, path)
    return path


def edit_trips(project: Project, *statements: str) -> None:
    """Change `trips` by hand, and drop what was aggregated from it, as the guarantees and limits say."""
    with project.connect() as tables:
        for statement in (*statements, "DROP TABLE IF EXISTS trips_by_day", "DROP TABLE IF EXISTS pickups_by_zone"):
            tables.execute(statement)


def load_file(project: Project, month: str, path: Path) -> None:
    """Load the file at `path` as `month` (``YYYY-MM``)."""
    with project.connect() as tables:
        load_month(tables, month, path)


def load_zones(project: Project) -> Path:
    """Load the sample's zones; return their file."""
    path = write_zones(project.folder / "source" / "taxi_zones.csv")
    with project.connect() as tables:
        replace_zones(tables, read_zones(path, DISK))
    return path


def materialized_metadata(result: dg.ExecuteInProcessResult, asset: dg.AssetsDefinition) -> list[dict[str, Any]]:
    """The metadata of each materialization of `asset` in a run, in their order."""
    return [
        {name: value.value for name, value in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
        if event.asset_key == asset.key
    ]


def decode_picture(markdown: str) -> bytes:
    """The PNG that is embedded in the metadata of a materialization."""
    start, encoded = markdown.removesuffix(")").split("base64,")
    assert start == "![picture](data:image/png;"
    return base64.b64decode(encoded, validate=True)
