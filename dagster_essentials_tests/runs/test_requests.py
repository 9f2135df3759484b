"""`adhoc_request`: the picture shows the trips of the files, and a failed run leaves neither picture nor materialization."""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from io import BytesIO
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dagster_essentials import defs
from dagster_essentials.assets.requests import adhoc_request
from dagster_essentials.datasets.zones import read_zones
from dagster_essentials.datasets.zones_table import replace_zones
from dagster_essentials.reports import requests as report
from dagster_essentials.reports.plots import plot_hours
from dagster_essentials.resources import LockedDuckDBResource
from dagster_essentials.sample import write_month, write_zones
from dagster_essentials.sensors import adhoc_request_sensor
from dagster_essentials.warehouse.file import file_tables
from dagster_essentials_tests.support.loaded_trips import (
    daily,
    decode_picture,
    edit_trips,
    load_trips,
    materialized_metadata,
)
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import DISK, REAL_DATA, REAL_MONTHS, Project, failure_text
from dagster_essentials_tests.support.run_results import step_log


@dataclass(frozen=True)
class Source:
    """A folder like the TLC's, the months of it that are loaded, and the database they are loaded into."""

    folder: Path
    months: tuple[str, ...]
    database: Path

    def file(self, month: str) -> Path:
        return self.folder / "trip-data" / f"yellow_tripdata_{month}.parquet"

    def zones(self, borough: str) -> set[int]:
        csv.field_size_limit(1 << 24)
        with open(self.folder / "taxi_zones.csv", newline="", encoding="utf-8") as file:
            return {int(row["OBJECTID"]) for row in csv.DictReader(file) if row["borough"] == borough}

    def count(self, borough: str, start: str, end: str) -> Counter[tuple[int, int]]:
        """The trips by hour and day of the week (Sunday is 0), counted in the files one by one."""
        zones, first, after = self.zones(borough), date.fromisoformat(start), date.fromisoformat(end)
        return Counter(
            (moment.hour, moment.isoweekday() % 7)
            for month in self.months
            for moment, zone in read_pickups(self.file(month))
            if first <= moment.date() < after and zone in zones
        )


@cache
def read_pickups(path: Path) -> list[tuple[datetime, int]]:
    """The time and the zone at which each trip of a file began."""
    table = pq.read_table(path, columns=["tpep_pickup_datetime", "PULocationID"])
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


# Around the beginning and end of 10 and 11 February 2023, a Friday and a Saturday, and of hours in between.
MOMENTS = (
    datetime(2023, 2, 9, 23, 59, 59, 999_999),
    datetime(2023, 2, 10, 0, 0, 0),
    datetime(2023, 2, 10, 0, 59, 59, 999_999),
    datetime(2023, 2, 10, 1, 0, 0),
    datetime(2023, 2, 10, 23, 59, 59),
    datetime(2023, 2, 11, 0, 0, 0),
    datetime(2023, 2, 11, 0, 0, 0),
    datetime(2023, 2, 11, 23, 59, 59, 999_999),
    datetime(2023, 2, 12, 0, 0, 0),
)


