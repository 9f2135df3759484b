"""Parquet files made by hand, byte for byte: their footers taken apart and put together, and pages of any content.

A structure of the format is here a dict of its fields by number, each as (kind, value); a list is (kind of its elements,
elements), or with a third value the number of elements that it claims to have. https://parquet.apache.org/docs has the
numbers; Thrift's compact protocol has the kinds.
"""

from typing import Any

I32, I64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12
Struct = dict[int, tuple[int, Any]]

SCHEMA, ROWS, GROUPS, NOTES = 2, 3, 4, 5
"""Fields of a footer."""


def number(value: int) -> bytes:
    """`value` in as many bytes as it takes, seven bits each."""
    value &= (1 << 64) - 1
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])


def signed(value: int) -> bytes:
    return number((value << 1) ^ (value >> 63))


def written(kind: int, value: Any) -> bytes:
    """`value` as Thrift's compact protocol has it."""
    if kind in (1, 2):
        return b""
    if kind == 3:
        return bytes([value])
    if kind in (4, I32, I64):
        return signed(value)
    if kind == BINARY:
        return number(len(value)) + bytes(value)
    if kind == LIST:
        element, elements, *claimed = value
        count = claimed[0] if claimed else len(elements)
        header = bytes([count << 4 | element]) if count < 15 else bytes([0xF0 | element]) + number(count)
        return header + b"".join(written(element, each) for each in elements)
    assert kind == STRUCT
    parts, last = [], 0
    for field, (field_kind, field_value) in sorted(value.items()):
        parts.append(
            bytes([field - last << 4 | field_kind]) if field - last < 16 else bytes([field_kind]) + signed(field)
        )
        parts.append(written(field_kind, field_value))
        last = field
    return b"".join(parts) + b"\0"


def read(content: bytes, kind: int = STRUCT, at: int = 0) -> tuple[Any, int]:
    """The value of `kind` that begins `at` a place of `content`, and the place behind it."""
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return content[at], at + 1
    if kind in (4, I32, I64):
        value, at = _read_number(content, at)
        return (value >> 1) ^ -(value & 1), at
    if kind == BINARY:
        length, at = _read_number(content, at)
        return content[at : at + length], at + length
    if kind == LIST:
        element, count, at = content[at] & 15, content[at] >> 4, at + 1
        if count == 15:
            count, at = _read_number(content, at)
        elements = []
        for _ in range(count):
            each, at = read(content, element, at)
            elements.append(each)
        return (element, elements), at
    assert kind == STRUCT
    struct: Struct = {}
    field = 0
    while header := content[at]:
        at += 1
        if header >> 4:
            field += header >> 4
        else:
            field, at = read(content, I32, at)
        value, at = read(content, header & 15, at)
        struct[field] = (header & 15, value)
    return struct, at + 1


def _read_number(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def taken_apart(file: bytes) -> tuple[bytes, Struct]:
    """What stands before the footer of the parquet file, and the footer."""
    start = len(file) - 8 - int.from_bytes(file[-8:-4], "little")
    return file[:start], read(file[start:])[0]


def put_together(body: bytes, footer: Struct | bytes) -> bytes:
    text = footer if isinstance(footer, bytes) else written(STRUCT, footer)
    return body + text + len(text).to_bytes(4, "little") + b"PAR1"


def columns(footer: Struct, group: int = 0) -> list[Struct]:
    """What the footer says of each column's part of a row group."""
    return [chunk[3][1] for chunk in footer[GROUPS][1][1][group][1][1][1]]


def column_name(column: Struct) -> str:
    return str(column[3][1][1][0].decode())


def page_headers(file: bytes, column: Struct) -> list[tuple[int, Struct, int]]:
    """The pages of a column's part of a row group: where each begins, its header, and where its content begins."""
    at = min(column[field][1] for field in (9, 11) if field in column)
    end = at + column[7][1]
    pages = []
    while at < end:
        header, content = read(file, STRUCT, at)
        pages.append((at, header, content))
        at = content + header[3][1]
    return pages


def repeated(count: int, value: int, width: int = 1) -> bytes:
    """`value` `count` times, as the format's run-length encoding has it."""
    return number(count << 1) + value.to_bytes(width, "little")


def none_is_null(count: int) -> bytes:
    levels = repeated(count, 1)
    return len(levels).to_bytes(4, "little") + levels


def dictionary(content: bytes, values: int = 1, unpacked: int | None = None) -> bytes:
    """A dictionary page."""
    size = len(content) if unpacked is None else unpacked
    header = {1: (I32, 2), 2: (I32, size), 3: (I32, len(content)), 7: (STRUCT, {1: (I32, values), 2: (I32, 0)})}
    return written(STRUCT, header) + content


def page(content: bytes, values: int, encoding: int, unpacked: int | None = None, packed: int | None = None) -> bytes:
    """A data page: `encoding` 0 is plain, 8 numbers of the dictionary. `unpacked` and `packed` are sizes to claim."""
    header = {
        1: (I32, 0),
        2: (I32, len(content) if unpacked is None else unpacked),
        3: (I32, len(content) if packed is None else packed),
        5: (STRUCT, {1: (I32, values), 2: (I32, encoding), 3: (I32, 3), 4: (I32, 3)}),
    }
    return written(STRUCT, header) + content


def of_one_value(rows: int) -> bytes:
    """A data page of the first value of the dictionary, `rows` times."""
    return page(none_is_null(rows) + b"\x01" + repeated(rows, 0), rows, encoding=8)
