"""Bad months, bad zones, a full disk, a strange database: the run fails and says why, and nothing that was is lost."""

import logging
import re
import resource
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import duckdb
import pytest

from dagster_essentials.assets import constants, trips
from dagster_essentials.columns import read_layout
from dagster_essentials.recording import record_partition
from dagster_essentials.sample import write_month
from dagster_essentials_tests.support.database_holder import NOTEBOOK, RUN, held, releasing_when_waited_for
from dagster_essentials_tests.support.project import REAL_DATA, Project, failure_text, materialize
from dagster_essentials_tests.support.source_server import Answer, SourceServer, cut_off, status

TRIPS = [trips.taxi_trips_file, trips.taxi_trips]
ZONES = [trips.taxi_zones_file, trips.taxi_zones]

ACCESS_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
ERROR_PAGE = b"<!DOCTYPE html>\n<html><body>Temporarily moved</body></html>\n"
NO_VIEW = b'{\n  "code" : "not_found",\n  "error" : true,\n  "message" : "Cannot find view with id 755u-8jsi"\n}\n'


@cache
def sample(month: str, rows: int = 300) -> bytes:
    """The file of a good month."""
    with TemporaryDirectory() as folder:
        return write_month(Path(folder), month, rows).read_bytes()


def query_file(content: bytes, query: str) -> list[tuple[Any, ...]]:
    """The answer to `query`, which knows the parquet file `content` as the table `month`."""
    with TemporaryDirectory() as folder, duckdb.connect() as connection:
        (Path(folder) / "month.parquet").write_bytes(content)
        connection.execute(f"CREATE VIEW month AS FROM '{folder}/month.parquet'")
        return connection.execute(query).fetchall()


def changed(content: bytes, query: str) -> bytes:
    """The parquet file that `query` makes of the parquet file `content`, which it knows as the table `month`."""
    with TemporaryDirectory() as folder, duckdb.connect() as connection:
        (Path(folder) / "month.parquet").write_bytes(content)
        connection.execute(f"CREATE VIEW month AS FROM '{folder}/month.parquet'")
        connection.execute(f"COPY ({query}) TO '{folder}/changed.parquet' (FORMAT parquet)")
        return (Path(folder) / "changed.parquet").read_bytes()


def damaged(content: bytes) -> bytes:
    """The parquet file `content` with its footer, and zeros where its rows were."""
    footer = 8 + int.from_bytes(content[-8:-4], "little")
    return content[:4] + bytes(len(content) - 4 - footer) + content[-footer:]


BAD_ROWS: dict[str, tuple[Callable[[], bytes], str]] = {
    "damaged rows": (lambda: damaged(sample("2023-01", 400)), r"TProtocolException|Invalid"),
    "half a vendor": (
        lambda: changed(sample("2023-01"), "SELECT * REPLACE (VendorID + 0.5 AS VendorID) FROM month"),
        r"VendorID holds a number that is not whole: [12]\.5",
    ),
    "a zone beyond all numbers": (
        lambda: changed(sample("2023-01"), "SELECT * REPLACE (3000000000 AS PULocationID) FROM month"),
        "3000000000",
    ),
    "a text without end": (
        lambda: changed(sample("2023-01"), "SELECT * REPLACE (repeat('Y', 101) AS store_and_fwd_flag) FROM month"),
        "store_and_fwd_flag holds a text of more than 100 bytes",
    ),
}
"""Files whose footer is good: what each is like, and what is said of it."""


def real(name: str) -> bytes:
    path = REAL_DATA / "bad" / name
    if not path.exists():
        pytest.skip(f"the real {name} is not on this machine")
    return path.read_bytes()


def publish(source_server: SourceServer, month: str, what: bytes | Answer) -> str:
    """Let the source answer with `what` for `month`; returns the address."""
    path = source_server.put_month(month, what if isinstance(what, bytes) else b"")
    source_server.answers.pop(path, None)
    if not isinstance(what, bytes):
        source_server.answers[path] = [what]
    return source_server.url + path


@dataclass(frozen=True)
class State:
    """All that a load could change: the files in the folder of raw files, and the table's columns and rows."""

    files: Mapping[str, bytes]
    columns: list[tuple[Any, ...]]
    rows: list[tuple[Any, ...]]


def state(project: Project) -> State:
    folder = project.folder / "raw"
    files = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}
    if not project.rows():
        return State(files, [], [])
    return State(files, project.query("DESCRIBE trips"), project.query("SELECT * FROM trips ORDER BY ALL"))


@pytest.fixture
def before(project: Project, instance: dg.DagsterInstance, source_server: SourceServer) -> State:
    """January and February 2023 are loaded: what was there before a test."""
    for month in ("2023-01", "2023-02"):
        publish(source_server, month, sample(month))
    assert materialize(project, instance, TRIPS, "2023-01", "2023-02").success
    before = state(project)
    assert len(before.rows) == 600
    return before


def recorded(instance: dg.DagsterInstance, asset: dg.AssetsDefinition) -> list[str | None]:
    """The months for which Dagster has a materialization of `asset`, each as often as it has."""
    records = instance.fetch_materializations(asset.key, limit=1000).records
    return sorted((record.partition_key for record in records), key=str)


def evaluations(instance: dg.DagsterInstance, run_id: str) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    """The results of the checks of a run, by month and name of the check."""
    found: dict[tuple[str, str], dg.AssetCheckEvaluation] = {}
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    for record in records:
        assert record.event_log_entry.dagster_event is not None
        evaluation = record.event_log_entry.dagster_event.asset_check_evaluation_data
        month = str(evaluation.partition)
        assert (month, evaluation.check_name) not in found, "evaluated twice"
        found[month, evaluation.check_name] = evaluation
    return found


def warned(instance: dg.DagsterInstance, run_id: str) -> set[tuple[str, str]]:
    """The checks that did not pass in a run, as month and name; all of them only warn."""
    failed = {key: evaluation for key, evaluation in evaluations(instance, run_id).items() if not evaluation.passed}
    assert {evaluation.severity for evaluation in failed.values()} <= {dg.AssetCheckSeverity.WARN}
    return set(failed)


