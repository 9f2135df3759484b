"""Ad-hoc requests: what one may contain, and the counts and the plot that answer it."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from unicodedata import normalize

from dagster_essentials.datasets.aggregates import loaded_months
from dagster_essentials.datasets.zones import BOROUGHS
from dagster_essentials.errors import ReportError
from dagster_essentials.ingestion.atomic_write import atomic_write
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.ingestion.months import months_between, next_month
from dagster_essentials.reports.plots import plot_hours
from dagster_essentials.reports.sample_data import has_sample
from dagster_essentials.warehouse.catalog import has_table
from dagster_essentials.warehouse.tables import Tables

RESERVED_NAMES = {"manhattan_map"}
"""Names of other pictures in the same folder."""


class RequestError(ValueError):
    """It is not a request, or one that cannot be answered. The message says why."""


@dataclass(frozen=True)
class Request:
    """The trips of a borough in a period, by hour of the day and day of the week.

    Attributes:
        filename: of the request; the answer is called NAME.png.
        borough: where the trips began.
        start_date: the first day, ``YYYY-MM-DD``; without both dates, the period is the newest month that is loaded.
        end_date: the day after the last one.

    Raises:
        RequestError: it names everything that is wrong.
    """

    filename: str
    borough: str
    start_date: str | None
    end_date: str | None

    def __post_init__(self) -> None:
        problems = [*self._problems_of_the_name(), *self._problems_of_the_period()]
        if self.borough not in BOROUGHS:
            problems.append(f"borough {self.borough!r} is none of {', '.join(BOROUGHS)}")
        if problems:
            raise RequestError("; ".join(problems))

    @property
    def name(self) -> str:
        return self.filename.removesuffix(".json")

    def _problems_of_the_name(self) -> Sequence[str]:
        # Letters, digits, and characters that cannot lead to another folder, hide the file, or have a meaning for a
        # shell. Some programs write é as two characters, of which the second is not a letter.
        if not re.fullmatch(r"\w[\w .()+-]*", normalize("NFC", self.name)) or len(self.name.encode()) > 200:
            return [
                f"the name {self.filename!r} cannot be a picture's: at most 200 letters, digits, spaces and .()+-_, of "
                "which the first is a letter or a digit. Rename the file"
            ]
        if self.name.lower() in RESERVED_NAMES:
            return [f"{self.name}.png is the picture of another asset. Rename the file"]
        return []

    def _problems_of_the_period(self) -> Sequence[str]:
        dates = {"start_date": self.start_date, "end_date": self.end_date}
        missing = [name for name, text in dates.items() if text is None]
        problems = [f"{text!r} is not a date, written YYYY-MM-DD" for text in dates.values() if not _is_date(text)]
        if len(missing) == 1:
            problems.append(f"{missing[0]} is missing: give both or neither")
        elif not problems and self.start_date is not None and str(self.end_date) <= self.start_date:
            problems.append(
                f"end_date {self.end_date} has to be after start_date {self.start_date}; it is the day after the last one"
            )
        return problems


def _is_date(text: str | None) -> bool:
    if text is None:
        return True
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    # Newer releases of Python accept more formats.
    return bool(re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII))


@dataclass(frozen=True)
class Answer:
    """The trips of a request, by (hour, day of the week from Sunday 0), and the months of its period.

    Attributes:
        start_date, end_date: the first day, and the day after the last one (``YYYY-MM-DD``).
        days: how many of each day of the week are in loaded months of the period, from Sunday 0.
        missing: the months of the period (``YYYY-MM``) that are not loaded.
        is_sample: whether the trips are generated.
    """

    request: Request
    start_date: str
    end_date: str
    trips: Mapping[tuple[int, int], int]
    days: Mapping[int, int]
    missing: Sequence[str]
    is_sample: bool

    @property
    def num_trips(self) -> int:
        return sum(self.trips.values())

    @property
    def period(self) -> str:
        """The first and the last day, for people."""
        return f"{self.start_date} to {_last_day(self.end_date)}"

    def write_plot(self, path: Path, files: DataFolder) -> bytes:
        """Plot the answer to `path` in `files`, as PNG, and return it.

        Raises:
            WriteError: it cannot be written.
        """
        title = f"Yellow taxi trips from {self.request.borough}, {self.period}: {self.num_trips:,}"
        if self.missing:
            title += f"\nwithout {describe_some(self.missing)}: not loaded"
        png = plot_hours(self.trips, self.days, title, self.is_sample)
        with atomic_write(path, files) as temporary:
            temporary.write_bytes(png)
        return png


_COUNT_BY_HOUR = """
SELECT hour(pickup_datetime) AS hour_of_day, dayofweek(pickup_datetime) AS day_of_week, count(*) AS num_trips
FROM trips
WHERE pickup_datetime >= $start_date::TIMESTAMP AND pickup_datetime < $end_date::TIMESTAMP
    AND pickup_zone_id IN (SELECT zone_id FROM zones WHERE borough = $borough)
GROUP BY ALL
"""


def answer_request(tables: Tables, request: Request) -> Answer:
    """Count the trips of `request`.

    Raises:
        ReportError, QueryError: nothing of it is loaded, or the tables cannot be queried.
    """
    with tables.explain_errors(
        "the trips could not be counted",
        "If the table trips or zones was made by something else, rename or drop it, materialize taxi_trips or taxi_zones "
        "again, and execute this run again.",
    ):
        start_date, end_date = _period(tables, request)
        months = months_between(start_date, _last_day(end_date).isoformat())
        loaded = loaded_months(tables, months)
        if not loaded:
            raise ReportError(
                f"no trips are loaded for {describe_some(months)}. Materialize taxi_trips_file and taxi_trips for these "
                "months, and execute this run again."
            )
        if not has_table(tables, "zones"):
            raise ReportError(
                "there is no table zones. Materialize taxi_zones_file and taxi_zones, and execute this run again."
            )
        rows = tables.execute(
            _COUNT_BY_HOUR, {"start_date": start_date, "end_date": end_date, "borough": request.borough}
        ).fetchall()
        generated = has_sample(tables)
    trips = {(hour, day): count for hour, day, count in rows}
    days = count_days(start_date, end_date, loaded)
    missing = [month for month in months if month not in loaded]
    return Answer(request, start_date, end_date, trips, days, missing, generated)


def count_days(start_date: str, end_date: str, months: Sequence[str]) -> dict[int, int]:
    """The number of Sundays (0), Mondays (1), … of the period that lie in one of the `months` (``YYYY-MM``)."""
    found: Counter[int] = Counter()
    for month in months:
        first = date.fromisoformat(max(f"{month}-01", start_date))
        end = date.fromisoformat(min(f"{next_month(month)}-01", end_date))
        found.update((first + timedelta(days=number)).isoweekday() % 7 for number in range((end - first).days))
    return dict(found)


def _period(tables: Tables, request: Request) -> tuple[str, str]:
    if request.start_date is not None and request.end_date is not None:
        return request.start_date, request.end_date
    months = loaded_months(tables)
    if not months:
        raise ReportError(
            "no trips are loaded. Materialize taxi_trips_file and taxi_trips, and execute this run again."
        )
    return f"{months[-1]}-01", f"{next_month(months[-1])}-01"


def _last_day(end_date: str) -> date:
    return date.fromisoformat(end_date) - timedelta(days=1)


def describe_some(months: Sequence[str]) -> str:
    """`months` in words, as many as fit into a line."""
    return ", ".join(months) if len(months) <= 6 else f"{len(months)} months from {months[0]} to {months[-1]}"
