"""A warning about runs that are not recorded in the project's Dagster instance.

Without DAGSTER_HOME, Dagster takes a temporary instance, says so in `dagster dev` only, and deletes it when the command ends.
"""

import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dagster_essentials.settings.values import PROJECT_ROOT

WARNED = "TAXI_INSTANCE_WARNED"
"""An environment variable: a command loads the location more than once, and the processes that it starts inherit this."""


def warn_of_another_instance() -> None:
    """Log `instance_warning` once for each command."""
    warning = instance_warning(os.environ, sys.argv, Path.cwd())
    if warning and WARNED not in os.environ:
        os.environ[WARNED] = "yes"
        logging.getLogger("dagster.instance").warning(warning)


def instance_warning(environ: Mapping[str, str], command: Sequence[str], folder: Path) -> str | None:
    """The warning for `command`, started in `folder`; None if its runs are recorded, or if it executes none.

    A code server needs no DAGSTER_HOME: the process that asks it for a run has the instance.
    """
    executes = "DAGSTER_IS_DEV_CLI" in environ or list(command[1:3]) in (["asset", "materialize"], ["job", "execute"])
    home, pwd = environ.get("DAGSTER_HOME"), environ.get("PWD")
    if not home:
        if not executes:
            return None
        return (
            "DAGSTER_HOME is not set: Dagster forgets these runs when the command ends, and schedules and the UI do not know "
            f"what they have loaded. First enter: export DAGSTER_HOME={shlex.quote(str(PROJECT_ROOT / '.dagster'))}"
        )
    if pwd and Path(home) == Path(pwd, ".dagster") and Path(pwd).resolve() != folder and (folder / ".env").exists():
        return (
            f"These runs are recorded in {home}, not in {folder / '.dagster'}: .env takes DAGSTER_HOME from PWD, which is not "
            f"the current folder. Start the command with PWD={shlex.quote(str(folder))}."
        )
    return None
