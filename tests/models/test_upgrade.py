"""Keras and keras-hub models, upgraded to our attention."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_attn
from keras_attn import layers
from keras_attn._keras import DotProductAttention as KerasOperation
from keras_attn.models.comparison import Comparison
from keras_attn.ops.dot_product_attention import DotProductAttention
from tests.backend import BACKEND, arrays

B, T, S, D, N, K, H, V = 2, 7, 5, 12, 6, 3, 5, 23

IDS = np.array([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 0, 0, 0]], "int32")
CONTEXT = np.array([[8, 9, 7, 9, 3], [2, 3, 0, 0, 0]], "int32")
REAL = IDS > 0

# JAX compiles each case, and what an upgrade replaces does not depend on the backend.
ON_JAX = pytest.mark.slow_on("jax")
DROPS_MASKS = pytest.mark.filterwarnings("ignore:(?s).*of type EinsumDense")  # keras-hub's own


def randomize(model):
    rng = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape) / 4)


def embed(name="ids", mask_zero=True):
    ids = keras.Input((None,), dtype="int32", name=name)
    return ids, kl.Embedding(V, D, mask_zero=mask_zero, name=f"{name}_embedding")(ids)


def model_of(inputs, outputs, **options):
    model = keras.Model(inputs, outputs, **options)
    randomize(model)
    return model


def check(model, *inputs, real=None, replaced=None, left=None):
    """Upgrade and compare: equal outputs, expected entries; returns the upgraded model."""
    expected = arrays(model(*inputs))
    result = keras_attn.upgrade(model)
    if replaced is not None:
        assert result.replaced == replaced
    assert result.left == (left or {})
    assert_equal(result.model, inputs, expected, real)
    assert_equal(model, inputs, expected, real)
    return result.model


def assert_equal(model, inputs, expected, real):
    got = arrays(model(*inputs))
    for ours, theirs in zip(keras.tree.flatten(got), keras.tree.flatten(expected), strict=True):
        if real is not None:
            ours, theirs = ours[real], theirs[real]
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)


def reload(model, path):
    model.save(path)
    return keras.models.load_model(path)


# Attention layers


@ON_JAX
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=ON_JAX), 0.3])
def test_self_attention_with_padding_is_replaced(causal, dropout, tmp_path):
    ids, hidden = embed()
    value_dim = H if BACKEND == "jax" else 3  # Keras supports no other there
    attention = kl.MultiHeadAttention(N, H, value_dim, dropout, name="attention")
    model = model_of(ids, attention(hidden, hidden, use_causal_mask=causal))
    upgraded = check(model, IDS, real=REAL, replaced=("attention",))
    layer = upgraded.get_layer("attention")
    assert type(layer) is layers.MultiHeadAttention
    assert (layer.dropout, layer.value_dim) == (dropout, value_dim)
    assert keras_attn.upgrade(upgraded).replaced == ()
    assert_equal(reload(upgraded, tmp_path / "m.keras"), (IDS,), arrays(upgraded(IDS)), None)


@ON_JAX
def test_cross_attention_with_key_and_scores_is_replaced():
    ids, hidden = embed()
    context_ids, context = embed("context")
    attention = kl.MultiHeadAttention(N, H, output_shape=11, use_bias=False)
    keys = kl.Dense(4)(context)
    outputs = attention(hidden, context, key=keys, return_attention_scores=True)
    check(
        model_of([ids, context_ids], outputs[0]),
        [IDS, CONTEXT],
        real=REAL,
        replaced=(attention.name,),
    )


def test_returned_scores_stay_equal():
    inputs = keras.Input((T, D))
    outputs = kl.MultiHeadAttention(N, H)(inputs, inputs, return_attention_scores=True)
    check(model_of(inputs, outputs), np.random.default_rng(0).normal(size=(B, T, D)))


@ON_JAX
@pytest.mark.parametrize(
    "shape", [*(pytest.param(s, marks=ON_JAX) for s in ((T, T), (1, T, T))), (1, N, T, T)]
)
def test_a_constant_attention_mask_is_kept(shape):
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 2, size=shape) | np.eye(T, dtype=int)
    inputs = keras.Input((T, D))
    outputs = kl.MultiHeadAttention(N, H)(inputs, inputs, attention_mask=mask, use_causal_mask=True)
    check(model_of(inputs, outputs), rng.normal(size=(B, T, D)))


@pytest.mark.parametrize("dtype", ["bool", pytest.param("int32", marks=ON_JAX), "float32"])
def test_an_attention_mask_input_is_kept(dtype):
    rng = np.random.default_rng(0)
    mask = (rng.integers(0, 2, size=(B, T, T)) | np.eye(T, dtype=int)).astype(dtype)
    inputs, masks = keras.Input((T, D)), keras.Input((T, T), dtype=dtype)
    outputs = kl.MultiHeadAttention(N, H)(inputs, inputs, attention_mask=masks)
    check(model_of([inputs, masks], outputs), [rng.normal(size=(B, T, D)), mask])


@ON_JAX
@DROPS_MASKS
@pytest.mark.parametrize("causal", [pytest.param(False, marks=ON_JAX), True])
@pytest.mark.parametrize(
    "window", [pytest.param(2, marks=ON_JAX), 3, pytest.param(None, marks=ON_JAX)]
)
def test_grouped_query_attention_with_a_window_is_replaced(causal, window):
    ids, hidden = embed()
    attention = kl.GroupQueryAttention(H, N, K, sliding_window=window)
    model = model_of(ids, attention(hidden, hidden, use_causal_mask=causal))
    upgraded = check(model, IDS, real=REAL, replaced=(attention.name,))
    ours = upgraded.get_layer(attention.name)
    assert type(ours) is layers.GroupQueryAttention
    assert (ours.num_key_value_heads, ours.sliding_window) == (K, window)


@pytest.mark.parametrize(
    "options",
    [
        {"use_gate": True},
        {"sliding_window": 1},
        pytest.param({"kernel_regularizer": "l2", "bias_constraint": "non_neg"}, marks=ON_JAX),
        pytest.param({"output_shape": (3, 2)}, marks=ON_JAX),
    ],
    ids=str,
)
def test_options_of_multi_head_attention_are_kept(options):
    inputs = keras.Input((T, D))
    attention = kl.MultiHeadAttention(N, H, name="attention", **options)
    model = model_of(inputs, attention(inputs, inputs))
    check(model, np.random.default_rng(0).normal(size=(B, T, D)), replaced=("attention",))


def test_attention_axes_are_kept():
    inputs = keras.Input((4, T, D))
    attention = kl.MultiHeadAttention(N, H, attention_axes=2, name="attention")
    model = model_of(inputs, attention(inputs, inputs))
    check(model, np.random.default_rng(0).normal(size=(B, 4, T, D)), replaced=("attention",))


@pytest.mark.slow_on("jax")
def test_the_window_of_multi_head_attention_is_kept():
    ids, hidden = embed()
    outputs = kl.MultiHeadAttention(N, H, sliding_window=3)(hidden, hidden)
    check(model_of(ids, outputs), IDS, real=REAL)


@ON_JAX
def test_masks_that_keras_loses_are_applied():
    """Keras' second attention reads padding, since the first one dropped the mask."""
    ids, hidden = embed()
    context_ids, context = embed("context")
    for _ in range(2):
        attended = kl.MultiHeadAttention(N, H)(hidden, context)
        hidden = kl.LayerNormalization()(kl.Add()([hidden, attended]))
        hidden = kl.MultiHeadAttention(N, H)(hidden, hidden)
    model = model_of([ids, context_ids], hidden)
    upgraded = keras_attn.upgrade(model).model
    expected = arrays(model([IDS[1:, :4], CONTEXT[1:, :2]]))
    padded = arrays(upgraded([IDS, CONTEXT]))
    np.testing.assert_allclose(padded[1:, :4], expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(padded[:1], arrays(model([IDS[:1], CONTEXT[:1]])), atol=1e-5)


# Models


def test_sequential_and_nested_models_keep_shared_layers():
    inputs = keras.Input((None, D))
    attention = kl.MultiHeadAttention(N, H, name="attention")
    inner = keras.Model(inputs, inputs + attention(inputs, inputs), name="inner")
    middle = keras.Sequential([keras.Input((None, D)), kl.Dense(D), inner], name="middle")
    outer = keras.Input((None, D), name="outer")
    hidden = inner(middle(outer))
    model = model_of(outer, [attention(hidden, hidden), hidden])
    batch = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")
    upgraded = check(model, batch, replaced=("middle/inner/attention",))
    assert upgraded.get_layer("inner").get_layer("attention") is upgraded.get_layer("attention")
    assert upgraded.get_layer("middle").layers[0] is middle.layers[0]


@pytest.mark.parametrize("twice", [pytest.param(False, marks=ON_JAX), True])
def test_an_upgraded_nested_model_can_be_reloaded(twice, tmp_path):
    inputs = keras.Input((None, D))
    outputs = kl.MultiHeadAttention(N, H, name="attention")(inputs, inputs)
    inner = keras.Model(inputs, outputs, name="inner")
    outer = keras.Input((None, D))
    model = model_of(outer, inner(inner(outer) if twice else outer))
    batch = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")
    upgraded = check(model, batch, replaced=("inner/attention",))
    loaded = reload(upgraded, tmp_path / "m.keras")
    assert_equal(loaded, (batch,), arrays(upgraded(batch)), None)


def test_a_compiled_model_stays_compiled_and_frozen_layers_stay_frozen():
    ids, hidden = embed()
    attention = kl.MultiHeadAttention(N, H, name="attention")
    model = model_of(ids, kl.GlobalAveragePooling1D()(attention(hidden, hidden)))
    attention.trainable = False
    model.compile("sgd", "mse")
    upgraded = check(model, IDS)
    assert len(upgraded.trainable_weights) == len(model.trainable_weights) == 1
    upgraded.fit(IDS, np.zeros((B, D)), verbose=0)


@pytest.mark.slow_on("jax")
@pytest.mark.parametrize("scaled", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_optimizer_of_a_nested_model_keeps_its_state(scaled):
    """Two runs of equal steps, of which one is upgraded in the middle."""
    batch = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")
    x, y = batch, batch[:, 0, :3]

    def make():
        inputs, outer = keras.Input((T, D)), keras.Input((T, D))
        # Without biases: the gradient of the key's is nothing but rounding.
        attention = kl.MultiHeadAttention(N, H, use_bias=False)
        inner = keras.Model(inputs, attention(inputs, inputs), name="inner")
        pooled = kl.GlobalAveragePooling1D()(inner(kl.Dense(D)(outer)))
        model = model_of(outer, kl.Dense(3)(pooled))
        optimizer = keras.optimizers.Adam(0.05, beta_1=0.99)
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, 8.0, dynamic_growth_steps=3)
        model.compile(optimizer, "mse", run_eagerly=True)
        return model

    whole, upgraded = make(), make()
    for model, epochs in ((whole, 4), (upgraded, 2)):
        model.fit(x, y, epochs=epochs, verbose=0)
    result = keras_attn.upgrade(upgraded)
    assert len(result.replaced) == 1 and result.model is not upgraded
    result.model.fit(x, y, epochs=2, verbose=0)
    for one, other in zip(result.model.weights, whole.weights, strict=True):
        np.testing.assert_allclose(arrays(one), arrays(other), atol=2e-5, err_msg=other.path)
    for one, other in zip(result.model.optimizer.variables, whole.optimizer.variables, strict=True):
        np.testing.assert_allclose(arrays(one), arrays(other), atol=2e-5, err_msg=other.path)


@pytest.mark.backends("tensorflow", "torch", reason="JAX has no float64 unless it is told to")
def test_float64_and_a_mask_as_a_list_are_kept():
    keras.config.set_dtype_policy("float64")
    mask = [[True] * 3 + [False] * (T - 3)] + [[False, True] * (T // 2) + [True]] * (T - 1)
    inputs = keras.Input((T, D), dtype="float64")
    attention = kl.MultiHeadAttention(N, H, name="attention")
    hidden = attention(inputs, inputs, attention_mask=mask)
    model = model_of(inputs, Custom()(hidden))
    batch = np.random.default_rng(0).normal(size=(B, T, D))
    expected = arrays(model(batch))
    result = keras_attn.upgrade(model)
    assert len(result.replaced) == 2 and result.difference < 1e-5
    got = result.model(batch)
    assert keras.backend.standardize_dtype(got.dtype) == "float64"
    rounding = 1e-6 if BACKEND == "torch" else 1e-12  # Keras' own computes in float32 on torch
    np.testing.assert_allclose(arrays(got), expected, atol=rounding)


@ON_JAX
def test_mixed_precision_is_kept():
    keras.config.set_dtype_policy("mixed_bfloat16")
    ids, hidden = embed()
    model = model_of(ids, kl.MultiHeadAttention(N, H)(hidden, hidden))
    upgraded = keras_attn.upgrade(model).model
    assert upgraded.layers[-1].dtype_policy.name == "mixed_bfloat16"
    np.testing.assert_allclose(
        arrays(upgraded(IDS))[REAL], arrays(model(IDS))[REAL], atol=0.1, rtol=0.05
    )


@pytest.mark.backends("tensorflow", reason="a SavedModel is TensorFlow's")
def test_an_upgraded_model_runs_as_a_saved_model(tmp_path):
    import tensorflow as tf

    ids, hidden = embed()
    attention = kl.MultiHeadAttention(N, H)
    model = model_of(ids, attention(hidden, hidden, use_causal_mask=True))
    expected = arrays(model(IDS))
    keras_attn.upgrade(model).model.export(tmp_path / "servable", verbose=False)
    servable = tf.saved_model.load(tmp_path / "servable")
    np.testing.assert_allclose(
        servable.serve(IDS).numpy()[REAL], expected[REAL], atol=1e-5, rtol=1e-5
    )


def penalty_gradients(model, batch, unknown):
    """Gradients of WGAN-GP's penalty, `(|d output / d input| - 1)^2`, to the weights."""
    weights = model.trainable_variables

    def penalty(gradient):
        norm = keras.ops.sqrt(keras.ops.sum(keras.ops.square(gradient), axis=(1, 2)))
        return keras.ops.mean(keras.ops.square(norm - 1.0))

    if BACKEND == "tensorflow":
        import tensorflow as tf

        shape = (None, None, D) if unknown else batch.shape

        @tf.function(input_signature=[tf.TensorSpec(shape)])
        def run(x):
            with tf.GradientTape() as outer:
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    score = keras.ops.sum(model(x, training=True))
                loss = penalty(inner.gradient(score, x))
            return outer.gradient(loss, [weight.value for weight in weights])

        return run(batch)
    if BACKEND == "jax":
        import jax

        rest = [variable.value for variable in model.non_trainable_variables]

        def loss(values):
            def score(x):
                return model.stateless_call(values, rest, x, training=True)[0].sum()

            return penalty(jax.grad(score)(batch))

        return jax.jit(jax.grad(loss))([weight.value for weight in weights])
    import torch

    x = torch.tensor(batch, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x, training=True).sum(), x, create_graph=True)
    return torch.autograd.grad(penalty(gradient), [weight.value for weight in weights])


def plain_attention():
    """Use torch's plain attention: its fused attention has no second derivatives."""
    if BACKEND != "torch":
        return contextlib.nullcontext()
    from torch.nn import attention

    return attention.sdpa_kernel(attention.SDPBackend.MATH)


@pytest.mark.parametrize(
    "unknown", [pytest.param(False, marks=pytest.mark.slow_on("jax", "tensorflow")), True]
)
@pytest.mark.parametrize(
    "inside", [False, pytest.param(True, marks=pytest.mark.slow_on("jax", "tensorflow"))]
)
def test_gradients_of_a_gradient_penalty_stay_equal(unknown, inside):
    inputs = keras.Input((None if unknown else T, D))
    hidden = kl.MultiHeadAttention(N, H)(inputs, inputs, use_causal_mask=True)
    hidden = Custom()(hidden) if inside else hidden
    hidden = kl.GlobalAveragePooling1D()(keras.ops.tanh(inputs + hidden))
    model = model_of(inputs, kl.Dense(1, use_bias=False)(hidden))
    batch = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")
    with plain_attention():
        expected = arrays(list(penalty_gradients(model, batch, unknown)))
    result = keras_attn.upgrade(model)
    assert len(result.replaced) == 1 + inside
    with plain_attention():
        got = arrays(list(penalty_gradients(result.model, batch, unknown)))
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-4)


# What is left unchanged, and why


class Subclass(kl.MultiHeadAttention):
    """A subclass that changes nothing."""


class Custom(kl.Layer):
    """Attention inside a user layer, which the model's graph does not show."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = kl.MultiHeadAttention(N, H, name="hidden")

    def build(self, shape):
        self.inner.build(shape, shape)

    def call(self, inputs):
        return self.inner(inputs, inputs)


@ON_JAX
@pytest.mark.parametrize("name", ["Attention", "AdditiveAttention"])
@pytest.mark.parametrize("causal", [pytest.param(False, marks=ON_JAX), True])
def test_attention_with_list_inputs_is_replaced(name, causal):
    ids, hidden = embed()
    context_ids, context = embed("context")
    attention = getattr(kl, name)(name="attention", use_scale=True)
    outputs = attention([hidden, context], use_causal_mask=causal)
    model = model_of([ids, context_ids], kl.GlobalAveragePooling1D()(outputs))
    upgraded = check(model, [IDS, CONTEXT], replaced=("attention",))
    assert type(upgraded.get_layer("attention")) is getattr(layers, name)


@pytest.mark.parametrize(
    "options",
    [
        {"use_gate": True},
        pytest.param({"kernel_regularizer": "l2", "bias_constraint": "non_neg"}, marks=ON_JAX),
    ],
    ids=str,
)
def test_options_of_grouped_query_attention_are_kept(options):
    inputs = keras.Input((T, D))
    attention = kl.GroupQueryAttention(H, N, K, name="attention", **options)
    hidden = attention(inputs, inputs, use_causal_mask=True)
    model = model_of(inputs, attention(hidden, inputs))
    check(model, np.random.default_rng(0).normal(size=(B, T, D)), replaced=("attention",))


class OwnMathematics(kl.MultiHeadAttention):
    """A subclass that replaces the attention computation."""

    def _compute_attention(self, query, key, value, *args, **kwargs):
        return value, None


class OwnSoftmax(kl.GroupQueryAttention):
    """A subclass that replaces a part of it."""

    def _masked_softmax(self, scores, attention_mask=None):
        return scores


def test_subclasses_are_changed_in_place_and_own_computations_are_left():
    inputs = keras.Input((T, D))
    hidden = Subclass(N, H, name="subclass")(inputs, inputs)
    hidden = Custom(name="custom")(hidden)
    hidden = OwnMathematics(N, H, name="own")(hidden, hidden)
    hidden = OwnSoftmax(H, N, N, name="softmax")(hidden, hidden)
    model = model_of(inputs, kl.MultiHeadAttention(N, H, name="plain")(hidden, hidden))
    batch = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")
    expected = arrays(model(batch))
    result = keras_attn.upgrade(model)
    assert result.replaced == ("subclass", "custom/hidden", "plain")
    assert result.changed_in_place == ("subclass", "custom/hidden")
    reason = (
        "{} may compute something else than {}: keep it, or derive it from keras_attn.layers.{}"
    )
    assert result.left == {
        "own": reason.format("OwnMathematics", *["MultiHeadAttention"] * 2),
        "softmax": reason.format("OwnSoftmax", *["GroupQueryAttention"] * 2),
    }
    assert_equal(result.model, (batch,), expected, None)
    assert type(model.get_layer("subclass")) is Subclass
    assert type(model.get_layer("plain")) is kl.MultiHeadAttention
    custom = model.get_layer("custom")
    assert type(custom.inner) is layers.MultiHeadAttention
    result.undo()
    assert type(custom.inner) is kl.MultiHeadAttention
    assert_equal(model, (batch,), expected, None)


def test_unbuilt_layers_are_left():
    inputs = keras.Input((T, D))
    inner = keras.Model(inputs, kl.MultiHeadAttention(N, H, name="a")(inputs, inputs))
    late = keras.Sequential([kl.Dense(D), inner, Custom(name="custom")], name="late")
    result = keras_attn.upgrade(late)
    assert (result.model, result.replaced) == (late, (f"late/{inner.name}/a",))
    reason = "it is not built: call the model once, then upgrade"
    assert result.left == {"late/custom/hidden": reason}
    assert str(result).endswith("outputs were not compared: give `inputs`")


class LikeLlamaAttention(kl.Layer):
    """An attention class that the upgrade does not know."""

    def call(self, inputs):
        return inputs


class Tower(kl.Layer):
    """Three layers with equal inner names, in a list, and an unknown attention class."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [Custom(name="block") for _ in range(3)]
        self.own = LikeLlamaAttention(name="own")

    def call(self, inputs):
        for block in self.blocks:
            inputs = block(inputs)
        return self.own(inputs)


def test_the_result_lists_every_attention_layer():
    inputs = keras.Input((T, D))
    hidden = kl.MultiHeadAttention(N, H, name="plain")(inputs, inputs)
    hidden = Tower(name="tower")(hidden)
    result = keras_attn.upgrade(keras.Model(inputs, LikeLlamaAttention(name="llama")(hidden)))
    unknown = (
        "LikeLlamaAttention has no counterpart: keep it, or write it with "
        "keras_attn.ops.attention; keras_attn.enable() reaches it if it calls "
        "keras.ops.dot_product_attention"
    )
    inner = tuple(f"tower/block/hidden{number}" for number in ("", " (2)", " (3)"))
    assert result.replaced == ("plain", *inner)
    assert result.changed_in_place == inner
    assert result.left == {"tower/own": unknown, "llama": unknown}
    lines = str(result).splitlines()
    assert lines[0] == "replaced plain"
    assert lines[1] == "in place tower/block/hidden"
    assert lines[4] == f"left     tower/own               {unknown}"
    assert lines[6].startswith("outputs differ by ") and len(lines) == 7
    nothing = keras_attn.upgrade(keras.Model(inputs, kl.Dense(3)(inputs), name="plain"))
    assert str(nothing) == "'plain' has no layer of Keras that attends"


class Lookup(kl.Layer):
    """Attention under another name, by Keras' function inside a function."""

    def call(self, inputs):
        heads = inputs[:, :, None]
        return (lambda x: keras.ops.dot_product_attention(x, x, x))(heads)[:, :, 0]


class Mixer(kl.Layer):
    """Attention under another name, written out in a static method."""

    def call(self, inputs):
        return self.mixed(inputs)

    @staticmethod
    def mixed(inputs):
        q = k = inputs
        weights = keras.ops.softmax(q @ keras.ops.transpose(k, (0, 2, 1)))
        return weights @ inputs


class Retrieval(kl.Layer):
    """Attention under another name, in a function that takes queries and keys from around it."""

    def call(self, inputs):
        q = k = inputs

        def mixed():
            return keras.ops.softmax(q @ keras.ops.transpose(k, (0, 2, 1))) @ inputs

        return mixed()


class Gate(kl.Layer):
    """A softmax that chooses among features: no attention."""

    def call(self, inputs, k=2):
        weights, _ = keras.ops.top_k(keras.ops.softmax(inputs), k)
        return inputs * keras.ops.sum(weights, axis=-1, keepdims=True)


def test_attention_under_another_name_is_named():
    inputs = keras.Input((T, D))
    hidden = Mixer(name="mixer")(Lookup(name="lookup")(Gate(name="gate")(inputs)))
    hidden = Retrieval(name="retrieval")(hidden)
    result = keras_attn.upgrade(keras.Model(inputs, hidden))
    assert list(result.left) == ["lookup", "mixer", "retrieval"]
    assert result.left["mixer"].startswith("Mixer has no counterpart: keep it, or write")


def test_an_argument_that_is_not_a_model_raises():
    with pytest.raises(TypeError, match="`model` must be a keras.Model, got Dense"):
        keras_attn.upgrade(kl.Dense(1))


# keras-hub


@pytest.fixture(scope="module")
def hub():
    return pytest.importorskip("keras_hub").layers


@ON_JAX
@pytest.mark.parametrize(
    ("first", "explicit"),
    [
        (False, True),
        (True, False),
        pytest.param(False, False, marks=ON_JAX),
        pytest.param(True, True, marks=ON_JAX),
    ],
)
def test_a_keras_hub_encoder_block_is_replaced(hub, first, explicit, tmp_path):
    ids, hidden = embed(mask_zero=not explicit)
    masks = {"padding_mask": keras.ops.not_equal(ids, 0)} if explicit else {}
    for index in range(2):
        block = hub.TransformerEncoder(
            17, 3, activation="gelu", normalize_first=first, name=f"block_{index}"
        )
        hidden = block(hidden, **masks)
    pooled = kl.GlobalAveragePooling1D()(hidden)  # uses the mask if there is one
    model = model_of(ids, [hidden, kl.Dense(2)(pooled)])
    expected = arrays(model(IDS))
    result = keras_attn.upgrade(model)
    assert result.replaced == ("block_0", "block_1")
    assert type(result.model.get_layer("block_0")) is layers.TransformerEncoderBlock
    for upgraded in (result.model, reload(result.model, tmp_path / "m.keras")):
        got = arrays(upgraded(IDS))
        np.testing.assert_allclose(got[0][REAL], expected[0][REAL], atol=1e-5, rtol=1e-5)
        rows = slice(1) if explicit else slice(None)  # without its mask the pooling reads padding
        np.testing.assert_allclose(got[1][rows], expected[1][rows], atol=1e-5, rtol=1e-5)


@ON_JAX
@pytest.mark.parametrize("causal", [pytest.param(False, marks=ON_JAX), True])
@DROPS_MASKS
def test_a_keras_hub_decoder_block_without_context_is_replaced(hub, causal):
    ids, hidden = embed()
    for index in range(2):
        block = hub.TransformerDecoder(17, 3, normalize_first=bool(index), name=f"block_{index}")
        hidden = block(hidden, use_causal_mask=causal)
    check(model_of(ids, hidden), IDS, real=REAL, replaced=("block_0", "block_1"))


@pytest.mark.parametrize("explicit", [pytest.param(False, marks=ON_JAX), True])
@DROPS_MASKS
def test_a_keras_hub_decoder_block_with_context_is_replaced(hub, explicit, tmp_path):
    ids, hidden = embed()
    context_ids, context = embed("context", mask_zero=not explicit)
    masks = {"encoder_padding_mask": keras.ops.not_equal(context_ids, 0)} if explicit else {}
    for index in range(2):
        hidden = hub.TransformerDecoder(17, 3, name=f"block_{index}")(hidden, context, **masks)
    model = model_of([ids, context_ids], hidden)
    upgraded = check(model, [IDS, CONTEXT], real=REAL, replaced=("block_0", "block_1"))
    loaded = reload(upgraded, tmp_path / "m.keras")
    assert_equal(loaded, ([IDS, CONTEXT],), arrays(upgraded([IDS, CONTEXT])), None)


@DROPS_MASKS
def test_a_block_in_a_sequential_model_is_replaced(hub):
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            kl.Embedding(V, D, mask_zero=True),
            hub.TransformerDecoder(17, 3, name="block"),
        ]
    )
    randomize(model)
    check(model, IDS, real=REAL, replaced=("block",))


