"""Load a month of a fleet into a new database: as the asset `fleet_trips` does, or by plain DuckDB.

python benchmarks/load_fleet_month.py FILE DATABASE project|plain
"""

import sys
from pathlib import Path

import duckdb
import plain_fleets

from dagster_essentials.assets.fleets import REPLACE_MONTH
from dagster_essentials.datasets.fleets import FLEETS
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.ingestion.month_files import MonthFile
from dagster_essentials.resources import database_resource
from dagster_essentials.warehouse.file import file_tables
from dagster_essentials.warehouse.load import replace_month


def main(file: Path, database: Path, variant: str) -> None:
    fleet, _, month = file.stem.split("_")
    if variant == "plain":
        with duckdb.connect(str(database)) as connection:
            plain_fleets.replace_month(connection, fleet, month, file)
    else:
        with file_tables(database, database_resource.connection_config, 0, print) as tables:
            replace_month(tables, REPLACE_MONTH, MonthFile(FLEETS[fleet], month, "", file, DataFolder(file.parent)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
