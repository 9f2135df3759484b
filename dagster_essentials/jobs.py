"""The jobs: which assets a run materializes."""

import dagster as dg

from dagster_essentials import settings
from dagster_essentials.assets import fleets, trips
from dagster_essentials.datasets.fleets import FLEETS
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.orchestration.monthly_table import MonthlyTable
from dagster_essentials.partitions import fleet_month_partition, monthly_partition, weekly_partition

trip_update_job = dg.define_asset_job(
    "trip_update_job",
    # All assets of the lesson less trips_by_week, whose partitions are weeks, and adhoc_request.
    selection=dg.AssetSelection.assets(
        *("taxi_trips_file", "taxi_trips", "taxi_zones_file", "taxi_zones"),
        *(["manhattan", "manhattan_stats"], "manhattan_map"),
    ),
    # Deprecated, but without it the partitions_def of this object is None.
    partitions_def=monthly_partition,
    description="Loads months, from the TLC's files to the table, and updates the zones and the map of Manhattan.",
)

weekly_update_job = dg.define_asset_job(
    "weekly_update_job",
    selection=dg.AssetSelection.assets("trips_by_week"),
    partitions_def=weekly_partition,
    description="Aggregates the trips of weeks.",
)

adhoc_request_job = dg.define_asset_job(
    "adhoc_request_job",
    selection=dg.AssetSelection.assets("adhoc_request"),
    description="Makes the plot that a request asks for.",
)

fleet_update_job = dg.define_asset_job(
    "fleet_update_job",
    selection=dg.AssetSelection.assets("fleet_trips_file", "fleet_trips", "trips_by_fleet"),
    partitions_def=fleet_month_partition,
    description="Loads months of the other fleets, from the TLC's files to the table, and counts the trips of all fleets by "
    "month.",
)

report_job = dg.define_asset_job(
    "report_job",
    selection=dg.AssetSelection.assets("report"),
    description="Writes the page about everything that is loaded.",
)

TRIPS = MonthlyTable(
    datasets=[YELLOW],
    files=trips.taxi_trips_file,
    rows=trips.taxi_trips,
    job=trip_update_job,
    statements=trips.REPLACE_MONTH,
    month_file=trips.month_file,
    months=monthly_partition,
    inputs=trips.ZONES,
)

FLEET_TRIPS = MonthlyTable(
    datasets=[FLEETS[fleet] for fleet in settings.SETTINGS.fleets or FLEETS],
    files=fleets.fleet_trips_file,
    rows=fleets.fleet_trips,
    job=fleet_update_job,
    statements=fleets.REPLACE_MONTH,
    month_file=fleets.month_file,
    months=monthly_partition,
    partition_key=lambda dataset, month: dg.MultiPartitionKey({"fleet": dataset.name, "month": month}),
)
