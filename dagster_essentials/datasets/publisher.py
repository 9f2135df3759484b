"""The publisher of all datasets in this package: the NYC Taxi & Limousine Commission (TLC)."""

from typing import TypedDict


class _Publisher(TypedDict):
    noun: str
    publisher: str
    address_setting: str
    declared_in: str
    without_network: str


WITHOUT_NETWORK = "Without a network, `make lesson` shows this project with generated months."

TLC: _Publisher = {
    "noun": "trips",
    "publisher": "the TLC",
    "address_setting": "TAXI_TRIPS_URL",
    "declared_in": "dagster_essentials/datasets",
    "without_network": WITHOUT_NETWORK,
}
"""For the messages about its datasets."""
