"""The taxi zones: how the published CSV becomes one row per zone id.

The published file has 263 rows but 260 ids: 56 occurs twice and 103, with its three islands, three times. A join with
it would count the trips of 103 three times.
"""

import csv
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dagster_essentials.errors import PipelineError, ZonesError
from dagster_essentials.ingestion.download import download, redact_url
from dagster_essentials.ingestion.sidecar import DownloadedFile

COLUMNS = ("LocationID", "zone", "borough", "the_geom")
BOROUGHS = ("Bronx", "Brooklyn", "EWR", "Manhattan", "Queens", "Staten Island")
"""As in the published file; EWR is Newark Airport."""

_START, _END = "MULTIPOLYGON (", ")"


@dataclass(frozen=True)
class Zone:
    """A taxi zone; `geometry` is a WKT multipolygon in degrees of longitude and latitude (WGS 84)."""

    zone_id: int
    zone: str
    borough: str
    geometry: str


def download_zones(url: str, path: Path) -> tuple[DownloadedFile, bool]:
    """Download the zones CSV at `url` to `path`, unless it is unchanged there.

    Returns:
        What is known of the file, and whether it was transferred.

    Raises:
        PipelineError: it cannot be downloaded or written, or is not the zones CSV. An earlier file is unchanged.
    """
    try:
        return download(url, path, _parse, "Point TAXI_ZONES_URL to where it is, and materialize again.")
    except PipelineError as error:
        error.source = redact_url(url)
        raise


def read_zones(path: Path) -> list[Zone]:
    """Read the zones CSV at `path`: one zone per id, in the order of the ids.

    Rows with the same id become one zone with all their polygons, in the file's order.

    Raises:
        ZonesError: it is missing or not the zones CSV (an error page, for example), or a row lacks its id or geometry.
    """
    try:
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
    zones: dict[int, Zone] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                found = ", ".join(rows.fieldnames or ())[:80] or "nothing"
                raise ZonesError(
                    f"not the zones CSV: no column {', '.join(missing)}. It begins with {found!r}. {_ADVICE}"
                )
            for row in rows:
                zone = _zone(row, rows.line_num)
                first = zones.get(zone.zone_id)
                zones[zone.zone_id] = zone if first is None else _merge(first, zone)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ZonesError(f"not the zones CSV: {error}. {_ADVICE}") from None
    if not zones:
        raise ZonesError(f"the zones CSV has no rows. {_ADVICE}")
    return [zones[zone_id] for zone_id in sorted(zones)]


_ADVICE = "Check what TAXI_ZONES_URL points to, and materialize again."


def _zone(row: dict[str, str | None], line: int) -> Zone:
    text = {name: (row[name] or "").strip() for name in COLUMNS}
    if not text["LocationID"].isdecimal():
        raise ZonesError(
            f"line {line} of the zones CSV has the LocationID {text['LocationID']!r}, not a number. {_ADVICE}"
        )
    geometry = text["the_geom"]
    if not (geometry.startswith(_START + "((") and geometry.endswith("))" + _END)):
        found = repr(geometry[:40]) if geometry else "nothing"
        raise ZonesError(
            f"line {line} of the zones CSV, zone {text['LocationID']} ({text['zone']}), has no multipolygon in the_geom but "
            f"{found}. {_ADVICE}"
        )
    return Zone(int(text["LocationID"]), text["zone"], text["borough"], geometry)


def _merge(first: Zone, second: Zone) -> Zone:
    return replace(first, geometry=first.geometry.removesuffix(_END) + ", " + second.geometry.removeprefix(_START))


def multipolygon_coordinates(geometry: str) -> list[Any]:
    """The coordinates of a zone's `geometry`, a WKT multipolygon, as in GeoJSON: polygons of rings of points."""
    points = re.sub(r"([-+.\deE]+)\s+([-+.\deE]+)", r"[\1,\2]", geometry.removeprefix(_START.rstrip("(")))
    polygons: list[Any] = json.loads(points.replace("(", "[").replace(")", "]"))
    return polygons