@ON_JAX
def test_a_keras_hub_backbone_is_upgraded_and_can_be_reloaded(hub, tmp_path):
    import keras_hub

    model = keras_hub.models.BertBackbone(V, 2, 3, D, 17, max_sequence_length=11)
    randomize(model)
    batch = {"token_ids": IDS, "segment_ids": IDS % 2, "padding_mask": REAL.astype("int32")}
    expected = arrays(model(batch))
    result = keras_attn.upgrade(model)
    assert result.replaced and result.padding_difference is None
    upgraded = result.model
    for ours in (upgraded, reload(upgraded, tmp_path / "m.keras")):
        got = arrays(ours(batch))
        np.testing.assert_allclose(got["pooled_output"], expected["pooled_output"], atol=1e-5)
        np.testing.assert_allclose(
            got["sequence_output"][REAL], expected["sequence_output"][REAL], atol=1e-5
        )


@pytest.mark.parametrize(
    ("heads", "call"),
    [
        pytest.param(3, {"use_causal_mask": False}, marks=ON_JAX),
        (3, {"encoder_attention_mask": np.ones((1, T, S), "int32")}),
        pytest.param(5, {}, marks=ON_JAX),
    ],
    ids=["causal", "encoder_attention_mask", "heads"],
)
def test_blocks_without_a_counterpart_keep_their_code_and_get_our_attention(hub, heads, call):
    inputs, context = keras.Input((T, D)), keras.Input((S, D))
    block = hub.TransformerDecoder(17, heads, name="block")
    model = model_of([inputs, context], block(inputs, context, **call))
    rng = np.random.default_rng(0)
    batch = [rng.normal(size=(B, n, D)).astype("float32") for n in (T, S)]
    expected = arrays(model(batch))
    result = keras_attn.upgrade(model)
    assert result.replaced == ("block/self_attention", "block/cross_attention")
    assert result.changed_in_place == result.replaced
    assert type(model.get_layer("block")) is hub.TransformerDecoder
    assert_equal(model, (batch,), expected, None)


