"""The one place where everything is registered."""

import warnings

import dagster as dg

with warnings.catch_warnings():
    # Backfill policies, partitioned checks and a job's partitions_def warn at every start that they may change. The
    # release is pinned, and test_dagster_facts.py shows what has changed when it is raised.
    for category in (dg.BetaWarning, dg.PreviewWarning, DeprecationWarning):
        warnings.simplefilter("ignore", category)
    from dagster_essentials import settings
    from dagster_essentials.assets import fleets, metrics, requests, trips
    from dagster_essentials.fleet_schedules import fleet_corrections_schedule, fleet_update_schedule
    from dagster_essentials.jobs import adhoc_request_job, fleet_update_job, trip_update_job, weekly_update_job
    from dagster_essentials.operations.lake_maintenance import lake_maintenance_job
    from dagster_essentials.operations.reconcile import reconcile_job
    from dagster_essentials.resources import database_resource
    from dagster_essentials.schedules import (
        lake_maintenance_schedule,
        trip_corrections_schedule,
        trip_update_schedule,
        weekly_update_schedule,
    )
    from dagster_essentials.sensors import adhoc_request_sensor, late_month_alert_sensor, run_failure_alert_sensor

    # TAXI_FLEETS=none has the assets of the lesson only. Beside assets that are partitioned by fleet and month, "Materialize
    # all" in the UI has no choice of months any more: it backfills all partitions of all assets.
    of_fleets = bool(settings.SETTINGS.fleets)

    defs = dg.Definitions(
        assets=dg.with_source_code_references(
            dg.load_assets_from_modules([trips, metrics, requests, *([fleets] if of_fleets else [])])
        ),
        resources={"database": database_resource},
        jobs=[
            *(trip_update_job, weekly_update_job, adhoc_request_job, reconcile_job),
            *([fleet_update_job] if of_fleets else []),
            *([lake_maintenance_job] if settings.SETTINGS.lake else []),
        ],
        schedules=[
            *(trip_update_schedule, trip_corrections_schedule, weekly_update_schedule),
            *([fleet_update_schedule, fleet_corrections_schedule] if of_fleets else []),
            *([lake_maintenance_schedule] if settings.SETTINGS.lake else []),
        ],
        sensors=[adhoc_request_sensor, run_failure_alert_sensor, late_month_alert_sensor],
        # Six trivial steps take 0.3 s in one process and 11 s in one process each.
        executor=dg.in_process_executor,
    )
