"""The bookkeeping of a run over partitions: what the log says of each, which have failed and why, and how the run ends."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

from dagster_essentials.errors import DatabaseError, PipelineError
from dagster_essentials.orchestration.events import (
    AssetEvents,
    record_checks,
    record_materialization,
    suppress_final_materialization,
)
from dagster_essentials.orchestration.step_retries import retry_if_connection_lost
from dagster_essentials.partitions import month_label, weekly_partition

FAILED = "failed"
"""The metadata key of the observation that shows on a partition's page why it failed."""


class PartitionRun:
    """The bookkeeping of one asset's step over the partitions of its run, `keys`: which have ended, which failed, and why."""

    def __init__(self, context: dg.AssetExecutionContext):
        self._context = context
        self.keys = _partition_keys(context)
        self._unit = "week" if context.assets_def.partitions_def == weekly_partition else "month"
        self._began = time.monotonic()
        self._ended: list[str] = []
        self._reasons: dict[str, str] = {}
        self._trips = self._bytes = 0
        if not self.keys:
            raise dg.Failure(_why_no_partitions(" to ".join(_range(context))), allow_retries=False)

    def pending(self, upstream: dg.AssetsDefinition | None = None) -> Iterator[str]:
        """The partitions that have not ended. Those for which `upstream` failed in this run fail too."""
        if upstream is not None:
            failed_upstream = failures_in_run(self._context, upstream)
            for key in filter(failed_upstream.__contains__, self.keys):
                self._end(key, f" failed: {upstream.op.name} failed for this partition", failed_upstream[key])
        yield from (key for key in self.keys if key not in self._ended)

    @contextmanager
    def partition(
        self, key: str, failed_checks: Callable[[PipelineError], Sequence[dg.AssetCheckResult]] = lambda error: ()
    ) -> Iterator[None]:
        """Let an error of the pipeline in the block fail the partition `key`, and the run go on.

        An unusable database fails all that are pending: each would wait as long for the same error. After a lost connection,
        Dagster executes the step again. `failed_checks` returns the results of the checks that found the error.
        """
        try:
            yield
        except DatabaseError as error:
            self._fail_pending(error)
        except PipelineError as error:
            self.failed(key, error, failed_checks(error))

    @contextmanager
    def all_pending(self) -> Iterator[None]:
        """Let an error of the pipeline in the block fail all partitions that are pending."""
        try:
            yield
        except PipelineError as error:
            self._fail_pending(error)

    def materialized(
        self,
        key: str,
        *,
        trips: int,
        data_version: str,
        metadata: Mapping[str, Any],
        size: int = 0,
        note: str = "",
        inputs: Mapping[dg.AssetKey, str | None] | None = None,
        checks: Sequence[dg.AssetCheckResult] = (),
    ) -> None:
        """Log and record that `key` has been materialized, with so many `trips` from a file of `size` bytes.

        Call it while the database is held: otherwise an overlapping run could load another version and record that first,
        and what Dagster recorded last would not be what the table has.
        """
        self._trips += trips
        self._bytes += size
        self._end(key, f": {_figures(trips, size, note)}")
        record_materialization(
            self._context, self._context.assets_def, key, data_version, metadata, inputs=inputs, checks=checks
        )

    def failed(self, key: str, error: PipelineError, checks: Sequence[dg.AssetCheckResult] = ()) -> None:
        """Log and record why `key` failed, and the results of the `checks` that found it."""
        label = self._label(key)
        reason = error.describe(label)
        self._end(key, f" failed{reason.removeprefix(label)}", reason)
        record_checks(self._context, self._context.assets_def, key, checks, is_materialized=False)

    def finish(self, done: str, note: str = "", downstream: dg.AssetsDefinition | None = None) -> AssetEvents:
        """Log a summary, and end the step: with an error if a partition failed.

        If some succeeded and `downstream` is executed in this run, there is no error yet: `downstream` processes those
        partitions, and fails at its end.

        Raises:
            dagster.Failure: it names each failed partition and why.
        """
        total, failed = len(self.keys), sorted(self._reasons)
        if total > 1:
            self._context.log.info(
                f"{total - len(failed)} of {total} {self._unit}s {done}: {_figures(self._trips, self._bytes, note)}, "
                f"in {time.monotonic() - self._began:.1f} s"
                + (f"; failed: {', '.join(map(self._label, failed))}" if failed else "")
            )
        goes_on = downstream is not None and len(failed) < total and is_executed(self._context, downstream)
        if failed and not goes_on:
            raise dg.Failure(self._failure_text(), allow_retries=False)
        yield from suppress_final_materialization(self._context)

    def _label(self, key: str) -> str:
        """What a partition is called in logs and errors: ``2023-03``, ``green 2023-03`` or ``week of 2023-03-05``."""
        return month_label(key) if self._unit == "month" else f"week of {key}"

    def _end(self, key: str, text: str, reason: str | None = None, log: bool = True) -> None:
        """Note that `key` has ended, and the `reason` if it failed: here, in the log and on the partition's page."""
        self._ended.append(key)
        total = len(self.keys)
        # A run over one partition may be one of many in a backfill, so its log has no numbers.
        progress = f" ({len(self._ended)} of {total})" if total > 1 else ""
        if reason is not None:
            self._reasons[key] = reason
            self._context.log_event(
                dg.AssetObservation(self._context.asset_key, partition=key, metadata={FAILED: reason})
            )
        if log:
            write = self._context.log.info if reason is None else self._context.log.error
            write(f"{self._label(key)}{progress}{text}")

    def _fail_pending(self, error: PipelineError) -> None:
        retry_if_connection_lost(error)
        pending = list(self.pending())
        if not pending:
            raise error
        first, *others = pending
        self.failed(first, error)
        for key in others:
            self._end(key, "", error.describe(self._label(key)), log=False)
        if others:
            self._context.log.error(f"not tried, for the same reason: {', '.join(map(self._label, others))}")

    def _failure_text(self) -> str:
        """A line for each reason, with the partitions that failed for it."""
        labels: dict[str, list[str]] = {}
        for key in sorted(self._reasons):
            label = self._label(key)
            labels.setdefault(self._reasons[key].removeprefix(label), []).append(label)
        lines = [", ".join(alike) + reason for reason, alike in labels.items()]
        total, failed = len(self.keys), len(self._reasons)
        if total > 1:
            good = total - failed
            others = {0: "", 1: "; the other one is done"}.get(good, f"; the other {good} are done")
            lines.insert(0, f"{failed} of {total} {self._unit}s failed{others}:")
        return "\n".join(lines)


