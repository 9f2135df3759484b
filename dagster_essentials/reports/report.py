"""One HTML page about everything that is loaded, to be sent to somebody: no scripts, no network, the pictures inline.

    python -m dagster_essentials.reports.report data/staging/data.duckdb report.html

It needs nothing but the database, which it only reads. Whoever opens the page sees the data as of the newest load.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from dagster_essentials.datasets import DATASETS
from dagster_essentials.errors import PipelineError, ReportError
from dagster_essentials.ingestion.atomic_write import atomic_write
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.ingestion.sql import finite_sum, first_line
from dagster_essentials.reports import plots
from dagster_essentials.reports.manhattan import describe_months
from dagster_essentials.reports.report_charts import (
    Cells,
    Day,
    Version,
    fleets_chart,
    map_chart,
    month_charts,
    number,
    week_charts,
)
from dagster_essentials.reports.sample_data import has_sample
from dagster_essentials.warehouse.catalog import columns_of, has_table
from dagster_essentials.warehouse.tables import Tables


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
    return environment.from_string(template).render(**facts, number=number, sample=plots.SAMPLE, source=plots.SOURCE)


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
        charts += [*month_charts(days), *week_charts(days)]
        charts += map_chart(tables)
    if any(version.fleet != "yellow" for version in versions):
        charts.append(fleets_chart(versions))
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


def _versions(tables: Tables) -> list[Version]:
    """The month versions that are in the tables, by fleet and month. A database of an early release has none."""
    if not {"fleet", "month", "version", "num_trips", "loaded_at"} <= columns_of(tables, "month_versions").keys():
        return []
    rows = tables.execute(
        "SELECT fleet, month, num_trips, loaded_at FROM month_versions "
        "QUALIFY version = max(version) OVER (PARTITION BY fleet, month) ORDER BY fleet, month"
    ).fetchall()
    return [Version(*row) for row in rows]


def _days(tables: Tables) -> list[Day]:
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
    return [Day(*row) for row in rows]


def _loaded(versions: Sequence[Version], days: Sequence[Day]) -> Cells:
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
