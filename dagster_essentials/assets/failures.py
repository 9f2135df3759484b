"""How an asset without partitions fails: with the message of the pipeline's error, and nothing around it."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from dagster_essentials.errors import PipelineError


@contextmanager
def fail_with_message(label: str = "") -> Iterator[None]:
    """Turn an error of the pipeline in the block into a `dagster.Failure`, about `label` or the error's own source.

    Dagster shows a Failure as it is; for any other error, the run's page first says in which op it occurred.

    Raises:
        dagster.Failure: for every PipelineError.
    """
    try:
        yield
    except PipelineError as error:
        # From None: the message is complete, and Dagster would print the stack trace of a cause as well.
        raise dg.Failure(error.describe(label), allow_retries=False) from None
