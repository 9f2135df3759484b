"""The data files of a lake: by month, and written before the transaction that adds them.

So the months of several processes are written at the same time, and a commit takes a fifth of a second however large the
month is. A file that no transaction added, as its process was killed, is removed by `lake_maintenance.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import duckdb

from dagster_essentials.settings.remote import LAKE_NAME


@dataclass(frozen=True)
class StagedFile:
    """A data file that is not yet part of a table."""

    path: str

    @property
    def rows(self) -> str:
        """What is read in place of a table, as SQL."""
        return f"read_parquet({_quote(self.path)}, hive_partitioning = false)"


def partition_table(connection: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str]) -> None:
    """Let the data files of the new `table` lie in folders by `columns`, also when they are rewritten."""
    connection.execute(f"ALTER TABLE {table} SET PARTITIONED BY ({', '.join(columns)})")


def stage(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    folders: Mapping[str, str],
    query: str,
    parameters: Mapping[str, object],
) -> StagedFile:
    """Write the rows of `query` to a file in the folder of `table`, and there in `folders`, by column and value."""
    (data_path,) = connection.execute(f"SELECT data_path FROM ducklake_settings('{LAKE_NAME}')").fetchall()[0]
    folder = "/".join(
        [f"{data_path.rstrip('/')}/main/{table}", *(f"{name}={value}" for name, value in folders.items())]
    )
    if "://" not in folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    staged = StagedFile(f"{folder}/{uuid4()}.parquet")
    connection.execute(f"COPY ({query}) TO {_quote(staged.path)} (FORMAT parquet, COMPRESSION zstd)", parameters)
    return staged


def add_file(connection: duckdb.DuckDBPyConnection, table: str, staged: StagedFile) -> None:
    """Add the rows of the file to `table`, in the transaction of the caller."""
    connection.execute(
        # A table may have columns that somebody else has added.
        f"CALL ducklake_add_data_files('{LAKE_NAME}', $table, $path, allow_missing => true, hive_partitioning => true)",
        {"table": table, "path": staged.path},
    )


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
