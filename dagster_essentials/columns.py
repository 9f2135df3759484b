"""What a column of `trips` is, and which column of a month's file it comes from.

The one mapping for every modern layout (2011 on). It decides by names and types alone: the rows are never read here.
"""

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from dagster_essentials.footer import FooterError, check_footer

MOST_ROWS = 30_000_000
"""No real month has had more than 17 million. 67 kB can claim a billion, and keep DuckDB busy for an hour."""
LONGEST_TEXT = 100
"""Bytes of a value. The real ones are a letter or a short code; 68 kB can repeat one of 20 MB three thousand times."""
READER_MEMORY = "128MB"
"""For DuckDB to look at one file. 32 MB did for three million rows in a single row group; four are looked at at once."""


class LayoutError(Exception):
    """A month's file does not have the columns it should have, or claims what no month has. The message names the
    column, what was expected and what was found; the caller adds the month."""


@dataclass(frozen=True)
class Column:
    """A column of `trips`.

    Attributes:
        name, type: in the table.
        source: its name in the TLC's files, compared without case; None for what does not come from a file.
        required: whether a month without it is refused. Fees have come and gone; the rest stands in every file.
        description: what it holds, with its unit.
    """

    name: str
    type: str
    source: str | None
    required: bool
    description: str


# The first eleven are the course's, in its order and with its types; a database made by its code has just these.
COLUMNS: Sequence[Column] = (
    Column("vendor_id", "INTEGER", "VendorID", True, "Who recorded it: 1 Creative Mobile, 2 Curb, 6 Myle, 7 Helix"),
    Column("pickup_zone_id", "INTEGER", "PULocationID", True, "Zone of the pickup; 264 unknown, 265 outside the city"),
    Column(
        "dropoff_zone_id", "INTEGER", "DOLocationID", True, "Zone of the drop-off; 264 unknown, 265 outside the city"
    ),
    Column(
        "rate_code_id",
        "DOUBLE",
        "RatecodeID",
        True,
        "1 standard, 2 JFK, 3 Newark, 4 Nassau or Westchester, 5 negotiated, 6 group, 99 unknown",
    ),
    Column(
        "payment_type",
        "INTEGER",
        "payment_type",
        True,
        "0 flex fare, 1 card, 2 cash, 3 no charge, 4 dispute, 5 unknown, 6 voided",
    ),
    Column("dropoff_datetime", "TIMESTAMP", "tpep_dropoff_datetime", True, "End of the trip, New York local time"),
    Column("pickup_datetime", "TIMESTAMP", "tpep_pickup_datetime", True, "Start of the trip, New York local time"),
    Column("trip_distance", "DOUBLE", "trip_distance", True, "Miles, by the taximeter"),
    Column("passenger_count", "DOUBLE", "passenger_count", True, "Passengers, as the driver entered them"),
    Column("total_amount", "DOUBLE", "total_amount", True, "US dollars charged in all, without cash tips"),
    Column("partition_date", "VARCHAR", None, True, "Month of the file, YYYY-MM"),
    Column("fare_amount", "DOUBLE", "fare_amount", True, "US dollars, by time and distance"),
    Column("extra", "DOUBLE", "extra", True, "US dollars, rush hour and overnight charges and others"),
    Column("mta_tax", "DOUBLE", "mta_tax", True, "US dollars, tax of the Metropolitan Transportation Authority"),
    Column("tip_amount", "DOUBLE", "tip_amount", True, "US dollars, card tips only"),
    Column("tolls_amount", "DOUBLE", "tolls_amount", True, "US dollars, all tolls of the trip"),
    Column(
        "improvement_surcharge", "DOUBLE", "improvement_surcharge", False, "US dollars, at the flag drop; since 2015"
    ),
    Column("congestion_surcharge", "DOUBLE", "congestion_surcharge", False, "US dollars, state surcharge; since 2019"),
    Column("airport_fee", "DOUBLE", "airport_fee", False, "US dollars, pickups at LaGuardia and JFK"),
    Column("cbd_congestion_fee", "DOUBLE", "cbd_congestion_fee", False, "US dollars, congestion zone; since 2025"),
    Column(
        "store_and_fwd_flag",
        "VARCHAR",
        "store_and_fwd_flag",
        True,
        "Y if the record was held in the vehicle before it was sent, else N",
    ),
    Column("request_source", "VARCHAR", "request_source", False, "How the trip was requested, a code; since 2026-06"),
)
COURSE_COLUMNS = COLUMNS[:11]

_INTEGERS = {
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"),
    *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"),
}
_NUMBERS = {*_INTEGERS, "FLOAT", "DOUBLE", "DECIMAL"}
_ACCEPTED = {
    "INTEGER": _NUMBERS,
    "DOUBLE": _NUMBERS,
    "VARCHAR": {"VARCHAR"},
    "TIMESTAMP": {"TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"},
}


@dataclass(frozen=True)
class Layout:
    """A month's file as its footer describes it: the number of rows, and each column's DuckDB type ("NULL" if none)."""

    rows: int
    types: Mapping[str, str]


@dataclass(frozen=True)
class Selection:
    """How a month's columns become those of `trips`.

    Attributes:
        expressions: for each column of the table, in its order, the SQL that takes it from the file. `$month` stands
            for the month.
        unknown: columns of the file that the table has no place for.
        absent: columns of the table that the file does not have, or has without any value; they become null.
    """

    expressions: Sequence[str]
    unknown: Sequence[str]
    absent: Sequence[str]


