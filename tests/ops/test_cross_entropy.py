"""Chunked cross entropy against float64 numpy and Keras, and its memory."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from scipy.special import logsumexp

from keras_attn.ops.cross_entropy import linear_cross_entropy
from tests.backend import arrays, gradients, penalty, tensors

R, V, D = 37, 29, 7
RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(R, D)).astype("float32")
MATRIX = RNG.normal(size=(V, D)).astype("float32")
BIAS = RNG.normal(size=V).astype("float32")
LABELS = RNG.integers(0, V, R).astype("int32")
LABELS[[3, 11, R - 1]] = -1
WEIGHTS = RNG.uniform(0.5, 2, R).astype("float32")
WEIGHTS[[0, 20]] = 0
UPSTREAM = RNG.normal(size=R).astype("float32")
COUNTS = (LABELS >= 0) & (WEIGHTS != 0)
ON_JAX = pytest.mark.slow_on("jax")
CHUNKS = pytest.mark.parametrize(
    "chunk_size", [pytest.param(1, marks=ON_JAX), 5, pytest.param(R, marks=ON_JAX), 1024]
)


def expected(smoothing, bias=BIAS):
    """Losses, and gradients of `UPSTREAM @ losses`, in float64."""
    hidden, matrix = HIDDEN.astype("float64"), MATRIX.astype("float64")
    logits = hidden @ matrix.T + bias
    log_probabilities = logits - logsumexp(logits, axis=1, keepdims=True)
    target = np.full((R, V), smoothing / V)
    target[np.arange(R), LABELS] += 1 - smoothing
    factor = np.where(COUNTS, WEIGHTS, 0.0)
    losses = -factor * (target * log_probabilities).sum(1)
    d_logits = (UPSTREAM * factor)[:, None] * (np.exp(log_probabilities) - target)
    return losses, [d_logits @ matrix, d_logits.T @ hidden, d_logits.sum(0)]


def chunked(hidden=HIDDEN, matrix=MATRIX, bias=BIAS, labels=LABELS, weights=WEIGHTS, **options):
    given = (None if t is None else tensors(t) for t in (hidden, matrix, bias, labels, weights))
    return linear_cross_entropy(*given, **options)


def total(hidden, matrix, bias, **options):
    losses = linear_cross_entropy(
        hidden, matrix, bias, tensors(LABELS), tensors(WEIGHTS), **options
    )
    return ops.sum(losses * tensors(UPSTREAM))


@CHUNKS
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_losses_and_gradients_equal_numpy(label_smoothing, chunk_size):
    options = {"label_smoothing": label_smoothing, "chunk_size": chunk_size}
    losses, wanted = expected(label_smoothing)
    np.testing.assert_allclose(arrays(chunked(**options)), losses, rtol=1e-5, atol=1e-5)
    found = gradients(lambda *given: total(*given, **options), HIDDEN, MATRIX, BIAS)
    for have, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)


def test_second_derivatives_equal_those_of_plain_operations():
    labels, smoothing = np.maximum(LABELS, 0)[:11], 0.3
    inputs = HIDDEN[:11], MATRIX, BIAS

    def plain(hidden, matrix, bias):
        logits = hidden @ ops.transpose(matrix) + bias
        own = ops.take_along_axis(logits, tensors(labels)[:, None], axis=1)[:, 0]
        return ops.logsumexp(logits, -1) - (1 - smoothing) * own - smoothing * ops.mean(logits, -1)

    def ours(*given):
        return linear_cross_entropy(
            *given, tensors(labels), label_smoothing=smoothing, chunk_size=4
        )

    have, want = (
        # The sine makes the gradient depend on the losses too.
        gradients(penalty(lambda *given, f=function: ops.sum(ops.sin(f(*given)))), *inputs)
        for function in (ours, plain)
    )
    for one, other in zip(have, want, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * max(1, np.abs(other).max()))


def test_losses_equal_keras_when_every_label_is_valid():
    labels = np.abs(LABELS)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    want = loss(labels, HIDDEN @ MATRIX.T)
    have = chunked(bias=None, labels=labels, weights=None, chunk_size=8)
    np.testing.assert_allclose(arrays(have), arrays(want), rtol=1e-5, atol=1e-5)


def test_omitting_the_bias_equals_a_zero_bias():
    found = gradients(lambda h, m: total(h, m, None, chunk_size=8), HIDDEN, MATRIX)
    _, wanted = expected(0.0, bias=0.0)
    for have, want in zip(found, wanted, strict=False):
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)


def test_an_ignored_row_may_hold_nan():
    hidden = np.where(COUNTS[:, None], HIDDEN, np.nan)
    losses = arrays(chunked(hidden, chunk_size=8))
    np.testing.assert_allclose(losses, expected(0.0)[0], rtol=1e-5, atol=1e-5)
    assert not losses[~COUNTS].any()
    found = gradients(lambda *given: total(*given, chunk_size=8), hidden, MATRIX, BIAS)
    assert not found[0][~COUNTS].any()
    for have, want in zip(found, expected(0.0)[1], strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kinds", [("bfloat16", "bfloat16"), ("float16", "float32")], ids=str)
def test_half_precision_inputs_give_float32_losses(kinds):
    hidden, matrix = (ops.cast(x, kind) for x, kind in zip((HIDDEN, MATRIX), kinds, strict=True))
    losses = linear_cross_entropy(
        hidden, matrix, tensors(BIAS), tensors(LABELS), tensors(WEIGHTS), chunk_size=8
    )
    assert keras.backend.standardize_dtype(losses.dtype) == "float32"
    np.testing.assert_allclose(arrays(losses), expected(0.0)[0], rtol=0.02, atol=0.05)

    def half_precision_total(h, m, b):
        return total(ops.cast(h, kinds[0]), ops.cast(m, kinds[1]), b, chunk_size=8)

    for have, want in zip(
        gradients(half_precision_total, HIDDEN, MATRIX, BIAS), expected(0.0)[1], strict=True
    ):
        assert np.linalg.norm(have - want) < 0.02 * np.linalg.norm(want)


@pytest.mark.backends("tensorflow", "jax", reason="Keras compiles nothing on torch")
@pytest.mark.parametrize("mode", ["xla", "dynamic"])
def test_compiled_losses_and_gradients_equal_numpy(mode):
    losses, wanted = expected(0.3)
    if keras.backend.backend() == "jax":
        import jax

        run = jax.jit(jax.grad(lambda h: total(h, MATRIX, BIAS, label_smoothing=0.3, chunk_size=8)))
        np.testing.assert_allclose(run(HIDDEN), wanted[0], rtol=1e-4, atol=1e-5)
        return
    import tensorflow as tf

    def step(hidden, labels, weights, upstream):
        matrix = tf.constant(MATRIX)
        with tf.GradientTape() as tape:
            tape.watch([hidden, matrix])
            found = linear_cross_entropy(
                hidden, matrix, BIAS, labels, weights, label_smoothing=0.3, chunk_size=8
            )
            loss = tf.reduce_sum(found * upstream)
        return found, tape.gradient(loss, [hidden, matrix])

    rows = None if mode == "dynamic" else R
    signature = [tf.TensorSpec((rows, D)), tf.TensorSpec((rows,), "int32")]
    signature += [tf.TensorSpec((rows,)), tf.TensorSpec((rows,))]
    run = tf.function(step, input_signature=signature, jit_compile=mode == "xla")
    found, (d_hidden, d_matrix) = run(HIDDEN, LABELS, WEIGHTS, UPSTREAM)
    np.testing.assert_allclose(found, losses, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(d_hidden, wanted[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(d_matrix, wanted[1], rtol=1e-4, atol=1e-5)


def test_invalid_arguments_raise():
    for message, arguments in {
        r"`hidden` must have shape \[rows, width\], got shape \(37,\)": {"hidden": HIDDEN[:, 0]},
        r"`matrix` must have shape \[vocabulary, width\] = \(None, 7\), got shape \(29, 6\)": {
            "matrix": MATRIX[:, 1:]
        },
        r"`bias` must have shape \[vocabulary\] = \(29,\), got shape \(28,\)": {"bias": BIAS[1:]},
        "`labels` must be integers, got float32": {"labels": WEIGHTS},
        r"`labels` must be in \[0, 29\), got 29": {"labels": np.full(R, V)},
        r"`label_smoothing` must be in \[0, 1\), got 1.0": {"label_smoothing": 1.0},
        "`chunk_size` must be a positive integer, got 0": {"chunk_size": 0},
    }.items():
        with pytest.raises(ValueError, match=message):
            chunked(**arguments)


@pytest.mark.parametrize("name", ["labels", "weights"])
@pytest.mark.parametrize("shape", [(), (1,), (R + 1,), (R, 1), (R - 1, 2)], ids=str)
def test_labels_and_weights_of_the_wrong_shape_raise(name, shape):
    wanted = rf"`{name}` must have shape [rows] = (37,), got shape {shape}"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        chunked(**{name: np.ones(shape, "int32")})


def test_lists_are_accepted():
    found = linear_cross_entropy(*(x.tolist() for x in (HIDDEN, MATRIX, BIAS, LABELS, WEIGHTS)))
    np.testing.assert_allclose(arrays(found), expected(0.0)[0], rtol=1e-5, atol=1e-5)


CHILD = """
import resource, sys
import numpy as np
from keras import ops
from keras_attn.ops.cross_entropy import linear_cross_entropy
from tests.backend import gradients

