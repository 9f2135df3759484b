"""Trips and zones: the downloaded files, and the tables that are loaded from them.

The lesson's assets and their metadata. What a run does for its months is in `month_runs.py`; how a file is downloaded is
decided in `ingestion/`, how a month is loaded in `warehouse/`, and what happens when a month fails in `partition_run.py`.
"""

from pathlib import Path
from typing import Any

import dagster as dg
from dagster_duckdb import DuckDBResource

from dagster_essentials import settings
from dagster_essentials.assets import constants
from dagster_essentials.datasets import zones_table
from dagster_essentials.datasets.yellow import COLUMNS, YELLOW
from dagster_essentials.datasets.zones import describe_ids, download_zones, missing_ids, read_zones
from dagster_essentials.ingestion.object_files import location
from dagster_essentials.orchestration.checks import check_specs
from dagster_essentials.orchestration.events import AssetEvents
from dagster_essentials.orchestration.failures import fail_with_message
from dagster_essentials.orchestration.metadata import column_lineage, table_name, table_schema
from dagster_essentials.orchestration.month_run import (
    ZONES_OF_POSITIONS,
    LoadConfig,
    download_partitions,
    load_partitions,
)
from dagster_essentials.partitions import monthly_partition
from dagster_essentials.warehouse.month_versions import code_version

SOURCE_COLUMNS = {column.name: column.source for column in COLUMNS if column.source is not None}


@dg.asset(
    partitions_def=monthly_partition,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="raw_files",
    kinds={"parquet"},
    description="A month of yellow taxi trips, as published by the NYC Taxi & Limousine Commission (TLC).",
    metadata={
        "dagster/column_schema": table_schema(
            *((column.source, column.type.lower(), column.description) for column in COLUMNS if column.source)
        )
    },
)
def taxi_trips_file(context: dg.AssetExecutionContext) -> AssetEvents:
    """Download the file of each month, unless it exists already and is unchanged at the source."""
    yield from download_partitions(context, downstream=taxi_trips)


@dg.asset(
    deps=[taxi_trips_file, *ZONES_OF_POSITIONS],
    # Columns and rules: a month that was loaded by others is shown as out of date, and is loaded again.
    code_version=code_version(YELLOW),
    partitions_def=monthly_partition,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="ingested",
    kinds={"duckdb", "table"},
    check_specs=check_specs("taxi_trips", monthly_partition, YELLOW),
    description="The table `trips`: one row per trip, for all months. No trip is dropped.",
    metadata={
        "dagster/table_name": table_name("trips"),
        "dagster/column_schema": table_schema(
            *((column.name, column.type.lower(), column.description) for column in COLUMNS)
        ),
        "dagster/column_lineage": dg.TableColumnLineage(column_lineage(taxi_trips_file, SOURCE_COLUMNS)),
    },
)
def taxi_trips(context: dg.AssetExecutionContext, config: LoadConfig, database: DuckDBResource) -> AssetEvents:
    """Replace each month in `trips`: delete, insert and check in one transaction."""
    yield from load_partitions(context, database, upstream=taxi_trips_file, force=config.force)


@dg.asset(
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="raw_files",
    kinds={"csv"},
    description="The taxi zones, with their boroughs and outlines, as published.",
    metadata={
        "dagster/column_schema": table_schema(
            ("OBJECTID", "integer", "Number of the zone, as trips have it"),
            ("Shape_Leng", "double", "Length of the outline, degrees"),
            ("the_geom", "varchar", "Outline: WKT multipolygon, degrees of longitude and latitude"),
            ("Shape_Area", "double", "Area, square degrees"),
            ("zone", "varchar", "Name of the zone"),
            ("LocationID", "integer", "Number of the zone; for OBJECTID 57, 104 and 105 that of another zone"),
            ("borough", "varchar", "Borough, or EWR for Newark Airport"),
        )
    },
)
def taxi_zones_file() -> dg.MaterializeResult[Any]:
    """Download the zones CSV, unless it exists already and is unchanged at the source."""
    with fail_with_message("taxi zones"):
        file, transferred = download_zones(settings.SETTINGS.zones_url, Path(constants.TAXI_ZONES_FILE_PATH))
    return dg.MaterializeResult(
        data_version=dg.DataVersion(file.sha256),
        metadata={
            "dagster/uri": file.url,
            "path": dg.MetadataValue.path(location(constants.TAXI_ZONES_FILE_PATH)),
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
        "dagster/table_name": table_name("zones"),
        "dagster/column_schema": table_schema(*zones_table.COLUMNS),
    },
)
def taxi_zones(database: DuckDBResource) -> dg.MaterializeResult[Any]:
    """Replace the table `zones` by the zones of the file, in one transaction."""
    with fail_with_message():
        zones = read_zones(Path(constants.TAXI_ZONES_FILE_PATH))
        with database.get_connection() as connection:
            zones_table.replace_zones(connection, zones)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(zones),
            # None for the published CSV; one with distinct ids may have fewer, and trips in the others join nothing.
            "ids_without_zone": describe_ids(missing_ids(zones)),
        }
    )
