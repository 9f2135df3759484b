"""Load a month into a new database as the asset `taxi_trips` does, with or without the zones of its positions.

    python benchmarks/load_month.py FILE ZONES_CSV DATABASE zones|no-zones

The difference is what the zones of a month before 2011 cost: without them, both are null, and all else is the same.
"""

import sys
from pathlib import Path

from dagster_essentials.datasets import legacy_columns
from dagster_essentials.resources import database_resource
from dagster_essentials.warehouse.file import file_tables
from dagster_essentials_tests.support.loading import load_month


def main(file: Path, zones: Path, database: Path, variant: str) -> None:
    if variant == "no-zones":
        legacy_columns.map_zones = lambda values: {}
    month = file.stem.rpartition("_")[2]
    with file_tables(database, database_resource.connection_config, 0, print) as tables:
        load_month(tables, month, file, zones)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
