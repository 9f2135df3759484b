"""The columns of 2009 and 2010: SQL by which texts become codes and positions become zones.

The layouts of these months in `yellow.py` name it; the zone of a position is found in `zone_lookup.py`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dagster_essentials.ingestion.casts import is_text, limited_text
from dagster_essentials.ingestion.dataset import MAX_TEXT_BYTES
from dagster_essentials.ingestion.sql import literal, quote

if TYPE_CHECKING:
    import pyarrow as pa

INDEX = "__index_level_0__"
"""The index of pandas, which the files of 2010-02 and 2010-03 have as a column. It is no value of a trip."""

CODES: Mapping[str, Mapping[str, int | str | None]] = {
    # The TLC never numbered DDS (Digital Dispatch Systems), whose last trips are of 2010-01; 3 is free.
    "vendor_id": {"cmt": 1, "vts": 2, "dds": 3},
    "payment_type": {
        **dict.fromkeys(("credit", "cre", "crd"), 1),
        **dict.fromkeys(("cash", "cas", "csh"), 2),
        **dict.fromkeys(("no charge", "no", "noc"), 3),
        **dict.fromkeys(("dispute", "dis"), 4),
        **dict.fromkeys(("na", "unk"), 5),
    },
    # 2010-01 and 2010-02 also have a star, and an empty text; neither says anything.
    "store_and_fwd_flag": {
        **dict.fromkeys(("y", "1", "1.0"), "Y"),
        **dict.fromkeys(("n", "0", "0.0"), "N"),
        **dict.fromkeys(("*", "")),
    },
}
"""The values for texts, which are compared in lower case and without spaces around them."""

NEW_TEXT = {"payment_type": 5}
"""The code for unlisted texts; without one here, they become null."""

ZONES_FUNCTION = "zones_of_trip"
"""The SQL function that finds the zones of four coordinates, ``pickup << 16 | dropoff``: a function of `zones_function.py`."""


def map_text(target: str, name: str, type_: "pa.DataType") -> tuple[str, str | None] | None:
    """The translation of the column `name`, of the Arrow type `type_`, into the column `target` of `trips`, if it is a text.

    Returns:
        The SQL expression, and SQL that is true for a text that stands for nothing, or None if such a text is an error.
        None for a column that is mapped like those of other months.
    """
    import pyarrow as pa

    quoted = quote(name)
    if target == "store_and_fwd_flag" and (pa.types.is_floating(type_) or pa.types.is_integer(type_)):
        return f"CASE {quoted} WHEN 1 THEN 'Y' WHEN 0 THEN 'N' END", f"{quoted} NOT IN (0, 1)"
    if not is_text(type_):
        return None
    if target in ("pickup_datetime", "dropoff_datetime"):
        # Alone, the cast would drop an offset, take a date for midnight, and accept 'infinity'. The comparison takes 0.2 s
        # for 15 million texts; strptime instead of both 0.8 s.
        return (
            f"CASE WHEN {quoted} IS NULL OR {quoted} LIKE '____-__-__ __:__:__' THEN {quoted}::TIMESTAMP "
            f"ELSE error({literal(f'{name} holds a text that is not a time: ')} || left({quoted}, 40))::TIMESTAMP END"
        ), None
    if target == "rate_code_id":
        number = f"TRY_CAST({quoted} AS DOUBLE)"
        return (
            limited_text(name, f"CASE WHEN isfinite({number}) THEN {number} END", "DOUBLE", MAX_TEXT_BYTES),
            f"{quoted} IS NOT NULL AND NOT coalesce(isfinite({number}), false)",
        )
    if target not in CODES:
        return None
    # In a dictionary-encoded column, this is evaluated once a text: 0.05 s for 15 million rows; 0.2 s with a CASE.
    text = f"lower(trim({quoted}))"
    codes = ", ".join(f"{literal(text)}: {literal(code)}" for text, code in CODES[target].items())
    code = f"MAP {{{codes}}}[{text}]"
    if target in NEW_TEXT:
        code = f"coalesce({code}, if({quoted} IS NULL, NULL, {NEW_TEXT[target]}))"
    return (
        limited_text(name, code, "VARCHAR" if target == "store_and_fwd_flag" else "INTEGER", MAX_TEXT_BYTES),
        f"NOT list_contains([{', '.join(map(literal, CODES[target]))}], {text})",
    )


def map_zones(values: Mapping[str, str]) -> dict[str, str]:
    """The SQL expressions of both zones, from those of the coordinates. Both make the same call, so DuckDB makes one."""
    names = [f"{end}_{axis}" for end in ("pickup", "dropoff") for axis in ("longitude", "latitude")]
    zones = f"{ZONES_FUNCTION}({', '.join(values.get(name, 'NULL::DOUBLE') for name in names)})"
    return {"pickup_zone_id": f"{zones} >> 16", "dropoff_zone_id": f"{zones} & 65535"}
