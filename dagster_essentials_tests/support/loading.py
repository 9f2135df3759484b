"""Loading a month's file into the tables, as the assets do it, without Dagster."""

from pathlib import Path

import duckdb

from dagster_essentials.assets import fleets, trips
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.datasets.zones_function import ZoneOutlines
from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.ingestion.month_files import MonthFile
from dagster_essentials.warehouse.load import LoadedMonth, replace_month
from dagster_essentials.warehouse.tables import Tables
from dagster_essentials_tests.support.project import DISK


def month_file(
    path: Path, month: str = "2023-01", zones: Path | None = None, dataset: Dataset = YELLOW, url: str = ""
) -> MonthFile:
    """The file of `month` (``YYYY-MM``) at `path`; positions become zones of the CSV at `zones`."""
    reference = (lambda: ZoneOutlines.read(zones, DISK)) if zones is not None else None
    return MonthFile(dataset, month, url, path, DISK, reference)


def load_month(
    tables: Tables | duckdb.DuckDBPyConnection,
    month: str,
    path: Path,
    zones: Path | None = None,
    force: bool = False,
    dataset: Dataset = YELLOW,
) -> LoadedMonth:
    """Load the file of `month` (``YYYY-MM``) at `path` into `tables`, or into the database of a plain connection."""
    statements = trips.REPLACE_MONTH if dataset is YELLOW else fleets.REPLACE_MONTH
    file = month_file(path, month, zones, dataset)
    tables = tables if isinstance(tables, Tables) else Tables(tables)
    # As with a connection of its own, because a test may have been somebody else meanwhile.
    tables.prepared.clear()
    return replace_month(tables, statements, file, force=force)
