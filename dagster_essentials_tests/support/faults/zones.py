"""Faults of the zones CSV. The good one is `samples.ZONES_CSV`."""

from collections.abc import Sequence
from dataclasses import replace

from dagster_essentials_tests.support.faults.answers import LASTING, STATUSES, TRANSFERS
from dagster_essentials_tests.support.faults.fault import Fault, refused_file
from dagster_essentials_tests.support.faults.files import OTHER_FILES
from dagster_essentials_tests.support.faults.samples import MULTIPOLYGON

MATERIALIZE_AGAIN = ".*materialize again"
_BAD_GEOMETRY = r"line 4 of the zones CSV, zone 3 \(Allerton\), has no multipolygon in the_geom but "


def _same(faults: Sequence[Fault], name: str, message: str) -> Fault:
    """A fault that months have, too."""
    return replace(next(fault for fault in faults if fault.name == name), message=message)


ZONES_FAULTS = [
    _same(STATUSES, "403", "not published"),
    _same(STATUSES, "500, always", f"answered 500 {LASTING}"),
    _same(TRANSFERS, "reset halfway, always", f"connection failed {LASTING}"),
    _same(TRANSFERS, "closed halfway, always", f"bytes read.*{LASTING}"),
    _same(
        OTHER_FILES,
        "Cannot find view",
        "not the zones CSV: no column LocationID.*TAXI_ZONES_URL points to, and materialize again",
    ),
    _same(OTHER_FILES, "an HTML page", f"not the zones CSV.*<!DOCTYPE html>{MATERIALIZE_AGAIN}"),
    _same(OTHER_FILES, "empty", f"not the zones CSV{MATERIALIZE_AGAIN}"),
    _same(OTHER_FILES, "random bytes", f"not the zones CSV{MATERIALIZE_AGAIN}"),
    refused_file(
        "zones without rows",
        f"has no rows{MATERIALIZE_AGAIN}",
        lambda good, random: good.splitlines(keepends=True)[0],
    ),
    refused_file(
        "a zone without geometry",
        f"{_BAD_GEOMETRY}nothing{MATERIALIZE_AGAIN}",
        lambda good, random: good + b'3,0.1,,0.1,"Allerton",3,Bronx\n',
    ),
    refused_file(
        "half a geometry",
        f"{_BAD_GEOMETRY}'MULTI{MATERIALIZE_AGAIN}",
        lambda good, random: good + f'3,0.1,"{MULTIPOLYGON[:40]}",0.1,"Allerton",3,Bronx\n'.encode(),
    ),
    refused_file("zones cut off", f"line 3 of the zones CSV{MATERIALIZE_AGAIN}", lambda good, random: good[:-40]),
    refused_file(
        "an id that is no number",
        f"line 3 of the zones CSV has the LocationID 'two', not a number{MATERIALIZE_AGAIN}",
        lambda good, random: good.replace(b",2,Queens", b",two,Queens"),
    ),
    refused_file(
        "an id twice",
        rf"repeats LocationID 2, and line 4 has the OBJECTID '3' with LocationID 2\..*{MATERIALIZE_AGAIN}",
        lambda good, random: good + f'3,0.1,"{MULTIPOLYGON}",0.1,"Allerton",2,Bronx\n'.encode(),
    ),
    refused_file(
        "the repeated ids of the published zones, but not all zones",
        f"repeats LocationID 56, as the published one does, but has no row for OBJECTID 3, 4, .*{MATERIALIZE_AGAIN}",
        lambda good, random: (
            good + "".join(f'{n},0.1,"{MULTIPOLYGON}",0.1,Corona,56,Queens\n' for n in (56, 57)).encode()
        ),
    ),
]