@pytest.fixture(scope="module")
def sample_source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Generated trips of January and February 2023, those from the Bronx at `MOMENTS` and at no other time."""
    folder = tmp_path_factory.mktemp("source")
    source = Source(folder, ("2023-01", "2023-02"), folder / "data.duckdb")
    zones_file = write_zones(source.folder / "taxi_zones.csv")
    bronx, queens = source.zones("Bronx"), source.zones("Queens")
    for month in source.months:
        path = write_month(source.folder / "trip-data", month, 3000)
        table = pq.read_table(path)
        zones = table.schema.get_field_index("PULocationID")
        elsewhere = [min(queens) if zone in bronx else zone for zone in table.column(zones).to_pylist()]
        moments = table.schema.get_field_index("tpep_pickup_datetime")
        times = table.column(moments).to_pylist()
        if month == "2023-02":
            elsewhere[: len(MOMENTS)] = [min(bronx)] * len(MOMENTS)
            times[: len(MOMENTS)] = MOMENTS
        table = table.set_column(zones, table.field(zones), pa.array(elsewhere, table.field(zones).type))
        table = table.set_column(moments, table.field(moments), pa.array(times, table.field(moments).type))
        pq.write_table(table, path)
    with file_tables(source.database, {}, wait_seconds=0, log=print) as tables:
        for month in source.months:
            load_month(tables, month, source.file(month))
        replace_zones(tables, read_zones(zones_file, DISK))
    return source


@pytest.fixture(scope="module")
def real_source(real_database: Path) -> Source:
    """The published sample months and zones."""
    return Source(REAL_DATA, REAL_MONTHS, real_database)


@dataclass
class Requests:
    """A project whose job answers requests, and the counts and titles that were plotted."""

    project: Project
    instance: dg.DagsterInstance
    plotted: list[tuple[Mapping[tuple[int, int], int], str]]
    days: list[Mapping[int, int]]

    @property
    def outputs(self) -> Path:
        return self.project.folder / "outputs"

    def run(self, run_config: Mapping[str, Any]) -> dg.ExecuteInProcessResult:
        result: dg.ExecuteInProcessResult = defs.resolve_job_def("adhoc_request_job").execute_in_process(
            run_config=run_config,
            instance=self.instance,
            resources={"database": LockedDuckDBResource(database=str(self.project.database), wait_seconds=60)},
            raise_on_error=False,
        )
        return result

    def answer(self, borough: str, start: str, end: str, filename: str = "a.json") -> dg.ExecuteInProcessResult:
        config = {"filename": filename, "borough": borough, "start_date": start, "end_date": end}
        return self.run({"ops": {"adhoc_request": {"config": config}}})


@pytest.fixture
def requests(project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Requests:
    """Requests to an empty database."""
    requests = Requests(project, instance, [], [])

    def record_and_plot(
        trips: Mapping[tuple[int, int], int], days: Mapping[int, int], title: str, is_sample: bool
    ) -> bytes:
        requests.plotted.append((dict(trips), title))
        requests.days.append(dict(days))
        return plot_hours(trips, days, title, is_sample)

    monkeypatch.setattr(report, "plot_hours", record_and_plot)
    return requests


@pytest.fixture
def sample_requests(requests: Requests, sample_source: Source) -> Requests:
    """Requests to a database with the sample months."""
    return with_database(requests, sample_source)


def with_database(requests: Requests, source: Source) -> Requests:
    requests.project.database.parent.mkdir(parents=True)
    shutil.copyfile(source.database, requests.project.database)
    return requests


def metadata(result: dg.ExecuteInProcessResult) -> Mapping[str, Any]:
    (found,) = materialized_metadata(result, adhoc_request)
    return found


def check(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.asset_key, evaluation.check_name) == (adhoc_request.key, "period_is_loaded")
    return evaluation


PERIODS = {
    "all": ("2023-01-01", "2023-03-01", "2019-01-01", "2019-04-01"),
    "across months": ("2023-01-15", "2023-02-11", "2019-01-15", "2019-03-11"),
    "one day": ("2023-02-10", "2023-02-11", "2019-03-10", "2019-03-11"),
}


@pytest.mark.parametrize("months", ["sample_source", "real_source"])
def test_the_picture_shows_the_trips_of_the_files(
    months: str, requests: Requests, request: pytest.FixtureRequest
) -> None:
    source: Source = request.getfixturevalue(months)
    with_database(requests, source)
    periods = [dates[:2] if months == "sample_source" else dates[2:] for dates in PERIODS.values()]
    with requests.project.connect() as tables:
        for borough, (start, end) in product(("Bronx", "Manhattan", "Queens"), periods):
            answer = report.answer_request(tables, report.Request("a.json", borough, start, end))
            assert answer.trips == source.count(borough, start, end), (borough, start, end)

    # The last one, by the job.
    result = requests.answer(borough, start, end, "été 1.json")

    assert result.success
    expected = source.count(borough, start, end)
    ((shown, title),) = requests.plotted
    assert shown == expected
    found = metadata(result)
    assert found["num_trips"] == expected.total()
    assert (found["borough"], found["start_date"], found["end_date"]) == (borough, start, end)
    last = date.fromisoformat(end) - timedelta(days=1)
    assert title == f"Yellow taxi trips from {borough}, {start} to {last}: {expected.total():,}"
    assert check(result).passed
    assert [path.name for path in requests.outputs.iterdir()] == ["été 1.png"]


def test_the_period_is_from_midnight_of_the_first_day_to_midnight_of_the_end(sample_requests: Requests) -> None:
    assert sample_requests.answer("Bronx", "2023-02-10", "2023-02-12").success
    ((shown, _),) = sample_requests.plotted
    assert shown == {(0, 5): 2, (1, 5): 1, (23, 5): 1, (0, 6): 2, (23, 6): 1}


def test_a_trip_counts_on_its_day_whichever_months_file_it_is_in(requests: Requests, real_source: Source) -> None:
    with_database(requests, real_source)
    result = requests.answer("Queens", "2019-03-30", "2019-04-13")
    expected = real_source.count("Queens", "2019-03-30", "2019-04-13")
    assert expected.total() == 1 + real_source.count("Queens", "2019-03-30", "2019-04-01").total()
    assert requests.plotted[0][0] == expected
    assert not check(result).passed


def test_the_picture_is_a_png_that_is_in_the_metadata_as_well(sample_requests: Requests) -> None:
    result = sample_requests.answer("Manhattan", "2023-01-01", "2023-03-01", "my request.json")
    path = sample_requests.outputs / "my request.png"
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        width, height = image.size
        assert 1200 <= width <= 2000
        assert 300 <= height <= 1500
        colours = image.convert("RGB").getcolors(1 << 20)
        assert colours is not None
        assert len(colours) > 20
    found = metadata(result)
    assert found["path"] == str(path)
    assert decode_picture(found["picture"]) == content
    assert sample_requests.project.temporary_files() == []


def test_equal_requests_give_the_same_bytes_and_different_ones_do_not(sample_requests: Requests) -> None:
    for filename, end in (("a.json", "2023-02-11"), ("b.json", "2023-02-11"), ("c.json", "2023-02-12")):
        assert sample_requests.answer("Queens", "2023-01-15", end, filename).success
    first, same, other = ((sample_requests.outputs / f"{name}.png").read_bytes() for name in "abc")
    assert first == same
    assert first != other


def test_a_changed_request_replaces_its_picture(sample_requests: Requests) -> None:
    pictures = []
    for borough in ("Queens", "Manhattan"):
        assert sample_requests.answer(borough, "2023-01-01", "2023-02-01").success
        pictures.append((sample_requests.outputs / "a.png").read_bytes())
    assert pictures[0] != pictures[1]
    assert [path.name for path in sample_requests.outputs.iterdir()] == ["a.png"]


def colours(trips: Mapping[tuple[int, int], int], days: Mapping[int, int]) -> list[tuple[int, ...]]:
    """The colour of each cell of the picture, row by row, inside the dark frame of the axes."""
    image = np.asarray(Image.open(BytesIO(plot_hours(trips, days, "title", True))).convert("RGB")).astype(int)
    height, width, _ = image.shape
    # Grey, unlike the darkest purple.
    dark = (image.max(axis=2) < 120) & (np.ptp(image, axis=2) < 10)
    rows = [y for y in range(height) if dark[y].sum() > width * 0.6]
    top, bottom = rows[0], rows[-1]
    columns = [x for x in range(int(width * 0.9)) if dark[top:bottom, x].mean() > 0.95]
    left, right = columns[0], columns[-1]
    return [
        tuple(
            map(int, image[int(top + (bottom - top) * (row + 0.5) / 7), int(left + (right - left) * (hour + 0.5) / 24)])
        )
        for row in range(7)
        for hour in range(24)
    ]


def test_equal_means_have_one_colour_whatever_the_number_of_days() -> None:
    days = {day: 2 + (day == 2) for day in range(7)}
    trips = {(hour, day): 60 * number for hour in range(24) for day, number in days.items()}
    assert len(set(colours(trips, days))) == 1
    # By the sum, Tuesday would be the darkest.
    trips[(5, 3)] += 60
    found = colours(trips, days)
    darkest = min(found, key=sum)
    assert [divmod(position, 24) for position, colour in enumerate(found) if colour == darkest] == [(3, 5)]


def test_more_trips_are_darker_and_a_day_that_is_not_loaded_is_grey() -> None:
    trips = {(hour, day): 24 * day + hour for hour in range(24) for day in range(6)}
    found = colours(trips, dict.fromkeys(range(6), 1))
    brightness = [sum(colour) for colour in found[: 6 * 24]]
    assert all(darker <= lighter + 3 for lighter, darker in pairwise(brightness))
    assert set(found[6 * 24 :]) == {(0xDD, 0xDD, 0xDD)}


@pytest.mark.parametrize(
    ("start", "end"), [("2023-01-10", "2023-01-25"), ("2023-02-10", "2023-02-11"), ("2022-12-24", "2023-01-03")]
)
def test_the_mean_is_over_the_days_that_are_loaded(start: str, end: str, sample_requests: Requests) -> None:
    assert sample_requests.answer("Queens", start, end).success
    every = [date.fromisoformat(start) + timedelta(days=number) for number in range(40)]
    loaded = [day for day in every if "2023-01-01" <= day.isoformat() < end]
    assert sample_requests.days == [Counter((day.weekday() + 1) % 7 for day in loaded)]


@pytest.mark.parametrize(
    ("start", "end", "missing"),
    [
        ("2023-01-20", "2023-03-02", "2023-03"),
        ("2022-12-31", "2023-02-01", "2022-12"),
        ("2022-12-31", "2023-04-01", "2022-12, 2023-03"),
        ("2022-01-01", "2023-02-01", "12 months from 2022-01 to 2022-12"),
        ("0001-01-01", "2023-02-01", "24264 months from 0001-01 to 2022-12"),
    ],
)
def test_months_of_the_period_that_are_not_loaded_are_named_in_the_picture(
    start: str, end: str, missing: str, sample_requests: Requests, sample_source: Source
) -> None:
    result = sample_requests.answer("Manhattan", start, end)
    assert result.success
    ((shown, title),) = sample_requests.plotted
    # The samples have no trips before 2001, so the files are counted from there.
    assert shown == sample_source.count("Manhattan", max(start, "2000-01-01"), end)
    assert title.endswith(f"\nwithout {missing}: not loaded")
    evaluation = check(result)
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert evaluation.metadata["months_not_loaded"].value == missing
    assert evaluation.description == f"Months of a.json that are not loaded: {missing}."
    assert (sample_requests.outputs / "a.png").exists()


@pytest.mark.parametrize("end", ["2023-03-01", "2023-02-02"])
def test_the_end_date_itself_needs_no_month(end: str, sample_requests: Requests) -> None:
    evaluation = check(sample_requests.answer("Manhattan", "2023-02-01", end))
    assert evaluation.passed
    assert evaluation.metadata["months_not_loaded"].value == "none"


def test_a_borough_without_trips_is_an_empty_plot(sample_requests: Requests) -> None:
    result = sample_requests.answer("Bronx", "2023-01-01", "2023-02-01")
    assert result.success
    assert sample_requests.plotted == [({}, "Yellow taxi trips from Bronx, 2023-01-01 to 2023-01-31: 0")]
    assert metadata(result)["num_trips"] == 0
    assert check(result).passed
    with Image.open(sample_requests.outputs / "a.png") as image:
        image.load()


def causes(result: dg.ExecuteInProcessResult) -> str:
    """The messages of the errors' causes, which the UI and the command line print as well."""
    messages = []
    for event in result.all_events:
        error = event.step_failure_data.error if event.is_step_failure else None
        while error is not None:
            messages.append(error.message)
            error = error.cause
    return "\n".join(messages)


