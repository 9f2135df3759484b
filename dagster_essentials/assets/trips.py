"""The trips and the zones: the files as the source has them, and the tables they become.

Assets here do the reading, writing and reporting. Which columns there are is decided in `columns.py`, what is checked
in `checks.py`, how a file is fetched in `source.py`, and how the database is shared in `resources.py`.
"""

import re
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import dagster as dg
import duckdb
from dagster_duckdb import DuckDBResource

from dagster_essentials import source
from dagster_essentials.assets import constants
from dagster_essentials.checks import MonthCounts, count_month, evaluate_month, evaluate_rows, trip_check_specs
from dagster_essentials.columns import (
    COLUMNS,
    COURSE_COLUMNS,
    FILE,
    Layout,
    LayoutError,
    Selection,
    literal_path,
    read_layout,
    reader,
    select_columns,
)
from dagster_essentials.files import second_name
from dagster_essentials.partitions import monthly_partition
from dagster_essentials.recording import (
    Recorded,
    fail_run,
    failures_in_run,
    is_executed,
    name,
    partitions_are_recorded,
    progress,
    record_failure,
    record_partition,
)
from dagster_essentials.resources import DatabaseBusyError, DatabaseUnusableError
from dagster_essentials.settings import SETTINGS
from dagster_essentials.source import Fetched, NotPublishedError, SourceError
from dagster_essentials.zones import Zone, ZonesError, read_zones

DATABASE_POOL = "duckdb"
"""Under which name an instance may limit the steps that use the database. The committed one does not: who writes takes
turns by the lock beside the database, whoever started it, and `.dagster/dagster.yaml` says what a limit would cost."""

DOWNLOADS_AT_ONCE = 4
"""Enough to fill a line while one download ends and the next begins, and few enough not to be throttled."""

DATABASE_NAME = SETTINGS.database.stem
"""What DuckDB calls it, as in ``data.main.trips``."""

OWNERS = ["team:nyc-taxi"]
"""Whom to ask about an asset: where a copy of this project is run, the team or the address that answers there."""


def trips_url(month: str) -> str:
    """Where the source has `month` (``YYYY-MM``)."""
    name = f"yellow_tripdata_{month}.parquet"
    parts = urlsplit(SETTINGS.trips_url)
    if parts.scheme not in ("http", "https"):
        return f"{SETTINGS.trips_url}/{name}"
    # A store that asks for a token has it behind the path.
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def not_written(error: OSError, path: Path) -> str:
    """What a failure says whose cause is that a file, `path` or one beside it, could not be written."""
    advice = "Make room, or give this user the right to write there"
    if isinstance(error, (FileExistsError, NotADirectoryError, IsADirectoryError)):
        advice = "Something else is in its place: move that away"
    return (
        # The second name of an error is that under which the file was to stand; the first is then a temporary one.
        f"{error.filename2 or error.filename or path} could not be written ({error.strerror}). What was there before is "
        f"unchanged. {advice}, and materialize again."
    )


def _trips_path(month: str) -> Path:
    return Path(constants.TAXI_TRIPS_TEMPLATE_FILE_PATH.format(month))


