"""The one catalogue of faults: what a source can get wrong, and the outcome that each must have.

`FAULTS` are those of a month, `ZONES_FAULTS` those of the zones. The tests check outcome and message of each; the chaos
harness injects the same ones into real runs. Nothing here runs a pipeline, or knows how an outcome is checked.
"""

from dagster_essentials_tests.support.faults.answers import REDIRECTS, STATUSES, TRANSFERS
from dagster_essentials_tests.support.faults.fault import Fault, Outcome
from dagster_essentials_tests.support.faults.files import DAMAGED_FILES, OTHER_FILES
from dagster_essentials_tests.support.faults.hostile import HOSTILE_FILES
from dagster_essentials_tests.support.faults.schemas import UNUSUAL_MONTHS, WRONG_SCHEMAS, WRONG_VALUES
from dagster_essentials_tests.support.faults.zones import ZONES_FAULTS

__all__ = ["FAULTS", "HOSTILE_FILES", "ZONES_FAULTS", "Fault", "Outcome"]

FAULTS = {
    entry.name: entry
    for entry in [
        *STATUSES,
        *REDIRECTS,
        *TRANSFERS,
        *OTHER_FILES,
        *DAMAGED_FILES,
        *WRONG_SCHEMAS,
        *WRONG_VALUES,
        *HOSTILE_FILES,
        *UNUSUAL_MONTHS,
    ]
}