def _partition_keys(context: dg.AssetExecutionContext) -> list[str]:
    """The partitions of the run.

    In two dimensions, these are not always `context.partition_keys`: of a backfill of a job, each range has the tags of the
    first partition of all ranges as well. Dagster would load this one only, once for each range, and count all as done.
    """
    range_, partitions = _range(context), context.assets_def.partitions_def
    if range_ and isinstance(partitions, dg.MultiPartitionsDefinition):
        return list(partitions.get_partition_keys_in_range(dg.PartitionKeyRange(*range_)))
    return list(context.partition_keys) if range_ or context.has_partition_key else []


def _why_no_partitions(range_: str) -> str:
    if not range_:
        return "The run has no partition. Launch it for one (--partition) or for a range of them (--partition-range)."
    order = "In each dimension, it goes from an earlier one to a later one, in the order of the asset's page."
    return f"The range from {range_} has no partition. {order}"


def _range(context: dg.AssetExecutionContext) -> list[str]:
    names = (f"dagster/asset_partition_range_{end}" for end in ("start", "end"))
    return [context.run.tags[name] for name in names if name in context.run.tags]


def _figures(trips: int, size: int, note: str) -> str:
    return ", ".join(filter(None, [f"{trips:,} trips", f"{size / 1e6:.1f} MB" if size else "", note]))


def failures_in_run(context: dg.AssetExecutionContext, asset: dg.AssetsDefinition) -> dict[str, str]:
    """The partitions for which `asset` failed earlier in this run, with the reasons.

    If this run re-executes an earlier run from its failure, without `asset`, the failures of that run count.
    """
    if is_executed(context, asset):
        return failed_partitions(context.instance, context.run.run_id).get(asset.key, {})
    run_id = context.run.parent_run_id
    while run_id is not None and (run := context.instance.get_run_by_id(run_id)) is not None:
        steps, assets = run.step_keys_to_execute, run.asset_selection
        if (steps is None or asset.op.name in steps) and (not assets or asset.key in assets):
            return failed_partitions(context.instance, run_id).get(asset.key, {})
        run_id = run.parent_run_id
    return {}


def failed_partitions(instance: dg.DagsterInstance, run_id: str) -> dict[dg.AssetKey, dict[str, str]]:
    """The partitions that failed in a run, with the reasons, by asset."""
    failed: dict[dg.AssetKey, dict[str, str]] = {}
    for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_OBSERVATION).records:
        observation = record.asset_observation
        if observation is not None and FAILED in observation.metadata:
            reason = str(observation.metadata[FAILED].value)
            failed.setdefault(observation.asset_key, {})[str(observation.partition)] = reason
    return failed


def is_executed(context: dg.AssetExecutionContext, asset: dg.AssetsDefinition) -> bool:
    """Whether this run executes `asset` as well."""
    steps = context.run.step_keys_to_execute
    selected = asset.key in context.job_def.asset_layer.executable_asset_keys
    return selected and (steps is None or asset.op.name in steps)
