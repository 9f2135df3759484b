"""The table of a dataset: how it is created, and how one of an earlier release is upgraded."""

from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.warehouse.catalog import Table
from dagster_essentials.warehouse.month_quality import prepare_month_quality
from dagster_essentials.warehouse.month_versions import prepare_versions
from dagster_essentials.warehouse.tables import Tables


def prepare_table(tables: Tables, dataset: Dataset) -> None:
    """Create the table, or add the columns that one of an earlier release lacks; and describe it.

    To be called in the transaction that loads a month.

    Raises:
        DatabaseUnusableError: the table was made by something else.
    """
    columns = [(column.name, column.type, column.description) for column in dataset.columns]
    table = Table(dataset.table, dataset.comment, columns, dataset.core_columns, dataset.made_by)
    if table.create(tables):
        tables.partition(table.name, list(dataset.folders("")))
    prepare_versions(tables)
    prepare_month_quality(tables, dataset)
