"""The load of a month: whether its table has it already, and how its rows are replaced, in one transaction."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import duckdb

from dagster_essentials.errors import LoadError, QueryError, RowCountMismatchError, SchemaError
from dagster_essentials.ingestion.column_mapping import ColumnMapping, map_columns
from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.ingestion.file_format import FileSchema, ReadInParts
from dagster_essentials.ingestion.month_files import (
    MonthFile,
    OpenMonthFile,
    Reference,
    open_month_file,
    scan_all_values,
)
from dagster_essentials.ingestion.sidecar import DownloadedFile, identify_content
from dagster_essentials.warehouse.month_versions import (
    MonthVersion,
    fingerprint_mapping,
    record_version,
    versions_of,
)
from dagster_essentials.warehouse.quality import MonthProfile, count_unmapped, most_frequent_month, profile_month
from dagster_essentials.warehouse.schema import prepare_table
from dagster_essentials.warehouse.tables import Tables

MAX_OUTSIDE = 0.5
"""The share of a month's rows that may lie outside it before the file counts as another month's. The worst month of the TLC has
0.5 %."""


@dataclass(frozen=True)
class Replacement:
    """The statements that replace a month in a table. They stand beside the asset that executes them.

    Attributes:
        delete: removes the month's rows. `$month` is bound (``YYYY-MM``), and each constant of the dataset by its name.
        insert: ``INSERT INTO … BY NAME SELECT …``. In it, `month_file` is the month's file with the names and types of the
            table, but without the columns that are the same in all rows of the month: the statement sets these.
        aggregates: called after the insert, with the month: updates tables that are computed from this one.
        views: called when the table may have been created or changed: creates views of it.
        upgrade: called before anything is read: brings what an earlier release has left up to date.
    """

    delete: str
    insert: str
    aggregates: Sequence[Callable[[Tables, str], None]] = ()
    views: Sequence[Callable[[Tables], None]] = ()
    upgrade: Sequence[Callable[[Tables], None]] = ()

    def __post_init__(self) -> None:
        match = _INSERT.fullmatch(self.insert)
        if match is None or not re.match(rf"\s*DELETE\s+FROM\s+{match['table']}\s+WHERE\s", self.delete):
            raise ValueError(
                "A month is replaced by DELETE FROM table WHERE … and INSERT INTO table BY NAME SELECT … FROM month_file, with "
                f"the same table. These are other statements: {self.delete}; {self.insert}"
            )

    @property
    def table(self) -> str:
        return self._insert["table"]

    @property
    def query(self) -> str:
        """The query whose rows are inserted."""
        return self._insert["query"]

    @property
    def _insert(self) -> re.Match[str]:
        match = _INSERT.fullmatch(self.insert)
        assert match is not None
        return match


_INSERT = re.compile(
    r"\s*INSERT\s+INTO\s+(?P<table>\w+)\s+BY\s+NAME\s+(?P<query>SELECT\s.*\bmonth_file\b.*)", re.DOTALL
)


@dataclass(frozen=True)
class LoadedMonth:
    """A month as it is in its table now.

    Attributes:
        versions: what the database knows of the month, oldest first; the last one is in the table.
        is_unchanged: whether that one was there already, so that nothing was loaded.
        bytes: the size of the file.
        seconds: how long it took, without the wait for the database.
    """

    versions: Sequence[MonthVersion]
    is_unchanged: bool
    bytes: int = 0
    seconds: float = 0.0

    @property
    def version(self) -> MonthVersion:
        return self.versions[-1]


def replace_month(tables: Tables, statements: Replacement, file: MonthFile, force: bool = False) -> LoadedMonth:
    """Replace the rows of a month in its table by those of its `file`, in one transaction.

    A month that was loaded from the same file by the same mapping, and still has as many rows, is left alone unless `force`.

    Raises:
        LoadError, SchemaError, QueryError, and the errors of the file's `Reference`: it cannot be done; the month is unchanged.
        DatabaseUnusableError: the table was made by something else.
    """
    started = time.monotonic()
    try:
        with open_month_file(file) as opened:
            source = _read_source(file, opened)
            functions = source.reference.functions(tables.connection) if source.reference else nullcontext()
            with functions, _explain_errors(tables, source, file.path):
                tables.hold(f"{file.month} of the {file.dataset.name} {file.dataset.noun}")
                tables.once(f"upgrade of {statements.table}", *statements.upgrade)
                versions = versions_of(tables, file.dataset.name, file.month)
                is_unchanged = not force and _is_loaded(tables, versions, source)
                if is_unchanged:
                    with tables.transaction():
                        _prepare(tables, statements, file.dataset)
                        versions = _keep_month(tables, versions, source)
                else:
                    versions = _load_month(tables, statements, versions, source)
    except (LoadError, SchemaError, QueryError) as error:
        error.source = file.path
        raise
    return LoadedMonth(versions, is_unchanged, source.content.bytes, time.monotonic() - started)


def _load_month(
    tables: Tables, statements: Replacement, versions: Sequence[MonthVersion], source: "_Source"
) -> list[MonthVersion]:
    """Execute the statements, check what has been inserted, and record it as a version of the month."""
    dataset, month = source.dataset, source.month
    values = {"month": month, "file": source.reader_path, **dataset.constants}
    rows = tables.stage(
        dataset.table, dataset.folders(month), f"{source.month_file(tables.threads)} {statements.query}", values
    )
    # Counted before the transaction if possible, so that others do not wait for it.
    profile = profile_month(tables, dataset, month, rows.relation) if rows.relation else None
    with tables.transaction():
        _prepare(tables, statements, dataset)
        (deleted,) = tables.execute(statements.delete, values).fetchall()[0]
        rows.insert_into(statements.table)
        profile = profile or profile_month(tables, dataset, month)
        _check_rows(tables, source, profile)
        for aggregate in statements.aggregates:
            aggregate(tables, month)
        return _record_version(tables, versions, source, profile, deleted)


def _prepare(tables: Tables, statements: Replacement, dataset: Dataset) -> None:
    # To find that all is right takes 20 queries.
    tables.once(f"{statements.table} of {dataset.name}", partial(prepare_table, dataset=dataset), *statements.views)


@dataclass(frozen=True)
class _Source:
    """The file of a month, held open, and how it becomes rows of its table."""

    dataset: Dataset
    month: str
    reader_path: str
    schema: FileSchema
    content: DownloadedFile
    mapping: ColumnMapping
    reference: Reference | None

    @property
    def fingerprint(self) -> str:
        return fingerprint_mapping(self.mapping, self.reference.fingerprint if self.reference else None, self.dataset)

    def month_file(self, threads: int) -> str:
        """The common table expression `month_file`, to be read by so many `threads`."""
        columns = ", ".join(
            f"({value})::{column.type} AS {column.name}"
            for column, value in zip(self.dataset.columns, self.mapping.expressions, strict=True)
            if column.name not in self.dataset.folders(self.month)
        )
        reader = self.dataset.file_format
        rows = reader.in_parts(self.schema, threads) if isinstance(reader, ReadInParts) else reader.relation
        # Materialized, all columns of the month would be held in memory.
        return f"WITH month_file AS NOT MATERIALIZED (SELECT {columns} FROM {rows})"


def _read_source(file: MonthFile, opened: OpenMonthFile) -> _Source:
    mapping = map_columns(opened.schema, file.month, file.dataset)
    reference = None
    if mapping.derived:
        if file.reference is None:
            raise LoadError(
                f"the rows need more than the file of the month: give the MonthFile of {file.dataset.table_asset} a `reference`."
            )
        reference = file.reference()
    try:
        # Before the load: an error after its commit would fail a month that has been replaced.
        content = identify_content(file.path, opened.content)
    except OSError as error:
        raise LoadError(
            f"the file cannot be read ({error.strerror}). The month is unchanged. {_download_again(file.dataset)}"
        ) from None
    return _Source(file.dataset, file.month, opened.reader_path, opened.schema, content, mapping, reference)


def _is_loaded(tables: Tables, versions: Sequence[MonthVersion], source: _Source) -> bool:
    if not versions or (versions[-1].sha256, versions[-1].mapping) != (source.content.sha256, source.fingerprint):
        return False
    # Without a scan of the other months: DuckDB knows the first and the last month of each row group.
    (rows,) = tables.execute(
        f"SELECT count(*) FROM {source.dataset.table} WHERE {source.dataset.month_rows}", {"month": source.month}
    ).fetchall()[0]
    return bool(rows == versions[-1].num_trips)


def _keep_month(tables: Tables, versions: Sequence[MonthVersion], source: _Source) -> list[MonthVersion]:
    """Leave the rows alone, but note the file's ETag: the source may send the same content with another one."""
    *earlier, current = versions
    etag, last_modified = source.content.etag, source.content.last_modified
    # Both are None for a file whose sidecar is missing.
    if (etag, last_modified) not in [(None, None), (current.etag, current.last_modified)]:
        current = replace(current, etag=etag, last_modified=last_modified)
        record_version(tables, current)
    return [*earlier, current]


