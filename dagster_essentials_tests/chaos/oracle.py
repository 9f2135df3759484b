"""The oracle: knows every version of every month that the source ever had, and what the warehouse may contain.

It shares no code with the pipeline: files are read by pyarrow, columns are mapped by the table below, and what Dagster has
recorded is read from its event log.
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dagster_essentials_tests.chaos.derived_tables import UNKNOWN_FILE, check_derived_tables

FROM_FILE: dict[str, tuple[str | None, pa.DataType]] = {
    "vendor_id": ("vendorid", pa.int32()),
    "pickup_zone_id": ("pulocationid", pa.int32()),
    "dropoff_zone_id": ("dolocationid", pa.int32()),
    "rate_code_id": ("ratecodeid", pa.float64()),
    "payment_type": ("payment_type", pa.int32()),
    "dropoff_datetime": ("tpep_dropoff_datetime", pa.timestamp("us")),
    "pickup_datetime": ("tpep_pickup_datetime", pa.timestamp("us")),
    "store_and_fwd_flag": ("store_and_fwd_flag", pa.string()),
    "request_source": ("request_source", pa.string()),
    **{
        name: (name, pa.float64())
        for name in (
            *("trip_distance", "passenger_count", "total_amount", "fare_amount", "extra", "mta_tax", "tip_amount"),
            *("tolls_amount", "improvement_surcharge", "congestion_surcharge", "airport_fee", "cbd_congestion_fee"),
        )
    },
    # Only the files of 2009 and 2010 have these, and the source here has none of them.
    **{f"{end}_{axis}": (None, pa.float64()) for end in ("pickup", "dropoff") for axis in ("longitude", "latitude")},
}
"""Each column of `trips` except the month: its name in the file, in lower case, if it has one, and its type."""

# A sum does not depend on the order of the rows, and detects a duplicate row.
_DIGEST = f"count(*), sum(hash({', '.join(FROM_FILE)}))::VARCHAR"
Digest = tuple[int, str]
"""The number of rows, and a digest of their values."""

DATA_VERSION_TAG = "dagster/data_version"
FILE_ASSET, TABLE_ASSET = dg.AssetKey("taxi_trips_file"), dg.AssetKey("taxi_trips")


@dataclass(frozen=True)
class Version:
    """A file that the source had for a month at some time: its SHA-256, and the digest of its rows."""

    sha256: str
    digest: Digest


def version_of(content: bytes) -> Version:
    """Read the file of a month independently of the pipeline."""
    # Not read_table, which rejects a file with two columns of the same name.
    table = pq.ParquetFile(io.BytesIO(content)).read()
    # Of two columns with the same name, the first counts.
    found = {name.lower(): column for name, column in reversed([*zip(table.column_names, table.columns, strict=True)])}
    columns = {
        name: _cast(found[source], type_) if source is not None and source in found else pa.nulls(len(table), type_)
        for name, (source, type_) in FROM_FILE.items()
    }
    with duckdb.connect() as connection:
        connection.register("month", pa.table(columns))
        digest = connection.execute(f"SELECT {_DIGEST} FROM month").fetchall()[0]
    return Version(hashlib.sha256(content).hexdigest(), digest)


def _cast(column: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_decimal(column.type):
        # pyarrow's own cast multiplies by 0.01, which misses the nearest number in one case of seven.
        return pa.chunked_array([[None if value is None else float(value) for value in column.to_pylist()]], type_)
    return column.cast(type_)


@dataclass
class Oracle:
    """Compares a warehouse, after each fault, with its previous state and with what the source had in the meantime.

    Attributes:
        data_dir, home: the folders of the warehouse and of its Dagster instance.
        connect: connects to its database, if that is not the file in `data_dir`.
        zones: the zones CSV, as the source has it.
        published: for each month, the versions that the source had, oldest first.
        refused: for each month, the SHA-256 of files that the source had for it, and that must not be loaded.
        table: which version of each month was in `trips` at the last check.
        unrecorded: months whose table may be newer than what Dagster has recorded, because a run was killed between the
            commit and the record.
    """

    data_dir: Path
    home: Path
    connect: Callable[[], AbstractContextManager[duckdb.DuckDBPyConnection]] | None = None
    zones: bytes = b""
    published: dict[str, list[Version]] = field(default_factory=dict)
    refused: dict[str, set[str]] = field(default_factory=dict)
    table: dict[str, Version] = field(default_factory=dict)
    unrecorded: set[str] = field(default_factory=set)
    _since: dict[str, int] = field(default_factory=dict)
    _started: dict[str, int] = field(default_factory=dict)
    _reported: set[tuple[str, Digest | None]] = field(default_factory=set)
    _recorded: dict[tuple[dg.AssetKey, str], str] = field(default_factory=dict)
    _failed: set[str] = field(default_factory=set)
    _last_event: int = -1

    def publish(self, month: str, content: bytes) -> None:
        """Note that the source has `content` for `month` from now on."""
        self.published.setdefault(month, []).append(version_of(content))
        self._since.setdefault(month, 0)

    def note_start(self, months: Collection[str]) -> None:
        """Note that a run of `months` starts now: if it succeeds, the table has what the source has now, or a newer version."""
        for month in months:
            self._started.setdefault(month, len(self.published[month]) - 1)

    def adopt_database(self) -> None:
        """Accept the rows of a database that was made by something else: without files, and not recorded in Dagster."""
        with self._open_database() as connection:
            found = read_table(connection)
        for month, digest in found.items():
            version = Version(UNKNOWN_FILE, digest)
            self.table[month] = version
            self.unrecorded.add(month)
            versions = self.published.setdefault(month, [])
            versions.insert(0, version)
            self._since[month] = len(versions) - 1

    def current(self, month: str) -> Version:
        return self.published[month][-1]

    @property
    def database(self) -> Path:
        return self.data_dir / "staging" / "data.duckdb"

    def check(self, tried: Collection[str], killed: bool, succeeded: bool = False) -> list[str]:
        """Check everything after a fault, and return the violations.

        Args:
            tried: the months (``YYYY-MM``) that runs have tried to load since the last check.
            killed: whether any of these runs could have been interrupted between two steps.
            succeeded: whether all of them have reported success.
        """
        before = dict(self.table)
        with self._open_database() as connection:
            found = read_table(connection)
            violations = list(self._check_table(found, tried))
            known = {month: (version.sha256, version.digest[0]) for month, version in self.table.items()}
            violations += check_derived_tables(connection, found.keys(), known)
        violations += self._check_files()
        violations += self._check_records(tried, killed)
        violations += [
            f"{month}: recorded as failed, but the table has changed"
            for month in sorted(self._failed)
            if self.table.get(month) != before.get(month)
        ]
        if succeeded:
            violations += [
                f"{month}: a run succeeded, but the table has another version than the source"
                for month in tried
                if self.table.get(month) not in self.published[month][self._started.get(month, 0) :]
            ]
        self._started.clear()
        for month, versions in self.published.items():
            self._since[month] = len(versions) - 1
        return violations

    def check_repaired(self, months: Collection[str]) -> list[str]:
        """Check after an undisturbed run of `months`: everything must be the newest version, and nothing be left behind."""
        violations = self.check(months, killed=False, succeeded=True)
        self.unrecorded.difference_update(months)
        for month in months:
            newest = self.current(month)
            file = self.data_dir / "raw" / f"taxi_trips_{month}.parquet"
            if self.table.get(month) != newest:
                violations.append(f"{month}: the table does not have the newest version")
            if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != newest.sha256:
                violations.append(f"{month}: the file is not the newest version")
            for asset in (FILE_ASSET, TABLE_ASSET):
                if self._recorded.get((asset, month)) != newest.sha256:
                    violations.append(f"{month}: the newest version of {asset.to_user_string()} is not recorded")
            violations += [
                f"{month}: {path.name} was left behind" for path in file.parent.glob(f".{file.name}.*.partial")
            ]
        if (wal := Path(f"{self.database}.wal")).exists():
            violations.append(f"{wal.name} was left behind")
        return violations

    def _open_database(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """A connection to the database; to an empty one if there is no file."""
        if self.connect is not None:
            return self.connect()
        return duckdb.connect(str(self.database), read_only=True) if self.database.exists() else duckdb.connect()

    def _served_since_check(self, month: str) -> list[Version]:
        return self.published[month][self._since[month] :]

    def _check_table(self, found: Mapping[str, Digest], tried: Collection[str]) -> Iterator[str]:
        for month in sorted(found.keys() | self.table.keys()):
            if month not in self.published:
                yield f"{month}: {found[month][0]:,} rows of a month that the source never had"
                continue
            before = self.table.get(month)
            allowed = [before, *(self._served_since_check(month) if month in tried else [])]
            now = next((version for version in allowed if version and version.digest == found.get(month)), None)
            if (
                now is None
                and (month in found or before is not None)
                and (month, found.get(month)) not in self._reported
            ):
                self._reported.add((month, found.get(month)))
                rows = found.get(month, (0, ""))[0]
                yield f"{month}: {rows:,} rows, neither the previous version nor one that was tried"
            if now is None:
                # Reported once; from now on it is the previous version.
                known = [version for version in self.published[month] if version.digest == found.get(month)]
                self.table.pop(month, None)
                self.table.update({month: known[-1]} if known else {})
            else:
                self.table[month] = now

    def _check_files(self) -> Iterator[str]:
        for path in sorted((self.data_dir / "raw").glob("taxi_trips_*.parquet")):
            month = path.stem.removeprefix("taxi_trips_")
            known = {version.sha256 for version in self.published.get(month, [])} | self.refused.get(month, set())
            if hashlib.sha256(path.read_bytes()).hexdigest() not in known:
                yield f"{month}: {path.name} is not a version that the source ever had"
        zones = self.data_dir / "raw" / "taxi_zones.csv"
        if zones.exists() and zones.read_bytes() != self.zones:
            yield f"{zones.name} is not what the source has"
        yield from _check_outputs(self.data_dir, self.published)

    def _check_records(self, tried: Collection[str], killed: bool) -> Iterator[str]:
        if killed:
            self.unrecorded.update(tried)
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            for asset in (FILE_ASSET, TABLE_ASSET):
                for month in self.published:
                    records = instance.fetch_materializations(
                        dg.AssetRecordsFilter(asset, asset_partitions=[f"{month}-01"]), limit=1
                    ).records
                    if records:
                        assert records[0].asset_materialization is not None
                        tags = records[0].asset_materialization.tags or {}
                        # That of the table names the file and, after a hyphen, the mapping.
                        self._recorded[asset, month] = tags[DATA_VERSION_TAG].partition("-")[0]
            self._read_failures(instance)
        for month, versions in self.published.items():
            recorded, now = self._recorded.get((TABLE_ASSET, month)), self.table.get(month)
            if now is not None and recorded == now.sha256:
                self.unrecorded.discard(month)
            if recorded is None:
                if now is not None and month not in self.unrecorded:
                    yield f"{month}: in the table, but not recorded in Dagster"
            elif now is None:
                yield f"{month}: recorded in Dagster, but not in the table"
            elif recorded != now.sha256:
                order = [version.sha256 for version in versions]
                newer = recorded in order and order.index(recorded) < order.index(now.sha256)
                if not (newer and month in self.unrecorded):
                    yield f"{month}: Dagster has recorded another version than the table has"

    def _read_failures(self, instance: dg.DagsterInstance) -> None:
        """Read which months have failed since the last check, and were not loaded by another run in the meantime."""
        since = dg.AssetRecordsFilter(TABLE_ASSET, after_storage_id=self._last_event)
        failures = instance.fetch_observations(since, limit=1000).records
        loads = instance.fetch_materializations(since, limit=1000).records
        self._failed = {str(record.partition_key)[:7] for record in failures}
        self._failed -= {str(record.partition_key)[:7] for record in loads}
        self._last_event = max([self._last_event, *(record.storage_id for record in [*failures, *loads])])


def read_table(connection: duckdb.DuckDBPyConnection) -> dict[str, Digest]:
    """The digest of each month of `trips`; a missing column counts as one without values."""
    if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'trips'").fetchall():
        return {}
    present = {name for name, *_ in connection.execute("DESCRIBE trips").fetchall()}
    # As in a file without this column: DuckDB's hash of a null does not depend on its type.
    missing = "".join(f", NULL AS {name}" for name in FROM_FILE if name not in present)
    rows = connection.execute(
        f"SELECT partition_date, {_DIGEST} FROM (SELECT *{missing} FROM trips) GROUP BY partition_date"
    ).fetchall()
    return {month: (count, digest) for month, count, digest in rows}


def _check_outputs(data_dir: Path, published: Mapping[str, object]) -> Iterator[str]:
    """Check that each file which other assets write is complete."""
    stats = data_dir / "staging" / "manhattan_stats.geojson"
    weeks = data_dir / "outputs" / "trips_by_week.csv"
    try:
        if stats.exists() and not set(json.loads(stats.read_bytes())["months"]) <= published.keys():
            yield f"{stats.name} counts a month that the source never had"
        for picture in (data_dir / "outputs").glob("*.png"):
            with Image.open(picture) as image:
                image.load()
        if weeks.exists():
            text = weeks.read_text()
            rows = list(csv.reader(text.splitlines()))
            periods = [row[0] for row in rows[1:]]
            if periods != sorted(set(periods)):
                yield f"{weeks.name} has a duplicate week, or one out of order"
            if not text.endswith("\n") or rows[0][0] != "period" or {len(row) for row in rows} != {6}:
                yield f"{weeks.name} is not complete"
    except (ValueError, KeyError, IndexError, OSError) as error:
        yield f"a report is damaged: {error}"
