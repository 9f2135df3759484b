"""The taxi zones: how the published CSV becomes one row for each zone id that trips have.

The published file has 263 rows, but its LocationID has 260 values: 56 occurs twice and 103, with its three islands, three
times. The TLC itself used OBJECTID when it turned coordinates into zones: trips have 57, 104 and 105, which are among the
values of OBJECTID alone. They also have 264 and 265, which stand in the TLC's lookup table, but not in this file.
"""

import csv
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dagster_essentials.datasets.publisher import WITHOUT_NETWORK
from dagster_essentials.errors import PipelineError, ZonesError
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.ingestion.download import download
from dagster_essentials.ingestion.http_requests import redact_url
from dagster_essentials.ingestion.sidecar import DownloadedFile

COLUMNS = ("LocationID", "zone", "borough", "the_geom")
"""Compared without case: the API of NYC Open Data has all of them in lower case."""
BOROUGHS = ("Bronx", "Brooklyn", "EWR", "Manhattan", "Queens", "Staten Island")
"""As in the published file; EWR is Newark Airport."""

_START = "MULTIPOLYGON "
_WKT = re.compile(
    r"(?:SRID=4326;)?(?P<multi>MULTI)?POLYGON\s*(?P<rings>(?P<open>\([(\s]*)"
    r"(?P<longitude>[-+]?\d+\.?\d*)\s+(?P<latitude>[-+]?\d+\.?\d*)\s*,.*\))",
    re.IGNORECASE | re.DOTALL,
)
_NUMBER = re.compile(r"(\d+)(\.0*)?")
"""pandas writes whole numbers with a decimal point if one of their column is missing."""


@dataclass(frozen=True)
class Zone:
    """A taxi zone; `geometry` is a WKT multipolygon in degrees of longitude and latitude (WGS 84), None without outline."""

    zone_id: int
    zone: str
    borough: str
    geometry: str | None


WITHOUT_OUTLINE = (Zone(264, "Unknown", "Unknown", None), Zone(265, "Outside of NYC", "Outside of NYC", None))
"""The ids of trips without a place in the city. They have no outline, and belong to none of `BOROUGHS`."""

PUBLISHED_IDS = range(1, 264)
MISNUMBERED = {57: 56, 104: 103, 105: 103}
"""The rows of the published file whose LocationID is another zone's, by their OBJECTID."""
CENTRES = {
    56: (-73.8577, 40.7416),
    57: (-73.8533, 40.7520),
    103: (-74.0451, 40.6898),
    104: (-74.0407, 40.6987),
    105: (-74.0192, 40.6881),
}
"""Of the boxes around the outlines of these rows, in degrees. They are told apart by them if there is no OBJECTID, as in the
data set of NYC Open Data since 2025."""
CENTRE_TOLERANCE = 0.002
"""Degrees, 200 m. The nearest two centres are 900 m apart."""


def download_zones(url: str, path: Path, files: DataFolder) -> tuple[DownloadedFile, bool]:
    """Download the zones CSV at `url` to `path` in `files`, unless it is unchanged there.

    Returns:
        What is known of the file, and whether it was transferred.

    Raises:
        PipelineError: it cannot be downloaded or written, or is not the zones CSV. An earlier file is unchanged.
    """
    try:
        return download(
            url,
            path,
            files,
            _parse,
            if_not_published="Point TAXI_ZONES_URL to where it is, and materialize again.",
            if_unreachable=WITHOUT_NETWORK,
        )
    except PipelineError as error:
        error.source = redact_url(url)
        raise


def read_zones(path: Path, files: DataFolder) -> list[Zone]:
    """Read the zones CSV at `path` in `files`: one zone per id, in the order of the ids, 264 and 265 among them.

    A CSV in which each LocationID occurs once may have any ids. One that repeats some must be numbered as the published
    one is, and its ids are those of OBJECTID.

    Raises:
        ZonesError: it is missing or not the zones CSV (an error page, for example), a row lacks its id or geometry, or
            the rows with the same LocationID cannot be told apart.
    """
    try:
        files.fetch(path)
        return _parse(path)
    except FileNotFoundError:
        raise ZonesError(f"{path} does not exist. Materialize taxi_zones_file first.") from None
    except OSError as error:
        raise ZonesError(f"{path} cannot be read ({error.strerror}). Materialize taxi_zones_file again.") from None
    except ZonesError as error:
        error.source = path
        raise