def log(instance: dg.DagsterInstance, run_id: str, step: str) -> list[str]:
    """What the asset of `step` has said in the log of a run, without Dagster's own lines."""
    entries = instance.all_logs(run_id)
    return [entry.user_message for entry in entries if entry.dagster_event is None and entry.step_key == step]


# Months that are refused

REFUSED: dict[str, tuple[Callable[[], bytes | Answer], str]] = {
    "403": (lambda: status(403, ACCESS_DENIED), r"not published \(the source answered 403\).*materialize it again"),
    "404": (lambda: status(404), r"not published \(the source answered 404\).*materialize it again"),
    "500": (lambda: status(500, ERROR_PAGE), r"answered 500 .*, 5 times in a row.*materialize again"),
    "reset": (
        lambda: cut_off(sample("2023-01", 400), 5000, reset=True),
        r"connection failed .*, 5 times in a row.*materialize again",
    ),
    "short": (lambda: cut_off(sample("2023-01", 400), 5000), r"5000 bytes read.*, 5 times in a row.*materialize again"),
    "an error page": (
        lambda: ERROR_PAGE,
        r"not a whole parquet file.*begins with '<!DOCTYPE html>.*Open the address in a browser",
    ),
    "an empty file": (lambda: b"", r"not a whole parquet file.*It is empty\. Open the address in a browser"),
    "the first half": (
        lambda: sample("2023-01", 400)[:8000],
        r"not a whole parquet file.*its end is missing: 8,000 bytes came\. Materialize again; if it is still so",
    ),
    "a real error page": (
        lambda: real("error_page_saved_as.parquet"),
        r"not a whole parquet file.*\"not_found\".*Open the address in a browser",
    ),
    "a real broken transfer": (
        lambda: real("truncated_2024-01.parquet"),
        r"not a whole parquet file.*its end is missing: 2,471,291 bytes came\.",
    ),
    "no rows": (
        lambda: changed(sample("2023-01"), "FROM month WHERE false"),
        r"the file has no rows.*Materialize again",
    ),
    "no fare": (
        lambda: changed(sample("2023-01"), "SELECT * EXCLUDE fare_amount FROM month"),
        r"no column fare_amount.*Found: VendorID, .*columns\.py has to learn it",
    ),
    "text for a number": (
        lambda: changed(sample("2023-01"), "SELECT * REPLACE ('much' AS total_amount) FROM month"),
        r"column total_amount is VARCHAR.*Expected: DOUBLE.*columns\.py has to learn it",
    ),
    "text for a time": (
        lambda: changed(sample("2023-01"), "SELECT * REPLACE ('noon' AS tpep_pickup_datetime) FROM month"),
        r"column tpep_pickup_datetime is VARCHAR.*Expected: TIMESTAMP.*columns\.py has to learn it",
    ),
    **{
        name: (
            make,
            rf"rows of the file cannot be read, and it was not kept: .*({says}).*Materialize again; if.*columns\.py",
        )
        for name, (make, says) in BAD_ROWS.items()
    },
}


@pytest.mark.parametrize(("bad", "says"), REFUSED.values(), ids=REFUSED)
def test_a_month_that_is_refused_fails_the_run_and_stays_as_it_was(
    project: Project,
    instance: dg.DagsterInstance,
    source_server: SourceServer,
    before: State,
    bad: Callable[[], bytes | Answer],
    says: str,
) -> None:
    url = publish(source_server, "2023-01", bad())

    result = materialize(project, instance, TRIPS, "2023-01")

    assert not result.success
    told = failure_text(result)
    assert f"2023-01 ({url}): " in told
    assert re.search(says, told)
    assert "2023-02" not in told
    assert state(project) == before
    assert recorded(instance, trips.taxi_trips_file) == ["2023-01-01", "2023-02-01"]
    assert recorded(instance, trips.taxi_trips) == ["2023-01-01", "2023-02-01"]

    publish(source_server, "2023-01", sample("2023-01", 250))
    assert materialize(project, instance, TRIPS, "2023-01").success, "it is loaded when the source is right again"
    assert project.rows() == {"2023-01": 250, "2023-02": 300}


@pytest.mark.parametrize("bad", ["403", "short", "an error page", "no rows", "no fare", "damaged rows"])
def test_a_month_that_is_refused_leaves_nothing_where_nothing_was(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, bad: str
) -> None:
    make, says = REFUSED[bad]
    url = publish(source_server, "2023-01", make())

    result = materialize(project, instance, TRIPS, "2023-01")

    assert not result.success
    assert re.search(re.escape(f"2023-01 ({url}): ") + f".*{says}", failure_text(result))
    assert state(project) == State({}, [], [])
    assert recorded(instance, trips.taxi_trips_file) == recorded(instance, trips.taxi_trips) == []


