"""A run over partitions: the log of each, those that fail and why, and the end of the run. An error fails its partition only."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg

from dagster_essentials.errors import DatabaseError, PipelineError
from dagster_essentials.orchestration.events import (
    AssetEvents,
    record_materialization,
    suppress_final_materialization,
)
from dagster_essentials.orchestration.failures import LoggedFailure, logged_failure, retry_if_possible

FAILED = "failed"
"""The metadata key of the observation that shows on a partition's page why it failed."""


class PartitionRun:
    """The bookkeeping of one asset's step over the partitions of its run, `keys`.

    Args:
        context: of the step.
        label: what a partition is called in logs and errors, by its key: ``2023-03``, or ``week of 2023-03-05``.
        unit, noun: what a partition is, and what its rows are: ``month`` and ``trips``.
    """

    def __init__(self, context: dg.AssetExecutionContext, label: Callable[[str], str], unit: str, noun: str):
        self._context = context
        self._label, self._unit, self._noun = label, unit, noun
        self.keys = _partition_keys(context)
        self._began = time.monotonic()
        self._ended: list[str] = []
        self._reasons: dict[str, str] = {}
        self._rows: int | None = None
        self._bytes = 0
        if not self.keys:
            raise logged_failure(_why_no_partitions(" to ".join(_range(context))))

    def pending(self, upstream: dg.AssetsDefinition | None = None) -> Iterator[str]:
        """The partitions that have not ended. Those for which `upstream` failed in this run fail too."""
        if upstream is not None:
            failed_upstream = failures_in_run(self._context, upstream)
            for key in filter(failed_upstream.__contains__, self.keys):
                # Upstream has logged the reason.
                self._note_failure(key, failed_upstream[key])
        yield from (key for key in self.keys if key not in self._ended)

    @contextmanager
    def partition(self, key: str) -> Iterator[None]:
        """Let an error of the pipeline in the block fail the partition `key`, and the run go on.

        An unusable database fails all that are pending: each would wait as long for the same error. After a lost connection,
        Dagster executes the step again.
        """
        try:
            yield
        except DatabaseError as error:
            self._fail_pending(error)
        except PipelineError as error:
            self.failed(key, error)

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
        data_version: str,
        metadata: Mapping[str, Any],
        *,
        rows: int | None = None,
        size: int = 0,
        note: str = "",
        is_logged: bool = True,
        inputs: Mapping[dg.AssetKey, str | None] | None = None,
    ) -> None:
        """Log, if wanted, and record that `key` has been materialized, with so many `rows` from a file of `size` bytes.

        Call it while the database is held: otherwise an overlapping run could load another version and record that first,
        and what Dagster recorded last would not be what the table has.
        """
        if rows is not None:
            self._rows = rows + (self._rows or 0)
        self._bytes += size
        self._ended.append(key)
        if is_logged:
            self._context.log.info(f"{self._label(key)}{self._progress()}: {self._figures(rows, size, note)}")
        record_materialization(self._context, self._context.assets_def, key, data_version, metadata, inputs=inputs)

    def failed(self, key: str, error: PipelineError) -> None:
        """Log and record why `key` failed."""
        label = self._label(key)
        reason = error.describe(label)
        self._note_failure(key, reason)
        self._context.log.error(f"{label}{self._progress()} failed{reason.removeprefix(label)}")

    def finish(self, done: str, note: str = "", downstream: dg.AssetsDefinition | None = None) -> AssetEvents:
        """Log a summary, and end the step: with an error if a partition failed.

        If `downstream` is executed in this run, it fails at its end for these partitions, after it has processed the others.

        Raises:
            LoggedFailure: it names each failed partition and why.
        """
        total, failed = len(self.keys), [key for key in self.keys if key in self._reasons]
        if total > 1:
            figures = self._figures(self._rows, self._bytes, note)
            self._context.log.info(
                f"{self._summary(done)}{figures and f': {figures},'} in {time.monotonic() - self._began:.1f} s"
                + (f"; failed: {', '.join(map(self._label, failed))}" if failed else "")
            )
        if failed and not (downstream is not None and is_executed(self._context, downstream)):
            raise LoggedFailure(self._failure_text(), allow_retries=False)
        yield from suppress_final_materialization(self._context)

    def _summary(self, done: str) -> str:
        return f"{len(self.keys) - len(self._reasons)} of {len(self.keys)} {self._unit}s {done}"

    def _progress(self) -> str:
        # A run over one partition may be one of many in a backfill, so its log has no numbers.
        return f" ({len(self._ended)} of {len(self.keys)})" if len(self.keys) > 1 else ""

    def _figures(self, rows: int | None, size: int, note: str) -> str:
        counted = "" if rows is None else f"{rows:,} {self._noun}"
        return ", ".join(filter(None, [counted, describe_bytes(size) if size else "", note]))

    def _note_failure(self, key: str, reason: str) -> None:
        """Note that `key` has failed for the `reason`: here, and on the partition's page."""
        self._ended.append(key)
        self._reasons[key] = reason
        self._context.log_event(dg.AssetObservation(self._context.asset_key, partition=key, metadata={FAILED: reason}))

    def _fail_pending(self, error: PipelineError) -> None:
        retry_if_possible(error)
        pending = list(self.pending())
        if not pending:
            raise error
        first, *others = pending
        self.failed(first, error)
        for key in others:
            self._note_failure(key, error.describe(self._label(key)))
        if others:
            self._context.log.error(f"not tried, for the same reason: {', '.join(map(self._label, others))}")

    def _failure_text(self) -> str:
        """A line for each reason, with the partitions that failed for it."""
        labels: dict[str, list[str]] = {}
        for key in self.keys:
            if key in self._reasons:
                label = self._label(key)
                labels.setdefault(self._reasons[key].removeprefix(label), []).append(label)
        lines = [", ".join(alike) + reason for reason, alike in labels.items()]
        total, failed = len(self.keys), len(self._reasons)
        if total > 1:
            good = total - failed
            others = {0: "", 1: "; the other one is done"}.get(good, f"; the other {good} are done")
            lines.insert(0, f"{failed} of {total} {self._unit}s failed{others}:")
        return "\n".join(lines)


def describe_bytes(size: int) -> str:
    """``45.3 MB``, or of a small file ``12.1 kB``."""
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


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
    """True if this run executes `asset` as well."""
    steps = context.run.step_keys_to_execute
    selected = asset.key in context.job_def.asset_layer.executable_asset_keys
    return selected and (steps is None or asset.op.name in steps)
