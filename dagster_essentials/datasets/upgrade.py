"""The upgrade of a database of a release that had the yellow taxis only."""

from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.warehouse.catalog import has_table
from dagster_essentials.warehouse.month_versions import prepare_versions
from dagster_essentials.warehouse.tables import Tables


def name_the_dataset_of_versions(tables: Tables) -> None:
    """Let the versions that were recorded without a dataset be those of the yellow taxis, whose months are not due again."""
    if not has_table(tables, "month_versions"):
        return
    prepare_versions(tables)
    if tables.execute("SELECT 1 FROM month_versions WHERE fleet IS NULL LIMIT 1").fetchall():
        tables.execute("UPDATE month_versions SET fleet = $name WHERE fleet IS NULL", {"name": YELLOW.name})