@pytest.mark.parametrize(("bad", "says"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_month_that_was_put_there_by_hand_leaves_the_table_as_it_was(
    project: Project,
    instance: dg.DagsterInstance,
    source_server: SourceServer,
    before: State,
    bad: Callable[[], bytes],
    says: str,
) -> None:
    project.file("2023-01").write_bytes(bad())

    result = materialize(project, instance, [trips.taxi_trips], "2023-01")

    assert not result.success
    told = failure_text(result)
    assert f"2023-01 ({project.file('2023-01')}): loading the file failed, and the month is as it was: " in told
    assert re.search(f"({says}).*Delete the file, and materialize.*columns\\.py", told)
    assert ".partial" not in told, "the file has the name by which a person finds it"
    after = state(project)
    assert (after.columns, after.rows) == (before.columns, before.rows)
    february = project.file("2023-02").name
    assert after.files[february] == before.files[february]
    assert recorded(instance, trips.taxi_trips) == ["2023-01-01", "2023-02-01"]
    assert evaluations(instance, result.run_id) == {}

    publish(source_server, "2023-01", sample("2023-01", 250))
    assert materialize(project, instance, TRIPS, "2023-01").success, "it is loaded when the source is right again"
    assert project.rows() == {"2023-01": 250, "2023-02": 300}


def test_a_month_whose_file_is_not_there_says_what_to_materialize_first(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, before: State
) -> None:
    project.file("2023-01").unlink()

    result = materialize(project, instance, [trips.taxi_trips], "2023-01")

    assert not result.success
    told = failure_text(result)
    assert f"2023-01 ({project.file('2023-01')}): there is no such file. Materialize taxi_trips_file for this" in told
    assert state(project).rows == before.rows


# Months that are odd


def test_another_months_trips_are_loaded_and_warned_of(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    publish(source_server, "2023-01", sample("2023-02", 200))
    publish(source_server, "2023-02", sample("2023-02"))

    result = materialize(project, instance, TRIPS, "2023-01", "2023-02")

    assert result.success
    assert project.rows() == {"2023-01": 200, "2023-02": 300}
    assert warned(instance, result.run_id) == {("2023-01-01", "pickups_in_month")}


def test_a_column_that_nobody_knows_is_left_out_and_warned_of(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    publish(source_server, "2023-01", changed(sample("2023-01"), "SELECT *, 1.25 AS \"New 'Fee'\" FROM month"))
    publish(source_server, "2023-02", sample("2023-02"))

    result = materialize(project, instance, TRIPS, "2023-01", "2023-02")

    assert result.success
    assert project.rows() == {"2023-01": 300, "2023-02": 300}
    assert warned(instance, result.run_id) == {("2023-01-01", "columns_known")}
    evaluation = evaluations(instance, result.run_id)["2023-01-01", "columns_known"]
    assert evaluation.metadata["unknown_columns"].value == "New 'Fee'"


@pytest.mark.parametrize(
    "columns",
    [
        ["total_amount"],
        ["trip_distance"],
        ["tpep_pickup_datetime"],
        ["tpep_dropoff_datetime"],
        ["PULocationID", "DOLocationID"],
    ],
    ids=" and ".join,
)
def test_a_column_without_any_value_is_loaded_and_recorded(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, columns: list[str]
) -> None:
    month = sample("2023-01")
    types = dict(query_file(month, "SELECT column_name, column_type FROM (DESCRIBE month)"))
    nulls = ", ".join(f"NULL::{types[column]} AS {column}" for column in columns)
    publish(source_server, "2023-01", changed(month, f"SELECT * REPLACE ({nulls}) FROM month"))

    result = materialize(project, instance, TRIPS, "2023-01")

    assert result.success
    assert project.rows() == {"2023-01": 300}
    assert recorded(instance, trips.taxi_trips) == ["2023-01-01"]
    counted = {name: evaluation.metadata for (_, name), evaluation in evaluations(instance, result.run_id).items()}
    assert all(isinstance(counted[name]["trips"].value, int) for name in ODDITIES)


# For each check: how to make trips odd in its way, and how to count them in a file. 30 % of 300 are above every limit
# but that of the flex fares; those get 60 %.
ODD = "row_number() OVER () % 10 < 3"
ODDITIES = {
    "pickups_in_month": (
        f"SELECT * REPLACE (if({ODD}, TIMESTAMP '2088-01-24 00:25:39', tpep_pickup_datetime) AS tpep_pickup_datetime, "
        f"if({ODD}, TIMESTAMP '2088-01-24 01:25:39', tpep_dropoff_datetime) AS tpep_dropoff_datetime) FROM month",
        "SELECT count(*) FROM month WHERE strftime(tpep_pickup_datetime, '%Y-%m') != '{month}'",
    ),
    "no_negative_totals": (
        f"SELECT * REPLACE (if({ODD}, -abs(total_amount), total_amount) AS total_amount) FROM month",
        "SELECT count(*) FROM month WHERE total_amount < 0",
    ),
    "no_zero_distances": (
        f"SELECT * REPLACE (if({ODD}, 0, trip_distance) AS trip_distance) FROM month",
        "SELECT count(*) FROM month WHERE trip_distance = 0",
    ),
    "dropoff_after_pickup": (
        f"SELECT * REPLACE (if({ODD}, tpep_pickup_datetime - INTERVAL 1 SECOND, tpep_dropoff_datetime) "
        "AS tpep_dropoff_datetime) FROM month",
        "SELECT count(*) FROM month WHERE tpep_dropoff_datetime < tpep_pickup_datetime",
    ),
    "zones_known": (
        f"SELECT * REPLACE (if({ODD}, 264, PULocationID) AS PULocationID, "
        "if(row_number() OVER () % 10 = 1, 265, DOLocationID) AS DOLocationID) FROM month",
        "SELECT count(*) FROM month WHERE PULocationID >= 264 OR DOLocationID >= 264",
    ),
    "flex_fare_share": (
        "SELECT * REPLACE (if(row_number() OVER () % 10 < 6, NULL, passenger_count) AS passenger_count, "
        "if(row_number() OVER () % 10 < 6, NULL, RatecodeID) AS RatecodeID, "
        "if(row_number() OVER () % 10 < 6, NULL, store_and_fwd_flag) AS store_and_fwd_flag) FROM month",
        "SELECT count(*) FROM month WHERE coalesce(passenger_count, RatecodeID) IS NULL AND store_and_fwd_flag IS NULL",
    ),
    "no_duplicates": (
        f"FROM month UNION ALL SELECT * EXCLUDE odd FROM (SELECT *, {ODD} AS odd FROM month) WHERE odd",
        "SELECT (SELECT count(*) FROM month) - (SELECT count(*) FROM (SELECT DISTINCT * FROM month))",
    ),
}


def test_odd_trips_are_kept_and_counted_month_by_month(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    months = {f"2023-{number:02}": name for number, name in enumerate(ODDITIES, start=1)}
    files = {month: changed(sample(month), ODDITIES[name][0]) for month, name in months.items()}
    for month, content in files.items():
        publish(source_server, month, content)

    result = materialize(project, instance, TRIPS, min(months), max(months))

    assert result.success
    assert project.rows() == {
        month: query_file(content, "SELECT count(*) FROM month")[0][0] for month, content in files.items()
    }
    assert warned(instance, result.run_id) == {(f"{month}-01", name) for month, name in months.items()}
    found = evaluations(instance, result.run_id)
    counted = {key: evaluation.metadata["trips"].value for key, evaluation in found.items() if key[1] in ODDITIES}
    assert counted == {
        (f"{month}-01", name): query_file(content, count.format(month=month))[0][0]
        for month, content in files.items()
        for name, (_, count) in ODDITIES.items()
    }
    assert {key[1] for key in found} == {*ODDITIES, "rows_match_file", "columns_known"}
    # The month's own page names them, and what it was made from.
    materializations = instance.fetch_materializations(trips.taxi_trips.key, limit=len(months)).records
    pages = {str(record.partition_key)[:7]: record.asset_materialization.metadata for record in materializations}  # type: ignore[union-attr]
    assert {month: page["checks_not_passed"].value for month, page in pages.items()} == months
    assert {page["upstream"].value for page in pages.values()} == {trips.taxi_trips_file.key}


def test_the_checks_count_for_the_materialization_that_they_looked_at(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    months = ("2023-01", "2023-02", "2023-03")
    for month in months:
        publish(source_server, month, sample(month))
    result = materialize(project, instance, TRIPS, months[0], months[-1])
    assert materialize(project, instance, TRIPS, "2023-02").success

    names = {name for _, name in evaluations(instance, result.run_id)}
    keys = [dg.AssetCheckKey(trips.taxi_trips.key, name) for name in names]
    states = instance.event_log_storage.get_asset_check_partition_info(keys)

    # A check that points to no materialization, or to an earlier one, counts as missing on its page.
    assert [state for state in states if not state.is_current] == []
    assert {(state.check_key, state.partition_key) for state in states} == {
        (key, f"{month}-01") for key in keys for month in months
    }


@pytest.mark.parametrize("folder", ["env=prod", "VendorID=7", "a * folder", "an [1]", "it's {one}"])
def test_the_name_of_a_folder_adds_and_changes_nothing(
    project: Project,
    instance: dg.DagsterInstance,
    source_server: SourceServer,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))
    # What a pattern would find as well, and first.
    other = project.folder / folder.replace("*", "!") / "taxi_trips_2023-01.parquet"
    other.parent.mkdir()
    other.write_bytes(sample("2023-02", 200))
    place = str(project.folder / folder).replace("{", "{{").replace("}", "}}")
    monkeypatch.setattr(constants, "TAXI_TRIPS_TEMPLATE_FILE_PATH", place + "/taxi_trips_{}.parquet")

    result = materialize(project, instance, TRIPS, "2023-01")

    assert result.success
    assert warned(instance, result.run_id) == set()
    vendors = query_file(sample("2023-01"), "SELECT VendorID::INTEGER, count(*) FROM month GROUP BY ALL ORDER BY ALL")
    assert project.query("SELECT vendor_id, count(*) FROM trips GROUP BY ALL ORDER BY ALL") == vendors
    for asset in TRIPS:
        [record] = instance.fetch_materializations(asset.key, limit=10).records
        assert record.asset_materialization is not None
        assert record.asset_materialization.metadata["dagster/partition_row_count"].value == 300


# A range with a bad month


def test_a_range_tells_how_far_it_is_and_why_a_month_failed_when_it_does(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    files = {"2023-01": sample("2023-01"), "2023-03": sample("2023-03", 200)}
    for month, content in files.items():
        publish(source_server, month, content)

    result = materialize(project, instance, TRIPS, "2023-01", "2023-03")

    fetched = log(instance, result.run_id, "taxi_trips_file")
    here = fetched.pop()
    size = f"{sum(map(len, files.values())) / 1e6:.1f} MB"
    assert re.fullmatch(
        rf"2 of 3 months are here: 500 trips, {size}, {size} of it transferred, in .* s; failed: 2023-02", here
    )
    assert sorted(text.split(")")[0].split("(")[1] for text in fetched) == ["1 of 3", "2 of 3", "3 of 3"]
    assert {text[:7] for text in fetched} == {"2023-01", "2023-02", "2023-03"}
    (failed,) = [text for text in fetched if text.startswith("2023-02")]
    assert re.match(r"2023-02 \(. of 3\) failed \(http.*\): not published", failed)
    first, without_file, second, summary = log(instance, result.run_id, "taxi_trips")
    assert without_file == "2023-02 (2 of 3) failed: its file did not come; taxi_trips_file says why"
    for line, number, month, rows in ((first, 1, "2023-01", 300), (second, 3, "2023-03", 200)):
        megabytes = f"{len(files[month]) / 1e6:.1f} MB"
        assert re.fullmatch(rf"{month} \({number} of 3\): {rows} trips, {megabytes}, loaded in \d\.\d s", line), line
    assert re.fullmatch(rf"2 of 3 months loaded: 500 trips, {size}, in \d+\.\d s; failed: 2023-02", summary)
    # The pages of both assets say it for that month.
    for asset in TRIPS:
        (record,) = instance.fetch_observations(asset.key, limit=10).records
        observation = record.asset_observation
        assert observation is not None
        assert observation.partition == "2023-02-01"
        assert str(observation.metadata["failed"].value).startswith("2023-02 (http")
        assert "not published" in str(observation.metadata["failed"].value)


def test_a_month_that_fails_while_a_range_is_loaded_is_in_the_log_at_its_place(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    for month in ("2023-01", "2023-02"):
        publish(source_server, month, sample(month))
    assert materialize(project, instance, [trips.taxi_trips_file], "2023-01", "2023-02").success
    project.file("2023-01").write_bytes(damaged(sample("2023-01")))

    result = materialize(project, instance, [trips.taxi_trips], "2023-01", "2023-02")

    first, second, summary = log(instance, result.run_id, "taxi_trips")
    assert first.startswith(
        f"2023-01 (1 of 2) failed ({project.file('2023-01')}): loading the file failed, and the month"
    )
    assert second.startswith("2023-02 (2 of 2): 300 trips, ")
    assert summary.endswith("; failed: 2023-01")


def test_a_run_of_one_month_does_not_count_and_tells_that_nothing_was_transferred(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))
    materialize(project, instance, TRIPS, "2023-01")

    result = materialize(project, instance, TRIPS, "2023-01")

    size = f"{len(sample('2023-01')) / 1e6:.1f} MB"
    assert log(instance, result.run_id, "taxi_trips_file") == [
        f"2023-01: 300 trips, {size}, unchanged at the source, nothing transferred"
    ]
    (loaded,) = log(instance, result.run_id, "taxi_trips")
    assert re.fullmatch(rf"2023-01: 300 trips, {size}, loaded in \d\.\d s", loaded)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (status(403, ACCESS_DENIED), "not published"),
        (ERROR_PAGE, "not a whole parquet file"),
        (status(302, Location="http://[::1"), "Look at the address"),
        (damaged(sample("2023-02")), "the rows of the file cannot be read, and it was not kept"),
    ],
    ids=["not published", "an error page", "redirected to nonsense", "damaged rows"],
)
def test_in_a_range_the_good_months_are_loaded_and_recorded_and_the_run_fails_for_the_bad_one(
    project: Project,
    instance: dg.DagsterInstance,
    source_server: SourceServer,
    bad: bytes | Answer,
    says: str,
) -> None:
    publish(source_server, "2023-01", sample("2023-01", 310))
    url = publish(source_server, "2023-02", bad)
    publish(source_server, "2023-03", sample("2023-03", 330))
    good = ["2023-01-01", "2023-03-01"]

    result = materialize(project, instance, TRIPS, "2023-01", "2023-03")

    assert not result.success
    told = failure_text(result)
    assert "1 of 3 months failed; the other 2 are done" in told
    assert re.search(re.escape(f"2023-02 ({url}): ") + f".*{says}", told)
    assert "2023-01" not in told
    assert "2023-03" not in told
    assert project.rows() == {"2023-01": 310, "2023-03": 330}
    assert recorded(instance, trips.taxi_trips) == recorded(instance, trips.taxi_trips_file) == good
    names = {spec.name for spec in trips.taxi_trips.check_specs}
    assert set(evaluations(instance, result.run_id)) == {(month, name) for month in good for name in names}
    assert warned(instance, result.run_id) == set()


def test_in_a_range_an_earlier_version_of_the_bad_month_stays(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, before: State
) -> None:
    publish(source_server, "2023-01", sample("2023-01", 310))
    publish(source_server, "2023-02", ERROR_PAGE)

    result = materialize(project, instance, TRIPS, "2023-01", "2023-02")

    assert not result.success
    assert project.rows() == {"2023-01": 310, "2023-02": 300}
    assert recorded(instance, trips.taxi_trips) == ["2023-01-01", "2023-01-01", "2023-02-01"]
    february = project.file("2023-02").name
    assert state(project).files[february] == before.files[february]


def test_all_bad_months_of_a_range_are_named(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    publish(source_server, "2023-01", ERROR_PAGE)
    publish(source_server, "2023-02", damaged(sample("2023-02")))
    publish(source_server, "2023-03", sample("2023-03"))

    told = failure_text(materialize(project, instance, TRIPS, "2023-01", "2023-04"))

    assert "3 of 4 months failed; the other one is done" in told
    assert re.search(r"2023-01 .*not a whole parquet file", told)
    assert re.search(r"2023-02 .*the rows of the file cannot be read", told)
    assert re.search(r"2023-04 .*not published", told)
    assert project.rows() == {"2023-03": 300}


@pytest.mark.parametrize("alone", [True, False], ids=["as the only asset", "selected out of both"])
def test_a_run_of_the_files_alone_fails_for_the_bad_month(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, alone: bool
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))
    url = publish(source_server, "2023-02", ERROR_PAGE)

    if alone:
        result = materialize(project, instance, [trips.taxi_trips_file], "2023-01", "2023-02")
    else:
        result = dg.materialize(
            TRIPS,
            selection=[trips.taxi_trips_file],
            instance=instance,
            resources={"database": dg.ResourceDefinition.none_resource()},
            raise_on_error=False,
            tags={
                "dagster/asset_partition_range_start": "2023-01-01",
                "dagster/asset_partition_range_end": "2023-02-01",
            },
        )

    assert not result.success
    assert f"1 of 2 months failed; the other one is done:\n2023-02 ({url}): what the source sent is" in failure_text(
        result
    )
    assert recorded(instance, trips.taxi_trips_file) == ["2023-01-01"]
    assert project.file("2023-01").read_bytes() == sample("2023-01")
    assert not project.file("2023-02").exists()
    assert not project.database.exists()


# A full disk, and folders that cannot be used


def run_with_full_disk(project: Project, first: str, last: str) -> tuple[int, str]:
    """Materialize the months from `first` to `last` where no file can grow beyond 600 kB; give the code and the log."""

    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))

    done = project.run(
        *("asset", "materialize", "-m", "dagster_essentials.definitions"),
        *("--select", "taxi_trips_file,taxi_trips", "--partition-range", f"{first}-01...{last}-01"),
        preexec_fn=no_large_files,
    )
    return done.returncode, done.stdout


def test_a_disk_that_is_full_while_a_month_is_fetched_costs_nothing(
    project: Project, source_server: SourceServer, before: State
) -> None:
    publish(source_server, "2023-01", bytes(2_000_000))

    code, told = run_with_full_disk(project, "2023-01", "2023-01")

    assert code != 0
    assert f"2023-01: {project.file('2023-01')} could not be written (File too large)." in told
    assert "Make room" in told
    assert "Make room" in told
    assert "materialize again" in told
    assert state(project) == before
    assert source_server.requested("/trip-data/yellow_tripdata_2023-01.parquet") == 2, "room is not waited for"


def test_a_disk_that_is_full_while_months_are_loaded_costs_nothing(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, before: State
) -> None:
    # DuckDB notices when it writes its log, when it writes the rows at the end, or when it writes them on the way.
    sizes = {"2023-03": 20_000, "2023-04": 100_000, "2023-05": 130_000}
    for month, rows in sizes.items():
        publish(source_server, month, sample(month, rows))
    assert materialize(project, instance, [trips.taxi_trips_file], "2023-03", "2023-05").success

    code, told = run_with_full_disk(project, "2023-03", "2023-05")

    assert code != 0
    assert "3 of 3 months failed" in told
    for month in sizes:
        [line] = {line for line in told.splitlines() if line.startswith(f"{month} ({project.file(month)}): ")}
        assert "the month is as it was" in line
        assert "Make room on the disk" in line, line
        assert "materialize again" in line
    after = state(project)
    assert (after.columns, after.rows) == (before.columns, before.rows)
    assert project.leftovers() == []

    assert materialize(project, instance, TRIPS, "2023-03", "2023-05").success, "they are loaded when there is room"
    assert project.rows() == {"2023-01": 300, "2023-02": 300, **sizes}


def a_file_where_the_folder_should_be(project: Project) -> None:
    (project.folder / "raw").write_text("in the way")


def a_folder_where_the_file_should_be(project: Project) -> None:
    project.file("2023-01").mkdir(parents=True)


@pytest.mark.parametrize("hinder", [a_file_where_the_folder_should_be, a_folder_where_the_file_should_be])
def test_a_file_that_cannot_be_written_fails_the_month_and_says_where(
    project: Project,
    instance: dg.DagsterInstance,
    source_server: SourceServer,
    hinder: Callable[[Project], None],
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))
    hinder(project)
    before = sorted(project.folder.rglob("*"))

    result = materialize(project, instance, TRIPS, "2023-01")

    assert not result.success
    told = failure_text(result)
    assert re.search(re.escape(f"2023-01: {project.folder}/raw") + r"\S* could not be written \(", told)
    assert ".partial" not in told
    assert "Something else is in its place: move that away, and" in told
    assert "materialize again" in told
    assert sorted(project.folder.rglob("*")) == before


def test_a_database_folder_that_cannot_be_made_fails_all_months_and_says_where(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    for month in ("2023-01", "2023-02"):
        publish(source_server, month, sample(month))
    project.database.parent.write_text("in the way")

    result = materialize(project, instance, TRIPS, "2023-01", "2023-02")

    assert not result.success
    told = failure_text(result)
    assert (
        f"2 of 2 months failed:\n2023-01, 2023-02: {project.database.parent}: File exists. The database needs" in told
    )
    assert "or point DUCKDB_DATABASE to another place, and materialize again" in told
    assert project.database.parent.read_text() == "in the way"
    assert recorded(instance, trips.taxi_trips) == []


# Databases that were there


@pytest.mark.parametrize("what", ["text", "a damaged database"])
def test_something_else_under_the_databases_name_is_not_touched(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, what: str
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))
    project.database.parent.mkdir()
    if what == "text":
        project.database.write_text("vendor_id,pickup_zone_id\n1,2\n")
    else:
        with duckdb.connect(str(project.database)) as connection:
            connection.execute("CREATE TABLE mine AS SELECT range AS number FROM range(1000)")
        content = bytearray(project.database.read_bytes())
        for header in (4096, 8192):
            content[header + 20] ^= 1
        project.database.write_bytes(content)
    before = project.database.read_bytes()

    result = materialize(project, instance, TRIPS, "2023-01", wait_seconds=0.2)

    assert not result.success
    told = failure_text(result)
    assert f"2023-01: {project.database} cannot be opened as a DuckDB database (" in told
    assert "move it away" in told
    assert project.database.read_bytes() == before


COURSE_COLUMNS = (
    "vendor_id integer, pickup_zone_id integer, dropoff_zone_id integer, rate_code_id double, payment_type integer, "
    "dropoff_datetime timestamp, pickup_datetime timestamp, trip_distance double, passenger_count double, "
    "total_amount double, partition_date varchar"
)
ADDED_COLUMNS = (
    "fare_amount double, extra double, mta_tax double, tip_amount double, tolls_amount double, "
    "improvement_surcharge double, congestion_surcharge double, airport_fee double, cbd_congestion_fee double, "
    "store_and_fwd_flag varchar, request_source varchar"
)


@pytest.fixture
def course_rows(project: Project) -> list[tuple[Any, ...]]:
    """The rows, of December 2022 and January 2023, of a database that the course's code has made."""
    project.database.parent.mkdir()
    with duckdb.connect(str(project.database)) as connection:
        connection.execute(f"CREATE TABLE trips ({COURSE_COLUMNS})")
        connection.execute(
            "INSERT INTO trips SELECT 1, range, 200, 1.0, 2, TIMESTAMP '2022-12-05' + to_hours(range), "
            "TIMESTAMP '2022-12-04' + to_hours(range), 1.5, NULL, 12.5, if(range < 60, '2022-12', '2023-01') "
            "FROM range(90)"
        )
        connection.execute("CREATE TABLE zones AS SELECT 1 AS zone_id, 'Newark Airport' AS zone")
        return connection.execute("SELECT * FROM trips ORDER BY ALL").fetchall()


def columns(project: Project) -> str:
    return ", ".join(f"{name} {type_.lower()}" for name, type_, *_ in project.query("DESCRIBE trips"))


def test_a_database_that_the_course_made_is_upgraded_and_loses_nothing(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, course_rows: list[tuple[Any, ...]]
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))

    assert materialize(project, instance, TRIPS, "2023-01").success

    assert columns(project) == f"{COURSE_COLUMNS}, {ADDED_COLUMNS}"
    assert project.rows() == {"2022-12": 60, "2023-01": 300}
    kept = project.query("SELECT * FROM trips WHERE partition_date = '2022-12' ORDER BY ALL")
    assert [row[:11] for row in kept] == [row for row in course_rows if row[10] == "2022-12"]
    assert {row[11:] for row in kept} == {(None,) * 11}
    loaded = project.query("SELECT sum(fare_amount), sum(total_amount) FROM trips WHERE partition_date = '2023-01'")
    assert loaded == query_file(sample("2023-01"), "SELECT sum(fare_amount), sum(total_amount) FROM month")
    assert project.query("FROM zones") == [(1, "Newark Airport")]


