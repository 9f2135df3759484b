"""A connection to a DuckLake: DuckDB's extensions, the catalogue in PostgreSQL, the data files on S3 or in a folder.

Many processes have one at a time, and none waits for another to read. Each error comes within seconds, says what to do, and
has no password in it.
"""

import ctypes
import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb

from dagster_essentials.errors import DatabaseUnusableError, QueryError
from dagster_essentials.ingestion.data_folder import ObjectStore
from dagster_essentials.ingestion.sql import first_line, literal
from dagster_essentials.warehouse.file import set_options
from dagster_essentials.warehouse.lake import LAKE_NAME, Lake
from dagster_essentials.warehouse.lake.tables import LakeTables, retryable

EXTENSIONS = ("ducklake", "postgres_scanner", "httpfs")

INLINED_ROWS = 1000
"""Inserts of fewer rows go into the catalogue instead of files: a load writes 300 rows of aggregates and versions."""

_CHECK_SECONDS = 5


@contextmanager
def lake_tables(
    lake: Lake, config: Mapping[str, Any], wait_seconds: float, log: Callable[[str], object]
) -> Iterator[LakeTables]:
    """Connect to `lake`, and create it if there is none; `wait_seconds` is for its locks.

    It is attached to a database in memory: with `duckdb.connect("ducklake:…")`, DuckDB 1.5 does not end its work when the
    same process connects again after a conflict.

    Raises:
        DatabaseUnusableError: an extension is missing, or the catalogue or the data files cannot be reached.
        ConnectionLostError: the catalogue could be reached, but not to the end of the block.
    """
    key = (lake, tuple(sorted(config.items())))
    with ExitStack() as stack:
        session, connect_string, password = _open_catalog(lake.catalog)
        stack.callback(session.close)
        from dagster_essentials.warehouse.lake.locks import CatalogLocks

        locks = CatalogLocks(session, wait_seconds, log)
        instance = _idle.pop(key, None) or _Instance(config)
        try:
            if not instance.is_attached:
                with locks.exclusive("the lake itself"):
                    instance.attach(lake, connect_string, password)
            yield LakeTables(instance.connection, locks)
        except BaseException as error:
            # It may have connections to PostgreSQL that are broken.
            instance.close()
            if isinstance(error, (duckdb.Error, QueryError)):
                # DuckDB's message does not always say that the connection was lost.
                locks.confirm()
                if retry := retryable(error):
                    raise retry from None
            raise
        if _idle.setdefault(key, instance) is not instance:
            instance.close()


class _Instance:
    """A DuckDB in memory to which a lake is attached. To load the extensions and to attach it takes 0.8 seconds."""

    def __init__(self, config: Mapping[str, Any]):
        self._spill = tempfile.TemporaryDirectory(prefix="duckdb-", ignore_cleanup_errors=True)
        self.connection = duckdb.connect(":memory:", config={**config, "temp_directory": self._spill.name})
        set_options(self.connection, config)
        self.is_attached = False

    def attach(self, lake: Lake, connect_string: str, password: str) -> None:
        for extension in EXTENSIONS:
            _load_extension(self.connection, extension)
        if lake.store:
            _create_secret(self.connection, "s3", _s3_options(lake.store))
        if password:
            _create_secret(self.connection, "postgres", {"PASSWORD": password})
        _check_data_path(self.connection, lake)
        _attach(self.connection, lake, connect_string, has_password=bool(password))
        self.connection.execute(f"USE {LAKE_NAME}")
        self.is_attached = True

    def close(self) -> None:
        try:
            self.connection.execute("SELECT 1")
        except duckdb.FatalException:
            # DuckDB 1.5.5 has invalidated this database, as it does in one of fifty cases if the connection to PostgreSQL is
            # lost. To close it would end the process (SIGABRT), so its memory is never freed.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.connection))
            return
        except duckdb.Error:
            pass  # A transaction that has been aborted.
        self.connection.close()
        self._spill.cleanup()


_idle: dict[Any, _Instance] = {}
"""By lake and configuration, what the next connection of this process uses."""


