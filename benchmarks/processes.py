"""For all measurements: a server of sample months, processes that are timed, and a line for each result."""

import contextlib
import http.server
import multiprocessing
import os
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve `folder` over HTTP from a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(folder, port), daemon=True)
    process.start()
    try:
        wait_until(lambda: connects(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.join()


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


def _serve(folder: Path, port: int) -> None:
    os.chdir(folder)
    http.server.ThreadingHTTPServer(("127.0.0.1", port), _Handler).serve_forever()


def connects(port: int) -> bool:
    """True if something listens on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until `condition` is true, for so many seconds at most."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} was not true within {seconds} s")
        time.sleep(0.1)


class Usage(NamedTuple):
    """Seconds, peak memory in MB, and seconds of CPU time of a process; other work disturbs the latter less."""

    seconds: float
    peak: int
    cpu: float


def timed(command: list[str], **options: object) -> Usage:
    """Run `command` and return what it took."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]
    assert process.stderr is not None
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr))
    reader.start()
    _, status, usage = os.wait4(process.pid, 0)
    reader.join()
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{''.join(lines[-30:])}")
    return Usage(time.monotonic() - started, usage.ru_maxrss // 1024, usage.ru_utime + usage.ru_stime)


def show(what: str, seconds: float, note: str = "", decimals: int = 1) -> None:
    """Print what something took."""
    print(f"{what:52} {seconds:8.{decimals}f} s{note}", flush=True)


def report(what: str, seconds: float, reference: float, limit: float, note: str = "") -> None:
    """Print what something took, and its ratio to `reference` with the limit for it."""
    show(what, seconds, f" {seconds / reference:6.2f} x  (at most {limit} x){note}")


def show_usage(what: str, usage: Usage, note: str = "") -> None:
    """Print what a process took."""
    show(what, usage.seconds, f"  (CPU time {usage.cpu:.1f} s){note}")


def compare(what: str, ours: Sequence[Usage], reference: Sequence[Usage], limit: float, note: str = "") -> None:
    """Print the medians of `ours`, their ratio to those of `reference`, and the same ratio in CPU time."""
    (seconds, cpu), (other_seconds, other_cpu) = (
        (statistics.median(usage.seconds for usage in usages), statistics.median(usage.cpu for usage in usages))
        for usages in (ours, reference)
    )
    report(what, seconds, other_seconds, limit, f"; CPU time {cpu:.1f} s, {cpu / other_cpu:.2f} x{note}")
