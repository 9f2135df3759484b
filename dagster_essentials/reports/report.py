"""One HTML page about everything that is loaded, to be sent to somebody: no scripts, no network, the pictures inline.

    python -m dagster_essentials.reports.report data/staging/data.duckdb report.html

It needs nothing but the database, which it only reads. Whoever opens the page sees the data as of the newest load.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from dagster_essentials.datasets import DATASETS
from dagster_essentials.datasets.zones import multipolygon_coordinates
from dagster_essentials.errors import PipelineError, ReportError
from dagster_essentials.ingestion.atomic_write import atomic_write
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.ingestion.sql import finite_sum, first_line
from dagster_essentials.reports import plots
from dagster_essentials.reports.fleets import FleetMonth, incomplete_months
from dagster_essentials.reports.manhattan import describe_months
from dagster_essentials.reports.sample_data import has_sample
from dagster_essentials.warehouse.catalog import columns_of, has_table
from dagster_essentials.warehouse.tables import Tables

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

TOLERANCE = 0.0008
"""Degrees, 70 m. Simplified by as much, the published outlines take a tenth of the space, and look the same on a page."""


@dataclass(frozen=True)
class Cells:
    """A table of the page; the first cell of each row is its head."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Chart:
    """A picture of the page, with a sentence on it, what to know before drawing a conclusion, and its numbers."""

    title: str
    svg: str
    summary: str
    caveat: str
    table: Cells


def render_report(tables: Tables) -> str:
    """The page, as HTML. The same tables give the same page.

    Raises:
        ReportError: nothing is loaded.
        QueryError: the tables cannot be read.
    """
    # Imported here, as no other run needs it.
    from jinja2 import Environment

    with tables.explain_errors(
        "the report could not be made",
        "If one of the tables was made by something else, rename or drop it, and materialize again.",
    ):
        facts = _facts(tables)
    template = Path(__file__).with_name("report.html.jinja").read_text()
    environment = Environment(autoescape=True, trim_blocks=True)
    return environment.from_string(template).render(**facts, number=_number, sample=plots.SAMPLE, source=plots.SOURCE)


def write_report(tables: Tables, path: Path, files: DataFolder) -> str:
    """Write the page to `path` in `files`, and return it.

    Raises:
        ReportError, QueryError, WriteError: it cannot be done; an earlier page is unchanged.
    """
    page = render_report(tables)
    with atomic_write(path, files) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return page


def _facts(tables: Tables) -> Mapping[str, Any]:
    """The values of the template."""
    if not has_table(tables, "trips") and not has_table(tables, "fleet_trips"):
        raise ReportError("No month is loaded. Materialize taxi_trips first.")
    versions = _versions(tables)
    days = _days(tables)
    if not versions and not days:
        raise ReportError("No month is loaded. Materialize taxi_trips first.")
    charts = []
    if days:
        charts += [*_month_charts(days), *_week_charts(days)]
        charts += _map(tables)
    if any(version.fleet != "yellow" for version in versions):
        charts.append(_fleets(versions))
    newest = max((version.loaded_at for version in versions if version.loaded_at), default=None)
    months = sorted({version.month for version in versions} | {day.month for day in days})
    return {
        "title": "New York taxi trips",
        "is_sample": has_sample(tables),
        "summary": f"Months: {describe_months(months)}."
        + (f" The newest load was on {newest:%Y-%m-%d at %H:%M} UTC." if newest else ""),
        "loaded": _loaded(versions, days),
        "changes": _changes(tables),
        "charts": charts,
        **_quality(tables),
    }


@dataclass(frozen=True)
class _Version:
    fleet: str
    month: str
    num_trips: int
    loaded_at: Any


def _versions(tables: Tables) -> list[_Version]:
    """The month versions that are in the tables, by fleet and month. A database of an early release has none."""
    if not {"fleet", "month", "version", "num_trips", "loaded_at"} <= columns_of(tables, "month_versions").keys():
        return []
    rows = tables.execute(
        "SELECT fleet, month, num_trips, loaded_at FROM month_versions "
        "QUALIFY version = max(version) OVER (PARTITION BY fleet, month) ORDER BY fleet, month"
    ).fetchall()
    return [_Version(*row) for row in rows]


