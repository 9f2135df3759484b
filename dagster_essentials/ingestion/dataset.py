"""The description of a dataset that is published as a file a month: columns, layouts of the files, data quality rules.

Nothing is executed here. The datasets of the TLC are in `datasets/`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dagster_essentials.ingestion.file_format import FileFormat, Parquet

if TYPE_CHECKING:
    import pyarrow as pa

Translation = tuple[str, str | None]
"""SQL for a value, and SQL that is true where the file has a text that stands for no value; None if that is an error."""

MAX_TEXT_BYTES = 100
"""In a column, unless it says otherwise. The values of the TLC are a letter or a short code, and a file of 68 kB can repeat a
text of 20 MB three thousand times."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name, type: in the table.
        source: its name in the newest files of the dataset, compared without case; None if they do not have it.
        required: whether a month without it is rejected. Fees were added over the years; the rest is in every file.
        description: what it holds, with its unit.
        max_bytes: of a text. A longer one fails the month.
        max_missing: the share of a month's rows, 0 to 1, that may lack a value (null or NaN) without a warning; None for a
            column in which real months lack many.
    """

    name: str
    type: str
    source: str | None
    required: bool
    description: str
    max_bytes: int = MAX_TEXT_BYTES
    max_missing: float | None = None


@dataclass(frozen=True)
class Layout:
    """The columns of the files of some months.

    Attributes:
        period: which months these are, for messages.
        last_month: the last of them, ``YYYY-MM``.
        mark: a column that files of other layouts do not have.
        sources: for columns of the table, their names in these files, compared without case.
        translate: for a column of the table and a column of the file with its Arrow type, how its values become those of the
            table if a cast is not enough; None for a column that is cast.
        derive: SQL of columns that are computed from the SQL of others. It may call a function of the `Reference` of the month.
        ignored: columns of the file that are no values.
    """

    period: str
    last_month: str
    mark: str
    sources: Mapping[str, str]
    translate: "Callable[[str, str, pa.DataType], Translation | None] | None" = None
    derive: Callable[[Mapping[str, str]], Mapping[str, str]] | None = None
    ignored: frozenset[str] = frozenset()


@dataclass(frozen=True)
class QualityRule:
    """Rows that violate an expectation, and are counted.

    Attributes:
        name: of the asset check.
        violations: SQL that counts them, over the rows of one month; `$first` and `$next` are the first days of that
            month and of the one after. Not by `count_if`, which is null for a column without any value. Comparisons with a
            missing value are not true: those are counted by `Column.max_missing`.
        limit: the share of the month's rows, 0 to 1, above which the check warns.
        description: what is counted, and why the limit is where it is.
        key: columns in which duplicate rows agree, for a rule that counts duplicates. `violations` are then counted among the
            rows that share their key with another one only: the same number in less time, so not another rule.
    """

    name: str
    violations: str
    limit: float
    description: str
    key: Sequence[str] = ()


@dataclass(frozen=True)
class Dataset:
    """Rows that are published under one name, a file a month.

    Attributes:
        name: in the database's record of what is loaded.
        title: what it is called in messages.
        noun: what its rows are called in messages, in the plural.
        publisher: who publishes it, for messages.
        address_setting: where the address of its files is set, for messages.
        declared_in: the file or folder in which its columns are declared, for messages.
        table: the table that it is loaded into. Several datasets may share one; they have the same `columns` then.
        comment: on the table, in the database.
        first_month: the first that was published, ``YYYY-MM``.
        months_to_publication: how many months after its end a month is usually published.
        months_behind: how many months after it became a partition a month is usually published, if not at once.
        longest_delay_days: how many days after its end a month has been published at the latest.
        file_asset, table_asset: the names of the assets of its files and of its table, for messages.
        columns: those of the table, in order. One of them is `partition_date`, the month of the file (``YYYY-MM``).
        layouts: of its files, the oldest first.
        rules: what is counted in each month.
        time: the column that lies in the month of the file. A month most of whose rows lie outside it is another month's.
        core_columns: how many of the columns, from the first on, the table has in every release; one without them was made by
            something else.
        made_by: what may have made a table without them, for messages.
        file_format: how its files are read.
        before_first_month: for messages, where the rows of earlier months are.
        without_network: for messages, how to go on if the source cannot be reached.
        constants: the values of columns of the table that are the same in all of its rows. A month is called by them as well.
        total_amount, trip_distance: SQL for the US dollars that were paid for a row, and its miles; null if not published.
    """

    name: str
    title: str
    noun: str
    publisher: str
    address_setting: str
    declared_in: str
    table: str
    comment: str
    first_month: str
    months_to_publication: int
    longest_delay_days: int
    file_asset: str
    table_asset: str
    columns: Sequence[Column]
    layouts: Sequence[Layout]
    rules: Sequence[QualityRule]
    time: str
    months_behind: int = 0
    core_columns: int = 0
    made_by: str = ""
    file_format: FileFormat = field(default_factory=Parquet)
    before_first_month: str = ""
    without_network: str = ""
    constants: Mapping[str, str] = field(default_factory=dict)
    total_amount: str = "CAST(NULL AS DOUBLE)"
    trip_distance: str = "CAST(NULL AS DOUBLE)"

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        problems = []
        if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", self.first_month):
            problems.append(f"its first month {self.first_month!r} is not written YYYY-MM")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            problems.append(f"its table has two columns {repeated[0]}")
        if missing := [name for name in ("partition_date", self.time, *self.constants) if name not in names]:
            problems.append(f"its table has no column {missing[0]}")
        if not self.rules:
            problems.append("it has no data quality rule; give it one, such as that its rows lie in their month")
        if unknown := [name for rule in self.rules for name in rule.key if name not in names]:
            problems.append(f"a data quality rule has the key {unknown[0]}, which is no column of its table")
        if isinstance(self.file_format, type) or not isinstance(self.file_format, FileFormat):
            problems.append(
                f"its file format {self.file_format!r} cannot read a file: give it one such as Parquet() or ZippedCsv()"
            )
        if not self.layouts:
            problems.append("it has no layout")
        if problems:
            raise ValueError(f"The dataset {self.name} cannot be loaded: {'; '.join(problems)}.")

    @property
    def assets(self) -> str:
        """The names of both assets, for messages."""
        return f"{self.file_asset} and {self.table_asset}"

    @property
    def rows(self) -> str:
        """SQL that is true for its rows in the table."""
        return " AND ".join(f"{name} = '{value}'" for name, value in self.constants.items()) or "true"

    @property
    def month_rows(self) -> str:
        """SQL that is true for its rows of the month `$month` (``YYYY-MM``) in the table."""
        return f"partition_date = $month AND {self.rows}"

    def label(self, month: str) -> str:
        """The name of a month (``YYYY-MM``) in logs, errors and alerts: ``2023-03``, or with its fleet, ``green 2023-03``."""
        return " ".join([*self.constants.values(), month])

    def folders(self, month: str) -> dict[str, str]:
        """The columns by which data files can lie in folders, with their values for `month` (``YYYY-MM``)."""
        return {**self.constants, "partition_date": month}
