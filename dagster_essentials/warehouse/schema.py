"""The table of a dataset: how it is created, and how one of an earlier release is upgraded."""

from dagster_essentials.errors import DatabaseUnusableError
from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.warehouse.catalog import has_table
from dagster_essentials.warehouse.comments import write_comments
from dagster_essentials.warehouse.month_versions import prepare_versions
from dagster_essentials.warehouse.tables import Tables


def prepare_table(tables: Tables, dataset: Dataset) -> None:
    """Create the table, or add the columns that one of an earlier release lacks; and describe it.

    To be called in the transaction that loads a month.

    Raises:
        DatabaseUnusableError: the table was made by something else.
    """
    table = dataset.table
    if not has_table(tables, table):
        tables.execute(
            f"CREATE TABLE {table} ({', '.join(f'{column.name} {column.type}' for column in dataset.columns)})"
        )
        tables.partition(table, list(dataset.folders("")))
    present = {name for name, *_ in tables.execute(f"DESCRIBE {table}").fetchall()}
    if missing := [column.name for column in dataset.columns[: dataset.core_columns] if column.name not in present]:
        (path,) = tables.execute("SELECT path FROM duckdb_databases() WHERE path IS NOT NULL").fetchall()[0]
        raise DatabaseUnusableError(
            f"the table {table} in {path} has no column {', '.join(missing)}, so it was made by something else"
            f"{dataset.made_by and f' ({dataset.made_by})'}. Nothing was changed in it. Rename or drop it, and materialize again."
        )
    for column in dataset.columns:
        if column.name not in present:
            tables.execute(f"ALTER TABLE {table} ADD COLUMN {column.name} {column.type}")
    write_comments(tables, table, dataset.comment, {column.name: column.description for column in dataset.columns})
    prepare_versions(tables)
