"""Fixtures that only these tests need."""

import pytest

from dagster_essentials.warehouse.lake import Lake
from dagster_essentials_tests.support.lake_servers import LakeServers


@pytest.fixture
def lake(lake_servers: LakeServers) -> Lake:
    return lake_servers.new_lake()
