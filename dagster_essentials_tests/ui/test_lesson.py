"""The lesson on partitions and backfills, step by step, in the browser, in the UI of `make lesson`.

Each test is a step of the lesson and builds on the ones before it.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from playwright.sync_api import Browser, Page, expect

from dagster_essentials.sample import write_month
from dagster_essentials_tests.support.commands import run
from dagster_essentials_tests.support.dagster_dev import Dev, copy_with_environment
from dagster_essentials_tests.support.project import ROOT
from dagster_essentials_tests.ui.conftest import (
    RUN_TIMEOUT,
    WIDE,
    Screenshot,
    go_to,
    launch_backfill,
    node,
    open_asset,
    open_job,
    open_lineage,
    open_newest_backfill,
    open_partition,
    reload_definitions,
    select_assets,
)

pytestmark = pytest.mark.slow

MONTHLY = ("taxi_trips_file", "taxi_trips")
UNPARTITIONED = ("taxi_zones_file", "taxi_zones", "manhattan_stats", "manhattan_map", "adhoc_request")
WEEKS = 13
MONTHS = ("2023-01", "2023-02", "2023-03")
LATER = ("2023-04", "2023-05")
KEYS = [f"{month}-01" for month in MONTHS]


# A person's own settings, of which none may reach the lesson.
EXPORTED = {"DAGSTER_HOME": "/nowhere", "TAXI_FLEETS": "green", "TAXI_END_DATE": "2024-01-01", "DUCKDB_THREADS": "many"}


class Lesson(Dev):
    """`make lesson` in a `clone` of the project."""

    def __init__(self, clone: Path):
        # The environment belongs to another copy, whose modules would come first.
        settings = {"PYTHONPATH": str(clone), "HOME": str(clone.parent), **EXPORTED}
        super().__init__(clone / "data/lesson", settings, daemon_interval=4, database="staging/data.duckdb")
        self.argv = ["make", "-C", str(clone), "lesson"]
        self.root.mkdir()

    def _is_up(self) -> bool:
        if served := re.search(r"Serving dagster-webserver on http://127\.0\.0\.1:(\d+)", self.log()):
            self.port = int(served[1])
        return super()._is_up()

    def enter(self, command: str) -> str:
        """What a command prints, entered in another shell as `make lesson` says."""
        (start,) = re.findall("open another shell: (.*)", (self.root / "dev.log").read_text())
        clone = self.root.parents[1]
        result = run(
            ["bash", "-c", f"{start} && {command}"],
            cwd=clone,
            env={"PATH": os.environ["PATH"], "HOME": str(clone.parent), "PYTHONPATH": str(clone)},
        )
        assert result.returncode == 0, result.stdout
        return result.stdout


@pytest.fixture(scope="module")
def dev(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lesson]:
    lesson = Lesson(copy_with_environment(ROOT, tmp_path_factory.mktemp("workspace") / "a clone"))
    lesson.start()
    yield lesson
    lesson.stop()


@pytest.fixture(scope="module")
def project_root(dev: Dev) -> Path:
    return dev.root.parent.parent


def published(dev: Dev) -> dict[str, tuple[int, float]]:
    """The trips and dollars of each month's file at the source."""
    files = duckdb.execute(
        f"""SELECT regexp_extract(filename, '\\d{{4}}-\\d\\d'), count(*), round(sum(total_amount), 2)
        FROM read_parquet('{dev.root}/source/trip-data/*.parquet', filename = true) GROUP BY ALL"""
    )
    return {month: (trips, dollars) for month, trips, dollars in files.fetchall()}


def loaded(dev: Dev) -> dict[str, tuple[int, float]]:
    """The trips and dollars of each month in the table."""
    rows = dev.query("SELECT partition_date, count(*), round(sum(total_amount), 2) FROM trips GROUP BY ALL")
    return {month: (trips, dollars) for month, trips, dollars in rows}


def load_times(dev: Dev) -> set[object]:
    return {time for (time,) in dev.query("SELECT max(loaded_at) FROM month_versions GROUP BY month")}


