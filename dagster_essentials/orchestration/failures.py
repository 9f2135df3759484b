"""The end of a step that cannot do its work: with the pipeline's message and nothing around it, or with another attempt.

Not whole runs are retried: Dagster does not retry those of `dagster job backfill`. A step can be repeated at any time, as months
that have been loaded are left alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from dagster_essentials.errors import DatabaseUnusableError, PipelineError, RetryableError

RETRIES = 6
FIRST_WAIT_SECONDS = 2
"""Before the first retry, and twice as long before each further one. PostgreSQL restarts within seconds; a failover to another
machine takes a minute or two, which is the sum of all."""


class LoggedFailure(dg.Failure):
    """A `dagster.Failure` whose reason is in the log of its step, so that the terminal does not repeat it."""


@contextmanager
def fail_with_message(label: str = "") -> Iterator[None]:
    """Log an error of the pipeline in the block, and turn it into a failure, about `label` or the error's own source.

    Dagster shows a Failure as it is; for any other error, the run's page first says in which op it occurred.

    Raises:
        dagster.RetryRequested: the step can be executed again.
        LoggedFailure: for every other PipelineError.
    """
    try:
        yield
    except PipelineError as error:
        retry_if_possible(error)
        # From None: the message is complete, and Dagster would show the stack trace of a cause as well.
        raise logged_failure(error.describe(label)) from None


def logged_failure(text: str) -> LoggedFailure:
    """Log `text` in the current step, and return the failure that ends it."""
    dg.OpExecutionContext.get().log.error(text)
    return LoggedFailure(text, allow_retries=False)


def retry_if_possible(error: PipelineError) -> None:
    """Let Dagster execute the current step again, with a new connection, if that may succeed after the error.

    Raises:
        dagster.RetryRequested: it may, and there are retries left.
    """
    if not isinstance(error, (RetryableError, DatabaseUnusableError)):
        return
    number = dg.OpExecutionContext.get().retry_number
    # A first connection that fails is a wrong setting: report it at once. A later one may hit a server that is still restarting.
    if number < RETRIES and (number > 0 or isinstance(error, RetryableError)):
        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=FIRST_WAIT_SECONDS * 2**number) from error
