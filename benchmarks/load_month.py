"""Load a month into a new database as the asset `taxi_trips` does, with or without the zones of its positions.

    python benchmarks/load_month.py FILE ZONES_CSV DATABASE zones|no-zones

The difference is what the zones of a month before 2011 cost: without them, both are null, and all else is the same.
"""

import sys
from dataclasses import replace
from pathlib import Path

from dagster_essentials.assets.trips import REPLACE_MONTH
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.datasets.zones_function import ZoneOutlines
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.ingestion.month_files import MonthFile
from dagster_essentials.resources import database_resource
from dagster_essentials.warehouse.file import file_tables
from dagster_essentials.warehouse.load import replace_month

WITHOUT_ZONES = replace(YELLOW, layouts=[replace(layout, derive=None) for layout in YELLOW.layouts])


def main(file: Path, zones: Path, database: Path, variant: str) -> None:
    dataset = WITHOUT_ZONES if variant == "no-zones" else YELLOW
    files = DataFolder(file.parent)
    month = file.stem.rpartition("_")[2]
    month_file = MonthFile(dataset, month, "", file, files, reference=lambda: ZoneOutlines.read(zones, files))
    with file_tables(database, database_resource.connection_config, 0, print) as tables:
        replace_month(tables, REPLACE_MONTH, month_file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
