"""The plots: weeks as a line, Manhattan as a map, and bars of a request, of versions and of fleets. Each is a PNG, as bytes.

The data is passed in; nothing here reads files or the database. matplotlib is imported by the functions
that plot, so that only their runs pay for it (0.6 s).
"""

# Why matplotlib: it plots all three, includes its fonts, and keeps no state between runs if `Figure` is used without
# pyplot. It takes 90 MB installed. geopandas would need 120 MB more (without pandas) and another 0.5 s in each run to
# read polygons that are lists of numbers in GeoJSON already, and would still plot them with matplotlib.

import io
from collections.abc import Collection, Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from dagster_essentials.ingestion.months import month_number, months_between

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dagster_essentials.warehouse.month_versions import MonthVersion

DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


def plot_weeks(trips: Mapping[date, int]) -> bytes:
    """A line of the `trips` of each week, by its Sunday; missing weeks leave a gap."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    first, last = min(trips), max(trips)
    sundays = [first + timedelta(weeks=number) for number in range((last - first).days // 7 + 1)]
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    # A week between two gaps has no line, so each has a dot.
    axes.plot(
        sundays,  # type: ignore[arg-type]
        [trips.get(sunday, float("nan")) for sunday in sundays],
        marker="o",
        markersize=4 if len(sundays) < 110 else 1.5,
        color="#b8860b",
    )
    axes.set_title(f"Yellow taxi trips by week, {first} to {last + timedelta(days=6)}")
    axes.set_ylim(bottom=0)
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(alpha=0.3)
    return _png(figure)


def plot_versions(versions: "Sequence[MonthVersion]", title: str) -> bytes:
    """Bars of the trips of the `versions` of the month `title`, oldest first, each with the day on which it was loaded."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    labels = [
        f"version {version.version}\n{version.loaded_at.date() if version.loaded_at else 'before the record'}"
        for version in versions
    ]
    bars = axes.bar(labels, [version.num_trips for version in versions], color="#b8860b")
    axes.bar_label(bars, [f"{version.num_trips:,}" for version in versions])
    axes.set_title(f"Trips of {title}, by version of its file")
    axes.margins(y=0.15)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return _png(figure)


FLEETS = {
    # fhv and fhvhv lie on each other, in shades of one colour: in 2019-02 most of the one became the other.
    "fhv": ("for-hire vehicles (fhv)", "#7fb2dd"),
    "fhvhv": ("high-volume for-hire vehicles (fhvhv)", "#23588c"),
    "green": ("green taxis", "#4d9a51"),
    "yellow": ("yellow taxis", "#e0b000"),
}
"""The fleets from the bottom up: label and colour."""
_INCOMPLETE: Mapping[str, Any] = {"facecolor": "#eeeeee", "hatch": "//", "edgecolor": "#cccccc", "linewidth": 0}


def plot_fleets(trips: Mapping[tuple[str, str], int], incomplete: Collection[str]) -> bytes:
    """A bar for each month, made of the fleets: `trips` by (``YYYY-MM``, fleet). `incomplete` months lack a fleet."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import StrMethodFormatter

    first, last = min(month for month, _ in trips), max(month for month, _ in trips)
    months = {month_number(month): month for month in months_between(first, last)}
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    # Between over a hundred bars, gaps of less than a pixel would make a pattern.
    width = 0.9 if len(months) < 100 else 1.0
    bottoms = dict.fromkeys(months, 0)
    handles = []
    for fleet, (label, color) in FLEETS.items():
        heights = {number: trips.get((month, fleet), 0) for number, month in months.items()}
        if any(heights.values()):
            axes.bar(list(months), list(heights.values()), bottom=list(bottoms.values()), color=color, width=width)
            moved = fleet == "fhv" and first < "2019-02" <= last
            handles.append(Patch(color=color, label=label + (", until 2019-01 with Uber and Lyft" if moved else "")))
        bottoms = {number: bottom + heights[number] for number, bottom in bottoms.items()}
    gaps = [number for number, month in months.items() if month in incomplete or not bottoms[number]]
    for number in gaps:
        axes.axvspan(number - 0.5, number + 0.5, zorder=0, **_INCOMPLETE)
    if gaps:
        handles.append(Patch(**_INCOMPLETE, label="not all fleets are loaded"))
    axes.set_title(f"Trips by month and fleet, {first}" + (f" to {last}" if last != first else ""))
    _label_months(axes, months)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="y", alpha=0.3)
    # In the order in which the bars are stacked; below, because bars may be anywhere inside.
    figure.legend(handles=handles[::-1], loc="outside lower center", ncols=3)
    return _png(figure)


def _label_months(axes: "Axes", months: Mapping[int, str]) -> None:
    """Label the x-axis by `months`, at most about twelve of them, from January on if they are not all."""
    step = next(step for step in (1, 2, 3, 6, 12, 24, 48) if len(months) <= 13 * step or step == 48)
    ticks = [number for number in months if (number - 1) % step == 0]
    axes.set_xticks(ticks, [months[number] for number in ticks])
    # A few bars would be as wide as the plot.
    margin = 0.6 + max(0, 6 - len(months)) / 2
    axes.set_xlim(min(months) - margin, max(months) + margin)


def plot_map(zones: Sequence[tuple[Sequence[Any], int]], title: str) -> bytes:
    """A map of zones coloured by trips; each zone is given as GeoJSON multipolygon coordinates, in degrees, and its trips."""
    from math import cos, radians

    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure
    from matplotlib.path import Path as Outline
    from matplotlib.ticker import StrMethodFormatter

    figure = Figure(figsize=(6.4, 8), layout="constrained")
    axes = figure.subplots()
    outlines = [
        # One path of all its rings, with a move between them, so that holes stay empty.
        Outline.make_compound_path(*(Outline(ring, closed=True) for polygon in polygons for ring in polygon))
        for polygons, _ in zones
    ]
    shapes = PathCollection(
        outlines, array=[trips for _, trips in zones], cmap="viridis", edgecolor="white", linewidth=0.4
    )
    # From 0: if the scale started at the smallest number, the colours of equal zones would have no meaning.
    shapes.set_clim(0, max(1, *(trips for _, trips in zones)))
    axes.add_collection(shapes)
    axes.autoscale_view()
    latitude = sum(axes.get_ylim()) / 2
    axes.set_aspect(1 / cos(radians(latitude)))  # A degree of longitude is shorter than one of latitude.
    axes.set_axis_off()
    axes.set_title(title)
    bar = figure.colorbar(shapes, ax=axes, shrink=0.6, label="trips picked up in the zone")
    bar.ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return _png(figure)


def plot_hours(trips: Mapping[tuple[int, int], int], title: str) -> bytes:
    """A bar for each hour of the day, made of the days of the week: `trips` by (hour, day), day 0 being Sunday."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots()
    bottoms = [0] * 24
    for day, name in enumerate(DAYS):
        heights = [trips.get((hour, day), 0) for hour in range(24)]
        axes.bar(range(24), heights, bottom=bottoms, color=colormaps["viridis"](day / 6), label=name)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    axes.set_title(title)
    axes.set_xlabel("hour of the day")
    axes.set_xticks(range(24))
    axes.set_ylabel("trips")
    axes.set_ylim(0, max(1.0, 1.05 * max(bottoms)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    handles, labels = axes.get_legend_handles_labels()
    # In the order in which the bars are stacked; outside, because bars may be anywhere inside.
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper")
    return _png(figure)


def _png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    # Without date or version: the same counts give the same bytes.
    figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
    return file.getvalue()
