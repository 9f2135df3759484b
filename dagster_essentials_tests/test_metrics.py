"""Weeks and Manhattan: each figure equals one that is counted in the files themselves, without DuckDB; and what goes wrong
leaves what was there as it was."""

import base64
import csv
import errno
import io
import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock, Timeout
from PIL import Image

from dagster_essentials import pictures
from dagster_essentials.assets import constants, metrics
from dagster_essentials.assets.metrics import manhattan_map, manhattan_stats, trips_by_week
from dagster_essentials.assets.trips import load_month, taxi_trips, taxi_trips_file, taxi_zones, taxi_zones_file
from dagster_essentials.files import replacing
from dagster_essentials.resources import TurnTakingDuckDBResource
from dagster_essentials.sample import write_month, write_zones
from dagster_essentials_tests.support.project import (
    REAL_DATA,
    REAL_MONTHS,
    ROOT,
    Project,
    failure_text,
    materialize,
)
from dagster_essentials_tests.support.source_server import SourceServer

HEADER = "period,num_trips,total_amount,trip_distance,passenger_count\n"
REAL_FILES = [REAL_DATA / "trip-data" / f"yellow_tripdata_{month}.parquet" for month in REAL_MONTHS]


def sundays(first: str, last: str) -> list[str]:
    """The Sundays from `first` to `last`, both included."""
    days = (date.fromisoformat(last) - date.fromisoformat(first)).days
    return [(date.fromisoformat(first) + timedelta(days=number)).isoformat() for number in range(0, days + 1, 7)]


# All weeks of which the real months have every day.
REAL_WEEKS = [
    *sundays("2019-01-06", "2019-03-24"),
    *sundays("2020-04-05", "2020-04-19"),
    *sundays("2025-02-02", "2025-02-16"),
]


