"""A DuckLake as the database: the same tables, a month once whoever loads it, and whole months for readers."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from dagster_essentials.datasets.aggregates import loaded_months
from dagster_essentials.datasets.fleets import FLEETS
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.datasets.zones import read_zones
from dagster_essentials.datasets.zones_table import replace_zones
from dagster_essentials.errors import DatabaseBusyError, WriteConflictError
from dagster_essentials.warehouse.lake import Lake
from dagster_essentials.warehouse.lake.connection import lake_tables
from dagster_essentials.warehouse.lake.maintenance import maintain_lake
from dagster_essentials.warehouse.month_versions import versions_by_month
from dagster_essentials.warehouse.tables import COMMITS
from dagster_essentials_tests.cluster.servers import PASSWORD
from dagster_essentials_tests.support.lake_servers import (
    SECONDS,
    LakeServers,
    assert_consistent,
    file,
    load_at_once,
    opened,
    rows,
)
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import (
    DISK,
    NO_REAL_DATA,
    REAL_DATA,
    REAL_MONTHS,
)

pytestmark = pytest.mark.cluster

# What is in the tables


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=NO_REAL_DATA)
def test_every_value_of_real_months_is_in_the_lake(lake: Lake) -> None:
    columns = {
        "vendor_id": "VendorID",
        "pickup_zone_id": "PULocationID",
        "dropoff_zone_id": "DOLocationID",
        "pickup_datetime": "tpep_pickup_datetime",
        "dropoff_datetime": "tpep_dropoff_datetime",
        "trip_distance": "trip_distance",
        "passenger_count": "passenger_count",
        "total_amount": "total_amount",
        "store_and_fwd_flag": "store_and_fwd_flag",
    }
    # The second time, each month is replaced.
    for force in (False, True):
        with opened(lake) as tables:
            for month in REAL_MONTHS:
                load_month(tables, month, file(REAL_DATA / "trip-data", month), force=force)
    assert_consistent(lake, REAL_DATA / "trip-data", REAL_MONTHS)
    for month in REAL_MONTHS:
        table = pq.read_table(file(REAL_DATA / "trip-data", month), columns=list(columns.values()))
        with opened(lake) as tables:
            query = f"SELECT {', '.join(columns)} FROM trips WHERE partition_date = $month"
            found = tables.execute(query, {"month": month}).fetchall()
        expected = zip(*(table[source].to_pylist() for source in columns.values()), strict=True)
        assert sorted(map(repr, found)) == sorted(map(repr, _plain(expected)))


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=NO_REAL_DATA)
def test_the_fleets_share_a_table_and_not_their_months(lake: Lake) -> None:
    folder = REAL_DATA / "trip-data"
    found = sorted(path for path in folder.glob("*_tripdata_*.parquet") if not path.name.startswith("yellow"))
    expected = {(path.name.partition("_")[0], path.stem[-7:]): pq.read_metadata(path).num_rows for path in found}
    assert {fleet for fleet, _ in expected} == set(FLEETS)
    for force in (False, True):
        with opened(lake) as tables:
            for (fleet, month), path in zip(expected, found, strict=True):
                load_month(tables, month, path, force=force, dataset=FLEETS[fleet])
    with opened(lake) as tables:
        trips = tables.execute("SELECT fleet, partition_date, count(*) FROM fleet_trips GROUP BY ALL").fetchall()
        assert {(fleet, month): count for fleet, month, count in trips} == expected
        assert {key: each[-1].num_trips for key, each in versions_by_month(tables, FLEETS).items()} == expected
        assert tables.execute("SELECT count(*) FROM all_trips").fetchall() == [(sum(expected.values()),)]
        files = tables.execute("SELECT data_file FROM ducklake_list_files('lake', 'fleet_trips')").fetchall()
    assert {tuple(name.split("/")[-3:-1]) for (name,) in files} == {
        (f"fleet={fleet}", f"partition_date={month}") for fleet, month in expected
    }


def _plain(trips: Iterator[tuple[object, ...]]) -> Iterator[tuple[object, ...]]:
    """As the columns of `trips` are typed: the passengers are numbers with a fraction."""
    for trip in trips:
        values = list(trip)
        values[6] = None if values[6] is None else float(str(values[6]))
        yield tuple(values)


def test_the_tables_are_described_and_joined_with_the_zones(
    lake_servers: LakeServers, lake: Lake, samples: Path
) -> None:
    with opened(lake) as tables:
        load_month(tables, "2023-01", file(samples, "2023-01"))
        replace_zones(tables, read_zones(samples / "taxi_zones.csv", DISK))
        described = dict(tables.execute("SELECT table_name, comment FROM duckdb_tables()").fetchall())
        columns = tables.execute("SELECT comment FROM duckdb_columns() WHERE table_name = 'trips'").fetchall()
        found = tables.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal AND comment <> ''").fetchall()
        views = {view for (view,) in found}
        joined = tables.execute("SELECT count(*), count(pickup_borough) FROM trip_details").fetchall()
    assert set(described) == {"trips", "trips_by_day", "pickups_by_zone", "month_versions", "quality_rules", "zones"}
    assert views == {"trip_details", "all_trips", "all_trip_details", "month_quality"}
    assert all(described.values())
    assert len(columns) == len(YELLOW.columns)
    assert all(comment for (comment,) in columns)
    assert joined == [(20_000, 20_000)]


def test_tables_of_the_same_names_in_another_schema_do_not_matter(lake: Lake, samples: Path) -> None:
    with opened(lake) as tables:
        tables.execute(
            "CREATE SCHEMA my; CREATE TABLE my.trips AS SELECT 1 AS x; CREATE TABLE my.month_versions AS SELECT 1 AS x;"
            "CREATE TABLE my.zones AS SELECT 1 AS zone_id, 'a' AS zone, 'b' AS borough;"
            "CREATE VIEW my.trip_details AS SELECT 1 AS x"
        )
        load_month(tables, "2023-01", file(samples, "2023-01"))
        replace_zones(tables, read_zones(samples / "taxi_zones.csv", DISK))
        assert tables.execute("SELECT count(*) FROM trip_details").fetchall() == [(20_000,)]
    assert_consistent(lake, samples, ["2023-01"])


def test_a_user_who_may_only_read_can_read_and_not_write(lake_servers: LakeServers, lake: Lake, samples: Path) -> None:
    with opened(lake) as tables:
        load_month(tables, "2023-01", file(samples, "2023-01"))
    name = lake.catalog.rpartition("/")[2]
    role = f"reader_{name.replace('-', '_')}"
    lake_servers.query(name, f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    lake_servers.query(name, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    reader = replace(lake, catalog=lake.catalog.replace("//lake:", f"//{role}:"))
    with opened(reader) as tables:
        assert tables.execute("SELECT count(*), count(DISTINCT fleet) FROM all_trips").fetchall() == [(20_000, 1)]
        with pytest.raises(duckdb.Error, match="permission denied"):
            tables.execute("DELETE FROM trips")
    assert rows(lake) == {"2023-01": 20_000}


def test_an_unchanged_month_is_left_alone(lake: Lake, samples: Path) -> None:
    with opened(lake) as tables:
        assert not load_month(tables, "2023-01", file(samples, "2023-01")).is_unchanged
        (before,) = tables.execute("SELECT count(*) FROM lake.snapshots()").fetchall()
        assert load_month(tables, "2023-01", file(samples, "2023-01")).is_unchanged
        assert tables.execute("SELECT count(*) FROM lake.snapshots()").fetchall() == [before]


def test_data_files_lie_by_month_also_after_maintenance(lake: Lake, samples: Path) -> None:
    with opened(lake) as tables:
        for month in ("2023-01", "2023-02"):
            for force in (False, True):
                load_month(tables, month, file(samples, month), force=force)
        # What a person adds, in small files.
        for _ in range(3):
            tables.execute("INSERT INTO trips BY NAME SELECT * FROM trips WHERE partition_date = '2023-02' LIMIT 1500")
        staged = f"{lake.data_path}main/trips/partition_date=2023-01/left-behind.parquet"
        tables.execute(f"COPY (SELECT 1) TO '{staged}' (FORMAT parquet)")
        before = _files(tables, lake)
        done = maintain_lake(tables, keep_snapshots=timedelta(0), keep_files=timedelta(0))
        after = _files(tables, lake)
        folders = dict(
            tables.execute(
                "SELECT regexp_extract(filename, 'partition_date=([^/]*)', 1), count(DISTINCT partition_date) "
                "FROM read_parquet($files, filename = true, hive_partitioning = false) GROUP BY ALL",
                {"files": after},
            ).fetchall()
        )
    assert len(before) == 2 * 2 + 3 + 1
    assert staged in before
    assert staged not in after
    assert done.snapshots_expired > 0
    assert done.files_deleted == len(before) - len(after) + (1 if done.files_merged else 0)
    assert folders == {"2023-01": 1, "2023-02": 1}
    assert rows(lake) == {"2023-01": 20_000, "2023-02": 24_500}


def _files(connection: object, lake: Lake) -> list[str]:
    found = connection.execute(  # type: ignore[attr-defined]
        f"SELECT file FROM glob('{lake.data_path}main/trips/**') ORDER BY file"
    ).fetchall()
    return [name for (name,) in found]


# Who writes what at the same time


def test_the_same_month_loaded_by_three_at_once_is_there_once(
    lake_servers: LakeServers, lake: Lake, samples: Path
) -> None:
    # There are tables already: DuckLake would report a conflict if all of them created one.
    with opened(lake) as tables:
        load_month(tables, "2023-02", file(samples, "2023-02"))
    rounds = load_at_once(lake_servers, lake, samples, [["2023-01"]] * 3, rounds=[False, True])
    # In the second round, all of them replace it.
    for outputs, loads in zip(rounds, (1, 3), strict=True):
        assert sum("2023-01 loaded" in output for output in outputs) == loads
        assert sum("2023-01 unchanged" in output for output in outputs) == 3 - loads
        assert_consistent(lake, samples, ["2023-01", "2023-02"])


def test_different_months_are_loaded_and_replaced_at_once(lake_servers: LakeServers, lake: Lake, samples: Path) -> None:
    shares = [[f"2023-{month:02}" for month in range(first, 7, 3)] for first in (1, 2, 3)]
    months = sorted(month for share in shares for month in share)
    for _ in load_at_once(lake_servers, lake, samples, shares, rounds=[False, True]):
        assert_consistent(lake, samples, months)


@pytest.mark.parametrize(
    ("month", "what"), [("2023-01", "2023-01 of the yellow trips"), ("2023-02", "commits")], ids=["same", "another"]
)
def test_a_load_waits_for_what_another_one_is_about_to_commit(
    lake: Lake, samples: Path, monkeypatch: pytest.MonkeyPatch, month: str, what: str
) -> None:
    with opened(lake) as tables:
        # There are tables already: DuckLake would report a conflict if both loads created them.
        load_month(tables, "2023-03", file(samples, "2023-03"))
    messages: list[str] = []
    is_waiting = threading.Event()
    loaded: list[bool] = []

    def log(message: str) -> None:
        messages.append(message)
        is_waiting.set()

    def load() -> None:
        with lake_tables(lake, {}, 60, log) as tables:
            loaded.append(load_month(tables, month, file(samples, month)).is_unchanged)

    second = threading.Thread(target=load)
    steps: Iterator[Callable[[], object]] = iter([second.start, lambda: is_waiting.wait(30)])

    def confirm(locks: Any) -> None:
        for step in steps:
            step()

    monkeypatch.setattr("dagster_essentials.warehouse.lake.locks.CatalogLocks.confirm", confirm)
    with opened(lake) as tables:
        assert not load_month(tables, "2023-01", file(samples, "2023-01")).is_unchanged
    second.join(SECONDS)
    assert f"waiting for {what}" in messages[0]
    assert loaded == [month == "2023-01"]
    assert_consistent(lake, samples, sorted({"2023-01", month, "2023-03"}))


def test_a_month_is_loaded_while_another_one_is_being_loaded(lake: Lake, samples: Path) -> None:
    with opened(lake) as slow, opened(lake) as fast:
        load_month(slow, "2023-01", file(samples, "2023-01"))
        # `slow` still has its month: its materialization is not recorded yet.
        load_month(fast, "2023-02", file(samples, "2023-02"))
        assert loaded_months(fast) == ["2023-01", "2023-02"]


def test_who_has_a_month_is_named_after_the_wait(
    lake_servers: LakeServers, lake: Lake, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(lake) as tables:
        load_month(tables, "2023-01", file(samples, "2023-01"))
        with opened(lake, wait_seconds=2) as other, pytest.raises(DatabaseBusyError, match=r"process \d+ on") as raised:
            load_month(other, "2023-01", file(samples, "2023-01"), force=True)
    assert "2023-01 of the yellow trips" in str(raised.value)
    assert "waiting for 2023-01 of the yellow trips" in capsys.readouterr().out
    assert_consistent(lake, samples, ["2023-01"])


def test_a_load_that_conflicts_with_an_update_by_hand_is_rolled_back_and_can_be_repeated(
    lake: Lake, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(lake) as tables, opened(lake) as person:
        load_month(tables, "2023-01", file(samples, "2023-01"))
        load_month(tables, "2023-02", file(samples, "2023-02"))
        updates = iter(["UPDATE trips SET vendor_id = 7 WHERE partition_date = '2023-02'"])

        def confirm(locks: Any) -> None:
            for update in updates:
                person.execute(update)

        monkeypatch.setattr("dagster_essentials.warehouse.lake.locks.CatalogLocks.confirm", confirm)
        with pytest.raises(WriteConflictError, match=r"at the same time .*conflict.*Materialize again"):
            load_month(tables, "2023-01", file(samples, "2023-01"), force=True)
        load_month(tables, "2023-01", file(samples, "2023-01"), force=True)
        vendors = tables.execute("SELECT partition_date, min(vendor_id) FROM trips GROUP BY ALL").fetchall()
    assert dict(vendors)["2023-02"] == 7
    assert_consistent(lake, samples, ["2023-01", "2023-02"])


def test_a_reader_sees_whole_months_only_and_never_waits(lake_servers: LakeServers, lake: Lake, samples: Path) -> None:
    months = ["2023-01", "2023-02", "2023-03"]
    with opened(lake) as tables:
        for month in months:
            load_month(tables, month, file(samples, month))
    seen: list[tuple[object, ...]] = []
    is_over = threading.Event()

    def read() -> None:
        with opened(lake) as tables:
            while not is_over.is_set():
                seen.extend(
                    tables.execute(
                        "SELECT partition_date, count(*), (SELECT count(*) FROM trips) FROM trips GROUP BY ALL"
                    ).fetchall()
                )

    reader = threading.Thread(target=read)
    reader.start()
    try:
        list(load_at_once(lake_servers, lake, samples, [months] * 2, rounds=[True]))
    finally:
        is_over.set()
        reader.join(SECONDS)
    assert len(seen) > 3 * 10
    assert set(seen) == {(month, 20_000, 60_000) for month in months}


def test_a_report_waits_for_the_commit_of_another(lake: Lake) -> None:
    with opened(lake) as first, opened(lake, wait_seconds=1) as second, first.exclusive(COMMITS):
        waits = second.exclusive(COMMITS)
        with pytest.raises(DatabaseBusyError, match="commits"):
            waits.__enter__()
