"""The zones CSV: one zone for each id that trips have, and an error message for every file that is something else."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dagster_essentials.datasets.zones import Zone, describe_ids, missing_ids, multipolygon_coordinates, read_zones
from dagster_essentials.errors import ZonesError
from dagster_essentials.sample import write_zones
from dagster_essentials_tests.support.project import DISK, NO_REAL_DATA, REAL_DATA

HEADER = ("OBJECTID", "Shape_Leng", "the_geom", "Shape_Area", "zone", "LocationID", "borough")
SQUARE = "((0 0, 0 1, 1 1, 0 0))"
HOLED = "((2 2, 2 5, 5 5, 2 2), (3 4, 3.5 4, 3.5 4.5, 3 4))"
FAR = "((7 7, 7 8, 8 8, 7 7))"
NOWHERE = [Zone(264, "Unknown", "Unknown", None), Zone(265, "Outside of NYC", "Outside of NYC", None)]
# An outline, and any number of holes in it.
POLYGON = r"\(\([^()]+\)(?:, *\([^()]+\))*\)"


def write_csv(
    path: Path,
    rows: list[dict[str, str]],
    header: tuple[str, ...] = HEADER,
    encoding: str = "utf-8",
    line_end: str = "\r\n",
) -> Path:
    with open(path, "w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, header, restval="0", lineterminator=line_end)
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(zone_id: object, *polygons: str, zone: str = "Somewhere", borough: str = "Queens") -> dict[str, str]:
    geometry = f"MULTIPOLYGON ({', '.join(polygons or [SQUARE])})"
    return {"LocationID": str(zone_id), "the_geom": geometry, "zone": zone, "borough": borough}


def refusal(path: Path) -> str:
    with pytest.raises(ZonesError) as refused:
        read_zones(path, DISK)
    assert refused.value.source == path
    return str(refused.value)


def test_each_row_becomes_a_zone_and_zones_are_ordered_by_id(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "zones.csv",
        [
            row(10, HOLED, FAR, zone="Baisley Park"),
            row(9, zone="Auburndale"),
            row(1, FAR, zone="Newark Airport", borough="EWR"),
        ],
    )
    assert read_zones(path, DISK) == [
        Zone(1, "Newark Airport", "EWR", f"MULTIPOLYGON ({FAR})"),
        Zone(9, "Auburndale", "Queens", f"MULTIPOLYGON ({SQUARE})"),
        Zone(10, "Baisley Park", "Queens", f"MULTIPOLYGON ({HOLED}, {FAR})"),
        *NOWHERE,
    ]


def test_zones_264_and_265_of_the_file_are_kept_with_and_without_an_outline(tmp_path: Path) -> None:
    without = {**row(265, zone="N/A", borough="Outside of NYC"), "the_geom": " "}
    path = write_csv(tmp_path / "zones.csv", [without, row(264, FAR, zone="Nowhere", borough="N/A"), row(1)])
    assert read_zones(path, DISK)[1:] == [
        Zone(264, "Nowhere", "N/A", f"MULTIPOLYGON ({FAR})"),
        Zone(265, "N/A", "Outside of NYC", None),
    ]


def test_the_ids_that_a_csv_lacks_are_known(tmp_path: Path) -> None:
    few = read_zones(write_csv(tmp_path / "few.csv", [row(1), row(266), row(264)]), DISK)
    assert missing_ids(few) == set(range(2, 264))
    assert describe_ids(missing_ids(few)) == "2, 3, 4, 5, 6 and 257 more"
    deduplicated = read_zones(
        write_csv(tmp_path / "260.csv", [row(n) for n in range(1, 264) if n not in (57, 104, 105)]), DISK
    )
    assert describe_ids(missing_ids(deduplicated)) == "57, 104, 105"
    assert describe_ids(missing_ids(read_zones(write_zones(tmp_path / "published.csv"), DISK))) == "none"


# Rows with the same LocationID


def sample_rows(folder: Path) -> list[dict[str, str]]:
    """The rows of the sample's zones CSV, which has the ids of the published one."""
    with open(write_zones(folder / "sample.csv"), newline="") as file:
        return list(csv.DictReader(file))


def test_rows_that_repeat_a_location_id_have_their_object_id(tmp_path: Path) -> None:
    rows = sample_rows(tmp_path)
    # The order of the rows has no meaning; the published one is neither that of the ids nor that of the names.
    zones = read_zones(write_csv(tmp_path / "zones.csv", rows[::-1]), DISK)
    assert [zone.zone_id for zone in zones] == list(range(1, 266))
    assert [zone.geometry for zone in zones[:263]] == [row["the_geom"] for row in rows]
    assert [zones[n - 1].zone for n in (56, 57, 103, 104, 105)] == ["Zone 56"] * 2 + ["Zone 103"] * 3


