"""What is materialized together."""

import dagster as dg

from dagster_essentials.partitions import monthly_partition

trip_update_job = dg.define_asset_job(
    "trip_update_job",
    selection=dg.AssetSelection.all(),
    # Deprecated, but without it the job has no partitions: Dagster's own warning says they are inferred, and they are
    # only when the job is resolved, too late for `dagster job backfill` and for this object's partitions_def.
    partitions_def=monthly_partition,
    description="A month from the TLC's file to the tables, with everything that is made of it.",
)
