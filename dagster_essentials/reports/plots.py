"""The plots: weeks as a line, zones as a map, a request by hour and day, and bars of months and fleets.

The data is passed in; nothing here reads files or the database. Each `plot_` is a PNG, as bytes; each `draw_` draws the same on
a figure of any size, for `report.py`. matplotlib is imported by the functions that plot, so that only their runs pay for it
(0.6 s).
"""

# Why matplotlib: it plots all of these, includes its fonts, and keeps no state between runs if `Figure` is used without
# pyplot. It takes 90 MB installed. geopandas would need 120 MB more (without pandas) and another 0.5 s in each run to
# read polygons that are lists of numbers in GeoJSON already, and would still plot them with matplotlib.

import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date, timedelta
from html import escape
from typing import TYPE_CHECKING, Any, cast

from dagster_essentials.ingestion.months import month_number, months_between

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure, FigureBase

DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
YELLOW = "#b8860b"
"""As dark as the colour of the taxis can be told from white: WCAG asks for a contrast of 3, and this has 3.2."""
_INCOMPLETE: Mapping[str, Any] = {"facecolor": "#eeeeee", "hatch": "//", "edgecolor": "#cccccc", "linewidth": 0}
SOURCE = "Source: NYC Taxi & Limousine Commission, trip record data"
SAMPLE = "Sample data: generated, not real trips"


def plot_weeks(trips: Mapping[date, int], incomplete: Collection[date], is_sample: bool) -> bytes:
    """A line of the `trips` of each week, by its Sunday; missing weeks leave a gap, and `incomplete` ones are not on the line."""
    figure = _figure(8, 4, is_sample)
    draw_weeks(figure, trips, incomplete)
    return _png(figure)


