#!/bin/sh
# The documentation builds without a warning, its guides run; the wheel is complete, and the README's
# model runs from the wheel alone, each time in an environment of its own: with JAX by the README's
# commands for machines without TensorFlow, with torch and no TensorFlow, and with TensorFlow and what
# else the wheel requires. The last two link to the packages installed here: copies would cost minutes.
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
$python -m venv "$folder/on_jax"
"$folder/on_jax/bin/pip" install --quiet keras jax
"$folder/on_jax/bin/pip" install --quiet --no-deps "$folder"/dist/*.whl
$python tests/linked_environment.py "$folder/on_torch" keras torch
$python tests/linked_environment.py "$folder/on_tensorflow" keras tensorflow keras-nlp tensorflow-text
for backend in torch tensorflow; do
    $python -m pip --python "$folder/on_$backend/bin/python" install --quiet --no-deps "$folder"/dist/*.whl
done
$python -m pip --python "$folder/on_tensorflow/bin/python" check # the wheel requires no other package
cd "$folder"
for backend in jax torch tensorflow; do
    KERAS_BACKEND=$backend on_$backend/bin/python readme.py
    if [ $backend != tensorflow ] && on_$backend/bin/python -c "import tensorflow" 2>/dev/null; then
        echo "TensorFlow can be imported beside $backend"
        exit 1
    fi
done
