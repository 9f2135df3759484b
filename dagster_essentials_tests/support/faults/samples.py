"""Good files, and other files derived from them: by SQL, or as an Arrow table."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from dagster_essentials.sample import write_month

MULTIPOLYGON = "MULTIPOLYGON (((-74.18 40.69, -74.18 40.70, -74.17 40.69, -74.18 40.69)))"
ZONES_CSV = (
    "OBJECTID,Shape_Leng,the_geom,Shape_Area,zone,LocationID,borough\n"
    f'1,0.1,"{MULTIPOLYGON}",0.1,Newark Airport,1,EWR\n'
    f'2,0.4,"{MULTIPOLYGON}",0.1,Jamaica Bay,2,Queens\n'
).encode()


@cache
def sample(month: str, rows: int = 300) -> bytes:
    """The file of a good month (``YYYY-MM``)."""
    with TemporaryDirectory() as folder:
        return write_month(Path(folder), month, rows).read_bytes()


def query_file(content: bytes, query: str) -> list[tuple[Any, ...]]:
    """The result of `query`, in which the parquet file `content` is the table `month`."""
    with TemporaryDirectory() as folder, duckdb.connect() as connection:
        _create_view(connection, folder, content)
        return connection.execute(query).fetchall()


def rewrite(content: bytes, query: str, file_format: str = "parquet") -> bytes:
    """The file with the result of `query`, in which the parquet file `content` is the table `month`."""
    with TemporaryDirectory() as folder, duckdb.connect() as connection:
        _create_view(connection, folder, content)
        target = Path(folder) / "rewritten"
        connection.execute(f"COPY ({query}) TO '{target}' (FORMAT {file_format})")
        return target.read_bytes()


def _create_view(connection: duckdb.DuckDBPyConnection, folder: str, content: bytes) -> None:
    (Path(folder) / "month.parquet").write_bytes(content)
    connection.execute(f"CREATE VIEW month AS FROM '{folder}/month.parquet'")


def read_arrow(content: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(content))


def write_arrow(table: pa.Table, **options: object) -> bytes:
    """The parquet file that pyarrow writes with these `options`."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return bytes(sink.getvalue())


def count_rows(content: bytes) -> int:
    """The number of rows, as the footer of the parquet file has it."""
    return int(pq.read_metadata(pa.BufferReader(content)).num_rows)