def test_a_corrected_csv_and_one_that_is_corrected_in_part_have_the_same_ids(tmp_path: Path) -> None:
    rows = sample_rows(tmp_path)
    published = read_zones(tmp_path / "sample.csv", DISK)
    for number in (57, 105, 104):
        rows[number - 1]["LocationID"] = str(number)
        assert read_zones(write_csv(tmp_path / "zones.csv", rows), DISK) == published


def test_the_object_id_does_not_matter_where_no_location_id_is_repeated(tmp_path: Path) -> None:
    rows = [{**row(zone_id), "OBJECTID": object_id} for zone_id, object_id in ((56, "57"), (103, "57"), (3, ""))]
    assert [zone.zone_id for zone in read_zones(write_csv(tmp_path / "zones.csv", rows), DISK)] == [
        3,
        56,
        103,
        264,
        265,
    ]


def renumbered(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**row, "OBJECTID": str(number)} for number, row in enumerate(rows)]


def changed(number: int, **values: str) -> Callable[[list[dict[str, str]]], list[dict[str, str]]]:
    """Change values of the row with OBJECTID `number`."""
    return lambda rows: [{**row, **values} if row["OBJECTID"] == str(number) else row for row in rows]


def without(*numbers: int) -> Callable[[list[dict[str, str]]], list[dict[str, str]]]:
    return lambda rows: [row for row in rows if int(row["OBJECTID"]) not in numbers]


def without_object_ids(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name != "OBJECTID"} for row in rows]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (without_object_ids, "line 57 has no OBJECTID with LocationID 56"),
        (renumbered, "line 2 has the OBJECTID '0' with LocationID 1"),
        (changed(200, OBJECTID=""), "line 201 has the OBJECTID '' with LocationID 200"),
        (changed(105, OBJECTID="264"), "line 106 has the OBJECTID '264' with LocationID 103"),
        (changed(104, OBJECTID="58"), "line 105 has the OBJECTID '58' with LocationID 103"),
        (changed(57, OBJECTID="56"), "OBJECTID 56 in lines 57 and 58"),
        (changed(58, OBJECTID="57", LocationID="56"), "OBJECTID 57 in lines 58 and 59"),
        (changed(58, LocationID="57"), "line 59 has the OBJECTID '58' with LocationID 57"),
        (changed(106, LocationID="103"), "line 107 has the OBJECTID '106' with LocationID 103"),
        (without(57, 200), "no row for OBJECTID 57, 200"),
        (without(56), "no row for OBJECTID 56"),
        (without(*range(106, 264)), "no row for OBJECTID 106, 107, 108, 109, 110 and 153 more"),
    ],
    ids=[
        *("no OBJECTID", "rows numbered", "an empty OBJECTID", "an OBJECTID of no zone", "that of another zone"),
        *("the same OBJECTID", "an OBJECTID twice", "57 again", "a fourth row for 103"),
        *("two rows missing", "the other row for 56 missing", "cut off"),
    ],
)
def test_rows_with_the_same_location_id_that_cannot_be_told_apart_are_refused(
    change: Callable[[list[dict[str, str]]], list[dict[str, str]]], found: str, tmp_path: Path
) -> None:
    rows = change(sample_rows(tmp_path))
    message = refusal(write_csv(tmp_path / "zones.csv", rows, tuple(rows[0])))
    assert message.startswith("the zones CSV repeats LocationID ")
    assert found in message
    assert message.endswith("Check what TAXI_ZONES_URL points to, and materialize again.")


def test_column_order_and_additional_columns_do_not_matter(tmp_path: Path) -> None:
    header = ("borough", "new_column", "LocationID", "the_geom", "zone")
    path = write_csv(tmp_path / "zones.csv", [row(4, zone="Alphabet City", borough="Manhattan")], header)
    assert read_zones(path, DISK) == [Zone(4, "Alphabet City", "Manhattan", f"MULTIPOLYGON ({SQUARE})"), *NOWHERE]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("line_end", ["\r\n", "\n"], ids=["CRLF", "LF"])
def test_line_ends_and_a_byte_order_mark_do_not_matter(encoding: str, line_end: str, tmp_path: Path) -> None:
    # The id is first, where a byte order mark would become part of its name.
    header = ("LocationID", "the_geom", "zone", "borough")
    rows = [row(2, zone='Jamaica Bay, "Château"')]
    path = write_csv(tmp_path / "zones.csv", rows, header, encoding, line_end)
    assert read_zones(path, DISK) == [Zone(2, 'Jamaica Bay, "Château"', "Queens", f"MULTIPOLYGON ({SQUARE})"), *NOWHERE]


