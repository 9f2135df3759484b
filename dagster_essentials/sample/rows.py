"""For the sample months of all fleets: random numbers that every DuckDB version repeats, and the writing of a file.

The module of a fleet decides the columns and values of its months.
"""

import calendar
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import duckdb

from dagster_essentials.ingestion.atomic_write import atomic_write
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.ingestion.sql import literal

Value = TypeVar("Value")

LAST_MONTH = "2026-12"
"""The last month of all fleets, ``YYYY-MM``."""

# A 32-bit integer hash in BIGINT arithmetic: DuckDB's own hash() and random() give other values in other versions, and so
# does round(): of 38 * 0.0275 = 1.045 it makes 1.05 in 1.5.6 and 1.04 in 2.0.1.
MACROS = [
    "CREATE MACRO scramble(x) AS (xor(x >> 16, x) * 73244475) & 4294967295",
    "CREATE MACRO draw(i, salt) AS scramble(scramble((i * 2654435761 + salt::BIGINT * 40503) & 4294967295)) / 4294967296.0",
    "CREATE MACRO cents(amount) AS trunc(amount * 100 + 0.5 * sign(amount)) / 100",
]


def month_seconds(month: str) -> int:
    return calendar.monthrange(int(month[:4]), int(month[5:7]))[1] * 86_400


def last_summer_hour(year: int) -> datetime.datetime:
    """The hour that occurs twice, because the clocks go back: trips that began in it may end before they began."""
    return datetime.datetime(year, 11, 1 + (6 - datetime.date(year, 11, 1).weekday()) % 7, 1)


def value_in(values: Mapping[str, Value], month: str) -> Value:
    """The one of `values` that holds in `month`: each holds from its month to that of the next one."""
    return values[max(since for since in values if since <= month)]


def draws(names: Sequence[str], salt: int) -> str:
    """The columns `names`, one random number between 0 and 1 each, for the trips numbered by `j`."""
    return ",\n".join(f"draw(j, {salt + number}) AS {name}" for number, name in enumerate(names))


def drawn_zone(draw: str, zones: int = 265) -> str:
    """Zones 1 to `zones`, low numbers more often: in the real months, a few zones have most trips."""
    return f"(1 + floor({zones} * {draw} * {draw}))"


def write_rows(path: Path, query: str) -> Path:
    """Write the result of `query`, which may use the macros, to the Parquet file `path`; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, DataFolder(path.parent)) as temporary, duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        for macro in MACROS:
            connection.execute(macro)
        # Without USE_TMP_FILE false, DuckDB would write another temporary file and rename it over the locked one.
        connection.execute(
            f"COPY ({query}) TO {literal(str(temporary))} "
            "(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 1048576, USE_TMP_FILE false)"
        )
    return path
