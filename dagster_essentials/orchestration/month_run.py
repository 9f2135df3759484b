"""A run over months of a dataset: what Dagster records of a month's file, and of its rows in the table."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import dagster as dg
from dagster_duckdb import DuckDBResource
from pydantic import Field

from dagster_essentials.errors import DatabaseError, PipelineError, RowCountMismatchError
from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.ingestion.month_files import DownloadedMonth, MonthFile, download_month
from dagster_essentials.orchestration.checks import evaluate_checks
from dagster_essentials.orchestration.database import HeldTables, open_tables
from dagster_essentials.orchestration.events import AssetEvents, record_check_as_latest, record_materialization
from dagster_essentials.orchestration.failures import retry_if_possible
from dagster_essentials.orchestration.metadata import file_metadata, month_metadata
from dagster_essentials.orchestration.partition_run import PartitionRun, describe_bytes, failures_in_run, is_executed
from dagster_essentials.orchestration.records import UNCHANGED, overtaken_checks, recorded_version
from dagster_essentials.warehouse.load import LoadedMonth
from dagster_essentials.warehouse.month_versions import versions_by_month
from dagster_essentials.warehouse.quality import find
from dagster_essentials.warehouse.tables import Tables


class LoadConfig(dg.Config):
    """The options of a load."""

    force: bool = Field(
        default=False, description="Load a month again even if it was loaded from the same file by the same mapping"
    )


class MonthRun(PartitionRun):
    """A `PartitionRun` over months.

    Args:
        context: of the step.
        month_file: the file of a partition, by its key.
    """

    def __init__(self, context: dg.AssetExecutionContext, month_file: Callable[[str], MonthFile]):
        self._files = month_file
        self._transferred = self._changed = self._unchanged = 0
        self._mismatches: dict[str, RowCountMismatchError] = {}
        self._database_failed = False
        self._held = HeldTables()
        self._started = time.monotonic()
        super().__init__(context, lambda key: month_file(key).label, "month", noun="rows")
        self._noun = month_file(self.keys[0]).dataset.noun

    def pending(self, upstream: dg.AssetsDefinition | None = None) -> Iterator[str]:
        """As `PartitionRun.pending`. A run from the failure of another one does not repeat `upstream`, whose step went on for the
        other months: the files that it could not download are downloaded here.
        """
        if upstream is not None and not is_executed(self._context, upstream):
            for key in failures_in_run(self._context, upstream):
                with self.partition(key):
                    month = download_month(self._files(key))
                    metadata = file_metadata(month, self._files(key).location)
                    record_materialization(self._context, upstream, key, month.file.sha256, metadata)
            upstream = None
        try:
            yield from super().pending(upstream)
        finally:
            self._held.close()

    def tables(self, database: DuckDBResource) -> AbstractContextManager[Tables]:
        """The tables of `database`, for a month. Months that are unchanged use them one after the other (`HeldTables`)."""
        return self._held.open(database)

    @contextmanager
    def partition(self, key: str) -> Iterator[None]:
        """As `PartitionRun.partition`; an error of a month or of the database is remembered for the checks."""
        self._started = time.monotonic()
        with super().partition(key):
            try:
                yield
            except RowCountMismatchError as error:
                self._mismatches[self._label(key)] = error
                raise
            except DatabaseError:
                self._database_failed = True
                raise

    def downloaded(self, key: str, month: DownloadedMonth) -> None:
        """Record the file of the partition `key`."""
        self._transferred += month.bytes_transferred
        self._changed += month.transferred
        self._unchanged += not month.transferred
        self.materialized(
            key,
            data_version=month.file.sha256,
            metadata=file_metadata(month, self._files(key).location),
            rows=month.rows,
            size=month.file.bytes,
            note=f"downloaded in {month.seconds:.1f} s" if month.transferred else "unchanged at the source",
            is_logged=self._is_logged(month.transferred),
        )

    def loaded(
        self, key: str, month: LoadedMonth, upstream: dg.AssetsDefinition, inputs: Sequence[dg.AssetKey] = ()
    ) -> None:
        """Record the rows of the partition `key`, which were made from the file of `upstream`, and from the latest `inputs`.

        Call it while the database is held, so that runs are recorded in the order in which they committed.
        """
        waited = time.monotonic() - self._started - month.seconds
        # Not if a run was killed between its commit and its record, or lost its connection while it committed.
        is_unchanged = month.is_unchanged and month.version.data_version == recorded_version(
            self._context.instance, self._context.asset_key, key
        )
        findings = find(month.versions, self._files(key).dataset)
        self._unchanged += month.is_unchanged
        self._changed += not month.is_unchanged
        self.materialized(
            key,
            data_version=month.version.data_version,
            metadata={
                **month_metadata(month, findings),
                UNCHANGED: is_unchanged,
                "seconds": round(month.seconds, 3),
                "seconds_waited": round(waited, 3),
                "upstream": dg.MetadataValue.asset(upstream.key),
            },
            rows=month.version.num_trips,
            size=month.bytes,
            note=("unchanged" if month.is_unchanged else f"loaded in {month.seconds:.1f} s")
            + (f" after {waited:.1f} s of waiting for the database" if waited >= 0.1 else ""),
            is_logged=self._is_logged(not month.is_unchanged),
            inputs={upstream.key: month.version.sha256, **dict.fromkeys(inputs)},
        )
        if not month.is_unchanged:
            # What a load has freed can be used again after the checkpoint of the connection's end. With three months of 300,000
            # trips in one, the database grew by a third when they were loaded again.
            self._held.expire()
            for finding in findings:
                if not finding.passed:
                    self._context.log.warning(f"{self._label(key)}: {finding.check}: {finding.figures}")

    def _is_logged(self, is_changed: bool) -> bool:
        """True if a month has a line of its own. Of a range, the last line counts the unchanged ones: each line is an event, and
        takes half as long to store as a materialization.
        """
        return is_changed or len(self.keys) == 1

    def checked(self, database: DuckDBResource, *datasets: Dataset) -> AssetEvents:
        """Evaluate the checks of the table of `datasets`, over all loaded months, also when a month of the run has failed.

        They are recorded while the database is held: what an overlapping run records later is about a later state of the table.
        """
        selected = self._context.op_execution_context.selected_asset_check_keys
        keys = [key for key in selected if key.asset_key == self._context.asset_key]
        if self._database_failed or not keys:
            return
        try:
            with open_tables(database) as tables:
                versions = versions_by_month(tables, [dataset.name for dataset in datasets])
                overtaken = overtaken_checks(self._context.instance, keys, self._context.run.run_id)
                for check in evaluate_checks(sorted(key.name for key in keys), datasets, versions, self._mismatches):
                    yield check
                    if check.check_name in overtaken:
                        record_check_as_latest(self._context.instance, self._context.assets_def, check)
        except PipelineError as error:
            retry_if_possible(error)
            text = f"the checks could not be evaluated. {error.describe()}"
            if not self._reasons:
                # Without them, Dagster would fail the step for the lack of an output.
                raise dg.Failure(f"The months are loaded, but {text}", allow_retries=False) from None
            self._context.log.warning(text[0].upper() + text[1:])

    def finish(self, done: str, note: str = "", downstream: dg.AssetsDefinition | None = None) -> AssetEvents:
        """As `PartitionRun.finish`."""
        transferred = f"{describe_bytes(self._transferred)} transferred" if self._transferred else ""
        yield from super().finish(done, note or transferred, downstream)

    def _summary(self, done: str) -> str:
        """Months that were left as they are count as unchanged, not as `done`."""
        total = len(self.keys)
        if self._unchanged and not self._changed:
            return f"{self._unchanged} of {total} months unchanged"
        return f"{self._changed} of {total} months {done}" + (
            f", {self._unchanged} unchanged" if self._unchanged else ""
        )
