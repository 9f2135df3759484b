"""The errors of DuckDB as those of the pipeline: what failed, DuckDB's message, and the advice that fits the cause."""

from pathlib import Path
from typing import Any

import duckdb
import pytest

from dagster_essentials.errors import (
    ConnectionLostError,
    DatabaseUnusableError,
    PipelineError,
    QueryError,
    RetryableError,
    WriteConflictError,
)
from dagster_essentials.warehouse.file import file_tables
from dagster_essentials.warehouse.lake.tables import LakeTables
from dagster_essentials.warehouse.tables import Tables
from dagster_essentials_tests.support.faults.samples import sample
from dagster_essentials_tests.support.loading import load_month

LOST = {
    "FATAL Error: Failed: database has been invalidated because of a previous fatal error.": duckdb.FatalException,
    'INTERNAL Error: Failed to execute query "ROLLBACK": no connection to the server': duckdb.InternalException,
    "IO Error: Unable to connect to Postgres at host=db: database system is starting up": duckdb.IOException,
    "IO Error: server closed the connection unexpectedly": duckdb.IOException,
    "Invalid Error: terminating connection due to administrator command": duckdb.Error,
    "IO Error: SSL SYSCALL error: EOF detected": duckdb.IOException,
}
CONFLICT = "TransactionContext Error: Failed to commit.\nTransaction conflict - another transaction has altered it"


def explain(tables: Tables, error: duckdb.Error) -> PipelineError:
    with pytest.raises(PipelineError) as raised, tables.explain_errors("it failed", "Rename it."):
        raise error
    return raised.value


@pytest.fixture
def connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


@pytest.mark.parametrize("text", [*LOST, CONFLICT])
def test_an_error_of_a_file_is_never_that_of_a_lake(text: str, connection: duckdb.DuckDBPyConnection) -> None:
    error = explain(Tables(connection), LOST.get(text, duckdb.TransactionException)(text))

    assert type(error) is QueryError
    assert "PostgreSQL" not in str(error)
    assert str(error).startswith(f"it failed: {text.splitlines()[0].rstrip('.')}. ")


def lake_tables(connection: duckdb.DuckDBPyConnection) -> LakeTables:
    locks: Any = None
    return LakeTables(connection, locks)


@pytest.mark.parametrize("text", LOST)
def test_a_lost_connection_to_a_lake_can_be_retried(text: str, connection: duckdb.DuckDBPyConnection) -> None:
    error = explain(lake_tables(connection), LOST[text](text))

    assert type(error) is ConnectionLostError
    assert isinstance(error, RetryableError)
    assert "PostgreSQL" in str(error)


def test_a_conflict_in_a_lake_can_be_retried(connection: duckdb.DuckDBPyConnection) -> None:
    error = explain(lake_tables(connection), duckdb.TransactionException(CONFLICT))

    assert type(error) is WriteConflictError
    assert isinstance(error, RetryableError)
    assert "another transaction has altered it" in str(error)


@pytest.mark.parametrize("make", [Tables, lake_tables], ids=["file", "lake"])
@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (duckdb.IOException("IO Error: Could not write to file: No space left on device"), "Free some disk space"),
        (
            duckdb.OutOfMemoryException(
                "Out of Memory Error: failed to offload data block of size 256.0 KiB (90.0 GiB/90.0 GiB used).\n"
                "This limit was set by the 'max_temp_directory_size' setting."
            ),
            "Free some disk space",
        ),
        (
            duckdb.OutOfMemoryException(
                "Out of Memory Error: could not allocate block of size 256.0 KiB (488.2 MiB/488.2 MiB used)\n\n"
                "Possible solutions:\n* Increasing the memory limit"
            ),
            "Give DuckDB more memory (DUCKDB_MEMORY_LIMIT)",
        ),
        (duckdb.CatalogException("Catalog Error: trips is not an table"), "Rename it."),
        (duckdb.ConversionException("Conversion Error: Could not convert"), "Rename it."),
    ],
)
def test_the_advice_fits_the_cause(
    make: Any, error: duckdb.Error, advice: str, connection: duckdb.DuckDBPyConnection
) -> None:
    explained = explain(make(connection), error)

    assert type(explained) is QueryError
    assert str(explained).startswith(f"it failed: {str(error).splitlines()[0].rstrip('.')}. {advice}")


@pytest.mark.duckdb
@pytest.mark.parametrize("limit", ["100KB", "1MB", "8MB"])
def test_too_little_memory_is_named_wherever_it_is_noticed(limit: str, tmp_path: Path) -> None:
    database, file = tmp_path / "data.duckdb", tmp_path / "month.parquet"
    file.write_bytes(sample("2023-01", 20_000))
    with file_tables(database, {}, wait_seconds=0, log=print) as tables:
        load_month(tables, "2023-01", file)
        before = tables.execute("SELECT count(*), sum(total_amount) FROM trips").fetchall()

    with (
        pytest.raises(
            (DatabaseUnusableError, QueryError), match=r"Give DuckDB more memory \(DUCKDB_MEMORY_LIMIT\)"
        ) as raised,
        file_tables(database, {"memory_limit": limit}, wait_seconds=0, log=print) as tables,
    ):
        load_month(tables, "2023-01", file, force=True)

    assert "Delete the file" not in str(raised.value)
    assert "move it away" not in str(raised.value)
    with file_tables(database, {}, wait_seconds=0, log=print) as tables:
        assert tables.execute("SELECT count(*), sum(total_amount) FROM trips").fetchall() == before
