"""The results of a run: files, rows and events in Dagster's log. And the months that the source serves."""

import re
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


def check_evaluations(
    instance: dg.DagsterInstance, run_id: str, asset: dg.AssetsDefinition | None = None
) -> dict[str, dg.AssetCheckEvaluation]:
    """The results of the asset checks of a run, or of those of `asset`, by name: each is evaluated once, for all months."""
    evaluations: dict[str, dg.AssetCheckEvaluation] = {}
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    for record in records:
        assert record.event_log_entry.dagster_event is not None
        evaluation = record.event_log_entry.dagster_event.asset_check_evaluation_data
        if asset is not None and evaluation.asset_key != asset.key:
            continue
        assert evaluation.partition is None
        assert evaluation.check_name not in evaluations, "evaluated twice"
        evaluations[evaluation.check_name] = evaluation
    return evaluations


def warnings(instance: dg.DagsterInstance, run_id: str) -> set[str]:
    """The checks that did not pass in a run; all of them are warnings."""
    failed = {name: each for name, each in check_evaluations(instance, run_id).items() if not each.passed}
    assert {each.severity for each in failed.values()} <= {dg.AssetCheckSeverity.WARN}
    return set(failed)


def month_page(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, partition: str) -> dict[str, Any]:
    """The metadata on the page of a `partition` of `asset`: that of its latest materialization."""
    of_partition = dg.AssetRecordsFilter(asset.key, asset_partitions=[partition])
    (record,) = instance.fetch_materializations(of_partition, limit=1).records
    assert record.asset_materialization is not None
    return {name: value.value for name, value in record.asset_materialization.metadata.items()}


def not_passed(instance: dg.DagsterInstance, asset: dg.AssetsDefinition = trips.taxi_trips) -> set[tuple[str, str]]:
    """The checks that a month does not pass by its own page, as partition and name, of all months of `asset`."""
    pages = {key: month_page(instance, asset, key) for key in instance.get_materialized_partitions(asset.key)}
    names = [spec.name for spec in asset.check_specs]
    return {
        (key, name)
        for key, page in pages.items()
        for name in names
        if re.search(rf"(^|; ){name}: ", page["checks_not_passed"])
    }


def step_log(instance: dg.DagsterInstance, run_id: str, step: str) -> list[str]:
    """The messages that the asset of `step` has logged in a run, without Dagster's own."""
    entries = instance.all_logs(run_id)
    return [entry.user_message for entry in entries if entry.dagster_event is None and entry.step_key == step]
