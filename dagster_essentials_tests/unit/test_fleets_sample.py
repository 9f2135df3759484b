"""Sample months of green, for-hire and high-volume for-hire trips: the published schemas, and problems at real rates."""

import datetime
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dagster_essentials.sample import write_fleet_month
from dagster_essentials_tests.support.project import NO_REAL_DATA, REAL_DATA, ROOT
from dagster_essentials_tests.unit.test_sample import count, query

pytestmark = pytest.mark.slow

TYPES = {
    "i": pa.int32(),
    "l": pa.int64(),
    "d": pa.float64(),
    "t": pa.timestamp("us"),
    "s": pa.string(),
    "0": pa.null(),
}
GREEN = (
    *("VendorID", "lpep_pickup_datetime", "lpep_dropoff_datetime", "store_and_fwd_flag", "RatecodeID", "PULocationID"),
    *("DOLocationID", "passenger_count", "trip_distance", "fare_amount", "extra", "mta_tax", "tip_amount"),
    *("tolls_amount", "ehail_fee", "improvement_surcharge", "total_amount", "payment_type", "trip_type"),
    *("congestion_surcharge", "cbd_congestion_fee", "request_source"),
)
FHV = (
    *("dispatching_base_num", "pickup_datetime", "dropOff_datetime", "PUlocationID", "DOlocationID", "SR_Flag"),
    "Affiliated_base_number",
)
FHVHV = (
    *("hvfhs_license_num", "dispatching_base_num", "originating_base_num", "request_datetime", "on_scene_datetime"),
    *("pickup_datetime", "dropoff_datetime", "PULocationID", "DOLocationID", "trip_miles", "trip_time"),
    *("base_passenger_fare", "tolls", "bcf", "sales_tax", "congestion_surcharge", "airport_fee", "tips", "driver_pay"),
    *("shared_request_flag", "shared_match_flag", "access_a_ride_flag", "wav_request_flag", "wav_match_flag"),
    "cbd_congestion_fee",
)
NAMES = {"green": GREEN, "fhv": FHV, "fhvhv": FHVHV}
# The types of the columns in their order, a letter of `TYPES` each, at both ends of each era of the published files.
PUBLISHED = {
    **dict.fromkeys([("green", "2014-01"), ("green", "2014-02"), ("green", "2014-12")], "ltts lll l dddddd 00d ll0"),
    **dict.fromkeys([("green", "2015-01"), ("green", "2018-12")], "ltts lll l dddddd 0dd ll0"),
    **dict.fromkeys([("green", "2019-01"), ("green", "2019-08")], "ltts dll d dddddd ddd ddd"),
    **dict.fromkeys([("green", "2019-09"), ("green", "2023-01")], "ltts dll d dddddd 0dd ddd"),
    **dict.fromkeys([("green", "2023-02"), ("green", "2024-12")], "itts lii l dddddd ddd lld"),
    **dict.fromkeys([("green", "2025-01"), ("green", "2026-05")], "itts lii l dddddd ddd lld d"),
    **dict.fromkeys([("green", "2026-06"), ("green", "2026-12")], "itts lii l dddddd ddd lld ds"),
    **dict.fromkeys([("fhv", "2015-01"), ("fhv", "2017-04")], "stt dd 0s"),
    **dict.fromkeys([("fhv", "2017-05"), ("fhv", "2019-02")], "stt dd ds"),
    **dict.fromkeys([("fhv", "2019-03"), ("fhv", "2019-04")], "stt dd 0s"),
    **dict.fromkeys([("fhv", "2019-05"), ("fhv", "2019-06")], "stt ll 0s"),
    **dict.fromkeys([("fhv", "2019-07"), ("fhv", "2020-06")], "stt dd 0s"),
    ("fhv", "2020-07"): "stt dl 0s",
    **dict.fromkeys([("fhv", "2020-08"), ("fhv", "2023-01")], "stt dd 0s"),
    **dict.fromkeys([("fhv", "2023-02"), ("fhv", "2026-12")], "stt ll ls"),
    **dict.fromkeys([("fhvhv", "2019-02"), ("fhvhv", "2019-03")], "sss tttt ll dl ddddd 0dd ssss0"),
    **dict.fromkeys([("fhvhv", "2019-04"), ("fhvhv", "2019-06")], "sss tttt ll dl ddddd 0dd sssss"),
    **dict.fromkeys([("fhvhv", "2019-07"), ("fhvhv", "2020-03")], "sss tttt ll dl ddddd ddd sssss"),
    **dict.fromkeys([("fhvhv", "2020-04"), ("fhvhv", "2020-10")], "sss tttt ll dl ddddd 0dd sssss"),
    **dict.fromkeys([("fhvhv", "2020-05"), ("fhvhv", "2020-09")], "sss tttt ll dl ddddd ddd sssss"),
    **dict.fromkeys([("fhvhv", "2020-11"), ("fhvhv", "2023-01")], "sss tttt ll dl ddddd ddd sssss"),
    **dict.fromkeys([("fhvhv", "2023-02"), ("fhvhv", "2024-12")], "sss tttt ii dl ddddd ddd sssss"),
    **dict.fromkeys([("fhvhv", "2025-01"), ("fhvhv", "2026-12")], "sss tttt ii dl ddddd ddd sssss d"),
}
REAL_FILES = [
    *(("green", month) for month in ("2023-01", "2023-02", "2024-01")),
    *(("fhv", "2025-01"), ("fhvhv", "2025-01")),
]


