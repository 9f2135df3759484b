"""Which months and weeks there are. A month becomes a partition when the TLC is expected to have published it."""

from datetime import date, timedelta

import dagster as dg

from dagster_essentials.assets import constants
from dagster_essentials.settings import SETTINGS


def _sunday_from(day: date) -> date:
    """The first Sunday from `day` on."""
    return day + timedelta(days=6 - day.weekday())


monthly_partition = dg.MonthlyPartitionsDefinition(
    start_date=constants.START_DATE,
    end_date=constants.END_DATE,
    # Without an offset a month is a partition as soon as it ends, and cannot be loaded for weeks.
    end_offset=-SETTINGS.publication_lag_months,
)

weekly_partition = dg.WeeklyPartitionsDefinition(
    # Weeks go from Sunday to Saturday. The one in which the first month begins and the one in which the last month ends
    # are partitions too: by the months' own dates, 26 to 31 March 2023 would belong to no week of the lesson.
    start_date=(_sunday_from(date.fromisoformat(constants.START_DATE) - timedelta(days=6))).isoformat(),
    end_date=_sunday_from(date.fromisoformat(constants.END_DATE)).isoformat() if constants.END_DATE else None,
    # As late as possible while covering every month that is a partition: a month is at least four weeks long.
    end_offset=1 - 4 * SETTINGS.publication_lag_months,
)
