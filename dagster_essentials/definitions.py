"""The one place where everything is registered."""

import dagster as dg

from dagster_essentials.assets import trips
from dagster_essentials.jobs import trip_update_job
from dagster_essentials.resources import database_resource
from dagster_essentials.schedules import trip_update_schedule

defs = dg.Definitions(
    assets=dg.load_assets_from_modules([trips]),
    resources={"database": database_resource},
    jobs=[trip_update_job],
    schedules=[trip_update_schedule],
    # Six trivial steps take 0.3 s in one process and 11 s in one process each.
    executor=dg.in_process_executor,
)