def assert_failed(requests: Requests, result: dg.ExecuteInProcessResult, *parts: str) -> None:
    """The run failed with all `parts` in its error, and there is neither a picture nor a materialization."""
    assert not result.success
    text = failure_text(result) + causes(result)
    assert [part for part in parts if part not in text] == [], text
    assert result.asset_materializations_for_node("adhoc_request") == []
    assert requests.instance.fetch_materializations(adhoc_request.key, limit=1).records == []
    assert not [path for path in requests.project.folder.rglob("*") if path.suffix == ".png"]
    assert requests.project.temporary_files() == []


@pytest.mark.parametrize("database", ["empty", "other months"])
def test_a_period_without_any_loaded_month_fails_with_advice(
    database: str, requests: Requests, sample_source: Source
) -> None:
    if database == "other months":
        with_database(requests, sample_source)
    result = requests.answer("Bronx", "2022-11-30", "2023-01-01", "winter.json")
    assert_failed(
        requests,
        result,
        "winter.json: no trips are loaded for 2022-11, 2022-12. Materialize taxi_trips_file and taxi_trips",
    )
    assert requests.plotted == []


def test_without_the_zones_it_fails_with_advice(requests: Requests) -> None:
    load_trips(requests.project, "2023-01", daily("2023-01-01", "2023-01-31"))
    result = requests.answer("Bronx", "2023-01-01", "2023-02-01")
    assert_failed(requests, result, "a.json: there is no table zones. Materialize taxi_zones_file and taxi_zones")