def _open_catalog(catalog: str) -> tuple[Any, str, str]:
    """A connection to PostgreSQL, and the connection string without the password, which would be in DuckDB's errors."""
    try:
        # Only a lake needs it.
        import psycopg2.extensions

        from dagster_essentials.warehouse.lake.locks import CONNECTION_OPTIONS, connect_catalog
    except ImportError:
        raise DatabaseUnusableError(
            "DUCKDB_DATABASE is a DuckLake, which needs psycopg2. Install the project with its extra `lake`, as "
            "docs/scale-out.md says."
        ) from None
    try:
        parts = psycopg2.extensions.parse_dsn(catalog)
    except psycopg2.ProgrammingError:
        # Its message repeats the text.
        raise DatabaseUnusableError(
            "DUCKDB_DATABASE is not a connection string that PostgreSQL's libpq can read. Write it as "
            "ducklake:postgres:postgresql://user:password@host:5432/name."
        ) from None
    password = parts.pop("password", "")
    try:
        session = connect_catalog(catalog)
    except psycopg2.Error as error:
        # It may be about to stop or to start.
        if retry := retryable(error):
            raise retry from None
        reason = " ".join(str(error).split()) or "no answer"
        raise DatabaseUnusableError(
            f"The lake's catalogue in PostgreSQL cannot be used ({reason}). Nothing was changed. Check that it runs, and the "
            "host, user, password and database in DUCKDB_DATABASE; then materialize again."
        ) from None
    return session, psycopg2.extensions.make_dsn(**{**parts, **CONNECTION_OPTIONS}), password


def _load_extension(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Load it from its wheel, if that is installed, or else as DuckDB does: from its folder, or its own repository."""
    wheel = importlib.util.find_spec(f"duckdb_extension_{name}")
    folders = wheel.submodule_search_locations if wheel else None
    files = [path for folder in folders or [] for path in Path(folder).rglob(f"{name}.duckdb_extension")]
    try:
        if files:
            connection.execute(f"LOAD {literal(str(files[0]))}")
        else:
            connection.execute(f"INSTALL {name}; LOAD {name}")
    except duckdb.Error as error:
        raise DatabaseUnusableError(
            f"DuckDB {duckdb.__version__} cannot load its extension {name} ({first_line(error)}). A lake needs it. Let this "
            "machine reach DuckDB's extension repository once, or install the extension's wheel of the same version as DuckDB, "
            "as docs/scale-out.md says."
        ) from None


def _s3_options(store: ObjectStore) -> dict[str, str]:
    options = {"KEY_ID": store.key_id, "SECRET": store.secret_key, "REGION": store.region}
    if store.session_token:
        options["SESSION_TOKEN"] = store.session_token
    if store.endpoint:
        scheme, _, host = store.endpoint.partition("://")
        options |= {"ENDPOINT": host, "URL_STYLE": "path", "USE_SSL": str(scheme == "https").lower()}
    return options


def _create_secret(connection: duckdb.DuckDBPyConnection, kind: str, options: Mapping[str, str]) -> None:
    values = ", ".join(f"{name} {literal(value)}" for name, value in options.items())
    # In memory only. DuckDB shows them as redacted.
    connection.execute(f"CREATE SECRET {kind}_of_lake (TYPE {kind}, {values})")


def _check_data_path(connection: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    try:
        if not lake.store:
            Path(lake.data_path).mkdir(parents=True, exist_ok=True)
            return
        # Otherwise it would be tried four times, for 30 seconds each.
        connection.execute(f"SET http_timeout = {_CHECK_SECONDS}; SET http_retries = 0")
        connection.execute("SELECT 1 FROM glob($path)", {"path": f"{lake.data_path}does-not-exist*"}).fetchall()
        connection.execute("RESET http_timeout; RESET http_retries")
    except (duckdb.Error, OSError) as error:
        text = str(error) if isinstance(error, OSError) else " ".join(str(error).partition("LINE 1")[0].split())
        raise DatabaseUnusableError(
            f"The lake's data path {lake.data_path} cannot be used ({text[:300]}). Nothing was changed. Check "
            "DUCKLAKE_DATA_PATH"
            + (", that the bucket exists, and AWS_ENDPOINT_URL, AWS_REGION and the keys" if lake.store else "")
            + "; then materialize again."
        ) from None


def _attach(connection: duckdb.DuckDBPyConnection, lake: Lake, connect_string: str, has_password: bool) -> None:
    secret = ", META_SECRET 'postgres_of_lake'" if has_password else ""
    try:
        connection.execute(
            f"ATTACH {literal(f'ducklake:postgres:{connect_string}')} AS {LAKE_NAME} "
            f"(DATA_PATH {literal(lake.data_path)}, DATA_INLINING_ROW_LIMIT {INLINED_ROWS}{secret})"
        )
    except duckdb.Error as error:
        if retry := retryable(error):
            raise retry from None
        raise DatabaseUnusableError(
            f"The lake cannot be attached ({first_line(error)}). Nothing was changed. If its data path is another one, set "
            "DUCKLAKE_DATA_PATH to that; if it was made by a newer DuckLake, install that version of DuckDB."
        ) from None
