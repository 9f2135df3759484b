"""Settings: defaults, valid values, and an error message for every invalid one."""

import tempfile
import traceback
from pathlib import Path

import pytest

from dagster_essentials.datasets import fleets
from dagster_essentials.ingestion.data_folder import DataFolder, ObjectStore, S3DataFolder
from dagster_essentials.settings import FLEET_NAMES, SettingError, Settings, SmtpServer, read_settings
from dagster_essentials.warehouse.lake import Lake
from dagster_essentials_tests.support.project import ROOT

DEFAULTS = Settings(
    database=ROOT / "data" / "staging" / "data.duckdb",
    files=DataFolder(ROOT / "data"),
    trips_url="https://d37ci6vzurychx.cloudfront.net/trip-data",
    zones_url=(
        "https://community-engineering-artifacts.s3.us-west-2.amazonaws.com/dagster-university/data/taxi_zones.csv"
    ),
    start_date="2023-01-01",
    end_date=None,
    publication_lag_months=2,
    fleets=(),
    reports=(),
    database_memory_limit="512MB",
    database_threads=None,
    database_wait_seconds=600,
    alert_webhook_url=None,
    alert_recipients=(),
    smtp=None,
    ui_url="http://127.0.0.1:3000",
)

# Variable, value, the field that it sets and the value of that field.
OVERRIDES = [
    ("DUCKDB_DATABASE", "/elsewhere/taxi.duckdb", "database", Path("/elsewhere/taxi.duckdb")),
    ("TAXI_DATA_DIR", "/elsewhere", "files", DataFolder(Path("/elsewhere"))),
    ("TAXI_TRIPS_URL", "http://localhost:8000/months", "trips_url", "http://localhost:8000/months"),
    ("TAXI_TRIPS_URL", "http://localhost:8000/months/", "trips_url", "http://localhost:8000/months"),
    ("TAXI_TRIPS_URL", "file:///mirror/months", "trips_url", "file:///mirror/months"),
    ("TAXI_TRIPS_URL", "/mirror/months", "trips_url", "/mirror/months"),
    ("TAXI_ZONES_URL", "https://example.org/zones.csv", "zones_url", "https://example.org/zones.csv"),
    ("TAXI_ZONES_URL", "/mirror/zones.csv", "zones_url", "/mirror/zones.csv"),
    ("TAXI_START_DATE", "2009-01-01", "start_date", "2009-01-01"),
    ("TAXI_END_DATE", "2023-02-01", "end_date", "2023-02-01"),
    ("TAXI_PUBLICATION_LAG_MONTHS", "0", "publication_lag_months", 0),
    ("TAXI_PUBLICATION_LAG_MONTHS", " 3 ", "publication_lag_months", 3),
    ("TAXI_FLEETS", "fhvhv, green,", "fleets", ("green", "fhvhv")),
    ("TAXI_FLEETS", "none", "fleets", ()),
    ("TAXI_REPORTS", "report", "reports", ("report",)),
    ("TAXI_REPORTS", "none", "reports", ()),
    ("DUCKDB_MEMORY_LIMIT", "1.5GiB", "database_memory_limit", "1.5GiB"),
    ("DUCKDB_THREADS", "1", "database_threads", 1),
    ("DUCKDB_WAIT_SECONDS", "0", "database_wait_seconds", 0),
    ("TAXI_ALERT_WEBHOOK_URL", "https://host/T0/a?sig=b%2Fc", "alert_webhook_url", "https://host/T0/a?sig=b%2Fc"),
    ("TAXI_UI_URL", "https://dagster.example.org/taxi/", "ui_url", "https://dagster.example.org/taxi"),
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


def test_other_variables_are_not_read() -> None:
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
def test_a_relative_path_starts_in_the_project_and_not_in_the_working_directory(
    variable: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(getattr(read_settings({variable: "some/place"}), field)) == f"{ROOT}/some/place"


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = read_settings({"TAXI_DATA_DIR": "~/taxi", "TAXI_TRIPS_URL": "~/months"})
    assert (settings.data_dir, settings.trips_url) == (tmp_path / "taxi", f"{tmp_path}/months")


@pytest.mark.parametrize("variable", ["TAXI_START_DATE", "TAXI_END_DATE"])
@pytest.mark.parametrize(
    "value", ["January", "2024", "2024-01", "2024-1-1", "20240101", "2024-02-30", "2024-13-01", "2024-01-01T00:00"]
)
def test_an_invalid_date_is_refused(variable: str, value: str) -> None:
    assert_refused({variable: value}, f"{variable}={value} is not a date", "YYYY-MM-DD")


@pytest.mark.parametrize("variable", ["TAXI_START_DATE", "TAXI_END_DATE"])
@pytest.mark.parametrize(("value", "first"), [("2024-01-02", "2024-01-01"), ("2024-02-29", "2024-02-01")])
def test_a_day_within_a_month_is_refused_and_the_first_day_is_suggested(variable: str, value: str, first: str) -> None:
    assert_refused({variable: value}, f"{variable}={value}", f"Write {first}")


@pytest.mark.parametrize("end", ["2023-03-01", "2023-02-01", "2022-03-01"])
def test_an_end_that_leaves_no_month_is_refused(end: str) -> None:
    dates = {"TAXI_START_DATE": "2023-03-01", "TAXI_END_DATE": end}
    assert_refused(dates, f"TAXI_END_DATE={end}", "TAXI_START_DATE=2023-03-01")


def test_an_end_before_the_default_start_is_refused() -> None:
    assert_refused({"TAXI_END_DATE": "2022-01-01"}, "TAXI_END_DATE=2022-01-01", "TAXI_START_DATE=2023-01-01")


def test_an_end_one_month_after_the_start_is_valid() -> None:
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
def test_an_invalid_or_too_small_number_is_refused(variable: str, lowest: int, values: list[str]) -> None:
    for value in values:
        assert_refused({variable: value}, f"{variable}={value}", f"a whole number from {lowest} up")


@pytest.mark.parametrize(
    ("value", "unknown"), [("blue", "blue"), ("green,yellow", "yellow"), ("green fhv", "green fhv")]
)
def test_a_fleet_that_is_not_one_of_the_others_is_refused(value: str, unknown: str) -> None:
    assert_refused({"TAXI_FLEETS": value}, f"TAXI_FLEETS={value} has '{unknown}'", "green,fhv,fhvhv")


def test_the_fleets_of_the_settings_are_the_datasets_in_their_order() -> None:
    assert read_settings({"TAXI_FLEETS": ",".join(FLEET_NAMES[::-1])}).fleets == FLEET_NAMES
    assert list(FLEET_NAMES) == list(fleets.FLEETS)


@pytest.mark.parametrize("variable", ["TAXI_TRIPS_URL", "TAXI_ZONES_URL"])
@pytest.mark.parametrize("scheme", ["ftp", "s3", "gs"])
def test_a_url_with_another_scheme_is_refused(variable: str, scheme: str) -> None:
    value = f"{scheme}://bucket/place"
    assert_refused({variable: value}, f"{variable}={value}", "http://", "https://", "file://", "local path")


@pytest.mark.parametrize("variable", ["TAXI_TRIPS_URL", "TAXI_ZONES_URL"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("https://user:hunter2@[::1/months", "is not a URL"),
        ("https://user:hunter2@host:port/months", "is not a URL"),
        ("https://user:hun/ter2@host/months", "is not a URL"),
        ("https://user:hun?ter2@host/months", "is not a URL"),
        ("https://user:hun#ter2@host/months", "is not a URL"),
        ("https://user:1/hunter2@host/months", "has an @ after its host"),
        ("https://user:hunter2@\u2100/months", "is not a URL"),
        ("https://user:hunter2@/months", "has no host"),
        ("https:///months?token=hunter2", "has no host"),
        ("https://host:port/months?token=hunter2", "is not a URL"),
        ("https://host/months?token=x@hunter2", "has an @ after its host"),
        ("https:/user:hunter2@host/months", "is not a URL"),
        ("HTTPS:user:hunter2@host/months", "is not a URL"),
        ("ftp://user:hunter2@host/months", "has to start with"),
        ("sftp://host/months?token=hunter2", "has to start with"),
    ],
)
def test_a_malformed_url_is_refused_without_its_password(variable: str, value: str, message: str) -> None:
    with pytest.raises(SettingError, match=message) as refused:
        read_settings({variable: value})
    text = "".join(traceback.format_exception(refused.value))
    assert variable in text
    assert [part for part in ("hunter2", "hun/", "hun?", "hun#", "ter2") if part in text] == []


@pytest.mark.parametrize("variable", ["TAXI_TRIPS_URL", "TAXI_ZONES_URL"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("file://mirror/months", r"has the host mirror, .*Write the path"),
        ("file://months", "has the host months"),
        ("file://./months", r"has the host \., "),
        ("file://~/months", "has the host ~"),
        ("file://../months", r"has the host \.\."),
        ("file://C:/months", r"is not a URL|has the host C:"),
        ("FILE://192.168.1.2/months", r"has the host 192\.168\.1\.2"),
        ("file://user:hunter2@server/months", "has the host server"),
        ("file://", "has no absolute path"),
        ("file://localhost", "has no absolute path"),
        ("file:///what?/months", "has a [?] or a #"),
        ("file:///months#2023", "has a [?] or a #"),
    ],
)
def test_a_file_url_that_is_not_a_path_on_this_machine_is_refused(variable: str, value: str, message: str) -> None:
    with pytest.raises(SettingError, match=f"^{variable}=.*{message}") as refused:
        read_settings({variable: value})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("value", ["file:///mirror/months", "file://localhost/mirror/months", "file:///a%3F/100%25"])
def test_a_file_url_is_a_path_on_this_machine(value: str) -> None:
    assert read_settings({"TAXI_TRIPS_URL": value}).trips_url == value


@pytest.mark.parametrize("value", ["/data?/taxi.duckdb", "taxi?.duckdb"])
def test_a_question_mark_in_the_databases_path_is_refused(value: str) -> None:
    assert_refused({"DUCKDB_DATABASE": value}, "DUCKDB_DATABASE=", value, "contains a ?")


def test_a_url_may_have_a_password_and_a_token() -> None:
    url = "https://user:h%40nter2@host:8443/months?token=a%2Fb"
    assert read_settings({"TAXI_TRIPS_URL": url}).trips_url == url


@pytest.mark.parametrize("value", ["lots", "512", "MB", "-1GB", "1,5GB", "512MBytes", "GB 4"])
def test_an_invalid_memory_limit_is_refused(value: str) -> None:
    assert_refused({"DUCKDB_MEMORY_LIMIT": value}, f"DUCKDB_MEMORY_LIMIT={value}", "512MB")


def assert_refused(environ: dict[str, str], *parts: str) -> None:
    with pytest.raises(SettingError) as refused:
        read_settings(environ)
    assert [part for part in parts if part not in str(refused.value)] == [], str(refused.value)


def test_a_start_before_the_first_month_of_the_source_is_refused() -> None:
    with pytest.raises(SettingError, match=r"TAXI_START_DATE=2008-12-01 is too early: .* 2009-01-01"):
        read_settings({"TAXI_START_DATE": "2008-12-01"})
    assert read_settings({"TAXI_START_DATE": "2009-01-01"}).has_legacy_months
    assert read_settings({"TAXI_START_DATE": "2010-12-01"}).has_legacy_months
    assert not read_settings({"TAXI_START_DATE": "2011-01-01"}).has_legacy_months
    assert not read_settings({}).has_legacy_months


@pytest.mark.parametrize(
    ("trips_url", "month_url"),
    [
        ("http://host/months", "http://host/months/yellow_tripdata_2023-01.parquet"),
        ("http://host/months/", "http://host/months/yellow_tripdata_2023-01.parquet"),
        ("https://host", "https://host/yellow_tripdata_2023-01.parquet"),
        (
            "https://user:h%40nter2@host:8443/months/?token=a%2Fb",
            "https://user:h%40nter2@host:8443/months/yellow_tripdata_2023-01.parquet?token=a%2Fb",
        ),
        ("file:///mirror/months/", "file:///mirror/months/yellow_tripdata_2023-01.parquet"),
        ("/mirror/a #1 folder?/", "/mirror/a #1 folder?/yellow_tripdata_2023-01.parquet"),
    ],
)
def test_the_url_of_a_month_has_its_file_name_before_the_query(trips_url: str, month_url: str) -> None:
    assert read_settings({"TAXI_TRIPS_URL": trips_url}).month_url("2023-01") == month_url


# Alerts.

ADDRESSES = "data@example.org, team@example.org"


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://localhost", SmtpServer("localhost", 25, False, None, None)),
        ("smtps://mail.example.org", SmtpServer("mail.example.org", 465, True, None, None)),
        ("smtp://[::1]:2525/", SmtpServer("::1", 2525, False, None, None)),
        ("smtp://taxi:hunter2@host:587", SmtpServer("host", 587, False, "taxi", "hunter2")),
        ("smtps://a%40b.org:h%2Fu%3An%40t%25@host:1", SmtpServer("host", 1, True, "a@b.org", "h/u:n@t%")),
    ],
)
def test_the_smtp_server_and_the_recipients(url: str, server: SmtpServer) -> None:
    settings = read_settings({"TAXI_SMTP_URL": url, "TAXI_ALERT_EMAIL": ADDRESSES})
    assert settings.smtp == server
    assert settings.alert_recipients == ("data@example.org", "team@example.org")
    assert settings.has_alerts


