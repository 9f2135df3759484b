"""Metrics of the tables: trips by week, and by zone of Manhattan.

Each file is written while no other run writes it, so that of overlapping runs the last to write has also read last. The
queries and files are in `reports/`; which weeks exist is decided in `partitions.py`.
"""

from collections.abc import Sequence
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_duckdb import DuckDBResource

from dagster_essentials import settings
from dagster_essentials.assets import constants
from dagster_essentials.assets.trips import taxi_trips, taxi_zones
from dagster_essentials.orchestration.database import open_tables
from dagster_essentials.orchestration.events import AssetEvents
from dagster_essentials.orchestration.failures import fail_with_message
from dagster_essentials.orchestration.metadata import column_lineage, columns_metadata, png_metadata
from dagster_essentials.orchestration.partition_run import PartitionRun
from dagster_essentials.partitions import weekly_partition
from dagster_essentials.reports import manhattan, weekly
from dagster_essentials.warehouse.tables import COMMITS

EVERY_DAY_HAS_TRIPS = "every_day_has_trips"
SUM_MATCHES_TRIPS = "sum_matches_trips"
MANHATTAN_HAS_TRIPS = "manhattan_has_trips"


@dg.asset(
    deps=[
        dg.AssetDep(
            taxi_trips,
            # The first and the last week have days in months that are no partitions.
            partition_mapping=dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True),
        )
    ],
    partitions_def=weekly_partition,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="metrics",
    kinds={"duckdb", "table", "csv"},
    check_specs=[
        dg.AssetCheckSpec(
            EVERY_DAY_HAS_TRIPS,
            asset="trips_by_week",
            description="Trips began on each day of every loaded month. Every day since 2011 has some, so a day without any "
            "means that part of a file is missing.",
        )
    ],
    description="Trips, dollars, miles and passengers of each week, Sunday to Saturday, and how many of its days are loaded: "
    "the table `trips_by_week`, and trips_by_week.csv, which every run rewrites from the whole table. Do not edit the file: "
    "the next run replaces it.",
    metadata={
        "dagster/table_name": f"{settings.SETTINGS.database_name}.main.trips_by_week",
        "dagster/column_schema": columns_metadata(*weekly.TRIPS_BY_WEEK.columns),
        "dagster/column_lineage": dg.TableColumnLineage(
            column_lineage(
                taxi_trips,
                {
                    "period": "pickup_datetime",
                    "num_trips": "pickup_datetime",
                    "total_amount": "total_amount",
                    "trip_distance": "trip_distance",
                    "passenger_count": "passenger_count",
                    "days": "pickup_datetime",
                },
            )
        ),
    },
)
def trips_by_week(context: dg.AssetExecutionContext, database: DuckDBResource) -> AssetEvents:
    """Aggregate each week whose months are all loaded; the run fails if there are others, and names them."""
    run = PartitionRun(context, lambda week: f"week of {week}", "week", "trips")
    with run.all_pending(), open_tables(database) as tables, tables.exclusive("trips_by_week"):
        loaded = weekly.find_loaded_months(tables)
        for key in run.pending():
            with run.partition(key):
                weekly.check_months_are_loaded(key, loaded)
        if ready := list(run.pending()):
            weeks = weekly.upsert_weeks(tables, ready, Path(constants.TRIPS_BY_WEEK_FILE_PATH), settings.SETTINGS.files)
            # One picture a run: it shows all weeks, and takes 70 kB of the event log.
            plot = png_metadata(weekly.plot_all_weeks(tables))
            for week in weeks:
                run.materialized(
                    week.period.isoformat(),
                    rows=week.num_trips,
                    data_version=sha256(repr(week.figures).encode()).hexdigest(),
                    metadata={
                        **week.figures,
                        "days_without_trips": _days(week.days_without_trips()),
                        "months": ", ".join(month[:7] for month in weekly.months_of_week(week.period.isoformat())),
                        "path": dg.MetadataValue.path(
                            settings.SETTINGS.files.location(constants.TRIPS_BY_WEEK_FILE_PATH)
                        ),
                        **({"weeks": plot} if week is weeks[-1] else {}),
                    },
                )
        yield _evaluate_days(weekly.days_without_trips(tables, loaded))
    yield from run.finish("aggregated")


def _evaluate_days(missing: Sequence[date]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=EVERY_DAY_HAS_TRIPS,
        passed=not missing,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Days of the loaded months without trips: {_days(missing)}.",
        metadata={"days_without_trips": _days(missing)},
    )


def _days(days: Sequence[date]) -> str:
    return ", ".join(day.isoformat() for day in days) or "none"