# As others write it


def lower_case(row: dict[str, str]) -> dict[str, str]:
    """As the API of NYC Open Data, which has no OBJECTID either."""
    return {name.lower(): value for name, value in row.items() if name != "OBJECTID"}


def upper_case(row: dict[str, str]) -> dict[str, str]:
    return {f" {name.upper()} ": value for name, value in row.items()}


def pandas_numbers(row: dict[str, str]) -> dict[str, str]:
    return {**row, "LocationID": f"{row['LocationID']}.0", "OBJECTID": f"{row['OBJECTID']}.0"}


def geometries(convert: Callable[[str], str]) -> Callable[[dict[str, str]], dict[str, str]]:
    return lambda row: {**row, "the_geom": convert(row["the_geom"])}


SPELLINGS: dict[str, Callable[[dict[str, str]], dict[str, str]]] = {
    "lower case": lower_case,
    "upper case": upper_case,
    "pandas": pandas_numbers,
    "PostGIS": geometries(lambda text: text.replace(" (", "(").replace(", ", ",")),
    "PostGIS with a reference system": geometries(lambda text: f"SRID=4326;{text}"),
    "with more spaces": geometries(lambda text: text.replace("(", " ( ").replace(")", " ) ").replace(",", " , ")),
    "over several lines": geometries(lambda text: text.replace(", ", ",\n")),
    "in lower case": geometries(str.lower),
    "all at once": lambda row: lower_case(
        geometries(lambda text: text.lower().replace(" (", "("))(pandas_numbers(row))
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_published_zones_as_others_write_them_are_the_same(
    published: Path, published_zones: list[Zone], tmp_path: Path, spelling: str
) -> None:
    rows = [SPELLINGS[spelling](line) for line in published_rows(published).values()]
    assert len({row.get("locationid") or row.get("LocationID") or row[" LOCATIONID "] for row in rows}) == 260

    zones = read_zones(write_csv(tmp_path / "zones.csv", rows, tuple(rows[0])), DISK)

    assert [zone.zone_id for zone in zones] == list(range(1, 266))
    for zone, before in zip(zones, published_zones, strict=True):
        assert (zone.zone, zone.borough) == (before.zone, before.borough)
        if before.geometry is None:
            assert zone.geometry is None
        else:
            assert zone.geometry is not None
            assert multipolygon_coordinates(zone.geometry) == multipolygon_coordinates(before.geometry)


def test_a_zone_of_one_polygon_becomes_a_multipolygon(tmp_path: Path) -> None:
    """As GeoPandas reads a shapefile, in which most zones have one polygon."""
    rows = [{**row(1), "the_geom": f"POLYGON {HOLED}"}, {**row(2), "the_geom": f"polygon{SQUARE}"}]
    zones = read_zones(write_csv(tmp_path / "zones.csv", rows), DISK)
    assert [zone.geometry for zone in zones[:2]] == [f"MULTIPOLYGON ({HOLED})", f"MULTIPOLYGON ({SQUARE})"]


@pytest.mark.parametrize("moved", [56, 57, 103, 104, 105])
def test_zones_without_object_ids_are_told_apart_only_if_they_are_where_they_were(
    published: Path, tmp_path: Path, moved: int
) -> None:
    rows = published_rows(published)
    rows[moved] = {**rows[moved], "the_geom": "MULTIPOLYGON (((-73.9 40.6, -73.9 40.61, -73.91 40.61, -73.9 40.6)))"}
    written = [lower_case(line) for line in rows.values()]

    message = refusal(write_csv(tmp_path / "zones.csv", written, tuple(written[0])))

    location_id = rows[moved]["LocationID"]
    assert re.search(
        f"repeats LocationID 56, 103, and line \\d+ has no OBJECTID with LocationID {location_id}", message
    )


def test_an_outline_longer_than_the_limit_of_the_csv_module_is_read(tmp_path: Path) -> None:
    outline = "((" + ", ".join(f"-73.{n:06} 40.{n:06}" for n in range(20_000)) + "))"
    path = write_csv(tmp_path / "zones.csv", [row(1, outline)])
    assert len(outline) > 300_000
    assert read_zones(path, DISK)[0].geometry == f"MULTIPOLYGON ({outline})"


@pytest.fixture(scope="module")
def published() -> Path:
    path = REAL_DATA / "taxi_zones.csv"
    if not path.exists():
        pytest.skip(NO_REAL_DATA)
    return path


@pytest.fixture(scope="module")
def published_zones(published: Path) -> list[Zone]:
    return read_zones(published, DISK)


def published_rows(path: Path) -> dict[int, dict[str, str]]:
    """The rows of the published file by OBJECTID, read independently with Python's csv module."""
    csv.field_size_limit(1 << 24)
    with open(path, newline="", encoding="utf-8") as file:
        return {int(line["OBJECTID"]): line for line in csv.DictReader(file)}


def test_the_published_file_has_the_265_zones_of_the_trips(published: Path) -> None:
    rows = published_rows(published)
    assert list(rows) != sorted(rows)
    assert {n: int(line["LocationID"]) for n, line in rows.items() if line["LocationID"] != str(n)} == {
        57: 56,
        104: 103,
        105: 103,
    }
    zones = read_zones(published, DISK)
    assert [zone.zone_id for zone in zones] == [*sorted(rows), 264, 265] == list(range(1, 266))
    assert zones[263:] == NOWHERE


def test_every_zone_of_the_published_file_has_the_outline_of_its_row(published: Path) -> None:
    rows = published_rows(published)
    for zone in read_zones(published, DISK)[:263]:
        line = rows[zone.zone_id]
        assert zone == Zone(zone.zone_id, line["zone"], line["borough"], line["the_geom"])
        assert re.fullmatch(rf"MULTIPOLYGON \({POLYGON}(, {POLYGON})*\)", zone.geometry or ""), zone.zone


def test_every_coordinate_of_the_published_file_is_in_a_zone(published: Path) -> None:
    pair = re.compile(r"(-?\d+\.\d+) (-?\d+\.\d+)")
    with open(published, encoding="utf-8") as file:
        pairs_in_file = sorted(pair.findall(file.read()))
    zones = read_zones(published, DISK)
    assert sorted(found for zone in zones for found in pair.findall(zone.geometry or "")) == pairs_in_file
    assert all(-75 < float(longitude) < -73 and 40 < float(latitude) < 41 for longitude, latitude in pairs_in_file)


def test_the_error_page_of_the_old_address_is_refused(tmp_path: Path) -> None:
    page = {"code": "not_found", "error": True, "message": "Cannot find view with id 755u-8jsi"}
    path = tmp_path / "zones.csv"
    for text in (json.dumps(page), json.dumps(page, indent=2)):
        path.write_text(text)
        message = refusal(path)
        assert message.startswith("not the zones CSV: no column LocationID, zone, borough, the_geom.")
        assert "TAXI_ZONES_URL" in message
    path.write_text(json.dumps(page))
    assert '"code": "not_found"' in refusal(path)


def test_a_missing_column_is_reported_by_name(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "zones.csv", [], ("OBJECTID", "zone", "LocationID", "borough"))
    assert "no column the_geom. It begins with 'OBJECTID, zone, LocationID, borough'" in refusal(path)


@pytest.mark.parametrize(
    ("geometry", "shown"),
    [
        ("", "nothing"),
        ("   ", "nothing"),
        ("POINT (1 2)", "'POINT (1 2)'"),
        ("POLYGON (((0 0, 0 1, 1 1, 0 0)))", "'POLYGON"),
        ("MULTIPOLYGON ((0 0, 0 1, 1 1, 0 0))", "'MULTIPOLYGON"),
        ("MULTIPOLYGON Z (((0 0 0, 0 1 0, 1 1 0, 0 0 0)))", "'MULTIPOLYGON Z"),
        ("LINESTRING (0 0, 0 1)", "'LINESTRING"),
        ("SRID=2263;MULTIPOLYGON (((0 0, 0 1, 1 1, 0 0)))", "'SRID=2263"),
        ("MULTIPOLYGON (((933100.9 192536.1, 933091.0 192572.2, 933100.9 192536.1)))", "'MULTIPOLYGON (((933100.9"),
        ("MULTIPOLYGON (((nan nan, 0 1, 1 1, nan nan)))", "'MULTIPOLYGON (((nan"),
        ("MULTIPOLYGON EMPTY", "'MULTIPOLYGON EMPTY'"),
        (f"MULTIPOLYGON ({SQUARE}", "'MULTIPOLYGON (((0 0"),
    ],
)
def test_a_row_without_a_multipolygon_is_reported_with_line_and_zone(geometry: str, shown: str, tmp_path: Path) -> None:
    broken = {**row(3, zone="Allerton"), "the_geom": geometry}
    message = refusal(write_csv(tmp_path / "zones.csv", [row(1), row(2), broken, row(4)]))
    assert message.startswith(
        "line 4 of the zones CSV, zone 3 (Allerton), has no multipolygon in the_geom but " + shown
    )
    assert "TAXI_ZONES_URL" in message


@pytest.mark.parametrize("zone_id", ["", " ", "None", "-1", "1.5", "1,2", "0x10"])
def test_a_row_without_an_id_is_reported_with_its_line(zone_id: str, tmp_path: Path) -> None:
    message = refusal(write_csv(tmp_path / "zones.csv", [row(1), row(zone_id), row(3)]))
    assert message.startswith(f"line 3 of the zones CSV has the LocationID {zone_id.strip()!r}, not a number.")


def test_a_name_over_two_lines_is_read_and_both_lines_are_counted(tmp_path: Path) -> None:
    two_lines = row(1, zone="Governor's Island\r\nEllis Island")
    path = write_csv(tmp_path / "zones.csv", [two_lines, row(2)])
    assert read_zones(path, DISK)[0].zone == "Governor's Island\r\nEllis Island"
    write_csv(path, [two_lines, row(2), row("none")])
    assert refusal(path).startswith("line 5 of the zones CSV has the LocationID 'none'")


def test_a_truncated_row_is_reported_with_its_line(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "zones.csv", [row(1), row(2)])
    path.write_text(path.read_text() + f'3,0.1,"MULTIPOLYGON ({SQUARE})",0.2,Allerton\n')
    assert "line 4 of the zones CSV has the LocationID ''" in refusal(path)


def test_a_file_truncated_within_an_outline_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "zones.csv", [row(1), row(2, HOLED)])
    whole = path.read_text()
    path.write_text(whole[: whole.index("5 5")])
    assert "line 3 of the zones CSV" in refusal(path)


def test_a_missing_file_and_one_that_cannot_be_read_are_refused_with_what_to_do(tmp_path: Path) -> None:
    missing = tmp_path / "zones.csv"
    with pytest.raises(ZonesError) as refused:
        read_zones(missing, DISK)
    assert refused.value.describe() == f"{missing} does not exist. Materialize taxi_zones_file first."
    with pytest.raises(ZonesError) as refused:
        read_zones(tmp_path, DISK)
    assert refused.value.describe() == f"{tmp_path} cannot be read (Is a directory). Materialize taxi_zones_file again."


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    assert "has no rows" in refusal(write_csv(tmp_path / "zones.csv", []))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        bytes(range(256)) * 100,
        b"\x00" * 1000,
        b"PAR1\x15\x04\x15\x00PAR1",
        b"\x1f\x8b\x08\x00" + bytes(range(128, 256)),
        ",".join(HEADER).encode("utf-16"),
        b'"' + b"never closed " * 2_000_000,
    ],
    ids=["empty", "blank", "bytes", "zeros", "parquet", "gzip", "utf-16", "quote"],
)
def test_a_file_that_is_not_a_csv_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "zones.csv"
    path.write_bytes(content)
    message = refusal(path)
    assert message.startswith("not the zones CSV: ")
    assert "TAXI_ZONES_URL" in message
    assert len(message) < 600


