"""Receivers of alerts on this machine: a webhook and a mail server, which accept a message or do what a test chooses."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword

from dagster_essentials_tests.support.dagster_dev import free_port
from dagster_essentials_tests.support.source_server import Answer, LocalServer, status

SECRET = "hunter2"


class Webhook(LocalServer):
    """An HTTP server that keeps the JSON of each POST, and answers as a test chooses.

    Attributes:
        path: where it listens. It contains `SECRET`, as those of chat services do.
        messages: what was posted to `path`.
        requests: method and path of every request.
        answer: what it answers; 200 at first.
    """

    path = f"/services/T0/{SECRET}"

    def __init__(self, certificate: Path | None = None) -> None:
        self.messages: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.answer: Answer = status(200, b"ok")
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner.requests.append((self.command, self.path))
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.command == "POST" and self.path == owner.path:
                    assert self.headers["Content-Type"] == "application/json"
                    owner.messages.append(json.loads(body))
                owner.answer(self)

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(Handler, certificate)

    @property
    def url(self) -> str:
        return super().url + self.path

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer nothing for a minute."""
        self.stopping.wait(60)

    def drip(self, handler: BaseHTTPRequestHandler) -> None:
        """Send a byte of the headers now and then, so that no time-out of a socket ever ends it."""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not self.stopping.wait(0.05):
            handler.wfile.write(b"x")


class MailServer:
    """An SMTP server that keeps the messages it accepts.

    Attributes:
        messages: what it has accepted, with the recipients.
        logins: the passwords of all attempts to log in, and whether the connection was encrypted.
        refused: recipients for which it accepts nothing.
        data_answer: what it answers to a message.
    """

    def __init__(
        self, certificate: Path | None = None, starttls: bool = False, auth: bool = False, auth_needs_tls: bool = False
    ) -> None:
        self.messages: list[tuple[EmailMessage, list[str]]] = []
        self.logins: list[tuple[str, bool]] = []
        self.refused: set[str] = set()
        self.data_answer = "250 OK"
        context = None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
        self.port = free_port()
        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            ssl_context=None if starttls else context,
            tls_context=context if starttls else None,
            authenticator=self._authenticate if auth else None,
            auth_required=auth,
            # Without TLS, a server that needs it does not offer a log-in.
            auth_require_tls=auth_needs_tls or not auth,
        )

    def __enter__(self) -> "MailServer":
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    def _authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, login: Any) -> AuthResult:
        assert isinstance(login, LoginPassword)
        encrypted = session.ssl is not None or server.transport.get_extra_info("ssl_object") is not None
        self.logins.append((login.password.decode(), encrypted))
        # A server that repeats in its answer what it was sent.
        message = f"535 5.7.8 {login.password.decode()} is wrong"
        success = login.password.decode() == SECRET
        return AuthResult(success=success, handled=False, message=None if success else message)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: Any, session: Any, envelope: Envelope, address: str, options: Any
    ) -> str:
        if address in self.refused:
            return f"550 5.1.1 {address}: no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:  # noqa: N802
        if self.data_answer.startswith("250"):
            content = envelope.content
            assert isinstance(content, bytes)
            self.messages.append((message_from_bytes(content, policy=policy.default), list(envelope.rcpt_tos)))
        return self.data_answer


@contextmanager
def silent_server(greeting: bytes = b"") -> Iterator[int]:
    """The port of a server that sends `greeting` and then nothing more, without closing the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connections.append(connection)
                connection.sendall(greeting)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        for connection in connections:
            connection.close()
