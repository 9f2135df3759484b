"""A run that failed: for which months or weeks, why, and whether Dagster tries it again."""

import time
from collections.abc import Collection, Sequence

import dagster as dg

from dagster_essentials.assets.metrics import trips_by_week
from dagster_essentials.jobs import weekly_update_job
from dagster_essentials.operations.alerts import Alert, list_briefly
from dagster_essentials.orchestration.monthly_table import MonthlyTable
from dagster_essentials.orchestration.partition_run import failed_partitions
from dagster_essentials.partitions import weekly_partition

RETRY_SECONDS = 15.0
"""Dagster tries a run again within five seconds after its failure, if at all."""


def is_tried_again(instance: dg.DagsterInstance, run_id: str) -> bool:
    """True if Dagster has started the failed run again by itself; waits until that is certain.

    That it intends to (`will_retry`) is not enough: it gives up for runs of `dagster job backfill`, and if there is no code
    server at that moment.
    """
    while (record := instance.get_run_record_by_id(run_id)) is not None:
        tags = record.dagster_run.tags
        if "dagster/auto_retry_run_id" in tags:
            return True
        # The tag is set after the failure has been recorded.
        will_retry = tags.get("dagster/will_retry", str(instance.run_retries_enabled).lower()) == "true"
        if not will_retry or not 0 <= time.time() - (record.end_time or 0) < RETRY_SECONDS:
            return False
        time.sleep(0.5)
    return False


def failed_run_alert(context: dg.RunFailureSensorContext, tables: Sequence[MonthlyTable], ui_url: str) -> Alert:
    """The message about the run of `context`, which may be about months of one of the `tables`."""
    run = context.dagster_run
    failed = failed_partitions(context.instance, run.run_id)
    steps = {str(event.step_key): _step_text(event) for event in context.get_step_failure_events()}
    explained = {asset.to_python_identifier() for asset in failed}
    by_key = {key: reason for reasons in failed.values() for key, reason in reasons.items()}
    table = next((table for table in tables if _is_about(run, table, failed)), None)
    is_weekly = table is None and (
        run.job_name == weekly_update_job.name or trips_by_week.key in (run.asset_selection or ())
    )
    partitions = table.partitions if table else weekly_partition if is_weekly else None
    keys = sorted(by_key) or _partition_keys(run, partitions)
    labels = {key: table.label(key) if table else f"week of {key}" if is_weekly else key for key in keys}
    reasons = {key if is_weekly else labels[key]: by_key[key] for key in sorted(by_key)}
    reasons |= {step: text for step, text in steps.items() if step not in explained}
    details = "\n".join(steps.values()) or _run_text(context)
    name = run.job_name
    if name.startswith("__"):  # Dagster's name for what is materialized without a job.
        name = list_briefly(sorted(key.to_user_string() for key in run.asset_selection or ())) or "Materialization"
    return Alert(
        event="run_failed",
        job=run.job_name,
        title=f"{name} failed" + (f": {list_briefly(list(labels.values()))}" if labels else ""),
        details=details,
        url=f"{ui_url}/runs/{run.run_id}",
        run_id=run.run_id,
        months=[] if is_weekly else list(labels.values()),
        weeks=keys if is_weekly else [],
        reasons=reasons or {run.job_name: details},
    )


def _is_about(run: dg.DagsterRun, table: MonthlyTable, failed: Collection[dg.AssetKey]) -> bool:
    assets = {table.files.key, table.rows.key}
    return bool(run.job_name == table.job.name or assets & set(failed) or assets & set(run.asset_selection or ()))


def _partition_keys(run: dg.DagsterRun, partitions: dg.PartitionsDefinition[str] | None) -> list[str]:
    """The partitions that `run` was for."""
    first = run.tags.get("dagster/partition") or run.tags.get("dagster/asset_partition_range_start")
    last = run.tags.get("dagster/partition") or run.tags.get("dagster/asset_partition_range_end")
    if first is None or last is None:
        return []
    if partitions is not None and partitions.has_partition_key(first) and partitions.has_partition_key(last):
        return list(partitions.get_partition_keys_in_range(dg.PartitionKeyRange(first, last)))
    # The settings have changed since.
    return sorted({first, last})


def _step_text(event: dg.DagsterEvent) -> str:
    """The reason of a step's failure: the text of its `dagster.Failure`, or of the innermost error if it was not expected."""
    data = event.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return f"{event.step_key}: {error.message.strip() if error is not None else event.message}"


def _run_text(context: dg.RunFailureSensorContext) -> str:
    """The reason of a failure outside of the steps: the process is gone, or did not start."""
    event = context.failure_event
    # A run that is found dead by Dagster's daemon has no data.
    error = getattr(event.event_specific_data, "error", None)
    return "\n".join(filter(None, [event.message, error.message.strip() if error is not None else None]))
