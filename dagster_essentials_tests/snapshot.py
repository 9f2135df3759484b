"""The definitions as text, for review: ``python -m dagster_essentials_tests.snapshot`` updates `definitions.json`."""

import json
import os
from pathlib import Path
from typing import Any

import dagster as dg

PATH = Path(__file__).with_name("definitions.json")


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
    # Start date and lag are part of the partitions: always those of the defaults.
    for name in [name for name in os.environ if name.startswith(("TAXI_", "DUCKDB_", "DAGSTER_"))]:
        del os.environ[name]
    from dagster_essentials import defs

    PATH.write_text(json.dumps(describe(defs), indent=2) + "\n")