def _parse(path: Path) -> list[Zone]:
    # The outline of a zone has up to 300,000 characters; the csv module allows 131,072 unless told otherwise.
    csv.field_size_limit(1 << 24)
    rows: list[_Row] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or ()
            reader.fieldnames = [name.strip().lower() for name in names]
            missing = [name for name in COLUMNS if name.lower() not in reader.fieldnames]
            if missing:
                found = ", ".join(names)[:80] or "nothing"
                raise ZonesError(
                    f"not the zones CSV: no column {', '.join(missing)}. It begins with {found!r}. {_ADVICE}"
                )
            for row in reader:
                rows.append(_Row(reader.line_num, row.get("objectid"), _zone(row, reader.line_num)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ZonesError(f"not the zones CSV: {error}. {_ADVICE}") from None
    if not rows:
        raise ZonesError(f"the zones CSV has no rows. {_ADVICE}")
    zones = {zone.zone_id: zone for zone in (*WITHOUT_OUTLINE, *_distinct(rows))}
    return [zones[zone_id] for zone_id in sorted(zones)]


_ADVICE = "Check what TAXI_ZONES_URL points to, and materialize again."


@dataclass(frozen=True)
class _Row:
    """A row of the CSV: the line where it ends, its OBJECTID (None if there is no such column), and its zone by LocationID."""

    line: int
    object_id: str | None
    zone: Zone


def _zone(row: dict[str, str | None], line: int) -> Zone:
    text = {name: (row[name.lower()] or "").strip() for name in COLUMNS}
    number = _NUMBER.fullmatch(text["LocationID"])
    if number is None:
        raise ZonesError(
            f"line {line} of the zones CSV has the LocationID {text['LocationID']!r}, not a number. {_ADVICE}"
        )
    zone_id = int(number[1])
    if not text["the_geom"] and zone_id in {zone.zone_id for zone in WITHOUT_OUTLINE}:
        return Zone(zone_id, text["zone"], text["borough"], None)
    geometry = _multipolygon(text["the_geom"])
    if geometry is None:
        found = repr(text["the_geom"][:40]) if text["the_geom"] else "nothing"
        raise ZonesError(
            f"line {line} of the zones CSV, zone {zone_id} ({text['zone']}), has no multipolygon in the_geom but {found}. It "
            f"has to be WKT, in degrees. {_ADVICE}"
        )
    return Zone(zone_id, text["zone"], text["borough"], geometry)


def _multipolygon(text: str) -> str | None:
    """The WKT `text`, which may be spelled as PostGIS or GeoPandas do, as the published file has it; None if it is none."""
    found = _WKT.fullmatch(text)
    if found is None or text.count("(") != text.count(")"):
        return None
    is_multiple = found["multi"] is not None
    # The TLC's shapefile is in feet: its numbers are about a million.
    is_in_degrees = abs(float(found["longitude"])) <= 180 and abs(float(found["latitude"])) <= 90
    if not is_in_degrees or found["open"].count("(") != (3 if is_multiple else 2):
        return None
    return _START + (found["rings"] if is_multiple else f"({found['rings']})")


def _distinct(rows: Sequence[_Row]) -> list[Zone]:
    """The zones of `rows`, each with an id of its own."""
    times = Counter(row.zone.zone_id for row in rows)
    repeated = [zone_id for zone_id, count in times.items() if count > 1]
    if not repeated:
        return [row.zone for row in rows]
    why = f"the zones CSV repeats LocationID {describe_ids(repeated)}"
    lines: dict[int, int] = {}
    for row in rows:
        object_id = _object_id(row, why)
        if object_id in lines:
            raise ZonesError(f"{why}, and OBJECTID {object_id} in lines {lines[object_id]} and {row.line}. {_ADVICE}")
        lines[object_id] = row.line
    # Zones with a row each may be a selection. These are the published ones, so what is missing has been lost.
    if missing := set(PUBLISHED_IDS).difference(lines):
        raise ZonesError(
            f"{why}, as the published one does, but has no row for OBJECTID {describe_ids(missing)}. {_ADVICE}"
        )
    return [replace(row.zone, zone_id=object_id) for object_id, row in zip(lines, rows, strict=True)]


def _object_id(row: _Row, why: str) -> int:
    """The zone's id of a row: OBJECTID, if it equals LocationID or is one of those that are known to differ."""
    text = (row.object_id or "").strip()
    number = _NUMBER.fullmatch(text)
    object_id = int(number[1]) if number else _id_by_position(row.zone) if row.object_id is None else None
    location_id = row.zone.zone_id
    if object_id is None or location_id not in (object_id, MISNUMBERED.get(object_id)):
        found = "no OBJECTID" if row.object_id is None else f"the OBJECTID {text!r}"
        raise ZonesError(
            f"{why}, and line {row.line} has {found} with LocationID {location_id}. Rows can be told apart only if OBJECTID is "
            f"the zone's id: as LocationID, or 57 for 56, 104 and 105 for 103. {_ADVICE}"
        )
    return object_id


def _id_by_position(zone: Zone) -> int | None:
    """The id of a row without OBJECTID: its LocationID, or where the published file repeats that, by its outline."""
    if zone.zone_id not in MISNUMBERED.values() or zone.geometry is None:
        return zone.zone_id
    try:
        points = [point for polygon in multipolygon_coordinates(zone.geometry) for ring in polygon for point in ring]
        centre = [(min(degrees) + max(degrees)) / 2 for degrees in zip(*points, strict=True)]
    except (ValueError, TypeError):
        return None
    return next((zone_id for zone_id, near in CENTRES.items() if math.dist(centre, near) < CENTRE_TOLERANCE), None)


def describe_ids(ids: Collection[int]) -> str:
    """``57, 104, 105``: in order, and of many the first five."""
    first = ", ".join(map(str, sorted(ids)[:5])) or "none"
    return f"{first} and {len(ids) - 5} more" if len(ids) > 5 else first


def missing_ids(zones: Sequence[Zone]) -> set[int]:
    """The ids from 1 to 265, which trips may have, of which there is none among `zones`."""
    return {*PUBLISHED_IDS, *(zone.zone_id for zone in WITHOUT_OUTLINE)} - {zone.zone_id for zone in zones}


def fingerprint(zones: Sequence[Zone]) -> str:
    """SHA-256, in hexadecimal digits, of the ids and outlines of `zones`: the same if positions have the same zones."""
    outlines = [(zone.zone_id, zone.geometry) for zone in zones if zone.geometry is not None]
    return hashlib.sha256(json.dumps(sorted(outlines)).encode()).hexdigest()


def multipolygon_coordinates(geometry: str) -> list[Any]:
    """The coordinates of a zone's `geometry`, a WKT multipolygon, as in GeoJSON: polygons of rings of points."""
    points = re.sub(r"([-+.\deE]+)\s+([-+.\deE]+)", r"[\1,\2]", geometry.removeprefix(_START))
    polygons: list[Any] = json.loads(points.replace("(", "[").replace(")", "]"))
    return polygons
