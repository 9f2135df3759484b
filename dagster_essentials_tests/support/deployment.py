"""The files in deploy/ as systemd and an image builder read them."""

import configparser
import re
from pathlib import Path

from dagster_essentials_tests.support.project import ROOT

SYSTEMD = ROOT / "deploy/systemd"
PROJECT = Path("/srv/nyc-taxi")
"""The folder of the project in the units and in the image."""


def unit(name: str) -> configparser.SectionProxy:
    """The section [Service] of the unit and of what all units have, with all of their Environment lines in one."""
    files = (SYSTEMD / f"dagster-{name}.service", SYSTEMD / "dagster-.service.d/nyc-taxi.conf")
    lines = [line for file in files for line in file.read_text().splitlines()]
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    environment = " ".join(line.removeprefix("Environment=") for line in lines if line.startswith("Environment="))
    parser.read_string("\n".join(lines))
    parser["Service"]["Environment"] = environment
    return parser["Service"]


def image(instruction: str) -> str:
    """The arguments of the last such instruction of the Dockerfile."""
    text = (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", "")
    found: list[str] = re.findall(rf"^{instruction} +(.*)$", text, re.MULTILINE)
    return found[-1]
