#!/bin/sh
# The documentation builds without a warning, its guides run; the wheel is complete, and the README's
# model runs from the wheel alone: with TensorFlow, and with JAX and torch where there is no TensorFlow.
set -eu
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
export TF_CPP_MIN_LOG_LEVEL=3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

$python -m sphinx -W --keep-going -q docs "$folder/html"
echo "documentation: built"

$python -m build --outdir "$folder/dist" . >"$folder/build.log" 2>&1 || {
    cat "$folder/build.log"
    exit 1
}
$python -m twine check --strict "$folder"/dist/*
if $python -m zipfile -l "$folder"/dist/*.whl | grep -E "tools/|tests/|examples/|make\.py"; then
    echo "the wheel holds scripts of the developers"
    exit 1
fi

$python - README.md >"$folder/readme.py" <<'PYTHON'
import re, sys
print("\n".join(re.findall(r"```python\n(.*?)```", open(sys.argv[1]).read(), re.S)))
print("import keras_attn, numpy as np")
print("again = keras.models.load_model('classifier.keras')")
print("assert again.predict(np.array([[1, 2, 0]]), verbose=0).shape == (1, 5)")
print("print('the wheel on', keras.backend.backend(), 'from', keras_attn.__file__)")
PYTHON
$python -m venv "$folder/alone"
"$folder/alone/bin/pip" install --quiet keras jax torch==2.13.0
"$folder/alone/bin/pip" install --quiet --no-deps "$folder"/dist/*.whl
mkdir "$folder/with_tensorflow"
$python -m pip install --quiet --no-deps --target "$folder/with_tensorflow" "$folder"/dist/*.whl
cd "$folder"
for backend in jax torch; do
    KERAS_BACKEND=$backend alone/bin/python readme.py
done
PYTHONPATH=$folder/with_tensorflow KERAS_BACKEND=tensorflow $python readme.py
