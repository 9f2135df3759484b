"""Undocumented behaviour of Dagster that this project relies on: a failure here means "Dagster changed"."""

import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._cli.job import gen_partition_names_from_args
from dagster._core.definitions.automation_tick_evaluation_context import build_run_requests_with_backfill_policies
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.events import DagsterEvent
from dagster._core.loader import LoadingContextForTest
from dagster._core.remote_origin import RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.test_utils import create_run_for_test, create_test_daemon_workspace_context
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from dagster_essentials.orchestration.events import (
    AssetEvents,
    record_materialization,
    suppress_final_materialization,
)
from dagster_essentials_tests.support.project import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning"),
]

MONTHS = dg.MonthlyPartitionsDefinition("2023-01-01", end_date="2023-04-01")
KEYS = ["2023-01-01", "2023-02-01", "2023-03-01"]
RANGE = {"dagster/asset_partition_range_start": KEYS[0], "dagster/asset_partition_range_end": KEYS[-1]}


def _events(instance: dg.DagsterInstance, key: str) -> list[tuple[str, str]]:
    records = instance.fetch_materializations(dg.AssetKey(key), limit=100, ascending=True).records
    return [
        (str(record.partition_key), (materialization.tags or {}).get("dagster/data_version", ""))
        for record in records
        if (materialization := record.asset_materialization) is not None
    ]


@pytest.mark.parametrize("last", [KEYS[0], KEYS[-1]])
def test_a_partition_whose_materialization_was_logged_has_no_second_one_and_a_check_is_about_none(last: str) -> None:
    @dg.asset(
        partitions_def=MONTHS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[dg.AssetCheckSpec("fine", asset="logged")],
    )
    def logged(context: dg.AssetExecutionContext) -> AssetEvents:
        for key in context.partition_keys:
            record_materialization(context, context.assets_def, key, f"version of {key}", {})
        yield dg.AssetCheckResult(check_name="fine", passed=True)
        yield from suppress_final_materialization(context)

    @dg.asset(partitions_def=MONTHS, backfill_policy=dg.BackfillPolicy.single_run(), deps=[logged])
    def below(context: dg.AssetExecutionContext) -> None:
        """Runs after `logged`, whose final result counts as an output."""

    keys = KEYS[: KEYS.index(last) + 1]
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [logged, below], instance=instance, tags={**RANGE, "dagster/asset_partition_range_end": last}
        )
        assert result.success
        assert _events(instance, "logged") == [(key, f"version of {key}") for key in keys]
        assert [key for key, _ in _events(instance, "below")] == keys
        assert [evaluation.partition for evaluation in result.get_asset_check_evaluations()] == [None]


def test_a_partition_is_stale_exactly_when_the_logged_version_of_its_input_changes() -> None:
    versions = dict.fromkeys(KEYS, "first")

    @dg.asset(partitions_def=MONTHS, backfill_policy=dg.BackfillPolicy.single_run())
    def above(context: dg.AssetExecutionContext) -> AssetEvents:
        for key in context.partition_keys:
            record_materialization(context, context.assets_def, key, versions[key], {})
        yield from suppress_final_materialization(context)

    @dg.asset(partitions_def=MONTHS, backfill_policy=dg.BackfillPolicy.single_run(), deps=[above])
    def below(context: dg.AssetExecutionContext) -> AssetEvents:
        for key in context.partition_keys:
            record_materialization(
                context, context.assets_def, key, versions[key], {}, inputs={above.key: versions[key]}
            )
        yield from suppress_final_materialization(context)

    with dg.DagsterInstance.ephemeral() as instance:
        graph = dg.Definitions(assets=[above, below]).resolve_asset_graph()

        def stale() -> list[str]:
            resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
            return [key for key in KEYS if resolver.get_status(below.key, key) != StaleStatus.FRESH]

        assert dg.materialize([above, below], instance=instance, tags=RANGE).success
        assert stale() == []
        assert dg.materialize([above], instance=instance, tags=RANGE).success
        assert stale() == []
        versions[KEYS[1]] = "second"
        assert dg.materialize([above], instance=instance, tags=RANGE).success
        assert stale() == [KEYS[1]]
        # What was read is not the newest any more when it is recorded: another run has recorded a newer one.
        assert dg.materialize([below], instance=instance, tags=RANGE).success
        assert stale() == []
        versions[KEYS[2]] = "second"
        assert dg.materialize([above], instance=instance, tags=RANGE).success
        versions[KEYS[2]] = "first"
        assert dg.materialize([below], instance=instance, tags=RANGE).success
        assert stale() == [KEYS[2]]


