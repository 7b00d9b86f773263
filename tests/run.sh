#!/bin/sh
# Runs every check in a virtual environment of its own, which it makes where there is none.
# Arguments go to pytest: `sh tests/run.sh -m slow` runs the long checks.
set -eu
cd "$(dirname "$0")/.."
export TF_CPP_MIN_LOG_LEVEL=3 PYTHONUNBUFFERED=1
export JAX_DISABLE_MOST_OPTIMIZATIONS=1 # thousands of small programs run once: compiling is the cost

[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet --editable ".[test]"

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/lint-imports
failed=0
KERAS_BACKEND=tensorflow .venv/bin/python -m pytest -n 2 tests keras_attn --doctest-modules "$@" || failed=1
for backend in jax torch; do
    KERAS_BACKEND=$backend .venv/bin/python -m pytest -n 2 tests "$@" || failed=1
done
exit $failed
