"""A local HTTP server in the place of the source: it serves sample months, or the answers that a test chooses."""

import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

Answer = Callable[[BaseHTTPRequestHandler], None]

LAST_MODIFIED = "Mon, 20 Mar 2023 12:00:00 GMT"


_Server = TypeVar("_Server", bound="LocalServer")


class LocalServer:
    """An HTTP server on this machine, with an answer for each request from `handler`; stopped at the end of the block.

    Attributes:
        stopping: set when it is stopped, for answers that take their time.
    """

    def __init__(self, handler: type[BaseHTTPRequestHandler], certificate: Path | None = None) -> None:
        """With `certificate`, a file with a certificate and its key, it uses https."""
        self.stopping = threading.Event()
        self._server = _QuietServer(("127.0.0.1", 0), handler)
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"

    def __enter__(self: _Server) -> _Server:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"


class SourceServer(LocalServer):
    """Serves `files` (by path below the root) with ETag and Last-Modified, unless `answers` says otherwise.

    Attributes:
        files: content by path, for example ``/trip-data/yellow_tripdata_2023-01.parquet``.
        answers: by path, the answers to send instead, one per request; the last one is repeated.
        validators: which of ETag and Last-Modified are sent, and respected in a request.
        modified: Last-Modified by path; `LAST_MODIFIED` for all others.
        requests: every request so far: method, path and the number of bytes of the body that was sent.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, list[Answer]] = {}
        self.validators: tuple[str, ...] = ("ETag", "Last-Modified")
        self.modified: dict[str, str] = {}
        self.requests: list[tuple[str, str, int]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner._answer(self)

            def do_HEAD(self) -> None:
                owner._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(Handler, certificate)

    @property
    def trips_url(self) -> str:
        return f"{self.url}/trip-data"

    @property
    def zones_url(self) -> str:
        return f"{self.url}/taxi_zones.csv"

    def put_month(self, month: str, content: bytes, fleet: str = "yellow") -> str:
        """Publish `content` as the file of `month` (``YYYY-MM``); returns its path."""
        path = f"/trip-data/{fleet}_tripdata_{month}.parquet"
        self.files[path] = content
        return path

    def requested(self, path: str) -> int:
        """The number of requests for `path`."""
        return sum(requested == path for _, requested, _ in self.requests)

    def bytes_sent(self, path: str) -> int:
        return sum(size for _, requested, size in self.requests if requested == path)

    def published(self, handler: BaseHTTPRequestHandler) -> None:
        """The correct answer: what `files` has, or 403 as the TLC's server."""
        content = self.files.get(handler.path)
        if content is None:
            self.requests.append((handler.command, handler.path, 0))
            status(403, b"<Error><Code>AccessDenied</Code></Error>")(handler)
            return
        known = {
            "ETag": f'"{hash(content) & 0xFFFFFFFFFF:x}"',
            "Last-Modified": self.modified.get(handler.path, LAST_MODIFIED),
        }
        known = {name: value for name, value in known.items() if name in self.validators}
        # RFC 9110: the date counts only in a request without an ETag.
        asked = {
            "ETag": handler.headers.get("If-None-Match"),
            "Last-Modified": handler.headers.get("If-Modified-Since"),
        }
        compared = next((name for name in known if asked[name] is not None), None)
        unchanged = compared is not None and asked[compared] == known[compared]
        body = b"" if unchanged or handler.command == "HEAD" else content
        self.requests.append((handler.command, handler.path, len(body)))
        handler.send_response(304 if unchanged else 200)
        for name, value in known.items():
            handler.send_header(name, value)
        if not unchanged:
            handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(body)

    def stalled(self, content: bytes, after: int | None = None, seconds: float = 10) -> Answer:
        """Send `after` bytes of `content` (not even the headers if it is None), and nothing more for `seconds`."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            if after is None and self.stopping.wait(seconds):
                return
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content[: after or 0])
            handler.wfile.flush()
            if after is not None and self.stopping.wait(seconds):
                return
            handler.wfile.write(content[after or 0 :])

        return answer

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        answers = self.answers.get(handler.path)
        if not answers:
            self.published(handler)
            return
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer != self.published:
            self.requests.append((handler.command, handler.path, 0))
        answer(handler)


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    # By default five connections may wait to be accepted. The system ignores further ones at first, and eight questions at a
    # time then took 0.4 s instead of 0.02 s.
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Many tests are about clients that close the connection.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    """Answer with the status `code`; underscores in the names of `headers` stand for hyphens."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return answer


def cut_off(content: bytes, after: int, reset: bool = False) -> Answer:
    """Promise all of `content`, send `after` bytes of it, and close the connection (or reset it)."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:after])
        handler.wfile.flush()
        if reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.close_connection = True
        handler.connection.close()

    return answer
