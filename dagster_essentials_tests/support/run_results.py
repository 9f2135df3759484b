"""The results of a run: files, rows and events in Dagster's log. And the months that the source serves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from dagster_essentials.assets import fleets, trips
from dagster_essentials_tests.support.faults.samples import sample
from dagster_essentials_tests.support.project import Project, materialize
from dagster_essentials_tests.support.source_server import Answer, SourceServer

TRIPS = [trips.taxi_trips_file, trips.taxi_trips]
ZONES = [trips.taxi_zones_file, trips.taxi_zones]
FLEETS = [fleets.fleet_trips_file, fleets.fleet_trips]


def publish(source_server: SourceServer, month: str, what: bytes | Answer, fleet: str = "yellow") -> str:
    """Let the source serve the file `what` for `month` (``YYYY-MM``), or always give that answer; returns the URL."""
    path = source_server.put_month(month, what if isinstance(what, bytes) else b"", fleet)
    source_server.answers.pop(path, None)
    if not isinstance(what, bytes):
        source_server.answers[path] = [what]
    return source_server.url + path


@dataclass(frozen=True)
class Snapshot:
    """All that a load could change: the files in the folder of raw files, and the table's columns and rows."""

    files: Mapping[str, bytes]
    columns: list[tuple[Any, ...]]
    rows: list[tuple[Any, ...]]


def take_snapshot(project: Project) -> Snapshot:
    folder = project.folder / "raw"
    files = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}
    if not project.rows():
        return Snapshot(files, [], [])
    return Snapshot(files, project.query("DESCRIBE trips"), project.query("SELECT * FROM trips ORDER BY ALL"))


def load_two_months(project: Project, instance: dg.DagsterInstance, source_server: SourceServer) -> Snapshot:
    """Load January and February 2023, 300 trips each: what exists before a test."""
    for month in ("2023-01", "2023-02"):
        publish(source_server, month, sample(month))
    assert materialize(project, instance, TRIPS, "2023-01", "2023-02").success
    snapshot = take_snapshot(project)
    assert len(snapshot.rows) == 600
    return snapshot


def materialized_partitions(instance: dg.DagsterInstance, asset: dg.AssetsDefinition) -> list[str | None]:
    """The partitions of the materializations of `asset`, one for each materialization."""
    records = instance.fetch_materializations(asset.key, limit=1000).records
    return sorted((record.partition_key for record in records), key=str)


def check_evaluations(instance: dg.DagsterInstance, run_id: str) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    """The results of the asset checks of a run, by partition and name of the check."""
    evaluations: dict[tuple[str, str], dg.AssetCheckEvaluation] = {}
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    for record in records:
        assert record.event_log_entry.dagster_event is not None
        evaluation = record.event_log_entry.dagster_event.asset_check_evaluation_data
        partition = str(evaluation.partition)
        assert (partition, evaluation.check_name) not in evaluations, "evaluated twice"
        evaluations[partition, evaluation.check_name] = evaluation
    return evaluations


def warnings(instance: dg.DagsterInstance, run_id: str) -> set[tuple[str, str]]:
    """The checks that did not pass in a run, as partition and name; all of them are warnings."""
    evaluations = check_evaluations(instance, run_id)
    failed = {key: evaluation for key, evaluation in evaluations.items() if not evaluation.passed}
    assert {evaluation.severity for evaluation in failed.values()} <= {dg.AssetCheckSeverity.WARN}
    return set(failed)


def step_log(instance: dg.DagsterInstance, run_id: str, step: str) -> list[str]:
    """The messages that the asset of `step` has logged in a run, without Dagster's own."""
    entries = instance.all_logs(run_id)
    return [entry.user_message for entry in entries if entry.dagster_event is None and entry.step_key == step]
