"""`PartitionRun`, in assets of a few lines: what it logs and records for each partition, and how the run ends."""

import re
from collections.abc import Callable, Mapping, Sequence

import dagster as dg
import pytest

from dagster_essentials.errors import DatabaseBusyError, DatabaseUnusableError, LoadError, PipelineError, ReportError
from dagster_essentials.orchestration.events import AssetEvents
from dagster_essentials.orchestration.partition_run import FAILED, PartitionRun
from dagster_essentials.partitions import monthly_partition, weekly_partition
from dagster_essentials_tests.support.project import failure_text
from dagster_essentials_tests.support.run_results import materialized_partitions, step_log

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")

JANUARY, FEBRUARY, MARCH = KEYS = ["2023-01-01", "2023-02-01", "2023-03-01"]
DAMAGED = LoadError("it is damaged.", "a file")
Errors = Mapping[str, Exception]


def months_run(context: dg.AssetExecutionContext) -> PartitionRun:
    return PartitionRun(context, lambda key: key[:7], "month", "trips")


def weeks_run(context: dg.AssetExecutionContext) -> PartitionRun:
    return PartitionRun(context, lambda key: f"week of {key}", "week", "trips")


def record(run: PartitionRun, key: str) -> None:
    run.materialized(key, rows=int(key[5:7]) * 1000, size=2_000_000, data_version=f"version of {key}", metadata={})


def partitioned_asset(
    name: str,
    errors: Errors,
    partitions_def: dg.PartitionsDefinition[str] = monthly_partition,
    upstream: dg.AssetsDefinition | None = None,
    start: Callable[[dg.AssetExecutionContext], PartitionRun] = months_run,
) -> dg.AssetsDefinition:
    """An asset that raises the `errors` of its partitions, and materializes the others."""

    @dg.asset(
        name=name,
        partitions_def=partitions_def,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[upstream] if upstream else [],
    )
    def asset(context: dg.AssetExecutionContext) -> AssetEvents:
        run = start(context)
        for key in run.pending(upstream=upstream):
            with run.partition(key):
                if key in errors:
                    raise errors[key]
                record(run, key)
        yield from run.finish("loaded")

    return asset


def materialize(
    instance: dg.DagsterInstance, assets: Sequence[dg.AssetsDefinition], first: str, last: str | None = None
) -> dg.ExecuteInProcessResult:
    """Materialize `assets` for the partition `first`, or for the range from `first` to `last`; errors do not raise."""
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
    return dg.materialize(
        assets, instance=instance, raise_on_error=False, **({"tags": tags} if last else {"partition_key": first})
    )


def failures(instance: dg.DagsterInstance, asset: dg.AssetsDefinition) -> dict[str | None, str]:
    """The reason on the page of each partition of `asset` that failed."""
    observations = [entry.asset_observation for entry in instance.fetch_observations(asset.key, limit=100).records]
    return {found.partition: str(found.metadata[FAILED].value) for found in observations if found is not None}


def failed_steps(result: dg.ExecuteInProcessResult) -> list[str | None]:
    return [event.step_key for event in result.all_events if event.is_step_failure]


def test_each_partition_is_recorded_once_with_its_own_data_version(instance: dg.DagsterInstance) -> None:
    months = partitioned_asset("months", {})
    assert materialize(instance, [months], JANUARY, MARCH).success
    records = instance.fetch_materializations(months.key, limit=10, ascending=True).records
    versions = [(record.asset_materialization.tags or {})["dagster/data_version"] for record in records]  # type: ignore[union-attr]
    assert [record.partition_key for record in records] == KEYS
    assert versions == [f"version of {key}" for key in KEYS]