# Operations in a graph


def heads(name):
    return keras.Input((None, N, H), name=name)


def test_the_attention_operation_in_a_graph_is_replaced(tmp_path):
    """`Functional.layers` does not list it."""
    query, mask = heads("query"), keras.Input((N, None, None), dtype="bool", name="mask")
    once = keras.ops.dot_product_attention(query, query, query, mask=mask, scale=0.3)
    inner = keras.Model([query, mask], once, name="inner")
    rows, masks = heads("rows"), keras.Input((N, None, None), dtype="bool", name="masks")
    hidden = kl.Dense(H)(inner([rows, masks]))
    outputs = keras.ops.dot_product_attention(hidden, rows, rows, is_causal=True)
    model = model_of([rows, masks], outputs)
    rng = np.random.default_rng(0)
    visible = rng.random((B, N, T, T)) < 0.5
    visible |= np.eye(T, dtype=bool)
    batch = [rng.normal(size=(B, T, N, H)).astype("float32"), visible]
    names = [model.operations[-1].name, f"inner/{inner.operations[-1].name}"]
    result = keras_attn.upgrade(model)
    assert sorted(result.replaced) == sorted(names) and result.left == {}
    assert result.changed_in_place == ()
    kinds = {type(operation) for operation in result.model.operations}
    assert DotProductAttention in kinds and KerasOperation not in kinds
    assert_equal(result.model, (batch,), arrays(model(batch)), None)
    loaded = reload(result.model, tmp_path / "m.keras")
    assert_equal(loaded, (batch,), arrays(model(batch)), None)
    assert keras_attn.upgrade(result.model).replaced == ()


