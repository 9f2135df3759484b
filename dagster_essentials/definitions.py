"""The one place where everything is registered: the lesson, and what is optional beside it."""

import warnings

import dagster as dg

OWN_DATASETS: tuple[str, ...] = ()
"""The modules of datasets of one's own: docs/your-own-dataset.md."""

with warnings.catch_warnings():
    # Backfill policies and a job's partitions_def warn at every start that they may change. The release is pinned, and
    # test_dagster_facts.py shows what has changed when it is raised.
    for category in (dg.BetaWarning, dg.PreviewWarning, DeprecationWarning):
        warnings.simplefilter("ignore", category)
    from dagster_essentials import jobs, schedules, sensors, settings
    from dagster_essentials.assets import fleets, metrics, requests, trips
    from dagster_essentials.operations.definitions import lake_definitions, operations_definitions
    from dagster_essentials.orchestration.monthly_table import import_dataset
    from dagster_essentials.resources import database_resource

    lesson = dg.Definitions(
        assets=dg.with_source_code_references(dg.load_assets_from_modules([trips, metrics, requests])),
        jobs=[jobs.trip_update_job, jobs.weekly_update_job, jobs.adhoc_request_job],
        schedules=[
            schedules.trip_update_schedule,
            schedules.trip_corrections_schedule,
            schedules.weekly_update_schedule,
        ],
        sensors=[sensors.adhoc_request_sensor],
        resources={"database": database_resource},
        # Six trivial steps take 0.3 s in one process and 11 s in one process each.
        executor=dg.in_process_executor,
    )
    tables = [jobs.TRIPS]
    optional = []

    # Beside assets that are partitioned by fleet and month, "Materialize all" in the UI has no choice of months any more.
    if settings.SETTINGS.fleets:
        tables.append(jobs.FLEET_TRIPS)
        optional.append(
            dg.Definitions(
                assets=dg.with_source_code_references(
                    [fleets.fleet_trips_file, fleets.fleet_trips, fleets.trips_by_fleet]
                ),
                jobs=[jobs.fleet_update_job],
                schedules=[schedules.fleet_update_schedule, schedules.fleet_corrections_schedule],
            )
        )
    for module in OWN_DATASETS:
        table, of_module = import_dataset(module)
        tables.append(table)
        optional.append(of_module)
    if settings.SETTINGS.lake:
        optional.append(lake_definitions())

    defs = dg.Definitions.merge(lesson, operations_definitions(tables), *optional)