def backfill_all_months(page: Page, dev: Dev) -> None:
    """Backfill the job's months, and wait until its run has succeeded."""
    runs = len(dev.runs())
    open_job(page, "trip_update_job")
    page.get_by_role("button", name="Materialize").first.click()
    launch_backfill(page, "All")
    assert dev.finished_runs(runs + 1)[0].status == dg.DagsterRunStatus.SUCCESS


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
    open_asset(page, "taxi_trips_file", "Partitions")
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
    launch_backfill(page)


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
    assert loaded(dev) == published(dev)
    for asset in MONTHLY:
        assert dev.materialized(asset) == KEYS


def test_the_lineage_shows_what_is_materialized(page: Page, screenshot: Screenshot) -> None:
    open_lineage(page)
    for asset, partitions in {**dict.fromkeys(MONTHLY, 3), "trips_by_week": WEEKS}.items():
        expect(node(page, asset)).to_contain_text(f"{partitions} partitions")
        expect(node(page, asset)).to_contain_text("100% filled")
    for asset, checks in {"taxi_trips": 11, "manhattan_stats": 2, "trips_by_week": 1, "adhoc_request": 1}.items():
        expect(node(page, asset)).to_contain_text(f"{checks} / {checks} Passed")
    for asset in UNPARTITIONED:
        expect(node(page, asset)).to_contain_text(re.compile("Materialized[A-Z]"))
    screenshot("lineage-after", around=[node(page, asset) for asset in (*MONTHLY, *UNPARTITIONED, "trips_by_week")])


def test_the_catalog_shows_the_metadata_and_the_upstream_asset_of_a_month(page: Page, screenshot: Screenshot) -> None:
    open_asset(page, "taxi_trips", "Partitions")
    expect(page.get_by_text("Materialized (3)")).to_be_visible()
    for key in KEYS:
        expect(page.get_by_text(key, exact=True).filter(visible=True).last).to_be_visible()
    open_partition(page, "2023-03-01")
    metadata = {
        "dagster/partition_row_count": "100000",
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
    page.set_viewport_size(WIDE)
    page.get_by_role("tab", name="Lineage").click()
    expect(node(page, "taxi_trips_file")).to_contain_text("100% filled")


def test_a_check_is_about_all_loaded_months(page: Page, screenshot: Screenshot) -> None:
    open_asset(page, "taxi_trips", "Checks")
    page.get_by_text("pickups_in_month").filter(visible=True).first.click()
    text = r"3 loaded months: all pass\. The highest is 2023-\d\d: \d+ of 100,000 trips, 0\.\d\d%; the limit is 1\.00%"
    expect(page.get_by_text(re.compile(text))).to_be_visible()
    screenshot("check")


def test_a_backfill_of_the_job_has_runs_of_the_job(page: Page, dev: Dev, screenshot: Screenshot) -> None:
    before = {run.run_id for run in dev.runs()}
    open_job(page, "trip_update_job")
    expect(page.get_by_text(re.compile("^3 *Total partitions$"))).to_be_visible()
    screenshot("job-partitions")
    page.get_by_role("button", name="Materialize").first.click()
    expect(page.get_by_role("dialog")).to_contain_text("Launch runs to materialize 6 assets")
    launch_backfill(page, "All")

    open_newest_backfill(page)
    page.get_by_role("tab", name="Runs").click()
    expect(page.get_by_text("trip_update_job", exact=True).first).to_be_visible(timeout=RUN_TIMEOUT)
    expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=RUN_TIMEOUT)
    expect(page.get_by_text("Failure", exact=True)).to_have_count(0)
    screenshot("job-runs")
    (run,) = [run for run in dev.runs() if run.run_id not in before]
    assert (run.job_name, run.status) == ("trip_update_job", dg.DagsterRunStatus.SUCCESS)
    log = dev.log()
    assert "3 of 3 months unchanged" in log
    assert loaded(dev) == published(dev)