@dataclass(frozen=True)
class _Day:
    """The yellow trips that began on a day, in the file of a month."""

    month: str
    day: date
    num_trips: int
    total_amount: float


def _days(tables: Tables) -> list[_Day]:
    if not has_table(tables, "trips"):
        return []
    source = "trips_by_day"
    if not has_table(tables, source):
        # The first report of a release that has the table creates it; this may be a database that was never written since.
        source = (
            f"(SELECT partition_date, pickup_datetime::DATE AS day, count(*) AS num_trips, "
            f"{finite_sum('total_amount')} AS total_amount FROM trips GROUP BY ALL)"
        )
    rows = tables.execute(
        f"SELECT partition_date, day, num_trips::BIGINT, coalesce(total_amount, 0) FROM {source} "
        "WHERE day IS NOT NULL ORDER BY ALL"
    ).fetchall()
    return [_Day(*row) for row in rows]


def _loaded(versions: Sequence[_Version], days: Sequence[_Day]) -> Cells:
    rows: list[Sequence[object]] = []
    for fleet, dataset in DATASETS.items():
        found = [version for version in versions if version.fleet == fleet]
        months, trips = sorted({version.month for version in found}), sum(version.num_trips for version in found)
        if fleet == "yellow":
            months, trips = sorted({*months, *(day.month for day in days)}), sum(day.num_trips for day in days) or trips
        if months:
            newest = max(
                (version for version in found if version.loaded_at), key=lambda each: each.loaded_at, default=None
            )
            change = f"{newest.month}, on {newest.loaded_at:%Y-%m-%d}" if newest else "not recorded"
            rows.append([dataset.title, describe_months(months), len(months), trips, change])
    return Cells(["trips of", "from and to", "months", "trips", "newest change"], rows)


def _changes(tables: Tables) -> Cells:
    """The last ten corrections: versions that have replaced another one."""
    rows: list[Sequence[object]] = []
    if {"fleet", "version", "num_trips"} <= columns_of(tables, "month_versions").keys():
        found = tables.execute(
            "SELECT fleet, month, version, loaded_at, num_trips, lag(num_trips) OVER corrections AS before FROM month_versions "
            "WINDOW corrections AS (PARTITION BY fleet, month ORDER BY version) "
            "QUALIFY before IS NOT NULL ORDER BY loaded_at DESC, fleet, month LIMIT 10"
        ).fetchall()
        rows = [
            [f"{month} {fleet}", version, f"{loaded_at:%Y-%m-%d}" if loaded_at else "", before, trips, trips - before]
            for fleet, month, version, loaded_at, trips, before in found
        ]
    return Cells(["month", "version", "loaded on", "trips before", "trips now", "difference"], rows)


_NEGATIVE = "Negative totals, which are refunds and corrections, are included; tips in cash are not recorded."


def _month_charts(days: Sequence[_Day]) -> list[Chart]:
    trips: dict[str, float] = {}
    dollars: dict[str, float] = {}
    for day in days:
        trips[day.month] = trips.get(day.month, 0) + day.num_trips
        dollars[day.month] = dollars.get(day.month, 0) + day.total_amount
    return [
        Chart(
            f"Yellow taxi {what} by month",
            plots.svg(f"months{what}", f"Bars: yellow taxi {what} of each month", _bars(values, what)),
            f"{_most(values)}; {_number(sum(values.values()))} in all.",
            caveat,
            Cells(["month", what], [[month, round(value, 2)] for month, value in values.items()]),
        )
        for what, values, caveat in (
            ("trips", trips, "A month is that of the TLC's file, which has up to 0.5 % of other months' trips."),
            ("dollars", dollars, _NEGATIVE),
        )
    ]


def _bars(values: Mapping[str, float], what: str) -> Callable[["FigureBase"], None]:
    return lambda figure: plots.draw_months(figure, values, what)


