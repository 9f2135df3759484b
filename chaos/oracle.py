"""What is true: every version of every month that the source ever had, and what the warehouse may look like.

Nothing here is the pipeline's own: files are read by pyarrow, columns are matched by the table below, and what Dagster
says is read from its event log.
"""

import csv
import hashlib
import io
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FROM_FILE = {
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
}
"""Each column of `trips` but for the month: the file's name for it in lower case, and its type."""

# A sum does not depend on the order of the rows, and tells one that stands twice.
_DIGEST = f"count(*), sum(hash({', '.join(FROM_FILE)}))::VARCHAR"
Digest = tuple[int, str]
"""The number of rows, and what tells them from others."""

FILE_ASSET, TABLE_ASSET = dg.AssetKey("taxi_trips_file"), dg.AssetKey("taxi_trips")


@dataclass(frozen=True)
class Version:
    """What the source had for a month at some time: the file's SHA-256, and the rows that it becomes."""

    sha256: str
    digest: Digest


def version_of(content: bytes) -> Version:
    """Read the file of a month as it should be read."""
    # Not read_table, which takes no file with two columns of one name.
    table = pq.ParquetFile(io.BytesIO(content)).read()
    # Of two columns with the same name, the first counts.
    found = {name.lower(): column for name, column in reversed([*zip(table.column_names, table.columns, strict=True)])}
    columns = {
        name: _cast(found[source], type_) if source in found else pa.nulls(len(table), type_)
        for name, (source, type_) in FROM_FILE.items()
    }
    with duckdb.connect() as connection:
        connection.register("month", pa.table(columns))
        digest = connection.execute(f"SELECT {_DIGEST} FROM month").fetchall()[0]
    return Version(hashlib.sha256(content).hexdigest(), digest)


