"""The zones CSV: one zone per id with all its polygons, and an error message for every file that is something else."""

import csv
import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

from dagster_essentials.errors import ZonesError
from dagster_essentials.ingestion.zones import Zone, multipolygon_coordinates, read_zones
from dagster_essentials_tests.support.project import NO_REAL_DATA, REAL_DATA

HEADER = ("OBJECTID", "Shape_Leng", "the_geom", "Shape_Area", "zone", "LocationID", "borough")
SQUARE = "((0 0, 0 1, 1 1, 0 0))"
HOLED = "((2 2, 2 5, 5 5, 2 2), (3 4, 3.5 4, 3.5 4.5, 3 4))"
FAR = "((7 7, 7 8, 8 8, 7 7))"
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
        read_zones(path)
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
    assert read_zones(path) == [
        Zone(1, "Newark Airport", "EWR", f"MULTIPOLYGON ({FAR})"),
        Zone(9, "Auburndale", "Queens", f"MULTIPOLYGON ({SQUARE})"),
        Zone(10, "Baisley Park", "Queens", f"MULTIPOLYGON ({HOLED}, {FAR})"),
    ]


def test_rows_with_the_same_id_become_one_zone_with_all_their_polygons(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "zones.csv", [row(103, SQUARE), row(56), row(103, HOLED, SQUARE), row(103, FAR)])
    corona, islands = read_zones(path)
    assert (corona.zone_id, corona.geometry) == (56, f"MULTIPOLYGON ({SQUARE})")
    assert (islands.zone_id, islands.geometry) == (103, f"MULTIPOLYGON ({SQUARE}, {HOLED}, {SQUARE}, {FAR})")


def test_column_order_and_additional_columns_do_not_matter(tmp_path: Path) -> None:
    header = ("borough", "new_column", "LocationID", "the_geom", "zone")
    path = write_csv(tmp_path / "zones.csv", [row(4, zone="Alphabet City", borough="Manhattan")], header)
    assert read_zones(path) == [Zone(4, "Alphabet City", "Manhattan", f"MULTIPOLYGON ({SQUARE})")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("line_end", ["\r\n", "\n"], ids=["CRLF", "LF"])
def test_line_ends_and_a_byte_order_mark_do_not_matter(encoding: str, line_end: str, tmp_path: Path) -> None:
    # The id is first, where a byte order mark would become part of its name.
    header = ("LocationID", "the_geom", "zone", "borough")
    rows = [row(2, zone='Jamaica Bay, "Château"')]
    path = write_csv(tmp_path / "zones.csv", rows, header, encoding, line_end)
    assert read_zones(path) == [Zone(2, 'Jamaica Bay, "Château"', "Queens", f"MULTIPOLYGON ({SQUARE})")]


def test_an_outline_longer_than_the_limit_of_the_csv_module_is_read(tmp_path: Path) -> None:
    outline = "((" + ", ".join(f"-73.{n:06} 40.{n:06}" for n in range(20_000)) + "))"
    path = write_csv(tmp_path / "zones.csv", [row(1, outline)])
    assert len(outline) > 300_000
    assert read_zones(path)[0].geometry == f"MULTIPOLYGON ({outline})"


@pytest.fixture(scope="module")
def published() -> Path:
    path = REAL_DATA / "taxi_zones.csv"
    if not path.exists():
        pytest.skip(NO_REAL_DATA)
    return path


def published_rows(path: Path) -> dict[int, list[dict[str, str]]]:
    """The rows of the published file by zone, read independently with Python's csv module."""
    csv.field_size_limit(1 << 24)
    rows = defaultdict(list)
    with open(path, newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            rows[int(line["LocationID"])].append(line)
    return rows


def test_the_published_file_has_260_zones_in_263_rows(published: Path) -> None:
    rows = published_rows(published)
    assert {zone: len(same) for zone, same in rows.items() if len(same) > 1} == {56: 2, 103: 3}
    assert sum(map(len, rows.values())) == 263
    ids = [zone.zone_id for zone in read_zones(published)]
    assert ids == sorted(rows)
    assert len(set(ids)) == 260
    assert {57, 104, 105, 264, 265}.isdisjoint(ids)


def test_every_polygon_of_the_published_file_is_in_exactly_one_zone(published: Path) -> None:
    rows = published_rows(published)
    for zone in read_zones(published):
        polygons = [polygon for line in rows[zone.zone_id] for polygon in re.findall(POLYGON, line["the_geom"])]
        assert re.fullmatch(rf"MULTIPOLYGON \({POLYGON}(, {POLYGON})*\)", zone.geometry), zone.zone
        assert re.findall(POLYGON, zone.geometry) == polygons, zone.zone
        first = rows[zone.zone_id][0]
        assert (zone.zone, zone.borough) == (first["zone"], first["borough"])


def test_every_coordinate_of_the_published_file_is_in_a_zone(published: Path) -> None:
    pair = re.compile(r"(-?\d+\.\d+) (-?\d+\.\d+)")
    with open(published, encoding="utf-8") as file:
        pairs_in_file = sorted(pair.findall(file.read()))
    assert sorted(found for zone in read_zones(published) for found in pair.findall(zone.geometry)) == pairs_in_file
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
        ("POLYGON ((0 0, 0 1, 1 1, 0 0))", "'POLYGON"),
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
    assert read_zones(path)[0].zone == "Governor's Island\r\nEllis Island"
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
        read_zones(missing)
    assert refused.value.describe() == f"{missing} does not exist. Materialize taxi_zones_file first."
    with pytest.raises(ZonesError) as refused:
        read_zones(tmp_path)
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
    for zone in read_zones(published):
        coordinates = [pair for polygon in multipolygon_coordinates(zone.geometry) for ring in polygon for pair in ring]
        pairs = re.findall(r"(-?\d+\.\d+) (-?\d+\.\d+)", zone.geometry)
        assert coordinates == [[float(longitude), float(latitude)] for longitude, latitude in pairs], zone.zone