R, V, D = 8192, 30522, 64

def whole(hidden, matrix):
    logits = ops.matmul(hidden, ops.transpose(matrix))
    return ops.sum(ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))

def chunked(hidden, matrix):
    return ops.sum(linear_cross_entropy(hidden, matrix, None, labels))

def run(function, rows):
    rng = np.random.default_rng(0)
    global labels
    labels = ops.convert_to_tensor(rng.integers(0, V, rows).astype("int32"))
    inputs = rng.normal(size=(rows, D)), rng.normal(size=(V, D))
    gradients(function, *(x.astype("float32") for x in inputs))

function = {"whole": whole, "chunked": chunked}[sys.argv[1]]
run(function, 8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(function, R)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def peak(name):
    """Additional megabytes for the losses and gradients of a large case, after a small one."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, name],
        env=os.environ | {"KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return float(done.stdout)


@pytest.mark.slow
def test_peak_memory_is_far_below_that_of_all_logits():
    assert peak("chunked") < peak("whole") / 3


@pytest.mark.backends("jax", reason="symbolic lengths are JAX's")
def test_a_symbolic_number_of_rows_is_accepted():
    import jax

    def losses(hidden, labels):
        return linear_cross_entropy(hidden, tensors(MATRIX), None, labels, chunk_size=16)

    def gradient(hidden, labels):
        return jax.grad(lambda hidden: losses(hidden, labels).sum())(hidden)

    (rows,) = jax.export.symbolic_shape("rows")
    shapes = jax.ShapeDtypeStruct((rows, D), "float32"), jax.ShapeDtypeStruct((rows,), "int32")
    for function in (losses, gradient):
        exported = jax.export.export(jax.jit(function))(*shapes)
        for count in (1, 16, R):
            given = tensors(HIDDEN[:count]), tensors(LABELS[:count])
            expected = jax.jit(function)(*given)
            np.testing.assert_allclose(exported.call(*given), expected, atol=1e-5)
