"""The names that people import and read in the UI, and the structure of the package."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster_duckdb import DuckDBResource

from dagster_essentials import defs
from dagster_essentials.assets import constants, trips
from dagster_essentials.datasets.yellow import COLUMNS
from dagster_essentials.jobs import trip_update_job, weekly_update_job
from dagster_essentials.partitions import monthly_partition, weekly_partition
from dagster_essentials.resources import database_resource
from dagster_essentials.schedules import trip_update_schedule, weekly_update_schedule
from dagster_essentials.sensors import adhoc_request_sensor
from dagster_essentials_tests import snapshot
from dagster_essentials_tests.support.project import ROOT


def test_the_definitions_are_those_of_the_snapshot() -> None:
    """If a change is intended, ``python -m dagster_essentials_tests.snapshot`` updates the files, for review."""
    assert snapshot.current_definitions() == tuple(json.loads(path.read_text()) for path in snapshot.PATHS)


def test_every_asset_has_a_description_a_group_kinds_and_columns_and_takes_ranges_in_one_run() -> None:
    lesson, fleets = (json.loads(path.read_text())["assets"] for path in snapshot.PATHS)
    assert (len(lesson), len(fleets)) == (8, 3)
    for name, asset in (lesson | fleets).items():
        empty = [fact for fact in ("description", "group", "kinds", "columns") if not asset[fact]]
        assert empty == [], name
        assert asset["backfill_policy"] == "SINGLE_RUN", name


def test_jobs_schedules_and_the_sensor_have_the_names_of_the_course() -> None:
    job = defs.get_job_def("trip_update_job")
    assert job.partitions_def == trip_update_job.partitions_def == monthly_partition
    assert {key.to_user_string() for key in job.asset_layer.selected_asset_keys} == {
        *("taxi_zones_file", "taxi_zones", "taxi_trips_file", "taxi_trips"),
        *("manhattan/manhattan_stats", "manhattan_map"),
    }
    weekly = defs.get_job_def("weekly_update_job")
    assert weekly.partitions_def == weekly_update_job.partitions_def == weekly_partition
    assert weekly.asset_layer.selected_asset_keys == {dg.AssetKey("trips_by_week")}
    assert defs.get_job_def("adhoc_request_job").asset_layer.selected_asset_keys == {dg.AssetKey("adhoc_request")}
    for name, schedule, cron, job_name in (
        ("trip_update_job_schedule", trip_update_schedule, "0 0 5 * *", "trip_update_job"),
        ("weekly_update_job_schedule", weekly_update_schedule, "0 0 * * 1", "weekly_update_job"),
    ):
        assert defs.get_schedule_def(name) is schedule
        assert (schedule.cron_schedule, schedule.job_name) == (cron, job_name)
    assert defs.get_sensor_def("adhoc_request_sensor") is adhoc_request_sensor
    assert adhoc_request_sensor.job_name == "adhoc_request_job"


def test_the_database_is_a_duckdb_resource_under_the_key_database() -> None:
    assert isinstance(database_resource, DuckDBResource)
    assert (defs.resources or {})["database"] is database_resource


def test_paths_are_those_of_the_course_and_absolute() -> None:
    assert constants.DATE_FORMAT == "%Y-%m-%d"
    assert constants.TAXI_ZONES_FILE_PATH.startswith("/")
    assert constants.TAXI_ZONES_FILE_PATH.endswith("/raw/taxi_zones.csv")
    assert constants.TRIPS_BY_WEEK_FILE_PATH.endswith("/outputs/trips_by_week.csv")
    assert constants.MANHATTAN_STATS_FILE_PATH.endswith("/staging/manhattan_stats.geojson")
    assert constants.MANHATTAN_MAP_FILE_PATH.endswith("/outputs/manhattan_map.png")
    assert constants.REQUEST_DESTINATION_TEMPLATE_FILE_PATH.format("x").endswith("/outputs/x.png")
    assert constants.TAXI_TRIPS_TEMPLATE_FILE_PATH.format("2023-03").endswith("/raw/taxi_trips_2023-03.parquet")


def test_table_name_columns_and_lineage_are_part_of_the_definition() -> None:
    metadata = trips.taxi_trips.metadata_by_key[trips.taxi_trips.key]
    schema = metadata["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    assert [column.name for column in schema.columns] == [column.name for column in COLUMNS]
    assert all(column.description for column in schema.columns)
    lineage = metadata["dagster/column_lineage"]
    assert isinstance(lineage, dg.TableColumnLineage)
    assert lineage.deps_by_column["pickup_zone_id"] == [
        dg.TableColumnDep(dg.AssetKey("taxi_trips_file"), "PULocationID")
    ]
    assert metadata["dagster/table_name"] == "no.main.trips"


def test_every_asset_links_to_the_lines_that_define_it() -> None:
    for node in defs.resolve_asset_graph().asset_nodes:
        references = node.metadata["dagster/code_references"]
        assert isinstance(references, dg.CodeReferencesMetadataValue)
        (source,) = references.code_references
        assert isinstance(source, dg.LocalFileCodeReference)
        assert Path(source.file_path).is_relative_to(PACKAGE / "assets")
        assert source.line_number is not None
        definition = Path(source.file_path).read_text().splitlines()[source.line_number - 1 :]
        assert definition[0] == "@dg.asset("
        function = next(line for line in definition if line.startswith("def "))
        assert function.startswith(f"def {node.key.path[-1]}(")


def test_the_code_location_imports_no_heavy_package_and_prints_nothing() -> None:
    packages = {"dagster", "pandas", "numpy", "pyarrow", "matplotlib", "geopandas"}
    script = f"import sys, dagster_essentials.definitions; print(*{packages} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("dagster\n", "")


# The structure.

PACKAGE = ROOT / "dagster_essentials"
MODULES = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def imported_names(source: str) -> set[str]:
    """The modules that `source` imports, and the names that it imports from them: ``dagster._core.events.DagsterEvent``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_private_name_of_dagster(name: str) -> bool:
    package, *parts = name.split(".")
    return (package == "dagster" or package.startswith("dagster_")) and any(part.startswith("_") for part in parts)


def test_three_modules_import_private_names_of_dagster() -> None:
    private = {
        module for module, source in MODULES.items() if any(map(is_private_name_of_dagster, imported_names(source)))
    }
    assert private == {"orchestration/events.py", "operations/launcher.py", "operations/celery_launcher.py"}


@pytest.mark.parametrize("module", MODULES)
def test_every_module_fits_its_limit(module: str) -> None:
    assert len(MODULES[module].splitlines()) <= (249 if module.startswith("assets/") else 340)


def test_every_asset_function_has_at_most_forty_lines() -> None:
    lengths = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for module, source in MODULES.items()
        if module.startswith("assets/")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and any("dg.asset" in ast.unparse(call) for call in node.decorator_list)
    }
    assert len(lengths) == 12
    assert {name: length for name, length in lengths.items() if length > 40} == {}