def test_invalid_utf_8_after_good_rows_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "zones.csv", [row(1), row(2)])
    path.write_bytes(path.read_bytes() + b"3,\xff\xfe\n")
    assert refusal(path).startswith("not the zones CSV: ")


# Geometries


def test_a_multipolygon_has_polygons_of_rings_of_points() -> None:
    geometry = f"MULTIPOLYGON ({SQUARE}, {HOLED}, ((-73.9 40.7, 1e-5 -1E+2, -73.9 40.7)))"
    assert multipolygon_coordinates(geometry) == [
        [[[0, 0], [0, 1], [1, 1], [0, 0]]],
        [[[2, 2], [2, 5], [5, 5], [2, 2]], [[3, 4], [3.5, 4], [3.5, 4.5], [3, 4]]],
        [[[-73.9, 40.7], [1e-5, -100], [-73.9, 40.7]]],
    ]


def test_the_coordinates_of_every_published_zone_are_those_of_its_geometry(published: Path) -> None:
    for zone in read_zones(published, DISK)[:263]:
        assert zone.geometry is not None
        coordinates = [pair for polygon in multipolygon_coordinates(zone.geometry) for ring in polygon for pair in ring]
        pairs = re.findall(r"(-?\d+\.\d+) (-?\d+\.\d+)", zone.geometry)
        assert coordinates == [[float(longitude), float(latitude)] for longitude, latitude in pairs], zone.zone
