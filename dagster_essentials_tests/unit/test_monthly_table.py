"""A dataset or a table that cannot work is an error when the code location loads, which says what to change."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest

from dagster_essentials.ingestion.dataset import Dataset, QualityRule
from dagster_essentials.ingestion.file_format import Parquet
from dagster_essentials.ingestion.month_files import MonthFile
from dagster_essentials.jobs import FLEET_TRIPS, TRIPS
from dagster_essentials.orchestration.month_schedules import update_schedule
from dagster_essentials.orchestration.monthly_table import MonthlyTable, check_tables, import_dataset
from dagster_essentials.warehouse.load import Replacement
from dagster_essentials_tests.support.project import DISK
from dagster_essentials_tests.unit.test_zipped_csv import DATASET, STATEMENTS

months = dg.MonthlyPartitionsDefinition("2023-01-01")
other_months = dg.MonthlyPartitionsDefinition("2022-01-01")


def asset(name: str, partitions: dg.PartitionsDefinition[str] = months) -> dg.AssetsDefinition:
    @dg.asset(name=name, partitions_def=partitions)
    def materialize() -> None: ...

    return materialize


def table(dataset: Dataset = DATASET, **changes: Any) -> MonthlyTable:
    files, rows = asset("numbers_file"), asset("numbers")
    values: dict[str, Any] = {
        "datasets": [dataset],
        "files": files,
        "rows": rows,
        "job": dg.define_asset_job("numbers_job", [files, rows], partitions_def=months),
        "statements": STATEMENTS,
        "month_file": lambda key: MonthFile(dataset, key[:7], "", Path(f"/data/numbers_{key[:7]}.zip"), DISK),
        "months": months,
    }
    return MonthlyTable(**{**values, **changes})


DATASETS: dict[str, tuple[dict[str, Any], str]] = {
    "no rule": ({"rules": []}, "no data quality rule"),
    "a rule with a key that is none": (
        {"rules": [QualityRule("no_duplicates", "count(*) - 1", 0, "", key=["ride"])]},
        "has the key ride, which is no column",
    ),
    "no layout": ({"layouts": []}, "no layout"),
    "a format that cannot be read": ({"file_format": "csv"}, "file format 'csv' cannot read a file"),
    "a class instead of a format": ({"file_format": Parquet}, "cannot read a file"),
    "no such time": ({"time": "started"}, "no column started"),
    "no month of the file": ({"columns": DATASET.columns[:-1]}, "no column partition_date"),
    "a column twice": ({"columns": [DATASET.columns[0], *DATASET.columns]}, "two columns number"),
    "a first month that is none": ({"first_month": "2023-13"}, "'2023-13' is not written YYYY-MM"),
}


@pytest.mark.parametrize("kind", DATASETS)
def test_a_dataset_that_cannot_be_loaded_says_why(kind: str) -> None:
    changes, message = DATASETS[kind]
    with pytest.raises(ValueError, match=f"dataset numbers cannot be loaded.*{message}"):
        replace(DATASET, **changes)


STATEMENTS_OF: dict[str, tuple[str, str]] = {
    "another table": ("DELETE FROM trips WHERE partition_date = $month", STATEMENTS.insert),
    "no condition": ("DELETE FROM numbers", STATEMENTS.insert),
    "no names": (STATEMENTS.delete, "INSERT INTO numbers SELECT * FROM month_file"),
    "no file": (STATEMENTS.delete, "INSERT INTO numbers BY NAME SELECT 1 AS number"),
}


@pytest.mark.parametrize("kind", STATEMENTS_OF)
def test_statements_that_do_not_replace_a_month_are_shown(kind: str) -> None:
    delete, insert = STATEMENTS_OF[kind]
    with pytest.raises(ValueError, match=r"DELETE FROM table WHERE .* BY NAME SELECT") as error:
        Replacement(delete, insert)
    assert delete in str(error.value)
    assert insert in str(error.value)


TABLES: dict[str, tuple[Callable[[], MonthlyTable], str]] = {
    "the statements of another table": (lambda: table(statements=TRIPS.statements), "of different tables"),
    "two partitions": (lambda: table(files=asset("numbers_file", other_months)), "different partitions"),
    "months that are not its own": (lambda: table(months=other_months), "different partitions"),
    "a first month in the future": (lambda: table(replace(DATASET, first_month="2999-01")), "is in the future"),
    "another dataset's files": (
        lambda: table(month_file=TRIPS.month_file),
        "month_file of numbers gives 2023-01 of yellow",
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_whose_parts_do_not_fit_says_which(kind: str) -> None:
    make, message = TABLES[kind]
    with pytest.raises(ValueError, match=message):
        make()


def test_the_tables_of_this_project_share_nothing() -> None:
    check_tables([TRIPS, FLEET_TRIPS, table()])


def named(name: str) -> Dataset:
    return replace(DATASET, name=name)


SHARED: dict[str, tuple[Callable[[], list[MonthlyTable]], str]] = {
    "a table": (
        lambda: [table(), table(named("others"))],
        "taxi_trips|numbers and numbers have the same table, numbers",
    ),
    "a job": (
        lambda: [TRIPS, table(job=dg.define_asset_job("trip_update_job", partitions_def=months))],
        "taxi_trips and numbers have the same job, trip_update_job",
    ),
    "a name": (lambda: [TRIPS, table(named("yellow"))], "taxi_trips and numbers have the same dataset, yellow"),
    "files": (
        lambda: [
            TRIPS,
            table(
                replace(DATASET, first_month="2009-01"),
                month_file=lambda key: MonthFile(
                    replace(DATASET, first_month="2009-01"), key[:7], "", TRIPS.month_file(key).path, DISK
                ),
            ),
        ],
        "taxi_trips and numbers have the same file",
    ),
}


@pytest.mark.parametrize("what", SHARED)
def test_two_tables_that_share_something_are_both_named(what: str) -> None:
    make, message = SHARED[what]
    with pytest.raises(ValueError, match=message):
        check_tables(make())


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module as docs/your-own-dataset.md makes one."""
    module = ModuleType("a_module")
    module.TABLE = of_numbers = table()  # type: ignore[attr-defined]
    module.defs = dg.Definitions(  # type: ignore[attr-defined]
        assets=[of_numbers.files, of_numbers.rows],
        jobs=[of_numbers.job],
        schedules=[update_schedule(of_numbers, "0 0 5 * *", "America/New_York", "New months.")],
    )
    monkeypatch.setitem(sys.modules, "a_module", module)
    return module


