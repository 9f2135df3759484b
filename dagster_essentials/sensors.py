"""When a request is answered: when its file is new or has changed. When people get a message: a run failed, a month is late.

Which files are requests is decided in `reports/request_files.py`; which months are late, in `due_partitions.py`; what the
messages say, in `failed_runs.py` and `alerts.py`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import dagster as dg

from dagster_essentials import settings
from dagster_essentials.assets.fleets import fleet_trips
from dagster_essentials.assets.requests import AdhocRequestConfig
from dagster_essentials.assets.trips import taxi_trips
from dagster_essentials.datasets.fleets import FLEETS
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.errors import PipelineError
from dagster_essentials.jobs import adhoc_request_job
from dagster_essentials.operations.alerts import NO_RECEIVER, Alert, deliver, list_briefly
from dagster_essentials.operations.failed_runs import failed_run_alert, is_tried_again
from dagster_essentials.orchestration.scheduled_months import find_late_months
from dagster_essentials.partitions import dataset_of, month_label
from dagster_essentials.reports.request_files import request_files
from dagster_essentials.reports.requests import RequestError

ALERTS_STATUS = dg.DefaultSensorStatus.RUNNING if settings.SETTINGS.has_alerts else dg.DefaultSensorStatus.STOPPED
"""Who sets where to send alerts wants them, without a switch in the UI."""


@dg.sensor(
    name="adhoc_request_sensor",
    job=adhoc_request_job,
    description="Answers the request of each JSON file in data/requests, when the file is new and when it has changed.",
)
def adhoc_request_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One run for each new or changed request; files that are not requests are named in the tick."""
    folder = settings.SETTINGS.data_dir / "requests"
    try:
        files = list(request_files(folder))
    except PipelineError as error:
        return dg.SensorResult(skip_reason=error.describe())
    except OSError as error:
        return dg.SensorResult(
            skip_reason=f"{folder} cannot be read ({error.strerror}). A request is a JSON file in it."
        )
    seen = _seen(context.cursor)
    run_requests, invalid = [], []
    for file in files:
        is_new = seen.get(file.name) != file.content
        if isinstance(file.request, RequestError):
            invalid.append(f"{file.name}: {file.request}")
            if is_new:
                context.log.warning(f"Not a request: {invalid[-1]}. Fix the file; it is read again when it changes.")
        elif is_new:
            run_requests.append(
                dg.RunRequest(
                    # With the time, so that a file that is changed and changed back is answered again; with the
                    # content, because the clock may be too coarse to distinguish two changes.
                    run_key=f"{file.name}:{file.changed}:{file.content[:16]}",
                    run_config=dg.RunConfig(ops={"adhoc_request": AdhocRequestConfig(**asdict(file.request))}),
                    tags={"taxi/request": file.name},
                )
            )
    reason = None
    if not run_requests:
        reason = "; ".join([f"No new request in {folder}", *(f"not a request: {text}" for text in invalid)]) + "."
    return dg.SensorResult(
        run_requests=run_requests,
        skip_reason=reason,
        cursor=json.dumps({file.name: file.content for file in files}),
    )


def _seen(cursor: str | None) -> Mapping[str, Any]:
    """What the last tick stored: hashes by file name, or days by partition. The course's sensor stored times: nothing."""
    try:
        seen = json.loads(cursor or "{}")
    except ValueError:  # Set by hand, in the UI.
        seen = {}
    return seen if isinstance(seen, dict) else {}


@dg.run_failure_sensor(
    name="run_failure_alert_sensor",
    default_status=ALERTS_STATUS,
    description="Sends a message about each run that failed and is not tried again by itself. Needs a receiver in the settings.",
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
    _send(context, failed_run_alert(context, settings.SETTINGS.ui_url))
    return None


@dg.sensor(
    name="late_month_alert_sensor",
    minimum_interval_seconds=24 * 60 * 60,
    default_status=ALERTS_STATUS,
    description="Sends a message, once, about each month of any fleet that its monthly schedule should have loaded by now. Needs "
    "a receiver in the settings.",
)
def late_month_alert_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One message for each job whose months have become late; the cursor keeps the partitions that were reported, and when."""
    if not settings.SETTINGS.has_alerts:
        return dg.SensorResult(skip_reason=NO_RECEIVER)
    now, instance = datetime.now(timezone.utc), context.instance
    loaded = {key for asset in (taxi_trips, fleet_trips) for key in instance.get_materialized_partitions(asset.key)}
    reported = {key: day for key, day in _seen(context.cursor).items() if key not in loaded}
    late = find_late_months(instance, [YELLOW, *(FLEETS[fleet] for fleet in settings.SETTINGS.fleets)], now, reported)
    if late is None:
        return dg.SensorResult(
            skip_reason="The monthly schedules are off, or have not ticked yet: no month can be late."
        )
    sent: list[str] = []
    for job in dict.fromkeys(dataset_of(key).job for key in late):
        of_job = {key: reason for key, reason in late.items() if dataset_of(key).job == job}
        if _send(context, _late_months_alert(of_job)):
            sent.extend(of_job)
    reasons = []
    if sent:
        reasons.append(f"Reported: {', '.join(map(month_label, sent))}.")
    if len(sent) < len(late):
        reasons.append("No receiver has accepted the message, see the log of this tick; it is sent again tomorrow.")
    if reported and not late:
        reasons.append(f"Reported and still not loaded: {', '.join(map(month_label, reported))}.")
    return dg.SensorResult(
        skip_reason=" ".join(reasons) or "No month is late.",
        cursor=json.dumps(reported | dict.fromkeys(sent, str(now.date()))),
    )


def _late_months_alert(late: Mapping[str, str]) -> Alert:
    """The message about the `late` partitions of one job."""
    reasons = {month_label(key): f"{month_label(key)}: {reason}" for key, reason in late.items()}
    dataset = dataset_of(next(iter(late)))
    return Alert(
        event="months_late",
        job=dataset.job,
        title=f"{list_briefly(list(reasons))} {'is' if len(reasons) == 1 else 'are'} late",
        details="\n".join(reasons.values()),
        url=f"{settings.SETTINGS.ui_url}/assets/{dataset.table_asset}?view=partitions",
        months=list(reasons),
        reasons=reasons,
    )


def _send(context: dg.SensorEvaluationContext | dg.RunStatusSensorContext, alert: Alert) -> bool:
    """Whether a receiver has accepted `alert`."""
    problems = deliver(alert, settings.SETTINGS)
    for receiver, problem in problems.items():
        if problem:
            context.log.warning(f"{alert.title}: the message may not have reached the {receiver}: {problem}")
        else:
            context.log.info(f"{alert.title}: sent to the {receiver}.")
    return not all(problems.values())
