"""The storage of the instance, beside Dagster's own, which uses the same files."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

import dagster_essentials_instance
from dagster_essentials_tests.support.project import ROOT

SETTINGS = (ROOT / ".dagster/dagster.yaml").read_text()
MONTHS = dg.StaticPartitionsDefinition(["2023-01", "2023-02", "2023-03"])

REPORTING = """
import sys
import dagster as dg
with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    print("dagster_essentials" in sys.modules, flush=True)
    for number in range(1, 21):
        instance.report_engine_event(f"{number} of 20", job_name="job", run_id=sys.argv[2])
    sys.stdin.read()
"""
"""A process that has the files of the instance open, as that of a run has."""


@dg.asset(partitions_def=MONTHS, check_specs=[dg.AssetCheckSpec("has_rows", asset="trips", partitions_def=MONTHS)])
def trips() -> Iterator[dg.MaterializeResult[None]]:
    yield dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=True, metadata={"rows": 3})])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of an instance with the settings of the project."""
    (tmp_path / "dagster.yaml").write_text(SETTINGS)
    return tmp_path


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


@pytest.fixture
def dagsters_own(home: Path, instance: dg.DagsterInstance) -> Iterator[dg.DagsterInstance]:
    """The same instance, with Dagster's own storage."""
    (home / "own").mkdir()
    (home / "own/dagster.yaml").write_text(f"storage: {{sqlite: {{base_dir: '{home}'}}}}")
    with dg.DagsterInstance.from_config(str(home / "own")) as own:
        assert type(own.event_log_storage).__name__ != type(instance.event_log_storage).__name__
        yield own


def run_month(instance: dg.DagsterInstance, month: str = "2023-01") -> str:
    return dg.materialize([trips], instance=instance, partition_key=month).run_id


def events(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    return [repr(entry) for entry in instance.all_logs(run_id)]


def test_each_storage_reads_what_the_other_has_written_while_both_are_open(
    instance: dg.DagsterInstance, dagsters_own: dg.DagsterInstance
) -> None:
    runs = {run_month(instance, "2023-01"), run_month(dagsters_own, "2023-02"), run_month(instance, "2023-03")}
    for reader in (instance, dagsters_own):
        assert {run.run_id for run in reader.get_runs()} == runs
        assert reader.get_materialized_partitions(trips.key) == set(MONTHS.get_partition_keys())
        checks = reader.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(trips.key, "has_rows"), limit=9
        )
        assert {(check.run_id, check.status.value) for check in checks} == {(run, "SUCCEEDED") for run in runs}
    for run_id in runs:
        assert len(events(instance, run_id)) > 10
        assert events(instance, run_id) == events(dagsters_own, run_id)


def test_a_page_that_shows_a_run_gets_every_event_of_a_process_that_still_runs(
    home: Path, instance: dg.DagsterInstance
) -> None:
    run_id = run_month(instance)
    shown: list[str] = []
    cursor = instance.event_log_storage.get_records_for_run(run_id).cursor
    instance.watch_event_logs(run_id, cursor, on_event := lambda event, _: shown.append(event.message))
    command = [sys.executable, "-c", REPORTING, str(home), run_id]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        # To open the instance imports nothing of the package: it would be that of the environment, not that of the current
        # folder.
        assert process.stdout is not None
        assert process.stdout.readline() == b"False\n"
        expected = [f"{number} of 20" for number in range(1, 21)]
        deadline = time.monotonic() + 300
        while len(shown) < 20 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert shown == expected
        assert process.poll() is None
        instance.end_watch_event_logs(run_id, on_event)
        instance.report_engine_event("nobody looks at it any more", job_name="job", run_id=run_id)
    time.sleep(2 * dagster_essentials_instance.POLL_SECONDS)
    assert shown == expected


def test_a_file_that_was_closed_for_others_is_opened_again(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dagster_essentials_instance, "MAX_FILES", 2)
    runs = [run_month(instance) for _ in range(4)]
    for run_id in [*runs, *reversed(runs)]:
        assert instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_SUCCESS)
