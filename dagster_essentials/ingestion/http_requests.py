"""HTTP requests: redirects and certificates, which errors are transient, and what must not appear in a log."""

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests

from dagster_essentials.errors import DownloadError

TIMEOUT_SECONDS = (10.0, 20.0)
"""To connect, and between two chunks of an answer: the TLC's CDN sends a month of 50 MB in a few seconds."""


class TransientError(Exception):
    """The next attempt may succeed."""

    def __init__(self, message: str, retry_after_seconds: float = 0.0):
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


def redact_url(url: str) -> str:
    """`url` without user name, password and query, for logs and metadata."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return url
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class _Session(requests.Session):
    """Follows redirects, but not from https to http, where others could read and change the answer."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None and urlsplit(resp.url).scheme == "https":
            address = urljoin(resp.url, target)
            if urlsplit(address).scheme == "http":
                raise DownloadError(
                    f"the source redirects from https to {redact_url(address)}, which is not encrypted. Check whether the "
                    "address has moved, or set that one if it can be trusted."
                )
        return target


@contextmanager
def request(method: str, url: str, headers: dict[str, str]) -> Iterator[requests.Response]:
    """The response to one request, whose content is read in the block.

    Raises:
        TransientError: the source did not answer, or the connection failed.
        DownloadError: the address or the certificate is not valid.
    """
    # No compression: the length can be compared, and an answer cannot expand to gigabytes.
    headers = {"Accept-Encoding": "identity", **headers}
    try:
        try:
            with _Session() as session:
                response = session.request(method, url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS)
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, ValueError) as error:
            # Their messages, and those of their causes, contain the address with user name and password.
            raise DownloadError(f"cannot be requested ({_redact(_text(error), url)}). Check the address.") from None
        except OSError as error:
            if isinstance(error, requests.exceptions.RequestException):
                raise
            raise DownloadError(f"cannot be requested ({error}). Check REQUESTS_CA_BUNDLE.") from None
        with response:
            yield response
    except requests.exceptions.Timeout as error:
        raise TransientError(f"no answer for {TIMEOUT_SECONDS[1]:.0f} seconds") from error
    except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        text = _redact(_text(error), url)
        if isinstance(root_cause(error), ssl.SSLCertVerificationError):
            raise DownloadError(
                f"the certificate of the source could not be verified ({text}). Check the address, and the clock of this "
                "machine. If the certificate is issued by an authority of your own, set REQUESTS_CA_BUNDLE to the file with "
                "that authority's certificate, and materialize again."
            ) from None
        raise TransientError(f"the connection failed ({text})") from None
    except requests.exceptions.RequestException as error:
        raise DownloadError(f"cannot be read ({_redact(_text(error), url)}). Check the address.") from None


def raise_for_status(response: requests.Response) -> None:
    """Accept 200 and 304.

    Raises:
        TransientError: 429 or 5xx, with the Retry-After of the source.
        DownloadError: any other status.
    """
    status = response.status_code
    if status == 429 or status >= 500:
        retry_after = response.headers.get("Retry-After", "")
        seconds = float(retry_after) if retry_after.isdecimal() else 0.0
        raise TransientError(f"the source answered {status} {response.reason}", seconds)
    if status not in (200, 304):
        raise DownloadError(f"the source answered {status} {response.reason}. Check the address in the settings.")


def _redact(text: str, url: str) -> str:
    """`text`, of an error of the request for `url`, without user names, passwords and queries of any address in it."""
    text = text.replace(url, redact_url(url)).replace("".join(urlsplit(url).netloc.rpartition("@")[:2]) or "\0", "")
    # A redirect may have led to an address with a password of its own.
    return re.sub(r"\?[^\s'\"]*", "", re.sub(r"//\S*@", "//", text))


def root_cause(error: BaseException) -> BaseException:
    """The innermost cause, which has the clearest message, for example "Connection refused"."""
    while (cause := getattr(error, "reason", None) or error.__cause__ or error.__context__) is not None:
        if not isinstance(cause, BaseException):
            break
        error = cause
    return error


def _text(error: BaseException) -> str:
    error = root_cause(error)
    # The message is `verify_message` in OpenSSL's errors, and `strerror` in the system's.
    text = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)
    return str(text or type(error).__name__).rstrip(".")