def _week_charts(days: Sequence[_Day]) -> list[Chart]:
    loaded = {day.month for day in days}
    figures: dict[date, list[float]] = {}
    found: dict[date, set[date]] = {}
    for day in days:
        # Some times are decades away.
        if f"{day.day:%Y-%m}" in loaded:
            sunday = day.day - timedelta(days=day.day.isoweekday() % 7)
            trips, dollars = figures.get(sunday, (0, 0))
            figures[sunday] = [trips + day.num_trips, dollars + day.total_amount]
            found.setdefault(sunday, set()).add(day.day)
    incomplete = [sunday for sunday, those in found.items() if len(those) < 7]
    weeks = sorted(figures)
    charts = []
    for position, what in enumerate(("trips", "dollars")):
        values = {week: figures[week][position] for week in weeks}
        complete = {f"{week}": value for week, value in values.items() if week not in incomplete}
        charts.append(
            Chart(
                f"Yellow taxi {what} by week",
                plots.svg(f"weeks{what}", f"A line: yellow taxi {what} of each week", _line(values, incomplete, what)),
                f"{_most(complete or {f'{week}': value for week, value in values.items()}, 'in the week of ')}.",
                "Weeks go from Sunday to Saturday. A hollow dot is a week of which some days are not loaded, not a decline."
                if incomplete
                else "Weeks go from Sunday to Saturday.",
                Cells(
                    ["week from", what, "days loaded"],
                    [[week.isoformat(), round(value, 2), len(found[week])] for week, value in values.items()],
                ),
            )
        )
    return charts


def _line(values: Mapping[date, float], incomplete: Sequence[date], what: str) -> Callable[["FigureBase"], None]:
    return lambda figure: plots.draw_weeks(figure, values, incomplete, f"Yellow taxi {what}")


def _map(tables: Tables) -> list[Chart]:
    """The map of all zones, if they are loaded."""
    if not {"zone_id", "zone", "borough", "geometry"} <= columns_of(tables, "zones").keys():
        return []
    # Of zones that the course's code has made, several rows have one id.
    zones = tables.execute(
        "SELECT DISTINCT ON (zone_id) zone_id, zone, borough, geometry FROM zones WHERE geometry IS NOT NULL ORDER BY ALL"
    ).fetchall()
    source = "pickups_by_zone"
    if not has_table(tables, source):
        source = "(SELECT pickup_zone_id, count(*) AS num_trips FROM trips GROUP BY ALL)"
    pickups = dict(
        tables.execute(f"SELECT pickup_zone_id, sum(num_trips)::BIGINT FROM {source} GROUP BY ALL").fetchall()
    )
    shapes = list(zip(_simplified([geometry for *_, geometry in zones]), zones, strict=True))
    drawn = [(outline, pickups.get(zone_id, 0)) for outline, (zone_id, *_) in shapes if outline]
    if not drawn:
        return []
    busiest = sorted(
        ((f"{zone} ({zone_id}), {borough}", pickups.get(zone_id, 0)) for zone_id, zone, borough, _ in zones),
        key=lambda each: -each[1],
    )
    (first, most), total = busiest[0], sum(pickups.values())
    elsewhere = total - sum(trips for _, trips in drawn)
    return [
        Chart(
            "Pickups by zone",
            plots.svg(
                "map",
                "A map: each taxi zone coloured by its pickups",
                lambda figure: plots.draw_map(figure, drawn, ""),
                4.2,
            ),
            f"The busiest zone is {first} with {_number(most)} trips, {100 * most / max(total, 1):.1f} % of all.",
            f"{_number(elsewhere)} trips began outside the city or at an unknown place, and are on no map.",
            Cells(["zone", "trips"], [list(each) for each in busiest[:25]]),
        )
    ]


def _simplified(geometries: Sequence[str]) -> list[Any]:
    """The coordinates of each outline, neighbours sharing the simplified border; None for one that is no multipolygon."""
    # Imported here, as no other report needs it.
    import shapely

    shapes = shapely.from_wkt(geometries, on_invalid="ignore")
    try:
        shapes = shapely.coverage_simplify(shapes, TOLERANCE)
    except shapely.errors.GEOSException:
        # Not a coverage, such as zones that overlap: the page is larger.
        return [multipolygon_coordinates(geometry) for geometry in geometries]
    return [None if shape is None else _coordinates(shapely.geometry.mapping(shape)) for shape in shapes]


def _coordinates(shape: Mapping[str, Any]) -> Any:
    return [shape["coordinates"]] if shape["type"] == "Polygon" else shape["coordinates"]