@dg.asset(
    partitions_def=monthly_partition,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="raw_files",
    kinds={"parquet"},
    owners=OWNERS,
    description="A month of yellow taxi trips, as the NYC Taxi & Limousine Commission publishes it.",
    metadata={
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn(column.source, column.type.lower(), column.description)
                for column in COLUMNS
                if column.source is not None
            ]
        )
    },
)
def taxi_trips_file(context: dg.AssetExecutionContext) -> Recorded:
    """Bring the file of each month of the run here; what has not changed at the source is not transferred again."""
    months = context.partition_keys
    reasons: dict[str, str] = {}
    began, total_rows, total_bytes, total_transferred = time.monotonic(), 0, 0, 0
    pool = ThreadPoolExecutor(max_workers=min(DOWNLOADS_AT_ONCE, len(months)))
    try:
        futures = {pool.submit(_fetch_month, key[:7]): key for key in months}
        for number, future in enumerate(as_completed(futures), start=1):
            key = futures[future]
            try:
                fetched, transferred, rows, seconds = future.result()
            except (SourceError, LayoutError, OSError) as error:
                # What goes wrong on this machine has nothing to do with the address.
                reasons[key] = name(context, key) + (
                    f": {not_written(error, _trips_path(key[:7]))}"
                    if isinstance(error, OSError)
                    else f" ({source.shown(trips_url(key[:7]))}): {error}"
                )
                record_failure(context, key, reasons[key], number)
                continue
            total_bytes += fetched.bytes
            total_transferred += fetched.bytes if transferred else 0
            total_rows += rows
            context.log.info(
                f"{progress(context, key, number)}: {rows:,} trips, {fetched.bytes / 1e6:.1f} MB, "
                + (f"fetched in {seconds:.1f} s" if transferred else "unchanged at the source, nothing transferred")
            )
            record_partition(
                context,
                key,
                data_version=fetched.sha256,
                metadata={
                    "dagster/partition_row_count": rows,
                    "dagster/uri": fetched.url,
                    "path": dg.MetadataValue.path(str(_trips_path(key[:7]))),
                    "bytes": fetched.bytes,
                    "bytes_transferred": fetched.bytes if transferred else 0,
                    "etag": fetched.etag or "none",
                    "last_modified": fetched.last_modified or "unknown",
                    "seconds": round(seconds, 3),
                },
            )
    finally:
        pool.shutdown(cancel_futures=True)
    figures = f"{total_rows:,} trips, {total_bytes / 1e6:.1f} MB, {total_transferred / 1e6:.1f} MB of it transferred"
    _log_summary(context, "are here", reasons, figures, began)
    # One bad month must not keep the good ones out of the table: when they are loaded in this run, taxi_trips fails it.
    if reasons and not (len(reasons) < len(months) and is_executed(context, taxi_trips)):
        fail_run(context, reasons)
    yield from partitions_are_recorded(context)


def _log_summary(
    context: dg.AssetExecutionContext, done: str, reasons: Collection[str], figures: str, began: float
) -> None:
    """Say at the end of a run of several months how many are `done`, with `figures`, and which failed."""
    total = len(context.partition_keys)
    if total > 1:
        failed = ", ".join(name(context, key) for key in sorted(reasons))
        context.log.info(
            f"{total - len(reasons)} of {total} months {done}: {figures}, in {time.monotonic() - began:.1f} s"
            + (f"; failed: {failed}" if failed else "")
        )


def _fetch_month(month: str) -> tuple[Fetched, bool, int, float]:
    started = time.monotonic()
    path = _trips_path(month)
    fetched, transferred = source.fetch(trips_url(month), path, validate=_check_trips)
    try:
        rows = read_layout(path).rows
    except duckdb.Error:
        raise SourceError(f"the file here, {path}, is damaged. Delete it, and materialize again.") from None
    return fetched, transferred, rows, time.monotonic() - started


def _check_trips(path: Path) -> None:
    try:
        layout = read_layout(path)
    except duckdb.Error:
        raise SourceError(
            f"what the source sent is not a whole parquet file, and was not kept. {_beginning(path)}"
        ) from None
    if layout.rows == 0:
        raise SourceError("the file has no rows, and was not kept. Materialize again when the source has a better one.")
    selection = select_columns(layout)
    try:
        rows = _decode(path, selection)
    except duckdb.Error as error:
        said = said_by_duckdb(error)[0].replace(f' "{path}"', "").replace(str(path), "the file")
        raise SourceError(f"the rows of the file cannot be read, and it was not kept: {said}. {_READ_AGAIN}") from None
    if rows != layout.rows:
        raise SourceError(
            f"the file has {rows:,} rows where its footer counts {layout.rows:,}, and was not kept. {_READ_AGAIN}"
        )


_READ_AGAIN = (
    "Materialize again; if it fails in the same way, the source's own file is like that: what its columns become is decided "
    "in dagster_essentials/columns.py."
)


