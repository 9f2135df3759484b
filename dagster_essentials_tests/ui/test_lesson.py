"""The lesson on partitions and backfills, step by step, in the browser.

Each test is a step of the lesson and builds on the ones before it.
"""

import re

import dagster as dg
import pytest
from playwright.sync_api import Page, expect

from dagster_essentials_tests.support.dagster_dev import Dev
from dagster_essentials_tests.support.source_server import SourceServer, status
from dagster_essentials_tests.ui.conftest import (
    LATER,
    LESSON,
    RUN_TIMEOUT,
    WIDE,
    Screenshot,
    go_to,
    node,
    open_lineage,
    open_newest_backfill,
)

pytestmark = pytest.mark.slow

MONTHLY = ("taxi_trips_file", "taxi_trips")
UNPARTITIONED = ("taxi_zones_file", "taxi_zones", "manhattan_stats", "manhattan_map", "adhoc_request")
WEEKS = 13
KEYS = [f"{month}-01" for month in LESSON]


def test_the_lineage_shows_which_assets_have_partitions(page: Page, screenshot: Screenshot) -> None:
    open_lineage(page)
    for asset in MONTHLY:
        expect(node(page, asset)).to_contain_text("3 partitions")
        expect(node(page, asset)).to_contain_text("0% filled")
    expect(node(page, "trips_by_week")).to_contain_text(f"{WEEKS} partitions")
    for asset in UNPARTITIONED:
        expect(node(page, asset)).to_contain_text("Never materialized")
        expect(node(page, asset)).not_to_contain_text("filled")
    screenshot("lineage-before", around=[node(page, asset) for asset in (*MONTHLY, *UNPARTITIONED, "trips_by_week")])


def test_the_catalog_counts_the_partitions_of_an_asset(page: Page) -> None:
    go_to(page, "Catalog")
    page.get_by_text("taxi_trips_file", exact=True).filter(visible=True).first.click()
    page.get_by_role("tab", name="Partitions").click()
    for state, count in {"Failed": 0, "Materialized": 0, "Materializing": 0, "Missing": 3}.items():
        expect(page.get_by_text(f"{state} ({count})")).to_be_visible()


def test_materialize_all_asks_for_the_partitions_and_launches_a_backfill(page: Page, screenshot: Screenshot) -> None:
    go_to(page, "Lineage")
    page.get_by_role("button", name="Materialize all").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Launch runs to materialize 8 assets")
    expect(dialog).to_contain_text("Partition selection")
    dialog.get_by_role("button", name="All", exact=True).click()
    expect(dialog.get_by_role("textbox", name=re.compile("^ex: "))).to_have_value("[2023-01-01...2023-03-01]")
    screenshot("materialize-all")
    dialog.get_by_role("button", name="Launch backfill").click()
    expect(page.get_by_text("Created backfill")).to_be_visible()


def test_the_backfill_is_listed_and_materializes_every_asset(page: Page, dev: Dev, screenshot: Screenshot) -> None:
    go_to(page, "Runs")
    page.get_by_role("tab", name="Backfills").click()
    expect(page.get_by_text("Manually launched")).to_be_visible()
    open_newest_backfill(page)
    expect(page.get_by_text("2023-01-01...2023-03-01")).to_be_visible()
    expect(page.get_by_text("Succeeded", exact=True).first).to_be_visible()
    expect(page.get_by_text("100% completed")).to_have_count(8, timeout=RUN_TIMEOUT)
    # The unpartitioned assets have the status as a word, and so have the backfill and the header of the column.
    expect(page.get_by_text("Succeeded", exact=True)).to_have_count(len(UNPARTITIONED) + 2, timeout=RUN_TIMEOUT)
    screenshot("backfill")
    assert dev.rows() == LESSON
    for asset in MONTHLY:
        assert dev.materialized(asset) == KEYS


def test_the_lineage_shows_what_is_materialized(page: Page, screenshot: Screenshot) -> None:
    open_lineage(page)
    for asset in MONTHLY:
        expect(node(page, asset)).to_contain_text("3 partitions")
        expect(node(page, asset)).to_contain_text("100% filled")
    expect(node(page, "trips_by_week")).to_contain_text("100% filled")
    expect(node(page, "taxi_trips")).to_contain_text("10 / 10 Passed")
    for asset in UNPARTITIONED:
        expect(node(page, asset)).to_contain_text(re.compile("Materialized[A-Z]"))
    screenshot("lineage-after", around=[node(page, asset) for asset in (*MONTHLY, *UNPARTITIONED, "trips_by_week")])


