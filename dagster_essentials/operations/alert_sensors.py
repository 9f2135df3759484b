"""The sensors that tell people who do not watch the UI: a run failed, a month is late, a check of a month does not pass.

`alerts.py` says what a message is and sends it, `failed_runs.py` what it says of a run; which months are late is decided in
`orchestration/due_partitions.py`.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from dagster_essentials import settings
from dagster_essentials.operations.alerts import NO_RECEIVER, Alert, deliver, list_briefly
from dagster_essentials.operations.failed_runs import failed_run_alert, is_tried_again
from dagster_essentials.orchestration.month_schedules import find_late_months
from dagster_essentials.orchestration.monthly_table import MonthlyTable
from dagster_essentials.orchestration.records import doubtful_months


def alert_sensors(tables: Sequence[MonthlyTable]) -> list[dg.SensorDefinition]:
    """The sensors for failed runs, and for late and doubtful months of the `tables`: on once a receiver is configured."""
    status = dg.DefaultSensorStatus.RUNNING if settings.SETTINGS.has_alerts else dg.DefaultSensorStatus.STOPPED

    @dg.run_failure_sensor(
        name="run_failure_alert_sensor",
        default_status=status,
        description="Sends a message about each run that failed and is not tried again by itself. Needs a receiver in the "
        "settings.",
    )
    def run_failure_alert_sensor(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        """One message for each failed run; what a receiver does not accept is a warning in the tick."""
        run_id = context.dagster_run.run_id
        if not settings.SETTINGS.has_alerts:
            return dg.SkipReason(NO_RECEIVER)
        if is_tried_again(context.instance, run_id):
            return dg.SkipReason(
                f"Dagster tries the run {run_id} again; if that fails too, there will be a message about it."
            )
        _send(context, failed_run_alert(context, tables, settings.SETTINGS.ui_url))
        return None

    @dg.sensor(
        name="late_month_alert_sensor",
        minimum_interval_seconds=24 * 60 * 60,
        default_status=status,
        description="Sends a message, once, about each month that its monthly schedule should have loaded by now. Needs a "
        "receiver in the settings.",
    )
    def late_month_alert_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """One message for each table whose months have become late; the cursor keeps what was reported, and when."""
        if not settings.SETTINGS.has_alerts:
            return dg.SensorResult(skip_reason=NO_RECEIVER)
        now = datetime.now(UTC)
        reported = _reported(context, tables)
        late = find_late_months(context.instance, tables, now, reported)
        if late is None:
            return dg.SensorResult(
                skip_reason="The monthly schedules are off, or have not ticked yet: no month can be late."
            )
        reasons = []
        still_late = [table.label(key) for table in tables for key in sorted(reported[table.rows.key.to_user_string()])]
        sent: list[str] = []
        for table in tables:
            name = table.rows.key.to_user_string()
            if (of_table := late.get(name)) and _send(context, _late_months_alert(table, of_table)):
                reported[name] |= dict.fromkeys(of_table, str(now.date()))
                sent.extend(map(table.label, of_table))
        if sent:
            reasons.append(f"Reported: {', '.join(sent)}.")
        if len(sent) < sum(map(len, late.values())):
            reasons.append("No receiver has accepted the message, see the log of this tick; it is sent again tomorrow.")
        if still_late and not any(late.values()):
            reasons.append(f"Reported and still not loaded: {', '.join(still_late)}.")
        return dg.SensorResult(skip_reason=" ".join(reasons) or "No month is late.", cursor=json.dumps(reported))

    @dg.sensor(
        name="quality_alert_sensor",
        minimum_interval_seconds=5 * 60,
        default_status=status,
        description="Sends a message about each loaded month that does not pass a check. Needs a receiver in the settings.",
    )
    def quality_alert_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """One message for the months of each table since the last tick, and one for each version of a month."""
        if not settings.SETTINGS.has_alerts:
            return dg.SensorResult(skip_reason=NO_RECEIVER)
        cursor = _stored(context.cursor)
        reasons = []
        for table in tables:
            name = table.rows.key.to_user_string()
            # The position of the last tick in the event log, and the versions that were reported.
            position, versions = cursor.get(name, (None, {}))
            months, now = doubtful_months(context.instance, table.rows.key, position)
            new = {month.partition: month for month in months if versions.get(month.partition) != month.data_version}
            if new and not _send(context, _quality_alert(table, {key: month.findings for key, month in new.items()})):
                reasons.append(
                    "No receiver has accepted the message, see the log of this tick; the next one sends it again."
                )
                continue
            cursor[name] = (now, {**versions, **{key: month.data_version for key, month in new.items()}})
            if new:
                reasons.append(f"Reported: {', '.join(map(table.label, new))}.")
        return dg.SensorResult(
            skip_reason=" ".join(reasons) or "No month was loaded that a check does not pass.",
            cursor=json.dumps(cursor),
        )

    return [run_failure_alert_sensor, late_month_alert_sensor, quality_alert_sensor]


def _reported(context: dg.SensorEvaluationContext, tables: Sequence[MonthlyTable]) -> dict[str, dict[str, str]]:
    """The partitions that were reported and are still not loaded, with the day, by the name of the table's asset."""
    stored = _stored(context.cursor)
    reported = {}
    for table in tables:
        name = table.rows.key.to_user_string()
        loaded = context.instance.get_materialized_partitions(table.rows.key)
        reported[name] = {
            key: day
            for key, day in _days(stored, name).items()
            if table.partitions.has_partition_key(key) and key not in loaded
        }
    return reported


