"""Loading a month into its table: whether it is loaded already, and how its rows are replaced, in one transaction."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import duckdb

from dagster_essentials.datasets.aggregates import MonthTotals, aggregate_month
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.datasets.zones import Zone, fingerprint, read_zones
from dagster_essentials.datasets.zones_function import zones_function
from dagster_essentials.errors import LoadError, QueryError, RowCountMismatchError, SchemaError, ZonesError
from dagster_essentials.ingestion.column_mapping import (
    FROM_FILE,
    ColumnMapping,
    FileSchema,
    NotParquetError,
    map_columns,
    read_file_schema,
)
from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.ingestion.sidecar import DownloadedFile, identify_content
from dagster_essentials.ingestion.trip_files import OpenTripsFile, open_trips_file
from dagster_essentials.warehouse.exclusive import hold, is_shared
from dagster_essentials.warehouse.lake.files import StagedFile, add_file, stage
from dagster_essentials.warehouse.month_versions import (
    MonthVersion,
    fingerprint_mapping,
    record_version,
    unknown_version,
    versions_of,
)
from dagster_essentials.warehouse.quality import MonthProfile, count_unmapped, profile_month
from dagster_essentials.warehouse.schema import folders_of_month, prepare_table
from dagster_essentials.warehouse.transaction import explain_duckdb_errors, repeat_on_conflict, transaction


@dataclass(frozen=True)
class LoadedMonth:
    """A month as it is in the table now.

    Attributes:
        versions: what the database knows of the month, oldest first; the last one is in the table.
        is_unchanged: whether that one was there already, so that nothing was loaded.
        bytes: the size of the file.
    """

    versions: Sequence[MonthVersion]
    is_unchanged: bool
    bytes: int

    @property
    def version(self) -> MonthVersion:
        return self.versions[-1]


def replace_month(
    connection: duckdb.DuckDBPyConnection,
    month: str,
    path: Path,
    zones_path: Path | None = None,
    force: bool = False,
    dataset: Dataset = YELLOW,
) -> LoadedMonth:
    """Replace the rows of `month` (``YYYY-MM``) in the table of `dataset` by those of the file at `path`, in one transaction.

    A month before 2011 has coordinates, whose zones are those of the zones CSV at `zones_path`. A month that has been loaded
    from the same file by the same mapping, and still has as many rows, is left alone unless `force` is set.

    Raises:
        ZonesError: the zones CSV is needed, and missing or unusable; the month is unchanged.
        LoadError, SchemaError, QueryError: it cannot be done; the month is unchanged.
        DatabaseUnusableError: the table was made by something else.
    """
    try:
        with open_trips_file(path, dataset) as file:
            source = _read_source(dataset, month, file, zones_path)
            with (
                zones_function(connection, source.zones) if source.zones else nullcontext(),
                _explain_errors(file, dataset),
            ):
                hold_month(connection, dataset, month)
                staged = _stage_month(connection, source, force) if is_shared(connection) else None
                return repeat_on_conflict(lambda: _replace_month(connection, source, force, staged, file.bytes))
    except (LoadError, SchemaError, QueryError) as error:
        error.source = path
        raise


def hold_month(connection: duckdb.DuckDBPyConnection, dataset: Dataset, month: str) -> None:
    """Keep other processes from loading `month` (``YYYY-MM``) of `dataset` until the connection is closed.

    Raises:
        DatabaseBusyError: another process did not end its load in time.
    """
    hold(connection, f"{month} of the {dataset.name} trips")


def _replace_month(
    connection: duckdb.DuckDBPyConnection, source: "_Source", force: bool, staged: "_Staged | None", size: int
) -> LoadedMonth:
    with transaction(connection):
        prepare_table(connection, source.dataset)
        versions = versions_of(connection, source.dataset.name, source.month)
        is_unchanged = not force and _is_loaded(connection, versions, source)
        if is_unchanged:
            versions = _keep_month(connection, versions, source)
        else:
            versions = _load_month(connection, versions, source, staged)
    return LoadedMonth(versions, is_unchanged, size)


@dataclass(frozen=True)
class _Source:
    """The file of a month, and how it becomes rows of its table."""

    dataset: Dataset
    month: str
    reader_path: str
    schema: FileSchema
    content: DownloadedFile
    mapping: ColumnMapping
    zones: Sequence[Zone]
    fingerprint: str


def _read_source(dataset: Dataset, month: str, file: OpenTripsFile, zones_path: Path | None) -> _Source:
    try:
        schema = read_file_schema(file.content)
        # Before the load: an error after its commit would fail a month that has been replaced.
        content = identify_content(file.path, file.content)
    except NotParquetError as error:
        raise LoadError(f"{error}. The month is unchanged. {_download_again(dataset)}") from None
    except OSError as error:
        raise LoadError(
            f"the file cannot be read ({error.strerror}). The month is unchanged. {_download_again(dataset)}"
        ) from None
    if schema.rows == 0:
        raise LoadError(f"the file has no rows. The month is unchanged. {_download_again(dataset)}")
    mapping = map_columns(schema, month, dataset)
    zones = _read_zones(zones_path) if mapping.needs_zones else []
    mapped = fingerprint_mapping(mapping, zones, dataset)
    return _Source(dataset, month, file.reader_path, schema, content, mapping, zones, mapped)


def _read_zones(path: Path | None) -> Sequence[Zone]:
    if path is None:
        raise ZonesError("the file has coordinates instead of zones. Materialize taxi_zones_file first.")
    return read_zones(path)


def _is_loaded(connection: duckdb.DuckDBPyConnection, versions: Sequence[MonthVersion], source: _Source) -> bool:
    if not versions or (versions[-1].sha256, versions[-1].mapping) != (source.content.sha256, source.fingerprint):
        return False
    # Without a scan of the other months: DuckDB knows the first and the last month of each row group.
    (rows,) = connection.execute(
        f"SELECT count(*) FROM {source.dataset.table} WHERE {source.dataset.month_rows}", {"month": source.month}
    ).fetchall()[0]
    return bool(rows == versions[-1].num_trips)


def _keep_month(
    connection: duckdb.DuckDBPyConnection, versions: Sequence[MonthVersion], source: _Source
) -> list[MonthVersion]:
    """Leave the rows alone, but note the file's ETag: the source may send the same content with another one."""
    *earlier, current = versions
    etag, last_modified = source.content.etag, source.content.last_modified
    # Both are None for a file whose sidecar is missing.
    if (etag, last_modified) not in [(None, None), (current.etag, current.last_modified)]:
        current = replace(current, etag=etag, last_modified=last_modified)
        record_version(connection, current)
    return [*earlier, current]


