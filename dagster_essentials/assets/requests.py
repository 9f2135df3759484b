"""Ad-hoc requests: what one may ask for, and the picture that answers it.

Which files are requests, and when they are new, is decided in `sensors.py`. The rules for their values are here, so that
they hold for a request from the UI's launchpad as well.
"""

import re
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from unicodedata import normalize

import dagster as dg
import duckdb
from dagster_duckdb import DuckDBResource
from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from dagster_essentials import pictures
from dagster_essentials.assets import constants
from dagster_essentials.assets.trips import (
    DATABASE_POOL,
    OWNERS,
    failing_in_words,
    has_table,
    loaded_months,
    newest_month,
    not_written,
    taxi_trips,
    taxi_zones,
)
from dagster_essentials.files import replacing
from dagster_essentials.zones import BOROUGHS

PERIOD_IS_LOADED = "period_is_loaded"

_OTHER_PICTURES = {Path(constants.MANHATTAN_MAP_FILE_PATH).stem}


class AdhocRequestConfig(dg.Config):
    """A request: the trips of a borough in a period, by hour and day of the week.

    A request's file says all but its name. From the UI nothing has to be said: "Materialize all" on the lineage page takes
    this asset along, and without a default its backfill would fail before it draws anything.
    """

    filename: str = Field(
        default="adhoc_request.json", description="Name of the request's file; NAME.json gives data/outputs/NAME.png"
    )
    borough: str = Field(default="Manhattan", description=f"Where the trips began: {', '.join(BOROUGHS)}")
    start_date: str | None = Field(
        default=None, description="First day, YYYY-MM-DD; without both dates it is the newest month that is loaded"
    )
    end_date: str | None = Field(default=None, description="The day after the last one, YYYY-MM-DD")

    @property
    def name(self) -> str:
        """The name of the request, which its picture has too."""
        return self.filename.removesuffix(".json")

    @field_validator("filename")
    @classmethod
    def _is_a_plain_name(cls, filename: str) -> str:
        name = filename.removesuffix(".json")
        # Letters, digits and what cannot lead to another folder, hide the file, or stand for something else in a shell.
        # Some programs write é as two characters, of which the second is no letter by itself.
        if not re.fullmatch(r"\w[\w .()+-]*", normalize("NFC", name)) or len(name.encode()) > 200:
            raise ValueError(
                f"the name {filename!r} cannot be a picture's: at most 200 letters, digits, spaces and .()+-_, of which the "
                "first is a letter or a digit. Rename the file."
            )
        if name.lower() in _OTHER_PICTURES:
            raise ValueError(f"{name}.png is the picture of another asset. Rename the file.")
        return filename

    @field_validator("borough")
    @classmethod
    def _is_a_borough(cls, borough: str) -> str:
        if borough not in BOROUGHS:
            raise ValueError(f"borough {borough!r} is none of {', '.join(BOROUGHS)}")
        return borough

    @field_validator("start_date", "end_date")
    @classmethod
    def _is_a_date(cls, text: str | None) -> str | None:
        if text is None:
            return None
        try:
            # Written in another way, fromisoformat takes more in some releases of Python than in others.
            if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII):
                raise ValueError
            date.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a date, written YYYY-MM-DD") from None
        return text

    @model_validator(mode="after")
    def _has_a_day(self) -> Self:
        if self.start_date is None and self.end_date is None:
            return self
        if self.start_date is None or self.end_date is None:
            raise ValueError(
                f"{'start_date' if self.start_date is None else 'end_date'} is missing: give both or neither"
            )
        if self.end_date <= self.start_date:
            raise ValueError(
                f"end_date {self.end_date} has to lie after start_date {self.start_date}; it is the day after the last one"
            )
        return self


def _period(config: AdhocRequestConfig, connection: duckdb.DuckDBPyConnection) -> tuple[str, str]:
    """The request's first day, and the day after its last one (``YYYY-MM-DD``)."""
    if config.start_date is not None and config.end_date is not None:
        return config.start_date, config.end_date
    newest = newest_month(connection)
    if newest is None:
        raise dg.Failure(
            f"{config.filename}: no trips are loaded. Materialize taxi_trips_file and taxi_trips, and execute this run again.",
            allow_retries=False,
        )
    first = date.fromisoformat(f"{newest}-01")
    return first.isoformat(), (first + timedelta(days=31)).replace(day=1).isoformat()


