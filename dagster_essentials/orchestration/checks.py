"""The asset checks of a table that is loaded by month: each is about all loaded months, and names those that do not pass.

They have no partitions: with a result for each month, one month that cannot be loaded made every check of the table red in the
lineage, and 11 of the 13 events of a month were theirs. The findings of a month stand on its own page.
"""

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from dagster_essentials.errors import RowCountMismatchError
from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.warehouse.month_versions import MonthVersion
from dagster_essentials.warehouse.quality import (
    COLUMNS_KNOWN,
    MAX_SHRINKAGE,
    ROWS_MATCH_FILE,
    SIMILAR_TO_PREVIOUS_VERSION,
    VALUES_MAPPED,
    VALUES_PRESENT,
    Finding,
    find,
)

_LISTED = 12
"""Months that a check names in its description: of the longest range, 205, the newest ones."""


def check_specs(asset: str, *datasets: Dataset, has_texts: bool = False) -> list[dg.AssetCheckSpec]:
    """The checks of the table `asset` of the `datasets`; `has_texts` if months whose texts become codes are partitions."""
    descriptions = {
        ROWS_MATCH_FILE: "Every month has as many rows as its file. Otherwise the month fails and is unchanged.",
        **_rule_descriptions(datasets),
        VALUES_PRESENT: "Missing values (null or NaN) in columns that have a value in practically every row of real months.",
        COLUMNS_KNOWN: "Columns of the files that are not in the table. They are ignored; a new one means that the schema of the "
        "files has changed.",
        SIMILAR_TO_PREVIOUS_VERSION: "Months are corrected in place. A corrected month is loaded; this warns if it has over "
        f"{MAX_SHRINKAGE:.0%} fewer rows or other columns than the version that was loaded before.",
    }
    if has_texts:
        descriptions[VALUES_MAPPED] = (
            "Texts of the files that stand for no code of the table. They are null or unknown there; a new one means that the "
            "files have changed."
        )
    return [
        dg.AssetCheckSpec(name, asset=asset, description=text, blocking=name == ROWS_MATCH_FILE)
        for name, text in descriptions.items()
    ]


def _rule_descriptions(datasets: Sequence[Dataset]) -> dict[str, str]:
    """The rules of all `datasets` by name, with a description that says to which of several one applies."""
    texts: dict[str, list[str]] = {}
    for dataset in datasets:
        for rule in dataset.rules:
            about = f"{dataset.name}: " if len(datasets) > 1 else ""
            texts.setdefault(rule.name, []).append(about + rule.description)
    return {name: " ".join(descriptions) for name, descriptions in texts.items()}


def evaluate_checks(
    names: Sequence[str],
    datasets: Sequence[Dataset],
    versions: Mapping[tuple[str, str], Sequence[MonthVersion]],
    mismatches: Mapping[str, RowCountMismatchError],
) -> Iterator[dg.AssetCheckResult]:
    """The results of the checks `names` over all loaded months, of which there are the `versions` by dataset and month.

    `mismatches` are the months that this run did not load, because the table would have had another number of rows than the file.
    """
    by_name = {dataset.name: dataset for dataset in datasets}
    findings: dict[str, list[tuple[str, Finding]]] = {name: [] for name in names}
    for (dataset, month), of_month in sorted(versions.items(), key=lambda item: item[0][1]):
        for finding in find(of_month, by_name[dataset]):
            if finding.check in findings:
                findings[finding.check].append((by_name[dataset].label(month), finding))
    rolled_back = {
        label: Finding(
            ROWS_MATCH_FILE,
            False,
            f"{error.rows_in_file:,} rows in the file, {error.rows_in_table:,} loaded, and rolled back",
        )
        for label, error in mismatches.items()
    }
    if rolled_back and ROWS_MATCH_FILE in findings:
        # Of a month that is loaded in an earlier version, this is what there is to say.
        findings[ROWS_MATCH_FILE] = [*(dict(findings[ROWS_MATCH_FILE]) | rolled_back).items()]
    for name, of_months in findings.items():
        yield _result(name, of_months)


def _result(name: str, findings: Sequence[tuple[str, Finding]]) -> dg.AssetCheckResult:
    failed = {label: finding.figures for label, finding in findings if not finding.passed}
    months = f"{len(findings):,} loaded month{'' if len(findings) == 1 else 's'}"
    metadata: dict[str, str | int] = {"months": len(findings), "months_beyond_the_limit": len(failed)}
    if failed:
        shown = list(failed.items())[-_LISTED:]
        others = f", and {len(failed) - len(shown)} earlier ones" if len(failed) > len(shown) else ""
        listed = "; ".join(f"{label}: {figures}" for label, figures in shown)
        text = f"{len(failed)} of {months} {'does' if len(failed) == 1 else 'do'} not pass. {listed}{others}."
    elif findings:
        label, highest = max(findings, key=lambda found: found[1].share)
        text = f"{months[0].upper()}{months[1:]}: all pass."
        if highest.share:
            text += f" The highest is {label}: {highest.figures}."
    else:
        text = "No month is loaded to which this applies."
    return dg.AssetCheckResult(
        check_name=name,
        passed=not failed,
        severity=dg.AssetCheckSeverity.ERROR if name == ROWS_MATCH_FILE else dg.AssetCheckSeverity.WARN,
        description=text,
        metadata=metadata,
    )
