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
    description="A month from the TLC's file to the tables, with the zones and the map of Manhattan.",
)

weekly_update_job = dg.define_asset_job(
    "weekly_update_job",
    selection=trips_by_week,
    partitions_def=weekly_partition,
    description="The aggregates of a week.",
)

adhoc_request_job = dg.define_asset_job(
    "adhoc_request_job",
    selection=adhoc_request,
    description="The picture that answers a request.",
)

fleet_update_job = dg.define_asset_job(
    "fleet_update_job",
    selection=fleets,
    partitions_def=fleet_month_partition,
    description="A month of another fleet from the TLC's file to the table, and the trips of all fleets by month.",
)