def test_a_range_logs_each_partition_with_its_number_and_a_summary(instance: dg.DagsterInstance) -> None:
    result = materialize(instance, [partitioned_asset("months", {})], JANUARY, MARCH)
    *lines, summary = step_log(instance, result.run_id, "months")
    assert lines == [
        "2023-01 (1 of 3): 1,000 trips, 2.0 MB",
        "2023-02 (2 of 3): 2,000 trips, 2.0 MB",
        "2023-03 (3 of 3): 3,000 trips, 2.0 MB",
    ]
    assert re.fullmatch(r"3 of 3 months loaded: 6,000 trips, 6\.0 MB, in \d+\.\d s", summary)


def test_a_run_of_one_partition_logs_no_number_and_no_summary(instance: dg.DagsterInstance) -> None:
    result = materialize(instance, [partitioned_asset("months", {})], FEBRUARY)
    assert step_log(instance, result.run_id, "months") == ["2023-02: 2,000 trips, 2.0 MB"]


def test_notes_are_part_of_the_log(instance: dg.DagsterInstance) -> None:
    @dg.asset(partitions_def=monthly_partition, backfill_policy=dg.BackfillPolicy.single_run())
    def months(context: dg.AssetExecutionContext) -> AssetEvents:
        run = months_run(context)
        for key in run.pending():
            run.materialized(key, rows=1, note="unchanged", data_version="1", metadata={})
        yield from run.finish("downloaded", "nothing transferred")

    result = materialize(instance, [months], JANUARY, FEBRUARY)
    *lines, summary = step_log(instance, result.run_id, "months")
    assert lines == ["2023-01 (1 of 2): 1 trips, unchanged", "2023-02 (2 of 2): 1 trips, unchanged"]
    assert summary.startswith("2 of 2 months downloaded: 2 trips, nothing transferred, in ")


def test_a_failed_partition_fails_the_run_after_all_others_are_materialized(instance: dg.DagsterInstance) -> None:
    months = partitioned_asset("months", {FEBRUARY: DAMAGED})
    result = materialize(instance, [months], JANUARY, MARCH)
    assert not result.success
    assert materialized_partitions(instance, months) == [JANUARY, MARCH]
    assert failures(instance, months) == {FEBRUARY: "2023-02 (a file): it is damaged."}
    assert failure_text(result).endswith(
        "1 of 3 months failed; the other 2 are done:\n2023-02 (a file): it is damaged.\n"
    )
    _, line, _, summary = step_log(instance, result.run_id, "months")
    assert line == "2023-02 (2 of 3) failed (a file): it is damaged."
    assert re.fullmatch(r"2 of 3 months loaded: 4,000 trips, 4\.0 MB, in \d+\.\d s; failed: 2023-02", summary)


def test_the_error_of_a_run_of_one_partition_is_its_reason_without_a_cause(instance: dg.DagsterInstance) -> None:
    result = materialize(instance, [partitioned_asset("months", {FEBRUARY: DAMAGED})], FEBRUARY)
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    error = failed.step_failure_data.error
    assert error is not None
    assert (
        error.message.strip()
        == "dagster_essentials.orchestration.failures.LoggedFailure: 2023-02 (a file): it is damaged."
    )
    assert (error.cause, error.context) == (None, None)


def test_partitions_that_failed_for_the_same_reason_share_a_line(instance: dg.DagsterInstance) -> None:
    errors = {JANUARY: ReportError("not loaded."), FEBRUARY: DAMAGED, MARCH: ReportError("not loaded.")}
    text = failure_text(materialize(instance, [partitioned_asset("months", errors)], JANUARY, "2023-04-01"))
    assert text.endswith(
        "3 of 4 months failed; the other one is done:\n2023-01, 2023-03: not loaded.\n2023-02 (a file): it is damaged.\n"
    )


def test_weeks_are_named_by_their_sundays(instance: dg.DagsterInstance) -> None:
    weeks = partitioned_asset("weeks", {"2023-01-08": ReportError("not loaded.")}, weekly_partition, start=weeks_run)
    result = materialize(instance, [weeks], "2023-01-01", "2023-01-08")
    assert failure_text(result).endswith(
        "1 of 2 weeks failed; the other one is done:\nweek of 2023-01-08: not loaded.\n"
    )
    first, second, summary = step_log(instance, result.run_id, "weeks")
    assert first.startswith("week of 2023-01-01 (1 of 2): ")
    assert second == "week of 2023-01-08 (2 of 2) failed: not loaded."
    assert summary.endswith("; failed: week of 2023-01-08")