def _cast(column: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_decimal(column.type):
        # By itself it multiplies by 0.01, which misses the nearest number in one of seven.
        return pa.chunked_array([[None if value is None else float(value) for value in column.to_pylist()]], type_)
    return column.cast(type_)


@dataclass
class Oracle:
    """Compares a warehouse, after each blow, with what it was before and with what the source had meanwhile.

    Attributes:
        data_dir, home: the folders of the warehouse and of its Dagster instance.
        zones: the zones CSV, as the source has it.
        published: for each month, the versions that the source had, oldest first.
        table: which version of each month stood in `trips` at the last look.
        unrecorded: months whose table may be newer than Dagster knows, because a run was killed between the two.
    """

    data_dir: Path
    home: Path
    zones: bytes = b""
    published: dict[str, list[Version]] = field(default_factory=dict)
    table: dict[str, Version] = field(default_factory=dict)
    unrecorded: set[str] = field(default_factory=set)
    _since: dict[str, int] = field(default_factory=dict)
    _begun: dict[str, int] = field(default_factory=dict)
    _told: set[tuple[str, Digest | None]] = field(default_factory=set)
    _recorded: dict[tuple[dg.AssetKey, str], str] = field(default_factory=dict)
    _failed: set[str] = field(default_factory=set)
    _last_event: int = -1

    def publish(self, month: str, content: bytes) -> None:
        """Note that the source has `content` for `month` from now on."""
        self.published.setdefault(month, []).append(version_of(content))
        self._since.setdefault(month, 0)

    def note_begin(self, months: Collection[str]) -> None:
        """Note that a run of `months` begins now: if it succeeds, they have what the source has now, or had after it."""
        for month in months:
            self._begun.setdefault(month, len(self.published[month]) - 1)

    def inherit(self) -> None:
        """Note the rows of a database that was not made by these runs: without a file, and unknown to Dagster."""
        for month, digest in read_table(self.database).items():
            version = Version("", digest)
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

    def look(self, tried: Collection[str], killed: bool, succeeded: bool = False) -> list[str]:
        """Look at everything after a blow, and say what is wrong.

        `tried` are the months (``YYYY-MM``) that runs have tried to load since the last look, `killed` says whether any
        of these could be cut short between two steps, and `succeeded` whether all of them claim to have succeeded.
        """
        before = dict(self.table)
        wrong = list(self._look_at_table(tried))
        wrong += self._look_at_files()
        wrong += self._look_at_records(tried, killed)
        wrong += [
            f"{month}: Dagster says that it failed, and the table has changed"
            for month in sorted(self._failed)
            if self.table.get(month) != before.get(month)
        ]
        if succeeded:
            wrong += [
                f"{month}: a run of it succeeded, and the table has another version than the source"
                for month in tried
                if self.table.get(month) not in self.published[month][self._begun.get(month, 0) :]
            ]
        self._begun.clear()
        for month, versions in self.published.items():
            self._since[month] = len(versions) - 1
        return wrong

    def look_when_right(self, months: Collection[str]) -> list[str]:
        """Look after a run of `months` that nothing disturbed: everything has to be the newest, and nothing be left over."""
        wrong = self.look(months, killed=False, succeeded=True)
        self.unrecorded.difference_update(months)
        for month in months:
            newest = self.current(month)
            file = self.data_dir / "raw" / f"taxi_trips_{month}.parquet"
            if self.table.get(month) != newest:
                wrong.append(f"{month}: the table does not have the newest version")
            if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != newest.sha256:
                wrong.append(f"{month}: the file is not the newest version")
            for asset in (FILE_ASSET, TABLE_ASSET):
                if self._recorded.get((asset, month)) != newest.sha256:
                    wrong.append(f"{month}: the newest version of {asset.to_user_string()} is not recorded")
            wrong += [f"{month}: {path.name} was left behind" for path in file.parent.glob(f".{file.name}.*.partial")]
        if (wal := Path(f"{self.database}.wal")).exists():
            wrong.append(f"{wal.name} was left behind")
        return wrong

    def _served_since_look(self, month: str) -> list[Version]:
        return self.published[month][self._since[month] :]

    def _look_at_table(self, tried: Collection[str]) -> Iterator[str]:
        found = read_table(self.database)
        for month in sorted(found.keys() | self.table.keys()):
            if month not in self.published:
                yield f"{month}: {found[month][0]:,} rows of a month that the source never had"
                continue
            before = self.table.get(month)
            allowed = [before, *(self._served_since_look(month) if month in tried else [])]
            now = next((version for version in allowed if version and version.digest == found.get(month)), None)
            if now is None and (month in found or before is not None) and (month, found.get(month)) not in self._told:
                self._told.add((month, found.get(month)))
                rows = found.get(month, (0, ""))[0]
                yield f"{month}: {rows:,} rows, neither what was there before nor a version that was tried"
            if now is None:
                # Told once; from here on it counts as what is there.
                known = [version for version in self.published[month] if version.digest == found.get(month)]
                self.table.pop(month, None)
                self.table.update({month: known[-1]} if known else {})
            else:
                self.table[month] = now

    def _look_at_files(self) -> Iterator[str]:
        for path in sorted((self.data_dir / "raw").glob("taxi_trips_*.parquet")):
            month = path.stem.removeprefix("taxi_trips_")
            known = {version.sha256 for version in self.published.get(month, [])}
            if hashlib.sha256(path.read_bytes()).hexdigest() not in known:
                yield f"{month}: {path.name} is no version that the source ever had"
        zones = self.data_dir / "raw" / "taxi_zones.csv"
        if zones.exists() and zones.read_bytes() != self.zones:
            yield f"{zones.name} is not what the source has"
        yield from _look_at_outputs(self.data_dir, self.published)

    def _look_at_records(self, tried: Collection[str], killed: bool) -> Iterator[str]:
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
                        self._recorded[asset, month] = tags["dagster/data_version"]
            self._read_failures(instance)
        for month, versions in self.published.items():
            recorded, now = self._recorded.get((TABLE_ASSET, month)), self.table.get(month)
            if now is not None and recorded == now.sha256:
                self.unrecorded.discard(month)
            if recorded is None:
                if now is not None and month not in self.unrecorded:
                    yield f"{month}: is in the table, and Dagster does not know"
            elif now is None:
                yield f"{month}: Dagster says that it is materialized, and it is not in the table"
            elif recorded != now.sha256:
                order = [version.sha256 for version in versions]
                newer = recorded in order and order.index(recorded) < order.index(now.sha256)
                if not (newer and month in self.unrecorded):
                    yield f"{month}: Dagster says that one version is materialized, and the table has another"

    def _read_failures(self, instance: dg.DagsterInstance) -> None:
        """Read which months have failed since the last look, and were not loaded by another run meanwhile."""
        since = dg.AssetRecordsFilter(TABLE_ASSET, after_storage_id=self._last_event)
        failures = instance.fetch_observations(since, limit=1000).records
        loads = instance.fetch_materializations(since, limit=1000).records
        self._failed = {str(record.partition_key)[:7] for record in failures}
        self._failed -= {str(record.partition_key)[:7] for record in loads}
        self._last_event = max([self._last_event, *(record.storage_id for record in [*failures, *loads])])


def read_table(database: Path) -> dict[str, Digest]:
    """Count and digest each month of `trips`; a column that the table lacks is as one without values."""
    if not database.exists():
        return {}
    with duckdb.connect(str(database), read_only=True) as connection:
        if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'trips'").fetchall():
            return {}
        present = {name for name, *_ in connection.execute("DESCRIBE trips").fetchall()}
        # The same nulls as in a month's file without this column: DuckDB hashes a null alike, whatever its type.
        lacking = "".join(f", NULL AS {name}" for name in FROM_FILE if name not in present)
        rows = connection.execute(
            f"SELECT partition_date, {_DIGEST} FROM (SELECT *{lacking} FROM trips) GROUP BY partition_date"
        ).fetchall()
    return {month: (count, digest) for month, count, digest in rows}


def _look_at_outputs(data_dir: Path, published: Mapping[str, object]) -> Iterator[str]:
    """The files that other assets write are whole, each of them."""
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
                yield f"{weeks.name} has a week twice, or out of order"
            if not text.endswith("\n") or rows[0][0] != "period" or {len(row) for row in rows} != {5}:
                yield f"{weeks.name} is not whole"
    except (ValueError, KeyError, IndexError, OSError) as error:
        yield f"a file that people look at is broken: {error}"
