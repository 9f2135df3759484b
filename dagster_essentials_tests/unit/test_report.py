"""The page to send to somebody: its figures are those of the files, and it needs nothing but itself."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from dagster_essentials.datasets import DATASETS
from dagster_essentials.datasets.zones import Zone, read_zones
from dagster_essentials.datasets.zones_table import replace_zones
from dagster_essentials.errors import ReportError
from dagster_essentials.reports.report import main, render_report
from dagster_essentials.sample import write_zones
from dagster_essentials.warehouse.file import file_tables
from dagster_essentials.warehouse.tables import Tables
from dagster_essentials_tests.support.fleet_files import fleet_sample
from dagster_essentials_tests.support.loading import load_month
from dagster_essentials_tests.support.project import DISK

MONTHS = [
    ("yellow", "2019-01"),
    ("yellow", "2019-02"),
    ("yellow", "2019-04"),
    ("green", "2019-01"),
    ("fhvhv", "2019-02"),
]


class Page(HTMLParser):
    """The tables of a page by their names, as rows of texts, and the attributes of all its elements."""

    def __init__(self, html: str):
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._rows: list[list[str]] = []
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "div" and (name := dict(attrs).get("aria-label")):
            self._rows = self.tables.setdefault(name.removesuffix(": table"), [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._in_cell = True
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self._rows[-1][-1] += data


def load(tables: Tables, folder: Path, fleet: str, month: str, rows: int = 300) -> Path:
    path = folder / f"{fleet}_{month}_{rows}.parquet"
    path.write_bytes(fleet_sample(fleet, month, rows))
    load_month(tables, month, path, dataset=DATASETS[fleet])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database of `MONTHS`, of which 2019-02 was corrected, and their files."""
    folder = tmp_path_factory.mktemp("report")
    with file_tables(folder / "data.duckdb", {}, wait_seconds=0, log=print) as tables:
        load(tables, folder, "yellow", "2019-02", 200)
        for fleet, month in MONTHS:
            load(tables, folder, fleet, month)
        replace_zones(tables, read_zones(write_zones(folder / "zones.csv"), DISK))
    return folder


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    with duckdb.connect(str(folder / "data.duckdb"), read_only=True) as connection:
        return render_report(Tables(connection))


@pytest.fixture
def tables() -> Iterator[Tables]:
    with duckdb.connect() as connection:
        yield Tables(connection)


def test_the_page_needs_neither_scripts_nor_a_network(html: str) -> None:
    addresses = re.findall(r"https?://[^\"'\s]*", html)
    assert set(addresses) == {"http://www.w3.org/1999/xlink"}
    page = Page(html)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "iframe", "img", "object", "base"})
    links = [
        str(value)
        for _, attributes in page.elements
        for name, value in attributes.items()
        # The colours beside the map are a small picture in the page.
        if name in ("src", "href", "xlink:href") and not str(value).startswith("data:image/png;base64,")
    ]
    assert [link for link in links if not link.startswith("#")] == []
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert max(ids.values()) == 1
    assert {link[1:] for link in links} <= set(ids)


def test_each_picture_has_a_name_and_its_numbers(html: str) -> None:
    page = Page(html)
    pictures = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(pictures) == len([tag for tag, _ in page.elements if tag == "figure"]) == 6
    assert [picture for picture in pictures if picture["role"] != "img" or not picture["aria-label"]] == []
    assert {"Yellow taxi trips by month", "Pickups by zone", "Trips by fleet and month"} < page.tables.keys()


def test_the_same_tables_give_the_same_page(folder: Path, html: str) -> None:
    with duckdb.connect(str(folder / "data.duckdb"), read_only=True) as connection:
        assert render_report(Tables(connection)) == html


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_trips_and_dollars_by_month_are_those_of_the_files(folder: Path, html: str) -> None:
    tables = Page(html).tables
    expected = {}
    for fleet, month in MONTHS[:3]:
        dollars = pq.read_table(folder / f"{fleet}_{month}_300.parquet")["total_amount"].to_pylist()
        expected[month] = (len(dollars), math.fsum(dollars))
    assert {row[0]: number(row[1]) for row in tables["Yellow taxi trips by month"][1:]} == {
        month: trips for month, (trips, _) in expected.items()
    }
    found = {row[0]: number(row[1]) for row in tables["Yellow taxi dollars by month"][1:]}
    assert found == pytest.approx({month: dollars for month, (_, dollars) in expected.items()}, abs=0.51)
    by_fleet = tables["Trips by fleet and month"]
    assert by_fleet[0] == ["month", "yellow", "green", "fhvhv"]
    assert by_fleet[1:] == [["2019-01", "300", "300", ""], ["2019-02", "300", "", "300"], ["2019-04", "300", "", ""]]


