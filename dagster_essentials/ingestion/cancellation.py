"""Ending work when a run is cancelled.

The signal raises an exception in the main thread, and there only between two steps of Python: a query, an upload or a download
in another thread goes on.
"""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from math import inf
from threading import Event, Thread
from time import monotonic
from typing import TypeVar

POLL_SECONDS = 0.1

T = TypeVar("T")


def start_thread(function: Callable[..., T], *arguments: object) -> "Future[T]":
    """Call `function` in a thread for which the process does not wait at its end. That of a pool would keep it alive."""
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    Thread(target=call, daemon=True).start()
    return future


def interrupt_until_done(
    futures: Collection["Future[T]"], interrupt: Callable[[], object], seconds: float = inf
) -> None:
    """Call `interrupt` again and again until the `futures` are done, for `seconds` at most.

    Once is not enough: DuckDB ignores an interruption that comes before a statement has begun.
    """
    deadline = monotonic() + seconds
    while wait(futures, 0).not_done and monotonic() < deadline:
        interrupt()
        wait(futures, POLL_SECONDS)


class CancelledError(Exception):
    """The run was cancelled: nobody waits for the result."""


class Cancellation:
    """Whether a run was cancelled, for the threads that work for it."""

    def __init__(self) -> None:
        self._event = Event()
        self._interrupts: list[Callable[[], object]] = []

    def cancel(self) -> None:
        """Interrupt what is going on, and let nothing more begin."""
        self._event.set()
        for interrupt in [*self._interrupts]:
            # What it interrupts may just have ended.
            with suppress(Exception):
                interrupt()

    def check(self) -> None:
        """Go on unless the run was cancelled.

        Raises:
            CancelledError: it was.
        """
        if self._event.is_set():
            raise CancelledError

    def sleep(self, seconds: float) -> None:
        """Wait. See `check`."""
        self._event.wait(seconds)
        self.check()

    @contextmanager
    def interrupting(self, interrupt: Callable[[], object]) -> Iterator[None]:
        """If the run is cancelled during the block, call `interrupt`, which lets a call that blocks end. See `check`."""
        self._interrupts.append(interrupt)
        try:
            self.check()
            yield
            # It may have ended early without an error.
            self.check()
        finally:
            self._interrupts.remove(interrupt)

    def result(self, future: "Future[T]") -> T:
        """Wait for the result of `future`. See `check`."""
        while not wait([future], POLL_SECONDS).done:
            self.check()
        return future.result()


NEVER = Cancellation()
"""For work in the main thread, where the signal itself ends it."""