def draw_weeks(
    figure: "FigureBase", values: Mapping[date, float], incomplete: Collection[date], what: str = "Yellow taxi trips"
) -> None:
    """As `plot_weeks`; the `values` are of `what`."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    first, last = min(values), max(values)
    sundays = [first + timedelta(weeks=number) for number in range((last - first).days // 7 + 1)]
    axes = figure.subplots()
    size = 4 if len(sundays) < 110 else 1.5
    complete = [float("nan") if sunday in incomplete else values.get(sunday, float("nan")) for sunday in sundays]
    # A week between two gaps has no line, so each has a dot.
    axes.plot(sundays, complete, marker="o", markersize=size, color=YELLOW)  # type: ignore[arg-type]
    if found := sorted(set(incomplete).intersection(values)):
        dots = {"linestyle": "", "marker": "o", "markersize": size + 2, "markerfacecolor": "white"}
        axes.plot(
            found,  # type: ignore[arg-type]
            [values[sunday] for sunday in found],
            color="#555555",
            label="incomplete: not all days are loaded",
            **dots,  # type: ignore[arg-type]
        )
        figure.legend(loc="outside lower right", frameon=False)
    axes.set_title(f"{what} by week, {first} to {last + timedelta(days=6)}")
    # On the right, the dates have their year.
    axes.set_xlabel("week, by its first day (Sunday)", loc="left")
    axes.set_ylabel(f"{what.split()[-1]} a week")
    # So that no dot is cut off at the top.
    axes.set_ylim(0, max(1.0, 1.08 * max(values.values())))
    locator = AutoDateLocator(maxticks=8 if _width(figure) > 6 else 5)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    _label_numbers(axes.yaxis)
    axes.grid(alpha=0.3)


FLEETS = {
    # fhv and fhvhv lie on each other, in shades of one colour: in 2019-02 most of the one became the other.
    "fhv": ("for-hire vehicles (fhv)", "#5a96c8"),
    "fhvhv": ("high-volume for-hire vehicles (fhvhv)", "#23588c"),
    "green": ("green taxis", "#1b6b3a"),
    "yellow": ("yellow taxis", YELLOW),
}
"""The fleets from the bottom up: label and colour. Each has a contrast of 3 to white, and is lighter or darker than its
neighbours but for blue and green, which no kind of colour blindness takes for each other."""


def plot_fleets(trips: Mapping[tuple[str, str], int], incomplete: Collection[str], is_sample: bool = False) -> bytes:
    """A bar for each month, made of the fleets: `trips` by (``YYYY-MM``, fleet). `incomplete` months lack a fleet."""
    figure = _figure(10, 5, is_sample)
    draw_fleets(figure, trips, incomplete)
    return _png(figure)


def draw_fleets(figure: "FigureBase", trips: Mapping[tuple[str, str], int], incomplete: Collection[str]) -> None:
    """As `plot_fleets`."""
    from matplotlib.patches import Patch

    first, last = min(month for month, _ in trips), max(month for month, _ in trips)
    months = {month_number(month): month for month in months_between(first, last)}
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
    axes.set_xlabel("month of the file")
    axes.set_ylabel("trips a month")
    _label_months(axes, months, at_most=13 if _width(figure) > 6 else 4)
    _label_numbers(axes.yaxis)
    axes.grid(axis="y", alpha=0.3)
    # In the order in which the bars are stacked; below, because bars may be anywhere inside.
    columns = 3 if _width(figure) > 6 else 1
    figure.legend(
        handles=handles[::-1], loc="outside lower center", ncols=columns, fontsize=8 if columns == 1 else None
    )


def draw_months(figure: "FigureBase", values: Mapping[str, float], what: str) -> None:
    """A bar of each month of the `values`, by ``YYYY-MM``; a month between them that is not loaded is hatched."""
    months = {month_number(month): month for month in months_between(min(values), max(values))}
    axes = figure.subplots()
    axes.bar(
        list(months),
        [values.get(month, 0) for month in months.values()],
        color=YELLOW,
        width=0.9 if len(months) < 100 else 1.0,
    )
    for number, month in months.items():
        if month not in values:
            axes.axvspan(number - 0.5, number + 0.5, zorder=0, **_INCOMPLETE)
    axes.set_xlabel("month of the file" + (" (hatched: not loaded)" if len(months) > len(values) else ""))
    axes.set_ylabel(f"{what} a month")
    _label_months(axes, months, at_most=4)
    _label_numbers(axes.yaxis)
    axes.grid(axis="y", alpha=0.3)


def _label_months(axes: "Axes", months: Mapping[int, str], at_most: int = 13) -> None:
    """Label the x-axis by `months`, about `at_most` of them, from January on if they are not all."""
    step = next(step for step in (1, 2, 3, 6, 12, 24, 48) if len(months) <= at_most * step or step == 48)
    ticks = [number for number in months if (number - 1) % step == 0]
    axes.set_xticks(ticks, [months[number] for number in ticks])
    # One bar would be as wide as the plot; with more room beside three, their labels would overlap.
    margin = 0.6 + max(0, 4 - len(months)) / 2
    axes.set_xlim(min(months) - margin, max(months) + margin)


def plot_map(zones: Sequence[tuple[Sequence[Any], int]], title: str, is_sample: bool = False) -> bytes:
    """A map of zones coloured by trips; each zone is given as GeoJSON multipolygon coordinates, in degrees, and its trips."""
    figure = _figure(6.4, 8, is_sample)
    draw_map(figure, zones, title)
    return _png(figure)


def draw_map(figure: "FigureBase", zones: Sequence[tuple[Sequence[Any], int]], title: str) -> None:
    """As `plot_map`."""
    from math import cos, radians

    from matplotlib.collections import PathCollection
    from matplotlib.path import Path as Outline

    axes = figure.subplots()
    outlines = [
        # One path of all its rings, with a move between them, so that holes stay empty.
        Outline.make_compound_path(*(Outline(ring, closed=True) for polygon in polygons for ring in polygon))
        for polygons, _ in zones
    ]
    shapes = PathCollection(
        # Borders in grey: between light zones, white ones would vanish.
        outlines,
        array=[trips for _, trips in zones],
        cmap="viridis_r",
        edgecolor="#777777",
        linewidth=0.4,
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
    _label_numbers(bar.ax.yaxis)


def plot_hours(trips: Mapping[tuple[int, int], int], days: Mapping[int, int], title: str, is_sample: bool) -> bytes:
    """A table of the days of the week by hour, coloured by the mean trips of a day.

    Args:
        trips: their number by (hour, day), day 0 being Sunday.
        days: how many of each day of the week they are from. Sums would compare three Tuesdays with two Wednesdays.
        title, is_sample: for the texts.
    """
    figure = _figure(9, 4, is_sample)
    means = [
        [trips.get((hour, day), 0) / days[day] if days.get(day) else float("nan") for hour in range(24)]
        for day in range(7)
    ]
    axes = figure.subplots()
    axes.set_facecolor("#dddddd")
    highest = max([1.0, *(mean for row in means for mean in row if mean == mean)])
    cells = axes.pcolormesh(means, cmap="viridis_r", vmin=0, vmax=highest, edgecolors="white")
    cells.set_linewidth(0.4)
    axes.set_title(title)
    unknown = "" if all(days.get(day) for day in range(7)) else " (grey: no such day is loaded)"
    axes.set_xlabel(f"hour of the day in which the trip began{unknown}")
    axes.set_xticks([hour + 0.5 for hour in range(24)], [str(hour) for hour in range(24)])
    axes.set_yticks([day + 0.5 for day in range(7)], DAYS)
    axes.invert_yaxis()
    bar = figure.colorbar(cells, ax=axes, label="trips in the hour, mean of the days")
    _label_numbers(bar.ax.yaxis)
    return _png(figure)


def _width(figure: "FigureBase") -> float:
    """In inches."""
    return _whole(figure).get_figwidth()


def _whole(figure: "FigureBase") -> "Figure":
    return cast("Figure", figure.figure)


def _label_numbers(axis: "Axis") -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    """``2.5 M``: a number in as few characters as an axis has room for."""
    unit, name = next((found for found in ((1e9, " bn"), (1e6, " M")) if abs(value) >= found[0]), (1.0, ""))
    return f"{value / unit:,.6g}{name}" if unit > 1 or abs(value) < 1000 else f"{value:,.0f}"


def _figure(width: float, height: float, is_sample: bool) -> "FigureBase":
    """A figure of that size in inches, above a line on the source of the data."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    # In a part of its own: a legend below the plot would lie on it.
    top, line = figure.subfigures(2, 1, height_ratios=[height - 0.25, 0.25])  # type: ignore[misc]
    line.text(0.01, 0.5, SAMPLE if is_sample else SOURCE, va="center", fontsize=8, color="#555555")
    return top  # type: ignore[no-any-return]


