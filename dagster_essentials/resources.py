"""The database resource. Who may open the file, and how long the others wait, is decided in `warehouse/`."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import duckdb
from dagster_duckdb import DuckDBResource
from pydantic import Field

from dagster_essentials import settings
from dagster_essentials.orchestration.database import LockedDuckDBResource as LockedDuckDBResource
from dagster_essentials.settings.remote import LAKE_NAME


class DuckLakeResource(DuckDBResource):
    """A `DuckDBResource` for the lake of the settings. Its passwords are not among its fields: the UI shows those."""

    wait_seconds: float = Field(
        default=600, description="How long to wait for a month that another run loads, in seconds"
    )

    @contextmanager
    def get_connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Connect to the lake, which other processes use at the same time.

        Raises:
            DatabaseUnusableError: it cannot be used.
        """
        # The default has no lake, and imports nothing for it.
        from dagster_essentials.warehouse.lake.connection import lake_connection

        assert settings.SETTINGS.lake is not None
        log = dg.get_dagster_logger().info
        with lake_connection(settings.SETTINGS.lake, self.connection_config, self.wait_seconds, log) as connection:
            yield connection


database_resource = (DuckLakeResource if settings.SETTINGS.lake else LockedDuckDBResource)(
    database=LAKE_NAME if settings.SETTINGS.lake else str(settings.SETTINGS.database),
    connection_config={
        "memory_limit": settings.SETTINGS.database_memory_limit,
        **({"threads": settings.SETTINGS.database_threads} if settings.SETTINGS.database_threads else {}),
    },
    wait_seconds=settings.SETTINGS.database_wait_seconds,
)
