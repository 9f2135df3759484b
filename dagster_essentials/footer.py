"""A parquet file's footer, looked through before DuckDB believes it.

DuckDB 1.5 makes room for as many things as a footer claims to list, and walks as deep as it claims to be nested: 67 kB
that claim 16 million columns took 7 GB and 20 seconds, and 100,000 columns in each other ended the process. Nothing here
knows what the columns mean; that is decided in `columns.py`.
"""

from collections.abc import Mapping
from pathlib import Path

LARGEST_FOOTER = 4_000_000
"""Bytes. A real month's has 10,000 to 60,000; 17 million rows in DuckDB's row groups of 122,880 come to 400,000."""
LONGEST_LIST = 2_000
"""Columns, row groups and the like. A real month has 19 to 21 columns. 1,900 nested in each other, the worst of such
lists, cost two seconds; 10,000 cost half a minute."""
DEEPEST = 16
"""Structures within each other. The format's own have 7."""

_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LIST, _STRUCT = 1, 2, 3, (4, 5, 6), 7, 8, 9, 12

# The lists of the format, by the numbers of the fields that lead to them, and what their elements are. DuckDB reads the
# elements as what they should be, whatever the list says that they are: one that says something else would be read here
# in another way than there.
_LISTS: Mapping[tuple[int, ...], int] = {
    (2,): _STRUCT,  # schema
    (4,): _STRUCT,  # row groups
    (4, 1): _STRUCT,  # columns
    (4, 1, 3, 2): 5,  # encodings
    (4, 1, 3, 3): _BINARY,  # names
    (4, 1, 3, 8): _STRUCT,  # what the writer noted of a column
    (4, 1, 3, 13): _STRUCT,  # pages of each encoding
    (4, 1, 3, 16, 2): 6,  # how many values are how deep
    (4, 1, 3, 16, 3): 6,
    (4, 1, 3, 17, 2): 5,  # kinds of shapes
    (4, 1, 8, 2, 1): _BINARY,  # names of an encrypted column
    (4, 4): _STRUCT,  # order of the rows
    (5,): _STRUCT,  # what the writer noted
    (7,): _STRUCT,  # order of the values
}


class FooterError(Exception):
    """The footer claims what no month's file has. The message says what."""


def check_footer(path: Path) -> None:
    """Look through the footer of the parquet file at `path`; one that does not end like such a file is left to DuckDB.

    Raises:
        FooterError: it is larger, longer or deeper than a month's can be, or does not add up.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - 8, 0))
        end = file.read(8)
        if end[4:] != b"PAR1":
            return
        length = int.from_bytes(end[:4], "little")
        if length > size - 12:
            return  # DuckDB says so too.
        if length > LARGEST_FOOTER:
            raise FooterError(f"its footer has {length:,} bytes, and a month's has 60,000")
        file.seek(size - 8 - length)
        footer = _Footer(file.read(length))
    try:
        footer.skip_struct(())
    except IndexError:
        raise FooterError("its footer breaks off") from None


class _Footer:
    """Thrift's compact protocol, as far as it takes to get from the beginning to the end."""

    def __init__(self, content: bytes):
        self._content = content
        self._position = 0

    def skip_struct(self, place: tuple[int, ...]) -> None:
        if len(place) > DEEPEST:
            raise FooterError(f"its footer is nested more than {DEEPEST} deep")
        field = 0
        while header := self._byte():
            if header >> 4:
                field += header >> 4
            else:
                number = self._number()
                field = number >> 1 if number % 2 == 0 else -1
            if not 0 < field < 1 << 15:
                raise FooterError("its footer numbers a field in a way that none is")
            self._skip(header & 15, (*place, field), is_element=False)

    def _skip(self, kind: int, place: tuple[int, ...], is_element: bool) -> None:
        if kind in (_TRUE, _FALSE):
            self._advance(1 if is_element else 0)  # A field's value stands in its header.
        elif kind == _BYTE:
            self._advance(1)
        elif kind in _INTEGERS:
            self._number()
        elif kind == _DOUBLE:
            self._advance(8)
        elif kind == _BINARY:
            self._advance(self._number())
        elif kind == _STRUCT:
            self.skip_struct(place)
        elif kind == _LIST:
            self._skip_list(place)
        else:
            raise FooterError(f"its footer has something of the kind {kind}, which the format does not use")

    def _skip_list(self, place: tuple[int, ...]) -> None:
        header = self._byte()
        count = header >> 4 if header >> 4 < 15 else self._number()
        kind = header & 15
        if count > LONGEST_LIST:
            raise FooterError(
                f"its footer lists {count:,} columns, row groups or others; {LONGEST_LIST:,} would be many"
            )
        if count and kind != _LISTS.get(place, kind):
            raise FooterError("its footer lists something else than the format says")
        if len(place) > DEEPEST:
            raise FooterError(f"its footer is nested more than {DEEPEST} deep")
        for _ in range(count):
            self._skip(kind, place if kind == _STRUCT else (*place, 0), is_element=True)

    def _byte(self) -> int:
        byte = self._content[self._position]
        self._position += 1
        return byte

    def _number(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number
            if shift > 63:
                raise FooterError("its footer has a number that is too large")

    def _advance(self, count: int) -> None:
        self._position += count
        if self._position > len(self._content):
            raise IndexError
