"""The one place where everything is registered: the lesson, and what is optional beside it."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg

OWN_DATASETS: tuple[str, ...] = ()
"""The modules of datasets of one's own: docs/your-own-dataset.md."""

OWNER = "team:nyc-taxi"
"""Shown by the UI with each asset: a team, or an e-mail address."""

# Backfill policies and a job's partitions_def warn at every start that they may change. The release is pinned, and
# test_dagster_facts.py shows what has changed when it is raised.
BETA = (dg.BetaWarning, dg.PreviewWarning, DeprecationWarning)

with warnings.catch_warnings():
    for category in BETA:
        warnings.simplefilter("ignore", category)
    from dagster_essentials import jobs, schedules, sensors, settings
    from dagster_essentials.assets import fleets, metrics, report, requests, trips
    from dagster_essentials.operations.definitions import lake_definitions, operations_definitions
    from dagster_essentials.operations.instance import warn_of_another_instance
    from dagster_essentials.orchestration.console import print_failures_once
    from dagster_essentials.orchestration.monthly_table import import_dataset
    from dagster_essentials.resources import database_resource


def with_attributes(assets: Iterable[Any]) -> Sequence[Any]:
    """The `assets` with their owner, the publisher of their data, and links to their code."""
    return dg.with_source_code_references(
        dg.map_asset_specs(lambda spec: spec.merge_attributes(owners=[OWNER], tags={"publisher": "tlc"}), assets)
    )


def lesson() -> dg.Definitions:
    """The assets, jobs, schedules, sensor and resource of the course."""
    return dg.Definitions(
        assets=with_attributes(dg.load_assets_from_modules([trips, metrics, requests])),
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


def other_fleets() -> dg.Definitions:
    """The other fleets of the TLC. Beside them, "Materialize all" in the UI has no choice of months any more."""
    return dg.Definitions(
        assets=with_attributes([fleets.fleet_trips_file, fleets.fleet_trips, fleets.trips_by_fleet]),
        jobs=[jobs.fleet_update_job],
        schedules=[schedules.fleet_update_schedule, schedules.fleet_corrections_schedule],
    )


def reports() -> dg.Definitions:
    """The page to send to somebody, which the lesson does not have."""
    return dg.Definitions(
        assets=with_attributes([report.report]), jobs=[jobs.report_job], schedules=[schedules.report_schedule]
    )


def build_definitions() -> dg.Definitions:
    """The lesson, what an unattended installation needs, and what the settings and `OWN_DATASETS` ask for."""
    tables, parts = [jobs.TRIPS], [lesson()]
    if settings.SETTINGS.fleets:
        tables.append(jobs.FLEET_TRIPS)
        parts.append(other_fleets())
    if settings.SETTINGS.reports:
        parts.append(reports())
    for module in OWN_DATASETS:
        table, definitions = import_dataset(module)
        tables.append(table)
        parts.append(definitions)
    if settings.SETTINGS.lake:
        parts.append(lake_definitions())
    return dg.Definitions.merge(*parts, operations_definitions(tables))


print_failures_once()

with warnings.catch_warnings():
    for category in BETA:
        warnings.simplefilter("ignore", category)
    defs = build_definitions()

warn_of_another_instance()
