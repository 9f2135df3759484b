"""The tables in a DuckLake: its connection, its locks, its data files and its maintenance."""

from dataclasses import dataclass, field

from dagster_essentials.ingestion.data_folder import ObjectStore

LAKE_NAME = "lake"
"""The name under which a DuckLake is attached."""


@dataclass(frozen=True)
class Lake:
    """A DuckLake: its catalogue in PostgreSQL, as libpq's connection string or URL, and where its data files are."""

    # It may have a password.
    catalog: str = field(repr=False)
    data_path: str
    store: ObjectStore | None