def test_the_catalog_shows_the_metadata_the_checks_and_the_upstream_asset_of_a_month(
    page: Page, screenshot: Screenshot
) -> None:
    go_to(page, "Catalog")
    page.get_by_text("taxi_trips", exact=True).filter(visible=True).first.click()
    page.get_by_role("tab", name="Partitions").click()
    expect(page.get_by_text("Materialized (3)")).to_be_visible()
    for key in KEYS:
        expect(page.get_by_text(key, exact=True).filter(visible=True).last).to_be_visible()
    page.get_by_text("2023-03-01", exact=True).filter(visible=True).last.click()
    expect(page).to_have_url(re.compile("partition=2023-03-01"))
    metadata = {
        "dagster/partition_row_count": str(LESSON["2023-03"]),
        "columns_without_values": "cbd_congestion_fee, request_source",
        "checks_not_passed": "none",
        "upstream": "taxi_trips_file",
    }
    for name, value in metadata.items():
        expect(page.get_by_role("row", name=name)).to_contain_text(value)
    screenshot("month")
    page.get_by_role("row", name="upstream").get_by_role("link").click()
    expect(page).to_have_url(re.compile("/assets/taxi_trips_file"))
    page.go_back()

    page.get_by_role("tab", name="Checks").click()
    page.get_by_text("pickups_in_month").filter(visible=True).first.click()
    expect(page.get_by_text(re.compile(r"\d+ of 20,003 trips, \d\.\d\d%. Warns above 1.00%"))).to_be_visible()
    screenshot("check")
    page.get_by_role("tab", name="Partitions").last.click()
    expect(page.get_by_text("Passed (3)")).to_be_visible()

    page.set_viewport_size(WIDE)
    page.get_by_role("tab", name="Lineage").click()
    expect(node(page, "taxi_trips_file")).to_contain_text("100% filled")


def test_a_backfill_of_the_job_has_runs_of_the_job(page: Page, dev: Dev, screenshot: Screenshot) -> None:
    before = {run.run_id for run in dev.runs()}
    go_to(page, "Jobs")
    page.get_by_text("trip_update_job", exact=True).filter(visible=True).first.click()
    page.get_by_role("tab", name="Partitions").click()
    expect(page.get_by_text(re.compile("^3 *Total partitions$"))).to_be_visible()
    screenshot("job-partitions")
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Launch runs to materialize 6 assets")
    dialog.get_by_role("button", name="All", exact=True).click()
    dialog.get_by_role("button", name="Launch backfill").click()
    expect(page.get_by_text("Created backfill")).to_be_visible()

    open_newest_backfill(page)
    page.get_by_role("tab", name="Runs").click()
    expect(page.get_by_text("trip_update_job", exact=True).first).to_be_visible(timeout=RUN_TIMEOUT)
    expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=RUN_TIMEOUT)
    expect(page.get_by_text("Failure", exact=True)).to_have_count(0)
    screenshot("job-runs")
    runs = [run for run in dev.runs() if run.run_id not in before]
    assert {(run.job_name, run.status) for run in runs} == {("trip_update_job", dg.DagsterRunStatus.SUCCESS)}
    assert dev.rows() == LESSON


def test_a_backfill_of_the_job_from_the_command_line_has_a_run_for_each_month(dev: Dev) -> None:
    before = {run.run_id for run in dev.runs()}
    result = dev.dagster("job", "backfill", "-j", "trip_update_job", "--all", "yes", "--noprompt")
    assert result.returncode == 0, result.stdout
    runs = [run for run in dev.finished_runs(len(before) + len(KEYS)) if run.run_id not in before]
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    assert sorted(run.tags["dagster/partition"] for run in runs) == KEYS
    assert dev.rows() == LESSON


def test_a_load_is_forced_by_the_config_of_a_backfill(page: Page, dev: Dev) -> None:
    when = "SELECT min(loaded_at), max(loaded_at) FROM month_versions"
    ((_, last),) = dev.query(when)
    go_to(page, "Catalog")
    page.get_by_text("taxi_trips", exact=True).filter(visible=True).first.click()
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="All", exact=True).click()
    dialog.get_by_text("Config", exact=True).click()
    dialog.get_by_role("button", name="Add config").click()
    page.locator(".CodeMirror").last.click()
    page.keyboard.press("Control+A")
    page.keyboard.type("ops: {taxi_trips: {config: {force: true}}}")
    expect(page.get_by_text("No errors")).to_be_visible()
    page.get_by_role("button", name="Save config").click()
    runs = len(dev.runs())
    dialog.get_by_role("button", name="Launch backfill").click()
    assert dev.finished_runs(runs + 1)[0].status == dg.DagsterRunStatus.SUCCESS
    ((first, _),) = dev.query(when)
    assert first > last
    assert dev.rows() == LESSON


