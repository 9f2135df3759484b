"""The event by which Dagster records a partition: its materialization, with the versions of its inputs.

A run over a range would by itself record all its partitions at its end, with one data version for all, or none of them if
one fails. Here each partition's materialization is emitted after its commit, and the asset's own final result is
suppressed. The undocumented behaviour of Dagster that this relies on is pinned in `test_dagster_facts.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.definitions.partitions.utils.multi import get_tags_from_multi_partition_key
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION

AssetEvents = Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult | dg.Output[Any]]
"""The return type of an asset function whose partitions are recorded here."""


def record_materialization(
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
    asset: dg.AssetsDefinition,
    partition: str,
    data_version: str,
    metadata: Mapping[str, Any],
    *,
    inputs: Mapping[dg.AssetKey, str | None] | None = None,
) -> None:
    """Record that `asset` has been materialized for `partition`.

    `inputs` gives, for each upstream asset, the version of the same partition that was read: the UI shows the partition
    as stale when that asset has another version. An asset without partitions is given with None, and counts as read in its
    latest version. Without `inputs`, it is stale when an upstream asset has been materialized since.
    """
    context.log_event(
        dg.AssetMaterialization(
            asset.key,
            partition=partition,
            metadata=metadata,
            tags={
                DATA_VERSION_TAG: data_version,
                DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
                **(_provenance_tags(context, asset, partition, inputs) if inputs is not None else {}),
                **_dimension_tags(asset, partition),
            },
        )
    )


def _provenance_tags(
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
    asset: dg.AssetsDefinition,
    partition: str,
    inputs: Mapping[dg.AssetKey, str | None],
) -> Mapping[str, str]:
    """The tags by which Dagster finds out which versions of its `inputs` a materialization was made from."""
    # Dagster writes the run's id as the code version of an asset without one, and reads input versions only beside it.
    tags = {CODE_VERSION_TAG: asset.code_versions_by_key[asset.key] or context.run.run_id}
    for key, version in inputs.items():
        latest = dg.AssetRecordsFilter(key, asset_partitions=[partition] if version else None)
        for record in context.instance.fetch_materializations(latest, limit=1).records:
            recorded = (record.asset_materialization and record.asset_materialization.tags) or {}
            version = version or recorded.get(DATA_VERSION_TAG, "")
            # If an overlapping run has recorded another version meanwhile, that one counts as newer than what was read.
            read = record.storage_id if recorded.get(DATA_VERSION_TAG) == version else record.storage_id - 1
            tags[get_input_data_version_tag(key)] = version
            tags[get_input_event_pointer_tag(key)] = str(read)
    return tags


def _dimension_tags(asset: dg.AssetsDefinition, partition: str) -> Mapping[str, str]:
    """The tags by which Dagster finds the materializations of a fleet, or of a month of all fleets."""
    if not isinstance(asset.partitions_def, dg.MultiPartitionsDefinition):
        return {}
    return get_tags_from_multi_partition_key(asset.partitions_def.get_partition_key_from_str(partition))


def record_check(context: dg.OpExecutionContext, asset: dg.AssetsDefinition, check: dg.AssetCheckResult) -> None:
    """Record a `check` of `asset` in a run that does not materialize it."""
    evaluation = _evaluation(asset, check)
    context.log_event(evaluation)  # type: ignore[arg-type]  # In an op as well, though its annotation does not say so.


def record_check_as_latest(
    instance: dg.DagsterInstance, asset: dg.AssetsDefinition, check: dg.AssetCheckResult
) -> None:
    """Record a `check` of the latest materialization of `asset`, as that of no run.

    Dagster takes the result of the run that was launched last for the latest one, even if an earlier run has ended after it.
    """
    (latest,) = instance.fetch_materializations(dg.AssetRecordsFilter(asset.key), limit=1).records
    target = AssetCheckEvaluationTargetMaterializationData(
        storage_id=latest.storage_id, run_id=latest.run_id, timestamp=latest.timestamp
    )
    instance.report_runless_asset_event(_evaluation(asset, check, target))


def _evaluation(
    asset: dg.AssetsDefinition,
    check: dg.AssetCheckResult,
    target: AssetCheckEvaluationTargetMaterializationData | None = None,
) -> dg.AssetCheckEvaluation:
    assert check.check_name is not None
    return dg.AssetCheckEvaluation(
        asset_key=asset.key,
        check_name=check.check_name,
        passed=check.passed,
        severity=check.severity,
        blocking=asset.get_spec_for_check_key(dg.AssetCheckKey(asset.key, check.check_name)).blocking,
        description=check.description,
        metadata=check.metadata,
        target_materialization_data=target,
    )


def suppress_final_materialization(context: dg.AssetExecutionContext) -> AssetEvents:
    """Yield what Dagster expects of an asset whose materializations have been logged already."""
    yield dg.MaterializeResult(metadata={SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True})