def types_of(fleet: str, month: str) -> list[tuple[str, pa.DataType]]:
    letters = PUBLISHED[fleet, month].replace(" ", "")
    # Columns that a month does not have yet are the last ones.
    return [(name, TYPES[letter]) for name, letter in zip(NAMES[fleet], letters, strict=False)]


def written(name: str, type_: pa.DataType) -> pa.DataType:
    """The type that DuckDB writes for a published one: it has one type for texts, and none for null-typed columns."""
    if pa.types.is_null(type_):
        return pa.string() if name.endswith("_flag") and name.islower() else pa.int32()
    return pa.string() if pa.types.is_large_string(type_) else type_


@pytest.mark.parametrize(("fleet", "month"), PUBLISHED)
def test_a_month_has_the_columns_and_types_of_the_published_one(fleet: str, month: str, tmp_path: Path) -> None:
    path = write_fleet_month(tmp_path, fleet, month, 50)
    published = types_of(fleet, month)
    assert [(field.name, field.type) for field in pq.read_schema(path)] == [
        (name, written(name, type_)) for name, type_ in published
    ]
    nulls = [name for name, type_ in published if pa.types.is_null(type_)]
    assert [name for name in nulls if count(path, f"{name} IS NOT NULL")] == []


@pytest.mark.parametrize(("fleet", "month"), REAL_FILES)
def test_a_month_has_the_schema_of_the_real_file(fleet: str, month: str, tmp_path: Path) -> None:
    real = REAL_DATA / "trip-data" / f"{fleet}_tripdata_{month}.parquet"
    if not real.exists():
        pytest.skip(NO_REAL_DATA)
    made = pq.read_schema(write_fleet_month(tmp_path, fleet, month, 10))
    assert [(field.name, field.type) for field in made] == [
        (field.name, written(field.name, field.type)) for field in pq.read_schema(real)
    ]


@pytest.mark.parametrize(("fleet", "first"), [("green", "2014-01"), ("fhv", "2015-01"), ("fhvhv", "2019-02")])
def test_a_fleet_has_the_months_from_its_first_one_on(fleet: str, first: str, tmp_path: Path) -> None:
    folder = tmp_path / "source" / "trip-data"
    for month, rows in ((first, 1), ("2026-12", 2), ("2022-02", 1001)):
        path = write_fleet_month(folder, fleet, month, rows)
        assert path == folder / f"{fleet}_tripdata_{month}.parquet"
        assert pq.read_metadata(path).num_rows == rows
    year, number = int(first[:4]), int(first[5:])
    before = f"{year}-{number - 1:02}" if number > 1 else f"{year - 1}-12"
    for month in (before, "2027-01"):
        with pytest.raises(ValueError, match=f"months of {fleet} go from {first} to 2026-12; {month} is not one"):
            write_fleet_month(tmp_path / "none", fleet, month, 1)
    assert not (tmp_path / "none").exists()