def _fleets(versions: Sequence[_Version]) -> Chart:
    trips = {(version.month, version.fleet): version.num_trips for version in versions}
    present = [fleet for fleet in DATASETS if any(version.fleet == fleet for version in versions)]
    months = [FleetMonth(month, fleet, number) for (month, fleet), number in sorted(trips.items())]
    incomplete = incomplete_months(months, present)
    totals = {DATASETS[fleet].title: sum(n for (_, name), n in trips.items() if name == fleet) for fleet in present}
    every = sorted({month for month, _ in trips})
    return Chart(
        "Trips by fleet and month",
        plots.svg(
            "fleets",
            "Stacked bars: the trips of each fleet by month",
            lambda figure: plots.draw_fleets(figure, trips, incomplete),
            3.8,
        ),
        f"{_most(totals, 'are ')} in all of these months.",
        "Uber, Lyft, Via and Juno are in fhv until 2019-01, and in fhvhv since: over time, add the two. fhv is published a "
        "month later than the others.",
        Cells(["month", *present], [[month, *(trips.get((month, fleet), "") for fleet in present)] for month in every]),
    )


_LIMITED = (
    'SELECT dataset, month, rule, rows::BIGINT, share, "limit", passed FROM month_quality ORDER BY dataset, rule, month'
)


def _quality(tables: Tables) -> Mapping[str, Any]:
    rows = tables.execute(_LIMITED).fetchall() if columns_of(tables, "month_quality") else []
    of_rule: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        of_rule.setdefault((row[0], row[2]), []).append(row)
    summaries: list[Sequence[object]] = []
    clean = [f"{dataset} {rule}" for (dataset, rule), found in of_rule.items() if not any(row[3] for row in found)]
    for (dataset, rule), found in of_rule.items():
        worst = max(found, key=lambda row: row[4])
        beyond = sum(not row[6] for row in found)
        months = f"{beyond} of {len(found)} beyond" if beyond else f"all {len(found)} within"
        if worst[3]:
            summaries.append([f"{dataset}: {rule}", _percent(worst[5]), _percent(worst[4]), worst[1], months])
    columns = ["month and rule", "trips", "share", "limit"]
    # A month of yellow trips has fifteen: of years, the newest are enough.
    recent = sorted({row[1] for row in rows})[-12:]
    return {
        "quality": Cells(["fleet and rule", "limit", "highest share", "in", "months"], summaries),
        "failed": Cells(columns, [_result(row) for row in rows if not row[6]]),
        "by_month": Cells(
            [*columns, "passed"],
            [
                [*_result(row), "yes" if row[6] else "no"]
                for row in sorted(rows, key=lambda row: row[1])
                if row[1] in recent
            ],
        ),
        "clean": clean,
        "results": len(rows),
    }


def _result(row: Sequence[Any]) -> list[object]:
    dataset, month, rule, trips, share, limit, _ = row
    return [f"{month} {dataset}: {rule}", trips, _percent(share), _percent(limit)]


def _percent(share: float) -> str:
    return f"{share:.3%}".rstrip("0%").rstrip(".") + " %" if share else "0 %"


def _most(values: Mapping[str, float], before: str = "in ") -> str:
    """The largest of the `values` in words, by its name."""
    name = max(values, key=lambda each: values[each])
    return f"Most {before}{name}: {_number(values[name])}"


def _number(value: float) -> str:
    return f"{value:,.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m dagster_essentials.reports.report", description="Write one HTML page about what a database has."
    )
    parser.add_argument("database", type=Path, help="the DuckDB file; it is opened to read only")
    parser.add_argument("page", type=Path, help="where to write the page")
    chosen = parser.parse_args(arguments)
    if not chosen.database.is_file():
        parser.error(f"{chosen.database} does not exist")
    try:
        connection = duckdb.connect(str(chosen.database), read_only=True)
    except duckdb.Error as error:
        sys.exit(f"{chosen.database} cannot be opened: {first_line(error)}")
    try:
        with connection:
            write_report(Tables(connection), chosen.page, DataFolder(chosen.page.parent))
    except PipelineError as error:
        sys.exit(str(error))
    print(f"{chosen.page}: {chosen.page.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
