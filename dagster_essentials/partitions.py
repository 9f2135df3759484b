"""The partitions: months, weeks, and fleets by month. A month is a partition once the TLC is expected to have published it."""

from datetime import date, timedelta

import dagster as dg

from dagster_essentials import settings
from dagster_essentials.assets import constants
from dagster_essentials.orchestration.due_partitions import weeks_behind


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
    # On no day is there a week whose months are not partitions yet: it would fail in every backfill of all partitions.
    end_offset=-weeks_behind(settings.SETTINGS.publication_lag_months),
)

# Without fleets, there are no such assets, and what their partitions would be does not matter.
fleet_partition = dg.StaticPartitionsDefinition(list(settings.SETTINGS.fleets or settings.FLEET_NAMES))

# Keys such as green|2023-01-01. As a product it also has the months before the first one of a fleet, and the newest month of
# fhv before it is published, a month after the others.
fleet_month_partition = dg.MultiPartitionsDefinition({"fleet": fleet_partition, "month": monthly_partition})
