"""The meaning of an HTTP answer: the file, no such file, a request that is refused, or a page of a CDN or firewall.

Object stores, CDNs and firewalls all use the status 403: only the headers and the beginning of the body tell which it is.
"""

import re
from html import unescape
from urllib.parse import urlsplit

import requests

from dagster_essentials.errors import DownloadError, NotPublishedError
from dagster_essentials.ingestion.http_requests import TransientError, redact

BODY_BYTES = 4096
"""Of an answer that is not the file, for what it says."""

_TOO_MANY = ("SlowDown", "ServerBusy", "RequestLimitExceeded", "TooManyRequests", "Throttling", "ThrottlingException")
"""Error codes of object stores."""
_IS_BLOCKED = re.compile("blocked|captcha|firewall|rate limit|too many requests|unusual traffic", re.IGNORECASE)
_OF_CREDENTIALS = re.compile("expired|signature|credential|authenticat|access token|api[ -]?key|log ?in", re.IGNORECASE)

_REFUSED = (
    "A CDN or a firewall may block this machine, or it has asked too often: materialize again later, or open the address in a "
    "browser to see more."
)


def raise_for_status(response: requests.Response, if_not_published: str = "") -> None:
    """Accept 200 and 304.

    Raises:
        NotPublishedError: the source does not have the file; the message ends with `if_not_published`.
        TransientError: 429, 5xx, or a page that blocks or throttles this machine, with the Retry-After of the source.
        DownloadError: any other answer, such as one to a token that has expired.
    """
    status, headers = response.status_code, response.headers
    if status in (200, 304):
        return
    answer = f"the source answered {status} {response.reason}"
    retry_after = headers.get("Retry-After", "")
    seconds = float(retry_after) if retry_after.isdecimal() else 0.0
    if status == 429 or status >= 500:
        raise TransientError(answer, seconds)
    body = beginning(response)
    code, text = _error_code(response, body), _text(response, body)
    said = f"{answer}, and says {text!r}" if text else answer
    # AWS and Cloudflare mark the pages that ask whether a person is there; they have various statuses.
    is_later = any(name in headers for name in ("Retry-After", "x-amzn-waf-action", "cf-mitigated"))
    if is_later or code in _TOO_MANY or (status == 404 and not code and _IS_BLOCKED.search(text)):
        raise TransientError(said, seconds, _REFUSED)
    if status == 404 and not re.search("Bucket|Container|Account", code):
        raise NotPublishedError(f"not published (the source answered {status}). {if_not_published}")
    if status == 403 and not _is_about_credentials(response, body, text):
        # S3 denies access to an object that is missing, if the bucket must not be listed.
        if code == "AccessDenied" or not (body or code or is_page(response)):
            raise NotPublishedError(f"not published (the source answered {status}). {if_not_published}")
        if not code:
            raise TransientError(said, seconds, _REFUSED)
    raise DownloadError(
        f"{said}. Check the address in the settings; if it has a token or a signature, that may have expired. Then materialize "
        "again."
    )


def raise_for_page(response: requests.Response) -> None:
    """Refuse an answer with the status 200 if it is a web page or an error message, as of a firewall or a login.

    Raises:
        DownloadError: it is.
    """
    body = beginning(response)
    if body.lstrip().startswith((b"<", b"{")):
        raise DownloadError(
            f"the source answered with a page instead of the file ({_text(response, body)!r}). Open the address in a browser "
            "to see what it is."
        )


def is_page(response: requests.Response) -> bool:
    """True if an answer is called a web page or an error message by its headers. Some sources call every file so."""
    return bool(
        re.match(r"text/html|application/(xhtml|xml|json|problem)|text/xml", response.headers.get("Content-Type", ""))
    )


def beginning(response: requests.Response) -> bytes:
    """The first bytes of the body."""
    return next(response.iter_content(BODY_BYTES), b"")


def _is_about_credentials(response: requests.Response, body: bytes, text: str) -> bool:
    """True if a 403 is because of a password or token, not because of the file."""
    if _OF_CREDENTIALS.search(text) or "WWW-Authenticate" in response.headers:
        return True
    first = (response.history or [response])[0].request
    has_credentials = "Authorization" in first.headers or bool(urlsplit(first.url or "").query)
    # S3 numbers its answers, and lets an address with a token see what is missing. Others look at the token only.
    return has_credentials and (not body or (b"<Code>" in body and b"<RequestId>" not in body))


def _error_code(response: requests.Response, body: bytes) -> str:
    """The error code of an object store, or an empty text: S3 and Google have it in the body, Azure also in a header."""
    found = re.search(rb"<Error>.*?<Code>(\w+)</Code>", body, re.DOTALL)
    return found[1].decode() if found else response.headers.get("x-ms-error-code", "")


def _text(response: requests.Response, body: bytes) -> str:
    """The text that a person would read of the answer first, in at most 100 characters, without the secrets of the address."""
    text = body.decode(errors="replace")
    code, message, title = (
        re.search(rf"<{name}\b[^>]*>(.*?)</{name}>", text, re.DOTALL | re.IGNORECASE)
        for name in ("Code", "Message", "title")
    )
    if code:
        text = f"{code[1]}: {message[1]}" if message else code[1]
    elif title:
        text = title[1]
    read = " ".join(unescape(re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL)).split())
    text = read or text.strip()
    for each in (*response.history, response):
        text = redact(text, each.url)
    return text[:100]
