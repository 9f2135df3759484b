"""What is counted in the tables: trips by week, and by zone of Manhattan.

Both write their file while they hold the database, so that of runs that overlap the last to write has also counted last.
How the pictures look is decided in `pictures.py`, which weeks there are in `partitions.py`.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
from dagster_duckdb import DuckDBResource
from filelock import FileLock

from dagster_essentials import pictures
from dagster_essentials.assets import constants
from dagster_essentials.assets.trips import (
    DATABASE_NAME,
    DATABASE_POOL,
    OWNERS,
    failing_in_words,
    has_table,
    loaded_months,
    not_written,
    taxi_trips,
    taxi_zones,
)
from dagster_essentials.files import replacing
from dagster_essentials.partitions import months_of_week, weekly_partition
from dagster_essentials.recording import (
    Recorded,
    fail_run,
    name,
    partitions_are_recorded,
    progress,
    record_failure,
    record_partition,
)
from dagster_essentials.zones import coordinates

EVERY_DAY_HAS_TRIPS = "every_day_has_trips"
SUM_MATCHES_TRIPS = "sum_matches_trips"
MANHATTAN_HAS_TRIPS = "manhattan_has_trips"


@dataclass(frozen=True)
class Week:
    """What the trips of one week add up to: counts, US dollars, miles, and the days on which any trip began."""

    period: date
    num_trips: int
    total_amount: float
    trip_distance: float
    passenger_count: int
    days: frozenset[date]


WEEK_COLUMNS = ("period", "num_trips", "total_amount", "trip_distance", "passenger_count")


def count_weeks(connection: duckdb.DuckDBPyConnection, weeks: Sequence[str]) -> list[Week]:
    """Add up the trips of `weeks` (their Sundays, ``YYYY-MM-DD``, oldest first), all in one query.

    A trip belongs to the week in which it began, whichever month's file it stands in.
    """
    sundays = [date.fromisoformat(week) for week in weeks]
    rows = connection.execute(
        """
        WITH days AS (
            SELECT
                pickup_datetime::DATE AS day,
                count(*) AS num_trips,
                -- A value that is no number says as little as one that is null, and would be all that is left of the week.
                fsum(total_amount) FILTER (isfinite(total_amount)) AS total_amount,
                fsum(trip_distance) FILTER (isfinite(trip_distance)) AS trip_distance,
                sum(passenger_count) FILTER (isfinite(passenger_count)) AS passenger_count
            FROM trips WHERE pickup_datetime >= $first AND pickup_datetime < $end
            GROUP BY day
        ), weeks AS (
            SELECT
                -- DuckDB's weeks begin on Monday.
                (date_trunc('week', day + 1) - INTERVAL 1 DAY)::DATE AS period,
                sum(num_trips)::BIGINT AS num_trips,
                fsum(total_amount) AS total_amount,
                fsum(trip_distance) AS trip_distance,
                sum(passenger_count) AS passenger_count,
                list(day) AS days
            FROM days GROUP BY period
        )
        SELECT
            period,
            coalesce(num_trips, 0),
            coalesce(round(total_amount, 2), 0),
            coalesce(round(trip_distance, 2), 0),
            coalesce(passenger_count, 0)::BIGINT,
            coalesce(days, [])
        FROM (SELECT unnest($weeks) AS period) LEFT JOIN weeks USING (period) ORDER BY period
        """,
        {"first": sundays[0], "end": sundays[-1] + timedelta(days=7), "weeks": sundays},
    ).fetchall()
    return [
        Week(period, trips, dollars, miles, passengers, frozenset(days))
        for period, trips, dollars, miles, passengers, days in rows
    ]


def _keep_weeks(connection: duckdb.DuckDBPyConnection, weeks: Sequence[Week]) -> dict[date, int]:
    """Put `weeks` into the table, and the whole table into the CSV. Return the trips of all weeks.

    The file is written before the table is changed for good: what finds no room there is not in the table either.
    """
    connection.execute("BEGIN")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS trips_by_week "
        "(period DATE, num_trips BIGINT, total_amount DOUBLE, trip_distance DOUBLE, passenger_count BIGINT)"
    )
    connection.execute(
        "DELETE FROM trips_by_week WHERE period IN (SELECT unnest($weeks))", {"weeks": [week.period for week in weeks]}
    )
    columns = {name: [getattr(week, name) for week in weeks] for name in WEEK_COLUMNS}
    connection.execute(
        f"INSERT INTO trips_by_week ({', '.join(columns)}) SELECT {', '.join(f'unnest(${name})' for name in columns)}",
        columns,
    )
    rows = connection.execute(f"SELECT {', '.join(WEEK_COLUMNS)} FROM trips_by_week ORDER BY period").fetchall()
    with replacing(Path(constants.TRIPS_BY_WEEK_FILE_PATH)) as temporary:
        with open(temporary, "w", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(WEEK_COLUMNS)
            for period, trips, dollars, miles, passengers in rows:
                lines.writerow([period, trips, f"{dollars:.2f}", f"{miles:.2f}", passengers])
        connection.execute("COMMIT")
    return {row[0]: row[1] for row in rows}


def _why_not_yet(week: str, loaded: set[str]) -> str | None:
    """Why `week` cannot be added up yet, or None."""
    lacking = [month for month in months_of_week(week) if month[:7] not in loaded]
    if not lacking:
        return None
    names, keys = " and ".join(month[:7] for month in lacking), ",".join(lacking)
    return (
        f"has days in {names}, and {'they are' if len(lacking) > 1 else 'it is'} not loaded. "
        f"Materialize taxi_trips_file and taxi_trips for {keys} first."
    )


_AS_IT_WAS = "the weeks could not be added up, and the table trips_by_week is as it was"


def _evaluate_days(week: Week) -> dg.AssetCheckResult:
    months = {month[:7] for month in months_of_week(week.period.isoformat())}
    days = [week.period + timedelta(days=number) for number in range(7)]
    lacking = [day.isoformat() for day in days if day.isoformat()[:7] in months and day not in week.days]
    return dg.AssetCheckResult(
        check_name=EVERY_DAY_HAS_TRIPS,
        passed=not lacking,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Days of the week of {week.period} without trips: {', '.join(lacking) or 'none'}.",
        metadata={"days_without_trips": ", ".join(lacking) or "none"},
    )


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
    owners=OWNERS,
    pool=DATABASE_POOL,
    check_specs=[
        dg.AssetCheckSpec(
            EVERY_DAY_HAS_TRIPS,
            asset="trips_by_week",
            description="Trips began on each day of the week. Every day since 2011 has some; one without means that a file "
            "came with a hole in it.",
            partitions_def=weekly_partition,
        )
    ],
    description="Trips, dollars, miles and passengers of each week, Sunday to Saturday: the table trips_by_week, and all of "
    "it in trips_by_week.csv, which each run writes anew from the table (what was changed in the file by hand is gone "
    "then).",
    metadata={
        "dagster/table_name": f"{DATABASE_NAME}.main.trips_by_week",
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn("period", "date", "Sunday on which the week begins"),
                dg.TableColumn("num_trips", "bigint", "Trips that began in the week"),
                dg.TableColumn("total_amount", "double", "What their passengers paid, US dollars, two decimals"),
                dg.TableColumn("trip_distance", "double", "Miles they went, two decimals"),
                dg.TableColumn("passenger_count", "bigint", "Passengers they had, where the driver entered it"),
            ]
        ),
        "dagster/column_lineage": dg.TableColumnLineage(
            {
                name: [dg.TableColumnDep(taxi_trips.key, column)]
                for name, column in {
                    "period": "pickup_datetime",
                    "num_trips": "pickup_datetime",
                    "total_amount": "total_amount",
                    "trip_distance": "trip_distance",
                    "passenger_count": "passenger_count",
                }.items()
            }
        ),
    },
)
def trips_by_week(context: dg.AssetExecutionContext, database: DuckDBResource) -> Recorded:
    """Add up each week of the run whose months are all loaded; the run fails if there are others, naming them."""
    keys = context.partition_keys
    advice = "If it or trips was made by something else, rename or drop it, and materialize again."
    with database.get_connection() as connection:
        with failing_in_words(f"{', '.join(keys)}: {_AS_IT_WAS}", advice):
            loaded = loaded_months(connection, {month[:7] for key in keys for month in months_of_week(key)})
        reasons = {key: f"{name(context, key)}: {why}" for key in keys if (why := _why_not_yet(key, loaded))}
        for number, (key, reason) in enumerate(reasons.items(), start=1):
            record_failure(context, key, reason, number)
        ready = [key for key in keys if key not in reasons]
        if ready:
            try:
                with failing_in_words(f"{', '.join(ready)}: {_AS_IT_WAS}", advice):
                    weeks = count_weeks(connection, ready)
                    all_weeks = _keep_weeks(connection, weeks)
            except OSError as error:
                why = not_written(error, Path(constants.TRIPS_BY_WEEK_FILE_PATH))
                raise dg.Failure(f"{', '.join(ready)}: {why}", allow_retries=False) from None
            # Recorded before the database is free again: a month that is loaded after this is then also recorded after
            # this, and the week counts as stale.
            for number, week in enumerate(weeks, start=len(reasons) + 1):
                period = week.period.isoformat()
                context.log.info(f"{progress(context, period, number)}: {week.num_trips:,} trips")
                figures = {name: getattr(week, name) for name in WEEK_COLUMNS[1:]}
                # One picture a run: it shows all weeks there are, and takes 40 kB of the event log.
                picture = {"weeks": pictures.preview(pictures.draw_weeks(all_weeks))} if number == len(keys) else {}
                record_partition(
                    context,
                    period,
                    data_version=sha256(repr(figures).encode()).hexdigest(),
                    metadata={
                        **figures,
                        "months": ", ".join(month[:7] for month in months_of_week(period)),
                        "path": dg.MetadataValue.path(constants.TRIPS_BY_WEEK_FILE_PATH),
                        **picture,
                    },
                    checks=[_evaluate_days(week)],
                )
    if reasons:
        fail_run(context, reasons)
    yield from partitions_are_recorded(context)


def _months_in_words(months: Sequence[str]) -> str:
    """``2019-01 to 2019-03, 2020-04``: runs of months by their first and last."""
    runs: list[list[str]] = []
    for month in months:
        after = (date.fromisoformat(f"{runs[-1][-1]}-01") + timedelta(days=31)).isoformat()[:7] if runs else None
        if month == after:
            runs[-1][1:] = [month]
        else:
            runs.append([month])
    words = [" to ".join(run) for run in runs]
    # More than fit into the title of a map.
    return ", ".join(words) if len(words) <= 3 else f"{len(months)} months from {months[0]} to {months[-1]}"


@dg.asset(
    key_prefix="manhattan",
    deps=[taxi_trips, taxi_zones],
    group_name="metrics",
    kinds={"duckdb", "geojson"},
    owners=OWNERS,
    pool=DATABASE_POOL,
    check_specs=[
        dg.AssetCheckSpec(
            SUM_MATCHES_TRIPS,
            asset=dg.AssetKey(["manhattan", "manhattan_stats"]),
            description="The zones' trips add up to the trips that were picked up in a zone of Manhattan: none is counted "
            "twice, as a zones table with several rows for a zone would do.",
        ),
        dg.AssetCheckSpec(
            MANHATTAN_HAS_TRIPS,
            asset=dg.AssetKey(["manhattan", "manhattan_stats"]),
            description="Trips were picked up in Manhattan, in every month. It is nine in ten of a real month; without any, "
            "the ids of the trips and of the zones do not belong together.",
        ),
    ],
    description="Trips picked up in each zone of Manhattan, of all months that are loaded, as GeoJSON.",
    metadata={
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn("zone_id", "integer", "The zone's number, pickup_zone_id in trips"),
                dg.TableColumn("zone", "varchar", "Name of the zone"),
                dg.TableColumn("borough", "varchar", "Manhattan"),
                dg.TableColumn("num_trips", "bigint", "Trips picked up in the zone, 0 for a zone without"),
                dg.TableColumn(
                    "geometry", "geojson", "Outline: multipolygon, degrees of longitude and latitude (WGS 84)"
                ),
            ]
        ),
        "dagster/column_lineage": dg.TableColumnLineage(
            {
                "num_trips": [dg.TableColumnDep(taxi_trips.key, "pickup_zone_id")],
                **{
                    name: [dg.TableColumnDep(taxi_zones.key, name)]
                    for name in ("zone_id", "zone", "borough", "geometry")
                },
            }
        ),
    },
)
def manhattan_stats(database: DuckDBResource) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Count the pickups of all loaded months by zone, and write them with the zones' outlines."""
    path = Path(constants.MANHATTAN_STATS_FILE_PATH)
    with database.get_connection() as connection:
        with failing_in_words(
            "The tables trips and zones could not be counted",
            "If one of them was made by something else, rename or drop it, and materialize taxi_trips or taxi_zones again.",
        ):
            months = _all_months(connection)
            zones = connection.execute(
                """
                WITH pickups AS (SELECT pickup_zone_id, count(*) AS num_trips FROM trips GROUP BY pickup_zone_id)
                SELECT zone_id, zone, borough, coalesce(num_trips, 0), geometry
                FROM zones LEFT JOIN pickups ON pickup_zone_id = zone_id
                WHERE borough = 'Manhattan' ORDER BY zone_id
                """
            ).fetchall()
            picked_up, months_with = connection.execute(
                """
                SELECT count(*), count(DISTINCT partition_date) FROM trips
                WHERE pickup_zone_id IN (SELECT zone_id FROM zones WHERE borough = 'Manhattan')
                """
            ).fetchall()[0]
        if not zones:
            raise dg.Failure(
                "The table zones has no zone of Manhattan. Look what TAXI_ZONES_URL points to, and materialize "
                "taxi_zones_file and taxi_zones again.",
                allow_retries=False,
            )
        try:
            features = [
                {
                    "type": "Feature",
                    "properties": {"zone_id": zone_id, "zone": zone, "borough": borough, "num_trips": num_trips},
                    "geometry": {"type": "MultiPolygon", "coordinates": coordinates(geometry)},
                }
                for zone_id, zone, borough, num_trips, geometry in zones
            ]
        except (ValueError, AttributeError) as error:
            raise dg.Failure(
                f"The table zones has an outline that is not a multipolygon ({error}). Materialize taxi_zones_file and "
                "taxi_zones again.",
                allow_retries=False,
            ) from error
        try:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps({"type": "FeatureCollection", "months": months, "features": features}))
        except OSError as error:
            raise dg.Failure(not_written(error, path), allow_retries=False) from None
    counted = sum(num_trips for _, _, _, num_trips, _ in zones)
    return dg.MaterializeResult(
        metadata={
            "zones": len(zones),
            "num_trips": counted,
            "months": _months_in_words(months),
            "path": dg.MetadataValue.path(str(path)),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=SUM_MATCHES_TRIPS,
                passed=counted == picked_up,
                description=f"{counted:,} trips in the zones, {picked_up:,} picked up in Manhattan.",
                metadata={"trips_in_zones": counted, "trips_picked_up": picked_up},
            ),
            dg.AssetCheckResult(
                check_name=MANHATTAN_HAS_TRIPS,
                passed=months_with == len(months),
                severity=dg.AssetCheckSeverity.WARN,
                description=f"{months_with} of {len(months)} months have trips that were picked up in Manhattan.",
                metadata={"num_trips": picked_up, "months": len(months), "months_with_trips": months_with},
            ),
        ],
    )