class OwnModel(keras.Model):
    """A functional model with methods of its own."""


def test_an_attention_operation_that_stays_is_named():
    rows = heads("rows")
    outputs = keras.ops.dot_product_attention(rows, rows, rows)
    name = keras.Model(rows, outputs).operations[-1].name
    own = OwnModel(rows, outputs, name="own")
    assert keras_attn.upgrade(own).left == {
        f"own/{name}": "the graph around it cannot be rebuilt: call "
        "keras_attn.ops.dot_product_attention there, or keras_attn.enable()"
    }
    plain = keras.Model(rows, outputs)
    assert keras_attn.upgrade(plain, masks="keras").left == {
        name: 'with masks="keras" it is its only exact copy: keep it'
    }


# The comparison


def test_classes_as_many_as_the_generated_length_are_compared_whole():
    ids, hidden = embed()
    pooled = kl.GlobalAveragePooling1D()(hidden)
    model = model_of(ids, [kl.Dense(9)(pooled), hidden])
    comparison = Comparison(model)
    other = keras.Model(ids, [last_class_off(model.outputs[0], ids), hidden])
    plain, right, left = comparison.differences(other)
    assert plain == 0 and right > 0.1 and left > 0.1


def last_class_off(outputs, ids):
    """Outputs whose last class is another if the row has padding."""
    padded = keras.ops.cast(keras.ops.any(keras.ops.equal(ids, 0), axis=1), "float32")
    return outputs + keras.ops.expand_dims(padded, -1) * np.eye(9, dtype="float32")[8]


def test_float_inputs_with_a_masking_layer_are_compared_with_padding():
    inputs = keras.Input((None, D))
    hidden = kl.Masking(mask_value=2.0)(inputs)
    hidden = kl.MultiHeadAttention(N, H, name="attention")(hidden, hidden)
    model = model_of(inputs, keras.ops.mean(hidden, axis=1))  # reads padding without a mask
    result = keras_attn.upgrade(model)
    assert result.replaced == ("attention",)
    assert result.padding_difference > 1e-3
