"""What Dagster is told of a month or a week, at the moment in which it becomes true.

A run over a range would by itself record all its partitions at its end, with one data version for all of them, or none
of them if one fails. So each is logged as soon as it stands, and the asset's own result is marked as one that has
been logged already. The mark and the tags are Dagster's own, used for observable sources and for its data versions;
the tests in `test_dagster_facts.py` tell when a release changes them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION

from dagster_essentials.partitions import monthly_partition

Recorded = Iterator[dg.MaterializeResult[Any] | dg.Output[Any]]
"""What an asset function returns whose partitions are recorded here."""


def record_partition(
    context: dg.AssetExecutionContext,
    partition: str,
    data_version: str,
    metadata: Mapping[str, Any],
    inputs: Mapping[dg.AssetKey, str] | None = None,
    checks: Sequence[dg.AssetCheckResult] = (),
) -> None:
    """Record that the running asset has been materialized for `partition`, and what its `checks` found.

    `inputs` are the assets whose same partition it was made from, and the versions that were read: the UI calls it stale
    when one of them has another version. Without `inputs`, it is stale when one of those has been materialized since.
    """
    # The code's version is what Dagster itself writes for an asset without one; where it stands, inputs are looked for.
    provenance = {CODE_VERSION_TAG: context.run.run_id} if inputs is not None else {}
    for key, version in (inputs or {}).items():
        record = context.instance.get_latest_data_version_record(key, partition_key=partition)
        if record is not None:
            latest = extract_data_version_from_entry(record.event_log_entry)
            # If an overlapping run has recorded another version meanwhile, that one is new to this month.
            read = record.storage_id if latest is not None and latest.value == version else record.storage_id - 1
            provenance[get_input_data_version_tag(key)] = version
            provenance[get_input_event_pointer_tag(key)] = str(read)
    context.log_event(
        dg.AssetMaterialization(
            context.asset_key,
            partition=partition,
            metadata=metadata,
            tags={
                DATA_VERSION_TAG: data_version,
                DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
                **provenance,
            },
        )
    )
    _record_checks(context, partition, checks)


def _record_checks(
    context: dg.AssetExecutionContext, partition: str, checks: Sequence[dg.AssetCheckResult], materialized: bool = True
) -> None:
    target = _materialization(context, partition) if checks and materialized else None
    for check in checks:
        assert check.check_name is not None
        spec = context.assets_def.get_spec_for_check_key(dg.AssetCheckKey(context.asset_key, check.check_name))
        context.log_event(
            dg.AssetCheckEvaluation(
                asset_key=context.asset_key,
                check_name=check.check_name,
                passed=check.passed,
                severity=check.severity,
                blocking=spec.blocking,
                partition=partition,
                description=check.description,
                metadata=check.metadata,
                target_materialization_data=target,
            )
        )


def _materialization(
    context: dg.AssetExecutionContext, partition: str
) -> AssetCheckEvaluationTargetMaterializationData | None:
    """What this run has recorded for `partition`. Checks that do not point to it count as missing on the check's page."""
    records = context.instance.fetch_materializations(
        # More than one, as an overlapping run may have recorded the same partition in this moment.
        dg.AssetRecordsFilter(context.asset_key, asset_partitions=[partition]),
        limit=5,
    ).records
    for record in records:
        if record.run_id == context.run.run_id:
            return AssetCheckEvaluationTargetMaterializationData(
                storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
            )
    return None


def partitions_are_recorded(context: dg.AssetExecutionContext) -> Recorded:
    """What an asset yields at its end, when its partitions, and their checks, were all logged."""
    yield dg.MaterializeResult(metadata={SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True})
    # Each selected check has an output of its own, which Dagster expects beside the evaluations.
    results = {context.assets_def.get_output_name_for_asset_key(context.asset_key)}
    for name in sorted(context.op_execution_context.selected_output_names - results):
        yield dg.Output(None, output_name=name)


FAILED = "failed"


def record_failure(
    context: dg.AssetExecutionContext,
    partition: str,
    reason: str,
    number: int | None,
    checks: Sequence[dg.AssetCheckResult] = (),
) -> None:
    """Record why the running asset could not be materialized for `partition`: in the log and on its page.

    `reason` begins with the partition's `name`. `number` is as in `progress`; without it, the log has said it already.
    `checks` are those that found it.
    """
    if number is not None:
        rest = reason.removeprefix(name(context, partition))
        context.log.error(f"{progress(context, partition, number)} failed{rest}")
    context.log_event(dg.AssetObservation(context.asset_key, partition=partition, metadata={FAILED: reason}))
    _record_checks(context, partition, checks, materialized=False)


def name(context: dg.AssetExecutionContext, partition: str) -> str:
    """What `partition` is called in logs and errors: ``2023-03`` or ``week of 2023-03-05``."""
    is_month = context.assets_def.partitions_def == monthly_partition
    return partition[:7] if is_month else f"week of {partition}"


def progress(context: dg.AssetExecutionContext, partition: str, number: int) -> str:
    """How a line of the log begins that tells of `partition`: ``2023-03 (3 of 24)``. `number` counts those done.

    In a run of one it is the name alone: that run may be one of many in a backfill.
    """
    total = len(context.partition_keys)
    return name(context, partition) + (f" ({number} of {total})" if total > 1 else "")


def failures_in_run(context: dg.AssetExecutionContext, asset: dg.AssetsDefinition) -> dict[str, str]:
    """The partitions for which `asset` failed earlier in this run, with the reasons.

    A run that executes others again from their failure, and `asset` not, goes on where they stopped: their failures count.
    """
    if is_executed(context, asset):
        return _failures(context.instance, context.run.run_id, asset.key)
    run_id = context.run.parent_run_id
    while run_id is not None and (run := context.instance.get_run_by_id(run_id)) is not None:
        steps, assets = run.step_keys_to_execute, run.asset_selection
        if (steps is None or asset.op.name in steps) and (not assets or asset.key in assets):
            return _failures(context.instance, run_id, asset.key)
        run_id = run.parent_run_id
    return {}


def _failures(instance: dg.DagsterInstance, run_id: str, asset_key: dg.AssetKey) -> dict[str, str]:
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_OBSERVATION).records
    return {
        str(observation.partition): str(observation.metadata[FAILED].value)
        for record in records
        if (observation := record.asset_observation) is not None
        and observation.asset_key == asset_key
        and FAILED in observation.metadata
    }


def is_executed(context: dg.AssetExecutionContext, asset: dg.AssetsDefinition) -> bool:
    """Whether this run executes `asset` as well."""
    steps = context.run.step_keys_to_execute
    selected = asset.key in context.job_def.asset_layer.executable_asset_keys
    return selected and (steps is None or asset.op.name in steps)


def fail_run(context: dg.AssetExecutionContext, reasons: Mapping[str, str]) -> None:
    """Fail the running step, naming each bad partition and why; those with the same reason stand in one line.

    Raises:
        dagster.Failure: always.
    """
    alike: dict[str, list[str]] = {}
    for key in sorted(reasons):
        alike.setdefault(reasons[key].removeprefix(name(context, key)), []).append(name(context, key))
    lines = [", ".join(names) + rest for rest, names in alike.items()]
    partitions = context.partition_keys
    if len(partitions) > 1:
        what = "months" if context.assets_def.partitions_def == monthly_partition else "weeks"
        good = len(partitions) - len(reasons)
        others = {0: "", 1: "; the other one is done"}.get(good, f"; the other {good} are done")
        lines.insert(0, f"{len(reasons)} of {len(partitions)} {what} failed{others}:")
    raise dg.Failure("\n".join(lines), allow_retries=False)