def test_alerts_are_on_with_a_webhook_too_and_off_by_default() -> None:
    assert read_settings({"TAXI_ALERT_WEBHOOK_URL": "https://host/a"}).has_alerts
    assert not read_settings({}).has_alerts


@pytest.mark.parametrize(
    ("variable", "other"), [("TAXI_SMTP_URL", "TAXI_ALERT_EMAIL"), ("TAXI_ALERT_EMAIL", "TAXI_SMTP_URL")]
)
def test_an_alert_by_e_mail_needs_both_settings(variable: str, other: str) -> None:
    values = {"TAXI_SMTP_URL": "smtp://taxi:hunter2@host", "TAXI_ALERT_EMAIL": ADDRESSES}
    message = f"{variable} is set and {other} is not: an alert by e-mail needs both. Set {other}, too."
    assert_refused({variable: values[variable]}, message)


@pytest.mark.parametrize(
    "value", ["data", "data@", "@example.org", "a b@example.org", "a@b@c", "ädä@example.org", "a@b;c@d"]
)
def test_an_invalid_e_mail_address_is_refused(value: str) -> None:
    environ = {"TAXI_SMTP_URL": "smtp://host", "TAXI_ALERT_EMAIL": f"team@example.org,{value}"}
    assert_refused(environ, "TAXI_ALERT_EMAIL is not a list of e-mail addresses")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("TAXI_ALERT_WEBHOOK_URL", "hunter2", "has to start with http:// or https://."),
        ("TAXI_ALERT_WEBHOOK_URL", "hooks.example.org/hunter2", "has to start with"),
        ("TAXI_ALERT_WEBHOOK_URL", "ftp://host/hunter2", "has to start with"),
        ("TAXI_ALERT_WEBHOOK_URL", "https:///hunter2", "has no host"),
        ("TAXI_ALERT_WEBHOOK_URL", "https://host:hunter2/a", "is not a URL"),
        ("TAXI_ALERT_WEBHOOK_URL", "https://[::1/hunter2", "is not a URL"),
        ("TAXI_ALERT_WEBHOOK_URL", "https://u:1/hunter2@host/a", "has an @ after its host"),
        ("TAXI_SMTP_URL", "taxi:hunter2@host", "has to start with smtp:// or smtps://"),
        ("TAXI_SMTP_URL", "https://taxi:hunter2@host", "has to start with smtp:// or smtps://"),
        ("TAXI_SMTP_URL", "smtp://taxi:hunter2@", "has no host"),
        ("TAXI_SMTP_URL", "smtp://taxi:hunter2@host:port", "is not a URL"),
        ("TAXI_SMTP_URL", "smtp://taxi:hun/ter2@host", "is not a URL"),
        ("TAXI_SMTP_URL", "smtp://taxi:1#hunter2@host", "has an @ after its host"),
        ("TAXI_SMTP_URL", "smtp://taxi:hunter2@host/path", "has a path or options"),
        ("TAXI_SMTP_URL", "smtp://host?password=hunter2", "has a path or options"),
        ("TAXI_SMTP_URL", "smtp://:hunter2@host", "has a user name without a password, or"),
        ("TAXI_SMTP_URL", "smtp://hunter2@host", "has a user name without a password, or"),
        ("TAXI_SMTP_URL", "smtp://taxi:hunter2%C3%A4@host", "not ASCII"),
        ("TAXI_ALERT_EMAIL", "smtp://taxi:hunter2@host", "is not a list of e-mail addresses"),
        ("TAXI_UI_URL", "localhost:3000", "has to start with http:// or https://."),
        ("TAXI_UI_URL", "https://taxi:hunter2@host", "must have no user name, no password"),
        ("TAXI_UI_URL", "https://host/?token=hunter2", "must have no user name, no password"),
    ],
)
def test_an_invalid_address_of_alerts_is_refused_without_showing_it(variable: str, value: str, message: str) -> None:
    with pytest.raises(SettingError) as refused:
        read_settings({variable: value})
    assert message in str(refused.value)
    text = "".join(traceback.format_exception(refused.value))
    assert variable in text
    assert [part for part in ("hunter2", "hun/", "ter2") if part in text] == []


