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
    if parts.scheme == "file":
        _check_file_url(shown, parts)
    elif not parts.hostname:
        raise SettingError(f"{shown} has no host.")
    elif "@" in parts.path + parts.query + parts.fragment:
        raise SettingError(f"{shown} has an @ after its host. {IN_A_PASSWORD}")
    return parts


def _check_file_url(shown: str, parts: SplitResult) -> None:
    """Refuse what would be left out: in ``file://mirror/months``, the folder is ``/months``, and ``mirror`` a host."""
    host = parts.netloc.rpartition("@")[2]
    if host not in ("", "localhost"):
        raise SettingError(
            f"{shown} has the host {host}, and files are read from this machine only. Write the path of a file or folder after "
            "file://, from its first slash on; mount what another machine has, or use its http:// address."
        )
    if not parts.path.startswith("/"):
        raise SettingError(f"{shown} has no absolute path.")
    if parts.query or parts.fragment:
        raise SettingError(f"{shown} has a ? or a #, which are not part of the path. Write %3F and %23.")


IN_A_PASSWORD = "In a password, write / as %2F, ? as %3F, # as %23 and @ as %40; anywhere else too, @ as %40."
