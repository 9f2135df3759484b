"""Trips and zones: the downloaded files, and the tables that are loaded from them.

The lesson's assets and their metadata. How a file is downloaded is decided in `ingestion/`, how a month is loaded and
checked in `warehouse/`, and what happens when a month fails in `partition_run.py`.
"""

import time
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_duckdb import DuckDBResource
from pydantic import Field

from dagster_essentials.assets import constants
from dagster_essentials.assets.checks import evaluate_month, failed_checks, trip_check_specs
from dagster_essentials.assets.failures import fail_with_message
from dagster_essentials.assets.month_metadata import file_metadata, month_metadata
from dagster_essentials.assets.table_metadata import column_lineage, table_name, table_schema
from dagster_essentials.datasets.yellow import COLUMNS, YELLOW
from dagster_essentials.ingestion.trip_files import MonthFile, download_months
from dagster_essentials.ingestion.zones import describe_ids, download_zones, missing_ids, read_zones
from dagster_essentials.partition_run import AssetEvents, PartitionRun
from dagster_essentials.partitions import monthly_partition
from dagster_essentials.settings import SETTINGS
from dagster_essentials.warehouse import zones_table
from dagster_essentials.warehouse.month_versions import code_version
from dagster_essentials.warehouse.trips_table import replace_month

SOURCE_COLUMNS = {column.name: column.source for column in COLUMNS if column.source is not None}

# The zones of positions: with months before 2011 among the partitions, taxi_trips also depends on the zones CSV.
ZONES_OF_POSITIONS = [dg.AssetKey("taxi_zones_file")] if SETTINGS.has_legacy_months else []


def _trips_path(month: str) -> Path:
    return Path(constants.TAXI_TRIPS_TEMPLATE_FILE_PATH.format(month))


@dg.asset(
    partitions_def=monthly_partition,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="raw_files",
    kinds={"parquet"},
    description="A month of yellow taxi trips, as the NYC Taxi & Limousine Commission publishes it.",
    metadata={
        "dagster/column_schema": table_schema(
            *((column.source, column.type.lower(), column.description) for column in COLUMNS if column.source)
        )
    },
)
def taxi_trips_file(context: dg.AssetExecutionContext) -> AssetEvents:
    """Download the file of each month, unless it exists already and is unchanged at the source."""
    run = PartitionRun(context)
    transferred = 0
    months = {
        key: MonthFile(key[:7], SETTINGS.month_url(key[:7]), _trips_path(key[:7])) for key in context.partition_keys
    }
    for key, result in download_months(months):
        with run.partition(key):
            month = result()
            transferred += month.bytes_transferred
            run.materialized(
                key,
                trips=month.rows,
                size=month.file.bytes,
                note=f"downloaded in {month.seconds:.1f} s" if month.transferred else "unchanged at the source",
                data_version=month.file.sha256,
                metadata=file_metadata(month, _trips_path(key[:7])),
            )
    # A month that failed must not keep the others from being loaded.
    yield from run.finish("downloaded", f"{transferred / 1e6:.1f} MB of it transferred", downstream=taxi_trips)


class LoadConfig(dg.Config):
    """How `taxi_trips` treats months that are loaded already."""

    force: bool = Field(
        default=False, description="Load a month again even if it was loaded from the same file by the same mapping"
    )


@dg.asset(
    deps=[taxi_trips_file, *ZONES_OF_POSITIONS],
    # Columns and rules: a month that was loaded by others is shown as out of date, and is loaded again.
    code_version=code_version(YELLOW),
    partitions_def=monthly_partition,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="ingested",
    kinds={"duckdb", "table"},
    check_specs=trip_check_specs("taxi_trips"),
    description="The table trips: one row per trip, all months, no trip dropped.",
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
    run = PartitionRun(context)
    unchanged = 0
    for key in run.pending(upstream=taxi_trips_file):
        started = time.monotonic()
        with run.partition(key, failed_checks), database.get_connection() as connection:
            waited = time.monotonic() - started
            month = replace_month(
                connection, key[:7], _trips_path(key[:7]), Path(constants.TAXI_ZONES_FILE_PATH), config.force
            )
            seconds = time.monotonic() - started - waited
            unchanged += month.is_unchanged
            waited_note = f" after {waited:.1f} s of waiting for the database" if waited >= 0.1 else ""
            run.materialized(
                key,
                trips=month.version.num_trips,
                size=month.bytes,
                note=("unchanged" if month.is_unchanged else f"loaded in {seconds:.1f} s") + waited_note,
                data_version=month.version.data_version,
                inputs={taxi_trips_file.key: month.version.sha256, **dict.fromkeys(ZONES_OF_POSITIONS)},
                checks=(checks := evaluate_month(month)),
                metadata={
                    **month_metadata(month, checks),
                    "seconds": round(seconds, 3),
                    "seconds_waited": round(waited, 3),
                    "upstream": dg.MetadataValue.asset(taxi_trips_file.key),
                },
            )
    yield from run.finish("loaded", f"{unchanged} of them unchanged" if unchanged else "")


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
            ("LocationID", "integer", "Number of the zone, but for OBJECTID 57, 104 and 105: there it is another's"),
            ("borough", "varchar", "Borough, or EWR for Newark Airport"),
        )
    },
)
def taxi_zones_file() -> dg.MaterializeResult[Any]:
    """Download the zones CSV, unless it exists already and is unchanged at the source."""
    with fail_with_message("taxi zones"):
        file, transferred = download_zones(SETTINGS.zones_url, Path(constants.TAXI_ZONES_FILE_PATH))
    return dg.MaterializeResult(
        data_version=dg.DataVersion(file.sha256),
        metadata={
            "dagster/uri": file.url,
            "path": dg.MetadataValue.path(constants.TAXI_ZONES_FILE_PATH),
            "bytes": file.bytes,
            "bytes_transferred": file.bytes if transferred else 0,
        },
    )


@dg.asset(
    deps=[taxi_zones_file],
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="ingested",
    kinds={"duckdb", "table"},
    description="The table zones: one row for each zone id, also for 264 (unknown) and 265 (outside of the city), so that a "
    "join with it neither loses nor multiplies trips.",
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
