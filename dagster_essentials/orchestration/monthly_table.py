"""A table that is loaded from a file a month: its datasets, assets, job and partitions, for what serves every such table.

The schedules, the reconciliation and the alerts are given one or several.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from importlib import import_module
from typing import Any

import dagster as dg

from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.ingestion.month_files import MonthFile
from dagster_essentials.warehouse.load import Replacement


@dataclass(frozen=True)
class MonthlyTable:
    """A table that is loaded from a file a month.

    Attributes:
        datasets: whose rows it has.
        files, rows: the assets of the files and of the table.
        job: materializes both, and is requested by the schedules.
        statements: replace a month.
        month_file: the file of a partition, by its key.
        months: the partitions of the assets, or their dimension of months.
        partition_key: the key of a month (``YYYY-MM-DD``) of a dataset, if that is not the month itself.
        inputs: assets without partitions from which the rows are made, beside the files.
    """

    datasets: Sequence[Dataset]
    files: dg.AssetsDefinition
    rows: dg.AssetsDefinition
    job: Any  # What `dagster.define_asset_job` returns, which has no public name.
    statements: Replacement
    month_file: Callable[[str], MonthFile]
    months: dg.TimeWindowPartitionsDefinition
    partition_key: Callable[[Dataset, str], str] = lambda dataset, month: month
    inputs: Sequence[dg.AssetKey] = ()

    def __post_init__(self) -> None:
        names = [dataset.name for dataset in self.datasets]
        tables = {self.statements.table, *(dataset.table for dataset in self.datasets)}
        if len(tables) > 1:
            raise ValueError(
                f"{', '.join(names)}: the statements and the datasets are of different tables: {sorted(tables)}."
            )
        if not self.files.partitions_def == self.rows.partitions_def == self._partitions_of_months():
            raise ValueError(
                f"{self.files.key.to_user_string()}, {self.rows.key.to_user_string()} and the months of their table have "
                "different partitions. Give both assets the same partitions_def, and the table its months."
            )
        for dataset in self.datasets:
            if dataset.first_month > date.today().isoformat():
                raise ValueError(f"The first month of {dataset.name}, {dataset.first_month}, is in the future.")
            file = self.month_file(self.partition_key(dataset, f"{dataset.first_month}-01"))
            if (file.dataset, file.month) != (dataset, dataset.first_month):
                raise ValueError(
                    f"month_file of {self.rows.key.to_user_string()} gives {file.label} of {file.dataset.name} for the first "
                    f"month of {dataset.name}, {dataset.first_month}."
                )

    def _partitions_of_months(self) -> dg.PartitionsDefinition[str] | None:
        partitions = self.rows.partitions_def
        if isinstance(partitions, dg.MultiPartitionsDefinition):
            dimensions = [dimension.partitions_def for dimension in partitions.partitions_defs]
            return partitions if self.months in dimensions else None
        return self.months

    @property
    def schedule_name(self) -> str:
        """The schedule that requests new months. In runs and ticks, Dagster records it by this name."""
        return f"{self.job.name}_schedule"

    @property
    def partitions(self) -> dg.PartitionsDefinition[str]:
        """The partitions of both assets."""
        assert self.rows.partitions_def is not None
        return self.rows.partitions_def

    def label(self, key: str) -> str:
        """The name of a partition in logs, errors and alerts."""
        return self.month_file(key).label

    def months_of(self, dataset: Dataset, keys: Iterable[str]) -> set[str]:
        """The months (``YYYY-MM-DD``) of the partitions `keys` that are of `dataset`."""
        return {f"{file.month}-01" for file in map(self.month_file, keys) if file.dataset is dataset}

    def expected_months(self, dataset: Dataset, now: datetime) -> list[str]:
        """The months (``YYYY-MM-DD``) of `dataset` that are expected to be published at `now`, oldest first."""
        # What is published a month later has the partitions of the month before; to leave out the last one instead would leave
        # out the last one before the end date for ever.
        for _ in range(dataset.months_behind):
            now = now.replace(day=1) - timedelta(days=1)
        return [month for month in self.months.get_partition_keys(current_time=now) if month[:7] >= dataset.first_month]


def import_dataset(module: str) -> tuple[MonthlyTable, dg.Definitions]:
    """The `TABLE` and the `defs` of a dataset's `module`.

    Raises:
        ValueError: it lacks one of them, or `defs` lacks an asset, the job or the schedule of the table.
    """
    imported = import_module(module)
    table, defs = getattr(imported, "TABLE", None), getattr(imported, "defs", None)
    if not isinstance(table, MonthlyTable) or not isinstance(defs, dg.Definitions):
        raise ValueError(f"{module} has to have a MonthlyTable called TABLE, and dagster.Definitions called defs.")
    if table.files not in (defs.assets or ()) or table.rows not in (defs.assets or ()):
        raise ValueError(f"{module}: its defs lack an asset of its table.")
    if table.job not in (defs.jobs or ()):
        raise ValueError(f"{module}: its defs lack the job {table.job.name}.")
    if table.schedule_name not in {schedule.name for schedule in defs.schedules or ()}:
        raise ValueError(
            f"{module}: its defs lack the schedule {table.schedule_name}, without which nothing requests new months. Add an "
            "update_schedule(TABLE, ...)."
        )
    return table, defs


def check_tables(tables: Sequence[MonthlyTable]) -> None:
    """Check that no two tables share what has to be their own.

    Raises:
        ValueError: it names the two, and what they share.
    """
    seen: dict[tuple[str, str], str] = {}
    for table in tables:
        name = table.rows.key.to_user_string()
        own = [("table", table.statements.table), ("job", table.job.name)]
        own += [("dataset", dataset.name) for dataset in table.datasets]
        own += [
            ("file", str(table.month_file(table.partition_key(dataset, f"{dataset.first_month}-01")).path))
            for dataset in table.datasets
        ]
        for kind, value in own:
            if (kind, value) in seen:
                raise ValueError(f"{seen[kind, value]} and {name} have the same {kind}, {value}. Give each its own.")
            seen[kind, value] = name
