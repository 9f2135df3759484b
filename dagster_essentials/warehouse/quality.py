"""The quality of every month that is loaded: what is counted in its rows, and the findings of the checks that follow from it.

No row is dropped; the rules only count. They are counted in the transaction that loads the month.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dagster_essentials.ingestion.column_mapping import ColumnMapping
from dagster_essentials.ingestion.dataset import Column, Dataset, QualityRule
from dagster_essentials.ingestion.months import first_day, next_month
from dagster_essentials.ingestion.sql import finite_sum
from dagster_essentials.warehouse.catalog import has_table
from dagster_essentials.warehouse.month_versions import MonthVersion
from dagster_essentials.warehouse.tables import Tables

MAX_ALIKE = 100_000
"""Keys that are bound to a statement. Of a file that was doubled there are millions, and to count in all rows takes less."""


@dataclass(frozen=True)
class MonthProfile:
    """The counts of the rows of one month in a table.

    Attributes:
        rows, outside: all of them, and those whose time is missing or outside the month.
        total_amount, trip_distance: their sums, US dollars and miles, two decimals.
        violations: of each rule, by its name.
        missing: rows without a value, by column that has a limit for them.
    """

    rows: int
    outside: int
    total_amount: float | None
    trip_distance: float | None
    violations: Mapping[str, int]
    missing: Mapping[str, int]


def profile_month(tables: Tables, dataset: Dataset, month: str, relation: str | None = None) -> MonthProfile:
    """Count the rows of `month` (``YYYY-MM``) in the table of `dataset`, or in a `relation` with the columns of the table."""
    limited = [column for column in dataset.columns if column.max_missing is not None]
    counted = [rule for rule in dataset.rules if not rule.key]
    counts = [
        "count(*)",
        f"count(*) FILTER (NOT coalesce({dataset.time} >= $first AND {dataset.time} < $next, false))",
        rounded_sum(dataset.total_amount),
        rounded_sum(dataset.trip_distance),
        *(_missing(column) for column in limited),
        *(rule.violations for rule in counted),
    ]
    rows = f"{relation or dataset.table} WHERE {dataset.month_rows}"
    values = {"month": month, "first": first_day(month), "next": first_day(next_month(month))}
    # In one scan: each takes 0.05 s of a month of 3 million rows.
    total, outside, total_amount, trip_distance, *others = tables.execute(
        f"SELECT {', '.join(counts)} FROM {rows}", values
    ).fetchall()[0]
    missing = dict(zip([column.name for column in limited], others, strict=False))
    violations = dict(zip([rule.name for rule in counted], others[len(limited) :], strict=True))
    for rule in dataset.rules:
        if rule.key:
            violations[rule.name] = _count_among_alike(tables, rule, rows, values)
    return MonthProfile(
        total,
        outside,
        total_amount,
        trip_distance,
        {rule.name: violations[rule.name] for rule in dataset.rules},
        missing,
    )


def _count_among_alike(tables: Tables, rule: QualityRule, rows: str, values: Mapping[str, object]) -> int:
    """The violations of a `rule`, counted among those of the `rows` that are not alone with their key."""
    # Not at the top: loading the code location needs no numpy.
    import numpy as np

    # Half of a hash. Equal keys have equal ones, and where others have, the rule only sees more rows: 1,071 pairs of 3 million.
    # numpy sorts them in 0.1 s; with the sort of DuckDB, a month takes 0.51 s of CPU time instead of 0.21.
    key = f"(hash({', '.join(rule.key)}) >> 32)::UINTEGER"
    keys = np.sort(tables.execute(f"SELECT {key} AS key FROM {rows}", values).fetchnumpy()["key"])
    alike = np.unique(keys[1:][keys[1:] == keys[:-1]])
    among = f"AND {key} IN (SELECT unnest($alike::UINTEGER[]))" if len(alike) <= MAX_ALIKE else ""
    query = f"SELECT {rule.violations} FROM {rows} {among}"
    ((violations,),) = tables.execute(query, {**values, "alike": alike.tolist()}).fetchall()
    return int(violations)


def _missing(column: Column) -> str:
    """SQL for the number of rows without a value."""
    # The table knows which values are null: for the ten columns of 3 million trips, 0.04 s of CPU time. As conditions, 0.11.
    value = f"nullif({column.name}, 'nan')" if column.type == "DOUBLE" else column.name
    return f"count(*) - count({value})"


def rounded_sum(value: str) -> str:
    """SQL for the sum of the finite values of an expression, two decimals."""
    return f"round({finite_sum(value)}, 2)"


def most_frequent_month(tables: Tables, dataset: Dataset, month: str, relation: str | None = None) -> str | None:
    """The month (``YYYY-MM``) in which most rows of the file of `month` lie; None if they have no time."""
    found = tables.execute(
        f"SELECT strftime({dataset.time}, '%Y-%m') FROM {relation or dataset.table} "
        f"WHERE {dataset.month_rows} AND {dataset.time} IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1",
        {"month": month},
    ).fetchall()
    return found[0][0] if found else None


def count_unmapped(tables: Tables, mapping: ColumnMapping, relation: str, file: str) -> Mapping[str, int]:
    """For each column of a month's `file`, as DuckDB reads it by the `relation`, the texts that stand for no value, if any.

    In the table, such a text and a missing value are alike, so these are counted in the file.
    """
    if not mapping.unmapped:
        return {}
    counts = ", ".join(f"count(*) FILTER ({condition})" for condition in mapping.unmapped.values())
    (found,) = tables.execute(f"SELECT {counts} FROM {relation}", {"file": file}).fetchall()
    return {name: rows for name, rows in zip(mapping.unmapped, found, strict=True) if rows}


ROWS_MATCH_FILE = "rows_match_file"
COLUMNS_KNOWN = "columns_known"
VALUES_MAPPED = "values_mapped"
VALUES_PRESENT = "values_present"
SIMILAR_TO_PREVIOUS_VERSION = "similar_to_previous_version"

MAX_SHRINKAGE = 0.01
"""The share of its rows that a correction may remove without a warning. One month of the TLC grew by 13 %; none is known to
shrink."""


@dataclass(frozen=True)
class Finding:
    """The result of a check for one month, with its figures in words. `share` is that of its rows, 0 to 1, if it counts rows."""

    check: str
    passed: bool
    figures: str
    share: float = 0.0


def find(versions: Sequence[MonthVersion], dataset: Dataset) -> list[Finding]:
    """The findings of all checks for a month of `dataset`, by its `versions`, oldest first: the last one is in the table."""
    version = versions[-1]
    unknown = ", ".join(name or '""' for name in version.columns_unknown) or "none"
    findings = [
        # A month with another number of rows than its file is not loaded.
        Finding(ROWS_MATCH_FILE, True, f"{version.num_trips:,} rows in the file, {version.num_trips:,} in the table"),
        *(
            _apply(rule, version.violations[rule.name], version.num_trips, dataset.noun)
            for rule in dataset.rules
            # A rule that is newer than the version has counted nothing in it; the next load does.
            if rule.name in version.violations
        ),
        _present(version, dataset),
        Finding(COLUMNS_KNOWN, not version.columns_unknown, f"columns that are not in the table: {unknown}"),
        _compare(*versions[-2:], noun=dataset.noun),
    ]
    if any(layout.translate for layout in dataset.layouts):
        texts = (
            ", ".join(f"{name} of {rows:,} {dataset.noun}" for name, rows in version.texts_unmapped.items()) or "none"
        )
        findings.append(Finding(VALUES_MAPPED, not version.texts_unmapped, f"texts that stand for no value: {texts}"))
    return findings


def _apply(rule: QualityRule, violations: int, rows: int, noun: str) -> Finding:
    share = violations / max(rows, 1)
    return Finding(
        rule.name,
        violations <= rule.limit * rows,
        f"{violations:,} of {rows:,} {noun}, {share:.2%}; the limit is {rule.limit:.2%}",
        share,
    )


def _present(version: MonthVersion, dataset: Dataset) -> Finding:
    shares = {
        column.name: version.missing[column.name] / max(version.num_trips, 1)
        for column in dataset.columns
        # A month of an earlier release was not counted.
        if column.max_missing is not None and version.missing.get(column.name)
    }
    limits = {column.name: column.max_missing or 0 for column in dataset.columns}
    beyond = {name: share for name, share in shares.items() if share > limits[name]}
    figures = ", ".join(f"{name} in {share:.2%} of the {dataset.noun}" for name, share in (beyond or shares).items())
    return Finding(
        VALUES_PRESENT, not beyond, f"missing values: {figures or 'none'}", max(shares.values(), default=0.0)
    )


def _compare(before: MonthVersion, now: MonthVersion | None = None, *, noun: str) -> Finding:
    """Compare a month's last two versions, or report its only one."""
    if now is None:
        return Finding(SIMILAR_TO_PREVIOUS_VERSION, True, "no other version has been loaded before")
    lost = 1 - now.num_trips / before.num_trips
    # Of a version from before there was a record, only the number of rows is known.
    changed = set(before.file_columns) ^ set(now.file_columns) if before.file_columns else set()
    columns = ", ".join(sorted(changed)) or "none"
    return Finding(
        SIMILAR_TO_PREVIOUS_VERSION,
        lost <= MAX_SHRINKAGE and not changed,
        f"{now.num_trips:,} {noun}, {before.num_trips:,} in the version before; columns that differ: {columns}",
    )


def loaded_months(tables: Tables, dataset: Dataset) -> set[str]:
    """The months (``YYYY-MM``) of `dataset` that have rows in its table."""
    if not has_table(tables, dataset.table):
        return set()
    rows = tables.execute(f"SELECT DISTINCT partition_date FROM {dataset.table} WHERE {dataset.rows}").fetchall()
    return {month for (month,) in rows}
