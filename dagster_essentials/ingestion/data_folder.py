"""The data folder: where files are kept, on this disk or on S3.

Its files have paths on this disk in either case. Of a folder on S3 these are copies: one is fetched before it is read, and
uploaded before it counts as written. An object appears when all of it is uploaded, and not at all if the process is killed
before.
"""

import os
import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dagster_essentials.errors import DownloadError, WriteError
from dagster_essentials.ingestion.cancellation import NEVER, Cancellation, start_thread

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem

CHUNK_BYTES = 8 << 20
_TIMEOUT_SECONDS = 10
_ATTEMPTS = 3


@dataclass(frozen=True)
class DataFolder:
    """The folder `path` on this disk, with nothing to fetch and nothing to upload."""

    path: Path

    @property
    def place(self) -> str:
        """The place of the folder, for people."""
        return str(self.path)

    def location(self, path: Path | str) -> str:
        """The place of the file at `path`, for people."""
        return str(path)

    def changed_ns(self, status: os.stat_result) -> int:
        """The time of the last change of any kind to the file of this `status`, in nanoseconds since 1970."""
        return status.st_ctime_ns

    def prepare(self) -> None:
        """Make ready for files to be written."""

    def fetch(self, *paths: Path) -> None:
        """Make the files at `paths` what the folder has, whole or missing."""

    def fetch_folder(self, folder: Path) -> None:
        """Make `folder` what it is in the data folder, without its subfolders."""

    def upload(self, file: Path, path: Path, cancellation: Cancellation = NEVER) -> None:
        """Keep the complete `file`, which is about to be renamed to `path`."""

    def forget(self, path: Path) -> None:
        """Free the disk space of a large file that has been read, if it can be fetched again."""


@dataclass(frozen=True)
class ObjectStore:
    """An object store for ``s3://`` addresses, with its keys: Amazon's S3 if there is no `endpoint`."""

    endpoint: str | None
    region: str
    key_id: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(repr=False)


@dataclass(frozen=True)
class S3DataFolder(DataFolder):
    """A folder on S3, of which `path` on this disk has copies that may be missing or old.

    Attributes:
        url: its address without a slash at its end.
        store: where that leads.
    """

    url: str
    store: ObjectStore

    @property
    def place(self) -> str:
        """The address of the folder on S3."""
        return self.url

    def location(self, path: Path | str) -> str:
        """The address of the file on S3."""
        return f"{self.url}/{Path(path).relative_to(self.path).as_posix()}"

    def changed_ns(self, status: os.stat_result) -> int:
        """The time at which the object was written: on this disk, a file changes whenever it is fetched."""
        return status.st_mtime_ns

    def prepare(self) -> None:
        """Create the folder for the copies, for this user only.

        Raises:
            WriteError: it is another user's, who could change the files in it.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.path.lstat().st_uid != os.getuid():
            raise WriteError(
                f"{self.path}, where files from S3 go for a while, is another user's. Set TMPDIR to a folder of yours."
            )

    def fetch(self, *paths: Path) -> None:
        """Make the files at `paths` what they are on S3, whole or missing.

        Raises:
            DownloadError: S3 does not answer, or refuses.
        """
        self.prepare()
        for path in paths:
            try:
                self._fetch(path)
            except OSError as error:
                raise self._unreadable(path, error) from None

    def fetch_folder(self, folder: Path) -> None:
        """Make `folder` what it is on S3, without its subfolders.

        Raises:
            DownloadError: S3 does not answer, or refuses.
        """
        from pyarrow.fs import FileSelector

        self.prepare()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            found = _file_system(self.store).get_file_info(FileSelector(self._key(folder), allow_not_found=True))
        except OSError as error:
            raise self._unreadable(folder, error) from None
        names = {Path(info.path).name for info in found if info.is_file}
        self.fetch(*(folder / name for name in names | {path.name for path in folder.iterdir() if path.is_file()}))

    def upload(self, file: Path, path: Path, cancellation: Cancellation = NEVER) -> None:
        """Upload the complete `file`, which is about to be renamed to `path`.

        Raises:
            WriteError: it could not be uploaded. What S3 had before is unchanged.
        """
        try:
            # In a thread, because an exception of a signal would let pyarrow close the stream, and what has been uploaded until
            # then would become the object. If the run is cancelled, the process ends before the object appears.
            cancellation.result(start_thread(self._upload, file, path))
        except OSError as error:
            raise WriteError(
                f"{self.location(path)} could not be written ({_reason(error)}). What was there before is unchanged. Check "
                "TAXI_DATA_DIR, AWS_ENDPOINT_URL and the keys, which have to allow it, and materialize again."
            ) from None

    def forget(self, path: Path) -> None:
        """Delete the copy of a large file that has been read."""
        path.unlink(missing_ok=True)

    def _upload(self, file: Path, path: Path) -> None:
        import pyarrow as pa

        files = _file_system(self.store)
        with pa.memory_map(str(file)) as content, files.open_output_stream(self._key(path)) as target:
            target.write(content.read_buffer())

    def _fetch(self, path: Path) -> None:
        files, key = _file_system(self.store), self._key(path)
        info = files.get_file_info(key)
        if not info.is_file:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.fetched")
        try:
            with files.open_input_stream(key) as content, open(temporary, "xb") as file:
                while chunk := content.read(CHUNK_BYTES):
                    file.write(chunk)
            os.utime(temporary, ns=(info.mtime_ns, info.mtime_ns))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _key(self, path: Path) -> str:
        return self.location(path).removeprefix("s3://")

    def _unreadable(self, path: Path, error: OSError) -> DownloadError:
        return DownloadError(
            f"{self.location(path)} could not be read ({_reason(error)}). Check TAXI_DATA_DIR, AWS_ENDPOINT_URL and the keys, "
            "and that the bucket exists; then materialize again."
        )


@lru_cache(maxsize=1)
def _file_system(store: ObjectStore) -> "S3FileSystem":
    # 0.3 s, for those who need it.
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

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


def _reason(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split())[:300]
