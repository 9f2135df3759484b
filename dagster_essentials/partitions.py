"""Which months exist. A month becomes a partition when the TLC is expected to have published it."""

import dagster as dg

from dagster_essentials.assets import constants
from dagster_essentials.settings import SETTINGS

monthly_partition = dg.MonthlyPartitionsDefinition(
    start_date=constants.START_DATE,
    end_date=constants.END_DATE,
    # Without an offset a month is a partition as soon as it ends, and cannot be loaded for weeks.
    end_offset=-SETTINGS.publication_lag_months,
)
