"""Partitions by fleet and month in the browser: the launch of a rectangle, what it becomes, and how its months are shown.

The tests build on each other.
"""

import re
from collections.abc import Iterator, Sequence

import dagster as dg
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from dagster_essentials.sample import write_fleet_month
from dagster_essentials_tests.support.dagster_dev import Dev, copy_of_project
from dagster_essentials_tests.support.project import ROOT
from dagster_essentials_tests.support.source_server import SourceServer
from dagster_essentials_tests.ui.conftest import (
    RUN_TIMEOUT,
    Screenshot,
    go_to,
    node,
    open_lineage,
    open_newest_backfill,
)

pytestmark = pytest.mark.slow

FLEETS = ("green", "fhv", "fhvhv")
MONTHS = ("2023-01", "2023-02", "2023-03")
ROWS = {
    (fleet, month): 1000 * (1 + FLEETS.index(fleet)) + 1 + MONTHS.index(month) for fleet in FLEETS for month in MONTHS
}
"""The trips of each month: no two have the same number."""
NOT_PUBLISHED = ("fhvhv", "2023-03")


@pytest.fixture(scope="module")
def dev(chromium: Browser, tmp_path_factory: pytest.TempPathFactory, source: SourceServer) -> Iterator[Dev]:
    """The project with all fleets and the three months of the lesson, nothing materialized, and one month not published."""
    samples = tmp_path_factory.mktemp("samples")
    for (fleet, month), rows in ROWS.items():
        if (fleet, month) != NOT_PUBLISHED:
            source.put_month(month, write_fleet_month(samples, fleet, month, rows).read_bytes(), fleet)
    root = copy_of_project(ROOT, tmp_path_factory.mktemp("clone"))
    settings = {"TAXI_TRIPS_URL": source.trips_url, "TAXI_END_DATE": "2023-04-01", "TAXI_FLEETS": ",".join(FLEETS)}
    dev = Dev(root, {**settings, "DAGSTER_HOME": str(root / ".dagster")}, daemon_interval=2, program="dg")
    dev.start()
    yield dev
    dev.stop()


def fleet_rows(dev: Dev) -> dict[tuple[str, str], int]:
    query = "SELECT fleet, partition_date, count(*) FROM fleet_trips GROUP BY ALL"
    return {(fleet, month): rows for fleet, month, rows in dev.query(query)}


def rectangle(fleets: Sequence[str], months: Sequence[str]) -> dict[tuple[str, str], int]:
    return {(fleet, month): ROWS[fleet, month] for fleet in fleets for month in months}


def select(page: Page, dialog: Locator, fleets: Sequence[str], months: str) -> None:
    """Choose `fleets` from the list of the first dimension, and enter `months` as the second one."""
    # Until the partitions are loaded, both dimensions have a list.
    expect(dialog.get_by_placeholder(re.compile("^ex: "))).to_be_visible()
    for fleet in fleets:
        choose(page, dialog, fleet)
    # Closes the list.
    dialog.get_by_text("Launch runs to materialize").click()
    dialog.get_by_placeholder(re.compile("^ex: ")).fill(months)
    page.keyboard.press("Tab")


def choose(page: Page, dialog: Locator, fleet: str) -> None:
    """Choose `fleet` from the list, which is open or not: the UI closes it whenever it draws the dialog again."""
    opener = dialog.locator("[aria-haspopup=dialog]").first
    for _ in range(10):
        if opener.get_attribute("aria-expanded") != "true":
            opener.get_by_label("expand_more").click()
        try:
            page.get_by_role("menuitem").filter(has_text=re.compile(f"^({fleet})+$")).click(timeout=5_000)
            break
        except PlaywrightTimeoutError:
            continue
    expect(opener.get_by_title(fleet, exact=True)).to_be_visible()


def test_a_rectangle_is_launched_from_the_job(page: Page, screenshot: Screenshot) -> None:
    go_to(page, "Jobs")
    page.get_by_text("fleet_update_job", exact=True).filter(visible=True).first.click()
    page.get_by_role("tab", name="Partitions").click()
    expect(page.get_by_text(re.compile("^9 *Total partitions$"))).to_be_visible()
    page.get_by_role("button", name="Materialize").first.click()
    # The yellow trips, which trips_by_fleet counts as well if there are any.
    expect(page.get_by_role("dialog")).to_contain_text("may fail because the upstream assets listed below")
    page.get_by_role("button", name="Confirm").click()
    dialog = page.get_by_role("dialog").filter(has_text="Launch runs to materialize 3 assets")
    select(page, dialog, ("green", "fhv"), "[2023-01-01...2023-02-01]")
    expect(dialog).to_contain_text("4 partitions")
    screenshot("two-dimensions-launch")
    dialog.get_by_role("button", name="Launch backfill").click()
    expect(page.get_by_text("Created backfill")).to_be_visible()


