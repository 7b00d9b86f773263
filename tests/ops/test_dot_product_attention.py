"""Keras' function with our kernels: its outputs, in a saved model, and in place of Keras' own."""

import itertools

import keras
import numpy as np
import pytest
from keras.ops import dot_product_attention as imported_by_name

import keras_attn
from keras_attn import ops
from keras_attn.backend import compiled
from tests.backend import BACKEND, arrays, gradients, tensors

B, T, S, N, H = 2, 5, 7, 6, 4
RNG = np.random.default_rng(0)
TOLERANCE = {"float32": 2e-6, "bfloat16": 2e-2, "float16": 2e-3}


def draw(key_heads=N):
    shapes = ((B, T, N, H), (B, S, key_heads, H), (B, S, key_heads, H))
    return [RNG.normal(size=shape).astype("float32") for shape in shapes]


def mask_of(shape):
    mask = RNG.random(shape) < 0.6
    mask[..., 0] = True  # the two differ only for fully masked queries
    return mask


MASKS = {
    "none": None,
    "keys": (B, 1, 1, S),
    "pairs": (1, 1, T, S),
    "all": (B, N, T, S),
}


@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.slow_on("jax"))]
)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("key_heads", [N, 3])
def test_outputs_equal_keras(mask, key_heads, dtype):
    query, key, value = (keras.ops.cast(x, dtype) for x in draw(key_heads))
    bias = keras.ops.cast(RNG.normal(size=(1, N, T, S)), dtype)
    for causal, with_bias, scale in itertools.product((False, True), (False, True), (None, 0.3)):
        if BACKEND == "torch" and with_bias and (causal or mask != "none"):
            continue  # Keras raises for these on torch
        options = {
            "mask": None if mask == "none" else tensors(mask_of(MASKS[mask])),
            "bias": bias if with_bias else None,
            "is_causal": causal,
            "scale": scale,
        }
        have = ops.dot_product_attention(query, key, value, **options)
        want = keras.ops.dot_product_attention(query, key, value, **options)
        assert have.dtype == want.dtype
        near = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
        np.testing.assert_allclose(arrays(have), arrays(want), **near)


def test_gradients_equal_keras():
    inputs, mask = draw(3), tensors(mask_of((B, 1, T, S)))

    def loss(function):
        return lambda *given: keras.ops.sum(keras.ops.sin(function(*given, mask=mask)))

    have, want = (
        gradients(loss(f), *inputs)
        for f in (ops.dot_product_attention, keras.ops.dot_product_attention)
    )
    for one, other in zip(have, want, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_options_that_keras_supports_on_some_devices_equal_numpy():
    """Bias and mask of other ranks together with a soft cap, against numpy."""
    query, key, value = draw()
    bias, mask, cap = RNG.normal(size=(T, S)), mask_of((N, 1, S)), 0.7
    found = ops.dot_product_attention(
        query, key, value, bias.astype("float32"), mask, attn_logits_soft_cap=cap
    )
    logits = np.einsum("btnh,bsnh->bnts", query, key, dtype="float64") / np.sqrt(H) + bias
    weights = np.where(mask, np.exp(cap * np.tanh(logits / cap)), 0)
    expected = np.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), value)
    np.testing.assert_allclose(arrays(found), expected, atol=2e-6)


def test_a_fully_masked_query_gives_zeros():
    mask = np.ones((B, 1, T, S), bool)
    mask[0, 0, 2] = False
    found = arrays(ops.dot_product_attention(*draw(), mask=mask))
    np.testing.assert_array_equal(found[0, 2], 0)
    assert found[1, 2].all()


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_an_additive_mask_raises_where_its_values_are_known(dtype):
    """As a mask it would show what it hides."""
    given, visible = draw(), mask_of((B, 1, T, S))
    additive = np.where(visible, 0, -(10**9)).astype(dtype)
    message = r"`mask.dense` must be true where .*, got -[\d.e+]+, as in an additive mask: give"
    for mask in (additive, tensors(additive), keras.ops.cast(tensors(additive), "bfloat16")):
        with pytest.raises(ValueError, match=message):
            ops.dot_product_attention(*given, mask=mask)
    ops.dot_product_attention(*given, mask=visible * RNG.normal(size=visible.shape))  # any but 0
    expected = arrays(ops.dot_product_attention(*given, additive.astype("float32")))
    np.testing.assert_allclose(
        arrays(ops.dot_product_attention(*given, mask=additive >= 0)), expected, atol=1e-6
    )
    if BACKEND != "torch":  # compiled, it is any mask of numbers
        attend = compiled(lambda mask: ops.dot_product_attention(*given, mask=mask))
        expected = ops.dot_product_attention(*given, mask=~visible)
        np.testing.assert_allclose(arrays(attend(additive)), arrays(expected), atol=1e-6)


