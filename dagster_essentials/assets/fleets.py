"""The TLC's other fleets, partitioned in two dimensions: by fleet and by month.

As in `trips.py`, only the assets and their metadata: a run does the same for a month of a fleet as for one of yellow trips.
"""

from pathlib import Path
from typing import Any

import dagster as dg
from dagster_duckdb import DuckDBResource

from dagster_essentials import settings
from dagster_essentials.assets import constants
from dagster_essentials.assets.trips import taxi_trips
from dagster_essentials.datasets.fleets import FLEET_COLUMNS, FLEETS
from dagster_essentials.ingestion.object_files import location
from dagster_essentials.orchestration.checks import check_specs
from dagster_essentials.orchestration.events import AssetEvents
from dagster_essentials.orchestration.failures import fail_with_message
from dagster_essentials.orchestration.metadata import png_metadata, table_name, table_schema
from dagster_essentials.orchestration.month_run import LoadConfig, download_partitions, load_partitions
from dagster_essentials.partitions import fleet_month_partition
from dagster_essentials.reports import fleets
from dagster_essentials.warehouse.exclusive import exclusive
from dagster_essentials.warehouse.month_versions import code_version


@dg.asset(
    partitions_def=fleet_month_partition,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="fleets",
    kinds={"parquet"},
    description="A month of trips of green taxis (green), for-hire vehicles (fhv) or high-volume for-hire vehicles (fhvhv: "
    "Uber, Lyft and others), as the TLC publishes it. Until 2019-01, the trips of Uber and Lyft are in fhv.",
    metadata={
        "dagster/column_schema": table_schema(
            *{
                column.source: (column.source, column.type.lower(), column.description)
                for dataset in FLEETS.values()
                for column in dataset.columns
                if column.source
            }.values()
        )
    },
)
def fleet_trips_file(context: dg.AssetExecutionContext) -> AssetEvents:
    """Download the file of each month of each fleet, unless it exists already and is unchanged at the source."""
    yield from download_partitions(context, downstream=fleet_trips)


@dg.asset(
    deps=[fleet_trips_file],
    code_version=code_version(*FLEETS.values()),
    partitions_def=fleet_month_partition,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="fleets",
    kinds={"duckdb", "table"},
    check_specs=check_specs("fleet_trips", fleet_month_partition, *FLEETS.values()),
    description="The table fleet_trips: one row per trip of green, fhv and fhvhv, no trip dropped. Columns that a fleet does "
    "not have are null: fhv has neither money nor distance, and before mid-2017 its drop-offs are not real times. The view "
    "all_trips has these trips and those of the yellow taxis, with the columns that all fleets have in common.",
    metadata={
        "dagster/table_name": table_name("fleet_trips"),
        "dagster/column_schema": table_schema(
            *((column.name, column.type.lower(), column.description) for column in FLEET_COLUMNS)
        ),
    },
)
def fleet_trips(context: dg.AssetExecutionContext, config: LoadConfig, database: DuckDBResource) -> AssetEvents:
    """Replace each month of each fleet in `fleet_trips`: delete, insert and check in one transaction."""
    yield from load_partitions(context, database, upstream=fleet_trips_file, force=config.force)


@dg.asset(
    deps=[taxi_trips, fleet_trips],
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="fleets",
    kinds={"duckdb", "table", "csv", "matplotlib"},
    description="The trips of each fleet by month: a table, a CSV and a stacked plot. Uber and Lyft moved from fhv to fhvhv "
    "in 2019-02, when fhv fell from 23 to 2 million trips: the two belong together.",
    metadata={
        "dagster/table_name": table_name("trips_by_fleet"),
        "dagster/column_schema": table_schema(*fleets.COLUMNS),
    },
)
def trips_by_fleet(database: DuckDBResource) -> dg.MaterializeResult[Any]:
    """Count the trips of all loaded months by fleet, replace the table and its CSV, and plot it."""
    with fail_with_message(), database.get_connection() as connection, exclusive(connection, "trips_by_fleet"):
        report = fleets.replace_trips_by_fleet(
            connection,
            settings.SETTINGS.fleets,
            Path(constants.TRIPS_BY_FLEET_FILE_PATH),
            Path(constants.TRIPS_BY_FLEET_PLOT_FILE_PATH),
        )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(report.months),
            "num_trips": sum(month.num_trips for month in report.months),
            "plot": png_metadata(report.plot),
            "path": dg.MetadataValue.path(location(constants.TRIPS_BY_FLEET_FILE_PATH)),
            "incomplete_months": ", ".join(report.incomplete) or "none",
        }
    )
