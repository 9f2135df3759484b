"""Which months, weeks and fleets there are. A month is a partition once the TLC is expected to have published it."""

from datetime import date, timedelta

import dagster as dg

from dagster_essentials import settings
from dagster_essentials.assets import constants
from dagster_essentials.datasets import DATASETS
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.settings import FLEET_NAMES


def _sunday_from(day: date) -> date:
    """The first Sunday from `day` on."""
    return day + timedelta(days=6 - day.weekday())


monthly_partition = dg.MonthlyPartitionsDefinition(
    start_date=constants.START_DATE,
    end_date=constants.END_DATE,
    # Without an offset a month is a partition as soon as it ends, and cannot be loaded for weeks.
    end_offset=-settings.SETTINGS.publication_lag_months,
)

weekly_partition = dg.WeeklyPartitionsDefinition(
    # Weeks go from Sunday to Saturday. The one in which the first month begins and the one in which the last month ends
    # are partitions too: by the months' own dates, 26 to 31 March 2023 would belong to no week of the lesson.
    start_date=(_sunday_from(date.fromisoformat(constants.START_DATE) - timedelta(days=6))).isoformat(),
    end_date=_sunday_from(date.fromisoformat(constants.END_DATE)).isoformat() if constants.END_DATE else None,
    # As late as possible while covering every month that is a partition: a month is at least four weeks long.
    end_offset=1 - 4 * settings.SETTINGS.publication_lag_months,
)

# With TAXI_FLEETS=none, there are no such assets, and what their partitions would be does not matter.
fleet_partition = dg.StaticPartitionsDefinition(list(settings.SETTINGS.fleets or FLEET_NAMES))

# Keys such as green|2023-01-01. As a product it also has the months before the first one of a fleet, and the newest month of
# fhv before it is published, a month after the others.
fleet_month_partition = dg.MultiPartitionsDefinition({"fleet": fleet_partition, "month": monthly_partition})


def fleet_and_month(key: str) -> tuple[str, str]:
    """The fleet and the month (``YYYY-MM``) of a key of `fleet_month_partition`, or of `monthly_partition`: yellow taxis."""
    fleet, _, month = key.rpartition("|")
    return fleet or YELLOW.name, month[:7]


def dataset_of(key: str) -> Dataset:
    """The dataset of such a key."""
    return DATASETS[fleet_and_month(key)[0]]


def partition_key(fleet: str, month: str) -> str:
    """The key of a month (``YYYY-MM-DD``) of `fleet`, in the partitions that the fleet has."""
    return month if fleet == YELLOW.name else dg.MultiPartitionKey({"fleet": fleet, "month": month})


def month_label(key: str) -> str:
    """What a month is called in logs, errors and alerts: ``2023-03``, or with its fleet, ``green 2023-03``."""
    fleet, month = fleet_and_month(key)
    return month if fleet == YELLOW.name else f"{fleet} {month}"
