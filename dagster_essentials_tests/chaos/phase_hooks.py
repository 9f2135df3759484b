"""Breakpoints in the processes under test: injects a fault at the moment a run begins a phase of a load."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

Injection = Callable[[int, Callable[[], None]], None]
"""Called with the id of the process, which is paused at the beginning of the phase, and a function that resumes it."""


class PhaseHooks:
    """Listens on the socket `path` to the processes that `chaos/phases` reports from, each of which waits for an answer.

    Attributes:
        injected: set when the injection that was armed last has been made.
    """

    def __init__(self, path: Path):
        self.path = path
        self.injected = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._lock = threading.Lock()
        self._injecting = threading.Lock()
        self._phase: str | None = None
        self._remaining = 0
        self._inject: Injection | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def arm(self, phase: str, nth: int, inject: Injection) -> None:
        """Call `inject` when `phase` begins for the `nth` time from now."""
        with self._lock:
            self._phase, self._remaining, self._inject = phase, nth, inject
            self.injected.clear()

    def disarm(self) -> bool:
        """Inject nothing any more; returns whether it was injected. An injection in progress is waited for."""
        with self._lock:
            self._phase = self._inject = None
        with self._injecting:
            return self.injected.is_set()

    def _listen(self) -> None:
        while True:
            try:
                process, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=[process], daemon=True).start()

    def _answer(self, process: socket.socket) -> None:
        with process:
            phase, _, pid = process.recv(100).decode().strip().rpartition(" ")

            def resume() -> None:
                with suppress(OSError):
                    process.sendall(b".")

            inject = None
            with self._lock:
                if phase == self._phase:
                    self._remaining -= 1
                    if self._remaining == 0:
                        inject, self._phase = self._inject, None
                        self._injecting.acquire()
            if inject is None:
                resume()
                return
            try:
                inject(int(pid), resume)
                self.injected.set()
            finally:
                self._injecting.release()
