"""What is materialized together."""

import dagster as dg

from dagster_essentials.partitions import fleet_month_partition, monthly_partition, weekly_partition

trips_by_week = dg.AssetSelection.assets("trips_by_week")
adhoc_request = dg.AssetSelection.assets("adhoc_request")
fleets = dg.AssetSelection.groups("fleets")

trip_update_job = dg.define_asset_job(
    "trip_update_job",
    selection=dg.AssetSelection.all() - trips_by_week - adhoc_request - fleets,
    # Deprecated, but without it the partitions_def of this object is None.
    partitions_def=monthly_partition,
    description="Loads months, from the TLC's files to the table, and updates the zones and the map of Manhattan.",
)

weekly_update_job = dg.define_asset_job(
    "weekly_update_job",
    selection=trips_by_week,
    partitions_def=weekly_partition,
    description="Aggregates the trips of weeks.",
)

adhoc_request_job = dg.define_asset_job(
    "adhoc_request_job",
    selection=adhoc_request,
    description="Makes the plot that a request asks for.",
)

fleet_update_job = dg.define_asset_job(
    "fleet_update_job",
    selection=fleets,
    partitions_def=fleet_month_partition,
    description="Loads months of the other fleets, from the TLC's files to the table, and counts the trips of all fleets by "
    "month.",
)
