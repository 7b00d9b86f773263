#!/bin/sh
# The documentation builds without a warning, its guides run; the wheel is complete, and the README's
# model runs from the wheel alone: with TensorFlow, with JAX where TensorFlow is not installed, and with
# torch where it cannot be imported (a second copy of torch costs minutes).
set -eu
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
export TF_CPP_MIN_LOG_LEVEL=3
unset PYTHONPATH # what is tested is the wheel
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

$python -m sphinx -j 2 -W --keep-going -q docs "$folder/html"
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
"$folder/alone/bin/pip" install --quiet keras jax
"$folder/alone/bin/pip" install --quiet --no-deps "$folder"/dist/*.whl
$python -m pip install --quiet --no-deps --target "$folder/wheel" "$folder"/dist/*.whl
cd "$folder"
(echo 'import sys; sys.modules.update({"tensorflow": None, "tensorflow_text": None})' && cat readme.py) >no_tensorflow.py
KERAS_BACKEND=jax alone/bin/python readme.py
PYTHONPATH=wheel KERAS_BACKEND=torch $python no_tensorflow.py
PYTHONPATH=wheel KERAS_BACKEND=tensorflow $python readme.py