def test_a_database_that_the_course_made_is_not_upgraded_by_a_load_that_fails(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, course_rows: list[tuple[Any, ...]]
) -> None:
    project.file("2023-01").parent.mkdir(parents=True)
    project.file("2023-01").write_bytes(damaged(sample("2023-01")))

    assert not materialize(project, instance, [trips.taxi_trips], "2023-01").success

    assert columns(project) == COURSE_COLUMNS
    assert project.query("SELECT * FROM trips ORDER BY ALL") == course_rows


def test_a_table_of_trips_without_months_is_not_touched(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, course_rows: list[tuple[Any, ...]]
) -> None:
    with duckdb.connect(str(project.database)) as connection:
        connection.execute("ALTER TABLE trips DROP COLUMN partition_date")
    for month in ("2023-01", "2023-02"):
        publish(source_server, month, sample(month))
    old_columns = columns(project)

    result = materialize(project, instance, TRIPS, "2023-01", "2023-02")

    assert not result.success
    told = failure_text(result)
    assert (
        f"2 of 2 months failed:\n2023-01, 2023-02: the table trips in {project.database} has no column partition_date"
        in told
    )
    assert "Rename or drop it, and materialize again." in told
    assert columns(project) == old_columns
    assert project.query("SELECT * FROM trips ORDER BY ALL") == [row[:10] for row in course_rows]


