"""NYC taxi trips, month by month, into DuckDB: a Dagster code location.

`defs` is all of it.
"""

import warnings

import dagster as dg

with warnings.catch_warnings():
    # Backfill policies, partitioned checks and a job's partitions_def each announce, at every start, that they may change.
    # The release is pinned, and test_dagster_facts.py tells what has changed when it is raised.
    for category in (dg.BetaWarning, dg.PreviewWarning, DeprecationWarning):
        warnings.simplefilter("ignore", category)
    from dagster_essentials.definitions import defs

__all__ = ["defs"]