def test_the_settings_do_not_show_the_secrets_of_alerts() -> None:
    environ = {"TAXI_ALERT_WEBHOOK_URL": "https://host/hunter2", "TAXI_SMTP_URL": "smtp://taxi:hunter2@host"}
    assert "hunter2" not in repr(read_settings({**environ, "TAXI_ALERT_EMAIL": ADDRESSES}))


# A DuckLake

KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "wrong-word"}
CATALOG = "postgresql://taxi:wrong-word@db.example.org:5432/lake?sslmode=verify-full"


def lake_environ(catalog: str = CATALOG, data_path: str = "s3://bucket/lake", **environ: str) -> dict[str, str]:
    return {"DUCKDB_DATABASE": f"ducklake:postgres:{catalog}", "DUCKLAKE_DATA_PATH": data_path, **KEYS, **environ}


@pytest.mark.parametrize("catalog", [CATALOG, "dbname=lake", "host=db.example.org user=taxi dbname=lake"])
def test_the_database_may_be_a_lake(catalog: str) -> None:
    settings = read_settings(lake_environ(catalog))
    store = ObjectStore(None, "us-east-1", "id", "wrong-word", None)
    assert settings.lake == Lake(catalog, "s3://bucket/lake/", store)
    assert settings.database_name == "lake"
    assert "wrong-word" not in repr(settings)


