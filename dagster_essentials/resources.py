"""The database resource. Who may open the database, and how long the others wait, is decided in `warehouse/`."""

from contextlib import AbstractContextManager

import dagster as dg

from dagster_essentials import settings
from dagster_essentials.orchestration.database import LockedDuckDBResource as LockedDuckDBResource
from dagster_essentials.orchestration.database import TablesResource
from dagster_essentials.warehouse.lake import LAKE_NAME
from dagster_essentials.warehouse.tables import Tables


class DuckLakeResource(TablesResource):
    """The lake of the settings. Its passwords are not among its fields: the UI shows those."""

    def tables(self) -> AbstractContextManager[Tables]:
        """Connect to the lake, which other processes use at the same time. See `TablesResource.tables`."""
        # The default has no lake, and imports nothing for it.
        from dagster_essentials.warehouse.lake.connection import lake_tables

        assert settings.SETTINGS.lake is not None
        log = dg.get_dagster_logger().info
        return lake_tables(settings.SETTINGS.lake, self.connection_config, self.wait_seconds, log)


database_resource = (DuckLakeResource if settings.SETTINGS.lake else LockedDuckDBResource)(
    database=LAKE_NAME if settings.SETTINGS.lake else str(settings.SETTINGS.database),
    connection_config={
        "memory_limit": settings.SETTINGS.database_memory_limit,
        **({"threads": settings.SETTINGS.database_threads} if settings.SETTINGS.database_threads else {}),
    },
    wait_seconds=settings.SETTINGS.database_wait_seconds,
)
