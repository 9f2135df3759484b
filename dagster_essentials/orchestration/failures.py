"""How an asset without partitions fails: with the message of the pipeline's error, and nothing around it."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from dagster_essentials.errors import PipelineError
from dagster_essentials.orchestration.step_retries import retry_if_connection_lost


@contextmanager
def fail_with_message(label: str = "") -> Iterator[None]:
    """Turn an error of the pipeline in the block into a `dagster.Failure`, about `label` or the error's own source.

    Dagster shows a Failure as it is; for any other error, the run's page first says in which op it occurred.

    Raises:
        dagster.RetryRequested: the connection to the lake's catalogue was lost.
        dagster.Failure: for every other PipelineError.
    """
    try:
        yield
    except PipelineError as error:
        retry_if_connection_lost(error)
        # From None: the message is complete, and Dagster would print the stack trace of a cause as well.
        raise dg.Failure(error.describe(label), allow_retries=False) from None
