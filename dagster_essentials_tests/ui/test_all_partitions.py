"""*Materialize all* over all partitions, with the defaults and a source that has every month that is a partition."""

import re
from collections.abc import Iterator
from datetime import date, timedelta

import pytest
from playwright.sync_api import Browser, Page, expect

from dagster_essentials.partitions import monthly_partition
from dagster_essentials.sample import write_month, write_zones
from dagster_essentials_tests.support.dagster_dev import Dev, copy_of_project
from dagster_essentials_tests.support.project import ROOT
from dagster_essentials_tests.support.source_server import SourceServer
from dagster_essentials_tests.ui.conftest import (
    RUN_TIMEOUT,
    go_to,
    launch_backfill,
    node,
    open_lineage,
    open_newest_backfill,
)

pytestmark = pytest.mark.slow

# Without an end date. Eight months ago, so that there are months and weeks on whatever day.
START = (date.today() - timedelta(days=240)).replace(day=1).isoformat()
MONTHS = {key[:7]: 2_000 + number for number, key in enumerate(monthly_partition.get_partition_keys()) if key >= START}


@pytest.fixture(scope="module")
def dev(chromium: Browser, tmp_path_factory: pytest.TempPathFactory, source: SourceServer) -> Iterator[Dev]:
    samples = tmp_path_factory.mktemp("samples")
    for month, rows in MONTHS.items():
        source.put_month(month, write_month(samples, month, rows).read_bytes())
    source.files["/taxi_zones.csv"] = write_zones(samples / "taxi_zones.csv").read_bytes()
    root = copy_of_project(ROOT, tmp_path_factory.mktemp("clone"))
    settings = {
        "TAXI_TRIPS_URL": source.trips_url,
        "TAXI_ZONES_URL": source.zones_url,
        "TAXI_START_DATE": START,
        "DAGSTER_HOME": str(root / ".dagster"),
    }
    dev = Dev(root, settings, daemon_interval=2, program="dg")
    dev.start()
    yield dev
    dev.stop()


def test_everything_is_green(page: Page, dev: Dev) -> None:
    assert 4 <= len(MONTHS) <= 6
    go_to(page, "Lineage")
    page.get_by_role("button", name="Materialize all").click()
    expect(page.get_by_role("dialog")).to_contain_text("Launch runs to materialize 8 assets")
    launch_backfill(page, "All")
    open_newest_backfill(page)
    expect(page.get_by_text("100% completed")).to_have_count(8, timeout=RUN_TIMEOUT)
    expect(page.get_by_text(re.compile(r"^Failed"))).to_have_count(1)  # The header of the column.
    open_lineage(page)
    for asset in ("taxi_trips_file", "taxi_trips", "trips_by_week"):
        expect(node(page, asset)).to_contain_text("100% filled")
        expect(node(page, asset)).not_to_contain_text("failed")
    expect(node(page, "taxi_trips")).to_contain_text("11 / 11 Passed")
    for asset in ("taxi_zones_file", "taxi_zones", "manhattan_stats", "manhattan_map", "adhoc_request"):
        expect(node(page, asset)).to_contain_text(re.compile("Materialized[A-Z]"))
    assert dev.rows() == MONTHS
    ((weeks,),) = dev.query("SELECT count(*) FROM trips_by_week")
    assert weeks >= 8
