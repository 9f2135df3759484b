"""A fault: something wrong or unusual with a file at the source, and the outcome that a run must have."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from random import Random

from dagster_essentials_tests.support.source_server import LAST_MODIFIED, Answer, SourceServer, status


class Outcome(Enum):
    """The outcome of a run over a fault."""

    REFUSED = "refused"
    """The run fails for this month with a message; the file and the rows are unchanged."""
    RECOVERS = "recovers"
    """A transient error: the run retries and then loads the good file."""
    LOADED = "loaded"
    """Unusual but valid: it is loaded as it is, perhaps with warnings."""


Responder = Callable[[bytes, Random], Answer]
"""Answers one request for a good file."""
Change = Callable[[bytes, Random], bytes]
"""Changes the content of a good file."""


@dataclass(frozen=True)
class Fault:
    """One entry of the catalogue.

    Attributes:
        name: short and unique.
        outcome: what a run must do about it.
        answers: the answers of a server to the requests for a file, given its good content; the last one is repeated.
        change: for a fault of the file itself, and for what is loaded: how its content differs from the good one.
        message: a regular expression for the cause in the error; empty where there is none.
        slow: whether a run has to wait for a timeout.
    """

    name: str
    outcome: Outcome
    answers: Callable[[SourceServer, bytes, Random], list[Answer]]
    change: Change | None = None
    message: str = ""
    slow: bool = False

    def file(self, good: bytes) -> bytes:
        """The content of the file, given the good one; always the same for the same `good`."""
        assert self.change is not None, f"{self.name} is an answer, not a file"
        return self.change(good, Random(good))


def refused_answer(name: str, message: str, respond: Responder) -> Fault:
    """The source answers every request like this."""
    return Fault(name, Outcome.REFUSED, lambda _, good, random: [respond(good, random)], message=message)


def transient_answer(name: str, *responders: Responder) -> Fault:
    """The source answers the first requests like this, and the next one correctly."""
    return Fault(
        name,
        Outcome.RECOVERS,
        lambda server, good, random: [*(respond(good, random) for respond in responders), server.published],
    )


def loaded_answer(name: str, respond: Responder) -> Fault:
    """The source sends the good file, complete, in an unusual way."""
    return Fault(name, Outcome.LOADED, lambda _, good, random: [respond(good, random)], unchanged)


def refused_file(name: str, message: str, change: Change) -> Fault:
    """The source has such a file, and serves it correctly."""
    return _file(name, Outcome.REFUSED, change, message)


def loaded_file(name: str, change: Change) -> Fault:
    """The source has such a file, serves it correctly, and it is a valid month."""
    return _file(name, Outcome.LOADED, change)


def _file(name: str, outcome: Outcome, change: Change, message: str = "") -> Fault:
    return Fault(name, outcome, lambda _, good, random: [serve(change(good, Random(good)))], change, message)


def unchanged(good: bytes, random: Random) -> bytes:
    return good


def serve(content: bytes) -> Answer:
    """Serve `content` correctly: with its length and an ETag, and with 304 to a client that has it."""
    etag = f'"{sha256(content).hexdigest()}"'

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("If-None-Match") == etag:
            status(304, ETag=etag)(handler)
        else:
            status(200, content, ETag=etag, Last_Modified=LAST_MODIFIED)(handler)

    return answer


def offset_within(content: bytes, random: Random) -> int:
    """An offset within `content`: neither its beginning nor its end."""
    return random.randrange(1, len(content) - 1)
