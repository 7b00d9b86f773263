#!/bin/sh
# The tests of layers, operations and saved files against the oldest version of Keras that setup.cfg
# allows and the newest pre-release. The installed Keras stays: the other one is put before it on the
# path. Arguments go to pytest. `KERAS_BACKENDS="tensorflow"` runs one backend.
set -eu
cd "$(dirname "$0")/.."
export TF_CPP_MIN_LOG_LEVEL=3 JAX_DISABLE_MOST_OPTIMIZATIONS=1
oldest=$(sed -n 's/^ *keras>=\(.*\)$/\1/p' setup.cfg)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0
for wanted in "keras==$oldest.0" keras-nightly; do
    .venv/bin/python -m pip install --quiet --pre --no-deps --target "$folder/$wanted" "$wanted"
    export PYTHONPATH="$folder/$wanted:$PWD"
    for backend in ${KERAS_BACKENDS:-tensorflow jax torch}; do
        KERAS_BACKEND=$backend .venv/bin/python -c \
            "import keras; print('Keras', keras.__version__, 'on', keras.backend.backend())"
        KERAS_BACKEND=$backend .venv/bin/python -m pytest -q -n 2 --ignore tests/ops/kernels \
            tests/ops tests/layers tests/contract tests/saved "$@" || failed=1
    done
done
exit $failed
