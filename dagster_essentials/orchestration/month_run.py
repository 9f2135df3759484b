"""What the assets of yellow trips and those of the other fleets do in a run: download months, load months."""

import time
from pathlib import Path

import dagster as dg
from dagster_duckdb import DuckDBResource
from pydantic import Field

from dagster_essentials import settings
from dagster_essentials.assets import constants
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.ingestion.trip_files import MonthFile, download_months
from dagster_essentials.orchestration.checks import evaluate_month, failed_checks
from dagster_essentials.orchestration.events import AssetEvents
from dagster_essentials.orchestration.month_metadata import file_metadata, month_metadata
from dagster_essentials.orchestration.partition_run import PartitionRun
from dagster_essentials.orchestration.records import UNCHANGED, recorded_version
from dagster_essentials.partitions import dataset_of, fleet_and_month
from dagster_essentials.warehouse.load import replace_month

# The zones of positions: with months before 2011 among the partitions, taxi_trips also depends on the zones CSV.
ZONES_OF_POSITIONS = [dg.AssetKey("taxi_zones_file")] if settings.SETTINGS.has_legacy_months else []


class LoadConfig(dg.Config):
    """How months that are loaded already are treated."""

    force: bool = Field(
        default=False, description="Load a month again even if it was loaded from the same file by the same mapping"
    )


def month_file(key: str) -> MonthFile:
    """The file of the partition `key`: where its source has it, and where it goes."""
    fleet, month = fleet_and_month(key)
    if fleet == YELLOW.name:
        path = constants.TAXI_TRIPS_TEMPLATE_FILE_PATH.format(month)
    else:
        path = constants.FLEET_TRIPS_TEMPLATE_FILE_PATH.format(fleet, month)
    return MonthFile(month, settings.SETTINGS.month_url(month, fleet), Path(path), dataset_of(key))


def download_partitions(context: dg.AssetExecutionContext, downstream: dg.AssetsDefinition) -> AssetEvents:
    """Download the file of each partition of the run, unless it exists already and is unchanged at the source.

    A month that failed must not keep the others from being loaded by `downstream` in the same run.
    """
    run = PartitionRun(context)
    months = {key: month_file(key) for key in run.keys}
    transferred = 0
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
                metadata=file_metadata(month, months[key].path),
            )
    yield from run.finish("downloaded", f"{transferred / 1e6:.1f} MB of it transferred", downstream=downstream)


def load_partitions(
    context: dg.AssetExecutionContext, database: DuckDBResource, upstream: dg.AssetsDefinition, force: bool
) -> AssetEvents:
    """Replace each partition of the run in its table: delete, insert and check in one transaction."""
    run = PartitionRun(context)
    unchanged = 0
    for key in run.pending(upstream=upstream):
        source = month_file(key)
        zones = ZONES_OF_POSITIONS if source.dataset is YELLOW else []
        started = time.monotonic()
        with run.partition(key, failed_checks), database.get_connection() as connection:
            waited = time.monotonic() - started
            month = replace_month(
                connection, source.month, source.path, Path(constants.TAXI_ZONES_FILE_PATH), force, source.dataset
            )
            seconds = time.monotonic() - started - waited
            # Not if a run was killed between its commit and its record, or lost its connection while it committed.
            is_recorded = month.version.data_version == recorded_version(context.instance, context.asset_key, key)
            checks = evaluate_month(month, source.dataset)
            unchanged += month.is_unchanged
            waited_note = f" after {waited:.1f} s of waiting for the database" if waited >= 0.1 else ""
            run.materialized(
                key,
                trips=month.version.num_trips,
                size=month.bytes,
                note=("unchanged" if month.is_unchanged else f"loaded in {seconds:.1f} s") + waited_note,
                data_version=month.version.data_version,
                inputs={upstream.key: month.version.sha256, **dict.fromkeys(zones)},
                checks=checks,
                metadata={
                    **month_metadata(month, checks),
                    UNCHANGED: month.is_unchanged and is_recorded,
                    "seconds": round(seconds, 3),
                    "seconds_waited": round(waited, 3),
                    "upstream": dg.MetadataValue.asset(upstream.key),
                },
            )
    yield from run.finish("loaded", f"{unchanged} of them unchanged" if unchanged else "")
