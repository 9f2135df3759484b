"""The codes of the taxis and of the high-volume companies, and their meanings, for descriptions and views."""

from collections.abc import Mapping

PAYMENTS = {0: "flex fare", 1: "card", 2: "cash", 3: "no charge", 4: "dispute", 5: "unknown", 6: "voided"}
RATES = {
    1: "standard",
    2: "JFK",
    3: "Newark",
    4: "Nassau or Westchester",
    5: "negotiated",
    6: "group",
    99: "unknown",
}
VENDORS = {1: "Creative Mobile", 2: "Curb", 3: "DDS", 6: "Myle", 7: "Helix"}
COMPANIES = {"HV0002": "Juno", "HV0003": "Uber", "HV0004": "Via", "HV0005": "Lyft"}


def describe(codes: Mapping[int, str] | Mapping[str, str]) -> str:
    """``1 card, 2 cash``: the codes with their meanings, for a column's description."""
    return ", ".join(f"{code} {meaning}" for code, meaning in codes.items())


def meaning(column: str, codes: Mapping[int, str] | Mapping[str, str]) -> str:
    """SQL for the meaning of the code in `column`; null if it is unknown."""
    # As DuckDB keeps it, with ELSE, so that a view of it is recognized.
    cases = " ".join(f"WHEN {column} = {code!r} THEN '{text}'" for code, text in codes.items())
    return f"CASE {cases} ELSE NULL END"