def test_a_partition_is_stale_when_an_input_without_partitions_changes_and_not_before() -> None:
    version = "first"

    @dg.asset
    def whole() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(data_version=dg.DataVersion(version))

    @dg.asset(partitions_def=MONTHS, backfill_policy=dg.BackfillPolicy.single_run(), deps=[whole])
    def below(context: dg.AssetExecutionContext) -> AssetEvents:
        for key in context.partition_keys:
            record_materialization(context, context.assets_def, key, "1", {}, inputs={whole.key: None})
        yield from suppress_final_materialization(context)

    with dg.DagsterInstance.ephemeral() as instance:
        graph = dg.Definitions(assets=[whole, below]).resolve_asset_graph()

        def stale() -> list[str]:
            resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
            return [key for key in KEYS if resolver.get_status(below.key, key) != StaleStatus.FRESH]

        assert dg.materialize([whole], instance=instance).success
        assert dg.materialize([below], instance=instance, tags=RANGE).success
        assert stale() == []
        assert dg.materialize([whole], instance=instance).success
        assert stale() == []
        version = "second"
        assert dg.materialize([whole], instance=instance).success
        assert stale() == KEYS
        assert dg.materialize([below], instance=instance, partition_key=KEYS[0]).success
        assert stale() == KEYS[1:]


def test_without_logging_a_range_has_one_data_version_and_a_failed_range_no_partition() -> None:
    broken = False

    @dg.asset(partitions_def=MONTHS, backfill_policy=dg.BackfillPolicy.single_run())
    def plain(context: dg.AssetExecutionContext) -> None:
        if broken:
            raise ValueError

    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([plain], instance=instance, tags=RANGE).success
        assert len({version for _, version in _events(instance, "plain")}) == 1
        before = len(_events(instance, "plain"))
        broken = True
        assert not dg.materialize([plain], instance=instance, tags=RANGE, raise_on_error=False).success
        assert len(_events(instance, "plain")) == before


def test_the_end_offset_does_not_change_the_end_date() -> None:
    months = dg.MonthlyPartitionsDefinition("2023-01-01", end_date="2023-04-01", end_offset=-2)
    assert months.get_partition_keys() == KEYS


def test_a_job_has_a_partitions_def_only_if_it_is_given() -> None:
    with pytest.warns(DeprecationWarning, match="partitions_def"):
        job = dg.define_asset_job("monthly_job", partitions_def=MONTHS)
    assert job.partitions_def == MONTHS
    assert dg.define_asset_job("other_job").partitions_def is None


def test_a_schedule_of_a_partitioned_job_passes_no_partition_by_itself() -> None:
    @dg.asset(partitions_def=MONTHS)
    def monthly() -> None: ...

    schedule = dg.ScheduleDefinition(job=dg.define_asset_job("monthly_job"), cron_schedule="0 0 5 * *")
    defs = dg.Definitions(assets=[monthly], schedules=[schedule])
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(instance=instance, repository_def=defs.get_repository_def())
        (request,) = schedule.evaluate_tick(context).run_requests or []
    assert request.partition_key is None


FLEETS_AND_MONTHS = dg.MultiPartitionsDefinition(
    {"fleet": dg.StaticPartitionsDefinition(["green", "fhv", "fhvhv"]), "month": MONTHS}
)