# A database in use


@pytest.mark.parametrize("how", [NOTEBOOK, RUN], ids=["by a notebook", "by a run of another instance"])
def test_a_run_waits_for_a_database_in_use_and_succeeds(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, before: State, how: str
) -> None:
    publish(source_server, "2023-03", sample("2023-03"))

    with held(project.database, how) as holder, releasing_when_waited_for(holder) as said:
        result = materialize(project, instance, TRIPS, "2023-03")

    assert result.success
    assert project.rows() == {"2023-01": 300, "2023-02": 300, "2023-03": 300}
    waiting = f"data.duckdb is in use by process {holder.pid}; waiting for it, 60 seconds at most."
    assert said == [waiting]
    first, loaded = log(instance, result.run_id, "taxi_trips")
    assert first == waiting, "it stands in the run's log"
    assert re.fullmatch(
        r"2023-03: 300 trips, .* MB, loaded in \d\.\d s after \d+\.\d s of waiting for the database", loaded
    )


@pytest.mark.parametrize("how", [NOTEBOOK, RUN], ids=["by a notebook", "by a run of another instance"])
def test_a_run_gives_up_on_a_database_in_use_for_ever_and_names_who_has_it(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, before: State, how: str
) -> None:
    for month in ("2023-01", "2023-02", "2023-03"):
        publish(source_server, month, sample(month, 200))

    with held(project.database, how) as holder:
        result = materialize(project, instance, TRIPS, "2023-01", "2023-03", wait_seconds=0.3)

    assert not result.success
    told = failure_text(result)
    in_use = f"{project.database} was in use by process {holder.pid} for "
    assert f"3 of 3 months failed:\n2023-01, 2023-02, 2023-03: {in_use}" in told
    assert "materialize again" in told
    _, first, others, summary = log(instance, result.run_id, "taxi_trips")
    assert first.startswith(f"2023-01 (1 of 3) failed: {in_use}")
    assert others == "not tried, for the same reason: 2023-02, 2023-03"
    assert summary.startswith("0 of 3 months loaded: 0 trips, ")
    for record in instance.fetch_observations(trips.taxi_trips.key, limit=10).records:
        assert record.asset_observation is not None
        assert in_use in str(record.asset_observation.metadata["failed"].value), (
            "each month's page has the whole reason"
        )
    waits = [entry for entry in instance.all_logs(result.run_id) if "waiting for it" in entry.user_message]
    assert len(waits) == 1, "the other months do not wait as well"
    after = state(project)
    assert (after.columns, after.rows) == (before.columns, before.rows)
    assert recorded(instance, trips.taxi_trips) == ["2023-01-01", "2023-02-01"]


