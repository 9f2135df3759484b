"""A browser in front of a real `dagster dev`.

With SCREENSHOTS set to a folder, the tests also leave there what they see; `make screenshots` does it for the documents.
"""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Protocol

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, ViewportSize, expect, sync_playwright

from dagster_essentials.sample import write_month, write_zones
from dagster_essentials_tests.support.dagster_dev import Dev, copy_of_project
from dagster_essentials_tests.support.project import ROOT
from dagster_essentials_tests.support.source_server import SourceServer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox",  # It cannot be had as root, in a container; and it sees no page but this project's.
    "--disable-gpu",
    # Nothing but the page that is asked for: without these it looks for updates and its maker's services at each start.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

WIDE: ViewportSize = {"width": 1760, "height": 900}
"""Room for the graph: in less, its boxes have the assets' names only."""

STILL = """() => Promise.allSettled(document.getAnimations().filter(
    animation => animation.effect.getComputedTiming().iterations !== Infinity).map(animation => animation.finished))"""
"""Waits until pop-ups have stopped fading in and out."""

MARGIN = 60
"""Pixels around a part of a picture."""

LESSON = {f"2023-{number:02}": 20_000 + number for number in (1, 2, 3)}
"""The months of the lesson, each with a number of trips of its own."""
LATER = {"2023-04": 20_004, "2023-05": 20_005}
"""The months that come after it."""

PATIENCE = 180_000
"""Milliseconds. The daemon looks at a backfill every half a minute, and a loaded machine is slow."""


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(
            "there is no Chromium on this machine, so nothing looks at the UI (Debian: apt-get install chromium)"
        )
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def source() -> Iterator[SourceServer]:
    with SourceServer() as server:
        yield server


@pytest.fixture(scope="module")
def dev(chromium: Browser, tmp_path_factory: pytest.TempPathFactory, source: SourceServer) -> Iterator[Dev]:
    """The project as the lesson has it: three months, nothing loaded yet."""
    samples = tmp_path_factory.mktemp("samples")
    for month, rows in {**LESSON, **LATER}.items():
        source.put_month(month, write_month(samples, month, rows).read_bytes())
    source.files["/taxi_zones.csv"] = write_zones(samples / "taxi_zones.csv").read_bytes()
    dev = Dev(
        copy_of_project(ROOT, tmp_path_factory.mktemp("clone")),
        {"TAXI_TRIPS_URL": source.trips_url, "TAXI_ZONES_URL": source.zones_url, "TAXI_END_DATE": "2023-04-01"},
    )
    dev.start()
    yield dev
    dev.stop()


@pytest.fixture
def page(chromium: Browser, dev: Dev) -> Iterator[Page]:
    """A window on the UI's first page, of someone who was never there before."""
    context = chromium.new_context(base_url=f"http://127.0.0.1:{dev.port}", viewport={"width": 1280, "height": 760})
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto("/")
    yield page
    context.close()


class Picture(Protocol):
    def __call__(self, name: str, around: Sequence[Locator] = ()) -> None: ...


@pytest.fixture
def picture(page: Page) -> Picture:
    """Keep what the window shows, or the part of it `around` some things, under a name, when pictures are asked for."""

    def keep(name: str, around: Sequence[Locator] = ()) -> None:
        folder = os.environ.get("SCREENSHOTS")
        if not folder:
            return
        # What is pointed at is drawn differently.
        page.mouse.move(0, 0)
        page.evaluate(STILL)
        shown = Image.open(BytesIO(page.screenshot())).convert("RGB")
        boxes = [box for thing in around if (box := thing.bounding_box())]
        if boxes:
            shown = shown.crop(
                (
                    int(min(box["x"] for box in boxes)) - MARGIN,
                    int(min(box["y"] for box in boxes)) - MARGIN,
                    int(max(box["x"] + box["width"] for box in boxes)) + MARGIN,
                    int(max(box["y"] + box["height"] for box in boxes)) + MARGIN,
                )
            )
        # A palette is enough for lines and letters, and makes a third of the bytes.
        shown.quantize(256).save(Path(folder) / f"{name}.png", optimize=True)

    return keep


def go_to(page: Page, name: str) -> None:
    """Click on `name` in the navigation at the left."""
    page.get_by_role("link").filter(has_text=re.compile(f"^{name}$")).first.click()


def open_lineage(page: Page) -> None:
    """The graph with all groups open."""
    page.set_viewport_size(WIDE)
    go_to(page, "Lineage")
    expect(page.get_by_label("unfold_more")).to_have_count(4)
    page.locator("button", has=page.get_by_label("settings")).filter(has_not_text="Settings").click()
    page.get_by_text("Expand all groups").filter(visible=True).click()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Collapse all groups").filter(visible=True)).to_have_count(0)


def node(page: Page, asset: str) -> Locator:
    """The asset's box in the graph."""
    return page.locator("foreignObject").filter(has=page.get_by_text(asset, exact=True))


def open_newest_backfill(page: Page) -> None:
    """Where the lesson's *Overview, Backfills* is in this release of Dagster: *Runs, Backfills*."""
    go_to(page, "Runs")
    page.get_by_role("link", name="Backfills").or_(page.get_by_role("tab", name="Backfills")).first.click()
    expect(page).to_have_url(re.compile("view=backfills"))
    page.get_by_role("link", name="View", exact=True).first.click()
    expect(page).to_have_url(re.compile(r"/runs/b/\w+"))