@dg.asset(partitions_def=FLEETS_AND_MONTHS, backfill_policy=dg.BackfillPolicy.single_run())
def in_two_dimensions(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(metadata={"keys": " ".join(context.partition_keys)})


@pytest.mark.parametrize(
    ("first", "last", "keys"),
    [
        ("green|2023-01-01", "fhv|2023-02-01", ["green|1", "green|2", "fhv|1", "fhv|2"]),
        ("fhv|2023-01-01", "fhvhv|2023-01-01", ["fhv|1", "fhvhv|1"]),
        ("green|2023-02-01", "green|2023-03-01", ["green|2", "green|3"]),
        ("fhv|2023-01-01", "green|2023-03-01", []),
        ("green|2023-02-01", "fhv|2023-01-01", []),
    ],
)
def test_in_two_dimensions_a_range_is_the_product_of_both_ranges_and_backwards_in_one_of_them_it_is_empty(
    first: str, last: str, keys: list[str]
) -> None:
    """The range of `dg launch --partition-range`, and of each run of a backfill."""
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([in_two_dimensions], instance=instance, tags=tags).success
        records = instance.fetch_materializations(in_two_dimensions.key, limit=100).records
        ran: set[str | None] = {f"{fleet}|2023-0{month}-01" for fleet, _, month in (key.partition("|") for key in keys)}
        # Without a partition there is one materialization, of the asset as a whole.
        assert {record.partition_key for record in records} == (ran or {None})


@pytest.mark.parametrize(
    ("fleets", "months", "runs"),
    [
        # As many fleets as months: a run for each month.
        (["green", "fhv"], KEYS[:2], [("green|1", "fhv|1"), ("green|2", "fhv|2")]),
        (["green", "fhv"], KEYS, [("green|1", "green|3"), ("fhv|1", "fhv|3")]),
        (["green", "fhv", "fhvhv"], KEYS[:2], [("green|1", "fhvhv|1"), ("green|2", "fhvhv|2")]),
        (["green", "fhv", "fhvhv"], KEYS[::2], [("green|1", "fhvhv|1"), ("green|3", "fhvhv|3")]),
        (["fhv"], KEYS, [("fhv|1", "fhv|3")]),
        (["green", "fhv", "fhvhv"], KEYS[:1], [("green|1", "fhvhv|1")]),
        # With a gap in the dimension of the ranges.
        (["green", "fhvhv"], KEYS[:1], [("fhvhv|1", "fhvhv|1"), ("green|1", "green|1")]),
    ],
)
def test_a_backfill_of_a_rectangle_is_a_run_for_each_key_of_the_dimension_with_fewer_of_them(
    fleets: list[str], months: list[str], runs: list[tuple[str, str]]
) -> None:
    """As the UI launches a backfill of assets with the policy `single_run`."""
    graph = dg.Definitions(assets=[in_two_dimensions]).resolve_asset_graph()
    partitions = [
        AssetKeyPartitionKey(in_two_dimensions.key, dg.MultiPartitionKey({"fleet": fleet, "month": month}))
        for fleet in fleets
        for month in months
    ]
    with dg.DagsterInstance.ephemeral() as instance:
        requests = build_run_requests_with_backfill_policies(partitions, graph, instance)
    ranges = [
        (request.tags["dagster/asset_partition_range_start"], request.tags["dagster/asset_partition_range_end"])
        for request in requests
        if request.partition_key is None
    ]
    ranges += [(request.partition_key, request.partition_key) for request in requests if request.partition_key]
    short = {f"{fleet}|{key}": f"{fleet}|{int(key[5:7])}" for fleet in ("green", "fhv", "fhvhv") for key in KEYS}
    assert sorted((short[first], short[last]) for first, last in ranges) == sorted(runs)


def test_a_range_with_the_tags_of_one_partition_in_two_dimensions_is_that_partition_alone() -> None:
    """So `partition_run.py` takes the range from the tags. In a backfill of a job from the UI, each run has both."""
    one = {"dagster/partition/fleet": "green", "dagster/partition/month": KEYS[0]}
    range_ = {
        "dagster/asset_partition_range_start": f"green|{KEYS[1]}",
        "dagster/asset_partition_range_end": f"fhv|{KEYS[2]}",
    }
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([in_two_dimensions], instance=instance, tags={**range_, **one}).success
        assert instance.get_materialized_partitions(in_two_dimensions.key) == {f"green|{KEYS[0]}"}


def test_a_backfill_of_a_job_takes_a_slice_of_the_flat_list_of_partitions_a_fleet_after_the_other() -> None:
    """`dagster job backfill` with --from and --to, or --partitions, makes a run for each of these."""
    keys = FLEETS_AND_MONTHS.get_partition_keys()
    assert [key.replace("2023-0", "").removesuffix("-01") for key in keys] == [
        *("green|1", "green|2", "green|3", "fhv|1", "fhv|2", "fhv|3", "fhvhv|1", "fhvhv|2", "fhvhv|3")
    ]
    slice_ = gen_partition_names_from_args(keys, False, None, "green|2023-02-01", "fhv|2023-01-01")
    assert slice_ == ["green|2023-02-01", "green|2023-03-01", "fhv|2023-01-01"]
    chosen = gen_partition_names_from_args(keys, False, "fhvhv|2023-01-01,green|2023-01-01", None, None)
    assert chosen == ["green|2023-01-01", "fhvhv|2023-01-01"]


def test_the_env_file_overrides_the_shell_and_expands_its_variables(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DAGSTER_HOME=${PWD}/.dagster\n")
    (tmp_path / ".dagster").mkdir()
    (tmp_path / "jobs.py").write_text("import dagster as dg\n@dg.asset\ndef one() -> None: ...\n")
    result = subprocess.run(
        [str(Path(sys.executable).parent / "dagster"), "asset", "materialize", "-f", "jobs.py", "--select", "one"],
        cwd=tmp_path,
        env={"PWD": str(tmp_path), "DAGSTER_HOME": "/nowhere", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    with dg.DagsterInstance.from_config(str(tmp_path / ".dagster")) as instance:
        assert instance.get_runs_count() == 1


def test_workspace_dagster_and_dg_name_the_same_module_and_location() -> None:
    root = Path(__file__).resolve().parents[2]
    tool = tomllib.loads((root / "pyproject.toml").read_text())["tool"]
    project = tool["dg"]["project"]
    (entry,) = yaml.safe_load((root / "workspace.yaml").read_text())["load_from"]
    # `dg` loads the module `definitions` of the root module.
    assert project.keys() == {"root_module", "code_location_name"}
    assert (
        (f"{project['root_module']}.definitions", project["code_location_name"])
        == (tool["dagster"]["module_name"], tool["dagster"]["code_location_name"])
        == (entry["python_module"]["module_name"], entry["python_module"]["location_name"])
    )


def test_a_pool_loses_a_step_that_asks_while_the_slot_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a file lock, and not a pool, serializes access to the database."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        storage = instance.event_log_storage
        assert isinstance(storage, SqlEventLogStorage)
        storage.set_concurrency_slots("duckdb", 1)
        assert storage.claim_concurrency_slot("duckdb", "first run", "step").is_claimed
        has_unassigned_slots = storage.has_unassigned_slots

        def asked_just_before_it_is_released(pool: str) -> bool:
            free = bool(has_unassigned_slots(pool))
            storage.free_concurrency_slot_for_step("first run", "step")
            return free

        with monkeypatch.context() as race:
            race.setattr(storage, "has_unassigned_slots", asked_just_before_it_is_released)
            assert not storage.claim_concurrency_slot("duckdb", "second run", "step").is_claimed
        assert storage.get_concurrency_info("duckdb").claimed_slots == []
        assert not storage.claim_concurrency_slot("duckdb", "second run", "step").is_claimed


@pytest.mark.parametrize("waits", [True, False], ids=["as committed", "by default"])
def test_a_run_dequeued_while_no_code_server_answers_is_queued_again(tmp_path: Path, waits: bool) -> None:
    if waits:
        (tmp_path / "dagster.yaml").write_text((ROOT / ".dagster" / "dagster.yaml").read_text())
    with socket.socket() as taken:
        # A port on which no one listens, and that no one else gets meanwhile.
        taken.bind(("127.0.0.1", 0))
        target = GrpcServerTarget(
            host="127.0.0.1", port=taken.getsockname()[1], socket=None, location_name="dagster_essentials"
        )
        (origin,) = target.create_origins()
        with (
            dg.DagsterInstance.from_config(str(tmp_path)) as instance,
            create_test_daemon_workspace_context(target, instance) as workspace,
        ):
            run = create_run_for_test(
                instance,
                "trip_update_job",
                status=dg.DagsterRunStatus.NOT_STARTED,
                remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(origin, "__repository__"), "trip_update_job"),
            )
            instance.report_dagster_event(
                DagsterEvent(dg.DagsterEventType.RUN_ENQUEUED.value, "trip_update_job"), run_id=run.run_id
            )
            for _ in QueuedRunCoordinatorDaemon(interval_seconds=1).run_iteration(workspace):
                pass
            status = instance.get_run_by_id(run.run_id).status  # type: ignore[union-attr]
    assert status == (dg.DagsterRunStatus.QUEUED if waits else dg.DagsterRunStatus.FAILURE)


def test_without_the_file_of_its_events_a_run_and_what_it_materialized_stay_on_record(tmp_path: Path) -> None:
    @dg.asset(partitions_def=MONTHS, backfill_policy=dg.BackfillPolicy.single_run())
    def kept(context: dg.AssetExecutionContext) -> AssetEvents:
        for key in context.partition_keys:
            record_materialization(context, context.assets_def, key, f"version of {key}", {})
        yield from suppress_final_materialization(context)

    def records(folder: Path) -> tuple[object, ...]:
        with dg.DagsterInstance.local_temp(str(folder)) as instance:
            runs = [(run.run_id, run.status) for run in instance.get_runs()]
            return runs, _events(instance, "kept"), instance.get_materialized_partitions(dg.AssetKey("kept"))

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        run = dg.materialize([kept], instance=instance, tags=RANGE)
    before = records(tmp_path)
    # As docs/operations.md does with old ones.
    removed = list((tmp_path / "history/runs").glob("*-*-*.db"))
    assert [path.stem for path in removed] == [run.run_id]
    removed[0].unlink()

    assert records(tmp_path) == before
    assert len(before[1]) == 3  # type: ignore[arg-type]