def _png(figure: "FigureBase") -> bytes:
    file = io.BytesIO()
    # Without date or version: the same counts give the same bytes. 150 pixels an inch are sharp on the screens of today.
    _whole(figure).savefig(file, format="png", dpi=150, metadata={"Software": None})
    return file.getvalue()


def svg(key: str, title: str, draw: Callable[["FigureBase"], None], height: float = 2.9) -> str:
    """The picture that `draw` draws, as an SVG element for an HTML page, with the accessible name `title`.

    Args:
        key: of letters; different in each element of a page, whose ids begin with it.
        height: inches. At a width of 4.6, text of 11 points can be read in a column of 340 pixels.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Text as text, which can be selected and read aloud; and the same ids for the same data.
    style = {"svg.fonttype": "none", "svg.hashsalt": key, "font.size": 11, "font.family": "sans-serif"}
    with rc_context(style):  # type: ignore[arg-type]
        figure = Figure(figsize=(4.6, height), layout="constrained", facecolor="none")
        draw(figure)
        for axes in figure.axes:
            axes.set_title("")
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    # Without the document type, which names an address.
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # matplotlib gives the same ids in each figure.
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda found: f' id="{key}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{key}-", text)
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    element = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box[1]}" role="img" aria-label="{escape(title)}">'
    )
    return re.sub(r"<svg [^>]*>", lambda _: element, text, count=1)
