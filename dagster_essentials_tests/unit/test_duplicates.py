"""Trips that repeat another one to the last column, counted by brute force, among many that only resemble each other."""

from collections.abc import Mapping, Sequence
from math import inf, isnan, nan
from random import Random

import duckdb
import pytest

from dagster_essentials.datasets.yellow import COLUMNS, YELLOW
from dagster_essentials.warehouse import quality
from dagster_essentials.warehouse.tables import Tables

pytestmark = pytest.mark.duckdb

Row = Sequence[object]
MONTHS = ("2023-01", "2023-02")
# Values that a comparison may treat in its own way.
VALUES: Mapping[str, Sequence[object]] = {
    "INTEGER": [None, 0, 1, -1],
    "DOUBLE": [None, nan, 0.0, -0.0, 1.5, inf, -inf],
    "VARCHAR": [None, "", "N", "Y", "\0"],
    "TIMESTAMP": [None, "2023-01-01 00:00:00", "2023-01-31 23:59:59", "2088-01-24 00:25:39"],
}


def random_rows(random: Random, number: int) -> list[Row]:
    """Rows of which some are copies, some copies but for a column or two, and some have little in common."""
    names, types = [column.name for column in COLUMNS], [column.type for column in COLUMNS]
    rows: list[Row] = []
    for _ in range(number):
        if rows and random.random() < 0.7:
            row = [*random.choice(rows)]
            changed = random.sample(range(len(names)), random.choice([0, 0, 1, 2]))
        else:
            row, changed = [None] * len(names), [*range(len(names))]
        for index in changed:
            values: Sequence[object] = MONTHS if names[index] == "partition_date" else VALUES[types[index]]
            row[index] = random.choice(values)
        rows.append(row)
    return rows


def repeated(rows: Sequence[Row], month: str) -> int:
    """How many rows of `month` are alike to one before them: NaN equals NaN, and no sign makes a zero another one."""

    def comparable(value: object) -> object:
        if isinstance(value, float):
            return "NaN" if isnan(value) else value + 0.0
        return value

    seen: set[tuple[object, ...]] = set()
    count = 0
    for row in rows:
        if month in row:
            values = tuple(map(comparable, row))
            count += values in seen
            seen.add(values)
    return count


@pytest.mark.parametrize("limit", [quality.MAX_ALIKE, 0], ids=["few alike", "many alike"])
@pytest.mark.parametrize("seed", range(12))
def test_rows_that_repeat_another_one_are_counted_exactly(
    seed: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "MAX_ALIKE", limit)
    random = Random(seed)
    rows = random_rows(random, random.choice([1, 2, 40, 300]))
    tables = Tables(duckdb.connect())
    tables.execute(f"CREATE TABLE trips ({', '.join(f'{column.name} {column.type}' for column in COLUMNS)})")
    tables.connection.executemany(f"INSERT INTO trips VALUES ({', '.join('?' * len(COLUMNS))})", rows)

    for month in MONTHS:
        profile = quality.profile_month(tables, YELLOW, month)
        assert profile.violations["no_duplicates"] == repeated(rows, month)
        assert profile.rows == sum(month in row for row in rows)
        assert [*profile.violations] == [rule.name for rule in YELLOW.rules]
    if len(rows) == 300:
        assert repeated(rows, MONTHS[0]) > 20, "there are some to be counted"