@pytest.mark.backends("tensorflow", "jax", reason="torch has a fused kernel on every device")
def test_flash_attention_without_a_fused_kernel_raises():
    with pytest.raises(ValueError, match="`kernel` 'fused' cannot run here"):
        ops.dot_product_attention(*draw(), flash_attention=True)


def test_it_can_be_called_on_symbolic_inputs_and_saved(tmp_path):
    inputs = [keras.Input((None, N, H)) for _ in range(3)]
    mask = keras.Input((1, None, None), dtype="bool")
    context = ops.dot_product_attention(*inputs, mask=mask, scale=0.3, attn_logits_soft_cap=2.0)
    assert context.shape == (None, None, N, H)
    model = keras.Model([*inputs, mask], context)
    given = [*draw(), mask_of((B, 1, T, S))]
    expected = ops.dot_product_attention(
        *given[:3], mask=given[3], scale=0.3, attn_logits_soft_cap=2.0
    )
    model.save(tmp_path / "model.keras")
    for one in (model, keras.models.load_model(tmp_path / "model.keras")):
        np.testing.assert_allclose(arrays(one(given)), arrays(expected), atol=1e-6)


class Calls:
    """How often `ops.attention` chose a kernel."""

    def __init__(self, caplog):
        self._caplog = caplog
        caplog.set_level("DEBUG", logger="keras_attn")

    def of(self, function, *args, **options):
        self._caplog.clear()
        outputs = arrays(function(*args, **options))
        return sum("takes the kernel" in message for message in self._caplog.messages), outputs


LAYERS = {
    "multi_head": lambda: keras.layers.MultiHeadAttention(3, 4),
    "grouped": lambda: keras.layers.GroupQueryAttention(4, 6, 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_keras_layers_use_our_kernels_when_enabled(name, caplog):
    calls, layer = Calls(caplog), LAYERS[name]()
    query, value = RNG.normal(size=(2, B, T, 8)).astype("float32")
    options = ({}, {"attention_mask": mask_of((B, T, T))}, {"use_causal_mask": True})
    for given in options:
        count, expected = calls.of(layer, query, value, **given)
        assert count == 0
        with keras_attn.enable():
            count, found = calls.of(layer, query, value, **given)
        assert count == 1
        np.testing.assert_allclose(found, expected, atol=2e-6)
        assert calls.of(layer, query, value, **given)[0] == 0


def test_every_name_of_the_keras_function_uses_our_kernels_when_enabled(caplog):
    calls, inputs = Calls(caplog), draw()
    functions = (
        imported_by_name,
        keras.ops.dot_product_attention,
        keras.ops.nn.dot_product_attention,
    )
    model_inputs = [keras.Input(x.shape[1:]) for x in inputs]
    model = keras.Model(model_inputs, keras.ops.dot_product_attention(*model_inputs))
    enabled = keras_attn.enable()
    assert [calls.of(function, *inputs)[0] for function in functions] == [1, 1, 1]
    assert calls.of(model, inputs)[0] == 1
    enabled.disable()
    assert [calls.of(function, *inputs)[0] for function in functions] == [0, 0, 0]


def test_it_stays_enabled_when_the_handle_is_dropped(caplog):
    calls, inputs = Calls(caplog), draw()
    keras_attn.enable()
    with keras_attn.enable():
        pass
    try:
        assert calls.of(keras.ops.dot_product_attention, *inputs)[0] == 1
    finally:  # there is no handle left to disable
        for enabled in list(type(keras_attn.enable())._active):
            enabled.disable()
    assert calls.of(keras.ops.dot_product_attention, *inputs)[0] == 0


def test_the_last_disable_restores_keras(caplog):
    calls, inputs = Calls(caplog), draw()
    first, second = keras_attn.enable(), keras_attn.enable()
    first.disable()
    first.disable()
    assert calls.of(keras.ops.dot_product_attention, *inputs)[0] == 1
    second.disable()
    assert calls.of(keras.ops.dot_product_attention, *inputs)[0] == 0
    with pytest.raises(RuntimeError, match="inside"), keras_attn.enable():
        raise RuntimeError("inside")
    assert calls.of(keras.ops.dot_product_attention, *inputs)[0] == 0


@pytest.mark.backends("tensorflow", reason="keras-hub's import takes its time; one is enough")
def test_keras_hub_layers_use_our_kernels_when_enabled(caplog):
    import keras_hub

    model = keras_hub.models.RoformerV2Backbone(
        vocabulary_size=11,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=12,
        head_size=4,
    )
    rows = RNG.integers(1, 11, (B, T))
    inputs = {"token_ids": rows, "segment_ids": rows * 0}
    calls = Calls(caplog)
    count, expected = calls.of(model, inputs)
    assert count == 0
    with keras_attn.enable():
        count, found = calls.of(model, inputs)
    assert count == 2
    np.testing.assert_allclose(found, expected, atol=2e-6)
