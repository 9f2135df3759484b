"""A source on this machine: serves sample months over HTTP, and misbehaves on demand."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


class SourceServer:
    """Serves `files` (by path below the root) with ETag and Last-Modified, unless `answers` says otherwise.

    Attributes:
        files: content by path, for example ``/trip-data/yellow_tripdata_2023-01.parquet``.
        answers: for a path, what to do instead; each request takes the next one, the last one stays.
        requests: every request so far: method, path and the number of bytes of the body that was sent.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.stopping = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner._answer(self, body=True)

            def do_HEAD(self) -> None:
                owner._answer(self, body=False)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> "SourceServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def trips_url(self) -> str:
        return f"{self.url}/trip-data"

    @property
    def zones_url(self) -> str:
        return f"{self.url}/taxi_zones.csv"

    def put_month(self, month: str, content: bytes) -> str:
        """Publish `content` as the file of `month` (``YYYY-MM``); returns its path."""
        path = f"/trip-data/yellow_tripdata_{month}.parquet"
        self.files[path] = content
        return path

    def bytes_sent(self, path: str) -> int:
        return sum(size for _, requested, size in self.requests if requested == path)

    def _answer(self, handler: BaseHTTPRequestHandler, body: bool) -> None:
        answers = self.answers.get(handler.path)
        if answers:
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            self.requests.append((handler.command, handler.path, 0))
            answer(handler)
            return
        content = self.files.get(handler.path)
        if content is None:
            self.requests.append((handler.command, handler.path, 0))
            status(403, b"<Error><Code>AccessDenied</Code></Error>")(handler)
            return
        etag = f'"{hash(content) & 0xFFFFFFFFFF:x}"'
        if handler.headers.get("If-None-Match") == etag:
            self.requests.append((handler.command, handler.path, 0))
            handler.send_response(304)
            handler.send_header("ETag", etag)
            handler.end_headers()
            return
        self.requests.append((handler.command, handler.path, len(content) if body else 0))
        handler.send_response(200)
        handler.send_header("ETag", etag)
        handler.send_header("Last-Modified", "Mon, 20 Mar 2023 12:00:00 GMT")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if body:
            handler.wfile.write(content)


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
            import socket
            import struct

            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.close_connection = True
        handler.connection.close()

    return answer
