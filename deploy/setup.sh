#!/bin/sh
# Makes the environment .venv, or brings it up to date. `make` calls it before everything that needs the environment.
# PYTHON names the Python of the environment, and replaces an environment of another one.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "$1" >&2
    exit 1
}

# The path of the Python $1, if the project supports it.
supported() {
    "$1" -c 'import os, sys; (3, 11) <= sys.version_info < (3, 15) and print(os.path.realpath(sys.executable))' \
        2>/dev/null | grep .
}

# Succeeds if the environment has what pyproject.toml asks for.
complete() {
    .venv/bin/python -c '
from importlib.metadata import requires, version
from packaging.requirements import Requirement
for requirement in map(Requirement, requires("dagster-essentials")):
    if requirement.marker is None or requirement.marker.evaluate({"extra": "dev"}):
        assert version(requirement.name) in requirement.specifier
' 2>/dev/null
}

found=
for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    [ -n "$found" ] || found=$(supported "$python") || true
done
# Where a set-up was interrupted, nothing can be relied on. An environment without .ready was made by hand, for example by uv.
environment=
[ -e .venv/.incomplete ] || environment=$(supported .venv/bin/python) || true
[ -z "${PYTHON:-}" ] || [ "$environment" = "$found" ] || environment=

if [ -z "$environment" ]; then
    python=${PYTHON:-python3}
    [ -n "$found" ] || fail "This project needs Python 3.11, 3.12, 3.13 or 3.14; $python is \
$("$python" --version 2>/dev/null || echo missing). Install one of them, or name it: make setup PYTHON=/path/to/python3.13"
    echo "Setting up .venv with $("$found" --version): half a minute, or two minutes where there is no uv."
    rm -rf .venv
    mkdir .venv
    touch .venv/.incomplete
    uv venv --quiet --no-cache --seed --allow-existing --python "$found" .venv 2>/dev/null ||
        "$found" -m venv .venv >/dev/null 2>&1 ||
        fail "$found has no venv module, and there is no uv. Install one of them (on Debian: python3-venv)."
elif [ -e .venv/.ready ] && [ -z "$(find pyproject.toml setup.py deploy/constraints.txt -newer .venv/.ready)" ]; then
    exit
fi

touch .venv/.incomplete
# `dg` decides on telemetry before it reads .env, by the settings in DAGSTER_HOME: the activated environment has it, too.
if ! grep -q DAGSTER_HOME .venv/bin/activate; then
    sed 's/^    unset VIRTUAL_ENV$/& DAGSTER_HOME/' .venv/bin/activate >.venv/activate
    echo 'export DAGSTER_HOME="${VIRTUAL_ENV%/.venv}/.dagster"' >>.venv/activate
    mv .venv/activate .venv/bin/activate
fi
if [ -e .venv/.ready ] || ! complete; then
    deploy/install.sh --constraint deploy/constraints.txt --editable '.[dev]' || {
        rm .venv/.incomplete
        fail "The packages could not be installed, see above. They come from a package index: try again when it can be reached."
    }
fi
# Python compiles what it imports: here, so that the first command need not, and for users who may not write to .venv.
unset PYTHONDONTWRITEBYTECODE
compile() {
    .venv/bin/python -c "import $1" 2>/dev/null || true
}
compile 'dagster_dg_cli.cli, dagster_webserver.cli, dagster._daemon.cli' &
compile 'dagster_essentials.definitions, dagster_essentials.reports.plots, duckdb, matplotlib.figure, pyarrow.parquet'
wait
mv .venv/.incomplete .venv/.ready
