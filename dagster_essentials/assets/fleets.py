"""The TLC's other fleets, partitioned in two dimensions: by fleet and by month. Registered if TAXI_FLEETS names one.

As in `trips.py`: the assets, and the statements that load a month of a fleet.
"""

from pathlib import Path
from typing import Any

import dagster as dg
from dagster_duckdb import DuckDBResource

from dagster_essentials import settings
from dagster_essentials.assets import constants
from dagster_essentials.assets.trips import taxi_trips
from dagster_essentials.datasets.fleets import FLEETS
from dagster_essentials.datasets.views import create_all_trip_details, create_all_trips
from dagster_essentials.ingestion.month_files import MonthFile, download_months
from dagster_essentials.orchestration.checks import check_specs
from dagster_essentials.orchestration.database import open_tables
from dagster_essentials.orchestration.events import AssetEvents
from dagster_essentials.orchestration.failures import fail_with_message
from dagster_essentials.orchestration.metadata import columns_metadata, file_schema, png_metadata, table_schema
from dagster_essentials.orchestration.month_run import LoadConfig, MonthRun
from dagster_essentials.partitions import fleet_month_partition
from dagster_essentials.reports import fleets
from dagster_essentials.warehouse.load import Replacement, replace_month
from dagster_essentials.warehouse.month_versions import code_version

REPLACE_MONTH = Replacement(
    delete="DELETE FROM fleet_trips WHERE fleet = $fleet AND partition_date = $month",
    insert="INSERT INTO fleet_trips BY NAME SELECT *, $fleet AS fleet, $month AS partition_date FROM month_file",
    views=[create_all_trips, create_all_trip_details],
)


def month_file(key: str) -> MonthFile:
    """The file of the partition `key`, such as ``green|2023-01-01``: its address at the source, and its path here."""
    fleet, month = key[:-3].split("|")
    return MonthFile(
        FLEETS[fleet],
        month,
        url=settings.SETTINGS.month_url(month, fleet),
        path=Path(constants.FLEET_TRIPS_TEMPLATE_FILE_PATH.format(fleet, month)),
        files=settings.SETTINGS.files,
    )


@dg.asset(
    partitions_def=fleet_month_partition,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="fleets",
    kinds={"parquet"},
    description="A month of trips of green taxis (green), for-hire vehicles (fhv) or high-volume for-hire vehicles (fhvhv: "
    "Uber, Lyft and others), as the TLC publishes it. Until 2019-01, the trips of Uber and Lyft are in fhv.",
    metadata=file_schema(*FLEETS.values()),
)
def fleet_trips_file(context: dg.AssetExecutionContext) -> AssetEvents:
    """Download the file of each month of each fleet, unless it exists already and is unchanged at the source."""
    run = MonthRun(context, month_file)
    for key, download in download_months({key: month_file(key) for key in run.keys}):
        with run.partition(key):
            run.downloaded(key, download.result())
    yield from run.finish("downloaded", downstream=fleet_trips)


@dg.asset(
    deps=[fleet_trips_file],
    code_version=code_version(*FLEETS.values()),
    partitions_def=fleet_month_partition,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="fleets",
    kinds={"duckdb", "table"},
    check_specs=check_specs("fleet_trips", *FLEETS.values()),
    description="The table fleet_trips: one row per trip of green, fhv and fhvhv, no trip dropped. Columns that a fleet does "
    "not have are null: fhv has neither money nor distance, and before mid-2017 its drop-offs are not real times. The view "
    "all_trips has these trips and those of the yellow taxis, with the columns that all fleets have in common.",
    metadata=table_schema(FLEETS["green"], settings.SETTINGS.database_name),
)
def fleet_trips(context: dg.AssetExecutionContext, config: LoadConfig, database: DuckDBResource) -> AssetEvents:
    """Replace each month of each fleet in `fleet_trips`: delete its rows and insert those of its file, in one transaction."""
    run = MonthRun(context, month_file)
    for key in run.pending(upstream=fleet_trips_file):
        with run.partition(key), run.tables(database) as tables:
            month = replace_month(tables, REPLACE_MONTH, month_file(key), force=config.force)
            run.loaded(key, month, upstream=fleet_trips_file)
    yield from run.checked(database, *FLEETS.values())
    yield from run.finish("loaded")


@dg.asset(
    deps=[taxi_trips, fleet_trips],
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="fleets",
    kinds={"duckdb", "table", "csv", "matplotlib"},
    description="The trips of each fleet by month: a table, a CSV and a stacked plot. Uber and Lyft moved from fhv to fhvhv "
    "in 2019-02, when fhv fell from 23 to 2 million trips: the two belong together.",
    metadata={
        "dagster/table_name": f"{settings.SETTINGS.database_name}.main.trips_by_fleet",
        "dagster/column_schema": columns_metadata(*fleets.TRIPS_BY_FLEET.columns),
    },
)
def trips_by_fleet(database: DuckDBResource) -> dg.MaterializeResult[Any]:
    """Count the trips of all loaded months by fleet, replace the table and its CSV, and plot it."""
    with fail_with_message(), open_tables(database) as tables, tables.exclusive("trips_by_fleet"):
        report = fleets.replace_trips_by_fleet(
            tables,
            settings.SETTINGS.fleets,
            Path(constants.TRIPS_BY_FLEET_FILE_PATH),
            Path(constants.TRIPS_BY_FLEET_PLOT_FILE_PATH),
            settings.SETTINGS.files,
        )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(report.months),
            "num_trips": sum(month.num_trips for month in report.months),
            "plot": png_metadata(report.plot),
            "path": dg.MetadataValue.path(settings.SETTINGS.files.location(constants.TRIPS_BY_FLEET_FILE_PATH)),
            "incomplete_months": ", ".join(report.incomplete) or "none",
        }
    )
