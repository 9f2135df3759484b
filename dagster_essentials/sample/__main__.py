"""``python -m dagster_essentials.sample``."""

from dagster_essentials.sample import main

main()
