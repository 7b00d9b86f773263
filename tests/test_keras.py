"""Our patches of Keras compute what Keras would without its bug."""

import contextlib
import itertools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.trainable import BATCH, bert_pretraining, compiled, translator


@pytest.mark.backends("tensorflow", reason="tf.distribute is TensorFlow's")
@pytest.mark.parametrize(
    "make", [bert_pretraining, pytest.param(translator, marks=pytest.mark.slow)]
)
def test_two_replicas_train_as_one_device_does(make):
    code = f"from tests.test_keras import train_twice; train_twice({make.__name__!r})"
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    alone, mirrored = json.loads(ran.stdout.splitlines()[-1])
    for have, want in zip(mirrored, alone, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)


def batches(x, y):
    """The two halves of the batch in turn, endlessly: a lost half changes the result."""
    for half in itertools.cycle((slice(None, BATCH // 2), slice(BATCH // 2, None))):
        yield keras.tree.map_structure(lambda rows, half=half: rows[half], (x, y))


def train_twice(name):
    """Losses, those of an evaluation and the weights' sums: on one device, then on two."""
    import tensorflow as tf

    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    alone, found = contextlib.nullcontext(), []
    for scope in (alone, mirrored.scope()):
        with scope:
            keras.utils.set_random_seed(0)
            _, x, y = given = globals()[name](dropout=0.0)
            eager = scope is alone  # faster than tracing a graph
            model = compiled(given, run_eagerly=eager, jit_compile=False)
        history = model.fit(batches(x, y), steps_per_epoch=2, epochs=4, shuffle=False, verbose=0)
        evaluated = model.evaluate(x, y, batch_size=BATCH, verbose=0)
        sums = [float(keras.ops.sum(variable**2)) for variable in model.weights]
        found.append([history.history["loss"], np.ravel(evaluated).tolist(), sums])
    print(json.dumps(found))
