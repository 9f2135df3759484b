"""Untrusted input: credentials appear in no log, record or file, and no name or value becomes SQL, a path or a pattern.

Hostile months are in `test_hostile_files.py`, certificates and redirects in `test_download.py`.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from dagster_essentials import settings
from dagster_essentials.assets import constants, trips
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.ingestion.column_mapping import map_columns
from dagster_essentials.ingestion.file_format import FileSchema, Parquet
from dagster_essentials.ingestion.month_files import validate_month
from dagster_essentials.reports.request_files import read_request
from dagster_essentials.reports.requests import RequestError
from dagster_essentials.resources import LockedDuckDBResource
from dagster_essentials.sample import write_month, write_zones
from dagster_essentials.schedules import trip_update_schedule
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import Project, failure_text, materialize
from dagster_essentials_tests.support.source_server import SourceServer, status
from dagster_essentials_tests.unit.test_download import SECRET, demanding_password

pytestmark = pytest.mark.slow

ASSETS = [trips.taxi_trips_file, trips.taxi_trips]
SQL = ["x'); DROP TABLE trips; --", 'x"); DROP TABLE trips; --', "2023-01'; DROP TABLE trips; --", "$month", "{}", "%s"]


def read_schema(path: Path) -> FileSchema:
    with open(path, "rb") as file:
        return Parquet().read_schema(file)


# Credentials

TOKEN = "s3same"


@pytest.fixture
def secret_project(project: Project, source_server: SourceServer, tmp_path: Path) -> Project:
    """A source that requires a user name, a password and a token: it has January, redirects for February, and refuses zones."""
    month = demanding_password(write_month(tmp_path / "samples", "2023-01", 100).read_bytes())
    source_server.answers[f"/trip-data/yellow_tripdata_2023-01.parquet?token={TOKEN}"] = [month]
    source_server.answers[f"/taxi_zones.csv?token={TOKEN}"] = [status(401)]
    location = f"ftp://other:{SECRET}@127.0.0.1/f?token={TOKEN}"
    source_server.answers[f"/trip-data/yellow_tripdata_2023-02.parquet?token={TOKEN}"] = [
        status(302, Location=location)
    ]
    url = source_server.url.replace("http://", f"http://user:{SECRET}@")
    project.trips_url = f"{url}/trip-data?token={TOKEN}"
    project.zones_url = f"{url}/taxi_zones.csv?token={TOKEN}"
    return project


def files_with_secrets(folder: Path) -> Iterator[str]:
    """The files under `folder` whose name or content has a secret."""
    for path in folder.rglob("*"):
        content = bytes(path) + (path.read_bytes() if path.is_file() else b"")
        if SECRET.encode() in content or TOKEN.encode() in content:
            yield str(path)


def test_no_log_record_sidecar_or_output_has_a_password_or_a_token(secret_project: Project) -> None:
    command = ("asset", "materialize", "-m", "dagster_essentials.definitions", "--select")
    assets = "taxi_trips_file,taxi_trips,taxi_zones_file"

    result = secret_project.run(*command, assets, "--partition-range", "2023-01-01...2023-02-01")

    assert result.returncode == 1, result.stdout
    assert secret_project.rows() == {"2023-01": 100}
    for place in ("2023-02 (2 of 2) failed (http://127.0.0.1:", "taxi zones (http://127.0.0.1:"):
        assert place in result.stdout, "the error names the address"
    assert "Check the address" in result.stdout
    assert SECRET not in result.stdout
    assert TOKEN not in result.stdout
    assert list((secret_project.home / "history").rglob("*.db")), "the instance was searched, too"
    assert list(secret_project.file("2023-01").parent.glob(".*.source.json")), "and the sidecar"
    assert list(files_with_secrets(secret_project.folder)) == []


@pytest.mark.parametrize("code", [302, 401])
def test_the_skip_reason_of_a_tick_has_no_password(
    secret_project: Project,
    source_server: SourceServer,
    history: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    monkeypatch.setattr(
        settings,
        "SETTINGS",
        replace(settings.SETTINGS, trips_url=secret_project.trips_url),
    )
    for month in ("2023-01", "2023-02"):
        path = f"/trip-data/yellow_tripdata_{month}.parquet?token={TOKEN}"
        location = f"ftp://other:{SECRET}@127.0.0.1/f?token={TOKEN}"
        source_server.answers[path] = [status(code, Location=location)]
    history.report_runless_asset_event(dg.AssetMaterialization(trips.taxi_trips.key, partition="2022-12-01"))
    with dg.build_schedule_context(
        instance=history, scheduled_execution_time=datetime(2023, 4, 5, tzinfo=UTC)
    ) as context:
        data = trip_update_schedule.evaluate_tick(context)

    assert data.skip_message is not None
    assert "Could not ask the source about 2023-01 (http://127.0.0.1:" in data.skip_message
    assert SECRET not in data.skip_message
    assert TOKEN not in data.skip_message


# Names and values


def test_data_and_database_can_be_in_folders_of_any_name(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = 'it\'s; DROP TABLE trips; --/a "b"/a * ? [1]/ spaces  /two\nlines/$month {0} %s/-rf'
    data_dir = project.folder / folder
    source_folder = project.folder / "source" / folder
    write_month(source_folder, "2023-01", 100)
    write_zones(source_folder / "taxi_zones.csv")
    escaped = str(data_dir).replace("{", "{{").replace("}", "}}")
    monkeypatch.setattr(constants, "TAXI_TRIPS_TEMPLATE_FILE_PATH", f"{escaped}/raw/taxi_trips_{{}}.parquet")
    monkeypatch.setattr(constants, "TAXI_ZONES_FILE_PATH", f"{data_dir}/raw/taxi_zones.csv")
    zones = str(source_folder / "taxi_zones.csv")
    changed = replace(settings.SETTINGS, trips_url=str(source_folder), zones_url=zones)
    monkeypatch.setattr(settings, "SETTINGS", changed)
    # DuckDB does not support a question mark in the path of a database; the settings refuse it.
    database_folder = project.folder / "database" / folder.replace("?", "!")
    moved = _Moved(project.folder, project.trips_url, project.zones_url, database_folder=database_folder)

    result = materialize(moved, instance, ASSETS, "2023-01")
    assert result.success, failure_text(result)
    assert materialize(moved, instance, [trips.taxi_zones_file, trips.taxi_zones]).success

    assert moved.database.exists()
    assert moved.rows() == {"2023-01": 100}
    assert moved.query("SELECT count(*) FROM zones") == [(265,)]
    assert sorted(path.name for path in (data_dir / "raw").iterdir() if not path.name.startswith(".")) == [
        "taxi_trips_2023-01.parquet",
        "taxi_zones.csv",
    ]


class _Moved(Project):
    """A project whose database is in another folder."""

    def __init__(self, folder: Path, trips_url: str, zones_url: str, database_folder: Path):
        super().__init__(folder, trips_url, zones_url)
        self.database_folder = database_folder

    @property
    def database(self) -> Path:
        return self.database_folder / "it's; a [database].duckdb"


def test_unknown_columns_of_any_name_are_ignored(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, tmp_path: Path
) -> None:
    columns = ", ".join('1 AS "{}"'.format(name.replace('"', '""')) for name in SQL)
    original = write_month(tmp_path, "2023-01", 100)
    changed = tmp_path / "changed.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT *, {columns} FROM '{original}') TO '{changed}'")
    source_server.put_month("2023-01", original.read_bytes())
    assert materialize(project, instance, ASSETS, "2023-01").success
    source_server.put_month("2023-01", changed.read_bytes())

    assert materialize(project, instance, ASSETS, "2023-01").success

    assert project.rows() == {"2023-01": 100}
    assert set(map_columns(read_schema(changed), "2026-06", YELLOW).unknown) == set(SQL)


def test_sql_in_a_value_is_loaded_as_text(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, tmp_path: Path
) -> None:
    original = write_month(tmp_path, "2023-01", 100)
    changed = tmp_path / "changed.parquet"
    with duckdb.connect() as connection:
        values = ", ".join("'{}'".format(value.replace("'", "''")) for value in SQL)
        value = f"list_value({values})[1 + row_number() OVER () % {len(SQL)}]"
        query = f"SELECT * REPLACE ({value} AS store_and_fwd_flag) FROM '{original}'"
        connection.execute(f"COPY ({query}) TO '{changed}'")
    source_server.put_month("2023-01", changed.read_bytes())

    assert materialize(project, instance, ASSETS, "2023-01").success

    assert set(project.query("SELECT store_and_fwd_flag FROM trips")) == {(value,) for value in SQL}
    assert project.rows() == {"2023-01": 100}


def test_an_invalid_partition_key_is_refused_and_changes_nothing(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, tmp_path: Path
) -> None:
    source_server.put_month("2023-01", write_month(tmp_path / "samples", "2023-01", 100).read_bytes())
    assert materialize(project, instance, ASSETS, "2023-01").success
    requests = len(source_server.requests)
    before = sorted(project.folder.rglob("*"))

    for key in ("2023-01-01'; DROP TABLE trips; --", "../../etc/passwd", "2023-01", "2023-01-02"):
        with pytest.raises(dg.DagsterUnknownPartitionError):
            dg.materialize(
                ASSETS,
                instance=instance,
                partition_key=key,
                resources={"database": LockedDuckDBResource(database=str(project.database))},
            )

    assert len(source_server.requests) == requests
    assert sorted(project.folder.rglob("*")) == before
    assert project.rows() == {"2023-01": 100}


@pytest.mark.parametrize("text", [*SQL, "../../etc/passwd", "Bronx\0", "Bronx\n", "2023-01-01'--", "\uff12023-01-01"])
@pytest.mark.parametrize("key", ["borough", "start_date", "end_date"])
def test_a_request_with_an_invalid_value_is_refused(key: str, text: str) -> None:
    good = {"borough": "Bronx", "start_date": "2023-01-01", "end_date": "2023-02-01"}

    with pytest.raises(RequestError):
        read_request("a.json", json.dumps({**good, key: text}).encode())


@pytest.mark.parametrize(
    "name", [*SQL, "..", "../x", "a\nb", "a\0b", "-rf", ".hidden", "a/b", "a;b", "a'b", "a`b`", "x" * 201]
)
def test_a_request_with_an_unsafe_file_name_is_refused(name: str) -> None:
    good = {"borough": "Bronx", "start_date": "2023-01-01", "end_date": "2023-02-01"}

    with pytest.raises(RequestError):
        read_request(f"{name}.json", json.dumps(good).encode())


def test_names_of_zones_and_boroughs_are_loaded_as_text(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    names = [*SQL, "=HYPERLINK('x')", "<script>alert(1)</script>"]
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["LocationID", "zone", "borough", "the_geom"])
    for number, name in enumerate(names, start=1):
        rows.writerow([number, name, name, "MULTIPOLYGON (((0 0, 1 0, 1 1, 0 0)))"])
    source_server.files["/taxi_zones.csv"] = text.getvalue().encode()

    assert materialize(project, instance, [trips.taxi_zones_file, trips.taxi_zones]).success

    assert project.query("SELECT zone_id, zone, borough FROM zones WHERE zone_id < 264 ORDER BY zone_id") == [
        (number, name, name) for number, name in enumerate(names, start=1)
    ]


@pytest.mark.parametrize("has_descriptors", [True, False], ids=["by descriptor", "by name"])
def test_a_path_is_not_used_as_a_pattern(
    has_descriptors: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_month(tmp_path / "[a]*?", "2023-01", 100)
    write_month(tmp_path / "abc", "2023-01", 200)

    assert duckdb.execute(f"SELECT count(*) FROM '{path}'").fetchall() == [(200,)], (
        "as a pattern, it matches the other file"
    )
    if not has_descriptors:
        monkeypatch.setattr("dagster_essentials.ingestion.file_format.os.path.samestat", lambda *_: False)
    # It fails if what is read has another number of rows than the file.
    validate_month(path, "2023-01", YELLOW)
    with duckdb.connect(str(tmp_path / "data.duckdb")) as connection:
        assert load_month(connection, "2023-01", path).version.num_trips == 100


def test_an_error_quotes_the_content_of_a_bad_file_and_nothing_executes_it(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    source_server.put_month("2023-01", b"'; DROP TABLE trips; --")

    result = materialize(project, instance, ASSETS, "2023-01")

    assert 'it begins with "\'; DROP TABLE trips; --". It was not kept.' in failure_text(result)