@pytest.mark.parametrize(("table", "column"), [("trips", "partition_date"), ("zones", "borough")])
def test_a_table_that_something_else_made_is_named_with_the_request(
    table: str, column: str, sample_requests: Requests
) -> None:
    edit_trips(sample_requests.project, f"ALTER TABLE {table} DROP COLUMN {column}")
    result = sample_requests.answer("Bronx", "2023-01-01", "2023-02-01")
    assert "Failure: a.json: the trips could not be counted: " in failure_text(result)
    assert_failed(sample_requests, result, column, "rename or drop it", "execute this run again")


def test_if_the_picture_cannot_be_written_the_error_says_where(sample_requests: Requests) -> None:
    sample_requests.outputs.write_text("a file of its name")
    result = sample_requests.answer("Bronx", "2023-01-01", "2023-02-01")
    assert_failed(sample_requests, result, "a.json: ", str(sample_requests.outputs), "could not be written")
    assert sample_requests.outputs.read_text() == "a file of its name"


def test_a_folder_with_the_name_of_the_picture_is_kept_and_fails_the_run(sample_requests: Requests) -> None:
    (sample_requests.outputs / "a.png").mkdir(parents=True)
    result = sample_requests.answer("Bronx", "2023-01-01", "2023-02-01")
    assert not result.success
    assert "could not be written" in failure_text(result)
    assert (sample_requests.outputs / "a.png").is_dir()
    assert sample_requests.project.temporary_files() == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"borough": "Hoboken"}, "borough 'Hoboken' is none of Bronx, Brooklyn, EWR"),
        ({"borough": "Bronx' OR 1=1 --"}, "OR 1=1"),
        ({"filename": "../evil.json"}, "the name '../evil.json' cannot be a picture's"),
        ({"filename": "manhattan_map.json"}, "manhattan_map.png is the picture of another asset"),
        ({"start_date": "2023-02-30"}, "'2023-02-30' is not a date, written YYYY-MM-DD"),
        ({"end_date": "2023-01-01"}, "end_date 2023-01-01 has to be after start_date 2023-01-01"),
    ],
)
def test_the_launchpad_rejects_what_is_invalid_in_a_file(
    changes: dict[str, str], problem: str, sample_requests: Requests
) -> None:
    good = {"filename": "a.json", "borough": "Bronx", "start_date": "2023-01-01", "end_date": "2023-02-01"}
    result = sample_requests.run({"ops": {"adhoc_request": {"config": {**good, **changes}}}})
    assert_failed(sample_requests, result, problem)
    assert sample_requests.plotted == []


