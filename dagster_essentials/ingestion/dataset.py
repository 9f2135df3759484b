"""What describes a dataset: its columns, the layouts of its files over the years, and its data quality rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name, type: in the table.
        source: its name in the newest files of the dataset, compared without case; None if they do not have it.
        required: whether a month without it is rejected. Fees were added over the years; the rest is in every file.
        description: what it holds, with its unit.
    """

    name: str
    type: str
    source: str | None
    required: bool
    description: str


@dataclass(frozen=True)
class Layout:
    """The columns of the files of some months.

    Attributes:
        period: which months these are, for messages.
        last_month: the last of them, ``YYYY-MM``.
        mark: a column that files of other layouts do not have.
        sources: for columns of the table, their names in these files, compared without case.
    """

    period: str
    last_month: str
    mark: str
    sources: Mapping[str, str]

    @property
    def is_legacy(self) -> bool:
        """Whether these files have coordinates instead of zones, and texts instead of codes and times."""
        return "pickup_longitude" in self.sources


@dataclass(frozen=True)
class QualityRule:
    """Trips that violate an expectation, and are counted.

    Attributes:
        name: of the asset check.
        violations: SQL that counts them, over the rows of one month; `$first` and `$next` are the first days of that
            month and of the one after. Not by `count_if`, which is null for a column without any value.
        limit: the share of the month's trips, 0 to 1, above which the check warns.
        description: what is counted, and why the limit is where it is.
    """

    name: str
    violations: str
    limit: float
    description: str


@dataclass(frozen=True)
class Dataset:
    """The trips that the TLC publishes under one name, a file a month.

    Attributes:
        name: in the names of the files, ``{name}_tripdata_YYYY-MM.parquet``.
        title: what they are called in messages.
        table: the table that they are loaded into. Several datasets may share one; they have the same `columns` then.
        first_month: the first that was published, ``YYYY-MM``.
        months_to_publication: how many months after its end a month is usually published.
        longest_delay_days: how many days after its end a month has been published at the latest.
        file_asset, table_asset, job: the names of the assets of its files and of its table, and of the job that loads a month.
        columns: those of the table, in order.
        core_columns: how many of them, from the first on, the table has in every release; one without them was made by
            something else.
        layouts: of its files, the oldest first.
        rules: what is counted in each month.
        before_first_month: for messages, where the trips of earlier months are.
        constants: the values of columns of the table that are the same in all of its trips.
        total_amount, trip_distance: SQL for the US dollars that were paid for a trip, and its miles; null if not published.
    """

    name: str
    title: str
    table: str
    first_month: str
    months_to_publication: int
    longest_delay_days: int
    file_asset: str
    table_asset: str
    job: str
    columns: Sequence[Column]
    core_columns: int
    layouts: Sequence[Layout]
    rules: Sequence[QualityRule]
    before_first_month: str = ""
    constants: Mapping[str, str] = field(default_factory=dict)
    total_amount: str = "total_amount"
    trip_distance: str = "trip_distance"

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