def _months(start_date: str, end_date: str) -> list[str]:
    """The months (``YYYY-MM``) in which the days from `start_date` to the one before `end_date` lie."""
    first = date.fromisoformat(start_date)
    last = date.fromisoformat(end_date) - timedelta(days=1)
    indexes = range(first.year * 12 + first.month - 1, last.year * 12 + last.month)
    return [f"{index // 12:04}-{index % 12 + 1:02}" for index in indexes]


@dg.asset(
    deps=[taxi_trips, taxi_zones],
    group_name="requests",
    kinds={"duckdb", "png"},
    owners=OWNERS,
    pool=DATABASE_POOL,
    check_specs=[
        dg.AssetCheckSpec(
            PERIOD_IS_LOADED,
            asset="adhoc_request",
            description="All months of the request's period are loaded. The picture says so too if some are not.",
        )
    ],
    description="The answer to a request in data/requests: trips that began in a borough, by hour of the day and day of the "
    "week, as data/outputs/NAME.png.",
    metadata={
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn("hour_of_day", "integer", "Hour in which the trip began, 0 to 23: a bar"),
                dg.TableColumn("day_of_week", "varchar", "Day on which it began: a part of the bar"),
                dg.TableColumn("num_trips", "bigint", "Trips that began then: the height of the part"),
            ]
        ),
        "dagster/column_lineage": dg.TableColumnLineage(
            {
                name: [dg.TableColumnDep(taxi_trips.key, "pickup_datetime")]
                for name in ("hour_of_day", "day_of_week", "num_trips")
            }
        ),
    },
)
def adhoc_request(config: AdhocRequestConfig, database: DuckDBResource) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Count the trips of the request, and draw them."""
    with (
        database.get_connection() as connection,
        failing_in_words(
            f"{config.filename}: the trips could not be counted",
            "If the table trips or zones was made by something else, rename or drop it, materialize taxi_trips or taxi_zones "
            "again, and execute this run again.",
        ),
    ):
        start_date, end_date = _period(config, connection)
        months = _months(start_date, end_date)
        loaded = loaded_months(connection, months)
        if not loaded:
            raise dg.Failure(
                f"{config.filename}: no trips are loaded for {_some(months)}. Materialize taxi_trips_file and taxi_trips for "
                "these months, and execute this run again.",
                allow_retries=False,
            )
        if not has_table(connection, "zones"):
            raise dg.Failure(
                f"{config.filename}: there is no table zones. Materialize taxi_zones_file and taxi_zones, and execute this run "
                "again.",
                allow_retries=False,
            )
        rows = connection.execute(
            """
            SELECT hour(pickup_datetime) AS hour_of_day, dayofweek(pickup_datetime) AS day_of_week, count(*) AS num_trips
            FROM trips
            WHERE pickup_datetime >= $start_date::TIMESTAMP AND pickup_datetime < $end_date::TIMESTAMP
                AND pickup_zone_id IN (SELECT zone_id FROM zones WHERE borough = $borough)
            GROUP BY ALL
            """,
            {"start_date": start_date, "end_date": end_date, "borough": config.borough},
        ).fetchall()
    trips = {(hour, day): count for hour, day, count in rows}
    lacking = [month for month in months if month not in loaded]
    last = date.fromisoformat(end_date) - timedelta(days=1)
    title = f"Yellow taxi trips from {config.borough}, {start_date} to {last}: {sum(trips.values()):,}"
    if lacking:
        title += f"\nwithout {_some(lacking)}: not loaded"
    path = Path(constants.REQUEST_DESTINATION_TEMPLATE_FILE_PATH.format(config.name))
    picture = pictures.draw_hours(trips, title)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(picture)
    except OSError as error:
        raise dg.Failure(f"{config.filename}: {not_written(error, path)}", allow_retries=False) from None
    return dg.MaterializeResult(
        metadata={
            "picture": pictures.preview(picture),
            "num_trips": sum(trips.values()),
            "borough": config.borough,
            "start_date": start_date,
            "end_date": end_date,
            "path": dg.MetadataValue.path(str(path)),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=PERIOD_IS_LOADED,
                passed=not lacking,
                severity=dg.AssetCheckSeverity.WARN,
                description=f"Months of {config.filename} that are not loaded: {_some(lacking) or 'none'}.",
                metadata={"months_not_loaded": _some(lacking) or "none"},
            )
        ],
    )


def _some(months: Sequence[str]) -> str:
    """`months` in words, as many as fit into a line."""
    return ", ".join(months) if len(months) <= 6 else f"{len(months)} months from {months[0]} to {months[-1]}"
