"""Recomputed blocks: the same numbers, bit for bit where possible, with less memory."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_attn import layers
from keras_attn.ops.remat import remat
from tests.backend import BACKEND, arrays, gradients, layer_gradients, penalty, tensors

B, T, S, D, N, F = 3, 5, 7, 12, 3, 31
RNG = np.random.default_rng(0)
INPUTS = {"inputs": RNG.normal(size=(B, T, D)).astype("float32"), "mask": RNG.random((B, T)) < 0.8}
CONTEXT = {"context": RNG.normal(size=(B, S, D)).astype("float32")}
BLOCKS = pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        (layers.TransformerEncoderBlock, INPUTS),
        (layers.TransformerDecoderBlock, {**INPUTS, **CONTEXT}),
    ],
    ids=["encoder", "decoder"],
)
DROPOUTS = {"dropout": 0.3, "attention_dropout": 0.2, "seed": 5}


def pair(kind, inputs, **options):
    """Two blocks with the same weights and seeds, the second with `remat`."""
    blocks = [kind(N, F, remat=remat, **DROPOUTS, **options) for remat in (False, True)]
    for block in blocks:
        block(**inputs)
    blocks[1].set_weights(blocks[0].get_weights())
    return blocks


def seeds(block):
    return [arrays(v.value) for v in block.variables if "seed" in v.path]


@pytest.mark.parametrize(
    "policy", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.slow_on("jax"))]
)
@BLOCKS
def test_outputs_and_gradients_are_the_same_with_dropout(kind, inputs, policy):
    position = layers.RelativePositionBias(N, num_buckets=8, initializer="normal")
    plain, again = pair(kind, inputs, position=position, dtype=policy)
    np.testing.assert_array_equal(
        arrays(plain(**inputs, training=True)), arrays(again(**inputs, training=True))
    )
    want = layer_gradients(plain, inputs, training=True)
    have = layer_gradients(again, inputs, training=True)
    # XLA fuses the two programs differently.
    error = 0.0 if BACKEND != "jax" else 1e-6 if policy == "float32" else 2e-2
    for name, gradient in want.items():
        scale = max(1, np.abs(gradient).max())
        np.testing.assert_allclose(have[name], gradient, rtol=0, atol=error * scale, err_msg=name)
    assert all(np.abs(gradient).max() > 0 for gradient in want.values())


def test_every_call_draws_new_dropout_masks_and_updates_the_seeds():
    plain, again = pair(layers.TransformerEncoderBlock, INPUTS)
    before = seeds(again)
    first, second = (arrays(again(**INPUTS, training=True)) for _ in range(2))
    assert not np.allclose(first, second)
    for _ in range(2):
        plain(**INPUTS, training=True)
    np.testing.assert_array_equal(seeds(again), seeds(plain))
    assert not np.array_equal(before, seeds(again))


def test_attention_scores_are_returned_unchanged():
    plain, again = pair(layers.TransformerEncoderBlock, INPUTS)
    options = {"return_attention_scores": True, "training": True}
    for have, want in zip(again(**INPUTS, **options), plain(**INPUTS, **options), strict=True):
        np.testing.assert_array_equal(arrays(have), arrays(want))


def test_the_keras_mask_of_the_inputs_is_used():
    plain, again = pair(layers.TransformerEncoderBlock, INPUTS)
    padded = np.where(INPUTS["mask"][..., None], INPUTS["inputs"], 0.0)
    ids = np.zeros((B, T), "int32")
    have, want = (
        block(keras.layers.Masking()(tensors(padded)), sequence_ids=ids, training=True)
        for block in (again, plain)
    )
    np.testing.assert_array_equal(arrays(have), arrays(want))


def test_the_function_is_run_again_in_the_backward_pass():
    calls = []
    weight = keras.Variable([2.0, 3.0])

    def function(x):
        calls.append(1)
        return ops.exp(x * weight)

    found = gradients(lambda x: ops.sum(remat(function, [weight])(x)), np.ones(2, "float32"))[0]
    np.testing.assert_allclose(found, [2 * np.exp(2), 3 * np.exp(3)], rtol=1e-5)
    assert len(calls) == 2


def test_second_derivatives_equal_those_without_recomputation():
    weight = keras.Variable([2.0, 3.0])

    def function(x):
        return ops.sin(x * weight) * x

    def loss(again):
        def total(x, value):
            with keras.StatelessScope(state_mapping=[(weight, value)]):
                outputs = remat(function, [weight])(x) if again else function(x)
            return ops.sum(outputs**2)

        return total

    inputs = np.array([0.3, 0.4], "float32"), np.array([2.0, 3.0], "float32")
    want, have = (gradients(penalty(loss(again)), *inputs) for again in (False, True))
    for one, other in zip(have, want, strict=True):
        assert other.all()
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_recomputation_casts_weights_as_the_layer_does():
    class Scale(keras.layers.Layer):
        def build(self, _):
            self.factor = self.add_weight(name="factor", shape=(2,), initializer="ones")

        def call(self, inputs):
            outputs = remat(lambda x: x * self.factor, [self.factor])(inputs)
            assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
            return outputs

    layer, inputs = Scale(dtype="mixed_bfloat16"), {"inputs": np.ones((3, 2), "float32")}
    layer(**inputs)
    found = layer_gradients(layer, inputs)
    assert found["input:inputs"].all() and found["factor"].all()


def model(remat, blocks=2, **compiling):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((None, D))
    hidden = inputs
    for seed in range(blocks):
        hidden = layers.TransformerEncoderBlock(
            N, F, dropout=0.3, attention_dropout=0.2, remat=remat, seed=seed
        )(hidden)
    built = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    built.compile(keras.optimizers.SGD(0.1), "mse", **compiling)
    return built


class Losses(keras.callbacks.Callback):
    """The mean loss up to each batch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_end(self, batch, logs=None):
        self.found.append(logs["loss"])