def _check_rows(tables: Tables, source: _Source, profile: MonthProfile) -> None:
    """Check that all rows of the file are in the table, and that most of them lie in the month.

    Raises:
        LoadError: they do not.
    """
    dataset, month = source.dataset, source.month
    expected = source.schema.rows
    if expected is None:
        (expected,) = tables.execute(
            f"SELECT count(*) FROM {dataset.file_format.relation}", {"file": source.reader_path}
        ).fetchall()[0]
    if expected == 0:
        raise LoadError(f"the file has no rows. The month is unchanged. {_download_again(dataset)}")
    if profile.rows != expected:
        raise RowCountMismatchError(
            f"the file has {expected:,} rows, but {profile.rows:,} were loaded, so the load was rolled back. "
            f"Materialize {dataset.assets} again.",
            rows_in_file=expected,
            rows_in_table=profile.rows,
        )
    if profile.outside > MAX_OUTSIDE * profile.rows:
        likely = most_frequent_month(tables, dataset, month)
        seems = f"it seems to be {likely}" if likely and likely != month else "no month is known"
        raise LoadError(
            f"{profile.outside:,} of the {profile.rows:,} {dataset.noun} in the file do not lie in {month} ({dataset.time}); "
            f"{seems}. The month is unchanged. Check the address ({dataset.address_setting}), delete the file, and materialize "
            f"{dataset.assets} again."
        )


