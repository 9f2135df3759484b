"""The settings of the data folder and of a DuckLake, which may be on S3."""

import re
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from dagster_essentials.ingestion.data_folder import DataFolder, ObjectStore, S3DataFolder
from dagster_essentials.settings.values import SettingError, read_path, read_url
from dagster_essentials.warehouse.lake import Lake

_S3 = r"s3://[^/?#@]+(/[^?#@*\[]*)?"


def read_data_dir(name: str, text: str, value: Callable[[str, str], str]) -> DataFolder:
    """The data folder at `text`, a path or an address on S3."""
    if not text.startswith("s3://"):
        return DataFolder(read_path(name, text))
    if not re.fullmatch(_S3, text):
        raise SettingError(f"{name} is not an address such as s3://bucket/folder.")
    url = text.rstrip("/")
    # Of its own for each address, so that what was fetched from another one is never taken for it.
    cache = Path(tempfile.gettempdir()) / f"nyc-taxi-{sha256(url.encode()).hexdigest()[:12]}"
    return S3DataFolder(cache, url, read_object_store(name, value))


def read_lake(text: str, data_path: str, files: DataFolder, value: Callable[[str, str], str]) -> Lake:
    """The lake that `text` names, whose data files are at `data_path`, which must not contain the data folder, `files`."""
    # The text is not shown: it may contain a password.
    name, catalog = "DUCKDB_DATABASE", text.partition("ducklake:postgres:")[2]
    if re.match(r"postgres(ql)?://", catalog):
        read_url(name, catalog, ("postgresql", "postgres"), "ducklake:postgres:postgresql://")
    elif not re.match(r"\w+\s*=", catalog):
        raise SettingError(
            f"{name} is a DuckLake without a catalogue in PostgreSQL: write ducklake:postgres:postgresql://user@host/name, or "
            "ducklake:postgres: and a connection string such as host=... dbname=..."
        )
    if not data_path:
        raise SettingError(
            f"{name} is a DuckLake, and DUCKLAKE_DATA_PATH is not set: set it to where its data files go, a folder or s3://..."
        )
    if not data_path.startswith("s3://"):
        if "://" in data_path:
            raise SettingError(
                f"DUCKLAKE_DATA_PATH={data_path.partition('://')[0]}://... is neither s3:// nor a folder."
            )
        folder = read_path("DUCKLAKE_DATA_PATH", data_path)
        if folder in (files.path, *files.path.parents):
            raise SettingError(_IN_THE_LAKE.format(files.path, folder))
        return Lake(catalog, f"{folder}/", None)
    if not re.fullmatch(_S3, data_path):
        raise SettingError("DUCKLAKE_DATA_PATH is not an address such as s3://bucket/folder.")
    url = data_path.rstrip("/") + "/"
    if f"{files.place}/".startswith(url):
        raise SettingError(_IN_THE_LAKE.format(files.place, url))
    return Lake(catalog, url, read_object_store("DUCKLAKE_DATA_PATH", value))


def read_object_store(name: str, value: Callable[[str, str], str]) -> ObjectStore:
    """The object store of the usual variables, for what the setting `name` has there."""
    key_id, secret_key = value("AWS_ACCESS_KEY_ID", ""), value("AWS_SECRET_ACCESS_KEY", "")
    if not key_id or not secret_key:
        raise SettingError(f"{name} is on S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, too.")
    endpoint = value("AWS_ENDPOINT_URL_S3", "") or value("AWS_ENDPOINT_URL", "")
    if endpoint and read_url("AWS_ENDPOINT_URL", endpoint, ("http", "https"), "http:// or https://").path.strip("/"):
        raise SettingError("AWS_ENDPOINT_URL has a path after its host and port.")
    return ObjectStore(
        endpoint.rstrip("/") or None,
        value("AWS_REGION", "") or value("AWS_DEFAULT_REGION", "us-east-1"),
        key_id,
        secret_key,
        value("AWS_SESSION_TOKEN", "") or None,
    )


_IN_THE_LAKE = (
    "TAXI_DATA_DIR={} is in DUCKLAKE_DATA_PATH={}, where the lake's maintenance deletes every file that is not the lake's. "
    "Choose a place that is the lake's alone."
)
