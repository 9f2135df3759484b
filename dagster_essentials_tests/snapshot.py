"""The definitions as text, for review: ``python -m dagster_essentials_tests.snapshot`` updates both files.

`definitions.json` has those of the defaults, and `definitions_fleets.json` what the other fleets add to them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg

PATHS = (Path(__file__).with_name("definitions.json"), Path(__file__).with_name("definitions_fleets.json"))


def current_definitions() -> tuple[dict[str, Any], dict[str, Any]]:
    """The definitions as the files of `PATHS` should have them."""
    defaults, fleets = _definitions("none"), _definitions("green,fhv,fhvhv")
    added = {
        kind: {name: each for name, each in found.items() if defaults[kind].get(name) != each}
        for kind, found in fleets.items()
    }
    return defaults, {kind: found for kind, found in added.items() if found}


def _definitions(fleets: str) -> dict[str, Any]:
    # A process for each, as the settings are read once. Start date and lag, which are part of the partitions, are the defaults.
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("TAXI_", "DUCKDB_", "DAGSTER_"))
    }
    script = (
        "import json; from dagster_essentials import defs; from dagster_essentials_tests.snapshot import describe; "
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script + "print(json.dumps(describe(defs)))"],
        cwd=PATHS[0].parent.parent,
        env={**environ, "TAXI_FLEETS": fleets},
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(json.loads(result.stdout))


def describe(defs: dg.Definitions) -> dict[str, Any]:
    """Everything of `defs` that people see or refer to, as plain values."""
    graph = defs.resolve_asset_graph()
    assets = {}
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        schema, lineage = node.metadata.get("dagster/column_schema"), node.metadata.get("dagster/column_lineage")
        assets[key.to_user_string()] = {
            "parents": sorted(parent.to_user_string() for parent in node.parent_keys),
            "group": node.group_name,
            "kinds": sorted(node.kinds or ()),
            "owners": sorted(node.owners),
            "tags": {name: value for name, value in node.tags.items() if not name.startswith("dagster/kind/")},
            "partitions": _partitions(node.partitions_def),
            "backfill_policy": node.backfill_policy and node.backfill_policy.policy_type.name,
            "description": node.description,
            "table": node.metadata.get("dagster/table_name"),
            "columns": isinstance(schema, dg.TableSchema)
            and [f"{column.name} {column.type}: {column.description}" for column in schema.columns],
            "column_lineage": isinstance(lineage, dg.TableColumnLineage)
            and {
                name: [f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in deps]
                for name, deps in lineage.deps_by_column.items()
            },
            "checks": {
                check.name: {
                    "description": graph.get_check_spec(check).description,
                    "blocking": graph.get_check_spec(check).blocking,
                }
                for check in sorted(graph.get_check_keys_for_assets({key}))
            },
        }
    repository = defs.get_repository_def()
    return {
        "assets": assets,
        "jobs": {
            job.name: {
                "assets": sorted(key.to_user_string() for key in job.asset_layer.selected_asset_keys),
                "partitions": _partitions(job.partitions_def),
                "executor": job.executor_def.name,
                "description": job.description,
            }
            for job in repository.get_all_jobs()
            if not job.name.startswith("__")
        },
        "schedules": {
            schedule.name: {
                "job": schedule.job_name,
                "cron": schedule.cron_schedule,
                "time_zone": schedule.execution_timezone,
                "status": schedule.default_status.value,
                "description": schedule.description,
            }
            for schedule in repository.schedule_defs
        },
        "sensors": {
            sensor.name: {
                "job": sensor.job_name if sensor.has_jobs else None,
                "seconds": sensor.minimum_interval_seconds,
                "status": sensor.default_status.value,
                "description": sensor.description,
            }
            for sensor in repository.sensor_defs
        },
    }


def _partitions(partitions: dg.PartitionsDefinition[Any] | None) -> str | None:
    if isinstance(partitions, dg.MultiPartitionsDefinition):
        dimensions = {each.name: _partitions(each.partitions_def) for each in partitions.partitions_defs}
        return "; ".join(f"{name}: {keys}" for name, keys in dimensions.items())
    if isinstance(partitions, dg.StaticPartitionsDefinition):
        return ", ".join(partitions.get_partition_keys())
    if not isinstance(partitions, dg.TimeWindowPartitionsDefinition):
        return None
    return f"{partitions.cron_schedule} from {partitions.start.date()}, offset {partitions.end_offset}"


if __name__ == "__main__":
    for path, definitions in zip(PATHS, current_definitions(), strict=True):
        path.write_text(json.dumps(definitions, indent=2) + "\n")
