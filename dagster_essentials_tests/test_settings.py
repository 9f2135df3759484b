"""Settings: what they default to, what they take, and that a wrong one is refused with words that help."""

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from dagster_essentials.settings import SettingError, Settings, read_settings
from dagster_essentials_tests.support.project import ROOT

DEFAULTS = Settings(
    database=ROOT / "data" / "staging" / "data.duckdb",
    data_dir=ROOT / "data",
    trips_url="https://d37ci6vzurychx.cloudfront.net/trip-data",
    zones_url=(
        "https://community-engineering-artifacts.s3.us-west-2.amazonaws.com/dagster-university/data/taxi_zones.csv"
    ),
    start_date="2023-01-01",
    end_date=None,
    publication_lag_months=2,
    database_memory_limit="512MB",
    database_threads=None,
    database_wait_seconds=600,
)

# Each variable, a value for it, the field it sets and what that becomes.
OVERRIDES = [
    ("DUCKDB_DATABASE", "/elsewhere/taxi.duckdb", "database", Path("/elsewhere/taxi.duckdb")),
    ("TAXI_DATA_DIR", "/elsewhere", "data_dir", Path("/elsewhere")),
    ("TAXI_TRIPS_URL", "http://localhost:8000/months", "trips_url", "http://localhost:8000/months"),
    ("TAXI_TRIPS_URL", "http://localhost:8000/months/", "trips_url", "http://localhost:8000/months"),
    ("TAXI_TRIPS_URL", "file:///mirror/months", "trips_url", "file:///mirror/months"),
    ("TAXI_TRIPS_URL", "/mirror/months", "trips_url", "/mirror/months"),
    ("TAXI_ZONES_URL", "https://example.org/zones.csv", "zones_url", "https://example.org/zones.csv"),
    ("TAXI_ZONES_URL", "/mirror/zones.csv", "zones_url", "/mirror/zones.csv"),
    ("TAXI_START_DATE", "2011-01-01", "start_date", "2011-01-01"),
    ("TAXI_END_DATE", "2023-02-01", "end_date", "2023-02-01"),
    ("TAXI_PUBLICATION_LAG_MONTHS", "0", "publication_lag_months", 0),
    ("TAXI_PUBLICATION_LAG_MONTHS", " 3 ", "publication_lag_months", 3),
    ("DUCKDB_MEMORY_LIMIT", "1.5GiB", "database_memory_limit", "1.5GiB"),
    ("DUCKDB_THREADS", "1", "database_threads", 1),
    ("DUCKDB_WAIT_SECONDS", "0", "database_wait_seconds", 0),
]


def test_nothing_has_to_be_set() -> None:
    assert read_settings({}) == DEFAULTS


@pytest.mark.parametrize(("variable", "value", "field", "expected"), OVERRIDES)
def test_a_variable_changes_its_setting_and_no_other(variable: str, value: str, field: str, expected: object) -> None:
    assert vars(read_settings({variable: value})) == {**vars(DEFAULTS), field: expected}


@pytest.mark.parametrize("empty", ["", "  "])
@pytest.mark.parametrize("variable", sorted({variable for variable, *_ in OVERRIDES}))
def test_an_empty_value_counts_as_not_set(variable: str, empty: str) -> None:
    assert read_settings({variable: empty}) == DEFAULTS


def test_variables_of_others_are_not_read() -> None:
    assert read_settings({"START_DATE": "1999-01-01", "DUCKDB": "x", "DAGSTER_HOME": "/nowhere"}) == DEFAULTS


