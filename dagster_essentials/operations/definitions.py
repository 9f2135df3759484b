"""The definitions of an installation that runs unattended: the lesson's work without them."""

from collections.abc import Sequence

import dagster as dg

from dagster_essentials.operations.alert_sensors import alert_sensors
from dagster_essentials.operations.lake_maintenance import lake_maintenance_job, lake_maintenance_schedule
from dagster_essentials.operations.reconcile import build_reconcile_job
from dagster_essentials.orchestration.monthly_table import MonthlyTable, check_tables


def operations_definitions(tables: Sequence[MonthlyTable]) -> dg.Definitions:
    """The alerts and the reconciliation of the `tables`.

    Raises:
        ValueError: two tables share a table, a job or a dataset.
    """
    check_tables(tables)
    return dg.Definitions(jobs=[build_reconcile_job(tables)], sensors=alert_sensors(tables))


def lake_definitions() -> dg.Definitions:
    """The maintenance of a lake."""
    return dg.Definitions(jobs=[lake_maintenance_job], schedules=[lake_maintenance_schedule])