@dataclass(frozen=True)
class _Staged:
    """The rows of a month in a data file that is not part of the table yet, and what was counted in them."""

    file: StagedFile
    profile: MonthProfile


def _stage_month(connection: duckdb.DuckDBPyConnection, source: _Source, force: bool) -> _Staged | None:
    """Write the rows of the month to a data file of the lake, unless it is loaded: no other process changes it meanwhile."""
    dataset, month = source.dataset, source.month
    if not force and _is_loaded(connection, versions_of(connection, dataset.name, month), source):
        return None
    columns = (
        f"({value})::{column.type} AS {column.name}"
        for column, value in zip(dataset.columns, source.mapping.expressions, strict=True)
    )
    query = f"SELECT {', '.join(columns)} FROM {FROM_FILE}"
    file = stage(
        connection, dataset.table, folders_of_month(dataset, month), query, {"month": month, "file": source.reader_path}
    )
    return _Staged(file, profile_month(connection, replace(dataset, table=file.rows), month))


def _load_month(
    connection: duckdb.DuckDBPyConnection, versions: Sequence[MonthVersion], source: _Source, staged: _Staged | None
) -> list[MonthVersion]:
    dataset, month = source.dataset, source.month
    (replaced,) = connection.execute(
        f"DELETE FROM {dataset.table} WHERE {dataset.month_rows}", {"month": month}
    ).fetchall()[0]
    profile = _insert_month(connection, source, staged)
    if profile.rows != source.schema.rows:
        raise RowCountMismatchError(
            f"the file has {source.schema.rows:,} rows, but {profile.rows:,} were loaded, so the load was rolled back. "
            f"Materialize {dataset.assets} again.",
            rows_in_file=source.schema.rows,
            rows_in_table=profile.rows,
        )
    unmapped = count_unmapped(connection, source.mapping, source.reader_path)
    totals = aggregate_month(connection, dataset, month)
    earlier = list(versions)
    if replaced and not earlier:
        earlier.append(unknown_version(dataset.name, month, replaced))
        record_version(connection, earlier[0])
    # The same file by the same mapping, loaded again, is no new version.
    if earlier and (earlier[-1].sha256, earlier[-1].mapping) == (source.content.sha256, source.fingerprint):
        number = earlier.pop().version
    else:
        number = earlier[-1].version + 1 if earlier else 1
    version = _version(source, number, profile, totals, unmapped)
    record_version(connection, version)
    return [*earlier, version]


def _insert_month(connection: duckdb.DuckDBPyConnection, source: _Source, staged: _Staged | None) -> MonthProfile:
    """Insert the rows of the month, from its file or as they are staged, and count them."""
    dataset = source.dataset
    if staged:
        add_file(connection, dataset.table, staged.file)
        return staged.profile
    connection.execute(
        f"INSERT INTO {dataset.table} ({', '.join(column.name for column in dataset.columns)}) "
        f"SELECT {', '.join(source.mapping.expressions)} FROM {FROM_FILE}",
        {"month": source.month, "file": source.reader_path},
    )
    return profile_month(connection, dataset, source.month)


def _version(
    source: _Source, number: int, profile: MonthProfile, totals: MonthTotals, unmapped: Mapping[str, int]
) -> MonthVersion:
    content, mapping = source.content, source.mapping
    return MonthVersion(
        month=source.month,
        version=number,
        loaded_at=datetime.now(timezone.utc).replace(tzinfo=None),
        sha256=content.sha256,
        mapping=source.fingerprint,
        num_trips=profile.rows,
        total_amount=totals.total_amount,
        trip_distance=totals.trip_distance,
        etag=content.etag,
        last_modified=content.last_modified,
        file_columns=[f"{name} {type_}" for name, type_ in source.schema.columns],
        columns_unknown=mapping.unknown,
        columns_absent=mapping.absent,
        zones=fingerprint(source.zones) if source.zones else None,
        violations=profile.violations,
        texts_unmapped=unmapped,
        fleet=source.dataset.name,
    )


def _download_again(dataset: Dataset) -> str:
    return f"Delete the file, and materialize {dataset.assets} again."


@contextmanager
def _explain_errors(file: OpenTripsFile, dataset: Dataset) -> Iterator[None]:
    advice = (
        f"{_download_again(dataset)} If it fails in the same way, the file at the source has values that "
        "dagster_essentials/ingestion/column_mapping.py does not accept."
    )
    try:
        with explain_duckdb_errors("loading the file failed, and the month is unchanged", advice):
            yield
    except QueryError as error:
        raise QueryError(str(error).replace(file.reader_path, str(file.path))) from None
