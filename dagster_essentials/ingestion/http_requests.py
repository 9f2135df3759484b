"""HTTP requests: redirects and certificates, which errors are transient, and what must not appear in a log."""

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qsl, urljoin, urlsplit, urlunsplit

import requests

from dagster_essentials.errors import DownloadError

TIMEOUT_SECONDS = (10.0, 20.0)
"""To connect, and between two chunks of an answer: the TLC's CDN sends a month of 50 MB in a few seconds."""


class TransientError(Exception):
    """The next attempt may succeed, after `retry_after_seconds`. If it does not, `advice` says what to do, where it is known."""

    def __init__(self, message: str, retry_after_seconds: float = 0.0, advice: str = ""):
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.advice = advice


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
            raise DownloadError(f"cannot be requested ({redact(_text(error), url)}). Check the address.") from None
        except OSError as error:
            if isinstance(error, requests.exceptions.RequestException):
                raise
            raise DownloadError(f"cannot be requested ({error}). Check REQUESTS_CA_BUNDLE.") from None
        with response:
            yield response
    except requests.exceptions.Timeout as error:
        raise TransientError(f"no answer for {TIMEOUT_SECONDS[1]:.0f} seconds") from error
    except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        text = redact(_text(error), url)
        if isinstance(root_cause(error), ssl.SSLCertVerificationError):
            raise DownloadError(
                f"the certificate of the source could not be verified ({text}). Check the address, and the clock of this "
                "machine. If the certificate is issued by an authority of your own, set REQUESTS_CA_BUNDLE to the file with "
                "that authority's certificate, and materialize again."
            ) from None
        raise TransientError(f"the connection failed ({text})") from None
    except requests.exceptions.RequestException as error:
        raise DownloadError(f"cannot be read ({redact(_text(error), url)}). Check the address.") from None


def redact(text: str, url: str) -> str:
    """`text`, about a request for `url`, without its password and token, and without those of any address in the text."""
    parts = urlsplit(url)
    text = text.replace(url, redact_url(url)).replace("".join(parts.netloc.rpartition("@")[:2]) or "\0", "")
    # Short values, such as a version, are no secrets.
    for secret in [parts.password or "", parts.query, *(value for _, value in parse_qsl(parts.query))]:
        if len(secret) > 5:
            text = text.replace(secret, "...")
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
