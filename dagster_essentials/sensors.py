"""When a request is drawn: as soon as its file is new, or says something else.

What a request may say is decided in `assets/requests.py`.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import ValidationError

from dagster_essentials.assets.requests import AdhocRequestConfig
from dagster_essentials.jobs import adhoc_request_job
from dagster_essentials.settings import SETTINGS

LARGEST_REQUEST = 10_000
"""Bytes. A request has four short lines; what is larger is something else, and is not read."""


class RequestError(ValueError):
    """A file is not a request. The message says why."""


@dataclass(frozen=True)
class RequestFile:
    """A file in the requests folder: what it says, or why it is not a request.

    Attributes:
        name: as it can be shown and stored, whatever bytes it is made of.
        content: a hash of its bytes.
        changed: when the file was last changed in any way, in nanoseconds since 1970.
    """

    name: str
    content: str
    changed: int
    request: AdhocRequestConfig | RequestError


def read_request(filename: str, text: bytes) -> AdhocRequestConfig:
    """The request that the file `filename` with the content `text` makes.

    Raises:
        RequestError: it is not JSON, lacks a key or has another one, or has a value that cannot be used.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not JSON, or not all of it is there yet: {error}") from None
    if not isinstance(values, dict):
        raise RequestError("not a JSON object with the keys start_date, end_date and borough")
    expected = set(AdhocRequestConfig.model_fields) - {"filename"}
    problems = [f"{key} is missing" for key in sorted(expected - set(values))]
    problems += [f"{key[:40]!r} is not a key of a request" for key in sorted(set(values) - expected)]
    problems += [
        f"{key} has to be text in quotes" for key in sorted(expected & set(values)) if not isinstance(values[key], str)
    ]
    if problems:
        raise RequestError("; ".join(problems))
    try:
        return AdhocRequestConfig(filename=filename, **values)
    except ValidationError as error:
        reasons = [str(problem.get("ctx", {}).get("error") or problem["msg"]) for problem in error.errors()]
        raise RequestError("; ".join(reasons)) from None


def request_files(folder: Path) -> Iterator[RequestFile]:
    """The JSON files in `folder` that are not hidden, in the order of their names.

    Raises:
        OSError: there is no such folder, or it cannot be read.
    """
    for path in sorted(folder.iterdir()):
        try:
            # Editors and copying programs keep what is not finished under a name with a dot.
            if path.suffix != ".json" or path.name.startswith(".") or not path.is_file():
                continue
            status = path.stat()
            text = b""
            request: AdhocRequestConfig | RequestError
            try:
                if status.st_size > LARGEST_REQUEST:
                    raise RequestError(f"{status.st_size:,} bytes are too many for a request")
                text = path.read_bytes()
                request = read_request(path.name, text)
            except RequestError as error:
                request = error
            except PermissionError:
                request = RequestError("this user may not read it")
        except OSError:
            continue  # Gone, or another file already: the next tick sees what it is then.
        name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
        yield RequestFile(name, sha256(text).hexdigest(), status.st_ctime_ns, request)


@dg.sensor(
    name="adhoc_request_sensor",
    job=adhoc_request_job,
    description="Draws a request for each JSON file in data/requests, when it is new and when it has changed.",
)
def adhoc_request_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One run for each new or changed request; files that are not requests are told in the tick."""
    folder = SETTINGS.data_dir / "requests"
    try:
        files = list(request_files(folder))
    except OSError as error:
        return dg.SensorResult(
            skip_reason=f"{folder} cannot be read ({error.strerror}). A request is a JSON file in it."
        )
    seen = _seen(context.cursor)
    run_requests, wrong = [], []
    for file in files:
        is_new = seen.get(file.name) != file.content
        if isinstance(file.request, RequestError):
            wrong.append(f"{file.name}: {file.request}")
            if is_new:
                context.log.warning(
                    f"Not a request: {wrong[-1]}. Mend the file; it is looked at again when it changes."
                )
        elif is_new:
            run_requests.append(
                dg.RunRequest(
                    # The time is in it for a file that is changed and changed back: that is a run too. The content is in it
                    # because a clock may be too coarse to tell two changes apart.
                    run_key=f"{file.name}:{file.changed}:{file.content[:16]}",
                    run_config=dg.RunConfig(ops={"adhoc_request": file.request}),
                    tags={"taxi/request": file.name},
                )
            )
    reason = None
    if not run_requests:
        reason = "; ".join([f"No new request in {folder}", *(f"not a request: {text}" for text in wrong)]) + "."
    return dg.SensorResult(
        run_requests=run_requests,
        skip_reason=reason,
        cursor=json.dumps({file.name: file.content for file in files}),
    )


def _seen(cursor: str | None) -> Mapping[str, Any]:
    """What the last tick saw: the content's hash by the file's name. The course's sensor left times there: all is new."""
    try:
        seen = json.loads(cursor or "{}")
    except ValueError:  # Set by hand, in the UI.
        seen = {}
    return seen if isinstance(seen, dict) else {}
