"""Saved models load in a new process after `import keras_attn` alone, with equal outputs."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import tree

from tests.backend import arrays
from tests.cases import CALLED, built

CHILD = """
import glob, os, sys
import keras_attn
import keras, numpy as np
from keras import tree

for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.keras"))):
    model = keras.models.load_model(path)
    saved = np.load(path.replace(".keras", ".inputs.npz"))
    leaves = [saved[f"arr_{i}"] for i in range(len(saved.files))]
    outputs = [
        keras.ops.convert_to_numpy(keras.ops.cast(output, "float32"))
        for output in tree.flatten(model(leaves))
    ]
    np.savez(path.replace(".keras", ".outputs.npz"), *outputs)
"""


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    """The folder with the outputs that one child process computed for all models."""
    folder = tmp_path_factory.mktemp("saved")
    for case in CALLED:
        case.model(built(case)).save(folder / f"{case}.keras")
        np.savez(folder / f"{case}.inputs.npz", *tree.flatten(case.values()))
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", CHILD, str(folder)],
        env=os.environ | {"KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.backends("tensorflow", reason="what a file registers is the same on every backend")
@pytest.mark.parametrize("case", CALLED, ids=str)
def test_a_model_reloaded_in_a_new_process_computes_the_same(case, reloaded):
    found = np.load(reloaded / f"{case}.outputs.npz")
    expected = tree.flatten(arrays(built(case)(**case.values())))
    assert len(found.files) == len(expected)
    for index, want in enumerate(expected):
        np.testing.assert_allclose(found[f"arr_{index}"], want, rtol=1e-5, atol=1e-6)
