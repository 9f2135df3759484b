"""The terminal: a failure is printed once there, without Dagster's stack traces if its reason is in the log already.

By itself, Dagster prints a failure as that of the step and again as that of the run, with a stack trace of 23 lines each time:
after a range of 40 months, 38 of them without a file, 177 lines instead of 49. The run's page has all of it.
"""

import logging

import dagster as dg

from dagster_essentials.orchestration.failures import LoggedFailure


class _ConsoleLogger(logging.getLoggerClass()):  # type: ignore[misc]  # mypy wants a base class that is known.
    """Prints the first line only of an event about a failure that was printed before."""

    def handle(self, record: logging.LogRecord) -> None:
        event: dg.DagsterEvent | None = getattr(record, "dagster_event", None)
        if event is not None and _was_printed(event):
            record.msg = str(record.msg).partition("\n")[0]
        super().handle(record)


def _was_printed(event: dg.DagsterEvent) -> bool:
    if event.is_step_failure:
        error = event.step_failure_data.error
        return error is not None and error.cls_name == LoggedFailure.__name__
    # The run failed because a step did. If it failed by itself, this is the only event that says why.
    return getattr(event.event_specific_data, "first_step_failure_event", None) is not None


def print_failures_once() -> None:
    """Let the loggers that Dagster makes from now on, one for each run, print a failure once."""
    # It has no setting for what its console logger prints.
    logging.setLoggerClass(_ConsoleLogger)
