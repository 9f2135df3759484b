"""The sensor of ad-hoc requests. Which files are requests is decided in `reports/request_files.py`."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import dagster as dg

from dagster_essentials import settings
from dagster_essentials.assets.requests import AdhocRequestConfig
from dagster_essentials.errors import PipelineError
from dagster_essentials.jobs import adhoc_request_job
from dagster_essentials.reports.request_files import request_files
from dagster_essentials.reports.requests import RequestError


@dg.sensor(
    name="adhoc_request_sensor",
    job=adhoc_request_job,
    description="Answers the request of each JSON file in data/requests, when the file is new and when it has changed.",
)
def adhoc_request_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One run for each new or changed request; files that are not requests are named in the tick."""
    folder = settings.SETTINGS.data_dir / "requests"
    try:
        files = list(request_files(folder, settings.SETTINGS.files))
    except PipelineError as error:
        return dg.SensorResult(skip_reason=error.describe())
    except OSError as error:
        return dg.SensorResult(
            skip_reason=f"{folder} cannot be read ({error.strerror}). A request is a JSON file in it."
        )
    seen = _seen(context.cursor)
    run_requests, invalid = [], []
    for file in files:
        is_new = seen.get(file.name) != file.content
        if isinstance(file.request, RequestError):
            invalid.append(f"{file.name}: {file.request}")
            if is_new:
                context.log.warning(f"Not a request: {invalid[-1]}. Fix the file; it is read again when it changes.")
        elif is_new:
            run_requests.append(
                dg.RunRequest(
                    # With the time, so that a file that is changed and changed back is answered again; with the
                    # content, because the clock may be too coarse to distinguish two changes.
                    run_key=f"{file.name}:{file.changed}:{file.content[:16]}",
                    run_config=dg.RunConfig(ops={"adhoc_request": AdhocRequestConfig(**asdict(file.request))}),
                    tags={"taxi/request": file.name},
                )
            )
    reason = None
    if not run_requests:
        reason = "; ".join([f"No new request in {folder}", *(f"not a request: {text}" for text in invalid)]) + "."
    return dg.SensorResult(
        run_requests=run_requests,
        skip_reason=reason,
        cursor=json.dumps({file.name: file.content for file in files}),
    )


def _seen(cursor: str | None) -> Mapping[str, Any]:
    """The hashes of the last tick by file name; empty if the cursor cannot be read. The course's sensor stored times."""
    try:
        seen = json.loads(cursor or "{}")
    except ValueError:  # Set by hand, in the UI.
        seen = {}
    return seen if isinstance(seen, dict) else {}