def test_the_data_files_of_a_lake_may_be_in_a_folder() -> None:
    settings = read_settings({"DUCKDB_DATABASE": "ducklake:postgres:dbname=lake", "DUCKLAKE_DATA_PATH": "data/lake"})
    assert settings.lake == Lake("dbname=lake", f"{ROOT}/data/lake/", None)


def test_the_object_store_is_that_of_the_usual_variables() -> None:
    others = {"AWS_ENDPOINT_URL": "https://s3.example.org:9000/", "AWS_REGION": "eu-1", "AWS_SESSION_TOKEN": "token"}
    lake = read_settings(lake_environ(**others)).lake
    assert lake is not None
    assert lake.store == ObjectStore("https://s3.example.org:9000", "eu-1", "id", "wrong-word", "token")


@pytest.mark.parametrize(
    ("environ", "texts"),
    [
        ({"DUCKDB_DATABASE": "ducklake:lake.ducklake"}, ("ducklake:postgres:postgresql://",)),
        ({"DUCKDB_DATABASE": "ducklake:postgres:"}, ("host=... dbname=...",)),
        ({"DUCKDB_DATABASE": "ducklake:postgres:postgresql://u:wrong-word/x@db/lake"}, ("%2F",)),
        ({"DUCKLAKE_DATA_PATH": ""}, ("DUCKLAKE_DATA_PATH is not set",)),
        ({"DUCKLAKE_DATA_PATH": "gs://bucket/wrong-word"}, ("neither s3://", "gs://")),
        ({"DUCKLAKE_DATA_PATH": "s3://id:wrong-word@bucket/lake"}, ("s3://bucket/folder",)),
        ({"DUCKLAKE_DATA_PATH": "s3://bucket/*"}, ("s3://bucket/folder",)),
        ({"AWS_SECRET_ACCESS_KEY": ""}, ("DUCKLAKE_DATA_PATH", "AWS_SECRET_ACCESS_KEY")),
        ({"AWS_ENDPOINT_URL": "s3.example.org/wrong-word"}, ("AWS_ENDPOINT_URL", "https://")),
        ({"AWS_ENDPOINT_URL": "https://s3.example.org/bucket"}, ("AWS_ENDPOINT_URL", "path")),
        ({"TAXI_DATA_DIR": "s3://bucket/lake/raw"}, ("TAXI_DATA_DIR", "maintenance")),
        ({"TAXI_DATA_DIR": "/data/lake/raw", "DUCKLAKE_DATA_PATH": "/data/lake"}, ("TAXI_DATA_DIR", "maintenance")),
    ],
)
def test_a_lake_that_cannot_be_is_refused(environ: dict[str, str], texts: tuple[str, ...]) -> None:
    with pytest.raises(SettingError) as raised:
        read_settings({**lake_environ(), **environ})
    message = str(raised.value)
    assert all(text in message for text in texts), message
    assert "wrong-word" not in message


def test_the_data_folder_may_be_on_s3() -> None:
    settings = read_settings({"TAXI_DATA_DIR": "s3://bucket/taxi/", **KEYS})
    store = ObjectStore(None, "us-east-1", "id", "wrong-word", None)
    assert settings.files == S3DataFolder(settings.data_dir, "s3://bucket/taxi", store)
    assert settings.data_dir.parent == Path(tempfile.gettempdir())
    assert settings.data_dir != read_settings({"TAXI_DATA_DIR": "s3://bucket/other", **KEYS}).data_dir


@pytest.mark.parametrize("address", ["s3://", "s3://id:wrong-word@bucket", "s3://bucket/a?wrong-word"])
def test_an_address_of_the_data_folder_that_cannot_be_is_refused(address: str) -> None:
    with pytest.raises(SettingError, match="TAXI_DATA_DIR") as raised:
        read_settings({"TAXI_DATA_DIR": address, **KEYS})
    assert "wrong-word" not in str(raised.value)
    with pytest.raises(SettingError, match="AWS_ACCESS_KEY_ID"):
        read_settings({"TAXI_DATA_DIR": "s3://bucket/taxi"})
