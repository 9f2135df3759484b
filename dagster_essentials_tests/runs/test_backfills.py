"""Ranges and backfills of everything, with real `dagster` processes: in how many runs, and that each asset is materialized."""

import json
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest
from PIL import Image

from dagster_essentials.partitions import monthly_partition
from dagster_essentials.sample import write_zones
from dagster_essentials_tests.support.faults.samples import sample
from dagster_essentials_tests.support.project import ROOT, Project
from dagster_essentials_tests.support.run_results import publish
from dagster_essentials_tests.support.source_server import SourceServer

pytestmark = pytest.mark.slow

# What the daemon does with a backfill of all assets ("Materialize all" in the UI), with each run executed when it is launched.
BACKFILL_ALL = """
import logging, os
import dagster as dg
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._time import get_current_timestamp

target = ModuleTarget("dagster_essentials.definitions", None, None, "dagster_essentials")
with (
    dg.DagsterInstance.from_config(os.environ["DAGSTER_HOME"]) as instance,
    create_test_daemon_workspace_context(target, instance) as workspace,
):
    graph = workspace.create_request_context().asset_graph
    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id="all",
        asset_graph=graph,
        partition_names=None,
        asset_selection=list(graph.get_all_asset_keys()),
        backfill_timestamp=get_current_timestamp(),
        tags={},
        dynamic_partitions_store=instance,
        all_partitions=True,
        title=None,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    for _ in range(10):
        list(execute_backfill_iteration(workspace, logging.getLogger()))
        if instance.get_backfill("all").status != BulkActionStatus.REQUESTED:
            break
"""
EXECUTE_WHEN_LAUNCHED = """
run_coordinator:
  module: dagster._core.run_coordinator.default_run_coordinator
  class: DefaultRunCoordinator
run_launcher:
  module: dagster._core.launcher.sync_in_memory_run_launcher
  class: SyncInMemoryRunLauncher
"""


def test_a_backfill_of_all_assets_is_four_runs_whatever_the_day(
    project: Project, source_server: SourceServer, tmp_path: Path
) -> None:
    """Without an end date: each week that is a partition has its months. The lesson in the UI has one."""
    first = (date.today() - timedelta(days=240)).replace(day=1).isoformat()
    months = [key[:7] for key in monthly_partition.get_partition_keys() if key >= first]
    assert 4 <= len(months) <= 6
    for month in months:
        publish(source_server, month, sample(month))
    source_server.files["/taxi_zones.csv"] = write_zones(tmp_path / "source" / "taxi_zones.csv").read_bytes()
    project.environ.update(TAXI_START_DATE=first)
    project.home.mkdir()
    (project.home / "dagster.yaml").write_text(EXECUTE_WHEN_LAUNCHED)

    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BACKFILL_ALL],
        cwd=ROOT,
        env=project.env(),
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )

    assert result.returncode == 0, result.stderr
    with dg.DagsterInstance.from_config(str(project.home)) as instance:
        backfill, runs = instance.get_backfill("all"), instance.get_runs()
    assert backfill is not None
    assert backfill.status.name == "COMPLETED_SUCCESS", result.stderr
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    assert sorted(sorted(key.to_user_string() for key in run.asset_selection or ()) for run in runs) == [
        ["adhoc_request", "manhattan/manhattan_stats", "manhattan_map"],
        ["taxi_trips", "taxi_trips_file"],
        ["taxi_zones", "taxi_zones_file"],
        ["trips_by_week"],
    ]
    assert project.rows() == dict.fromkeys(months, 300)
    assert project.query("SELECT count(*) FROM zones") == [(265,)]
    assert json.loads((project.folder / "staging" / "manhattan_stats.geojson").read_text())["months"] == months
    with Image.open(project.folder / "outputs" / "manhattan_map.png") as image:
        image.load()
    assert project.temporary_files() == []
    assert len((project.folder / "outputs" / "trips_by_week.csv").read_text().splitlines()) - 1 >= 12
    assert (project.folder / "outputs" / "adhoc_request.png").exists()