def _stored(cursor: str | None) -> dict[str, Any]:
    """The cursor as a dict; empty if it cannot be read, because it was set by hand in the UI."""
    try:
        stored = json.loads(cursor or "{}")
    except ValueError:
        return {}
    return stored if isinstance(stored, dict) else {}


def _days(stored: Mapping[str, Any], table: str) -> Mapping[str, str]:
    of_table = stored.get(table, {})
    if not isinstance(of_table, dict):
        return {}
    # An earlier release stored the partitions of all tables side by side.
    return {**{key: day for key, day in stored.items() if isinstance(day, str)}, **of_table}


def _late_months_alert(table: MonthlyTable, late: Mapping[str, str]) -> Alert:
    """The message about the `late` partitions of one table."""
    reasons = {table.label(key): f"{table.label(key)}: {reason}" for key, reason in late.items()}
    return Alert(
        event="months_late",
        job=table.job.name,
        title=f"{list_briefly(list(reasons))} {'is' if len(reasons) == 1 else 'are'} late",
        details="\n".join(reasons.values()),
        url=f"{settings.SETTINGS.ui_url}/assets/{'/'.join(table.rows.key.path)}?view=partitions",
        months=list(reasons),
        reasons=reasons,
    )


def _quality_alert(table: MonthlyTable, findings: Mapping[str, str]) -> Alert:
    """The message about the months of one table that a check does not pass."""
    reasons = {table.label(key): f"{table.label(key)}: {text}" for key, text in findings.items()}
    return Alert(
        event="checks_not_passed",
        job=table.job.name,
        title=f"{list_briefly(list(reasons))}: loaded, and a check does not pass",
        details="\n".join(reasons.values()),
        url=f"{settings.SETTINGS.ui_url}/assets/{'/'.join(table.rows.key.path)}?view=checks",
        months=list(reasons),
        reasons=reasons,
    )


def _send(context: dg.SensorEvaluationContext | dg.RunStatusSensorContext, alert: Alert) -> bool:
    """Send `alert`; returns whether a receiver has accepted it."""
    problems = deliver(alert, settings.SETTINGS)
    for receiver, problem in problems.items():
        if problem:
            context.log.warning(f"{alert.title}: the message may not have reached the {receiver}: {problem}")
        else:
            context.log.info(f"{alert.title}: sent to the {receiver}.")
    return not all(problems.values())