def test_a_module_gives_its_table_and_definitions(module: ModuleType) -> None:
    assert import_dataset("a_module") == (module.TABLE, module.defs)


LACKING: dict[str, tuple[Callable[[ModuleType], None], str]] = {
    "TABLE": (lambda module: delattr(module, "TABLE"), "MonthlyTable called TABLE"),
    "schedule": (
        lambda module: setattr(module, "defs", replace_definitions(module.defs, schedules=[])),
        "lack the schedule numbers_job_schedule.*update_schedule",
    ),
    "job": (
        lambda module: setattr(module, "defs", replace_definitions(module.defs, jobs=[])),
        "lack the job numbers_job",
    ),
    "asset": (
        lambda module: setattr(module, "defs", replace_definitions(module.defs, assets=[module.TABLE.rows])),
        "lack an asset",
    ),
}


def replace_definitions(defs: dg.Definitions, **changes: Any) -> dg.Definitions:
    return dg.Definitions(**{"assets": defs.assets, "jobs": defs.jobs, "schedules": defs.schedules, **changes})


@pytest.mark.parametrize("what", LACKING)
def test_a_module_that_lacks_something_says_what(module: ModuleType, what: str) -> None:
    change, message = LACKING[what]
    change(module)
    with pytest.raises(ValueError, match=message):
        import_dataset("a_module")