FILE = "read_parquet($file, hive_partitioning = false)"
"""The rows of a month's file, bound as `$file`: without columns that DuckDB would make from a folder named ``env=prod``."""


def literal_path(path: Path) -> str:
    """`path` for DuckDB's readers, which take ``*``, ``?`` and ``[`` for patterns: of this file and no other."""
    return glob.escape(str(path))


@contextmanager
def reader() -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB of its own to look at one file with: one thread, and little memory."""
    with duckdb.connect(config={"threads": 1, "memory_limit": READER_MEMORY}) as connection:
        connection.execute("SET enable_progress_bar = false")
        yield connection


def read_layout(path: Path) -> Layout:
    """Read the footer of the parquet file at `path`.

    Raises:
        LayoutError: the footer claims what no month's file has.
        duckdb.Error: it is not a whole parquet file.
    """
    file = {"file": literal_path(path)}
    try:
        check_footer(path)
    except FileNotFoundError:
        pass  # DuckDB says so too.
    except FooterError as error:
        raise LayoutError(f"{error}. {_IF_IT_IS_REAL}") from None
    with reader() as connection:
        rows = connection.execute("SELECT num_rows FROM parquet_file_metadata($file)", file).fetchall()[0][0]
        # What DuckDB would read, whatever the total says.
        in_groups = connection.execute(
            "SELECT coalesce(sum(row_group_num_rows), 0) FROM parquet_metadata($file) WHERE column_id = 0", file
        ).fetchall()[0][0]
        if rows != in_groups:
            raise LayoutError(f"its footer counts {rows:,} rows, and {in_groups:,} in its row groups. {_IF_IT_IS_REAL}")
        if rows > MOST_ROWS:
            raise LayoutError(
                f"its footer counts {rows:,} rows, and no month has had more than 17 million. {_IF_IT_IS_REAL}"
            )
        described = connection.execute(f"DESCRIBE SELECT * FROM {FILE}", file).fetchall()
        elements = connection.execute("SELECT num_children, logical_type FROM parquet_schema($file)", file).fetchall()
    # A column without a single value is physically INT32: DuckDB 1 says so, DuckDB 2 says "NULL". Told by its place, as
    # DuckDB gives the second of two columns of the same name another one.
    nulls = [(kind or "").startswith("NullType") for kind in _of_columns(elements)]
    return Layout(
        rows,
        {
            name: "NULL" if is_null else type_.strip('"')
            for (name, type_, *_), is_null in zip(described, nulls, strict=True)
        },
    )


def _of_columns(elements: Sequence[tuple[int | None, str | None]]) -> Iterator[str | None]:
    """The logical types of the columns among the `elements` of a schema: those that are in no other but the root."""
    inside = 0
    for children, kind in elements[1:]:
        if inside:
            inside -= 1
        else:
            yield kind
        inside += children or 0


def select_columns(layout: Layout) -> Selection:
    """Decide how a month's file, laid out as `layout`, becomes rows of `trips`.

    Raises:
        LayoutError: a required column is missing, or the type of one cannot become the table's.
    """
    found = {name.lower(): name for name in reversed(list(layout.types))}
    expressions, absent = [], []
    for column in COLUMNS:
        if column.source is None:
            expressions.append("$month")
            continue
        name = found.pop(column.source.lower(), None)
        if name is None and column.required:
            raise LayoutError(
                f"the file has no column {column.source}, which becomes {column.name} ({column.type}). Found: "
                f"{', '.join(layout.types)}. {_WHAT_TO_DO}"
            )
        type_ = layout.types[name] if name is not None else "NULL"
        if name is None or type_ == "NULL":
            absent.append(column.name)
            expressions.append(f"NULL::{column.type}")
        elif re.sub(r"\(\d+,\d+\)$", "", type_) not in _ACCEPTED[column.type]:
            raise LayoutError(
                f"column {name} is {type_}, and becomes {column.name}. Expected: {column.type}, or what can "
                f"become one without loss. {_WHAT_TO_DO}"
            )
        else:
            expressions.append(_cast(name, type_, column.type))
    unknown = [name for name in layout.types if name in found.values()]
    return Selection(expressions, unknown, absent)


_WHAT_TO_DO = (
    "Look whether the file is a month of yellow taxi trips from 2011 on; if the TLC has changed its layout, the mapping in "
    "dagster_essentials/columns.py has to learn it."
)

_IF_IT_IS_REAL = (
    "Materialize again; if it is still so, look what the source has there. If that is a month of yellow taxi trips after "
    "all, the limits in dagster_essentials/footer.py and columns.py are too narrow for it."
)


def _cast(name: str, type_: str, target: str) -> str:
    quoted = '"' + name.replace('"', '""') + '"'
    if target == "INTEGER" and type_ not in _INTEGERS:
        # A cast from DOUBLE would round without a word.
        message = f"{name} holds a number that is not whole: ".replace("'", "''")
        return f"CASE WHEN {quoted} = trunc({quoted}) OR {quoted} IS NULL THEN {quoted}::INTEGER " + (
            f"ELSE error('{message}' || {quoted})::INTEGER END"
        )
    if target == "VARCHAR":
        message = f"{name} holds a text of more than {LONGEST_TEXT} bytes".replace("'", "''")
        return f"CASE WHEN strlen({quoted}) > {LONGEST_TEXT} THEN error('{message}')::VARCHAR ELSE {quoted} END"
    return f"{quoted}::{target}"
