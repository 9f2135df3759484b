"""What is materialized together."""

import dagster as dg

from dagster_essentials.partitions import monthly_partition

trip_update_job = dg.define_asset_job(
    "trip_update_job",
    selection=dg.AssetSelection.all(),
    # Deprecated, but without it the partitions_def of this object is None.
    partitions_def=monthly_partition,
    description="A month from the TLC's file to the tables, with everything that is made of it.",
)
