"""The taxi zones: how the published CSV becomes one zone an id.

The published file has 263 rows but 260 ids: 56 stands twice and 103, with its three islands, three times. A join on
that would count the trips of 103 three times.
"""

import csv
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

COLUMNS = ("LocationID", "zone", "borough", "the_geom")
BOROUGHS = ("Bronx", "Brooklyn", "EWR", "Manhattan", "Queens", "Staten Island")
"""What the published file calls them; EWR is Newark Airport."""

_START, _END = "MULTIPOLYGON (", ")"


class ZonesError(Exception):
    """The file is not the zones CSV, or a row of it cannot be used. The message says which, and what to do."""


@dataclass(frozen=True)
class Zone:
    """A taxi zone; `geometry` is a WKT multipolygon in degrees of longitude and latitude (WGS 84)."""

    zone_id: int
    zone: str
    borough: str
    geometry: str


def read_zones(path: Path) -> list[Zone]:
    """Read the zones CSV at `path`: one zone an id, in the order of the ids.

    Rows with the same id become one zone with the polygons of all, in the file's order.

    Raises:
        ZonesError: it is something else (an error page, for example), or a row lacks its id or its geometry.
    """
    # The outline of a zone has up to 300,000 characters; the csv module allows 131,072 unless told otherwise.
    csv.field_size_limit(1 << 24)
    zones: dict[int, Zone] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            lacking = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if lacking:
                found = ", ".join(rows.fieldnames or ())[:80] or "nothing"
                raise ZonesError(
                    f"not the zones CSV: no column {', '.join(lacking)}. It begins with {found!r}. {_ADVICE}"
                )
            for row in rows:
                zone = _zone(row, rows.line_num)
                first = zones.get(zone.zone_id)
                zones[zone.zone_id] = zone if first is None else _merged(first, zone)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ZonesError(f"not the zones CSV: {error}. {_ADVICE}") from error
    if not zones:
        raise ZonesError(f"the zones CSV has no rows. {_ADVICE}")
    return [zones[zone_id] for zone_id in sorted(zones)]


_ADVICE = "Look what TAXI_ZONES_URL points to, and materialize again."


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


def _merged(first: Zone, second: Zone) -> Zone:
    return replace(first, geometry=first.geometry.removesuffix(_END) + ", " + second.geometry.removeprefix(_START))


def coordinates(geometry: str) -> list[Any]:
    """The coordinates of a zone's `geometry`, a WKT multipolygon, as GeoJSON has them: polygons of rings of points."""
    points = re.sub(r"([-+.\deE]+)\s+([-+.\deE]+)", r"[\1,\2]", geometry.removeprefix(_START.rstrip("(")))
    polygons: list[Any] = json.loads(points.replace("(", "[").replace(")", "]"))
    return polygons
