"""Parquet files made byte by byte: decode and encode their footers, and write pages with any content.

A struct of the format is a dict of its fields by number, each as (type, value); a list is (type of its elements,
elements), or with a third value the number of elements that it claims to have. https://parquet.apache.org/docs has the
field numbers; Thrift's compact protocol has the types.
"""

from typing import Any

I32, I64, BINARY, LIST, MAP, STRUCT = 5, 6, 8, 9, 11, 12
Struct = dict[int, tuple[int, Any]]

SCHEMA, ROWS, ROW_GROUPS, KEY_VALUES = 2, 3, 4, 5
"""Fields of a footer."""

PLAIN, DICTIONARY = 0, 8
"""Encodings of a data page: the values themselves, or their indexes in the dictionary."""


def varint(value: int) -> bytes:
    """`value`, seven bits per byte, the lowest first."""
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def zigzag(value: int) -> bytes:
    """A signed varint: the sign is the lowest bit."""
    return varint((value << 1) ^ (value >> 63))


def encode(type_: int, value: Any) -> bytes:
    """`value` in Thrift's compact protocol."""
    if type_ in (1, 2):
        return b""
    if type_ == 3:
        return bytes([value])
    if type_ in (4, I32, I64):
        return zigzag(value)
    if type_ == BINARY:
        return varint(len(value)) + bytes(value)
    if type_ == LIST:
        element, elements, *claimed = value
        count = claimed[0] if claimed else len(elements)
        header = bytes([count << 4 | element]) if count < 15 else bytes([0xF0 | element]) + varint(count)
        return header + b"".join(encode(element, each) for each in elements)
    assert type_ == STRUCT
    parts, last = [], 0
    for field, (field_type, field_value) in sorted(value.items()):
        parts.append(
            bytes([field - last << 4 | field_type]) if field - last < 16 else bytes([field_type]) + zigzag(field)
        )
        parts.append(encode(field_type, field_value))
        last = field
    return b"".join(parts) + b"\0"


def decode(content: bytes, type_: int = STRUCT, offset: int = 0) -> tuple[Any, int]:
    """The value of `type_` at `offset` of `content`, and the offset behind it."""
    if type_ in (1, 2):
        return type_ == 1, offset
    if type_ == 3:
        return content[offset], offset + 1
    if type_ in (4, I32, I64):
        value, offset = _decode_varint(content, offset)
        return (value >> 1) ^ -(value & 1), offset
    if type_ == BINARY:
        length, offset = _decode_varint(content, offset)
        return content[offset : offset + length], offset + length
    if type_ == LIST:
        element, count, offset = content[offset] & 15, content[offset] >> 4, offset + 1
        if count == 15:
            count, offset = _decode_varint(content, offset)
        elements = []
        for _ in range(count):
            each, offset = decode(content, element, offset)
            elements.append(each)
        return (element, elements), offset
    assert type_ == STRUCT
    struct: Struct = {}
    field = 0
    while header := content[offset]:
        offset += 1
        if header >> 4:
            field += header >> 4
        else:
            field, offset = decode(content, I32, offset)
        value, offset = decode(content, header & 15, offset)
        struct[field] = (header & 15, value)
    return struct, offset + 1


def _decode_varint(content: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[offset]
        offset += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, offset


def footer_size(file: bytes) -> int:
    """The size of the footer, without its length and the magic number behind it."""
    return int.from_bytes(file[-8:-4], "little")


def split(file: bytes) -> tuple[bytes, Struct]:
    """Split the parquet file into what precedes its footer, and the footer."""
    start = len(file) - 8 - footer_size(file)
    return file[:start], decode(file[start:])[0]


def join(body: bytes, footer: Struct | bytes) -> bytes:
    encoded = footer if isinstance(footer, bytes) else encode(STRUCT, footer)
    return body + encoded + len(encoded).to_bytes(4, "little") + b"PAR1"


def columns(footer: Struct, group: int = 0) -> list[Struct]:
    """The metadata of each column chunk of a row group."""
    return [chunk[3][1] for chunk in footer[ROW_GROUPS][1][1][group][1][1][1]]


def column_name(column: Struct) -> str:
    return str(column[3][1][1][0].decode())


def pages(file: bytes, column: Struct) -> list[tuple[int, Struct, int]]:
    """The pages of a column chunk: for each the offset of its header, the header, and the offset of its content."""
    offset = min(column[field][1] for field in (9, 11) if field in column)
    end = offset + column[7][1]
    found = []
    while offset < end:
        header, content = decode(file, STRUCT, offset)
        found.append((offset, header, content))
        offset = content + header[3][1]
    return found


def run_length(count: int, value: int, width: int = 1) -> bytes:
    """`value` `count` times, in the run-length encoding."""
    return varint(count << 1) + value.to_bytes(width, "little")


def no_nulls(count: int) -> bytes:
    """The definition levels of `count` values, none of them null."""
    levels = run_length(count, 1)
    return len(levels).to_bytes(4, "little") + levels


def dictionary_page(content: bytes, values: int = 1, uncompressed: int | None = None) -> bytes:
    """A dictionary page; `values` and `uncompressed` are what its header claims."""
    size = len(content) if uncompressed is None else uncompressed
    header = {1: (I32, 2), 2: (I32, size), 3: (I32, len(content)), 7: (STRUCT, {1: (I32, values), 2: (I32, 0)})}
    return encode(STRUCT, header) + content


def data_page(
    content: bytes, values: int, encoding: int, uncompressed: int | None = None, compressed: int | None = None
) -> bytes:
    """A data page; `uncompressed` and `compressed` are sizes for its header to claim."""
    header = {
        1: (I32, 0),
        2: (I32, len(content) if uncompressed is None else uncompressed),
        3: (I32, len(content) if compressed is None else compressed),
        5: (STRUCT, {1: (I32, values), 2: (I32, encoding), 3: (I32, 3), 4: (I32, 3)}),
    }
    return encode(STRUCT, header) + content


def constant_page(rows: int) -> bytes:
    """A data page with the first value of the dictionary, `rows` times."""
    return data_page(no_nulls(rows) + b"\x01" + run_length(rows, 0), rows, DICTIONARY)
