"""Yellow taxi trips and the taxi zones: the lesson's four assets, and the statements that load a month.

In the statements, `month_file` is the file of the month with the column names and types of `trips`, whatever they were called
that year (`datasets/yellow.py`). How a file is downloaded is decided in `ingestion/`, how statements are executed in
`warehouse/load.py`, and what a failed month does to the others in `orchestration/partition_run.py`.
"""

from pathlib import Path
from typing import Any

import dagster as dg
from dagster_duckdb import DuckDBResource

from dagster_essentials import settings
from dagster_essentials.assets import constants
from dagster_essentials.datasets import zones_table
from dagster_essentials.datasets.aggregates import replace_aggregates
from dagster_essentials.datasets.upgrade import name_the_dataset_of_versions
from dagster_essentials.datasets.views import create_all_trip_details, create_all_trips, create_trip_details
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.datasets.zones import describe_ids, download_zones, missing_ids, read_zones
from dagster_essentials.datasets.zones_function import ZoneOutlines
from dagster_essentials.ingestion.month_files import MonthFile, download_months
from dagster_essentials.orchestration.checks import check_specs
from dagster_essentials.orchestration.database import open_tables
from dagster_essentials.orchestration.events import AssetEvents
from dagster_essentials.orchestration.failures import fail_with_message
from dagster_essentials.orchestration.metadata import columns_metadata, file_schema, table_schema
from dagster_essentials.orchestration.month_run import LoadConfig, MonthRun
from dagster_essentials.partitions import monthly_partition
from dagster_essentials.warehouse.load import Replacement, replace_month
from dagster_essentials.warehouse.month_versions import code_version

# The table is created, or gets the columns of a newer release, before the first of them (warehouse/schema.py).
REPLACE_MONTH = Replacement(
    delete="DELETE FROM trips WHERE partition_date = $month",
    insert="INSERT INTO trips BY NAME SELECT *, $month AS partition_date FROM month_file",
    aggregates=[replace_aggregates],
    views=[create_trip_details, create_all_trips, create_all_trip_details],
    upgrade=[name_the_dataset_of_versions],
)

# With months before 2011 among the partitions, whose positions become zones, taxi_trips depends on the zones as well.
ZONES = [dg.AssetKey("taxi_zones_file")] if settings.SETTINGS.has_legacy_months else []


def month_file(key: str) -> MonthFile:
    """The file of the partition `key` (``YYYY-MM-DD``): its address at the source, and its path here."""
    month = key[:7]
    return MonthFile(
        YELLOW,
        month,
        url=settings.SETTINGS.month_url(month),
        path=Path(constants.TAXI_TRIPS_TEMPLATE_FILE_PATH.format(month)),
        files=settings.SETTINGS.files,
        reference=lambda: ZoneOutlines.read(Path(constants.TAXI_ZONES_FILE_PATH), settings.SETTINGS.files),
    )


@dg.asset(
    partitions_def=monthly_partition,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="raw_files",
    kinds={"parquet"},
    description="A month of yellow taxi trips, as published by the NYC Taxi & Limousine Commission (TLC).",
    metadata=file_schema(YELLOW),
)
def taxi_trips_file(context: dg.AssetExecutionContext) -> AssetEvents:
    """Download the file of each month, unless it exists already and is unchanged at the source."""
    run = MonthRun(context, month_file)
    for key, download in download_months({key: month_file(key) for key in run.keys}):
        with run.partition(key):
            run.downloaded(key, download.result())
    yield from run.finish("downloaded", downstream=taxi_trips)


@dg.asset(
    deps=[taxi_trips_file, *ZONES],
    # Columns and rules: after a change of one, the UI shows every month as out of date, and it is loaded again.
    code_version=code_version(YELLOW),
    partitions_def=monthly_partition,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="ingested",
    kinds={"duckdb", "table"},
    check_specs=check_specs("taxi_trips", YELLOW, has_texts=settings.SETTINGS.has_legacy_months),
    description="The table `trips`: one row per trip, for all months. No trip is dropped.",
    metadata=table_schema(YELLOW, settings.SETTINGS.database_name, taxi_trips_file),
)
def taxi_trips(context: dg.AssetExecutionContext, config: LoadConfig, database: DuckDBResource) -> AssetEvents:
    """Replace each month in `trips`: delete its rows and insert those of its file, in one transaction."""
    run = MonthRun(context, month_file)
    for key in run.pending(upstream=taxi_trips_file):
        with run.partition(key), run.tables(database) as tables:
            month = replace_month(tables, REPLACE_MONTH, month_file(key), force=config.force)
            run.loaded(key, month, upstream=taxi_trips_file, inputs=ZONES)
    yield from run.checked(database, YELLOW)
    yield from run.finish("loaded")


@dg.asset(
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="raw_files",
    kinds={"csv"},
    description="The taxi zones, with their boroughs and outlines, as published.",
    metadata={"dagster/column_schema": columns_metadata(*zones_table.FILE_COLUMNS)},
)
def taxi_zones_file() -> dg.MaterializeResult[Any]:
    """Download the zones CSV, unless it exists already and is unchanged at the source."""
    with fail_with_message("taxi zones"):
        file, transferred = download_zones(
            settings.SETTINGS.zones_url, Path(constants.TAXI_ZONES_FILE_PATH), settings.SETTINGS.files
        )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(file.sha256),
        metadata={
            "dagster/uri": file.url,
            "path": dg.MetadataValue.path(settings.SETTINGS.files.location(constants.TAXI_ZONES_FILE_PATH)),
            "bytes": file.bytes,
            "bytes_transferred": file.bytes if transferred else 0,
        },
    )


@dg.asset(
    deps=[taxi_zones_file],
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="ingested",
    kinds={"duckdb", "table"},
    description="The table `zones`: one row per zone id, including 264 (unknown) and 265 (outside the city), so that a join "
    "with it neither loses nor duplicates trips.",
    metadata={
        "dagster/table_name": f"{settings.SETTINGS.database_name}.main.zones",
        "dagster/column_schema": columns_metadata(*zones_table.ZONES.columns),
    },
)
def taxi_zones(database: DuckDBResource) -> dg.MaterializeResult[Any]:
    """Replace the table `zones` by the zones of the file, in one transaction."""
    with fail_with_message():
        zones = read_zones(Path(constants.TAXI_ZONES_FILE_PATH), settings.SETTINGS.files)
        with open_tables(database) as tables:
            zones_table.replace_zones(tables, zones)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(zones),
            # None for the published CSV; one with distinct ids may have fewer, and trips in the others join nothing.
            "ids_without_zone": describe_ids(missing_ids(zones)),
        }
    )
