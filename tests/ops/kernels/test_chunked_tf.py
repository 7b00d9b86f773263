"""The chunked kernel on TensorFlow: graphs, XLA, SavedModels, strategies."""

import functools

import keras
import numpy as np
import pytest
from keras import ops as kops

from keras_attn import layers, ops
from keras_attn.ops import AttentionMask
from tests.backend import arrays
from tests.ops.kernels.cases import (
    BIASES,
    MASKS,
    Shape,
    bias_arrays,
    bias_from,
    draw,
    mask_from,
    mask_parts,
)

pytestmark = pytest.mark.backends("tensorflow", reason="the kernel is TensorFlow's")


def _gradients(shape, mask, bias, inputs, extra, **options):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch((inputs, extra))
        made = bias_from(bias, shape, extra)
        context = ops.attention(*inputs, mask=mask, bias=made, **options)
        loss = tf.reduce_sum(tf.sin(context))
    return [
        context,
        *map(tf.convert_to_tensor, tf.nest.flatten(tape.gradient(loss, (inputs, extra)))),
    ]


# tests/ops/kernels/test_grid.py has every mask and bias: called eagerly the kernel is a graph too.
FAST = (
    *((mask, "none", False) for mask in ("none", "uneven_window_padding", "unsorted_ids")),
    *(("causal_window", bias, False) for bias in ("dense", "hiding_buckets")),
    ("causal_padding", "none", True),
    ("causal_window", "buckets", True),
)
GRID = (
    *((mask, "none", False) for mask in MASKS),
    *(("causal_window", bias, False) for bias in BIASES),
    *((mask, "none", True) for mask in ("causal_padding", "window", "unsorted_ids")),
    *(("causal_window", bias, True) for bias in ("dense", "buckets")),
)


@pytest.mark.parametrize(
    ("mask", "bias", "xla"),
    [pytest.param(*case, marks=() if case in FAST else pytest.mark.slow) for case in GRID],
)
def test_compiled_gradients_equal_the_reference_kernel(mask, bias, xla):
    import tensorflow as tf

    shape = Shape(key_heads=3)
    inputs = [tf.constant(x, "float32") for x in draw(shape)]
    extra = [tf.constant(x, "float32") for x in bias_arrays(bias, shape)]
    parts = mask_from(mask_parts(mask, shape))
    options = {"kernel": "chunked", "block_size": 4}
    call = functools.partial(_gradients, shape, parts, bias, inputs, extra, **options)
    found = tf.function(lambda: call(), jit_compile=xla, autograph=False)()
    expected = _gradients(shape, parts, bias, inputs, extra, kernel="reference")
    for have, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(have, want, atol=5e-5)


def test_gpu_tile_sizes_equal_the_reference_kernel(monkeypatch):
    import tensorflow as tf

    from keras_attn.ops.kernels import chunked_tf, plan_tf

    shape = Shape(length=600, keys=600, key_heads=3)  # two blocks of rows on a CPU, one on a GPU
    inputs = [tf.constant(x, "float32") for x in draw(shape)]
    mask = AttentionMask(causal=True)
    expected = _gradients(shape, mask, "none", inputs, [], kernel="reference")
    rows = {}
    for device in ("cpu", "gpu"):
        monkeypatch.setattr(chunked_tf, "device_of", lambda tensor, device=device: device)
        for have, want in zip(
            _gradients(shape, mask, "none", inputs, [], kernel="chunked"), expected, strict=True
        ):
            np.testing.assert_allclose(have, want, atol=5e-5)
        asked = {
            "logits_soft_cap": None,
            "sink": None,
            "dropout": 0.0,
            "seed": None,
            "block_size": None,
            "device": device,
        }
        rows[device] = plan_tf.plan_of(*inputs[:2], mask=mask, scale=1.0, **asked).rows
    assert rows["cpu"] < rows["gpu"] == 600


def test_dynamic_batch_and_length_in_a_saved_model(tmp_path):
    import tensorflow as tf

    spec = tf.TensorSpec((None, None, 2, 4), "float32")

    class Module(tf.Module):
        @tf.function(input_signature=[spec, tf.TensorSpec((None, None), "bool")])
        def attend(self, rows, padding):
            mask = AttentionMask(causal=True, key_padding=padding)
            return ops.attention(rows, rows, rows, mask=mask, kernel="chunked")

    tf.saved_model.save(Module(), str(tmp_path))
    attend = tf.saved_model.load(str(tmp_path)).attend
    for batch, length in ((1, 1), (3, 11), (2, 2053)):
        rows = np.random.default_rng(0).normal(size=(batch, length, 2, 4)).astype("float32")
        padding = np.arange(length)[None] < np.arange(1, batch + 1)[:, None] * 5
        mask = AttentionMask(causal=True, key_padding=kops.convert_to_tensor(padding))
        expected = ops.attention(rows, rows, rows, mask=mask, kernel="reference")
        np.testing.assert_allclose(attend(rows, padding), expected, atol=2e-6)


