"""The settings: environment variables, read once and validated when the code location loads.

Nothing else in the package reads the environment, and nothing here touches files or the network.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.settings.remote import read_data_dir, read_lake
from dagster_essentials.settings.values import IN_A_PASSWORD, read_path, read_url
from dagster_essentials.settings.values import SettingError as SettingError
from dagster_essentials.warehouse.lake import LAKE_NAME, Lake

TLC_TRIP_DATA = "https://d37ci6vzurychx.cloudfront.net/trip-data"
COURSE_ZONES = (
    "https://community-engineering-artifacts.s3.us-west-2.amazonaws.com/dagster-university/data/taxi_zones.csv"
)


FLEET_NAMES = ("green", "fhv", "fhvhv")
"""The TLC's fleets beside the yellow taxis, in the order in which they are partitions."""
REPORT_NAMES = ("report",)
"""The reports beside those of the lesson."""


@dataclass(frozen=True)
class SmtpServer:
    """The server for outgoing e-mail: with TLS from the start (`tls`), or with STARTTLS if it offers that."""

    host: str
    port: int
    tls: bool
    user: str | None
    password: str | None = field(repr=False)


@dataclass(frozen=True)
class Settings:
    """The settings of one code location; docs/settings.md describes each."""

    database: Path
    files: DataFolder
    trips_url: str
    zones_url: str
    start_date: str
    end_date: str | None
    publication_lag_months: int
    fleets: tuple[str, ...]
    reports: tuple[str, ...]
    database_memory_limit: str
    database_threads: int | None
    database_wait_seconds: int
    # Whoever knows the address can post to it, so it is a secret like the password of the SMTP server.
    alert_webhook_url: str | None = field(repr=False)
    alert_recipients: tuple[str, ...]
    smtp: SmtpServer | None
    ui_url: str
    lake: Lake | None = None
    """Replaces the file `database`, if it is set."""

    @property
    def data_dir(self) -> Path:
        """The folder on this disk; copies, if the files are on S3."""
        return self.files.path

    @property
    def database_name(self) -> str:
        """The name of the database in DuckDB."""
        return LAKE_NAME if self.lake else self.database.stem

    @property
    def has_alerts(self) -> bool:
        """True if there is a receiver of alerts."""
        return self.alert_webhook_url is not None or self.smtp is not None

    @property
    def has_legacy_months(self) -> bool:
        """True if months before 2011, which have coordinates instead of zones, are partitions."""
        return self.start_date < "2011-01-01"

    def month_url(self, month: str, dataset: str = "yellow") -> str:
        """The address at the source of the file of `month` (``YYYY-MM``) of `dataset`: yellow, green, fhv or fhvhv."""
        name = f"{dataset}_tripdata_{month}.parquet"
        parts = urlsplit(self.trips_url)
        if parts.scheme not in ("http", "https"):
            return f"{self.trips_url}/{name}"
        # An object store's token is in the query, which follows the path.
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from `environ`; an empty value counts as not set.

    Raises:
        SettingError: a value is malformed, or the end lies before the start.
    """

    def value(name: str, default: str) -> str:
        return environ.get(name, "").strip() or default

    start, end = _months(value)
    recipients, smtp = _mail(value)
    threads = value("DUCKDB_THREADS", "")
    database = value("DUCKDB_DATABASE", "data/staging/data.duckdb")
    is_lake = database.startswith("ducklake:")
    files = read_data_dir("TAXI_DATA_DIR", value("TAXI_DATA_DIR", "data"), value)
    return Settings(
        database=_database("DUCKDB_DATABASE", "data/staging/data.duckdb" if is_lake else database),
        files=files,
        trips_url=_location("TAXI_TRIPS_URL", value("TAXI_TRIPS_URL", TLC_TRIP_DATA)).rstrip("/"),
        zones_url=_location("TAXI_ZONES_URL", value("TAXI_ZONES_URL", COURSE_ZONES)),
        start_date=start.isoformat(),
        end_date=end.isoformat() if end else None,
        publication_lag_months=_whole_number(
            "TAXI_PUBLICATION_LAG_MONTHS", value("TAXI_PUBLICATION_LAG_MONTHS", "2"), at_least=0
        ),
        fleets=_names("TAXI_FLEETS", value("TAXI_FLEETS", "none"), FLEET_NAMES, "the fleets beside the yellow taxis"),
        reports=_names("TAXI_REPORTS", value("TAXI_REPORTS", "none"), REPORT_NAMES, "the reports beside the lesson's"),
        database_memory_limit=_memory_limit("DUCKDB_MEMORY_LIMIT", value("DUCKDB_MEMORY_LIMIT", "512MB")),
        database_threads=_whole_number("DUCKDB_THREADS", threads, at_least=1) if threads else None,
        # A month of three million trips holds the lock for about two seconds: ten minutes are enough for hundreds of
        # queued runs, and short enough for a person who waits for a run that a forgotten notebook blocks.
        database_wait_seconds=_whole_number("DUCKDB_WAIT_SECONDS", value("DUCKDB_WAIT_SECONDS", "600"), at_least=0),
        alert_webhook_url=_webhook("TAXI_ALERT_WEBHOOK_URL", value("TAXI_ALERT_WEBHOOK_URL", "")),
        alert_recipients=recipients,
        smtp=smtp,
        ui_url=_ui_address("TAXI_UI_URL", value("TAXI_UI_URL", "http://127.0.0.1:3000")),
        lake=read_lake(database, value("DUCKLAKE_DATA_PATH", ""), files, value) if is_lake else None,
    )


def _months(value: Callable[[str, str], str]) -> tuple[date, date | None]:
    """The first day of the months, and the one after their last day."""
    start = _first_of_month("TAXI_START_DATE", value("TAXI_START_DATE", "2023-01-01"))
    end = _first_of_month("TAXI_END_DATE", text) if (text := value("TAXI_END_DATE", "")) else None
    if start < date(2009, 1, 1):
        raise SettingError(
            f"TAXI_START_DATE={start} is too early: the first month that the TLC published is 2009-01-01."
        )
    if end is not None and end <= start:
        raise SettingError(
            f"TAXI_END_DATE={end} leaves no month: it is exclusive and has to be after TAXI_START_DATE={start}."
        )
    return start, end


def _first_of_month(name: str, text: str) -> date:
    try:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            raise ValueError
        day = date.fromisoformat(text)
    except ValueError:
        raise SettingError(f"{name}={text} is not a date. Write it as YYYY-MM-DD, for example 2023-01-01.") from None
    if day.day != 1:
        raise SettingError(
            f"{name}={text} is not the first day of a month, and a month is loaded whole. Write {day.replace(day=1)}."
        )
    return day


def _whole_number(name: str, text: str, at_least: int) -> int:
    if not re.fullmatch(r"-?\d+", text) or int(text) < at_least:
        raise SettingError(f"{name}={text} is not a whole number from {at_least} up.")
    return int(text)


def _names(name: str, text: str, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    """Those of the `known` names that `text` has, in their order."""
    chosen = set(filter(None, map(str.strip, text.split(",")))) if text != "none" else set()
    if unknown := sorted(chosen - {*known}):
        raise SettingError(
            f"{name}={text} has {unknown[0]!r}, which is not one of {what}: {','.join(known)}. "
            "Write those that you want, or none."
        )
    return tuple(each for each in known if each in chosen)


def _database(name: str, text: str) -> Path:
    path = read_path(name, text)
    if "?" in str(path):
        # The WAL of `a?/b.duckdb` would be `a.wal?/b.duckdb`, and a load would fail at its commit.
        raise SettingError(
            f"{name}={path} contains a ?, which DuckDB does not treat as part of a file name. Choose another path."
        )
    return path


def _location(name: str, text: str) -> str:
    """A URL with a scheme this project can read, or the absolute path of a local file or folder."""
    # The text may contain a password or a token, and in a malformed address it is unknown where that ends.
    shown = f"{name}={text}" if not set(text) & set("@?") else f"{name}={text.partition(':')[0]}:..."
    if "://" not in text:
        if re.match("(https?|file):", text, re.IGNORECASE):
            raise SettingError(f"{shown} is not a URL: a slash is missing. Write http://, https:// or file://.")
        return str(read_path(name, text))
    read_url(shown, text, ("http", "https", "file"), "http://, https:// or file://, or be a local path")
    return text


def _memory_limit(name: str, text: str) -> str:
    if not re.fullmatch(r"(?!0)\d+(\.\d+)?\s*[KMGT]i?B", text, re.IGNORECASE):
        raise SettingError(f"{name}={text} is not a size such as 512MB or 4GB.")
    return text


def _webhook(name: str, text: str) -> str | None:
    if not text:
        return None
    read_url(name, text, ("http", "https"), "http:// or https://")
    return text


def _ui_address(name: str, text: str) -> str:
    parts = read_url(name, text, ("http", "https"), "http:// or https://")
    if parts.username is not None or parts.query or parts.fragment:
        raise SettingError(f"{name} goes into messages: it must have no user name, no password, no ? and no #.")
    return text.rstrip("/")


def _mail(value: Callable[[str, str], str]) -> tuple[tuple[str, ...], SmtpServer | None]:
    """To whom alerts go by e-mail, and the server for that."""
    recipients = _recipients("TAXI_ALERT_EMAIL", value("TAXI_ALERT_EMAIL", ""))
    smtp = _smtp_server("TAXI_SMTP_URL", text) if (text := value("TAXI_SMTP_URL", "")) else None
    if bool(recipients) != (smtp is not None):
        missing, other = ("TAXI_SMTP_URL", "TAXI_ALERT_EMAIL")[:: 1 if recipients else -1]
        raise SettingError(f"{other} is set and {missing} is not: an alert by e-mail needs both. Set {missing}, too.")
    return recipients, smtp


def _smtp_server(name: str, text: str) -> SmtpServer:
    parts = read_url(name, text, ("smtp", "smtps"), "smtp:// or smtps://, for example smtp://user:password@host:587")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise SettingError(f"{name} has a path or options after its host and port. {IN_A_PASSWORD}")
    if bool(parts.username) != bool(parts.password):
        raise SettingError(f"{name} has a user name without a password, or a password without a user name.")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not (user + password).isascii():
        raise SettingError(f"{name} has a user name or a password that is not ASCII, which SMTP cannot transmit.")
    assert parts.hostname is not None
    tls = parts.scheme == "smtps"
    return SmtpServer(parts.hostname, parts.port or (465 if tls else 25), tls, user or None, password or None)


def _recipients(name: str, text: str) -> tuple[str, ...]:
    recipients = tuple(filter(None, map(str.strip, text.split(","))))
    # The value is not shown: it may be what belongs into another setting, with a password.
    if not all(
        re.fullmatch(r"[^@\s:/;<>\"]+@[^@\s:/;<>\"]+", recipient) and recipient.isascii() for recipient in recipients
    ):
        raise SettingError(f"{name} is not a list of e-mail addresses such as taxi@example.org,data@example.org.")
    return recipients


SETTINGS = read_settings()