def _record_version(
    tables: Tables, versions: Sequence[MonthVersion], source: _Source, profile: MonthProfile, deleted: int
) -> list[MonthVersion]:
    dataset, month = source.dataset, source.month
    earlier = list(versions)
    if deleted and not earlier:
        # Loaded before there was a record: only the number of its rows is known.
        earlier.append(MonthVersion(month=month, version=1, num_trips=deleted, fleet=dataset.name))
        record_version(tables, earlier[0])
    number = earlier[-1].version + 1 if earlier else 1
    # The same file by the same mapping, loaded again, is no new version.
    if earlier and (earlier[-1].sha256, earlier[-1].mapping) == (source.content.sha256, source.fingerprint):
        number = earlier.pop().version
    version = MonthVersion(
        month=month,
        version=number,
        loaded_at=datetime.now(UTC).replace(tzinfo=None),
        sha256=source.content.sha256,
        mapping=source.fingerprint,
        num_trips=profile.rows,
        total_amount=profile.total_amount,
        trip_distance=profile.trip_distance,
        etag=source.content.etag,
        last_modified=source.content.last_modified,
        file_columns=[f"{name} {type_}" for name, type_ in source.schema.columns],
        columns_unknown=source.mapping.unknown,
        columns_absent=source.mapping.absent,
        zones=source.reference.fingerprint if source.reference else None,
        violations=profile.violations,
        texts_unmapped=count_unmapped(tables, source.mapping, dataset.file_format.relation, source.reader_path),
        fleet=dataset.name,
        missing=profile.missing,
    )
    record_version(tables, version)
    return [*earlier, version]


def _download_again(dataset: Dataset) -> str:
    return f"Delete the file, and materialize {dataset.assets} again."


@contextmanager
def _explain_errors(tables: Tables, source: _Source, path: Path) -> Iterator[None]:
    place = tables.place
    try:
        yield
    except duckdb.Error as error:
        explained = tables.explain(error, "loading the file failed, and the month is unchanged", _advice(source, place))
        if isinstance(explained, QueryError):
            explained = QueryError(str(explained).replace(source.reader_path, str(path)))
        raise explained from None


def _advice(source: _Source, place: str) -> str:
    """The advice about an error of the load: it is an error of the file only if the file alone cannot be read either."""
    try:
        scan_all_values(source.dataset.file_format.relation, source.reader_path, source.mapping)
    except duckdb.Error:
        return (
            f"{_download_again(source.dataset)} If it fails in the same way, the file at the source has values that "
            "dagster_essentials/ingestion/column_mapping.py does not accept."
        )
    return (
        f"The file can be read: the cause is in {place}, where somebody may have changed the table {source.dataset.table} or "
        "made what the message names. Undo that, and materialize again."
    )