@pytest.mark.parametrize(
    ("variable", "field"),
    [
        ("DUCKDB_DATABASE", "database"),
        ("TAXI_DATA_DIR", "data_dir"),
        ("TAXI_TRIPS_URL", "trips_url"),
        ("TAXI_ZONES_URL", "zones_url"),
    ],
)
def test_a_relative_path_starts_at_the_project_and_not_in_the_current_folder(
    variable: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(getattr(read_settings({variable: "some/place"}), field)) == f"{ROOT}/some/place"


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = read_settings({"TAXI_DATA_DIR": "~/taxi", "TAXI_TRIPS_URL": "~/months"})
    assert (settings.data_dir, settings.trips_url) == (tmp_path / "taxi", f"{tmp_path}/months")


@pytest.mark.parametrize("variable", ["TAXI_START_DATE", "TAXI_END_DATE"])
@pytest.mark.parametrize(
    "value", ["January", "2024", "2024-01", "2024-1-1", "20240101", "2024-02-30", "2024-13-01", "2024-01-01T00:00"]
)
def test_what_is_not_a_date_is_refused(variable: str, value: str) -> None:
    assert_refused({variable: value}, f"{variable}={value} is not a date", "YYYY-MM-DD")


@pytest.mark.parametrize("variable", ["TAXI_START_DATE", "TAXI_END_DATE"])
@pytest.mark.parametrize(("value", "first"), [("2024-01-02", "2024-01-01"), ("2024-02-29", "2024-02-01")])
def test_a_day_within_a_month_is_refused_and_the_first_proposed(variable: str, value: str, first: str) -> None:
    assert_refused({variable: value}, f"{variable}={value}", f"Write {first}")


@pytest.mark.parametrize("end", ["2023-03-01", "2023-02-01", "2022-03-01"])
def test_an_end_that_leaves_no_month_is_refused(end: str) -> None:
    dates = {"TAXI_START_DATE": "2023-03-01", "TAXI_END_DATE": end}
    assert_refused(dates, f"TAXI_END_DATE={end}", "TAXI_START_DATE=2023-03-01")


def test_an_end_before_the_default_start_is_refused() -> None:
    assert_refused({"TAXI_END_DATE": "2022-01-01"}, "TAXI_END_DATE=2022-01-01", "TAXI_START_DATE=2023-01-01")


def test_an_end_one_month_after_the_start_is_taken() -> None:
    settings = read_settings({"TAXI_START_DATE": "2019-12-01", "TAXI_END_DATE": "2020-01-01"})
    assert (settings.start_date, settings.end_date) == ("2019-12-01", "2020-01-01")


@pytest.mark.parametrize(
    ("variable", "lowest", "values"),
    [
        ("TAXI_PUBLICATION_LAG_MONTHS", 0, ["-1", "two", "1.5", "2 months", "1e1"]),
        ("DUCKDB_THREADS", 1, ["0", "-2", "many", "1.5"]),
        ("DUCKDB_WAIT_SECONDS", 0, ["-1", "ten", "0.5", "10s"]),
    ],
)
def test_what_is_not_a_whole_number_or_too_small_is_refused(variable: str, lowest: int, values: list[str]) -> None:
    for value in values:
        assert_refused({variable: value}, f"{variable}={value}", f"a whole number from {lowest} up")


@pytest.mark.parametrize("variable", ["TAXI_TRIPS_URL", "TAXI_ZONES_URL"])
@pytest.mark.parametrize("scheme", ["ftp", "s3", "gs"])
def test_an_address_of_an_unknown_kind_is_refused(variable: str, scheme: str) -> None:
    value = f"{scheme}://bucket/place"
    assert_refused({variable: value}, f"{variable}={value}", "http://", "https://", "file://", "local path")


@pytest.mark.parametrize("variable", ["TAXI_TRIPS_URL", "TAXI_ZONES_URL"])
@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("https://user:hunter2@[::1/months", "is not a URL"),
        ("https://user:hunter2@host:port/months", "is not a URL"),
        ("https://user:hun/ter2@host/months", "is not a URL"),
        ("https://user:hun?ter2@host/months", "is not a URL"),
        ("https://user:hun#ter2@host/months", "is not a URL"),
        ("https://user:1/hunter2@host/months", "has an @ behind its host"),
        ("https://user:hunter2@\u2100/months", "is not a URL"),
        ("https://user:hunter2@/months", "has no host"),
        ("https:///months?token=hunter2", "has no host"),
        ("https://host:port/months?token=hunter2", "is not a URL"),
        ("https://host/months?token=x@hunter2", "has an @ behind its host"),
        ("https:/user:hunter2@host/months", "is not a URL"),
        ("HTTPS:user:hunter2@host/months", "is not a URL"),
        ("ftp://user:hunter2@host/months", "has to start with"),
        ("sftp://host/months?token=hunter2", "has to start with"),
    ],
)
def test_a_malformed_address_is_refused_without_its_password(variable: str, value: str, says: str) -> None:
    with pytest.raises(SettingError, match=says) as refused:
        read_settings({variable: value})
    told = "".join(traceback.format_exception(refused.value))
    assert variable in told
    assert [part for part in ("hunter2", "hun/", "hun?", "hun#", "ter2") if part in told] == []


@pytest.mark.parametrize("value", ["/data?/taxi.duckdb", "taxi?.duckdb"])
def test_a_question_mark_in_the_databases_path_is_refused(value: str) -> None:
    assert_refused({"DUCKDB_DATABASE": value}, "DUCKDB_DATABASE=", value, "has a ? in it")


def test_an_address_may_have_a_password_and_a_token() -> None:
    address = "https://user:h%40nter2@host:8443/months?token=a%2Fb"
    assert read_settings({"TAXI_TRIPS_URL": address}).trips_url == address


@pytest.mark.parametrize("value", ["lots", "512", "MB", "-1GB", "1,5GB", "512MBytes", "GB 4"])
def test_what_is_not_a_size_is_refused(value: str) -> None:
    assert_refused({"DUCKDB_MEMORY_LIMIT": value}, f"DUCKDB_MEMORY_LIMIT={value}", "512MB")


def assert_refused(environ: dict[str, str], *parts: str) -> None:
    with pytest.raises(SettingError) as refused:
        read_settings(environ)
    assert [part for part in parts if part not in str(refused.value)] == [], str(refused.value)


def test_a_wrong_setting_stops_the_code_location_with_that_message(tmp_path: Path) -> None:
    # What Dagster imports, as pyproject.toml names it.
    result = python("import dagster_essentials.definitions", tmp_path, TAXI_START_DATE="01/01/2023")
    assert result.returncode != 0
    last_line = result.stderr.strip().splitlines()[-1]
    assert last_line.endswith(
        "SettingError: TAXI_START_DATE=01/01/2023 is not a date. Write it as YYYY-MM-DD, for example 2023-01-01."
    )


def test_an_end_date_gives_the_three_months_of_the_lesson(tmp_path: Path) -> None:
    code = "from dagster_essentials.partitions import monthly_partition; print(*monthly_partition.get_partition_keys())"
    result = python(code, tmp_path, TAXI_START_DATE="2023-01-01", TAXI_END_DATE="2023-04-01")
    assert result.stdout.split() == ["2023-01-01", "2023-02-01", "2023-03-01"], result.stderr


def python(code: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), **os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_start_before_the_files_had_zones_is_refused() -> None:
    with pytest.raises(SettingError, match="TAXI_START_DATE=2010-12-01 is too early"):
        read_settings({"TAXI_START_DATE": "2010-12-01"})
    assert read_settings({"TAXI_START_DATE": "2011-01-01"}).start_date == "2011-01-01"