def test_a_request_from_the_launchpad_without_values_is_manhattan_in_the_newest_month(
    sample_requests: Requests, sample_source: Source
) -> None:
    result = sample_requests.run({})
    assert result.success
    expected = sample_source.count("Manhattan", "2023-02-01", "2023-03-01")
    ((shown, title),) = sample_requests.plotted
    assert shown == expected
    assert title == f"Yellow taxi trips from Manhattan, 2023-02-01 to 2023-02-28: {expected.total():,}"
    found = metadata(result)
    assert (found["start_date"], found["end_date"]) == ("2023-02-01", "2023-03-01")
    assert check(result).passed
    assert [path.name for path in sample_requests.outputs.iterdir()] == ["adhoc_request.png"]
    assert step_log(sample_requests.instance, result.run_id, "adhoc_request") == [
        f"adhoc_request.json: {expected.total():,} trips from Manhattan, 2023-02-01 to 2023-02-28, plotted to "
        f"{sample_requests.outputs / 'adhoc_request.png'}; months not loaded: none"
    ]


def test_a_request_without_values_fails_with_advice_if_no_trips_are_loaded(requests: Requests) -> None:
    assert_failed(requests, requests.run({}), "no trips are loaded. Materialize taxi_trips_file and taxi_trips")


@pytest.mark.parametrize("missing", ["start_date", "end_date"])
def test_the_launchpad_rejects_half_a_period_and_unknown_keys(missing: str, sample_requests: Requests) -> None:
    good = {"filename": "a.json", "borough": "Bronx", "start_date": "2023-01-01", "end_date": "2023-02-01"}
    config = {key: value for key, value in good.items() if key != missing}
    result = sample_requests.run({"ops": {"adhoc_request": {"config": config}}})
    assert_failed(sample_requests, result, f"{missing} is missing: give both or neither")
    with pytest.raises(dg.DagsterInvalidConfigError, match="colour"):
        sample_requests.run({"ops": {"adhoc_request": {"config": {**good, "colour": "red"}}}})


def test_values_are_never_sql(sample_requests: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["Bronx') OR 1=1 --", "' OR ''='", "Bronx') OR ($borough='"]
    monkeypatch.setattr("dagster_essentials.reports.requests.BOROUGHS", names)
    for name in names:
        assert sample_requests.answer(name, "2023-01-01", "2023-02-01").success
        assert sample_requests.plotted.pop()[0] == {}


def test_the_request_of_a_file_is_answered(sample_requests: Requests, sample_source: Source, tmp_path: Path) -> None:
    values = {"borough": "Queens", "start_date": "2023-01-10", "end_date": "2023-01-25"}
    (tmp_path / "requests").mkdir()
    (tmp_path / "requests" / "queens 2023.json").write_text(json.dumps(values))
    with dg.build_sensor_context(instance=sample_requests.instance) as context:
        (run_request,) = adhoc_request_sensor.evaluate_tick(context).run_requests or []
    assert sample_requests.run(run_request.run_config).success
    assert sample_requests.plotted[0][0] == sample_source.count("Queens", "2023-01-10", "2023-01-25")
    assert [path.name for path in sample_requests.outputs.iterdir()] == ["queens 2023.png"]
