"""The files of a project whose data folder is on S3: fetched before they are read, uploaded before they count as written.

The data folder of the process is then on its own disk, and what is in it may be missing or old. Without S3, there is nothing
to do. An object appears when all of it is uploaded, and not at all if the process is killed before.
"""

import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dagster_essentials import settings
from dagster_essentials.errors import DownloadError, WriteError

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem

CHUNK_BYTES = 8 << 20
_TIMEOUT_SECONDS = 10
_ATTEMPTS = 3


def location(path: Path | str) -> str:
    """Where the file at `path` really is, for people: its address on S3, or its path."""
    if settings.SETTINGS.remote is None:
        return str(path)
    return f"{settings.SETTINGS.remote.url}/{Path(path).relative_to(settings.SETTINGS.data_dir).as_posix()}"


def fetch(*paths: Path) -> bool:
    """Make the files at `paths` what they are on S3, whole or missing; returns whether the data folder is on S3.

    Raises:
        DownloadError: S3 does not answer, or refuses.
    """
    if settings.SETTINGS.remote is None:
        return False
    prepare_folder()
    for path in paths:
        try:
            _fetch(path)
        except OSError as error:
            raise _unreadable(path, error) from None
    return True


def fetch_folder(folder: Path) -> None:
    """Make `folder` what it is on S3, without its subfolders.

    Raises:
        DownloadError: S3 does not answer, or refuses.
    """
    if settings.SETTINGS.remote is None:
        return
    from pyarrow.fs import FileSelector

    prepare_folder()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        found = _file_system().get_file_info(FileSelector(_key(folder), allow_not_found=True))
    except OSError as error:
        raise _unreadable(folder, error) from None
    names = {Path(info.path).name for info in found if info.is_file}
    fetch(*(folder / name for name in names | {path.name for path in folder.iterdir() if path.is_file()}))


def forget(path: Path) -> None:
    """Free the disk space of a large file that has been read, if S3 has it."""
    if settings.SETTINGS.remote is not None:
        path.unlink(missing_ok=True)


def upload(file: Path, path: Path) -> None:
    """Upload the complete `file`, which is to be at `path`.

    Raises:
        WriteError: it could not be uploaded. What S3 had before is unchanged.
    """
    if settings.SETTINGS.remote is None:
        return
    try:
        # In a thread, because signals interrupt the main one only: after an exception, pyarrow closes the stream, and what has
        # been uploaded until then becomes the object. When a run is cancelled, this waits until all of it is uploaded.
        with ThreadPoolExecutor(max_workers=1) as pool:
            pool.submit(_upload, file, path).result()
    except OSError as error:
        raise WriteError(
            f"{location(path)} could not be written ({_reason(error)}). What was there before is unchanged. Check "
            "TAXI_DATA_DIR, AWS_ENDPOINT_URL and the keys, which have to allow it, and materialize again."
        ) from None


def _upload(file: Path, path: Path) -> None:
    import pyarrow as pa

    with pa.memory_map(str(file)) as content, _file_system().open_output_stream(_key(path)) as target:
        target.write(content.read_buffer())


def _fetch(path: Path) -> None:
    info = _file_system().get_file_info(_key(path))
    if not info.is_file:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.fetched")
    try:
        with _file_system().open_input_stream(_key(path)) as content, open(temporary, "xb") as file:
            while chunk := content.read(CHUNK_BYTES):
                file.write(chunk)
        os.utime(temporary, ns=(info.mtime_ns, info.mtime_ns))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def _file_system() -> "S3FileSystem":
    # 0.3 s, for those who need it.
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    assert settings.SETTINGS.remote is not None
    store = settings.SETTINGS.remote.store
    scheme, _, host = (store.endpoint or "https://").partition("://")
    return S3FileSystem(
        access_key=store.key_id,
        secret_key=store.secret_key,
        session_token=store.session_token,
        region=store.region,
        scheme=scheme,
        endpoint_override=host or None,
        connect_timeout=_TIMEOUT_SECONDS,
        request_timeout=_TIMEOUT_SECONDS,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    )


def prepare_folder() -> None:
    """Create the folder on this disk for what is on S3, for this user only.

    Raises:
        WriteError: it is another user's, who could change the files in it.
    """
    if settings.SETTINGS.remote is None:
        return
    folder = settings.SETTINGS.data_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise WriteError(
            f"{folder}, where files from S3 go for a while, is another user's. Set TMPDIR to a folder of yours."
        )


def _key(path: Path) -> str:
    return location(path).removeprefix("s3://")


def _unreadable(path: Path, error: OSError) -> DownloadError:
    return DownloadError(
        f"{location(path)} could not be read ({_reason(error)}). Check TAXI_DATA_DIR, AWS_ENDPOINT_URL and the keys, and that "
        "the bucket exists; then materialize again."
    )


def _reason(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split())[:300]