def training_losses(model):
    rng, losses = np.random.default_rng(0), Losses()
    x, y = rng.normal(size=(12, T, D)), rng.normal(size=(12, T, 1))
    model.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0, callbacks=[losses])
    return losses.found


# Keras compiles everything on JAX and nothing on torch.
MODES = [{}, {"jit_compile": True, "blocks": 1}] if BACKEND == "tensorflow" else [{}]
MODES += [pytest.param({"run_eagerly": True}, marks=pytest.mark.slow)] * (BACKEND == "tensorflow")


@pytest.mark.parametrize("compiling", MODES, ids=str)
def test_training_losses_equal_those_without_recomputation(compiling):
    plain, again = (training_losses(model(remat, **compiling)) for remat in (False, True))
    assert len(plain) == 9
    np.testing.assert_allclose(again, plain, rtol=1e-5)


@pytest.mark.slow  # tests/test_keras.py has a fast case
@pytest.mark.backends("tensorflow", reason="the strategy is TensorFlow's")
def test_training_losses_on_two_devices_equal_those_without_recomputation(mirrored):
    with mirrored.scope():
        plain, again = (training_losses(model(again)) for again in (False, True))
    assert len(plain) == 9
    np.testing.assert_allclose(again, plain, rtol=1e-5)


@pytest.mark.backends("tensorflow", reason="a graph is TensorFlow's")
def test_the_inference_graph_is_the_same_without_recomputation():
    import tensorflow as tf

    graphs = []
    for block in pair(layers.TransformerEncoderBlock, INPUTS):
        traced = tf.function(lambda given, block=block: block(given, training=False))
        graph = traced.get_concrete_function(tf.TensorSpec((None, None, D))).graph
        graphs.append([op.type for op in graph.get_operations()])
    assert graphs[0] == graphs[1]


PEAK = """
import sys
from pathlib import Path
import numpy as np
from tests.ops.test_remat import peak_model
def held(what):
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) / 1024
x = np.zeros((8, 512, 64), "float32")
trained = peak_model(sys.argv[1] == "True")
trained.fit(x[:1, :3], x[:1, :3], verbose=0)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here: a child has its parent's
before = held("VmRSS")
trained.fit(x, x, batch_size=8, verbose=0)
print(held("VmHWM") - before)
"""


def peak(remat):
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(remat)],
        env=os.environ | {"KERAS_BACKEND": BACKEND, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return float(done.stdout)


def peak_model(remat):
    inputs = hidden = keras.Input((None, 64))
    for _ in range(8):
        hidden = layers.TransformerEncoderBlock(4, 512, remat=remat, kernel="reference")(hidden)
    built = keras.Model(inputs, hidden)
    built.compile("sgd", "mse", jit_compile=False)
    return built


@pytest.mark.slow
def test_eight_blocks_take_less_than_half_the_memory():
    assert 0 < peak(True) < peak(False) / 2