def _penalty_gradients(inputs, **options):
    """Gradients of a function of the first gradients, as a gradient penalty takes them."""
    import tensorflow as tf

    with tf.GradientTape() as outer:
        outer.watch(inputs)
        with tf.GradientTape() as inner:
            inner.watch(inputs)
            bias, sink = inputs[3:] if len(inputs) > 3 else (None, None)
            context = ops.attention(*inputs[:3], bias=bias, sink=sink, **options)
            loss = tf.reduce_sum(tf.sin(context))
        first = inner.gradient(loss, inputs)
        penalty = tf.add_n([tf.reduce_sum(tf.sin(gradient)) for gradient in first])
    return outer.gradient(penalty, inputs)


@pytest.mark.parametrize(
    ("how", "cap"),
    [
        ("eager", None),
        pytest.param("eager", 0.8, marks=pytest.mark.slow),
        pytest.param("graph", None, marks=pytest.mark.slow),
        ("graph", 0.8),
        ("xla", None),
    ],
)
def test_second_derivatives_equal_the_reference_kernel(how, cap):
    import tensorflow as tf

    shape = Shape(key_heads=3)
    given = (*draw(shape), *bias_arrays("keys", shape), np.linspace(-1, 1, shape.heads))
    inputs = [tf.constant(x, "float32") for x in given]
    mask = mask_from(mask_parts("window_padding", shape))
    options = {"mask": mask, "logits_soft_cap": cap}
    expected = _penalty_gradients(inputs, **options, kernel="reference")

    def run(*inputs):
        return _penalty_gradients(list(inputs), **options, kernel="chunked", block_size=4)

    call = run if how == "eager" else tf.function(run, jit_compile=how == "xla", autograph=False)
    for have, want in zip(call(*inputs), expected, strict=True):
        np.testing.assert_allclose(have, want, atol=2e-5)


def test_second_derivatives_with_an_unknown_length():
    import tensorflow as tf

    inputs = [tf.constant(x, "float32") for x in draw(Shape(key_heads=3))]
    specs = [tf.TensorSpec((None, None, *x.shape[2:]), x.dtype) for x in inputs]
    run = tf.function(lambda *given: _penalty_gradients(list(given)), input_signature=specs)
    expected = _penalty_gradients(inputs, kernel="reference")
    for have, want in zip(run(*inputs), expected, strict=True):
        np.testing.assert_allclose(have, want, atol=2e-5)


