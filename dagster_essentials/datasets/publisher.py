"""The publisher of all datasets in this package: the NYC Taxi & Limousine Commission (TLC)."""

from typing import TypedDict


class _Publisher(TypedDict):
    noun: str
    publisher: str
    address_setting: str
    declared_in: str


TLC: _Publisher = {
    "noun": "trips",
    "publisher": "the TLC",
    "address_setting": "TAXI_TRIPS_URL",
    "declared_in": "dagster_essentials/datasets",
}
"""For the messages about its datasets."""