def test_a_database_in_use_is_the_first_thing_that_a_run_says_of_any_asset(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    source_server.files["/taxi_zones.csv"] = ZONES_CSV
    project.database.parent.mkdir()

    with held(project.database, NOTEBOOK) as holder:
        result = materialize(project, instance, ZONES, wait_seconds=0.3)

    (failed,) = [event for event in result.all_events if event.is_step_failure]
    error = failed.step_failure_data.error
    assert error is not None
    assert f"DatabaseBusyError: {project.database} was in use by process {holder.pid} for " in error.message
    assert (error.cause, error.context) == (None, None), "no trace of DuckDB's stands below it"


def test_of_two_runs_that_overlap_the_last_one_on_record_is_the_one_in_the_table(
    project: Project, history: dg.DagsterInstance, source_server: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))
    other: list[Future[dg.ExecuteInProcessResult]] = []
    waits_or_ends = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting for it" in record.getMessage():
                waits_or_ends.set()

    def while_another_run_loads(context: dg.AssetExecutionContext, *arguments: Any, **options: Any) -> None:
        if context.asset_key == trips.taxi_trips.key and not other:
            publish(source_server, "2023-01", sample("2023-01", 310))
            other.append(pool.submit(materialize, project, history, TRIPS, "2023-01"))
            other[0].add_done_callback(lambda _: waits_or_ends.set())
            assert waits_or_ends.wait(60)
        record_partition(context, *arguments, **options)

    monkeypatch.setattr(trips, "record_partition", while_another_run_loads)
    listener = Listener()
    dg.get_dagster_logger().addHandler(listener)
    try:
        with ThreadPoolExecutor(1) as pool:
            assert materialize(project, history, TRIPS, "2023-01").success
            assert other[0].result().success
    finally:
        dg.get_dagster_logger().removeHandler(listener)

    last, first = history.fetch_materializations(trips.taxi_trips.key, limit=2).records
    versions = [
        record.asset_materialization.tags["dagster/data_version"]  # type: ignore[union-attr, index]
        for record in (first, last)
    ]
    assert versions == [sha256(sample("2023-01", rows)).hexdigest() for rows in (300, 310)]
    assert project.rows() == {"2023-01": 310}


