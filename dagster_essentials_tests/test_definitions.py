"""The names that people import and read in the UI. A change here is a change for everyone who uses the project."""

import subprocess
import sys

import dagster as dg
from dagster_duckdb import DuckDBResource

from dagster_essentials import defs
from dagster_essentials.assets import constants, trips
from dagster_essentials.columns import COLUMNS
from dagster_essentials.jobs import trip_update_job
from dagster_essentials.partitions import monthly_partition
from dagster_essentials.resources import database_resource
from dagster_essentials.schedules import trip_update_schedule


def test_the_graph_is_what_it_was() -> None:
    graph = defs.resolve_asset_graph()
    assert {
        key.to_user_string(): (
            sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            graph.get(key).group_name,
            graph.get(key).partitions_def,
            str(graph.get(key).backfill_policy and graph.get(key).backfill_policy.policy_type.name),
            sorted(graph.get(key).kinds or ()),
            sorted(check.name for check in graph.get_check_keys_for_assets({key})),
        )
        for key in graph.get_all_asset_keys()
    } == {
        "taxi_zones_file": ([], "raw_files", None, "None", ["csv"], []),
        "taxi_zones": (["taxi_zones_file"], "ingested", None, "None", ["duckdb", "table"], []),
        "taxi_trips_file": ([], "raw_files", monthly_partition, "SINGLE_RUN", ["parquet"], []),
        "taxi_trips": (
            ["taxi_trips_file"],
            "ingested",
            monthly_partition,
            "SINGLE_RUN",
            ["duckdb", "table"],
            [
                *("columns_known", "dropoff_after_pickup", "flex_fare_share", "no_duplicates", "no_negative_totals"),
                *("no_zero_distances", "pickups_in_month", "rows_match_file", "zones_known"),
            ],
        ),
    }


def test_jobs_and_schedules_are_found_by_the_names_of_the_course() -> None:
    job = defs.get_job_def("trip_update_job")
    assert job.partitions_def == trip_update_job.partitions_def == monthly_partition
    assert {key.to_user_string() for key in job.asset_layer.selected_asset_keys} == {
        *("taxi_zones_file", "taxi_zones", "taxi_trips_file", "taxi_trips")
    }
    schedule = defs.get_schedule_def("trip_update_job_schedule")
    assert schedule is trip_update_schedule
    assert (schedule.cron_schedule, schedule.job_name) == ("0 0 5 * *", "trip_update_job")


def test_the_database_is_a_duckdb_resource_under_the_key_database() -> None:
    assert isinstance(database_resource, DuckDBResource)
    assert (defs.resources or {})["database"] is database_resource


def test_paths_are_the_courses_and_absolute() -> None:
    assert constants.DATE_FORMAT == "%Y-%m-%d"
    assert constants.TAXI_ZONES_FILE_PATH.startswith("/")
    assert constants.TAXI_ZONES_FILE_PATH.endswith("/raw/taxi_zones.csv")
    assert constants.TAXI_TRIPS_TEMPLATE_FILE_PATH.format("2023-03").endswith("/raw/taxi_trips_2023-03.parquet")


def test_the_ui_knows_table_columns_units_and_lineage_from_the_definition() -> None:
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


def test_nothing_heavy_is_imported_with_the_code_location() -> None:
    script = "import sys, dagster_essentials.definitions; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert "dagster" in modules
    assert not {"pandas", "numpy", "pyarrow", "matplotlib", "geopandas"} & set(modules)


def test_importing_the_definitions_prints_nothing() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import dagster_essentials.definitions"], check=True, capture_output=True, text=True
    )
    assert (result.stdout, result.stderr) == ("", "")
