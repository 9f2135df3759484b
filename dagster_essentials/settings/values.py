"""For several settings: the error, paths, and addresses that may contain a password."""

from pathlib import Path
from urllib.parse import SplitResult, urlsplit

PROJECT_ROOT = Path(__file__).resolve().parents[2]
"""Relative paths in settings start here, so that every process finds the same files from any working directory."""


class SettingError(ValueError):
    """A setting that cannot be used. The message names the variable, its value and what is valid."""


def read_path(name: str, text: str) -> Path:
    """The absolute path of `text`."""
    try:
        return PROJECT_ROOT / Path(text).expanduser()
    except RuntimeError as error:
        raise SettingError(f"{name}={text} is not a path: {error}") from None


def read_url(shown: str, text: str, schemes: tuple[str, ...], start: str) -> SplitResult:
    """The parts of the URL `text`, which has one of the `schemes`; it is called `shown` in errors."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise SettingError(f"{shown} is not a URL: check its host and port. {IN_A_PASSWORD}") from None
    if parts.scheme not in schemes:
        raise SettingError(f"{shown} has to start with {start}.")
    if not (parts.path.startswith("/") if parts.scheme == "file" else parts.hostname):
        raise SettingError(f"{shown} has no {'absolute path' if parts.scheme == 'file' else 'host'}.")
    if parts.scheme != "file" and "@" in parts.path + parts.query + parts.fragment:
        raise SettingError(f"{shown} has an @ after its host. {IN_A_PASSWORD}")
    return parts


IN_A_PASSWORD = "In a password, write / as %2F, ? as %3F, # as %23 and @ as %40; anywhere else too, @ as %40."
