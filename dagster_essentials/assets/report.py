"""The page about everything that is loaded. Registered if TAXI_REPORTS names it; `reports/report.py` decides what is on it."""

from pathlib import Path
from typing import Any

import dagster as dg
from dagster_duckdb import DuckDBResource

from dagster_essentials import settings
from dagster_essentials.assets import constants
from dagster_essentials.assets.fleets import fleet_trips
from dagster_essentials.assets.trips import taxi_trips, taxi_zones
from dagster_essentials.orchestration.database import open_tables
from dagster_essentials.orchestration.failures import fail_with_message
from dagster_essentials.orchestration.metadata import columns_metadata
from dagster_essentials.reports.report import write_report
from dagster_essentials.warehouse.tables import COMMITS


@dg.asset(
    deps=[taxi_trips, taxi_zones, *([fleet_trips] if settings.SETTINGS.fleets else [])],
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="reports",
    kinds={"duckdb", "html"},
    description="One page to send to somebody, report.html: months and corrections, trips and dollars by month and week, a map, "
    "the other fleets, data quality. It has no scripts, and needs no network.",
    metadata={"dagster/column_schema": columns_metadata(("page", "html", "All of it: text, tables and pictures"))},
)
def report(database: DuckDBResource) -> dg.MaterializeResult[Any]:
    """Write the page from the tables as they are."""
    path = Path(constants.REPORT_FILE_PATH)
    with fail_with_message(), open_tables(database) as tables, tables.exclusive(COMMITS):
        page = write_report(tables, path, settings.SETTINGS.files)
    return dg.MaterializeResult(
        metadata={
            # A browser opens it from its address bar; it does not follow a link from the UI to this disk.
            "page": dg.MetadataValue.url(path.as_uri()),
            "path": dg.MetadataValue.path(settings.SETTINGS.files.location(path)),
            "bytes": len(page.encode()),
        }
    )
