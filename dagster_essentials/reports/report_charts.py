"""The charts of `report.py`: each a picture, a sentence, what to know before drawing a conclusion, and the numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from dagster_essentials.datasets import DATASETS
from dagster_essentials.datasets.zones import multipolygon_coordinates
from dagster_essentials.reports import plots
from dagster_essentials.reports.fleets import FleetMonth, incomplete_months
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


@dataclass(frozen=True)
class Version:
    """The version of a month that is in a table."""

    fleet: str
    month: str
    num_trips: int
    loaded_at: Any


@dataclass(frozen=True)
class Day:
    """The yellow trips that began on a day, in the file of a month."""

    month: str
    day: date
    num_trips: int
    total_amount: float


_NEGATIVE = "Negative totals, which are refunds and corrections, are included; tips in cash are not recorded."


def month_charts(days: Sequence[Day]) -> list[Chart]:
    trips: dict[str, float] = {}
    dollars: dict[str, float] = {}
    for day in days:
        trips[day.month] = trips.get(day.month, 0) + day.num_trips
        dollars[day.month] = dollars.get(day.month, 0) + day.total_amount
    return [
        Chart(
            f"Yellow taxi {what} by month",
            plots.svg(f"months{what}", f"Bars: yellow taxi {what} of each month", _bars(values, what)),
            f"{_most(values)}; {number(sum(values.values()))} in all.",
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


def week_charts(days: Sequence[Day]) -> list[Chart]:
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
        by_date = {week.isoformat(): value for week, value in values.items()}
        complete = {week.isoformat(): value for week, value in values.items() if week not in incomplete}
        charts.append(
            Chart(
                f"Yellow taxi {what} by week",
                plots.svg(f"weeks{what}", f"A line: yellow taxi {what} of each week", _line(values, incomplete, what)),
                f"{_most(complete or by_date, 'in the week of ')}.",
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


def map_chart(tables: Tables) -> list[Chart]:
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
            f"The busiest zone is {first} with {number(most)} trips, {100 * most / max(total, 1):.1f} % of all.",
            f"{number(elsewhere)} trips began outside the city or at an unknown place, and are on no map.",
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


def fleets_chart(versions: Sequence[Version]) -> Chart:
    trips = {(version.month, version.fleet): version.num_trips for version in versions}
    present = [fleet for fleet in DATASETS if any(version.fleet == fleet for version in versions)]
    months = [FleetMonth(*key, count) for key, count in sorted(trips.items())]
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


def _most(values: Mapping[str, float], before: str = "in ") -> str:
    """The largest of the `values` in words, by its name."""
    name = max(values, key=lambda each: values[each])
    return f"Most {before}{name}: {number(values[name])}"


def number(value: float) -> str:
    return f"{value:,.0f}"