def _decode(path: Path, selection: Selection) -> int:
    """Read every value that `trips` would take from the file at `path`, and return the number of rows.

    Raises:
        duckdb.Error: a page is damaged, or a value cannot become the table's.
    """
    # Of the functions that no statistics of the file can answer for, the cheapest: 0.26 s for the 3 million rows of a
    # month of 45 MB, beside 2 s or more for the load.
    values = ", ".join(f"last({expression})" for expression in selection.expressions)
    with reader() as connection:
        found = connection.execute(
            f"SELECT count(*), {values} FROM {FILE}", {"file": literal_path(path), "month": "9999-12"}
        ).fetchall()
    rows: int = found[0][0]
    return rows


def _beginning(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(60)
        file.seek(max(path.stat().st_size - 4, 0))
        end = file.read()
    if start.startswith(b"PAR1"):
        wrong = "its footer is damaged" if end == b"PAR1" else "its end is missing"
        return (
            f"It begins like one, but {wrong}: {path.stat().st_size:,} bytes came. Materialize again; if it is still so, the "
            "source's own file is broken."
        )
    said = f"It begins with {start.decode('utf-8', 'replace').strip()!r}." if start else "It is empty."
    return f"{said} Open the address in a browser to see what the source says, and materialize again."


@dataclass(frozen=True)
class LoadedMonth:
    """A month as it was loaded: the file's layout, how it became rows, and what was counted in them."""

    layout: Layout
    selection: Selection
    counts: MonthCounts


class LoadError(Exception):
    """A month could not be loaded, and is as it was. The message says why and what to do."""


class RowsDifferError(LoadError):
    """Other rows came into the table than the file's footer counts. None were kept."""

    def __init__(self, loaded: LoadedMonth):
        super().__init__(
            f"the file has {loaded.layout.rows:,} rows, and {loaded.counts.rows:,} came into the table, so none were kept. "
            "Materialize taxi_trips_file and taxi_trips again."
        )
        self.loaded = loaded


def _prepare_table(connection: duckdb.DuckDBPyConnection) -> None:
    """Make `trips`, or give one that the course's code made the columns it lacks."""
    columns = ", ".join(f"{column.name} {column.type}" for column in COLUMNS)
    connection.execute(f"CREATE TABLE IF NOT EXISTS trips ({columns})")
    present = {name for name, *_ in connection.execute("DESCRIBE trips").fetchall()}
    if lacking := [column.name for column in COURSE_COLUMNS if column.name not in present]:
        raise DatabaseUnusableError(
            f"the table trips in {SETTINGS.database} has no column {', '.join(lacking)}, so it was made by something else "
            "(the course's lessons before the eighth make one like it). Nothing was changed in it. Rename or drop it, "
            "and materialize again."
        )
    for column in COLUMNS:
        if column.name not in present:
            connection.execute(f"ALTER TABLE trips ADD COLUMN {column.name} {column.type}")


def has_table(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Whether the database has a table `name`."""
    return bool(connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = $name", {"name": name}).fetchall())


def loaded_months(connection: duckdb.DuckDBPyConnection, months: Collection[str]) -> set[str]:
    """Which of `months` (``YYYY-MM``) have trips in the table; none, when there is no table."""
    if not has_table(connection, "trips"):
        return set()
    loaded = connection.execute(
        "SELECT DISTINCT partition_date FROM trips WHERE partition_date IN (SELECT unnest($months))",
        {"months": list(months)},
    )
    return {month for (month,) in loaded.fetchall()}


def newest_month(connection: duckdb.DuckDBPyConnection) -> str | None:
    """The newest month (``YYYY-MM``) that has trips in the table, or None."""
    if not has_table(connection, "trips"):
        return None
    newest: str | None = connection.execute("SELECT max(partition_date) FROM trips").fetchall()[0][0]
    return newest


def load_month(connection: duckdb.DuckDBPyConnection, month: str, path: Path) -> LoadedMonth:
    """Put the rows of the file `path` in the place of those that `trips` has for `month` (``YYYY-MM``).

    All of it or nothing: it is one transaction, and rows that are not as many as the file's footer says are not kept.

    Raises:
        LoadError, LayoutError, DatabaseUnusableError, duckdb.Error: it could not be done; the month is as it was.
    """
    layout = read_layout(path)
    if layout.rows == 0:
        raise LoadError("the file has no rows. Delete it, and materialize taxi_trips_file and taxi_trips again.")
    selection = select_columns(layout)
    columns = ", ".join(column.name for column in COLUMNS)
    connection.execute("BEGIN")
    try:
        _prepare_table(connection)
        connection.execute("DELETE FROM trips WHERE partition_date = $month", {"month": month})
        connection.execute(
            f"INSERT INTO trips ({columns}) SELECT {', '.join(selection.expressions)} FROM {FILE}",
            {"month": month, "file": literal_path(path)},
        )
        loaded = LoadedMonth(layout, selection, count_month(connection, month))
        if loaded.counts.rows != layout.rows:
            raise RowsDifferError(loaded)
        connection.execute("COMMIT")
    except BaseException:
        # After some errors, a full disk among them, DuckDB has rolled back by itself, and says so.
        with suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        raise
    return loaded


def _why_not_loaded(error: Exception, path: Path, file: Path) -> str:
    """What kept the month of the file `path`, which was read by the name `file`, from being loaded, and what to do."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file. Materialize taxi_trips_file for this month first."
    if isinstance(error, OSError):
        return f"the file cannot be read ({error.strerror}). Materialize taxi_trips_file and taxi_trips again."
    if not isinstance(error, duckdb.Error):
        return str(error)
    said, no_room = said_by_duckdb(error)
    advice = no_room or (
        "Delete the file, and materialize taxi_trips_file and taxi_trips again. If it fails in the same way, the source's "
        "own file is like that: what its columns become is decided in dagster_essentials/columns.py."
    )
    said = said.replace(str(file), str(path))
    return f"loading the file failed, and the month is as it was: {said}. {advice}"


def said_by_duckdb(error: duckdb.Error) -> tuple[str, str]:
    """What `error` says in one line, and what to do if it is for want of room; else nothing."""
    said = str(error).partition("\n")[0].rstrip(".!")
    if re.search("could not write|no space left", said, re.IGNORECASE):
        return said, f"Make room on the disk of {SETTINGS.database}, and materialize again."
    return said, ""


@contextmanager
def failing_in_words(what: str, advice: str) -> Iterator[None]:
    """Let an error of DuckDB in the block fail the run with `what` happened, what DuckDB says, and `advice`.

    Raises:
        dagster.Failure: for every duckdb.Error.
    """
    try:
        yield
    except duckdb.Error as error:
        said, no_room = said_by_duckdb(error)
        raise dg.Failure(f"{what}: {said}. {no_room or advice}", allow_retries=False) from error


def _column_lineage() -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        {
            column.name: [dg.TableColumnDep(taxi_trips_file.key, column.source)]
            for column in COLUMNS
            if column.source is not None
        }
    )


@dg.asset(
    deps=[taxi_trips_file],
    partitions_def=monthly_partition,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="ingested",
    kinds={"duckdb", "table"},
    owners=OWNERS,
    pool=DATABASE_POOL,
    check_specs=trip_check_specs("taxi_trips"),
    description="The table trips: one row a trip, all months, none dropped.",
    metadata={
        "dagster/table_name": f"{DATABASE_NAME}.main.trips",
        "dagster/column_schema": dg.TableSchema(
            [dg.TableColumn(column.name, column.type.lower(), column.description) for column in COLUMNS]
        ),
        "dagster/column_lineage": _column_lineage(),
    },
)
def taxi_trips(context: dg.AssetExecutionContext, database: DuckDBResource) -> Recorded:
    """Load each month of the run into `trips`, a transaction each, and count what is odd in it."""
    months = context.partition_keys
    reasons = failures_in_run(context, taxi_trips_file)
    began, total_rows, total_bytes = time.monotonic(), 0, 0
    for number, key in enumerate(months, start=1):
        if key in reasons:
            context.log.error(
                f"{progress(context, key, number)} failed: its file did not come; taxi_trips_file says why"
            )
            record_failure(context, key, reasons[key], None)
            continue
        month, path = key[:7], _trips_path(key[:7])
        file = path
        started = time.monotonic()
        try:
            with database.get_connection() as connection:
                waited = time.monotonic() - started
                try:
                    # An overlapping run may put a newer file in its place while this one is read.
                    with second_name(path) as file:
                        version, size = source.content_version(path, file), file.stat().st_size
                        loaded = load_month(connection, month, file)
                except (LoadError, LayoutError, OSError, duckdb.Error) as error:
                    reasons[key] = f"{month} ({path}): {_why_not_loaded(error, path, file)}"
                    checks = (
                        [evaluate_rows(error.loaded.counts, error.loaded.layout.rows)]
                        if isinstance(error, RowsDifferError)
                        else []
                    )
                    record_failure(context, key, reasons[key], number, checks)
                    continue
                # Recorded before the database is free again: else an overlapping run could load another version and
                # record that first, and what Dagster knows last would not be what stands in the table.
                seconds = time.monotonic() - started - waited
                context.log.info(
                    f"{progress(context, key, number)}: {loaded.counts.rows:,} trips, {size / 1e6:.1f} MB, "
                    f"loaded in {seconds:.1f} s"
                    + (f" after {waited:.1f} s of waiting for the database" if waited >= 0.1 else "")
                )
                _record_load(context, key, version, loaded, seconds, waited)
        except (DatabaseBusyError, DatabaseUnusableError) as error:
            # As true for the months to come, and each of them would wait as long.
            left_out = [left for left in months[number:] if left not in reasons]
            for left in months[number - 1 :]:
                reasons.setdefault(left, f"{name(context, left)}: {error}")
                record_failure(context, left, reasons[left], number if left == key else None)
            if left_out:
                names = ", ".join(name(context, left) for left in left_out)
                context.log.error(f"not tried, for the same reason: {names}")
            break
        total_rows += loaded.counts.rows
        total_bytes += size
    _log_summary(context, "loaded", reasons, f"{total_rows:,} trips, {total_bytes / 1e6:.1f} MB", began)
    if reasons:
        fail_run(context, reasons)
    yield from partitions_are_recorded(context)


def _record_load(
    context: dg.AssetExecutionContext, key: str, version: str, loaded: LoadedMonth, seconds: float, waited: float
) -> None:
    checks = evaluate_month(loaded.counts, loaded.layout.rows, loaded.selection.unknown)
    record_partition(
        context,
        key,
        data_version=version,
        inputs={taxi_trips_file.key: version},
        metadata={
            "dagster/partition_row_count": loaded.counts.rows,
            "seconds": round(seconds, 3),
            "seconds_waited": round(waited, 3),
            "columns_without_values": ", ".join(loaded.selection.absent) or "none",
            # The page of a month shows neither its checks nor what it was made from.
            "checks_not_passed": ", ".join(str(check.check_name) for check in checks if not check.passed) or "none",
            "upstream": dg.MetadataValue.asset(taxi_trips_file.key),
        },
        checks=checks,
    )


@dg.asset(
    group_name="raw_files",
    kinds={"csv"},
    owners=OWNERS,
    description="The taxi zones, with their boroughs and outlines, as published.",
    metadata={
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn("OBJECTID", "integer", "Number of the row"),
                dg.TableColumn("Shape_Leng", "double", "Length of the outline, degrees"),
                dg.TableColumn("the_geom", "varchar", "Outline: WKT multipolygon, degrees of longitude and latitude"),
                dg.TableColumn("Shape_Area", "double", "Area, square degrees"),
                dg.TableColumn("zone", "varchar", "Name of the zone"),
                dg.TableColumn("LocationID", "integer", "Number of the zone; two of them stand in several rows"),
                dg.TableColumn("borough", "varchar", "Borough, or EWR for Newark Airport"),
            ]
        )
    },
)
def taxi_zones_file() -> dg.MaterializeResult[Any]:
    """Bring the zones CSV here, unless the one that is here is still the source's."""
    path = Path(constants.TAXI_ZONES_FILE_PATH)
    url = source.shown(SETTINGS.zones_url)
    try:
        fetched, transferred = source.fetch(SETTINGS.zones_url, path, validate=read_zones)
    except NotPublishedError:
        # From None, here and below: the message says all there is, and Dagster prints the trace of a cause as well.
        raise dg.Failure(
            f"taxi zones ({url}): not published there. Point TAXI_ZONES_URL to where they are, and materialize again.",
            allow_retries=False,
        ) from None
    except (SourceError, ZonesError) as error:
        raise dg.Failure(f"taxi zones ({url}): {error}", allow_retries=False) from None
    except OSError as error:
        raise dg.Failure(f"taxi zones ({url}): {not_written(error, path)}", allow_retries=False) from None
    return dg.MaterializeResult(
        data_version=dg.DataVersion(fetched.sha256),
        metadata={
            "dagster/uri": fetched.url,
            "path": dg.MetadataValue.path(str(path)),
            "bytes": fetched.bytes,
            "bytes_transferred": fetched.bytes if transferred else 0,
        },
    )


