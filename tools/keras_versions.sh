#!/bin/sh
# The fast tests against the oldest version of Keras that setup.cfg allows and the newest pre-release.
# Each has a virtual environment of its own beside .venv; the installed one is not touched.
set -eu
cd "$(dirname "$0")/.."
oldest=$(sed -n 's/^ *keras>=\(.*\)$/\1/p' setup.cfg)
failed=0
for keras in "keras==$oldest.*" "--pre keras-nightly"; do
    environment=.venv-$(echo "$keras" | tr -dc 'a-z0-9')
    [ -x "$environment/bin/python" ] || python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet --editable ".[test]"
    "$environment/bin/pip" uninstall --quiet --yes keras keras-nightly
    # shellcheck disable=SC2086
    "$environment/bin/pip" install --quiet --no-deps $keras
    for backend in tensorflow jax torch; do
        KERAS_BACKEND=$backend TF_CPP_MIN_LOG_LEVEL=3 "$environment/bin/python" -m pytest -n 2 \
            tests/ops tests/layers tests/contract tests/saved --ignore tests/ops/kernels || failed=1
    done
done
exit $failed