@dg.asset(
    key_prefix="manhattan",
    deps=[taxi_trips, taxi_zones],
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="metrics",
    kinds={"duckdb", "geojson"},
    check_specs=[
        dg.AssetCheckSpec(
            SUM_MATCHES_TRIPS,
            asset=dg.AssetKey(["manhattan", "manhattan_stats"]),
            description="The sum over the zones is the number of trips picked up in a zone of Manhattan: none is counted "
            "twice, as a zones table with several rows for a zone would do.",
        ),
        dg.AssetCheckSpec(
            MANHATTAN_HAS_TRIPS,
            asset=dg.AssetKey(["manhattan", "manhattan_stats"]),
            description="Trips were picked up in Manhattan in every month. In real months these are nine in ten, so a month "
            "without any means that the zone ids of the trips are not those of the zones.",
        ),
    ],
    description="Trips picked up in each zone of Manhattan, in all loaded months, as GeoJSON.",
    metadata={
        "dagster/column_schema": columns_metadata(
            ("zone_id", "integer", "The zone's number, pickup_zone_id in trips"),
            ("zone", "varchar", "Name of the zone"),
            ("borough", "varchar", "Manhattan"),
            ("num_trips", "bigint", "Trips picked up in the zone; 0 if there are none"),
            ("geometry", "geojson", "Outline: multipolygon, degrees of longitude and latitude (WGS 84)"),
        ),
        "dagster/column_lineage": dg.TableColumnLineage(
            {
                **column_lineage(taxi_trips, {"num_trips": "pickup_zone_id"}),
                **column_lineage(taxi_zones, {name: name for name in ("zone_id", "zone", "borough", "geometry")}),
            }
        ),
    },
)
def manhattan_stats(database: DuckDBResource) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Count the pickups of all loaded months by zone, and write them with the zones' outlines."""
    with fail_with_message(), open_tables(database) as tables, tables.exclusive(COMMITS):
        stats = manhattan.write_manhattan_stats(
            tables, Path(constants.MANHATTAN_STATS_FILE_PATH), settings.SETTINGS.files
        )
    return dg.MaterializeResult(
        metadata={
            "zones": stats.zones,
            "num_trips": stats.num_trips,
            "months": manhattan.describe_months(stats.months),
            "path": dg.MetadataValue.path(settings.SETTINGS.files.location(constants.MANHATTAN_STATS_FILE_PATH)),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=SUM_MATCHES_TRIPS,
                passed=stats.num_trips == stats.trips_picked_up,
                description=f"{stats.num_trips:,} trips in the zones, {stats.trips_picked_up:,} picked up in Manhattan.",
                metadata={"trips_in_zones": stats.num_trips, "trips_picked_up": stats.trips_picked_up},
            ),
            dg.AssetCheckResult(
                check_name=MANHATTAN_HAS_TRIPS,
                passed=stats.months_with_trips == len(stats.months),
                severity=dg.AssetCheckSeverity.WARN,
                description=f"{stats.months_with_trips} of {len(stats.months)} months have trips picked up in Manhattan.",
                metadata={
                    "num_trips": stats.trips_picked_up,
                    "months": len(stats.months),
                    "months_with_trips": stats.months_with_trips,
                },
            ),
        ],
    )


@dg.asset(
    deps=[manhattan_stats],
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="metrics",
    kinds={"png"},
    description="Map of Manhattan: each zone coloured by its number of trips.",
    metadata={
        "dagster/column_schema": columns_metadata(
            ("geometry", "geojson", "Outline of the zone, as plotted"),
            ("num_trips", "bigint", "Trips picked up in the zone, as its colour"),
        ),
        "dagster/column_lineage": dg.TableColumnLineage(
            column_lineage(manhattan_stats, {"geometry": "geometry", "num_trips": "num_trips"})
        ),
    },
)
def manhattan_map() -> dg.MaterializeResult[Any]:
    """Plot the file of `manhattan_stats`."""
    with fail_with_message():
        plotted = manhattan.write_manhattan_map(
            Path(constants.MANHATTAN_STATS_FILE_PATH),
            Path(constants.MANHATTAN_MAP_FILE_PATH),
            settings.SETTINGS.files,
        )
    return dg.MaterializeResult(
        metadata={
            "map": png_metadata(plotted.png),
            "months": plotted.months,
            "num_trips": plotted.num_trips,
            "path": dg.MetadataValue.path(settings.SETTINGS.files.location(constants.MANHATTAN_MAP_FILE_PATH)),
        }
    )
