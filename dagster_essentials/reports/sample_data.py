"""Recognizes generated months, so that no report of them passes for one of New York."""

import re
from collections.abc import Iterable

from dagster_essentials.warehouse.catalog import columns_of
from dagster_essentials.warehouse.tables import Tables


def is_sample(zones: Iterable[str]) -> bool:
    """True if the names of `zones` are those of `dagster_essentials.sample`, such as Zone 17; the published ones are places."""
    names = list(zones)
    return bool(names) and all(re.fullmatch(r"Zone \d+", name) for name in names)


def has_sample(tables: Tables) -> bool:
    """True if the table `zones` is the generated one. A database without zones is not known to be one."""
    if not {"zone_id", "zone"} <= columns_of(tables, "zones").keys():
        return False
    return is_sample(name for (name,) in tables.execute("SELECT zone FROM zones WHERE zone_id < 264").fetchall())