def test_weeks_are_those_of_the_pickups_and_say_how_many_days_are_loaded(folder: Path, html: str) -> None:
    rows = Page(html).tables["Yellow taxi trips by week"][1:]
    months = {month for fleet, month in MONTHS if fleet == "yellow"}
    trips: Counter[str] = Counter()
    for month in sorted(months):
        for at in pq.read_table(folder / f"yellow_{month}_300.parquet")["tpep_pickup_datetime"].to_pylist():
            if at.strftime("%Y-%m") in months:
                trips[at.strftime("%Y %U")] += 1
    assert sum(int(row[1]) for row in rows) == trips.total()
    days = {row[0]: int(row[2]) for row in rows}
    # The first days of January 2019 and the last ones of February and April are parts of weeks.
    assert [week for week, number in days.items() if number < 7] == [
        "2018-12-30",
        "2019-02-24",
        "2019-03-31",
        "2019-04-28",
    ]
    assert (days["2018-12-30"], days["2019-02-24"], days["2019-03-31"]) == (5, 5, 6)


def test_corrections_and_data_quality_are_on_the_page(folder: Path, html: str) -> None:
    tables = Page(html).tables
    (correction,) = tables["Corrections"][1:]
    assert [*correction[:2], *correction[3:]] == ["2019-02 yellow", "2", "200", "300", "100"]
    with duckdb.connect(str(folder / "data.duckdb"), read_only=True) as connection:
        beyond = connection.execute(
            "SELECT month || ' ' || dataset || ': ' || rule FROM month_quality WHERE NOT passed"
        ).fetchall()
        counted = connection.execute("SELECT count(*) FROM month_quality").fetchall()
    assert len(tables["Data quality by month"]) - 1 == counted[0][0]
    assert sorted(row[0] for row in tables.get("Beyond the limit", [[]])[1:]) == sorted(text for (text,) in beyond)


def test_what_is_beyond_its_limit_comes_first(tables: Tables, tmp_path: Path) -> None:
    load(tables, tmp_path, "yellow", "2019-01")
    tables.execute("UPDATE quality_rules SET max_share = -1 WHERE rule = 'no_negative_totals'")
    found = Page(render_report(tables)).tables
    assert [row[0] for row in found["Beyond the limit"][1:]] == ["2019-01 yellow: no_negative_totals"]
    assert found["Data quality by month"][0] == ["month and rule", "trips", "share", "limit", "passed"]


def test_generated_months_are_called_so_and_others_are_not(tables: Tables, tmp_path: Path, html: str) -> None:
    assert html.count("Sample data: generated, not real trips") == 2
    load(tables, tmp_path, "yellow", "2019-01")
    square = "MULTIPOLYGON (((0 0, 0 1, 1 1, 1 0, 0 0)))"
    replace_zones(tables, [Zone(1, "Newark Airport", "EWR", square), Zone(2, "<b>Jamaica</b> & Bay", "Queens", square)])
    page = render_report(tables)
    assert "Sample data" not in page
    assert "NYC Taxi &amp; Limousine Commission" in page
    # Both outlines are the same, which is no coverage; and names are text.
    assert "Pickups by zone" in page
    assert "<b>Jamaica" not in page
    assert "&lt;b&gt;Jamaica&lt;/b&gt; &amp; Bay (2), Queens" in page


@pytest.mark.parametrize("fleet", ["yellow", "fhv"])
def test_one_month_of_one_fleet_is_enough(tables: Tables, tmp_path: Path, fleet: str) -> None:
    load(tables, tmp_path, fleet, "2019-01")
    found = Page(render_report(tables)).tables
    assert [row[1:4] for row in found["What is loaded"][1:]] == [["2019-01", "1", "300"]]
    assert ("Trips by fleet and month" in found) == (fleet == "fhv")
    assert ("Yellow taxi trips by week" in found) == (fleet == "yellow")


def test_a_database_of_the_course_has_a_page_and_an_empty_one_has_not(tables: Tables) -> None:
    with pytest.raises(ReportError, match="No month is loaded"):
        render_report(tables)
    tables.execute(
        "CREATE TABLE trips AS SELECT TIMESTAMP '2023-01-05' + to_hours(range) AS pickup_datetime, 1 AS pickup_zone_id, "
        "12.5 AS total_amount, '2023-01' AS partition_date FROM range(90)"
    )
    found = Page(render_report(tables)).tables
    assert found["Yellow taxi dollars by month"][1:] == [["2023-01", "1,125"]]


def test_the_command_writes_the_page_and_only_reads_the_database(
    folder: Path, html: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "data.duckdb").read_bytes()
    main([str(folder / "data.duckdb"), str(tmp_path / "new/report.html")])
    assert (tmp_path / "new/report.html").read_text() == html
    assert capsys.readouterr().out == f"{tmp_path}/new/report.html: {len(html.encode()):,} bytes\n"
    assert (folder / "data.duckdb").read_bytes() == before
    (tmp_path / "text.duckdb").write_text("not a database, and long enough to be read as one")
    for database in ("missing.duckdb", "text.duckdb"):
        with pytest.raises(SystemExit) as exit_:
            main([str(tmp_path / database), str(tmp_path / "other.html")])
        assert exit_.value.code not in (0, None)
    assert not (tmp_path / "other.html").exists()
