"""MultiHeadCrossAttention against the paper in numpy and against Keras, where Keras is right."""

import keras
import numpy as np
import pytest

from keras_attn import layers
from tests import oracles
from tests.backend import arrays, randomize, weights_of

B, T, S, D, DV, DK, N, K = 2, 5, 7, 12, 11, 13, 6, 3
RNG = np.random.default_rng(0)
QUERY, VALUE, KEY = (
    RNG.normal(size=s).astype("float32") for s in ((B, T, D), (B, S, DV), (B, S, DK))
)
ALLOWED = RNG.random((B, T, S)) < 0.6
ALLOWED[..., 0] = True


def attention(**options):
    layer = layers.MultiHeadCrossAttention(**{"num_heads": N, **options})
    layer.build(QUERY.shape, VALUE.shape, KEY.shape)
    return randomize(layer)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"key_dim": 5, "value_dim": 3, "output_shape": 17},
        {"num_kv_heads": K, "use_bias": False},
        {"num_kv_heads": 1, "key_dim": 4},
    ],
    ids=str,
)
def test_outputs_follow_the_equations_of_the_paper(options):
    layer = attention(**options)
    outputs, scores = layer(QUERY, VALUE, KEY, attention_mask=ALLOWED, return_attention_scores=True)
    expected, expected_scores = oracles.attention(
        QUERY, VALUE, KEY, weights_of(layer), N, ALLOWED, options.get("num_kv_heads")
    )
    np.testing.assert_allclose(arrays(outputs), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(arrays(scores), expected_scores, rtol=1e-5, atol=1e-6)


def test_attention_scores_of_a_worked_softmax_example():
    logits = np.array([3.2, 5.1, -1.7])
    layer = layers.MultiHeadCrossAttention(1, key_dim=1, use_bias=False, kernel_initializer="ones")
    _, scores = layer(np.ones((1, 1, 1)), logits.reshape(1, 3, 1), return_attention_scores=True)
    np.testing.assert_allclose(arrays(scores)[0, 0, 0], [0.13, 0.87, 0.00], atol=5e-3)


@pytest.mark.parametrize("key_heads", [None, K])
def test_outputs_equal_keras_with_the_same_weights(key_heads):
    ours = attention(key_dim=4, num_kv_heads=key_heads)
    if key_heads is None:
        theirs = keras.layers.MultiHeadAttention(N, 4)
        value, key = VALUE, KEY
    else:
        theirs = keras.layers.GroupQueryAttention(4, N, K)
        value = key = VALUE
        ours = layers.MultiHeadCrossAttention(N, 4, num_kv_heads=K)
        ours.build(QUERY.shape, VALUE.shape, VALUE.shape)
        randomize(ours)
    theirs.build(QUERY.shape, value.shape, key.shape)
    sizes = [weight.shape for weight in theirs.weights]
    theirs.set_weights([w.reshape(s) for w, s in zip(_in_their_order(ours), sizes, strict=True)])
    for mask in (None, ALLOWED):
        given = {"attention_mask": mask, "return_attention_scores": True}
        outputs, scores = ours(QUERY, value, key, **given)
        expected, expected_scores = theirs(QUERY, value, key, **given)
        np.testing.assert_allclose(arrays(outputs), arrays(expected), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(arrays(scores), arrays(expected_scores), rtol=1e-5, atol=1e-5)


def _in_their_order(layer):
    names = ("query", "key", "value", "output")
    return [weights_of(layer)[f"{n}/{part}"] for n in names for part in ("kernel", "bias")]


BAD_ARGUMENTS = [
    ({"num_heads": 0}, "`num_heads` must be a positive integer, got 0"),
    ({"num_kv_heads": 4}, "`num_kv_heads`, got 6 and 4"),
    ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1.0"),
    ({"dropout": None}, r"`dropout` must be in \[0, 1\), got None"),
    ({"dropout": "a"}, r"`dropout` must be in \[0, 1\), got 'a'"),
    ({"logits_soft_cap": "a"}, "`logits_soft_cap` must be positive, got 'a'"),
    ({"dropout": -0.1}, r"`dropout` must be in \[0, 1\), got -0.1"),
    ({"window": 0}, "`window` must be a positive integer or None, or a pair .*, got 0"),
    (
        {"window": (3, -2)},
        r"`window` must be a positive integer or None, or a pair .*, got \(3, -2",
    ),
    ({"kernel": "magic"}, "`kernel` must be one of auto, .*reference, got 'magic'"),
    ({"num_heads": 5}, "the query's width must be divisible by `num_heads`.*got width 12 and 5"),
]


@pytest.mark.parametrize(("options", "text"), BAD_ARGUMENTS, ids=str)
def test_invalid_arguments_raise(options, text):
    with pytest.raises(ValueError, match=text):
        attention(**options)


def test_an_invalid_position_raises():
    with pytest.raises(TypeError, match="`position` must be a RotaryEmbedding, ALiBi.*'rotary'"):
        attention(position="rotary")
    with pytest.raises(ValueError, match="`position` must have 6 heads as the layer, got 4"):
        attention(position=layers.ALiBi(4))


def test_invalid_inputs_raise():
    with pytest.raises(ValueError, match=r"`query` must have shape .*, got shape \(2, 12\)"):
        layers.MultiHeadCrossAttention(N)(QUERY[:, 0], VALUE)
    with pytest.raises(ValueError, match=r"`attention_mask` must have shape .*got shape \(5,\)"):
        attention()(QUERY, VALUE, KEY, attention_mask=ALLOWED[0, :, 0])
    with pytest.raises(ValueError, match=r"`attention_mask` must be .* to shape .*\(2, 5, 7\)"):
        attention()(QUERY, VALUE, KEY, attention_mask=ALLOWED[..., :-1])
    with pytest.raises(ValueError, match=r"`value_mask` must be .* to shape .* \(2, 7\), got"):
        attention()(QUERY, VALUE, KEY, value_mask=np.ones((B, T), bool))