@pytest.mark.parametrize("error", [DatabaseBusyError("it is in use."), DatabaseUnusableError("it is in use.")])
def test_an_unusable_database_fails_the_remaining_partitions_without_trying_them(
    error: PipelineError, instance: dg.DagsterInstance
) -> None:
    months = partitioned_asset("months", {FEBRUARY: error, "2023-04-01": AssertionError("it is tried")})
    result = materialize(instance, [months], JANUARY, "2023-04-01")
    assert materialized_partitions(instance, months) == [JANUARY]
    assert failures(instance, months) == {
        FEBRUARY: "2023-02: it is in use.",
        MARCH: "2023-03: it is in use.",
        "2023-04-01": "2023-04: it is in use.",
    }
    assert failure_text(result).endswith(
        "3 of 4 months failed; the other one is done:\n2023-02, 2023-03, 2023-04: it is in use.\n"
    )
    _, failed, others, summary = step_log(instance, result.run_id, "months")
    assert failed == "2023-02 (2 of 4) failed: it is in use."
    assert others == "not tried, for the same reason: 2023-03, 2023-04"
    assert summary.startswith("1 of 4 months loaded: 1,000 trips, ")


def test_any_other_error_ends_the_run_at_once(instance: dg.DagsterInstance) -> None:
    months = partitioned_asset("months", {FEBRUARY: ZeroDivisionError("a bug")})
    result = materialize(instance, [months], JANUARY, MARCH)
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    cause = failed.step_failure_data.error and failed.step_failure_data.error.cause
    assert cause is not None
    assert "ZeroDivisionError: a bug" in cause.message
    # What has been committed before is recorded.
    assert materialized_partitions(instance, months) == [JANUARY]


@pytest.mark.parametrize("materialized", [0, 1, 2])
def test_all_pending_fails_the_partitions_that_have_not_ended(materialized: int, instance: dg.DagsterInstance) -> None:
    @dg.asset(partitions_def=monthly_partition, backfill_policy=dg.BackfillPolicy.single_run())
    def months(context: dg.AssetExecutionContext) -> AssetEvents:
        run = months_run(context)
        with run.all_pending():
            for key in KEYS[:materialized]:
                record(run, key)
            raise DAMAGED
        yield from run.finish("loaded")

    result = materialize(instance, [months], JANUARY, MARCH)
    assert materialized_partitions(instance, months) == KEYS[:materialized]
    assert set(failures(instance, months)) == set(KEYS[materialized:])
    assert ", ".join(key[:7] for key in KEYS[materialized:]) + " (a file): it is damaged." in failure_text(result)


def test_an_error_after_all_partitions_have_ended_still_fails_the_run(instance: dg.DagsterInstance) -> None:
    @dg.asset(partitions_def=monthly_partition, backfill_policy=dg.BackfillPolicy.single_run())
    def months(context: dg.AssetExecutionContext) -> AssetEvents:
        run = months_run(context)
        with run.all_pending():
            for key in run.pending():
                record(run, key)
            raise DAMAGED
        yield from run.finish("loaded")

    result = materialize(instance, [months], JANUARY, FEBRUARY)
    assert not result.success
    assert materialized_partitions(instance, months) == [JANUARY, FEBRUARY]


# An upstream asset in the same run.


def file_and_table(file_errors: Errors, table_errors: Errors | None = None) -> list[dg.AssetsDefinition]:
    """An asset `file` that leaves the end of the run to `table`, and `table`, which depends on it."""

    @dg.asset(partitions_def=monthly_partition, backfill_policy=dg.BackfillPolicy.single_run())
    def file(context: dg.AssetExecutionContext) -> AssetEvents:
        run = months_run(context)
        for key in run.pending():
            with run.partition(key):
                if key in file_errors:
                    raise file_errors[key]
                record(run, key)
        yield from run.finish("downloaded", downstream=table)

    table = partitioned_asset("table", table_errors or {}, upstream=file)
    return [file, table]


