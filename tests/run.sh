#!/bin/sh
# Runs every check in a virtual environment of its own, which it makes where there is none.
# `sh tests/run.sh --fast` runs the checks of two minutes; other arguments go to pytest:
# `sh tests/run.sh -m slow` runs the long tests.
set -eu
cd "$(dirname "$0")/.."
export TF_CPP_MIN_LOG_LEVEL=3 PYTHONUNBUFFERED=1
pytest=".venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder"

[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet --no-compile --editable ".[test,docs]"

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/lint-imports
.venv/bin/pyrefly check

if [ "${1:-}" = --fast ]; then
    KERAS_BACKEND=tensorflow exec $pytest tests/ops tests/layers tests/contract/test_shapes.py \
        tests/contract/test_saving.py --ignore tests/ops/kernels
fi

# Thousands of small programs run once: compiling is the cost. XLA's older emitters of loops take a
# third of the time, and a program that is not split for parallel compiling three quarters, where XLA
# still has these flags: it ends a process that asks for a flag it lacks.
export XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
quick="$XLA_FLAGS --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
if XLA_FLAGS=$quick .venv/bin/python -c "import jax; jax.devices()" 2>/dev/null; then
    XLA_FLAGS=$quick
fi

failed=0
KERAS_BACKEND=tensorflow $pytest tests keras_attn --doctest-modules "$@" || failed=1
# Text, examples, pictures and the tree are the same on every backend. Checkpoints of others are read
# into the same models: torch, on which they were trained, and TensorFlow are enough.
same="--ignore tests/architecture --ignore tests/data --ignore tests/visualization"
KERAS_BACKEND=jax $pytest tests $same --ignore tests/weights "$@" || failed=1
KERAS_BACKEND=torch $pytest tests $same "$@" || failed=1
[ $# -gt 0 ] || sh tests/documentation_and_wheel.sh || failed=1
exit $failed