def test_the_schedules_and_the_sensor_are_listed_and_a_tick_requests_the_new_months(
    page: Page, dev: Dev, screenshot: Screenshot
) -> None:
    go_to(page, "Automation")
    page.get_by_text("trip_update_job_schedule", exact=True).filter(visible=True).first.click()
    page.get_by_role("button", name="Preview tick result").click()
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("dialog")).to_contain_text("the newest month so far, 2023-03, is loaded already")

    # Two more months are published.
    dev.stop()
    dev.env["TAXI_END_DATE"] = "2023-06-01"
    dev.start()
    page.reload()

    go_to(page, "Automation")
    for name in ("trip_update_job_schedule", "weekly_update_job_schedule", "adhoc_request_sensor"):
        expect(page.get_by_text(name, exact=True).filter(visible=True).first).to_be_visible()
    expect(page.get_by_text(re.compile("12:00 AM E[DS]T, on day 5 of the month"))).to_be_visible()
    screenshot("automation")
    page.get_by_text("trip_update_job_schedule", exact=True).filter(visible=True).first.click()
    page.get_by_role("button", name="Preview tick result").click()
    page.get_by_role("button", name="Continue").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("2 run requests")
    screenshot("tick")
    requests = dialog.get_by_role("row").filter(has_text="trip_update_job")
    expect(requests).to_have_count(2)
    for request, month in zip(requests.all(), LATER, strict=True):
        request.get_by_role("button").click()
        configuration = page.get_by_role("dialog").filter(has_text="Run configuration")
        expect(configuration).to_contain_text(f"partition: {month}-01")
        if month == min(LATER):
            screenshot("tick-request")
        configuration.get_by_role("button", name="OK").click()
        expect(configuration).to_have_count(0)


def test_a_month_that_is_not_published_fails_with_its_reason_and_the_others_are_materialized(
    page: Page, dev: Dev, source: SourceServer, screenshot: Screenshot
) -> None:
    source.answers["/trip-data/yellow_tripdata_2023-05.parquet"] = [status(403, b"<Error/>")]
    go_to(page, "Catalog")
    for asset in MONTHLY:
        page.locator("label", has=page.get_by_test_id(f"checkbox-{asset}")).click()
    page.get_by_role("button", name="Materialize selected").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Missing", exact=True).click()
    dialog.get_by_role("button", name="Launch backfill").click()
    expect(page.get_by_text("Created backfill")).to_be_visible()

    open_newest_backfill(page)
    expect(page.get_by_text("100% completed")).to_have_count(2, timeout=RUN_TIMEOUT)
    page.get_by_role("tab", name="Runs").click()
    expect(page.get_by_text("Failure", exact=True)).to_be_visible(timeout=RUN_TIMEOUT)
    page.get_by_role("link", name="View", exact=True).last.click()
    reason = page.get_by_text("2023-05").filter(has_text="not published (the source answered 403)").first
    expect(reason).to_be_visible()
    page.reload()  # Without the message that a backfill was created.
    expect(reason).to_be_visible()
    page.get_by_placeholder("Filter…").filter(visible=True).last.fill("of 2) failed")
    expect(page.get_by_text(re.compile(r"2023-05 \(. of 2\) failed \(http.*not published"))).to_be_visible()
    expect(page.get_by_text("Stack Trace")).to_have_count(0)
    screenshot("failed-run")

    for asset in MONTHLY:
        go_to(page, "Catalog")
        page.get_by_text(asset, exact=True).filter(visible=True).first.click()
        page.get_by_role("tab", name="Partitions").click()
        expect(page.get_by_text("Failed (1)")).to_be_visible()
        expect(page.get_by_text("Materialized (4)")).to_be_visible()
        page.get_by_text("2023-05-01", exact=True).filter(visible=True).last.click()
        expect(page.get_by_text(re.compile("failed, and did not materialize this asset"))).to_be_visible()
    screenshot("failed-month")
    assert dev.rows() == {**LESSON, "2023-04": LATER["2023-04"]}
