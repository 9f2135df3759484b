"""Sample months of the other fleets: which there are, and from which month on.

The columns and values of a fleet's months are in the module of its name.
"""

from pathlib import Path

from dagster_essentials.sample.fhv import fhv_trips
from dagster_essentials.sample.fhvhv import fhvhv_trips
from dagster_essentials.sample.green import green_trips
from dagster_essentials.sample.rows import LAST_MONTH, write_rows

FIRST_FLEET_MONTHS = {"green": "2014-01", "fhv": "2015-01", "fhvhv": "2019-02"}
"""Each fleet's first published month, ``YYYY-MM``."""

_QUERIES = {"green": green_trips, "fhv": fhv_trips, "fhvhv": fhvhv_trips}


def write_fleet_month(folder: Path, fleet: str, month: str, rows: int) -> Path:
    """Write the month `month` (``YYYY-MM``) of the fleet with `rows` trips into `folder`; return its path.

    The fleets are those of `FIRST_FLEET_MONTHS`, and each has the months from there to 2026-12; ValueError for others.
    """
    if fleet not in FIRST_FLEET_MONTHS:
        raise ValueError(f"There are sample months of the fleets {', '.join(FIRST_FLEET_MONTHS)}; {fleet} is not one.")
    first = FIRST_FLEET_MONTHS[fleet]
    if not first <= month <= LAST_MONTH:
        raise ValueError(f"Sample months of {fleet} go from {first} to {LAST_MONTH}; {month} is not one of them.")
    return write_rows(folder / f"{fleet}_tripdata_{month}.parquet", _QUERIES[fleet](month, rows))