# Zones

OUTLINE = "MULTIPOLYGON (((-74.18 40.69, -74.18 40.70, -74.17 40.69, -74.18 40.69)))"
ZONES_CSV = (
    "OBJECTID,Shape_Leng,the_geom,Shape_Area,zone,LocationID,borough\n"
    f'1,0.1,"{OUTLINE}",0.1,Newark Airport,1,EWR\n'
    f'2,0.4,"{OUTLINE}",0.1,Jamaica Bay,2,Queens\n'
).encode()
BAD_ZONES: dict[str, tuple[bytes | Answer, str]] = {
    "403": (status(403, ACCESS_DENIED), r"not published"),
    "500": (status(500), r"answered 500 .*, 5 times in a row.*materialize again"),
    "reset": (cut_off(ZONES_CSV, 100, reset=True), r"connection failed .*, 5 times in a row.*materialize again"),
    "short": (cut_off(ZONES_CSV, 100), r"100 bytes read.*, 5 times in a row.*materialize again"),
    "no view": (NO_VIEW, r"not the zones CSV: no column LocationID.*TAXI_ZONES_URL points to, and materialize again"),
    "an error page": (ERROR_PAGE, r"not the zones CSV.*<!DOCTYPE html>.*materialize again"),
    "an empty file": (b"", r"not the zones CSV.*materialize again"),
    "no rows": (ZONES_CSV.splitlines(keepends=True)[0], r"has no rows.*materialize again"),
    "no outline": (
        ZONES_CSV + b'3,0.1,,0.1,"Allerton",3,Bronx\n',
        r"line 4 of the zones CSV, zone 3 \(Allerton\), has no multipolygon in the_geom but nothing.*materialize again",
    ),
    "half an outline": (
        ZONES_CSV + f'3,0.1,"{OUTLINE[:40]}",0.1,"Allerton",3,Bronx\n'.encode(),
        r"line 4 of the zones CSV, zone 3 \(Allerton\), has no multipolygon in the_geom but 'MULTI.*materialize again",
    ),
    "half a file": (ZONES_CSV[:-40], r"line 3 of the zones CSV.*materialize again"),
    "no number": (
        ZONES_CSV.replace(b",2,Queens", b",two,Queens"),
        r"line 3 of the zones CSV has the LocationID 'two', not a number.*materialize again",
    ),
    "not text": (bytes(range(256)), r"not the zones CSV.*materialize again"),
}


