"""Which steps Dagster executes again within their run: those that lost the connection to the lake's catalogue.

Not whole runs: those of `dagster job backfill` are not retried. A step can be repeated at any time, as months that have been
loaded are left alone.
"""

import dagster as dg

from dagster_essentials.errors import ConnectionLostError, DatabaseUnusableError, PipelineError

RETRIES = 6
FIRST_WAIT_SECONDS = 2
"""Before the first retry, and twice as long before each further one. PostgreSQL restarts within seconds; a failover to another
machine takes a minute or two, which is the sum of all."""


def retry_if_connection_lost(error: PipelineError) -> None:
    """Let Dagster execute the current step again, with a new connection, if the error is that the connection was lost.

    Raises:
        dagster.RetryRequested: it was, and there are retries left.
    """
    if not isinstance(error, (ConnectionLostError, DatabaseUnusableError)):
        return
    number = dg.OpExecutionContext.get().retry_number
    # Whoever cannot connect at first has to be told at once; after a lost connection, the server may not be back yet.
    if number < RETRIES and (number > 0 or isinstance(error, ConnectionLostError)):
        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=FIRST_WAIT_SECONDS * 2**number) from error
