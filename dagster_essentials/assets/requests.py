"""Ad-hoc requests: the asset that answers one with a picture.

What a request may ask for is decided in `reports/requests.py`, which files are requests in `reports/request_files.py`,
and when a request is new in `sensors.py`.
"""

from pathlib import Path
from typing import Self

import dagster as dg
from dagster_duckdb import DuckDBResource
from pydantic import Field, model_validator

from dagster_essentials import settings
from dagster_essentials.assets import constants
from dagster_essentials.assets.trips import taxi_trips, taxi_zones
from dagster_essentials.datasets.zones import BOROUGHS
from dagster_essentials.orchestration.database import open_tables
from dagster_essentials.orchestration.failures import fail_with_message
from dagster_essentials.orchestration.metadata import column_lineage, columns_metadata, png_metadata
from dagster_essentials.reports.requests import Request, answer_request, describe_some

PERIOD_IS_LOADED = "period_is_loaded"


class AdhocRequestConfig(dg.Config):
    """A request: the trips of a borough in a period, by hour and day of the week.

    A request's file has to give all but its name. From the UI nothing has to be given: "Materialize all" on the lineage
    page includes this asset, and without defaults its backfill would fail.
    """

    filename: str = Field(
        default="adhoc_request.json", description="Name of the request's file; NAME.json gives data/outputs/NAME.png"
    )
    borough: str = Field(default="Manhattan", description=f"Where the trips began: {', '.join(BOROUGHS)}")
    start_date: str | None = Field(
        default=None, description="First day, YYYY-MM-DD; without both dates it is the newest month that is loaded"
    )
    end_date: str | None = Field(default=None, description="The day after the last one, YYYY-MM-DD")

    @model_validator(mode="after")
    def _is_a_request(self) -> Self:
        self.request()
        return self

    def request(self) -> Request:
        """The validated request, as the reports use it."""
        return Request(self.filename, self.borough, self.start_date, self.end_date)


@dg.asset(
    deps=[taxi_trips, taxi_zones],
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="requests",
    kinds={"duckdb", "png"},
    check_specs=[
        dg.AssetCheckSpec(
            PERIOD_IS_LOADED,
            asset="adhoc_request",
            description="All months of the request's period are loaded. If some are not, the plot says so, too.",
        )
    ],
    description="The plot that a file in data/requests asks for: trips that began in a borough, as the mean of a day by hour "
    "and day of the week. The request NAME.json gives data/outputs/NAME.png.",
    metadata={
        "dagster/column_schema": columns_metadata(
            ("hour_of_day", "integer", "Hour in which the trip began, 0 to 23: a column"),
            ("day_of_week", "varchar", "Day on which it began: a row"),
            ("num_trips", "double", "Mean of the trips that began then, over the days that are loaded: the colour"),
        ),
        "dagster/column_lineage": dg.TableColumnLineage(
            column_lineage(taxi_trips, dict.fromkeys(("hour_of_day", "day_of_week", "num_trips"), "pickup_datetime"))
        ),
    },
)
def adhoc_request(
    context: dg.AssetExecutionContext, config: AdhocRequestConfig, database: DuckDBResource
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Count the trips of the request, and plot them."""
    request = config.request()
    path = Path(constants.REQUEST_DESTINATION_TEMPLATE_FILE_PATH.format(request.name))
    with fail_with_message(request.filename):
        with open_tables(database) as tables:
            answer = answer_request(tables, request)
        png = answer.write_plot(path, settings.SETTINGS.files)
    missing = describe_some(answer.missing) or "none"
    location = settings.SETTINGS.files.location(path)
    context.log.info(
        f"{request.filename}: {answer.num_trips:,} trips from {request.borough}, {answer.period}, "
        f"plotted to {location}; months not loaded: {missing}"
    )
    return dg.MaterializeResult(
        metadata={
            "picture": png_metadata(png),
            "num_trips": answer.num_trips,
            "borough": request.borough,
            "start_date": answer.start_date,
            "end_date": answer.end_date,
            "path": dg.MetadataValue.path(location),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=PERIOD_IS_LOADED,
                passed=not answer.missing,
                severity=dg.AssetCheckSeverity.WARN,
                description=f"Months of {request.filename} that are not loaded: {missing}.",
                metadata={"months_not_loaded": missing},
            )
        ],
    )