@pytest.fixture
def place(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project, with its pictures and figures below its folder as well."""
    for name, path in {
        "TRIPS_BY_WEEK_FILE_PATH": csv_path(project),
        "MANHATTAN_STATS_FILE_PATH": stats_path(project),
        "MANHATTAN_MAP_FILE_PATH": map_path(project),
    }.items():
        monkeypatch.setattr(constants, name, str(path))
    return project


def csv_path(project: Project) -> Path:
    return project.folder / "outputs" / "trips_by_week.csv"


def stats_path(project: Project) -> Path:
    return project.folder / "staging" / "manhattan_stats.geojson"


def map_path(project: Project) -> Path:
    return project.folder / "outputs" / "manhattan_map.png"


@contextmanager
def database(project: Project) -> Iterator[duckdb.DuckDBPyConnection]:
    with TurnTakingDuckDBResource(database=str(project.database)).get_connection() as connection:
        yield connection


@pytest.fixture(scope="module")
def real_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with all real months and the published zones."""
    if not REAL_DATA.is_dir():
        pytest.skip("the published sample months are not beside this project")
    path = tmp_path_factory.mktemp("real") / "data.duckdb"
    resource = TurnTakingDuckDBResource(database=str(path))
    with resource.get_connection() as connection:
        for month, file in zip(REAL_MONTHS, REAL_FILES, strict=True):
            load_month(connection, month, file)
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setattr(constants, "TAXI_ZONES_FILE_PATH", str(REAL_DATA / "taxi_zones.csv"))
        dg.materialize([taxi_zones], instance=instance, resources={"database": resource})
    return path


@pytest.fixture
def real(place: Project, real_database: Path) -> Project:
    """A project in which all real months and the published zones are loaded, and nothing is added up."""
    place.database.parent.mkdir()
    shutil.copy(real_database, place.database)
    return place


@dataclass(frozen=True)
class Trip:
    """One row of a file; zone 100 is in Manhattan, in the published zones and in the sample's."""

    at: str
    zone: int | None = 100
    dollars: float = 10.0
    miles: float = 1.0
    passengers: int | None = 1
    vendor: int | None = 2


def put_month(project: Project, month: str, trips: Sequence[Trip]) -> Path:
    """Load `trips` as the file of `month` (``YYYY-MM``); return the file."""
    folder = project.folder / "made"
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
    with database(project) as connection:
        load_month(connection, month, path)
    return path


def put_zones(project: Project) -> None:
    """Load the sample's zones."""
    write_zones(Path(constants.TAXI_ZONES_FILE_PATH))
    with dg.DagsterInstance.ephemeral() as instance:
        assert materialize(project, instance, [taxi_zones]).success


def daily(first: str, last: str, **trip: Any) -> list[Trip]:
    """A trip at noon of every day from `first` to `last`."""
    days = (date.fromisoformat(last) - date.fromisoformat(first)).days + 1
    return [Trip(f"{date.fromisoformat(first) + timedelta(days=number)}T12:00:00", **trip) for number in range(days)]


def add_up(
    project: Project, instance: dg.DagsterInstance, first: str, last: str | None = None, *others: dg.AssetsDefinition
) -> dg.ExecuteInProcessResult:
    """Materialize the weeks from `first` to `last` (their Sundays) in this process; errors do not raise."""
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
    return dg.materialize(
        [trips_by_week, *others],
        instance=instance,
        resources={"database": TurnTakingDuckDBResource(database=str(project.database), wait_seconds=60)},
        raise_on_error=False,
        **({"tags": tags} if last else {"partition_key": first}),
    )


def counted(files: Iterable[Path], weeks: Iterable[str]) -> str:
    """What the CSV should be: `weeks`, counted in `files` in decimal numbers."""
    trips: Counter[str] = Counter()
    sums: dict[str, list[Decimal]] = {week: [Decimal(0)] * 3 for week in weeks}
    for file in files:
        names = ["tpep_pickup_datetime", "total_amount", "trip_distance", "passenger_count"]
        columns = pq.read_table(file, columns=names).to_pydict()
        for at, *values in zip(*(columns[name] for name in names), strict=True):
            week = (at.date() - timedelta(days=at.isoweekday() % 7)).isoformat()
            trips[week] += 1
            if week in sums:
                known = [Decimal(0) if value is None or value != value else Decimal(repr(value)) for value in values]
                sums[week] = [total + value for total, value in zip(sums[week], known, strict=True)]
    return HEADER + "".join(
        f"{week},{trips[week]},{dollars:.2f},{miles:.2f},{passengers:.0f}\n"
        for week, (dollars, miles, passengers) in sorted(sums.items())
    )


def table(project: Project) -> list[tuple[Any, ...]]:
    """The rows of trips_by_week, if there are any."""
    if not project.query("SELECT 1 FROM duckdb_tables() WHERE table_name = 'trips_by_week'"):
        return []
    return project.query(
        "SELECT period, num_trips, total_amount, trip_distance, passenger_count FROM trips_by_week ORDER BY period"
    )


def assert_counted(project: Project, files: Iterable[Path], weeks: Iterable[str]) -> None:
    """The CSV and the table have just `weeks`, with the figures of `files`."""
    expected = counted(files, weeks)
    assert csv_path(project).read_text() == expected
    assert table(project) == [
        (date.fromisoformat(week), int(trips), float(dollars), float(miles), int(passengers))
        for week, trips, dollars, miles, passengers in csv.reader(expected.splitlines()[1:])
    ]
    assert project.leftovers() == []


def recorded(instance: dg.DagsterInstance) -> set[str]:
    return instance.get_materialized_partitions(trips_by_week.key)


def checks(
    instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult, name: str
) -> dict[str | None, dg.AssetCheckEvaluation]:
    """What the check `name` found, by partition. The result of a run that failed has no events of its failed step."""
    evaluation = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    records = instance.get_records_for_run(result.run_id, of_type=evaluation).records
    found = [record.event_log_entry.asset_check_evaluation for record in records]
    return {check.partition: check for check in found if check is not None and check.check_name == name}


def metadata(result: dg.ExecuteInProcessResult, asset: dg.AssetsDefinition) -> list[dict[str, Any]]:
    """The metadata of each materialization of `asset`, in their order."""
    return [
        {name: value.value for name, value in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
        if event.asset_key == asset.key
    ]


def picture_in(markdown: str) -> bytes:
    start, encoded = markdown.removesuffix(")").split("base64,")
    assert start.endswith("](data:image/png;")
    return base64.b64decode(encoded)


# Weeks.


@pytest.mark.parametrize("first", ["2019-01-06", "2020-04-05", "2025-02-02"])
def test_a_range_of_real_weeks_has_the_figures_of_the_files(
    first: str, real: Project, instance: dg.DagsterInstance
) -> None:
    weeks = [week for week in REAL_WEEKS if week[:4] == first[:4]]
    assert add_up(real, instance, weeks[0], weeks[-1]).success
    assert_counted(real, REAL_FILES, weeks)
    assert recorded(instance) == set(weeks)
    # Weeks and months are not the same: no week's trips are none, and no trip is in two.
    assert all(trips > 300 for _, trips, *_ in table(real))


def test_weeks_one_by_one_in_any_order_give_the_same_as_a_range(real: Project, instance: dg.DagsterInstance) -> None:
    weeks = ["2019-02-24", "2019-01-06", "2025-02-16", "2020-04-12", "2019-01-27"]
    for number, week in enumerate(weeks, start=1):
        assert add_up(real, instance, week).success
        assert_counted(real, REAL_FILES, weeks[:number])
    before = table(real)
    assert add_up(real, instance, "2019-01-06", "2019-03-24").success
    assert set(before) < set(table(real))
    assert_counted(real, REAL_FILES, {*weeks, *sundays("2019-01-06", "2019-03-24")})


def test_a_week_that_is_added_up_again_takes_the_place_of_its_row(real: Project, instance: dg.DagsterInstance) -> None:
    for _ in range(2):
        assert add_up(real, instance, "2019-01-06", "2019-01-20").success
        assert_counted(real, REAL_FILES, sundays("2019-01-06", "2019-01-20"))
    with database(real) as connection:
        connection.execute("UPDATE trips_by_week SET num_trips = 1")
    assert add_up(real, instance, "2019-01-13").success
    assert [trips == 1 for _, trips, *_ in table(real)] == [True, False, True]


def test_a_week_goes_from_the_beginning_of_sunday_to_the_end_of_saturday(
    place: Project, instance: dg.DagsterInstance
) -> None:
    file = put_month(
        place,
        "2023-01",
        [
            Trip("2023-01-07T23:59:59.999999", dollars=1),
            Trip("2023-01-08T00:00:00", dollars=10),
            Trip("2023-01-14T23:59:59.999999", dollars=100),
            Trip("2023-01-15T00:00:00", dollars=1000),
            Trip("2023-01-21T23:59:59.999999", dollars=10000),
            Trip("2023-01-22T00:00:00", dollars=100000),
        ],
    )
    assert add_up(place, instance, "2023-01-08").success
    assert csv_path(place).read_text() == HEADER + "2023-01-08,2,110.00,2.00,2\n"
    assert add_up(place, instance, "2023-01-08", "2023-01-15").success
    assert csv_path(place).read_text() == HEADER + "2023-01-08,2,110.00,2.00,2\n2023-01-15,2,11000.00,2.00,2\n"
    assert_counted(place, [file], ["2023-01-08", "2023-01-15"])


def test_a_week_over_two_months_has_the_trips_of_both_and_of_every_other_file(
    place: Project, instance: dg.DagsterInstance
) -> None:
    files = [
        put_month(place, "2023-01", [*daily("2023-01-01", "2023-01-31"), Trip("2023-02-04T10:00:00", dollars=0.01)]),
        put_month(place, "2023-02", [*daily("2023-02-01", "2023-02-28"), Trip("2023-01-10T10:00:00", dollars=0.02)]),
        put_month(place, "2024-05", [*daily("2024-05-01", "2024-05-31"), Trip("2023-01-29T00:00:00", dollars=0.04)]),
    ]
    assert add_up(place, instance, "2023-01-08", "2023-01-29").success
    assert_counted(place, files, sundays("2023-01-08", "2023-01-29"))
    assert {str(period): (trips, dollars) for period, trips, dollars, *_ in table(place)} == {
        "2023-01-08": (8, 70.02),
        "2023-01-15": (7, 70.0),
        "2023-01-22": (7, 70.0),
        "2023-01-29": (9, 70.05),
    }


def test_trips_without_vendor_or_passengers_are_trips(place: Project, instance: dg.DagsterInstance) -> None:
    file = put_month(
        place,
        "2023-01",
        [
            *daily("2023-01-08", "2023-01-14", vendor=None),
            *daily("2023-01-08", "2023-01-10", passengers=3),
            *daily("2023-01-15", "2023-01-21", vendor=None, passengers=None, dollars=-2.5, miles=0.0),
        ],
    )
    result = add_up(place, instance, "2023-01-08", "2023-01-15")
    assert result.success
    assert csv_path(place).read_text() == HEADER + "2023-01-08,10,100.00,10.00,16\n2023-01-15,7,-17.50,0.00,0\n"
    assert_counted(place, [file], ["2023-01-08", "2023-01-15"])
    assert all(check.passed for check in checks(instance, result, "every_day_has_trips").values())


def test_a_value_that_is_no_number_is_left_out_of_its_sum_only(place: Project, instance: dg.DagsterInstance) -> None:
    put_month(place, "2023-01", daily("2023-01-08", "2023-01-14"))
    with database(place) as connection:
        connection.execute("UPDATE trips SET total_amount = 'NaN' WHERE pickup_datetime::DATE = '2023-01-08'")
        connection.execute("UPDATE trips SET trip_distance = 'Infinity' WHERE pickup_datetime::DATE = '2023-01-09'")
        connection.execute("UPDATE trips SET passenger_count = 'NaN' WHERE pickup_datetime::DATE = '2023-01-10'")
    assert add_up(place, instance, "2023-01-08").success
    assert csv_path(place).read_text() == HEADER + "2023-01-08,7,60.00,6.00,6\n"


@pytest.mark.parametrize("lacking", ["trip_distance", "partition_date"])
def test_weeks_that_cannot_be_counted_are_named(place: Project, instance: dg.DagsterInstance, lacking: str) -> None:
    put_month(place, "2023-01", daily("2023-01-08", "2023-01-21"))
    with database(place) as connection:
        connection.execute(f"ALTER TABLE trips DROP COLUMN {lacking}")
    text = failure_text(add_up(place, instance, "2023-01-08", "2023-01-15"))
    assert "Failure: 2023-01-08, 2023-01-15: the weeks could not be added up" in text
    assert lacking in text
    assert "rename or drop it" in text


def test_cents_of_many_trips_do_not_drift(place: Project, instance: dg.DagsterInstance) -> None:
    # Added one after the other as floating point numbers, a billion and many cents lose some of the cents.
    trips = [
        Trip("2023-01-09T09:00:00", dollars=1e11),
        *(Trip("2023-01-09T10:00:00", dollars=0.01) for _ in range(5000)),
    ]
    file = put_month(place, "2023-01", [*trips, Trip("2023-01-09T11:00:00", dollars=-1e11)])
    assert add_up(place, instance, "2023-01-08").success
    assert_counted(place, [file], ["2023-01-08"])
    assert table(place)[0][2] == 50.0


def test_a_week_without_trips_in_a_loaded_month_is_a_row_of_zeros_and_a_warning(
    place: Project, instance: dg.DagsterInstance
) -> None:
    put_month(place, "2023-02", daily("2023-02-01", "2023-02-11") + daily("2023-02-20", "2023-02-28"))
    result = add_up(place, instance, "2023-02-05", "2023-02-19")
    assert result.success
    assert csv_path(place).read_text() == (
        HEADER + "2023-02-05,7,70.00,7.00,7\n2023-02-12,0,0.00,0.00,0\n2023-02-19,6,60.00,6.00,6\n"
    )
    assert recorded(instance) == {"2023-02-05", "2023-02-12", "2023-02-19"}
    found = checks(instance, result, "every_day_has_trips")
    assert {week: check.passed for week, check in found.items()} == {
        "2023-02-05": True,
        "2023-02-12": False,
        "2023-02-19": False,
    }
    assert {check.severity for check in found.values()} == {dg.AssetCheckSeverity.WARN}
    assert {week: check.metadata["days_without_trips"].value for week, check in found.items()} == {
        "2023-02-05": "none",
        "2023-02-12": ", ".join(f"2023-02-{day}" for day in range(12, 19)),
        "2023-02-19": "2023-02-19",
    }
    assert found["2023-02-05"].description == "Days of the week of 2023-02-05 without trips: none."
    assert found["2023-02-19"].description == "Days of the week of 2023-02-19 without trips: 2023-02-19."


def test_days_before_the_first_month_are_counted_but_not_missed(place: Project, instance: dg.DagsterInstance) -> None:
    # The tests' first month is January 2011; its first day is the last of a week.
    file = put_month(place, "2011-01", [Trip("2011-01-01T12:00:00"), Trip("2010-12-31T23:00:00")])
    result = add_up(place, instance, "2010-12-26", "2011-01-02")
    assert result.success
    assert_counted(place, [file], ["2010-12-26", "2011-01-02"])
    found = checks(instance, result, "every_day_has_trips")
    assert [found["2010-12-26"].passed, found["2011-01-02"].passed] == [True, False]


def test_days_after_the_last_month_are_counted_but_not_missed(
    place: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "END_DATE", "2023-04-01")
    file = put_month(place, "2023-03", [*daily("2023-03-01", "2023-03-31"), Trip("2023-04-01T12:00:00")])
    result = add_up(place, instance, "2023-03-26")
    assert result.success
    assert_counted(place, [file], ["2023-03-26"])
    assert checks(instance, result, "every_day_has_trips")["2023-03-26"].passed


def test_a_range_counts_once_and_draws_once(
    real: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[list[str]] = []
    drawn: list[dict[date, int]] = []
    count_weeks, draw_weeks = metrics.count_weeks, pictures.draw_weeks

    def counting(connection: duckdb.DuckDBPyConnection, weeks: Sequence[str]) -> list[metrics.Week]:
        counts.append(list(weeks))
        return count_weeks(connection, weeks)

    def drawing(trips: dict[date, int]) -> bytes:
        drawn.append(dict(trips))
        return draw_weeks(trips)

    monkeypatch.setattr(metrics, "count_weeks", counting)
    monkeypatch.setattr(pictures, "draw_weeks", drawing)
    weeks = sundays("2019-01-06", "2019-03-24")
    assert add_up(real, instance, "2020-04-05").success
    result = add_up(real, instance, weeks[0], weeks[-1])
    assert counts == [["2020-04-05"], weeks]
    # The picture of a run shows all weeks there are, and its bytes stand once in the event log.
    assert drawn[1] == {period: trips for period, trips, *_ in table(real)}
    assert (len(drawn), len(drawn[1])) == (2, 13)
    pictured = ["weeks" in found for found in metadata(result, trips_by_week)]
    assert pictured == [False] * 11 + [True]


def test_each_week_has_its_figures_its_months_and_a_version_on_its_page(
    real: Project, instance: dg.DagsterInstance
) -> None:
    result = add_up(real, instance, "2019-01-20", "2019-01-27")
    first, second = metadata(result, trips_by_week)
    for found, row in zip((first, second), table(real), strict=True):
        assert [found[name] for name in HEADER.strip().split(",")[1:]] == list(row[1:])
        assert found["path"] == str(csv_path(real))
    assert (first["months"], second["months"]) == ("2019-01", "2019-01, 2019-02")
    with Image.open(io.BytesIO(picture_in(second["weeks"]))) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= 300
    versions = []
    for _ in range(2):
        add_up(real, instance, "2019-01-20", "2019-01-27")
        records = instance.fetch_materializations(trips_by_week.key, limit=2).records
        materializations = [record.asset_materialization for record in records]
        versions.append([(found.tags or {})["dagster/data_version"] for found in materializations if found])
    assert versions[0] == versions[1]
    assert versions[0][0] != versions[0][1]


def test_weeks_whose_months_are_not_loaded_fail_and_the_others_are_kept(
    real: Project, instance: dg.DagsterInstance
) -> None:
    assert add_up(real, instance, "2020-04-05").success
    before = table(real)
    with database(real) as connection:
        connection.execute("DELETE FROM trips WHERE partition_date = '2019-02'")
    result = add_up(real, instance, "2018-12-30", "2019-03-31")
    assert not result.success
    good = [*sundays("2019-01-06", "2019-01-20"), *sundays("2019-03-03", "2019-03-24")]
    bad = sorted({*sundays("2018-12-30", "2019-03-31")} - {*good})
    assert recorded(instance) == {*good, "2020-04-05"}
    files = [file for file in REAL_FILES if "2019-02" not in file.name]
    assert_counted(real, files, [*good, "2020-04-05"])
    assert set(before) < set(table(real))
    assert set(checks(instance, result, "every_day_has_trips")) == set(good)
    text = failure_text(result)
    assert f"{len(bad)} of 14 weeks failed; the other 7 are done" in text
    lines = text.splitlines()
    for week in bad:
        assert sum(f"week of {week}" in line for line in lines) == 1
    assert any(
        line.endswith(
            "week of 2018-12-30: has days in 2018-12, and it is not loaded. Materialize taxi_trips_file and taxi_trips "
            "for 2018-12-01 first."
        )
        for line in lines
    )
    # Those for which the same is to be done stand in one line.
    february = ", ".join(f"week of {week}" for week in bad if "2018-12-30" < week < "2019-03")
    assert f"{february}: has days in 2019-02, and it is not loaded. " in text
    assert any("2019-03-31: has days in 2019-04, and it is" in line for line in lines)
    said = [
        entry.user_message
        for entry in instance.all_logs(result.run_id)
        if entry.dagster_event is None and entry.user_message.startswith("week of ")
    ]
    for number, (week, line) in enumerate(zip([*bad, *good], said, strict=True), start=1):
        rest = " failed: has days in " if week in bad else ": "
        assert line.startswith(f"week of {week} ({number} of 14){rest}"), line


def test_a_week_that_lacks_both_months_names_both(place: Project, instance: dg.DagsterInstance) -> None:
    put_month(place, "2023-05", daily("2023-05-01", "2023-05-31"))
    text = failure_text(add_up(place, instance, "2023-01-29"))
    assert "days in 2023-01 and 2023-02, and they are not loaded" in text
    assert "for 2023-01-01,2023-02-01 first" in text


@pytest.mark.parametrize("tables", ["no database", "no trips", "empty trips"])
def test_without_any_month_every_week_fails_and_nothing_is_written(
    tables: str, place: Project, instance: dg.DagsterInstance
) -> None:
    if tables == "empty trips":
        put_month(place, "2023-05", daily("2023-05-01", "2023-05-31"))
    if tables != "no database":
        with database(place) as connection:
            connection.execute("DELETE FROM trips" if tables == "empty trips" else "CREATE TABLE other (a INTEGER)")
    text = failure_text(add_up(place, instance, "2023-01-08", "2023-01-15"))
    assert "2 of 2 weeks failed:" in text
    assert "taxi_trips for 2023-01-01 first" in text
    assert recorded(instance) == set()
    assert not csv_path(place).exists()
    assert table(place) == []


def test_a_week_that_can_no_longer_be_added_up_keeps_its_row(real: Project, instance: dg.DagsterInstance) -> None:
    assert add_up(real, instance, "2019-01-06", "2019-03-03").success
    before, file = table(real), csv_path(real).read_bytes()
    with database(real) as connection:
        connection.execute("DELETE FROM trips WHERE partition_date = '2019-02'")
    assert not add_up(real, instance, "2019-02-03", "2019-02-24").success
    assert (table(real), csv_path(real).read_bytes()) == (before, file)


@pytest.mark.parametrize("change", ["deleted", "folder deleted", "garbage", "header only", "extra rows", "empty"])
def test_a_csv_that_was_changed_by_hand_is_whole_and_right_after_the_next_run(
    change: str, real: Project, instance: dg.DagsterInstance
) -> None:
    assert add_up(real, instance, "2019-01-06", "2019-01-20").success
    path = csv_path(real)
    if change == "deleted":
        path.unlink()
    elif change == "folder deleted":
        shutil.rmtree(path.parent)
    else:
        path.write_bytes(
            {
                "garbage": bytes(range(256)) * 50,
                "header only": HEADER.encode(),
                "extra rows": path.read_bytes() + b"2030-01-06,1,1.00,1.00,1\n2019-02-03,5,5,5,5\n",
                "empty": b"",
            }[change]
        )
    assert add_up(real, instance, "2019-02-03").success
    assert_counted(real, REAL_FILES, [*sundays("2019-01-06", "2019-01-20"), "2019-02-03"])


class FullDisk:
    """Writes rows, as csv would, on a disk that has room for one."""

    def __init__(self, file: IO[str], **_: Any):
        self.file = file

    def writerow(self, row: Sequence[object]) -> None:
        if self.file.tell():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.file.write(f"{row}\n")


@pytest.mark.parametrize("trouble", ["file for folder", "disk full"])
def test_a_csv_that_cannot_be_written_leaves_table_and_file_as_they_were(
    trouble: str, real: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert add_up(real, instance, "2019-01-06").success
    with database(real) as connection:
        connection.execute("UPDATE trips_by_week SET num_trips = 1")
    before, file = table(real), csv_path(real).read_bytes()
    if trouble == "file for folder":
        kept = csv_path(real).parent.rename(real.folder / "kept") / "trips_by_week.csv"
        (real.folder / "outputs").write_text("not a folder")
    else:
        kept = csv_path(real)
        monkeypatch.setattr(metrics, "csv", SimpleNamespace(writer=FullDisk))
    text = failure_text(add_up(real, instance, "2019-01-06", "2019-01-13"))
    assert "2019-01-06, 2019-01-13: " in text
    assert "outputs" in text
    assert "could not be written" in text
    assert os.strerror(errno.ENOSPC if trouble == "disk full" else errno.EEXIST) in text
    assert "materialize again" in text
    assert (table(real), kept.read_bytes()) == (before, file)
    assert recorded(instance) == {"2019-01-06"}
    assert real.leftovers() == []


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE trips_by_week (period VARCHAR, trips INTEGER)",
        "CREATE TABLE trips_by_week (week DATE)",
        "CREATE VIEW trips_by_week AS SELECT 1 AS period",
    ],
)
def test_a_table_that_something_else_made_is_left_alone_and_named(
    made: str, place: Project, instance: dg.DagsterInstance
) -> None:
    put_month(place, "2023-01", daily("2023-01-01", "2023-01-31"))
    with database(place) as connection:
        connection.execute(made)
    before = place.query("DESCRIBE trips_by_week")
    text = failure_text(add_up(place, instance, "2023-01-08"))
    assert "the table trips_by_week is as it was" in text
    assert "rename or drop it" in text
    assert place.query("DESCRIBE trips_by_week") == before
    assert recorded(instance) == set()
    assert not csv_path(place).exists()
    assert place.leftovers() == []


def test_files_are_written_while_no_one_else_can_have_the_database(
    real: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of two runs, else, the one that counted first could be the last to write.
    held: list[str] = []

    @contextmanager
    def replacing_held(path: Path) -> Iterator[Path]:
        with replacing(path) as temporary:
            yield temporary
        with pytest.raises(Timeout):
            FileLock(real.database.with_name("data.duckdb.lock")).acquire(timeout=0)
        held.append(path.name)

    monkeypatch.setattr(metrics, "replacing", replacing_held)
    assert add_up(real, instance, "2019-01-06", None, manhattan_stats).success
    assert sorted(held) == ["manhattan_stats.geojson", "trips_by_week.csv"]


# One process with everything imported, so that its children all want the database in the same moment;
# a first run, and a first picture, import a second's worth of modules.
ADD_UP_AT_ONCE = """
import multiprocessing, sys
from datetime import date
import dagster as dg
from dagster_essentials import pictures
from dagster_essentials.assets.metrics import trips_by_week
from dagster_essentials.resources import database_resource

@dg.asset
def first_run():
    pictures.draw_weeks({date(2023, 1, 1): 1})

def add_up(week, start):
    start.wait()
    dg.materialize([trips_by_week], partition_key=week, resources={"database": database_resource})

dg.materialize([first_run])
weeks = sys.argv[1:]
fork = multiprocessing.get_context("fork")
start = fork.Barrier(len(weeks))
children = [fork.Process(target=add_up, args=(week, start)) for week in weeks]
for child in children:
    child.start()
for child in children:
    child.join()
sys.exit(sum(child.exitcode != 0 for child in children))
"""


def test_twenty_weeks_at_once_are_all_in_the_csv(place: Project) -> None:
    files = []
    for month in ("2023-01", "2023-02", "2023-03", "2023-04", "2023-05"):
        files.append(write_month(place.folder / "trip-data", month, 2000))
        with database(place) as connection:
            load_month(connection, month, files[-1])
    weeks = sundays("2023-01-01", "2023-05-14")
    assert len(weeks) == 20
    result = subprocess.run(
        [sys.executable, "-c", ADD_UP_AT_ONCE, *weeks],
        cwd=ROOT,
        env={**place.env(), "TAXI_START_DATE": "2023-01-01", "DAGSTER_HOME": ""},
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-5000:]
    assert_counted(place, files, weeks)


# Manhattan.


def outline(wkt: str) -> list[Any]:
    """The polygons, rings and points of a WKT multipolygon, by taking its text apart."""
    assert wkt.startswith("MULTIPOLYGON (((")
    assert wkt.endswith(")))")
    return [
        [[[float(number) for number in point.split()] for point in ring.split(",")] for ring in polygon.split("), (")]
        for polygon in wkt.removeprefix("MULTIPOLYGON (((").removesuffix(")))").split(")), ((")
    ]


@dataclass
class Published:
    """A zone of Manhattan, as the CSV has it: the outlines of all its rows in the file's order."""

    zone: str
    outline: list[Any]


def manhattan(path: Path) -> dict[int, Published]:
    csv.field_size_limit(1 << 24)
    zones: dict[int, Published] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["borough"] == "Manhattan":
                zone = zones.setdefault(int(row["LocationID"]), Published(row["zone"], []))
                zone.outline += outline(row["the_geom"])
    return zones


def pickups(files: Iterable[Path]) -> Counter[int | None]:
    """How many trips of `files` began in each zone."""
    zones: Counter[int | None] = Counter()
    for file in files:
        zones.update(pq.read_table(file, columns=["PULocationID"])["PULocationID"].to_pylist())
    return zones


def stats(project: Project) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(stats_path(project).read_bytes())
    return content


def num_trips(project: Project) -> dict[int, int]:
    found = [feature["properties"] for feature in stats(project)["features"]]
    assert len({zone["zone_id"] for zone in found}) == len(found)
    return {zone["zone_id"]: zone["num_trips"] for zone in found}


def passed(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {found.check_name: found.passed for found in result.get_asset_check_evaluations()}


GOOD = {"sum_matches_trips": True, "manhattan_has_trips": True}


def test_each_zone_of_manhattan_has_the_trips_and_the_outline_of_the_files(
    real: Project, instance: dg.DagsterInstance
) -> None:
    result = materialize(real, instance, [manhattan_stats])
    assert result.success
    zones, trips = manhattan(REAL_DATA / "taxi_zones.csv"), pickups(REAL_FILES)
    content = stats(real)
    assert set(content) == {"type", "months", "features"}
    assert content["type"] == "FeatureCollection"
    assert content["months"] == list(REAL_MONTHS)
    assert num_trips(real) == {zone: trips[zone] for zone in zones}
    assert list(num_trips(real)) == sorted(zones)
    assert 0 in num_trips(real).values()
    assert [len(zones), len(zones[103].outline)] == [67, 3]
    for feature in content["features"]:
        assert set(feature) == {"type", "properties", "geometry"}
        assert feature["type"] == "Feature"
        zone = zones[feature["properties"]["zone_id"]]
        assert (feature["properties"]["zone"], feature["properties"]["borough"]) == (zone.zone, "Manhattan")
        assert feature["geometry"] == {"type": "MultiPolygon", "coordinates": zone.outline}
    total = sum(trips[zone] for zone in zones)
    assert total > 30_000
    assert passed(result) == GOOD
    (found,) = metadata(result, manhattan_stats)
    assert found["months"] == "2019-01 to 2019-03, 2020-04, 2025-02"
    assert (found["zones"], found["num_trips"], found["path"]) == (67, total, str(stats_path(real)))
    assert real.leftovers() == []


def test_every_ring_in_the_file_is_closed_and_where_new_york_is(real: Project, instance: dg.DagsterInstance) -> None:
    assert materialize(real, instance, [manhattan_stats]).success
    rings = [
        ring
        for feature in stats(real)["features"]
        for polygon in feature["geometry"]["coordinates"]
        for ring in polygon
    ]
    assert all(ring[0] == ring[-1] and len(ring) >= 4 for ring in rings)
    assert all(-74.1 < longitude < -73.8 and 40.6 < latitude < 40.9 for ring in rings for longitude, latitude in ring)


def test_the_trips_of_a_zone_with_several_rows_are_counted_once(place: Project, instance: dg.DagsterInstance) -> None:
    put_zones(place)
    file = put_month(place, "2023-01", daily("2023-01-01", "2023-01-31", zone=103) + daily("2023-01-01", "2023-01-03"))
    assert passed(materialize(place, instance, [manhattan_stats])) == GOOD
    assert {zone: trips for zone, trips in num_trips(place).items() if trips} == {103: 31, 100: 3}
    zones = manhattan(Path(constants.TAXI_ZONES_FILE_PATH))
    assert num_trips(place) == {zone: pickups([file])[zone] for zone in zones}


def test_trips_of_zones_that_are_elsewhere_or_nowhere_are_not_counted(
    place: Project, instance: dg.DagsterInstance
) -> None:
    put_zones(place)
    elsewhere = [Trip("2023-01-01T12:00:00", zone) for zone in (1, 2, 57, 104, 105, 264, 265, 9999, -1, None)]
    put_month(place, "2023-01", [*elsewhere, *daily("2023-01-01", "2023-01-05")])
    assert passed(materialize(place, instance, [manhattan_stats])) == GOOD
    assert {zone: trips for zone, trips in num_trips(place).items() if trips} == {100: 5}


def test_a_month_without_a_trip_in_manhattan_is_a_warning(place: Project, instance: dg.DagsterInstance) -> None:
    put_zones(place)
    put_month(place, "2023-01", daily("2023-01-01", "2023-01-31"))
    put_month(place, "2023-02", daily("2023-02-01", "2023-02-28", zone=1))
    result = materialize(place, instance, [manhattan_stats])
    assert result.success
    assert passed(result) == {**GOOD, "manhattan_has_trips": False}
    (check,) = checks(instance, result, "manhattan_has_trips").values()
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert {name: value.value for name, value in check.metadata.items()} == {
        "num_trips": 31,
        "months": 2,
        "months_with_trips": 1,
    }
    assert check.description == "1 of 2 months have trips that were picked up in Manhattan."
    assert stats(place)["months"] == ["2023-01", "2023-02"]


def test_a_zones_table_that_has_a_zone_twice_fails_the_check_of_the_sum(
    place: Project, instance: dg.DagsterInstance
) -> None:
    put_zones(place)
    put_month(place, "2023-01", daily("2023-01-01", "2023-01-31"))
    with database(place) as connection:
        connection.execute("INSERT INTO zones SELECT * FROM zones WHERE zone_id = 100")
    result = materialize(place, instance, [manhattan_stats])
    assert passed(result) == {**GOOD, "sum_matches_trips": False}
    (check,) = checks(instance, result, "sum_matches_trips").values()
    assert check.severity == dg.AssetCheckSeverity.ERROR
    assert {name: value.value for name, value in check.metadata.items()} == {
        "trips_in_zones": 62,
        "trips_picked_up": 31,
    }
    assert check.description == "62 trips in the zones, 31 picked up in Manhattan."


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("no zones", ["There is no table zones.", "Materialize taxi_zones_file and taxi_zones first."]),
        ("no trips", ["No trips are loaded.", "Materialize taxi_trips_file and taxi_trips"]),
        ("empty trips", ["No trips are loaded.", "Materialize taxi_trips_file and taxi_trips"]),
        ("empty zones", ["no zone of Manhattan", "TAXI_ZONES_URL"]),
        ("other boroughs", ["no zone of Manhattan", "TAXI_ZONES_URL"]),
        ("broken outline", ["not a multipolygon", "Materialize taxi_zones_file and taxi_zones again."]),
        ("no outline", ["not a multipolygon", "Materialize taxi_zones_file and taxi_zones again."]),
        ("foreign trips", ["partition_date", "rename or drop it"]),
        ("foreign zones", ["zone_id", "rename or drop it"]),
    ],
)
def test_what_is_lacking_in_the_database_is_said_and_the_file_is_left_alone(
    state: str, says: list[str], place: Project, instance: dg.DagsterInstance
) -> None:
    if state != "no zones":
        put_zones(place)
    if state != "no trips":
        put_month(place, "2023-01", daily("2023-01-01", "2023-01-31"))
    change = {
        "empty trips": "DELETE FROM trips",
        "empty zones": "DELETE FROM zones",
        "other boroughs": "UPDATE zones SET borough = 'Queens'",
        "no outline": "UPDATE zones SET geometry = NULL WHERE zone_id = 100",
        "foreign trips": "ALTER TABLE trips DROP COLUMN partition_date",
        "foreign zones": "ALTER TABLE zones DROP COLUMN zone_id",
        "broken outline": "UPDATE zones SET geometry = 'MULTIPOLYGON (((1 2, 3' WHERE zone_id = 100",
    }
    if state in change:
        with database(place) as connection:
            connection.execute(change[state])
    stats_path(place).write_text("earlier")
    result = materialize(place, instance, [manhattan_stats])
    assert not result.success
    text = failure_text(result)
    assert [part for part in says if part not in text] == []
    assert stats_path(place).read_text() == "earlier"
    assert place.leftovers() == []
    assert not instance.get_latest_materialization_event(manhattan_stats.key)


@pytest.mark.parametrize("trouble", ["file for folder", "disk full"])
def test_stats_that_cannot_be_written_leave_the_earlier_file(
    trouble: str, place: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_zones(place)
    put_month(place, "2023-01", daily("2023-01-01", "2023-01-31"))
    kept = place.folder / "folder" / "stats.geojson"
    monkeypatch.setattr(constants, "MANHATTAN_STATS_FILE_PATH", str(kept))
    assert materialize(place, instance, [manhattan_stats]).success
    before = kept.read_bytes()
    put_month(place, "2023-02", daily("2023-02-01", "2023-02-28"))
    if trouble == "file for folder":
        kept = kept.parent.rename(place.folder / "kept") / kept.name
        (place.folder / "folder").write_text("not a folder")
    else:

        def half(path: Path, text: str, *_: Any, **__: Any) -> int:
            path.write_bytes(text[: len(text) // 2].encode())
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "write_text", half)
    text = failure_text(materialize(place, instance, [manhattan_stats]))
    assert "folder" in text
    assert "could not be written" in text
    assert "materialize again" in text
    assert kept.read_bytes() == before
    assert place.leftovers() == []


# The map.


def square(west: float, south: float, side: float) -> list[list[float]]:
    east, north = west + side, south + side
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def write_stats(project: Project, zones: Sequence[tuple[list[Any], int]], months: Sequence[str] = ("2023-01",)) -> None:
    """A file like that of manhattan_stats, with zones by their coordinates and trips."""
    features = [
        {
            "type": "Feature",
            "properties": {"zone_id": number, "zone": "Somewhere", "borough": "Manhattan", "num_trips": trips},
            "geometry": {"type": "MultiPolygon", "coordinates": coordinates},
        }
        for number, (coordinates, trips) in enumerate(zones, start=1)
    ]
    stats_path(project).parent.mkdir(parents=True, exist_ok=True)
    stats_path(project).write_text(
        json.dumps({"type": "FeatureCollection", "months": list(months), "features": features})
    )


def draw(project: Project, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return materialize(project, instance, [manhattan_map])


def test_the_map_of_the_real_months_is_a_picture_and_its_bytes_stand_on_its_page(
    real: Project, instance: dg.DagsterInstance
) -> None:
    result = materialize(real, instance, [manhattan_stats, manhattan_map])
    assert result.success
    content = map_path(real).read_bytes()
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG"
        picture.load()
        assert min(picture.size) >= 500
        colours = picture.convert("RGB").getcolors(1 << 24)
        assert colours is not None
        assert len(colours) > 50
    (found,) = metadata(result, manhattan_map)
    assert picture_in(found["map"]) == content
    assert found["num_trips"] == sum(num_trips(real).values())
    assert found["path"] == str(map_path(real))
    assert draw(real, instance).success
    assert map_path(real).read_bytes() == content
    assert real.leftovers() == []


VIRIDIS = {"bottom": (68, 1, 84), "middle": (33, 145, 140), "top": (253, 231, 37)}


def near(colour: Sequence[int], other: Sequence[int]) -> bool:
    return all(abs(one - two) <= 3 for one, two in zip(colour, other, strict=True))


@pytest.mark.parametrize("order", [["bottom", "middle", "top"], ["top", "bottom", "middle"]])
def test_the_colour_of_a_zone_follows_its_trips_and_holes_stay_empty(
    order: list[str], place: Project, instance: dg.DagsterInstance
) -> None:
    trips = {"bottom": 0, "middle": 500, "top": 1000}
    # Three squares from west to east, the last one with a hole in its middle, and an island north of the first.
    zones = [
        ([[square(-74.0, 40.7, 0.01)], [square(-74.0, 40.72, 0.01)]], trips[order[0]]),
        ([[square(-73.99, 40.7, 0.01)]], trips[order[1]]),
        ([[square(-73.98, 40.7, 0.01), square(-73.977, 40.703, 0.004)[::-1]]], trips[order[2]]),
    ]
    write_stats(place, zones)
    assert draw(place, instance).success
    with Image.open(map_path(place)) as picture:
        pixels = picture.convert("RGB")
    colours = {colour for _, colour in pixels.getcolors(1 << 24) or ()}
    known = {colour for colour in colours for other in VIRIDIS.values() if near(rgb(colour), other)}
    coloured = [(x, y) for x in range(pixels.width) for y in range(pixels.height) if pixels.getpixel((x, y)) in known]
    # The bar has the colours too; it stands apart on the right, behind a column without any.
    columns = {x for x, _ in coloured}
    west = min(columns)
    # Edges between the squares are a pixel or two wide.
    east = next(x for x in range(west, pixels.width) if columns.isdisjoint(range(x, x + 6)))
    on_map = [y for x, y in coloured if x < east]
    north, south, side = min(on_map), max(on_map), (east - west) / 3

    def at(column: float, row: float) -> tuple[int, ...]:
        return rgb(pixels.getpixel((int(west + column * side), int(south + (north - south) * row / 3))))

    assert near(at(0.5, 0.5), VIRIDIS[order[0]])
    assert near(at(0.5, 2.5), VIRIDIS[order[0]])
    assert near(at(1.5, 0.5), VIRIDIS[order[1]])
    assert near(at(2.15, 0.5), VIRIDIS[order[2]])
    assert near(at(2.5, 0.5), (255, 255, 255))
    assert near(at(1.5, 2.5), (255, 255, 255))
    # North of the equator, where New York is, a degree of longitude is shorter.
    assert math.isclose((south - north) / (east - west), 1 / math.cos(math.radians(40.715)), rel_tol=0.03)


def rgb(colour: object) -> tuple[int, ...]:
    assert isinstance(colour, tuple)
    return colour


@pytest.mark.parametrize(
    ("months", "words"),
    [
        (["2019-01"], "2019-01"),
        (["2019-01", "2019-02"], "2019-01 to 2019-02"),
        (["2018-11", "2018-12", "2019-01", "2019-02"], "2018-11 to 2019-02"),
        (["2019-01", "2019-03"], "2019-01, 2019-03"),
        (["2018-01", "2019-01"], "2018-01, 2019-01"),
        (list(REAL_MONTHS), "2019-01 to 2019-03, 2020-04, 2025-02"),
        (["2019-01", "2019-03", "2019-05", "2019-07"], "4 months from 2019-01 to 2019-07"),
    ],
)
def test_the_title_says_which_months_and_how_many_trips(
    months: list[str],
    words: str,
    place: Project,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[tuple[list[Any], str]] = []

    def drawing(zones: list[Any], title: str) -> bytes:
        drawn.append((zones, title))
        return b"a picture"

    monkeypatch.setattr(pictures, "draw_map", drawing)
    zones = [([[square(-74.0, 40.7, 0.01)]], 1000), ([[square(-73.9, 40.7, 0.01)]], 234_567)]
    write_stats(place, zones, months)
    result = draw(place, instance)
    assert drawn == [(zones, f"Yellow taxi trips picked up in Manhattan\n{words}: 235,567 trips")]
    assert map_path(place).read_bytes() == b"a picture"
    assert metadata(result, manhattan_map)[0]["months"] == words


def test_a_map_without_trips_is_drawn(place: Project, instance: dg.DagsterInstance) -> None:
    put_zones(place)
    put_month(place, "2023-02", daily("2023-02-01", "2023-02-28", zone=1))
    assert materialize(place, instance, [manhattan_stats, manhattan_map]).success
    assert set(num_trips(place).values()) == {0}
    with Image.open(map_path(place)) as picture:
        picture.load()


ONE_ZONE: dict[str, Any] = {"properties": {"num_trips": 1}, "geometry": {"coordinates": [[square(-74.0, 40.7, 0.01)]]}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        bytes(range(256)),
        b"[]",
        b"null",
        b"{}",
        json.dumps({"features": [ONE_ZONE]}).encode(),
        json.dumps({"months": ["2023-01"]}).encode(),
        json.dumps({"months": ["2023-01"], "features": [{}]}).encode(),
        json.dumps({"months": ["2023-01"], "features": [{**ONE_ZONE, "geometry": None}]}).encode(),
        json.dumps({"months": ["2023-01"], "features": [{**ONE_ZONE, "properties": {"num_trips": "x"}}]}).encode(),
        json.dumps({"months": ["2023-01"], "features": []}).encode(),
        json.dumps({"months": ["2023-01"], "features": [{**ONE_ZONE, "geometry": {"coordinates": "abc"}}]}).encode(),
        json.dumps(
            {"months": ["2023-01"], "features": [{**ONE_ZONE, "geometry": {"coordinates": [[[1, 2]]]}}]}
        ).encode(),
        json.dumps({"months": ["2023-01", "soon"], "features": [ONE_ZONE], "more": 1}).encode()[:-4],
    ],
)
def test_stats_that_are_something_else_are_refused_and_the_map_is_left_alone(
    content: bytes, place: Project, instance: dg.DagsterInstance
) -> None:
    stats_path(place).parent.mkdir()
    stats_path(place).write_bytes(content)
    map_path(place).parent.mkdir()
    map_path(place).write_bytes(b"earlier")
    text = failure_text(draw(place, instance))
    assert f"{stats_path(place)} is not what manhattan/manhattan_stats writes" in text
    assert "Materialize it again." in text
    assert map_path(place).read_bytes() == b"earlier"
    assert place.leftovers() == []


def test_without_stats_the_map_says_what_to_materialize(place: Project, instance: dg.DagsterInstance) -> None:
    text = failure_text(draw(place, instance))
    assert f"{stats_path(place)} is not there. Materialize manhattan/manhattan_stats first." in text
    assert not map_path(place).exists()


def test_a_map_that_cannot_be_written_says_where(place: Project, instance: dg.DagsterInstance) -> None:
    write_stats(place, [([[square(-74.0, 40.7, 0.01)]], 1)])
    (place.folder / "outputs").write_text("not a folder")
    text = failure_text(draw(place, instance))
    assert "outputs could not be written" in text
    assert "materialize again" in text
    assert (place.folder / "outputs").read_text() == "not a folder"


def test_maps_that_are_drawn_at_once_leave_one_whole_map(place: Project, instance: dg.DagsterInstance) -> None:
    write_stats(place, [([[square(-74.0, 40.7, 0.01)]], 1), ([[square(-73.99, 40.7, 0.01)]], 2)])
    assert draw(place, instance).success
    alone = map_path(place).read_bytes()
    map_path(place).unlink()

    def draw_another(_: int) -> bool:
        with dg.DagsterInstance.ephemeral() as another:
            return draw(place, another).success

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(draw_another, range(8)))
    assert map_path(place).read_bytes() == alone
    assert place.leftovers() == []


# The calls of the course.


def test_the_course_s_assets_are_materialized_from_the_source_to_the_map(
    place: Project, source_server: SourceServer, instance: dg.DagsterInstance
) -> None:
    files = [write_month(place.folder / "made", month, 3000) for month in ("2019-01", "2019-02")]
    for month, file in zip(("2019-01", "2019-02"), files, strict=True):
        source_server.put_month(month, file.read_bytes())
    source_server.files["/taxi_zones.csv"] = write_zones(place.folder / "made" / "zones.csv").read_bytes()
    assert materialize(place, instance, [taxi_trips_file, taxi_trips], "2019-01", "2019-02").success
    assert materialize(place, instance, [taxi_zones_file, taxi_zones]).success
    result = dg.materialize(
        [trips_by_week, manhattan_stats, manhattan_map],
        partition_key="2019-01-06",
        instance=instance,
        resources={"database": TurnTakingDuckDBResource(database=str(place.database))},
    )
    assert result.success
    assert_counted(place, files, ["2019-01-06"])
    zones = manhattan(Path(constants.TAXI_ZONES_FILE_PATH))
    assert num_trips(place) == {zone: pickups(files)[zone] for zone in zones}
    assert passed(result) == {**GOOD, "every_day_has_trips": True}
    with Image.open(map_path(place)) as picture:
        picture.load()
    assert add_up(place, instance, "2019-01-06", "2019-02-17", manhattan_stats, manhattan_map).success
    assert_counted(place, files, sundays("2019-01-06", "2019-02-17"))