@dg.asset(
    deps=[taxi_zones_file],
    group_name="ingested",
    kinds={"duckdb", "table"},
    owners=OWNERS,
    pool=DATABASE_POOL,
    description="The table zones: one row a zone, so that a join with it never multiplies trips.",
    metadata={
        "dagster/table_name": f"{DATABASE_NAME}.main.zones",
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn("zone_id", "integer", "What pickup_zone_id and dropoff_zone_id of trips refer to"),
                dg.TableColumn("zone", "varchar", "Name of the zone"),
                dg.TableColumn("borough", "varchar", "Borough, or EWR for Newark Airport"),
                dg.TableColumn("geometry", "varchar", "Outline: WKT multipolygon, degrees of longitude and latitude"),
            ]
        ),
    },
)
def taxi_zones(database: DuckDBResource) -> dg.MaterializeResult[Any]:
    """Replace the table `zones` by the zones of the file, in one transaction."""
    path = Path(constants.TAXI_ZONES_FILE_PATH)
    try:
        zones = read_zones(path)
    except FileNotFoundError:
        raise dg.Failure(f"{path} is not there. Materialize taxi_zones_file first.", allow_retries=False) from None
    except ZonesError as error:
        raise dg.Failure(f"{path}: {error}", allow_retries=False) from None
    except OSError as error:
        raise dg.Failure(
            f"{path} cannot be read ({error.strerror}). Materialize taxi_zones_file again.", allow_retries=False
        ) from None
    with (
        database.get_connection() as connection,
        failing_in_words(
            "The table zones could not be written, and is as it was",
            "If it was made by something else, rename or drop it, and materialize again.",
        ),
    ):
        _replace_zones(connection, zones)
    return dg.MaterializeResult(metadata={"dagster/row_count": len(zones)})


def _replace_zones(connection: duckdb.DuckDBPyConnection, zones: Sequence[Zone]) -> None:
    connection.execute("BEGIN")
    connection.execute(
        "CREATE OR REPLACE TABLE zones (zone_id INTEGER, zone VARCHAR, borough VARCHAR, geometry VARCHAR)"
    )
    connection.execute(
        "INSERT INTO zones SELECT unnest($ids), unnest($zones), unnest($boroughs), unnest($geometries)",
        {
            "ids": [zone.zone_id for zone in zones],
            "zones": [zone.zone for zone in zones],
            "boroughs": [zone.borough for zone in zones],
            "geometries": [zone.geometry for zone in zones],
        },
    )
    connection.execute("COMMIT")
