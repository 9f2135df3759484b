"""Reads the files in the requests folder: those that are requests, and the problems of the others."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from dagster_essentials.ingestion.data_folder import DataFolder
from dagster_essentials.reports.requests import Request, RequestError

MAX_REQUEST_BYTES = 10_000
"""A request has four short lines; a larger file is something else, and is not read."""

_KEYS = ("borough", "end_date", "start_date")


@dataclass(frozen=True)
class RequestFile:
    """A file in the requests folder: its request, or why it is not one.

    Attributes:
        name: as text; bytes that are not UTF-8 are escaped.
        content: a hash of its bytes.
        changed: when the file was last changed in any way, in nanoseconds since 1970.
    """

    name: str
    content: str
    changed: int
    request: Request | RequestError


def read_request(filename: str, text: bytes) -> Request:
    """The request in the file `filename` with the content `text`.

    Raises:
        RequestError: it is not JSON, lacks a key or has another one, or has a value that cannot be used.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not JSON, or not complete yet: {error}") from None
    if not isinstance(values, dict):
        raise RequestError("not a JSON object with the keys start_date, end_date and borough")
    problems = [f"{key} is missing" for key in _KEYS if key not in values]
    problems += [f"{key[:40]!r} is not a key of a request" for key in sorted(set(values) - set(_KEYS))]
    problems += [
        f"{key} has to be text in quotes" for key in _KEYS if key in values and not isinstance(values[key], str)
    ]
    if problems:
        raise RequestError("; ".join(problems))
    return Request(filename, **values)


def request_files(folder: Path, files: DataFolder) -> Iterator[RequestFile]:
    """The JSON files in `folder` of `files` that are not hidden, in the order of their names.

    Raises:
        OSError: there is no such folder, or it cannot be read.
        DownloadError: it is on S3, and cannot be read there.
    """
    files.fetch_folder(folder)
    for path in sorted(folder.iterdir()):
        try:
            # Editors and copying programs keep an incomplete file under a name with a leading dot.
            if path.suffix != ".json" or path.name.startswith(".") or not path.is_file():
                continue
            status = path.stat()
            text = b""
            request: Request | RequestError
            try:
                if status.st_size > MAX_REQUEST_BYTES:
                    raise RequestError(f"it has {status.st_size:,} bytes; a request has at most {MAX_REQUEST_BYTES:,}")
                text = path.read_bytes()
                request = read_request(path.name, text)
            except RequestError as error:
                request = error
            except PermissionError:
                request = RequestError("this user may not read it")
        except OSError:
            continue  # Removed or replaced meanwhile: the next tick reads it.
        name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
        yield RequestFile(name, sha256(text).hexdigest(), files.changed_ns(status), request)