def test_other_fleets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of the fleets green, fhv, fhvhv; yellow is not one"):
        write_fleet_month(tmp_path, "yellow", "2023-01", 1)


@pytest.mark.parametrize(
    ("fleet", "month", "digest"),
    [
        ("green", "2014-02", "002dad09cee53293"),
        ("green", "2026-07", "4f9f79d026aa77c3"),
        ("fhv", "2017-05", "eeec5d8f0a24d344"),
        ("fhv", "2025-01", "0903f8b2a8a52295"),
        ("fhvhv", "2019-02", "fafb4544548861d7"),
        ("fhvhv", "2026-07", "f2413d4af1256bd6"),
    ],
)
def test_the_trips_are_those_of_earlier_releases(fleet: str, month: str, digest: str, tmp_path: Path) -> None:
    # The same with every version of DuckDB; benchmark results can be compared only while they stay the same.
    once, again = (
        query(write_fleet_month(tmp_path / name, fleet, month, 1000), "FROM trips") for name in ("once", "again")
    )
    assert once == again
    assert hashlib.sha256(repr(once).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("fleet", NAMES)
def test_another_month_has_other_trips(fleet: str, tmp_path: Path) -> None:
    august, september = (
        query(write_fleet_month(tmp_path, fleet, month, 1000), "SELECT DOLocationID FROM trips")
        for month in ("2019-08", "2019-09")
    )
    # By chance, the most frequent zones occur at the same place now and then.
    assert sum(one == other for one, other in zip(august, september, strict=True)) < 80


ROWS = 100_000
GREEN_GROUP = (
    *("passenger_count", "RatecodeID", "store_and_fwd_flag", "payment_type", "congestion_surcharge"),
    "trip_type",
)
BEFORE_PICKUP = '"dropOff_datetime" < pickup_datetime'
LYFT = "hvfhs_license_num = 'HV0005'"


@pytest.fixture(scope="module")
def months(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Sample months of `ROWS` trips, made when a test asks for them."""
    folder = tmp_path_factory.mktemp("months")

    class Months(dict[tuple[str, str], Path]):
        def __missing__(self, key: tuple[str, str]) -> Path:
            self[key] = write_fleet_month(folder, *key, ROWS)
            return self[key]

    return Months()


@pytest.mark.parametrize(
    ("fleet", "month", "problem", "percent"),
    [
        *(("fhv", month, BEFORE_PICKUP, 100.0) for month in ("2015-07", "2016-07", "2017-05")),
        *(("fhv", month, BEFORE_PICKUP, 0.0) for month in ("2017-06", "2018-07", "2025-01")),
        *(("fhv", "2015-07", f"{name} IS NULL", share) for name, share in (("PUlocationID", 27), ("DOlocationID", 98))),
        *(("fhv", "2016-07", f"{name} IS NULL", share) for name, share in (("PUlocationID", 30), ("DOlocationID", 98))),
        *(("fhv", "2018-07", f"{name} IS NULL", share) for name, share in (("PUlocationID", 14), ("DOlocationID", 8))),
        ("fhv", "2017-07", "PUlocationID IS NULL", 22),
        ("fhv", "2019-02", "PUlocationID IS NULL", 4.7),
        ("fhv", "2020-09", "PUlocationID IS NULL", 0.8),
        ("fhv", "2020-10", "PUlocationID IS NULL", 80),
        ("fhv", "2025-01", "PUlocationID IS NULL", 82),
        ("fhv", "2026-01", "PUlocationID IS NULL", 85),
        ("fhv", "2021-05", "DOlocationID IS NULL", 15),
        ("fhv", "2025-01", "DOlocationID IS NULL", 17),
        ("fhv", "2018-07", "SR_Flag = 1", 17),
        ("fhv", "2018-07", "dispatching_base_num BETWEEN 'B02500' AND 'B02537'", 92.6),
        ("fhv", "2019-02", "dispatching_base_num BETWEEN 'B02500' AND 'B02537'", 0.0),
        ("green", "2018-07", "payment_type IS NULL", 0.0),
        *(("green", month, "payment_type IS NULL", 15.0) for month in ("2019-07", "2022-07", "2026-07")),
        *(("green", month, "fare_amount < 0", 0.29) for month in ("2018-07", "2026-07")),
        ("green", "2026-07", "trip_distance = 0", 3.43),
        ("green", "2026-07", "trip_distance > 200", 0.036),
        ("green", "2026-07", "lpep_dropoff_datetime <= lpep_pickup_datetime", 0.19),
        ("green", "2026-07", "request_source IS NOT NULL", 15.0),
        ("fhvhv", "2026-07", LYFT, 27.0),
        ("fhvhv", "2019-02", "hvfhs_license_num IN ('HV0002', 'HV0004')", 5.0),
        ("fhvhv", "2026-07", "hvfhs_license_num IN ('HV0002', 'HV0004')", 0.0),
        ("fhvhv", "2026-07", "DOLocationID = 265", 3.9),
        ("fhvhv", "2026-07", "request_datetime > pickup_datetime", 1.2),
        ("fhvhv", "2026-07", "base_passenger_fare < 0", 0.084),
        ("fhvhv", "2026-07", "trip_miles = 0", 0.055),
        ("fhvhv", "2026-07", "abs(trip_time - epoch(dropoff_datetime - pickup_datetime)) > 120", 1.55),
        ("fhvhv", "2026-07", "dropoff_datetime <= pickup_datetime", 0.0),
    ],
)
def test_problems_are_as_frequent_as_in_real_months(
    fleet: str, month: str, problem: str, percent: float, months: dict[tuple[str, str], Path]
) -> None:
    # Chance alone stays within a tenth, except for the rarest problems.
    expected = ROWS * percent / 100
    assert count(months[fleet, month], problem) == pytest.approx(expected, rel=0.1, abs=25 if percent else 5)


@pytest.mark.parametrize("month", ["2019-07", "2022-07", "2026-07"])
def test_green_trips_without_a_meter_lack_six_values_together(month: str, months: dict[tuple[str, str], Path]) -> None:
    path = months["green", month]
    for name in GREEN_GROUP[:-1]:
        assert count(path, f"({name} IS NULL) <> (payment_type IS NULL)") == 0, name
    assert count(path, "trip_type IS NOT NULL AND payment_type IS NULL") == 0
    # A few other trips have no trip type.
    assert 1 <= count(path, "trip_type IS NULL AND payment_type IS NOT NULL") < 30
    vendors = {vendor for (vendor,) in query(path, "SELECT DISTINCT VendorID FROM trips")}
    assert vendors == ({1, 2, 6} if month >= "2025" else {1, 2})
    assert count(path, "VendorID = 6 AND payment_type IS NOT NULL") == 0


def test_green_amounts_add_up(months: dict[tuple[str, str], Path]) -> None:
    parts = ["fare_amount", "extra", "mta_tax", "tip_amount", "tolls_amount", "improvement_surcharge"]
    parts += ["congestion_surcharge"]
    for month, more in (("2018-07", []), ("2022-07", []), ("2026-07", ["cbd_congestion_fee"])):
        total = " + ".join(f"coalesce({name}, 0)" for name in [*parts, *more])
        assert count(months["green", month], f"abs(total_amount - ({total})) > 0.011") == 0


def test_only_green_has_pickups_outside_the_month(months: dict[tuple[str, str], Path]) -> None:
    outside = "{} < DATE '2026-07-01' OR {} >= DATE '2026-08-01'"
    assert 5 < count(months["green", "2026-07"], outside.format(*2 * ["lpep_pickup_datetime"])) < 50
    for fleet in ("fhv", "fhvhv"):
        assert count(months[fleet, "2026-07"], outside.format(*2 * ["pickup_datetime"])) == 0


def test_the_affiliated_base_of_some_for_hire_trips_is_the_only_difference(
    months: dict[tuple[str, str], Path],
) -> None:
    path = months["fhv", "2018-07"]
    rows = query(path, "FROM trips")
    assert len({row[:-1] for row in rows}) == len(rows) - ROWS // 1000
    (bases,) = query(path, "SELECT count(DISTINCT dispatching_base_num), max(length(dispatching_base_num)) FROM trips")
    assert 500 < bases[0] < 900
    assert bases[1] == 6


def test_a_for_hire_trip_of_february_2019_ends_in_the_year_3019(months: dict[tuple[str, str], Path]) -> None:
    path = months["fhv", "2019-02"]
    ((newest,),) = query(path, 'SELECT max("dropOff_datetime") FROM trips')
    assert isinstance(newest, datetime.datetime)
    assert newest.year == 3019
    assert count(path, 'year("dropOff_datetime") > 2019') == 1
    assert count(months["fhv", "2018-07"], 'year("dropOff_datetime") > 2018') == 0


def test_trips_of_lyft_lack_what_they_lack_in_real_months(months: dict[tuple[str, str], Path]) -> None:
    for month in ("2019-02", "2025-01", "2026-07"):
        path = months["fhvhv", month]
        assert count(path, f"(originating_base_num IS NULL) <> ({LYFT})") == 0
        # In 2026-07, Lyft's trips have this moment, too.
        lacking = LYFT if month < "2026" else "false"
        assert count(path, f"(on_scene_datetime IS NULL) <> ({lacking})") == 0
    flags = "SELECT DISTINCT access_a_ride_flag FROM trips"
    assert set(query(months["fhvhv", "2019-02"], flags)) == {(" ",), ("N",)}
    assert set(query(months["fhvhv", "2025-01"], flags)) == {("N",)}


@pytest.mark.parametrize("rows", [100, ROWS])
def test_the_first_high_volume_trips_were_requested_in_the_month_before(
    rows: int, months: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    path = months["fhvhv", "2025-01"] if rows == ROWS else write_fleet_month(tmp_path, "fhvhv", "2025-01", rows)
    before = count(path, "request_datetime < DATE '2025-01-01'")
    assert 1 <= before < rows / 50
    assert count(path, "request_datetime < DATE '2024-12-31'") == 0


def test_high_volume_dropoffs_precede_pickups_only_when_the_clocks_go_back(
    months: dict[tuple[str, str], Path],
) -> None:
    path = months["fhvhv", "2025-11"]
    hour = "pickup_datetime BETWEEN TIMESTAMP '2025-11-02 01:00:00' AND TIMESTAMP '2025-11-02 01:59:59'"
    backwards = "dropoff_datetime <= pickup_datetime"
    assert 0 < count(path, backwards) == count(path, f"{backwards} AND {hour}") < count(path, hour) / 2


def sample_command(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "dagster_essentials.sample", "source", "--rows", "7", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), **os.environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_writes_the_fleets_beside_the_yellow_months(tmp_path: Path) -> None:
    result = sample_command(tmp_path, "--start", "2018-12", "--end", "2019-03", "--fleets", "green,fhvhv")
    assert result.returncode == 0, result.stderr
    months = ["2018-12", "2019-01", "2019-02", "2019-03"]
    names = [f"{fleet}_tripdata_{month}.parquet" for fleet in ("yellow", "green") for month in months]
    names += [f"fhvhv_tripdata_{month}.parquet" for month in ("2019-02", "2019-03")]
    files = list((tmp_path / "source" / "trip-data").iterdir())
    assert sorted(path.name for path in files) == sorted(names)
    assert {pq.read_metadata(path).num_rows for path in files} == {7}
    lines = result.stdout.splitlines()
    assert "fhvhv: 2018-12 to 2019-01 left out, because the first month of this fleet is 2019-02" in lines
    assert sum("7 trips" in line for line in lines) == len(names)
    alone = sample_command(tmp_path, "--start", "2019-01", "--end", "2019-01", "--fleets", "fhvhv")
    assert "fhvhv: 2019-01 left out, because the first month of this fleet is 2019-02" in alone.stdout.splitlines()


def test_the_command_says_which_fleets_there_are(tmp_path: Path) -> None:
    result = sample_command(tmp_path, "--fleets", "green,uber")
    assert result.returncode == 2
    assert "'uber' is not a fleet; they are green,fhv,fhvhv" in result.stderr
    assert list(tmp_path.iterdir()) == []
