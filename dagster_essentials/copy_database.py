"""Copies a database file into the lake of the settings, or the lake into a file: `python -m dagster_essentials.copy_database`.

The files of months and of reports are not in a database, and stay where they are.
"""

import argparse
import sys
from pathlib import Path

from dagster_essentials.datasets.fleets import FLEETS
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.errors import PipelineError
from dagster_essentials.remote_settings import Lake
from dagster_essentials.reports import fleets, weekly
from dagster_essentials.settings import SETTINGS
from dagster_essentials.warehouse.copy_months import copy_months, copy_table, copy_zones
from dagster_essentials.warehouse.lake import lake_connection
from dagster_essentials.warehouse.locked_connection import locked_connection


def copy(lake: Lake, file: Path, into_lake: bool) -> None:
    """Copy all months and the zones, and print a line for each month.

    Raises:
        PipelineError: it names the month that could not be copied. The months before it are, and are not copied again.
    """
    wait, config = SETTINGS.database_wait_seconds, {"memory_limit": SETTINGS.database_memory_limit}
    if into_lake and not file.is_file():
        raise PipelineError(f"{file} does not exist. Name the file that DUCKDB_DATABASE was before.")
    with (
        lake_connection(lake, config, wait, print) as of_lake,
        locked_connection(file, config, wait, print) as of_file,
    ):
        source, target = (of_file, of_lake) if into_lake else (of_lake, of_file)
        months = rows = 0
        for month in copy_months(source, target, (YELLOW, *FLEETS.values())):
            months, rows = months + 1, rows + month.rows
            done = "is there already" if month.is_unchanged else "copied"
            print(f"{month.dataset} {month.month}: {month.rows:,} trips, {done}", flush=True)
        zones = copy_zones(source, target)
        copy_table(source, target, "trips_by_week", weekly.COLUMNS, weekly.COMMENT)
        copy_table(source, target, "trips_by_fleet", fleets.COLUMNS, fleets.COMMENT)
    print(f"{months} months with {rows:,} trips and {zones} zones are in {'the lake' if into_lake else file}.")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dagster_essentials.copy_database",
        description="Copy months between a database file and the lake that DUCKDB_DATABASE and DUCKLAKE_DATA_PATH name. "
        "Months that are there already are left alone, so an interrupted copy can be started again.",
    )
    direction = parser.add_mutually_exclusive_group(required=True)
    direction.add_argument("--from-file", type=Path, metavar="FILE", help="copy FILE into the lake")
    direction.add_argument("--to-file", type=Path, metavar="FILE", help="copy the lake into FILE")
    arguments = parser.parse_args()
    if SETTINGS.lake is None:
        sys.exit("DUCKDB_DATABASE is not a lake. Set it to ducklake:postgres:..., and DUCKLAKE_DATA_PATH.")
    file = arguments.from_file or arguments.to_file
    try:
        copy(SETTINGS.lake, file.absolute(), into_lake=arguments.from_file is not None)
    except PipelineError as error:
        sys.exit(error.describe())


if __name__ == "__main__":
    main()