def test_commands_in_another_shell_are_runs_of_the_lesson(dev: Lesson) -> None:
    before = {run.run_id for run in dev.runs()}
    dev.enter("dagster job backfill -j trip_update_job --all yes --noprompt")
    runs = [run for run in dev.finished_runs(len(before) + 3) if run.run_id not in before]
    assert sorted((run.tags["dagster/partition"], run.status.value) for run in runs) == [
        (key, "SUCCESS") for key in KEYS
    ]
    output = dev.enter("dg launch --assets taxi_trips_file,taxi_trips --partition 2023-03-01")
    assert "Telemetry" not in output
    assert len(dev.runs()) == len(before) + 4


def test_a_load_is_forced_by_the_config_of_a_backfill(page: Page, dev: Dev) -> None:
    before = load_times(dev)
    open_asset(page, "taxi_trips", "Partitions")
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
    launch_backfill(page)
    assert dev.finished_runs(runs + 1)[0].status == dg.DagsterRunStatus.SUCCESS
    assert before.isdisjoint(load_times(dev))
    assert loaded(dev) == published(dev)


def test_after_a_change_of_the_code_the_months_are_stale_and_a_removed_column_stays_and_is_null(
    page: Page, dev: Dev, project_root: Path
) -> None:
    module = project_root / "dagster_essentials/datasets/yellow.py"
    code = module.read_text()
    (line,) = re.findall(r'^    Column\("airport_fee", .*\),\n', code, re.MULTILINE)
    assert dev.query("SELECT count(airport_fee) > 0 FROM trips") == [(True,)]
    before = load_times(dev)
    module.write_text(code.replace(line, ""))
    open_asset(page, "taxi_trips", "Partitions")
    open_partition(page, "2023-03-01")
    expect(page.get_by_text("Unsynced")).to_have_count(0)

    reload_definitions(page)

    # The lineage does not show it: the page of each month does.
    open_lineage(page)
    expect(node(page, "taxi_trips")).to_contain_text("100% filled")
    expect(node(page, "taxi_trips")).not_to_contain_text("Unsynced")
    for key in KEYS:
        open_asset(page, "taxi_trips", "Partitions")
        open_partition(page, key)
        expect(page.get_by_text("Unsynced")).to_be_visible()
    backfill_all_months(page, dev)
    assert before.isdisjoint(load_times(dev))
    assert dev.query("SELECT count(*), count(airport_fee) FROM trips") == [(300_000, 0)]
    assert loaded(dev) == published(dev)

    open_asset(page, "taxi_trips", "Partitions")
    open_partition(page, "2023-03-01")
    expect(page.get_by_role("row", name="dagster/partition_row_count")).to_be_visible()
    expect(page.get_by_text("Unsynced")).to_have_count(0)

    module.write_text(code)
    reload_definitions(page)
    backfill_all_months(page, dev)
    assert dev.query("SELECT count(airport_fee) > 0 FROM trips") == [(True,)]


def test_the_schedules_and_the_sensor_are_listed_and_a_tick_requests_the_new_months(
    page: Page, dev: Dev, screenshot: Screenshot
) -> None:
    go_to(page, "Automation")
    page.get_by_text("trip_update_job_schedule", exact=True).filter(visible=True).first.click()
    page.get_by_role("button", name="Preview tick result").click()
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("dialog")).to_contain_text("the newest month so far, 2023-03, is loaded already")

    # Two more months are published, and are partitions without a restart.
    for month in LATER:
        write_month(dev.root / "source/trip-data", month, 100_000)
    settings = dev.root / ".env"
    settings.write_text(settings.read_text().replace("TAXI_END_DATE=2023-04-01", "TAXI_END_DATE=2023-06-01"))
    page.reload()
    reload_definitions(page)

    go_to(page, "Automation")
    for name in ("trip_update_job_schedule", "weekly_update_job_schedule", "adhoc_request_sensor"):
        expect(page.get_by_text(name, exact=True).filter(visible=True).first).to_be_visible()
    expect(page.get_by_text(re.compile("12:00 AM E[DS]T, on day 5 of the month"))).to_be_visible()
    screenshot("automation")
    page.get_by_text("trip_update_job_schedule", exact=True).filter(visible=True).first.click()
    expect(page.get_by_text(re.compile("It is a function, without a partition set"))).to_be_visible()
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
        if month == LATER[0]:
            screenshot("tick-request")
        configuration.get_by_role("button", name="OK").click()
        expect(configuration).to_have_count(0)


