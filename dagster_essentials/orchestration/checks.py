"""The asset checks of the tables of trips, one result a month each. The rules are in `datasets/`."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from dagster_essentials import settings
from dagster_essentials.datasets import DATASETS
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.errors import PipelineError, RowCountMismatchError
from dagster_essentials.ingestion.dataset import Dataset, QualityRule
from dagster_essentials.warehouse.load import LoadedMonth
from dagster_essentials.warehouse.month_versions import MonthVersion

ROWS_MATCH_FILE = "rows_match_file"
COLUMNS_KNOWN = "columns_known"
VALUES_MAPPED = "values_mapped"
SIMILAR_TO_PREVIOUS_VERSION = "similar_to_previous_version"

MAX_SHRINKAGE = 0.01
"""The share of its trips that a correction may remove without a warning. One month grew by 13 %; none is known to shrink."""

_DESCRIPTIONS = {
    ROWS_MATCH_FILE: "The table has as many rows as the file's footer counts. Otherwise the month fails and is unchanged.",
    COLUMNS_KNOWN: "Columns of the file that are not in the table. They are ignored; a new one means that the TLC "
    "has changed its schema.",
    SIMILAR_TO_PREVIOUS_VERSION: "The TLC corrects months in place. A corrected month is loaded; this warns if it has over "
    f"{MAX_SHRINKAGE:.0%} fewer trips or other columns than the version that was loaded before.",
    VALUES_MAPPED: "Texts of the months before 2011 that stand for no vendor, payment, rate or flag. In the table they are "
    "null, and a payment is 5 (unknown); a new one means that the TLC has changed these files.",
}


def check_specs(
    asset: str, partitions_def: dg.PartitionsDefinition[str], *datasets: Dataset
) -> list[dg.AssetCheckSpec]:
    """The checks of the table of `datasets`, each with a result for every month: a rule of one dataset passes in the others."""
    names = [ROWS_MATCH_FILE, *_rule_descriptions(datasets), COLUMNS_KNOWN, SIMILAR_TO_PREVIOUS_VERSION]
    names += [VALUES_MAPPED] if YELLOW in datasets and settings.SETTINGS.has_legacy_months else []
    descriptions = _DESCRIPTIONS | _rule_descriptions(datasets)
    return [
        dg.AssetCheckSpec(
            name,
            asset=asset,
            description=descriptions[name],
            partitions_def=partitions_def,
            blocking=name == ROWS_MATCH_FILE,
        )
        for name in names
    ]


def _rule_descriptions(datasets: Sequence[Dataset]) -> dict[str, str]:
    """The rules of all `datasets` by name, with a description that says to which of several one applies."""
    texts: dict[str, list[str]] = {}
    for dataset in datasets:
        for rule in dataset.rules:
            about = f"{dataset.name}: " if len(datasets) > 1 else ""
            texts.setdefault(rule.name, []).append(about + rule.description)
    return {name: " ".join(descriptions) for name, descriptions in texts.items()}


def _rules_of_others(dataset: Dataset) -> list[str]:
    """The rules of the other datasets of the same table that `dataset` does not have."""
    in_table = [other for other in DATASETS.values() if other.table == dataset.table]
    return [name for name in _rule_descriptions(in_table) if name not in {rule.name for rule in dataset.rules}]


def evaluate_month(month: LoadedMonth, dataset: Dataset) -> list[dg.AssetCheckResult]:
    """The results of all checks of a loaded month of `dataset`."""
    version = month.version
    unknown = ", ".join(name or '""' for name in version.columns_unknown) or "none"
    return [
        # A month with another number of rows than its file is not loaded.
        _evaluate_row_count(version.num_trips, version.num_trips),
        *(
            _evaluate_rule(rule, version.violations[rule.name], version.num_trips)
            for rule in dataset.rules
            # A rule that is newer than the version has counted nothing in it; the next load does.
            if rule.name in version.violations
        ),
        # Without a result for one partition, Dagster shows the check of the whole asset as skipped, after a run over three
        # fleets 6 of 12.
        *(_result(name, True, f"Does not apply to {dataset.name}.", {}) for name in _rules_of_others(dataset)),
        _result(
            COLUMNS_KNOWN,
            not version.columns_unknown,
            f"Columns that are not in the table: {unknown}.",
            {"unknown_columns": unknown},
        ),
        _compare_versions(*month.versions[-2:]),
        *(
            [_evaluate_texts(version.texts_unmapped)]
            if dataset is YELLOW and settings.SETTINGS.has_legacy_months
            else []
        ),
    ]


def failed_checks(error: PipelineError) -> list[dg.AssetCheckResult]:
    """The results of the checks that found `error`, for a month that was not loaded."""
    if isinstance(error, RowCountMismatchError):
        return [_evaluate_row_count(error.rows_in_file, error.rows_in_table)]
    return []


def _evaluate_row_count(rows_in_file: int, rows_in_table: int) -> dg.AssetCheckResult:
    return _result(
        ROWS_MATCH_FILE,
        rows_in_table == rows_in_file,
        f"{rows_in_file:,} rows in the file, {rows_in_table:,} in the table.",
        {"rows_in_table": rows_in_table, "rows_in_file": rows_in_file},
    )


def _evaluate_rule(rule: QualityRule, violations: int, rows: int) -> dg.AssetCheckResult:
    share = violations / max(rows, 1)
    return _result(
        rule.name,
        violations <= rule.limit * rows,
        f"{violations:,} of {rows:,} trips, {share:.2%}. Warns above {rule.limit:.2%}.",
        {"trips": violations, "share": share, "limit": rule.limit},
    )


def _evaluate_texts(unmapped: Mapping[str, int]) -> dg.AssetCheckResult:
    found = ", ".join(f"{name} of {trips:,} trips" for name, trips in unmapped.items()) or "none"
    return _result(
        VALUES_MAPPED, not unmapped, f"Texts that stand for no value: {found}.", {"trips": sum(unmapped.values())}
    )


def _compare_versions(before: MonthVersion, now: MonthVersion | None = None) -> dg.AssetCheckResult:
    """Compare a month's last two versions, or report its only one."""
    if now is None:
        return _result(SIMILAR_TO_PREVIOUS_VERSION, True, "No other version has been loaded before.", {})
    lost = 1 - now.num_trips / before.num_trips
    # Of a version from before there was a record, only the number of rows is known.
    changed = set(before.file_columns) ^ set(now.file_columns) if before.file_columns else set()
    columns = ", ".join(sorted(changed)) or "none"
    return _result(
        SIMILAR_TO_PREVIOUS_VERSION,
        lost <= MAX_SHRINKAGE and not changed,
        f"{now.num_trips:,} trips, {before.num_trips:,} in the version before; columns that differ: {columns}.",
        {"trips": now.num_trips, "trips_before": before.num_trips, "columns_that_differ": columns},
    )


def _result(name: str, passed: bool, description: str, metadata: Mapping[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR if name == ROWS_MATCH_FILE else dg.AssetCheckSeverity.WARN,
        description=description,
        metadata=metadata,
    )