def test_the_downstream_asset_processes_the_others_and_fails_at_its_end(instance: dg.DagsterInstance) -> None:
    file, table = file_and_table({FEBRUARY: DAMAGED}, {FEBRUARY: AssertionError("it is tried")})
    result = materialize(instance, [file, table], JANUARY, MARCH)
    assert failed_steps(result) == ["table"]
    assert materialized_partitions(instance, file) == materialized_partitions(instance, table) == [JANUARY, MARCH]
    assert failures(instance, file) == failures(instance, table) == {FEBRUARY: "2023-02 (a file): it is damaged."}
    assert failure_text(result).endswith(
        "1 of 3 months failed; the other 2 are done:\n2023-02 (a file): it is damaged.\n"
    )
    assert step_log(instance, result.run_id, "file")[-1].endswith("; failed: 2023-02")
    # The reason is in the log once, where it happened.
    *lines, summary = step_log(instance, result.run_id, "table")
    assert lines == ["2023-01 (2 of 3): 1,000 trips, 2.0 MB", "2023-03 (3 of 3): 3,000 trips, 2.0 MB"]
    assert summary.endswith("; failed: 2023-02")


def test_failures_of_both_assets_are_in_the_error(instance: dg.DagsterInstance) -> None:
    file, table = file_and_table({FEBRUARY: DAMAGED}, {MARCH: ReportError("it is late.")})
    text = failure_text(materialize(instance, [file, table], JANUARY, MARCH))
    assert text.endswith(
        "2 of 3 months failed; the other one is done:\n2023-02 (a file): it is damaged.\n2023-03: it is late.\n"
    )


def test_without_the_downstream_asset_in_the_run_the_step_fails(instance: dg.DagsterInstance) -> None:
    file, table = file_and_table({FEBRUARY: DAMAGED})
    assert failed_steps(materialize(instance, [file], JANUARY, MARCH)) == ["file"]
    job = dg.Definitions([file, table], jobs=[dg.define_asset_job("files", [file])]).resolve_job_def("files")
    result = job.execute_in_process(
        tags={"dagster/asset_partition_range_start": JANUARY, "dagster/asset_partition_range_end": MARCH},
        instance=instance,
        raise_on_error=False,
    )
    assert failed_steps(result) == ["file"]


def test_if_every_partition_fails_it_is_the_downstream_asset_that_ends_the_run(instance: dg.DagsterInstance) -> None:
    file, table = file_and_table(dict.fromkeys(KEYS, DAMAGED))
    result = materialize(instance, [file, table], JANUARY, MARCH)
    assert failed_steps(result) == ["table"]
    assert failure_text(result).endswith("3 of 3 months failed:\n2023-01, 2023-02, 2023-03 (a file): it is damaged.\n")
    assert (
        failures(instance, file)
        == failures(instance, table)
        == {key: f"{key[:7]} (a file): it is damaged." for key in KEYS}
    )
    assert materialized_partitions(instance, table) == []


def test_failures_of_earlier_runs_do_not_matter(instance: dg.DagsterInstance) -> None:
    errors: dict[str, Exception] = {FEBRUARY: DAMAGED}
    file, table = file_and_table(errors)
    assert not materialize(instance, [file, table], JANUARY, MARCH).success
    errors.clear()
    assert materialize(instance, [file, table], JANUARY, MARCH).success
    # Nor do they in a run of the downstream asset alone.
    errors[FEBRUARY] = DAMAGED
    assert not materialize(instance, [file], JANUARY, MARCH).success
    assert dg.materialize([table], instance=instance, partition_key=FEBRUARY).success
    assert materialized_partitions(instance, table) == [JANUARY, JANUARY, FEBRUARY, FEBRUARY, MARCH, MARCH]