def _all_months(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The months that are loaded (``YYYY-MM``), in order.

    Raises:
        dagster.Failure: there are no trips, or no zones.
    """
    if not has_table(connection, "zones"):
        raise dg.Failure(
            "There is no table zones. Materialize taxi_zones_file and taxi_zones first.", allow_retries=False
        )
    months: list[tuple[str]] = []
    if has_table(connection, "trips"):
        months = connection.execute("SELECT DISTINCT partition_date FROM trips ORDER BY partition_date").fetchall()
    if not months:
        raise dg.Failure(
            "No trips are loaded. Materialize taxi_trips_file and taxi_trips for a month first.", allow_retries=False
        )
    return [month for (month,) in months]


@dg.asset(
    deps=[manhattan_stats],
    group_name="metrics",
    kinds={"png"},
    owners=OWNERS,
    description="Map of Manhattan: each zone in the colour of its number of trips.",
    metadata={
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn("geometry", "geojson", "Outline of the zone, as drawn"),
                dg.TableColumn("num_trips", "bigint", "Trips picked up in the zone, as its colour"),
            ]
        ),
        "dagster/column_lineage": dg.TableColumnLineage(
            {name: [dg.TableColumnDep(manhattan_stats.key, name)] for name in ("geometry", "num_trips")}
        ),
    },
)
def manhattan_map() -> dg.MaterializeResult[Any]:
    """Draw the file of `manhattan_stats`."""
    path = Path(constants.MANHATTAN_MAP_FILE_PATH)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One run draws at a time: else one that read older figures could be the last to write.
        with FileLock(path.with_name(f".{path.name}.lock")):
            months, zones = _read_stats(Path(constants.MANHATTAN_STATS_FILE_PATH))
            num_trips = sum(trips for _, trips in zones)
            title = f"Yellow taxi trips picked up in Manhattan\n{months}: {num_trips:,} trips"
            try:
                picture = pictures.draw_map(zones, title)
            except (ValueError, TypeError, IndexError) as error:
                raise _not_ours(Path(constants.MANHATTAN_STATS_FILE_PATH), error) from error
            with replacing(path) as temporary:
                temporary.write_bytes(picture)
    except OSError as error:
        raise dg.Failure(not_written(error, path), allow_retries=False) from None
    return dg.MaterializeResult(
        metadata={
            "map": pictures.preview(picture),
            "months": months,
            "num_trips": num_trips,
            "path": dg.MetadataValue.path(str(path)),
        }
    )


def _read_stats(path: Path) -> tuple[str, list[tuple[Any, int]]]:
    """The months that the file of `manhattan_stats` covers, in words, and each zone's coordinates and trips.

    Raises:
        dagster.Failure: there is no such file, or it is something else.
    """
    try:
        stats = json.loads(path.read_bytes())
        zones = [
            (feature["geometry"]["coordinates"], int(feature["properties"]["num_trips"]))
            for feature in stats["features"]
        ]
        return _months_in_words(stats["months"]), zones
    except FileNotFoundError:
        raise dg.Failure(
            f"{path} is not there. Materialize manhattan/manhattan_stats first.", allow_retries=False
        ) from None
    except OSError as error:
        raise dg.Failure(
            f"{path} cannot be read ({error.strerror}). Look what it is, and materialize manhattan/manhattan_stats again.",
            allow_retries=False,
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise _not_ours(path, error) from error


def _not_ours(path: Path, error: Exception) -> dg.Failure:
    return dg.Failure(
        f"{path} is not what manhattan/manhattan_stats writes ({error!r}). Materialize it again.", allow_retries=False
    )