def test_its_backfill_has_a_run_for_each_month_and_loads_all_partitions(
    page: Page, dev: Dev, screenshot: Screenshot
) -> None:
    open_newest_backfill(page)
    expect(page.get_by_text("100% completed")).to_be_visible(timeout=RUN_TIMEOUT)
    expect(page.get_by_text("Succeeded", exact=True).first).to_be_visible(timeout=RUN_TIMEOUT)
    screenshot("two-dimensions-backfill")
    runs = dev.finished_runs(2)
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    ranges = [
        (run.tags["dagster/asset_partition_range_start"], run.tags["dagster/asset_partition_range_end"]) for run in runs
    ]
    assert sorted(ranges) == [(f"green|{month}-01", f"fhv|{month}-01") for month in MONTHS[:2]]
    # What Dagster by itself would have loaded, twice.
    assert {run.tags["dagster/partition/fleet"] for run in runs} == {"green"}
    loaded = rectangle(("green", "fhv"), MONTHS[:2])
    assert fleet_rows(dev) == loaded
    for asset in ("fleet_trips_file", "fleet_trips"):
        assert dev.materialized(asset) == sorted(f"{fleet}|{month}-01" for fleet, month in loaded)
    table = dev.query("SELECT fleet, partition_date, num_trips FROM trips_by_fleet")
    assert {(fleet, month): trips for fleet, month, trips in table} == loaded


def test_the_asset_shows_its_partitions_in_both_dimensions(page: Page, screenshot: Screenshot) -> None:
    open_partitions(page, "fleet_trips")
    expect(page.get_by_text("Materialized (4)")).to_be_visible()
    expect(page.get_by_text("Missing (5)")).to_be_visible()
    page.get_by_text("fhv", exact=True).filter(visible=True).first.click()
    page.get_by_text("2023-02-01", exact=True).filter(visible=True).last.click()
    metadata = {
        "dagster/partition_row_count": str(ROWS["fhv", "2023-02"]),
        "checks_not_passed": "none",
        "upstream": "fleet_trips_file",
    }
    for name, value in metadata.items():
        expect(page.get_by_role("row", name=name)).to_contain_text(value)
    screenshot("two-dimensions-month")
    # Each is about the loaded months of all fleets.
    open_lineage(page, groups=5)
    expect(node(page, "fleet_trips")).to_contain_text("13 / 13 Passed")


def open_partitions(page: Page, asset: str) -> None:
    go_to(page, "Catalog")
    page.get_by_text(asset, exact=True).filter(visible=True).first.click()
    page.get_by_role("tab", name="Partitions").click()


def test_a_rectangle_of_assets_loads_what_is_published_and_the_missing_month_says_why(
    page: Page, dev: Dev, screenshot: Screenshot
) -> None:
    before = {run.run_id for run in dev.runs()}
    go_to(page, "Catalog")
    for asset in ("fleet_trips_file", "fleet_trips"):
        page.locator("label", has=page.get_by_test_id(f"checkbox-{asset}")).click()
    page.get_by_role("button", name="Materialize selected").click()
    dialog = page.get_by_role("dialog").filter(has_text="Launch runs to materialize 2 assets")
    select(page, dialog, ("fhvhv",), "[2023-01-01...2023-03-01]")
    expect(dialog).to_contain_text("3 partitions")
    dialog.get_by_role("button", name="Launch backfill").click()
    expect(page.get_by_text("Created backfill")).to_be_visible()

    (run,) = [run for run in dev.finished_runs(len(before) + 1) if run.run_id not in before]
    assert run.status == dg.DagsterRunStatus.FAILURE
    assert fleet_rows(dev) == rectangle(("green", "fhv"), MONTHS[:2]) | rectangle(("fhvhv",), MONTHS[:2])
    for asset in ("fleet_trips_file", "fleet_trips"):
        open_partitions(page, asset)
        expect(page.get_by_text("Failed (1)")).to_be_visible()
        expect(page.get_by_text("Materialized (6)")).to_be_visible()
        page.get_by_text("fhvhv", exact=True).filter(visible=True).first.click()
        page.get_by_text("2023-03-01", exact=True).filter(visible=True).last.click()
        expect(page.get_by_text(re.compile("failed, and did not materialize this asset"))).to_be_visible()
    screenshot("two-dimensions-failed")
    page.goto(f"/runs/{run.run_id}")
    reason = page.get_by_text("fhvhv 2023-03").filter(has_text="not published (the source answered 403)").first
    expect(reason).to_be_visible()


def test_with_fleets_all_assets_can_be_launched_for_all_partitions_only(page: Page) -> None:
    """So there are no fleets by default: this is the second step of the lesson."""
    go_to(page, "Lineage")
    page.get_by_role("button", name="Materialize all").click()
    dialog = page.get_by_role("dialog").filter(has_text="Launch runs to materialize 11 assets")
    expect(dialog).to_contain_text("The root assets of this selection have different partition definitions")
    expect(dialog.get_by_role("textbox", name=re.compile("^ex: "))).to_have_count(0)