def zone_rows(project: Project) -> list[tuple[Any, ...]]:
    return project.query("SELECT * FROM zones ORDER BY ALL")


@pytest.mark.parametrize(("bad", "says"), BAD_ZONES.values(), ids=BAD_ZONES)
def test_zones_that_are_refused_fail_the_run_and_stay_as_they_were(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, bad: bytes | Answer, says: str
) -> None:
    source_server.files["/taxi_zones.csv"] = ZONES_CSV
    assert materialize(project, instance, ZONES).success
    assert zone_rows(project) == [
        (1, "Newark Airport", "EWR", OUTLINE),
        (2, "Jamaica Bay", "Queens", OUTLINE),
    ]
    before = (state(project), zone_rows(project))
    if isinstance(bad, bytes):
        source_server.files["/taxi_zones.csv"] = bad
    else:
        source_server.answers["/taxi_zones.csv"] = [bad]

    result = materialize(project, instance, ZONES)

    assert not result.success
    assert re.search(re.escape(f"taxi zones ({source_server.zones_url}): ") + f".*{says}", failure_text(result))
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    assert failed.step_failure_data.error is not None
    assert failed.step_failure_data.error.cause is None, "it is said once, and not of the trips' address"
    assert (state(project), zone_rows(project)) == before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is not there. Materialize taxi_zones_file first."),
        (NO_VIEW, "not the zones CSV"),
        (ZONES_CSV + b'3,0.1,,0.1,"Allerton",3,Bronx\n', "zone 3 (Allerton), has no multipolygon"),
    ],
    ids=["missing", "no view", "no outline"],
)
def test_a_zones_file_that_was_spoilt_here_leaves_the_table_as_it_was(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, content: bytes | None, says: str
) -> None:
    source_server.files["/taxi_zones.csv"] = ZONES_CSV
    assert materialize(project, instance, ZONES).success
    before = zone_rows(project)
    file = project.folder / "raw" / "taxi_zones.csv"
    file.unlink()
    if content is not None:
        file.write_bytes(content)

    result = materialize(project, instance, [trips.taxi_zones])

    assert not result.success
    told = failure_text(result)
    assert str(file) in told
    assert says in told
    assert "aterialize" in told
    assert zone_rows(project) == before


def test_a_zones_file_that_cannot_be_written_fails_the_run_and_says_where(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    source_server.files["/taxi_zones.csv"] = ZONES_CSV
    (project.folder / "raw").write_text("in the way")

    result = materialize(project, instance, ZONES)

    assert not result.success
    told = failure_text(result)
    assert f"taxi zones ({source_server.zones_url}): {project.folder}/raw could not be written (File exists)." in told
    assert "materialize again" in told


def test_a_file_without_rows_that_somebody_put_there_does_not_empty_the_month(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))
    assert materialize(project, instance, TRIPS, "2023-01").success
    file = project.file("2023-01")
    connection = duckdb.connect()
    empty = connection.execute(f"COPY (SELECT * FROM '{file}' LIMIT 0) TO '{file}.empty' (FORMAT parquet)")
    assert empty.fetchall() == [(0,)]
    Path(f"{file}.empty").replace(file)

    result = materialize(project, instance, [trips.taxi_trips], "2023-01")

    assert not result.success
    assert "2023-01" in failure_text(result)
    assert "the file has no rows" in failure_text(result)
    assert project.rows() == {"2023-01": 300}


def test_rows_that_are_not_as_many_as_the_footer_says_are_not_kept_and_fail_the_check(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(source_server, "2023-01", sample("2023-01"))
    assert materialize(project, instance, TRIPS, "2023-01").success
    before = project.query("SELECT * FROM trips ORDER BY ALL")
    monkeypatch.setattr(trips, "read_layout", lambda path: replace(read_layout(path), rows=read_layout(path).rows + 1))

    result = materialize(project, instance, TRIPS, "2023-01")

    assert not result.success
    assert f"2023-01 ({project.file('2023-01')}): the file has 301 rows, and 300 came into the table" in failure_text(
        result
    )
    assert project.query("SELECT * FROM trips ORDER BY ALL") == before
    records = instance.get_records_for_run(result.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    (evaluation,) = [record.event_log_entry.asset_check_evaluation for record in records]
    assert evaluation is not None
    assert (evaluation.check_name, evaluation.partition, evaluation.passed, evaluation.severity) == (
        "rows_match_file",
        "2023-01-01",
        False,
        dg.AssetCheckSeverity.ERROR,
    )
