"""The one family of exceptions of the pipeline. Their messages are complete: what happened, and what to do next.

Code that imports no dagster raises them; `partition_run.py` and `assets/failures.py` turn them into failed partitions and
`dagster.Failure`.
"""


class PipelineError(Exception):
    """A step cannot do its work.

    Args:
        message: what happened and what to do next, in sentences for the person who reads the run's page.
        source: the file or the address (without credentials) that it happened to, if the message does not name it.
    """

    def __init__(self, message: str, source: object = None):
        super().__init__(message)
        self.source = source

    def describe(self, label: str = "") -> str:
        """The message with what it is about: ``2023-01 (https://…): not published …``."""
        source = f"({self.source})" if label and self.source is not None else str(self.source or "")
        about = " ".join(filter(None, [label, source]))
        return f"{about}: {self}" if about else str(self)


class DownloadError(PipelineError):
    """A file could not be downloaded, or what was downloaded is not what it should be."""


class NotPublishedError(DownloadError):
    """The source does not have the file (yet): it answered 403 or 404, or the local file does not exist."""


class SchemaError(PipelineError):
    """A month's file lacks a column, has one of the wrong type, or exceeds the limits for a month's file."""


class ZonesError(PipelineError):
    """The file is not the zones CSV, or a row of it cannot be used."""


class LoadError(PipelineError):
    """A month could not be loaded. Its rows in the table are unchanged."""


class RowCountMismatchError(LoadError):
    """The table got another number of rows than the file's footer counts. The transaction was rolled back."""

    def __init__(self, message: str, rows_in_file: int, rows_in_table: int):
        super().__init__(message)
        self.rows_in_file = rows_in_file
        self.rows_in_table = rows_in_table


class QueryError(PipelineError):
    """DuckDB could not execute a statement. The tables are unchanged."""


class ReportError(PipelineError):
    """A report cannot be made: its input is missing or invalid."""


class WriteError(PipelineError):
    """A file could not be written. What was there before is unchanged."""


class DatabaseError(PipelineError):
    """The database as a whole cannot be used now. This holds for every partition of the run."""


class DatabaseBusyError(DatabaseError):
    """The database was not free in time. The message names the process that holds it."""


class DatabaseUnusableError(DatabaseError):
    """It cannot be opened as a DuckDB database, or its tables are not those of this project."""


class RetryableError(DatabaseError):
    """The same can be executed again without harm, with a new connection: Dagster retries the step."""


class ConnectionLostError(RetryableError):
    """The connection to the lake's catalogue was lost, for a `reason`."""

    def __init__(self, reason: str):
        super().__init__(
            f"The connection to the lake's catalogue in PostgreSQL was lost ({reason}). The transaction was committed or rolled "
            "back as a whole. Materialize again."
        )


class WriteConflictError(RetryableError):
    """Something that does not take the lake's locks, such as a person's UPDATE, has changed the same table meanwhile."""

    def __init__(self, reason: str):
        super().__init__(
            f"Something else has changed the same table of the lake at the same time ({reason}), so the transaction was rolled "
            "back. Materialize again."
        )