def test_second_derivatives_under_dropout_reuse_the_dropout_mask():
    """Against finite differences of the first gradients."""
    import tensorflow as tf

    inputs = [tf.constant(x, "float32") for x in draw(Shape(length=5, heads=2, key_heads=2))]
    options = {"kernel": "chunked", "block_size": 2, "dropout": 0.3, "seed": tf.constant([1, 2])}

    @tf.function(autograph=False)
    def penalty(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(tf.sin(ops.attention(*inputs, **options)))
        return tf.add_n([tf.reduce_sum(tf.sin(g)) for g in tape.gradient(loss, inputs)])

    found = _penalty_gradients(inputs, **options)
    for index, gradient in enumerate(found):
        step = 1e-2 * np.random.default_rng(index).normal(size=gradient.shape)
        up, down = (
            [x + sign * step if i == index else x for i, x in enumerate(inputs)] for sign in (1, -1)
        )
        slope = (float(penalty(*up)) - float(penalty(*down))) / 2
        np.testing.assert_allclose(slope, np.sum(gradient * step), rtol=0.02, atol=1e-3)


def test_equal_calls_share_one_graph_function():
    import tensorflow as tf

    spec = tf.TensorSpec((None, None, 2, 4), "float32")

    def nodes(calls, **options):
        def run(rows):
            for _ in range(calls):
                rows = ops.attention(rows, rows, rows, **options)
            return rows

        graph = tf.function(run, input_signature=[spec]).get_concrete_function().graph
        definition = graph.as_graph_def()
        functions = definition.library.function
        return len(definition.node) + sum(len(function.node_def) for function in functions)

    assert nodes(9) - nodes(1) < nodes(1) / 5
    masks = [AttentionMask(causal=True), AttentionMask(window=3)]
    other = [nodes(1, mask=mask) for mask in masks]
    assert abs(other[0] - other[1]) > 10  # another mask has another graph


def test_fit_under_a_mirrored_strategy_equals_one_device(mirrored):
    x, y = np.random.default_rng(0).normal(size=(2, 8, 11, 6)).astype("float32")

    def fit(kernel):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((None, 6))
        layer = layers.MultiHeadSelfAttention(2, causal=True, kernel=kernel)
        model = keras.Model(inputs, layer(inputs))
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
        history = model.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0)
        return history.history["loss"]

    expected = fit("reference")
    with mirrored.scope():
        np.testing.assert_allclose(fit("chunked"), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tiles_of_every_size_equal_the_reference_kernel(dtype):
    """Lengths at which a tile holds several heads, one head, or some of the rows."""
    rng = np.random.default_rng(0)
    for length, window in ((700, None), (1500, None), (1500, 40)):
        inputs = [kops.cast(rng.normal(size=(1, length, 4, 8)), dtype) for _ in range(3)]
        mask = AttentionMask(causal=True, window=window)
        have, want = (
            arrays(ops.attention(*inputs, mask=mask, kernel=kernel))
            for kernel in ("chunked", "reference")
        )
        np.testing.assert_allclose(have, want, atol=2e-6 if dtype == "float32" else 3e-2)


@pytest.mark.parametrize("xla", [False, True])
def test_gradients_with_an_unknown_length(xla):
    import tensorflow as tf

    spec = tf.TensorSpec((None, None, 2, 4), "float32")

    def gradients(rows, kernel):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            mask = AttentionMask(causal=True)
            context = ops.attention(rows, rows, rows, mask=mask, kernel=kernel)
            loss = tf.reduce_sum(tf.sin(context))
        return tape.gradient(loss, rows)

    @tf.function(input_signature=[spec], jit_compile=xla)
    def run(rows):
        return gradients(rows, "auto")

    for batch, length in ((3, 11), (1, 2053)):
        rows = tf.random.stateless_normal((batch, length, 2, 4), (1, 2))
        np.testing.assert_allclose(run(rows), gradients(rows, "reference"), atol=1e-4)


@pytest.mark.parametrize("sizes", [(0, 3, 5), (2, 0, 5), (2, 3, 0)], ids=str)
def test_empty_inputs_give_empty_or_zero_outputs(sizes, tmp_path):
    import tensorflow as tf

    batch, length, keys = sizes

    def attend(query, key):
        mask = AttentionMask(window=2)
        return ops.attention(query, key, key, mask=mask, kernel="chunked", block_size=2)

    def run(query, key):
        with tf.GradientTape() as tape:
            tape.watch((query, key))
            context = attend(query, key)
        return context, *tape.gradient(context, (query, key))

    query, key = tf.ones((batch, length, 4, 3)), tf.ones((batch, keys, 2, 3))
    for call in (run, tf.function(run)):
        for have, like in zip(call(query, key), (query, query, key), strict=True):
            np.testing.assert_array_equal(have, tf.zeros_like(like))

    module = tf.Module()
    specs = [tf.TensorSpec((None, length or None, 4, 3)), tf.TensorSpec((None, keys or None, 2, 3))]
    module.attend = tf.function(attend, input_signature=specs)
    tf.saved_model.save(module, str(tmp_path))
    served = tf.saved_model.load(str(tmp_path)).attend
    assert served(query, key).shape == query.shape
    assert served(tf.ones((2, 3, 4, 3)), tf.ones((2, 5, 2, 3))).shape == (2, 3, 4, 3)


def test_an_eager_tape_does_not_store_tiles():
    import gc

    import tensorflow as tf

    def tiles():
        # Not isinstance, which reads `__class__` of every object and makes some warn.
        found = (x for x in gc.get_objects() if issubclass(type(x), tf.Tensor))
        return sum(x.shape == (1, 10, 40) for x in found)

    rows = tf.ones((1, 40, 1, 3))
    before = tiles()  # those of other tests
    with tf.GradientTape() as tape:
        tape.watch(rows)
        context = ops.attention(rows, rows, rows, kernel="chunked", block_size=10)
        assert tiles() == before
    assert tape.gradient(context, rows).shape == rows.shape
