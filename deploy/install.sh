#!/bin/sh
# `pip install` with these arguments in .venv, by uv, which takes five seconds where pip takes a minute, and is fetched where
# there is none. pip does it where uv fails: some machines have only told pip of their mirror. Neither compiles what it installs:
# most of it is never imported.
set -eu
# The certificates of the machine, as pip has them, and no cache where the home is read-only.
export UV_SYSTEM_CERTS=true
cache=${UV_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/uv}
{ mkdir -p "$cache" && [ -w "$cache" ]; } 2>/dev/null || export UV_NO_CACHE=true
PATH="$PATH:.venv/bin"
command -v uv >/dev/null || .venv/bin/python -m pip install --quiet uv || true
uv pip install --quiet --python .venv/bin/python "$@" || .venv/bin/python -m pip install --quiet --no-compile "$@"
