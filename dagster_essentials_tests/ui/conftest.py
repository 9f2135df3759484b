"""Fixtures for tests of the UI: a headless Chromium and a real `dg dev`.

With SCREENSHOTS set to a folder, the tests also save screenshots there; `make screenshots` does that for the documents.
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
from playwright.sync_api import Browser, BrowserContext, Locator, Page, ViewportSize, expect, sync_playwright

from dagster_essentials_tests.support.dagster_dev import Dev
from dagster_essentials_tests.support.source_server import SourceServer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox",  # The sandbox is not available to root in a container, and the browser opens only local pages.
    "--disable-gpu",
    # No requests to other hosts: without these it looks for updates and contacts its maker's services at each start.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

WIDE: ViewportSize = {"width": 1760, "height": 900}
"""In a smaller window the nodes of the graph show the assets' names only."""

ANIMATIONS_FINISHED = """() => Promise.allSettled(document.getAnimations().filter(
    animation => animation.effect.getComputedTiming().iterations !== Infinity).map(animation => animation.finished))"""
"""Waits until all fade-ins and fade-outs have finished."""

MARGIN = 60
"""Pixels around the elements of a cropped screenshot."""

TIMEOUT = 120_000
"""Milliseconds until a page has loaded, on a busy machine."""
RUN_TIMEOUT = 1_200_000
"""Milliseconds until a backfill has finished, on a busy machine."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    # Not for the session: as long as Playwright runs, so does its event loop, and no other test could use asyncio.
    if CHROMIUM is None:
        pytest.skip("the tests of the UI need Chromium, which is not installed (Debian: apt-get install chromium)")
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def source() -> Iterator[SourceServer]:
    with SourceServer() as server:
        yield server


@pytest.fixture(scope="module")
def context(chromium: Browser, dev: Dev) -> Iterator[BrowserContext]:
    # Of the module: in a new one, the first page takes 5 s of CPU time to compile the UI, and any further one 1 s.
    context = chromium.new_context(base_url=f"http://127.0.0.1:{dev.port}", viewport={"width": 1280, "height": 760})
    context.set_default_timeout(TIMEOUT)
    with context:
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """The UI's first page, in a browser that has no settings of an earlier test."""
    with context.new_page() as page:
        page.goto("/")
        # It redirects when it knows the code locations; a click before that is lost.
        page.wait_for_url(re.compile("/overview/"))
        yield page
        page.evaluate("() => { localStorage.clear(); sessionStorage.clear() }")


class Screenshot(Protocol):
    def __call__(self, name: str, around: Sequence[Locator] = ()) -> None: ...


@pytest.fixture
def screenshot(page: Page) -> Screenshot:
    """Save a screenshot of the page, or of the part of it `around` some elements, if SCREENSHOTS is set."""

    def save(name: str, around: Sequence[Locator] = ()) -> None:
        folder = os.environ.get("SCREENSHOTS")
        if not folder:
            return
        # No element is drawn as hovered.
        page.mouse.move(0, 0)
        page.evaluate(ANIMATIONS_FINISHED)
        image = Image.open(BytesIO(page.screenshot())).convert("RGB")
        boxes = [box for element in around if (box := element.bounding_box())]
        if boxes:
            image = image.crop(
                (
                    int(min(box["x"] for box in boxes)) - MARGIN,
                    int(min(box["y"] for box in boxes)) - MARGIN,
                    int(max(box["x"] + box["width"] for box in boxes)) + MARGIN,
                    int(max(box["y"] + box["height"] for box in boxes)) + MARGIN,
                )
            )
        # A palette of 256 colors is enough for text and lines, and the file has a third of the size.
        image.quantize(256).save(Path(folder) / f"{name}.png", optimize=True)

    return save


def go_to(page: Page, name: str) -> None:
    """Click on `name` in the navigation bar."""
    page.get_by_role("link").filter(has_text=re.compile(f"^{name}$")).first.click()


def open_asset(page: Page, asset: str, tab: str) -> None:
    """Open the `tab` of the asset's page in the catalog."""
    go_to(page, "Catalog")
    page.get_by_text(asset, exact=True).filter(visible=True).first.click()
    page.get_by_role("tab", name=tab).click()


def open_partition(page: Page, key: str) -> None:
    """Open a partition in the list of an asset's partitions."""
    page.get_by_text(key, exact=True).filter(visible=True).last.click()
    expect(page).to_have_url(re.compile(f"partition={key}"))


def open_job(page: Page, job: str) -> None:
    """Open the partitions of a job."""
    go_to(page, "Jobs")
    page.get_by_text(job, exact=True).filter(visible=True).first.click()
    page.get_by_role("tab", name="Partitions").click()


def select_assets(page: Page, *assets: str) -> None:
    """Tick assets in the catalog, and click *Materialize selected*."""
    go_to(page, "Catalog")
    for asset in assets:
        page.locator("label", has=page.get_by_test_id(f"checkbox-{asset}")).click()
    page.get_by_role("button", name="Materialize selected").click()


def launch_backfill(page: Page, partitions: str = "") -> None:
    """Launch what the dialog shows, after choosing `partitions`: the name of a button, such as All."""
    dialog = page.get_by_role("dialog")
    if partitions:
        dialog.get_by_role("button", name=partitions, exact=True).click()
    # A single partition is launched as a run.
    dialog.get_by_role("button", name=re.compile("^Launch (backfill|1 run)$")).click()
    expect(page.get_by_text(re.compile("Created backfill|Launched run"))).to_be_visible()


def reload_definitions(page: Page) -> None:
    """Click *Reload definitions* in the lineage, and wait until they are reloaded."""
    go_to(page, "Lineage")
    button = page.get_by_role("button", name="Reload definitions")
    # With a workspace file the button reloads the workspace, without one the code location.
    with page.expect_response(lambda answer: '"operationName":"Reload' in (answer.request.post_data or "")):
        button.click()
    expect(button).to_be_enabled()


def open_lineage(page: Page, groups: int = 4) -> None:
    """Open the asset graph with all groups expanded; those of the lesson are four."""
    page.set_viewport_size(WIDE)
    go_to(page, "Lineage")
    expect(page.get_by_label("unfold_more")).to_have_count(groups)
    page.locator("button", has=page.get_by_label("settings")).filter(has_not_text="Settings").click()
    page.get_by_text("Expand all groups").filter(visible=True).click()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Collapse all groups").filter(visible=True)).to_have_count(0)


def node(page: Page, asset: str) -> Locator:
    """The asset's node in the graph."""
    return page.locator("foreignObject").filter(has=page.get_by_text(asset, exact=True))


def open_newest_backfill(page: Page) -> None:
    """Open *Runs, Backfills*, where this release of Dagster has what the lesson calls *Overview, Backfills*."""
    go_to(page, "Runs")
    page.get_by_role("link", name="Backfills").or_(page.get_by_role("tab", name="Backfills")).first.click()
    expect(page).to_have_url(re.compile("view=backfills"))
    page.get_by_role("link", name="View", exact=True).first.click()
    expect(page).to_have_url(re.compile(r"/runs/b/\w+"))
