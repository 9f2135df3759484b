"""The page of `reports/report.py` in a browser without a network: on a phone, a tablet and a desk, and printed."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from dagster_essentials.datasets.zones import read_zones
from dagster_essentials.datasets.zones_table import replace_zones
from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.reports.report import write_report
from dagster_essentials.sample import write_month, write_zones
from dagster_essentials.warehouse.file import file_tables
from dagster_essentials_tests.support.loading import load_month

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    with file_tables(folder / "data.duckdb", {}, wait_seconds=0, log=print) as tables:
        for month in ("2023-01", "2023-02"):
            load_month(tables, month, write_month(folder, month, 1000))
        replace_zones(tables, read_zones(write_zones(folder / "zones.csv"), DataFolder(folder)))
        write_report(tables, folder / "report.html", DataFolder(folder))
    return folder / "report.html"


@pytest.mark.parametrize("width", [400, 900, 1400])
def test_nothing_is_wider_than_the_window_and_nothing_is_requested(chromium: Browser, report: Path, width: int) -> None:
    with chromium.new_context(viewport={"width": width, "height": 800}, offline=True) as context:
        page = context.new_page()
        requested: list[str] = []
        problems: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        page.on("console", lambda message: problems.append(message.text))
        page.goto(report.as_uri())
        for details in page.locator("details").all():
            details.locator("summary").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = [box for svg in page.locator("svg").all() if (box := svg.bounding_box())]
        assert len(boxes) == 5
        assert all(box["width"] >= 300 and box["x"] + box["width"] <= width for box in boxes)
        # The text of a picture grows with it.
        sizes = page.evaluate(
            "[...document.querySelectorAll('svg text')].map(text => text.getBoundingClientRect().height)"
        )
        assert min(sizes) >= 9
        assert requested == [report.as_uri()]
        assert problems == []