def test_a_month_that_is_missing_fails_with_its_reason_and_the_others_are_materialized(
    page: Page, dev: Dev, screenshot: Screenshot
) -> None:
    may = dev.root / "source/trip-data/yellow_tripdata_2023-05.parquet"
    shutil.move(may, dev.root / "later.parquet")
    select_assets(page, *MONTHLY)
    launch_backfill(page, "Missing")

    open_newest_backfill(page)
    expect(page.get_by_text("100% completed")).to_have_count(2, timeout=RUN_TIMEOUT)
    page.get_by_role("tab", name="Runs").click()
    expect(page.get_by_text("Failure", exact=True)).to_be_visible(timeout=RUN_TIMEOUT)
    page.get_by_role("link", name="View", exact=True).last.click()
    reason = page.get_by_text("2023-05").filter(has_text="no such file. Put it there").first
    expect(reason).to_be_visible()
    page.reload()  # Without the message that a backfill was created.
    expect(reason).to_be_visible()
    page.get_by_placeholder("Filter…").filter(visible=True).last.fill("of 2) failed")
    expect(page.get_by_text(re.compile(r"2023-05 \(2 of 2\) failed \(.*no such file"))).to_be_visible()
    expect(page.get_by_text("Stack Trace")).to_have_count(0)
    screenshot("failed-run")

    for asset in MONTHLY:
        open_asset(page, asset, "Partitions")
        expect(page.get_by_text("Failed (1)")).to_be_visible()
        expect(page.get_by_text("Materialized (4)")).to_be_visible()
        page.get_by_text("2023-05-01", exact=True).filter(visible=True).last.click()
        expect(page.get_by_text(re.compile("failed, and did not materialize this asset"))).to_be_visible()
    screenshot("failed-month")
    assert loaded(dev).keys() == {*MONTHS, "2023-04"}
    # The checks are about what is loaded.
    open_lineage(page)
    expect(node(page, "taxi_trips")).to_contain_text("80% filled (1 failed)")
    expect(node(page, "taxi_trips")).to_contain_text("11 / 11 Passed")


def test_the_missing_month_is_loaded_by_the_next_backfill(page: Page, dev: Dev) -> None:
    shutil.move(dev.root / "later.parquet", dev.root / "source/trip-data/yellow_tripdata_2023-05.parquet")
    runs = len(dev.runs())
    select_assets(page, *MONTHLY)
    launch_backfill(page, "Failed")
    assert dev.finished_runs(runs + 1)[0].status == dg.DagsterRunStatus.SUCCESS
    assert loaded(dev) == published(dev)


def test_the_lesson_continues_after_ctrl_c_and_has_not_touched_the_real_data_and_its_history(
    dev: Lesson, project_root: Path
) -> None:
    assert sorted(path.name for path in (project_root / "data").iterdir()) == [".gitkeep", "lesson", "requests"]
    assert [path.name for path in (project_root / ".dagster").iterdir()] == ["dagster.yaml"]
    assert dev.process is not None
    os.killpg(dev.process.pid, signal.SIGINT)
    dev.process.wait(timeout=60)
    # All of it but the UI itself.
    command = [*dev.argv, "DG=echo Started:"]
    again = subprocess.run(command, env=dev.env, check=True, capture_output=True, text=True).stdout
    assert "Started: dev --workspace workspace.yaml\n" in again
    assert "TAXI_END_DATE=2023-06-01\n" in (dev.root / ".env").read_text()
    assert loaded(dev) == published(dev)
    with dev.instance() as instance:
        materialized = instance.get_materialized_partitions(dg.AssetKey("taxi_trips"))
    assert materialized == {f"{month}-01" for month in (*MONTHS, *LATER)}
