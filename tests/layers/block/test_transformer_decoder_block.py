"""The decoder block against torch's, and step by step from a cache."""

import keras
import numpy as np
import pytest

from keras_attn import layers
from keras_attn.ops import cache as caches
from tests.backend import arrays, assert_dropped, computed, randomize, tensors, weights_of, within

B, T, S, L, D, C, N, F = 2, 5, 7, 11, 12, 18, 3, 31
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(B, T, D)).astype("float32")
CONTEXT = RNG.normal(size=(B, S, C)).astype("float32")
CONTEXT_MASK = np.arange(S) < np.array([[7], [4]])


def block(context=CONTEXT, **options):
    layer = layers.TransformerDecoderBlock(N, F, **options)
    layer.build(INPUTS.shape, context.shape)
    return randomize(layer)


@pytest.mark.parametrize("normalize_first", [False, True], ids=["post_norm", "pre_norm"])
def test_outputs_equal_torch_with_the_same_weights(normalize_first):
    import torch

    context = CONTEXT[..., :D]  # torch's layer has one width for both
    layer = block(context, normalize_first=normalize_first, activation="relu")
    weights = {name: torch.tensor(value) for name, value in weights_of(layer).items()}
    theirs = torch.nn.TransformerDecoderLayer(
        D, N, F, dropout=0.0, batch_first=True, norm_first=normalize_first
    )
    state = {}
    for own, name in (("self_attention", "self_attn"), ("cross_attention", "multihead_attn")):
        rows = [within(weights, f"{own}/{part}") for part in ("query", "key", "value")]
        state[f"{name}.in_proj_weight"] = torch.cat([row["kernel"].T for row in rows])
        state[f"{name}.in_proj_bias"] = torch.cat([row["bias"] for row in rows])
        state[f"{name}.out_proj.weight"] = weights[f"{own}/output/kernel"].T
        state[f"{name}.out_proj.bias"] = weights[f"{own}/output/bias"]
    for own, name in (("hidden", "linear1"), ("output", "linear2")):
        state[f"{name}.weight"] = weights[f"feed_forward/{own}/kernel"].T
        state[f"{name}.bias"] = weights[f"feed_forward/{own}/bias"]
    for number, own in enumerate(("self_attention", "cross_attention", "feed_forward"), start=1):
        state[f"norm{number}.weight"] = weights[f"{own}_norm/gamma"]
        state[f"norm{number}.bias"] = weights[f"{own}_norm/beta"]
    theirs.load_state_dict(state)
    with torch.no_grad():
        expected = theirs.eval()(
            torch.tensor(INPUTS),
            torch.tensor(context),
            tgt_mask=torch.triu(torch.ones(T, T, dtype=torch.bool), 1),
            memory_key_padding_mask=torch.tensor(~CONTEXT_MASK),
        ).numpy()
    found = computed(layer, INPUTS, context, context_mask=CONTEXT_MASK)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("position", "window"),
    [
        (None, 2),
        (layers.RotaryEmbedding(100.0), None),
        (layers.ALiBi(N), None),
        (layers.RelativePositionBias(N, bidirectional=False), 3),
    ],
    ids=["window", "rotary", "alibi", "t5"],
)
def test_cached_steps_equal_the_full_call(position, window):
    layer = block(position=position, window=window)
    whole = computed(layer, INPUTS, CONTEXT, context_mask=CONTEXT_MASK)
    cache = {"self": caches.create(B, L, N, D // N)}
    context = tensors(CONTEXT)
    for start, stop in ((0, 2), (2, 3), (3, 5)):
        outputs, cache = computed(
            layer,
            INPUTS[:, start:stop],
            context,
            context_mask=CONTEXT_MASK,
            cache=cache,
            cache_index=tensors(np.array(start, "int32")),
        )
        context = None  # its keys and values now come from the cache
        np.testing.assert_allclose(outputs, whole[:, start:stop], rtol=1e-4, atol=1e-5)


def test_self_and_cross_attention_weights_and_the_cache_are_returned():
    outputs, own, context, cache = block()(
        INPUTS,
        CONTEXT,
        context_mask=CONTEXT_MASK,
        cache={"self": caches.create(B, L, N, D // N)},
        return_attention_scores=True,
    )
    assert outputs.shape == (B, T, D)
    own, context = arrays((own, context))
    assert own.shape == (B, N, T, L)
    np.testing.assert_array_equal(own[0, 0] > 0, np.tri(T, L, dtype=bool))
    assert context.shape == (B, N, T, S)
    assert not context[1, :, :, 4:].any()
    assert cache["context"]["key"].shape == (B, N, S, D // N)


def test_a_missing_context_raises():
    with pytest.raises(ValueError, match="`context` must be given in the first call, got None"):
        layers.TransformerDecoderBlock(N, F)(INPUTS)
    with pytest.raises(ValueError, match="where the cache has none, got a cache with self"):
        block()(INPUTS, cache={"self": caches.create(B, L, N, D // N)})
    with pytest.raises(ValueError, match="`value` must be given where there is no `cache`"):
        block()(INPUTS)


def test_the_keras_mask_of_the_inputs_is_applied_with_a_context():
    layer = block()
    ids = np.array([[1, 2, 3, 0, 0], [1, 2, 0, 0, 0]])
    embedded = keras.layers.Embedding(5, D, mask_zero=True)(ids)
    carried = arrays(layer(embedded, CONTEXT))
    given = arrays(layer(tensors(arrays(embedded)), CONTEXT, mask=ids != 0))
    np.testing.assert_array_equal(carried, given)
    assert abs(given - arrays(layer(tensors(arrays(embedded)), CONTEXT))).max() > 0.01


@pytest.mark.parametrize("name", ["self_attention", "cross_attention", "feed_forward"])
def test_training_drops_the_output_of_each_sublayer(name):
    """With all other weights zero, a sublayer adds its output bias of one to the inputs."""
    layer = block(dropout=0.3, normalize_first=True, seed=1)
    for weight in layer.weights:
        if "seed_generator" not in weight.path:
            value = 1.0 if weight.path.endswith(f"{name}/output/bias") else 0.0
            weight.assign(np.full(weight.shape, value))
    trained = arrays(layer(INPUTS, CONTEXT, training=True)) - INPUTS
    assert_dropped(trained, arrays(layer(INPUTS, CONTEXT)) - INPUTS, 0.3)


@pytest.mark.parametrize("options", [{"num_kv_heads": 1}, {"key_dim": 5, "value_dim": 3}])
def test_a_symbolic_cache_has_the_shape_of_a_real_one(options):
    layer = layers.TransformerDecoderBlock(2, 7, attention_options=options)
    layer.build((2, 3, 8), (2, 4, 6))
    found = layer.store(np.ones((2, 4, 6), "float32"))
    own = {name: keras.KerasTensor(x.shape) for name, x in found.items()}
    inputs, context = keras.KerasTensor((2, 3, 8)), keras.KerasTensor((2, 4, 6))
    symbolic = layer(inputs, context, cache={"self": own})[1]["context"]
    assert {n: tuple(x.shape) for n, x in symbolic.items()} == {
        n: tuple(x.shape) for n, x in found.items()
    }
