"""`trips_by_week`: its figures equal those computed from the files without DuckDB, and a failed run changes nothing."""

import csv
import io
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from errno import EEXIST, ENOSPC
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
from filelock import FileLock, Timeout
from PIL import Image

from dagster_essentials import settings
from dagster_essentials.assets.metrics import manhattan_stats, trips_by_week
from dagster_essentials.ingestion.atomic_write import atomic_write
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.reports import manhattan, weekly
from dagster_essentials.reports.plots import plot_weeks
from dagster_essentials.sample import write_month
from dagster_essentials.warehouse.tables import Tables
from dagster_essentials_tests.support.loaded_trips import (
    REAL_FILES,
    Trip,
    daily,
    decode_picture,
    edit_trips,
    load_file,
    load_trips,
    materialized_metadata,
)
from dagster_essentials_tests.support.project import ROOT, Project, failure_text
from dagster_essentials_tests.support.run_results import check_evaluations, month_page, step_log

HEADER = "period,num_trips,total_amount,trip_distance,passenger_count,days\n"


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


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests are about figures: their runs make no picture."""
    monkeypatch.setattr(weekly, "plot_weeks", lambda *_: b"a picture")


def csv_path(project: Project) -> Path:
    return project.folder / "outputs" / "trips_by_week.csv"


def aggregate(
    project: Project, instance: dg.DagsterInstance, first: str, last: str | None = None, *others: dg.AssetsDefinition
) -> dg.ExecuteInProcessResult:
    """Materialize the weeks from `first` to `last` (their Sundays) in this process; errors do not raise."""
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
    return dg.materialize(
        [trips_by_week, *others],
        instance=instance,
        resources={"database": project.resource()},
        raise_on_error=False,
        **({"tags": tags} if last else {"partition_key": first}),
    )


def add(one: list[Decimal], other: list[Decimal]) -> list[Decimal]:
    return [first + second for first, second in zip(one, other, strict=True)]


@cache
def read_days(file: Path, modified: int) -> dict[date, list[Decimal]]:
    """The trips, dollars, miles and passengers of each day in `file`, in decimal numbers."""
    names = ["tpep_pickup_datetime", "total_amount", "trip_distance", "passenger_count"]
    columns = pq.read_table(file, columns=names).to_pydict()
    days: dict[date, list[Decimal]] = defaultdict(lambda: [Decimal(0)] * 4)
    for at, *values in zip(*(columns[name] for name in names), strict=True):
        known = [Decimal(0) if value is None or value != value else Decimal(repr(value)) for value in values]
        days[at.date()] = add(days[at.date()], [Decimal(1), *known])
    return days


def expected_csv(files: Iterable[Path], weeks: Iterable[str]) -> str:
    """The expected CSV of `weeks`, computed from `files`."""
    days: dict[str, set[date]] = defaultdict(set)
    files = list(files)
    months = {re.findall(r"\d{4}-\d{2}", file.name)[-1] for file in files}
    sums: dict[str, list[Decimal]] = {week: [Decimal(0)] * 4 for week in weeks}
    for file in files:
        for day, values in read_days(file, file.stat().st_mtime_ns).items():
            week = (day - timedelta(days=day.isoweekday() % 7)).isoformat()
            if day.strftime("%Y-%m") in months:
                days[week].add(day)
            if week in sums:
                sums[week] = add(sums[week], values)
    return HEADER + "".join(
        f"{week},{trips},{dollars:.2f},{miles:.2f},{passengers:.0f},{len(days[week])}\n"
        for week, (trips, dollars, miles, passengers) in sorted(sums.items())
    )


def table(project: Project) -> list[tuple[Any, ...]]:
    """The rows of trips_by_week, if there are any."""
    if not project.query("SELECT 1 FROM duckdb_tables() WHERE table_name = 'trips_by_week'"):
        return []
    return project.query(
        "SELECT period, num_trips, total_amount, trip_distance, passenger_count, days FROM trips_by_week ORDER BY period"
    )


def assert_weeks(project: Project, files: Iterable[Path], weeks: Iterable[str]) -> None:
    """The CSV and the table have `weeks` and no others, with the figures of `files`."""
    expected = expected_csv(files, weeks)
    assert csv_path(project).read_text() == expected
    assert table(project) == [
        (date.fromisoformat(week), int(trips), float(dollars), float(miles), int(passengers), int(number))
        for week, trips, dollars, miles, passengers, number in csv.reader(expected.splitlines()[1:])
    ]
    assert project.temporary_files() == []


def materialized(instance: dg.DagsterInstance) -> set[str]:
    return instance.get_materialized_partitions(trips_by_week.key)


def days_without_trips(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> str:
    """The days that the check `every_day_has_trips` has found in a run, of all loaded months."""
    ((name, evaluation),) = check_evaluations(instance, result.run_id).items()
    assert (name, evaluation.severity) == ("every_day_has_trips", dg.AssetCheckSeverity.WARN)
    days = evaluation.metadata["days_without_trips"].value
    assert evaluation.passed == (days == "none")
    assert evaluation.description == f"Days of the loaded months without trips: {days}."
    return str(days)


def days(month: str, *numbers: int) -> str:
    return ", ".join(f"{month}-{number:02}" for number in numbers)


@pytest.mark.parametrize("first", ["2019-01-06", "2020-04-05", "2025-02-02"])
def test_a_range_of_real_weeks_has_the_figures_of_the_files(
    first: str, real: Project, instance: dg.DagsterInstance
) -> None:
    weeks = [week for week in REAL_WEEKS if week[:4] == first[:4]]
    assert aggregate(real, instance, weeks[0], weeks[-1]).success
    assert_weeks(real, REAL_FILES, weeks)
    assert materialized(instance) == set(weeks)
    assert all(trips > 300 for _, trips, *_ in table(real))


def test_weeks_one_by_one_in_any_order_give_the_same_as_a_range(real: Project, instance: dg.DagsterInstance) -> None:
    weeks = ["2019-02-24", "2019-01-06", "2025-02-16", "2020-04-12", "2019-01-27"]
    for number, week in enumerate(weeks, start=1):
        assert aggregate(real, instance, week).success
        assert_weeks(real, REAL_FILES, weeks[:number])
    before = table(real)
    assert aggregate(real, instance, "2019-01-06", "2019-03-24").success
    assert set(before) < set(table(real))
    assert_weeks(real, REAL_FILES, {*weeks, *sundays("2019-01-06", "2019-03-24")})


def test_a_week_that_is_aggregated_again_replaces_its_row(real: Project, instance: dg.DagsterInstance) -> None:
    for _ in range(2):
        assert aggregate(real, instance, "2019-01-06", "2019-01-20").success
        assert_weeks(real, REAL_FILES, sundays("2019-01-06", "2019-01-20"))
    with real.connect() as tables:
        tables.execute("UPDATE trips_by_week SET num_trips = 1")
    assert aggregate(real, instance, "2019-01-13").success
    assert [trips == 1 for _, trips, *_ in table(real)] == [True, False, True]


def test_a_week_is_from_midnight_on_sunday_to_midnight_after_saturday(
    project: Project, instance: dg.DagsterInstance
) -> None:
    file = load_trips(
        project,
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
    assert aggregate(project, instance, "2023-01-08").success
    assert csv_path(project).read_text() == HEADER + "2023-01-08,2,110.00,2.00,2,2\n"
    assert aggregate(project, instance, "2023-01-08", "2023-01-15").success
    assert csv_path(project).read_text() == HEADER + "2023-01-08,2,110.00,2.00,2,2\n2023-01-15,2,11000.00,2.00,2,2\n"
    assert_weeks(project, [file], ["2023-01-08", "2023-01-15"])


def test_a_week_over_two_months_has_the_trips_of_both_and_of_every_other_file(
    project: Project, instance: dg.DagsterInstance
) -> None:
    files = [
        load_trips(project, "2023-01", [*daily("2023-01-01", "2023-01-31"), Trip("2023-02-04T10:00:00", dollars=0.01)]),
        load_trips(project, "2023-02", [*daily("2023-02-01", "2023-02-28"), Trip("2023-01-10T10:00:00", dollars=0.02)]),
        load_trips(project, "2024-05", [*daily("2024-05-01", "2024-05-31"), Trip("2023-01-29T00:00:00", dollars=0.04)]),
    ]
    assert aggregate(project, instance, "2023-01-08", "2023-01-29").success
    assert_weeks(project, files, sundays("2023-01-08", "2023-01-29"))
    assert {str(period): (trips, dollars) for period, trips, dollars, *_ in table(project)} == {
        "2023-01-08": (8, 70.02),
        "2023-01-15": (7, 70.0),
        "2023-01-22": (7, 70.0),
        "2023-01-29": (9, 70.05),
    }


def test_trips_without_vendor_or_passengers_are_trips(project: Project, instance: dg.DagsterInstance) -> None:
    file = load_trips(
        project,
        "2023-01",
        [
            *daily("2023-01-08", "2023-01-14", vendor=None),
            *daily("2023-01-08", "2023-01-10", passengers=3),
            *daily("2023-01-15", "2023-01-21", vendor=None, passengers=None, dollars=-2.5, miles=0.0),
        ],
    )
    result = aggregate(project, instance, "2023-01-08", "2023-01-15")
    assert result.success
    assert csv_path(project).read_text() == HEADER + "2023-01-08,10,100.00,10.00,16,7\n2023-01-15,7,-17.50,0.00,0,7\n"
    assert_weeks(project, [file], ["2023-01-08", "2023-01-15"])
    # A trip without passengers is a trip.
    assert days_without_trips(instance, result) == days("2023-01", *range(1, 8), *range(22, 32))


def test_nan_and_infinity_are_left_out_of_their_sums_only(project: Project, instance: dg.DagsterInstance) -> None:
    load_trips(project, "2023-01", daily("2023-01-08", "2023-01-14"))
    edit_trips(
        project,
        "UPDATE trips SET total_amount = 'NaN' WHERE pickup_datetime::DATE = '2023-01-08'",
        "UPDATE trips SET trip_distance = 'Infinity' WHERE pickup_datetime::DATE = '2023-01-09'",
        "UPDATE trips SET passenger_count = 'NaN' WHERE pickup_datetime::DATE = '2023-01-10'",
    )
    assert aggregate(project, instance, "2023-01-08").success
    assert csv_path(project).read_text() == HEADER + "2023-01-08,7,60.00,6.00,6,7\n"


@pytest.mark.parametrize("column", ["trip_distance", "partition_date"])
def test_weeks_that_cannot_be_aggregated_fail_and_are_named(
    project: Project, instance: dg.DagsterInstance, column: str
) -> None:
    load_trips(project, "2023-01", daily("2023-01-08", "2023-01-21"))
    edit_trips(project, f"ALTER TABLE trips DROP COLUMN {column}")
    text = failure_text(aggregate(project, instance, "2023-01-08", "2023-01-15"))
    assert "2 of 2 weeks failed:\nweek of 2023-01-08, week of 2023-01-15: " in text
    assert column in text
    assert "rename or drop it" in text
    for record in instance.fetch_observations(trips_by_week.key, limit=10).records:
        assert record.asset_observation is not None
        assert column in str(record.asset_observation.metadata["failed"].value), "each week's page has the reason"


def test_sums_of_many_trips_are_exact_to_the_cent(project: Project, instance: dg.DagsterInstance) -> None:
    # A naive sum of floating point numbers loses some of many cents beside a large number.
    trips = [
        Trip("2023-01-09T09:00:00", dollars=1e11),
        *(Trip("2023-01-09T10:00:00", dollars=0.01) for _ in range(5000)),
    ]
    file = load_trips(project, "2023-01", [*trips, Trip("2023-01-09T11:00:00", dollars=-1e11)])
    assert aggregate(project, instance, "2023-01-08").success
    assert_weeks(project, [file], ["2023-01-08"])
    assert table(project)[0][2] == 50.0


def test_a_week_without_trips_in_a_loaded_month_is_a_row_of_zeros_with_a_warning(
    project: Project, instance: dg.DagsterInstance
) -> None:
    load_trips(project, "2023-02", daily("2023-02-01", "2023-02-11") + daily("2023-02-20", "2023-02-28"))
    result = aggregate(project, instance, "2023-02-05", "2023-02-19")
    assert result.success
    assert csv_path(project).read_text() == (
        HEADER + "2023-02-05,7,70.00,7.00,7,7\n2023-02-12,0,0.00,0.00,0,0\n2023-02-19,6,60.00,6.00,6,6\n"
    )
    assert materialized(instance) == {"2023-02-05", "2023-02-12", "2023-02-19"}
    assert days_without_trips(instance, result) == days("2023-02", *range(12, 20))
    pages = {week: month_page(instance, trips_by_week, week)["days_without_trips"] for week in materialized(instance)}
    assert pages == {
        "2023-02-05": "none",
        "2023-02-12": days("2023-02", *range(12, 19)),
        "2023-02-19": "2023-02-19",
    }
    # It is about all loaded months, not about the weeks of the run.
    assert days_without_trips(instance, aggregate(project, instance, "2023-02-05")) == days("2023-02", *range(12, 20))


def test_days_before_the_first_month_are_aggregated_but_not_required(
    project: Project, instance: dg.DagsterInstance
) -> None:
    # The tests' first month is January 2011; its first day is the last of a week.
    file = load_trips(project, "2011-01", [Trip("2011-01-01T12:00:00"), Trip("2010-12-31T23:00:00")])
    result = aggregate(project, instance, "2010-12-26", "2011-01-02")
    assert result.success
    assert_weeks(project, [file], ["2010-12-26", "2011-01-02"])
    assert days_without_trips(instance, result) == days("2011-01", *range(2, 32))
    assert month_page(instance, trips_by_week, "2010-12-26")["days_without_trips"] == "none"


def test_days_after_the_last_month_are_aggregated_but_not_required(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, end_date="2023-04-01"))
    file = load_trips(project, "2023-03", [*daily("2023-03-01", "2023-03-31"), Trip("2023-04-01T12:00:00")])
    result = aggregate(project, instance, "2023-03-26")
    assert result.success
    assert_weeks(project, [file], ["2023-03-26"])
    assert days_without_trips(instance, result) == "none"


def test_weeks_of_which_days_are_not_loaded_are_marked(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, end_date="2023-04-01"))
    # The trip of 1 April is in the file of March; 15 March is missing in it.
    march = [*daily("2023-03-01", "2023-03-14"), *daily("2023-03-16", "2023-03-31"), Trip("2023-04-01T12:00:00")]
    load_trips(project, "2023-03", march)
    assert aggregate(project, instance, "2023-03-05", "2023-03-26").success
    expected = {"2023-03-05": 7, "2023-03-12": 6, "2023-03-19": 7, "2023-03-26": 6}
    assert {row[0].isoformat(): row[-1] for row in table(project)} == expected
    with open(csv_path(project)) as file:
        assert {row["period"]: int(row["days"]) for row in csv.DictReader(file)} == expected


def test_weeks_of_an_earlier_release_get_their_number_of_days(project: Project, instance: dg.DagsterInstance) -> None:
    load_trips(project, "2023-03", daily("2023-03-01", "2023-03-31"))
    assert aggregate(project, instance, "2023-03-05", "2023-03-19").success
    before = table(project)
    with project.connect() as tables:
        tables.execute("ALTER TABLE trips_by_week DROP COLUMN days")
    assert aggregate(project, instance, "2023-03-19").success
    assert table(project) == before


def test_a_range_is_one_query_and_one_plot(
    real: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    queried: list[list[str]] = []
    plotted: list[dict[date, int]] = []
    marked: list[list[date]] = []
    aggregate_weeks = weekly.aggregate_weeks

    def recording_query(tables: Tables, weeks: Sequence[str]) -> list[weekly.WeeklySummary]:
        queried.append(list(weeks))
        return aggregate_weeks(tables, weeks)

    def recording_plot(trips: Mapping[date, int], incomplete: Sequence[date], is_sample: bool) -> bytes:
        plotted.append(dict(trips))
        marked.append(list(incomplete))
        return plot_weeks(trips, incomplete, is_sample)

    monkeypatch.setattr(weekly, "aggregate_weeks", recording_query)
    monkeypatch.setattr(weekly, "plot_weeks", recording_plot)
    weeks = sundays("2019-01-06", "2019-03-24")
    assert aggregate(real, instance, "2020-04-05").success
    result = aggregate(real, instance, weeks[0], weeks[-1])
    assert queried == [["2020-04-05"], weeks]
    # The plot of a run shows all weeks of the table, and is in the event log once.
    assert plotted[1] == {period: trips for period, trips, *_ in table(real)}
    assert (len(plotted), len(plotted[1])) == (2, 13)
    assert marked[1] == [period for period, *_, number in table(real) if number < 7]
    with_plot = ["weeks" in found for found in materialized_metadata(result, trips_by_week)]
    assert with_plot == [False] * 11 + [True]


def test_the_page_of_a_week_has_its_figures_months_and_data_version(
    real: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weekly, "plot_weeks", plot_weeks)
    result = aggregate(real, instance, "2019-01-20", "2019-01-27")
    first, second = materialized_metadata(result, trips_by_week)
    for found, row in zip((first, second), table(real), strict=True):
        assert [found[name] for name in HEADER.strip().split(",")[1:]] == list(row[1:])
        assert found["path"] == str(csv_path(real))
    assert (first["months"], second["months"]) == ("2019-01", "2019-01, 2019-02")
    with Image.open(io.BytesIO(decode_picture(second["weeks"]))) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= 300
    versions = []
    for _ in range(2):
        aggregate(real, instance, "2019-01-20", "2019-01-27")
        records = instance.fetch_materializations(trips_by_week.key, limit=2).records
        materializations = [record.asset_materialization for record in records]
        versions.append([(found.tags or {})["dagster/data_version"] for found in materializations if found])
    assert versions[0] == versions[1]
    assert versions[0][0] != versions[0][1]


def test_weeks_whose_months_are_not_loaded_fail_and_the_others_are_aggregated(
    real: Project, instance: dg.DagsterInstance
) -> None:
    assert aggregate(real, instance, "2020-04-05").success
    before = table(real)
    with real.connect() as tables:
        tables.execute("DELETE FROM trips WHERE partition_date = '2019-02'")
    result = aggregate(real, instance, "2018-12-30", "2019-03-31")
    assert not result.success
    good = [*sundays("2019-01-06", "2019-01-20"), *sundays("2019-03-03", "2019-03-24")]
    bad = sorted({*sundays("2018-12-30", "2019-03-31")} - {*good})
    assert materialized(instance) == {*good, "2020-04-05"}
    files = [file for file in REAL_FILES if "2019-02" not in file.name]
    assert_weeks(real, files, [*good, "2020-04-05"])
    assert set(before) < set(table(real))
    # Of months that are not loaded, no day is missing.
    assert days_without_trips(instance, result) == "none"
    text = failure_text(result)
    assert f"{len(bad)} of 14 weeks failed; the other 7 are done" in text
    lines = text.splitlines()
    for week in bad:
        assert sum(f"week of {week}" in line for line in lines) == 1
    assert (
        "week of 2018-12-30: 2018-12 is not loaded, and the week has days in it. Materialize taxi_trips_file and "
        "taxi_trips for 2018-12-01 first."
    ) in lines
    # Weeks that fail for the same reason share a line.
    february = ", ".join(f"week of {week}" for week in bad if "2018-12-30" < week < "2019-03")
    assert f"{february}: 2019-02 is not loaded, and the week has days in it. " in text
    assert "week of 2019-03-31: 2019-04 is not loaded, and the week has days in it. " in text
    *weeks, summary = step_log(instance, result.run_id, "trips_by_week")
    for number, (week, line) in enumerate(zip([*bad, *good], weeks, strict=True), start=1):
        rest = r" failed: 20\d\d-\d\d is not loaded, and " if week in bad else r": [\d,]+ trips$"
        assert re.match(rf"week of {week} \({number} of 14\){rest}", line), line
    assert re.match(r"7 of 14 weeks aggregated: [\d,]+ trips, in \d+\.\d s; failed: week of 2018-12-30, ", summary)


def test_the_error_of_a_week_without_both_months_names_both(project: Project, instance: dg.DagsterInstance) -> None:
    load_trips(project, "2023-05", daily("2023-05-01", "2023-05-31"))
    text = failure_text(aggregate(project, instance, "2023-01-29"))
    assert "2023-01 and 2023-02 are not loaded, and the week has days in them." in text
    assert "for 2023-01-01,2023-02-01 first" in text


@pytest.mark.parametrize("found", ["no database", "no trips", "empty trips"])
def test_without_any_month_every_week_fails_and_nothing_is_written(
    found: str, project: Project, instance: dg.DagsterInstance
) -> None:
    if found == "empty trips":
        load_trips(project, "2023-05", daily("2023-05-01", "2023-05-31"))
    if found != "no database":
        with project.connect() as tables:
            tables.execute("DELETE FROM trips" if found == "empty trips" else "CREATE TABLE other (a INTEGER)")
    text = failure_text(aggregate(project, instance, "2023-01-08", "2023-01-15"))
    assert "2 of 2 weeks failed:" in text
    assert "taxi_trips for 2023-01-01 first" in text
    assert materialized(instance) == set()
    assert not csv_path(project).exists()
    assert table(project) == []


def test_a_failed_week_keeps_the_row_of_an_earlier_run(real: Project, instance: dg.DagsterInstance) -> None:
    assert aggregate(real, instance, "2019-01-06", "2019-03-03").success
    before, file = table(real), csv_path(real).read_bytes()
    with real.connect() as tables:
        tables.execute("DELETE FROM trips WHERE partition_date = '2019-02'")
    assert not aggregate(real, instance, "2019-02-03", "2019-02-24").success
    assert (table(real), csv_path(real).read_bytes()) == (before, file)


def test_a_csv_that_was_changed_by_hand_is_correct_after_the_next_run(
    real: Project, instance: dg.DagsterInstance
) -> None:
    weeks = sundays("2019-01-06", "2019-01-20")
    assert aggregate(real, instance, weeks[0], weeks[-1]).success
    path = csv_path(real)
    for change in ("deleted", "folder deleted", "garbage", "header only", "extra rows", "empty"):
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
        weeks = sundays(weeks[0], (date.fromisoformat(weeks[-1]) + timedelta(days=7)).isoformat())
        assert aggregate(real, instance, weeks[-1]).success, change
        assert_weeks(real, REAL_FILES, weeks)


@contextmanager
def atomic_write_to_full_disk(path: Path, files: DataFolder) -> Iterator[Path]:
    """An `atomic_write` whose temporary file is on a disk without any room."""
    with atomic_write(path, files) as temporary:
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        yield temporary


@pytest.mark.parametrize(
    "fault",
    [
        "file instead of folder",
        pytest.param(
            "disk full", marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
        ),
    ],
)
def test_if_the_csv_cannot_be_written_table_and_file_are_unchanged(
    fault: str, real: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert aggregate(real, instance, "2019-01-06").success
    with real.connect() as tables:
        tables.execute("UPDATE trips_by_week SET num_trips = 1")
    before, file = table(real), csv_path(real).read_bytes()
    if fault == "file instead of folder":
        kept = csv_path(real).parent.rename(real.folder / "kept") / "trips_by_week.csv"
        (real.folder / "outputs").write_text("not a folder")
    else:
        kept = csv_path(real)
        monkeypatch.setattr(weekly, "atomic_write", atomic_write_to_full_disk)
    text = failure_text(aggregate(real, instance, "2019-01-06", "2019-01-13"))
    path = csv_path(real) if fault == "disk full" else csv_path(real).parent
    reason = os.strerror(ENOSPC if fault == "disk full" else EEXIST)
    assert f"week of 2019-01-06, week of 2019-01-13: {path} could not be written ({reason})" in text
    assert "Free some disk space" in text or fault != "disk full"
    assert "DUCKDB_DATABASE" not in text
    assert "materialize again" in text
    assert (table(real), kept.read_bytes()) == (before, file)
    assert materialized(instance) == {"2019-01-06"}
    assert real.temporary_files() == []


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (
            "CREATE TABLE trips_by_week (period VARCHAR, trips INTEGER)",
            "the table trips_by_week in .* no column num_trips",
        ),
        ("CREATE TABLE trips_by_week (week DATE)", "the table trips_by_week in .* has no column period"),
        ("CREATE VIEW trips_by_week AS SELECT 1 AS period", "trips_by_week in .*/data.duckdb is a view"),
    ],
)
def test_a_table_that_something_else_made_is_unchanged_and_named(
    made: str, named: str, project: Project, instance: dg.DagsterInstance
) -> None:
    load_trips(project, "2023-01", daily("2023-01-01", "2023-01-31"))
    with project.connect() as tables:
        tables.execute(made)
    before = project.query("DESCRIBE trips_by_week")
    text = failure_text(aggregate(project, instance, "2023-01-08"))
    assert re.search(f"{named}.*Nothing was changed in it. Rename or drop it", text)
    assert project.query("DESCRIBE trips_by_week") == before
    assert materialized(instance) == set()
    assert not csv_path(project).exists()
    assert project.temporary_files() == []


def test_files_are_written_while_the_database_is_locked(
    real: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise, of two overlapping runs, the one that read first could be the last to write.
    written: list[str] = []

    @contextmanager
    def atomic_write_under_lock(path: Path, files: DataFolder) -> Iterator[Path]:
        with atomic_write(path, files) as temporary:
            yield temporary
        with pytest.raises(Timeout):
            FileLock(real.database.with_name("data.duckdb.lock")).acquire(timeout=0)
        written.append(path.name)

    for module in (weekly, manhattan):
        monkeypatch.setattr(module, "atomic_write", atomic_write_under_lock)
    assert aggregate(real, instance, "2019-01-06", None, manhattan_stats).success
    assert sorted(written) == ["manhattan_stats.geojson", "trips_by_week.csv"]


# One process that has imported everything, so that its children all want the database at the same moment: a first run
# imports modules for a second.
AGGREGATE_CONCURRENTLY = """
import multiprocessing, sys
import dagster as dg
from dagster_essentials.assets.metrics import trips_by_week
from dagster_essentials.reports import weekly
from dagster_essentials.resources import database_resource

weekly.plot_weeks = lambda *_: b"a picture"

@dg.asset
def first_run():
    pass

def aggregate(week, start):
    start.wait()
    dg.materialize([trips_by_week], partition_key=week, resources={"database": database_resource})

dg.materialize([first_run])
weeks = sys.argv[1:]
fork = multiprocessing.get_context("fork")
start = fork.Barrier(len(weeks))
children = [fork.Process(target=aggregate, args=(week, start)) for week in weeks]
for child in children:
    child.start()
for child in children:
    child.join()
sys.exit(sum(child.exitcode != 0 for child in children))
"""


def test_three_concurrent_runs_of_a_week_each_are_all_in_the_csv(project: Project) -> None:
    files = []
    for month in ("2023-01", "2023-02"):
        files.append(write_month(project.folder / "source", month, 2000))
        load_file(project, month, files[-1])
    weeks = ["2023-01-08", "2023-01-29", "2023-02-12"]
    result = subprocess.run(
        [sys.executable, "-c", AGGREGATE_CONCURRENTLY, *weeks],
        cwd=ROOT,
        env={**project.env(), "TAXI_START_DATE": "2023-01-01", "DAGSTER_HOME": ""},
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-5000:]
    assert_weeks(project, files, weeks)
