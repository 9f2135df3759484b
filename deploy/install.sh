#!/bin/sh
# `pip install` with these arguments in .venv, by uv, which takes five seconds where pip takes a minute, and is fetched where
# there is none. pip does it where uv fails: some machines have only told pip of their mirror.
set -eu
# Those of the machine, as pip does.
export UV_SYSTEM_CERTS=true
PATH="$PATH:.venv/bin"
command -v uv >/dev/null || .venv/bin/python -m pip install --quiet uv || true
uv pip install --quiet --compile-bytecode --python .venv/bin/python "$@" || .venv/bin/python -m pip install --quiet "$@"
