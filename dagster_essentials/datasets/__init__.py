"""The datasets of the TLC: their columns, layouts and data quality rules, their zones, views and aggregates."""

from collections.abc import Mapping

from dagster_essentials.datasets.fleets import FLEETS
from dagster_essentials.datasets.yellow import YELLOW
from dagster_essentials.ingestion.dataset import Dataset

DATASETS: Mapping[str, Dataset] = {YELLOW.name: YELLOW, **FLEETS}
"""All of them by name: the yellow taxis, which have a table of their own, and the other fleets."""
