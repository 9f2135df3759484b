"""CSV files that are published as zip archives, one in each."""

import csv
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dagster_essentials.errors import SchemaError
from dagster_essentials.ingestion.file_format import FileSchema, InvalidFileError
from dagster_essentials.ingestion.sql import literal

CHUNK_BYTES = 1 << 20
MAX_HEADER_BYTES = 64_000


@dataclass(frozen=True)
class ZippedCsv:
    """CSV files with a header, in UTF-8, each alone in a zip archive.

    Attributes:
        max_bytes: no CSV has more. A zip of 10 MB can hold 10 GB.
        delimiter: between two values.
    """

    max_bytes: int
    delimiter: str = ","
    extension = "zip"
    is_text = True

    @property
    def relation(self) -> str:
        """SQL for the rows of an extracted CSV."""
        # All options that DuckDB would guess from the first rows otherwise.
        return (
            f"read_csv($file, header = true, all_varchar = true, delim = {literal(self.delimiter)}, quote = '\"', "
            "escape = '\"', comment = '', strict_mode = true, null_padding = false)"
        )

    def read_schema(self, file: BinaryIO) -> FileSchema:
        """Read the header of the CSV in the archive. See `FileFormat.read_schema`."""
        import pyarrow as pa

        with _explain_damage(), _member(file) as (name, content):
            line = content.readline(MAX_HEADER_BYTES)
        try:
            header = next(csv.reader([line.decode("utf-8-sig")], delimiter=self.delimiter), [])
        except (UnicodeDecodeError, csv.Error):
            raise InvalidFileError(
                f"the first line of {name} in the zip is not UTF-8 text, such as a CSV has"
            ) from None
        if not line.strip():
            raise InvalidFileError(f"{name} in the zip is empty")
        return FileSchema(None, [(column, pa.string()) for column in header])

    @contextmanager
    def open(self, file: BinaryIO, path: Path) -> Iterator[str]:
        """Extract the CSV to a file that has no name, so that nothing of it is left if the process is killed."""
        with tempfile.TemporaryFile(dir=path.parent) as extracted:
            with _explain_damage(), _member(file) as (name, content):
                size = 0
                while chunk := content.read(CHUNK_BYTES):
                    size += len(chunk)
                    # Counted, because what the archive says of itself need not be true.
                    if size > self.max_bytes:
                        raise SchemaError(
                            f"{name} in the zip has more than {self.max_bytes:,} bytes, which no month has. Check the file at "
                            "the source; if it is a month after all, raise max_bytes of the dataset's ZippedCsv."
                        )
                    extracted.write(chunk)
            extracted.flush()
            os.lseek(extracted.fileno(), 0, os.SEEK_SET)
            yield f"/dev/fd/{extracted.fileno()}"


@contextmanager
def _member(file: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    """The name and content of the one CSV in the archive."""
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        # macOS adds a folder with its own metadata.
        members = [
            each for each in archive.infolist() if not each.is_dir() and not each.filename.startswith("__MACOSX/")
        ]
        names = ", ".join(each.filename for each in members[:3]) + (", …" if len(members) > 3 else "")
        if len(members) != 1:
            raise InvalidFileError(f"the zip has {len(members)} files ({names or 'none'}), and a month has one CSV")
        member = members[0]
        if not member.filename.lower().endswith(".csv"):
            raise InvalidFileError(f"the zip has {member.filename}, which is no CSV")
        if member.flag_bits & 1:
            raise InvalidFileError(f"{member.filename} in the zip is encrypted")
        with archive.open(member) as content:
            yield member.filename, content  # type: ignore[misc]  # It is a BinaryIO but for its declared type.


@contextmanager
def _explain_damage() -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise InvalidFileError(f"not a complete zip archive ({error})") from None
