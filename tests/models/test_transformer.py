"""The Transformer against the paper: sizes, equations, and what the logits depend on."""

import keras
import numpy as np
import pytest

from keras_attn import layers, models
from tests import oracles
from tests.backend import arrays, assert_dropped, randomize, within

B, S, T, V = 2, 7, 5, 23
RNG = np.random.default_rng(0)
INPUTS = {
    "source_ids": RNG.integers(0, V, (B, S)).astype("int32"),
    "source_padding_mask": np.arange(S) < np.array([[7], [4]]),
    "target_ids": RNG.integers(0, V, (B, T)).astype("int32"),
}
SIZE = models.sizes.TransformerSize(2, 12, 3, 31, vocabulary_size=V)


@pytest.mark.parametrize(
    ("size", "millions"), [("transformer_base", 63.1), ("transformer_big", 214.2)]
)
def test_sizes_have_the_parameter_counts_of_the_paper(size, millions):
    """Table 3 of the paper says 65 and 213 million, rounded, with 37,000 tokens."""
    record = models.sizes.TRANSFORMER_SIZES[size]
    d, f = record.hidden_dim, record.intermediate_dim
    attention, norm, feed_forward = 4 * (d * d + d), 2 * d, d * f + f + f * d + d
    encoder = attention + feed_forward + 2 * norm
    decoder = 2 * attention + feed_forward + 3 * norm
    expected = 37_000 * d + 6 * (encoder + decoder)
    assert round(expected / 1e6, 1) == millions
    # Half the layers and a sixth of the table: full sizes would fill a small machine.
    model = models.transformer.encoder_decoder(size, num_layers=1, vocabulary_size=100)
    assert model.count_params() == expected - 36_900 * d - 5 * (encoder + decoder)


def test_source_target_and_output_share_one_matrix():
    model = models.transformer.encoder_decoder(SIZE)
    assert [w.path for w in model.weights if V in w.shape] == ["token_embedding/embeddings"]


@pytest.mark.parametrize("normalize_first", [False, True], ids=["post_norm", "pre_norm"])
def test_logits_depend_on_unmasked_source_and_earlier_target_tokens(normalize_first):
    model = models.transformer.encoder_decoder(SIZE, normalize_first=normalize_first)
    logits = arrays(model(INPUTS))
    assert logits.shape == (B, T, V)

    def changed(name, place):
        """Where the logits change with the token at that position of each row."""
        ids = INPUTS[name].copy()
        ids[:, place] = (ids[:, place] + 1) % V
        return abs(arrays(model({**INPUTS, name: ids})) - logits).max(-1) > 1e-6

    np.testing.assert_array_equal(changed("target_ids", 3), [[0, 0, 0, 1, 1]] * B)
    np.testing.assert_array_equal(changed("source_ids", 5), [[1] * T, [0] * T])


@pytest.mark.parametrize(
    "position",
    [None, lambda: layers.LearnedPositionEmbedding(11), lambda: layers.RotaryEmbedding()],
    ids=["sinusoidal", "learned", "rotary"],
)
@pytest.mark.parametrize("name", ["source_ids", "target_ids"])
def test_every_kind_of_position_makes_logits_depend_on_token_order(name, position):
    """With one layer, only positions let swapped earlier tokens change the last logits."""
    model = models.transformer.encoder_decoder(SIZE, num_layers=1, position=position and position())
    swapped = {**INPUTS, name: INPUTS[name][:, [1, 0, *range(2, INPUTS[name].shape[1])]]}
    assert (INPUTS[name] != swapped[name]).any(axis=1).all()
    difference = arrays(model(swapped)) - arrays(model(INPUTS))
    assert (abs(difference[:, -1]).max(axis=-1) > 1e-3).all()


@pytest.mark.parametrize("name", ["source_ids", "target_ids"])
def test_without_positions_logits_ignore_token_order(name):
    """The test above would fail for a model that ignores its positions."""
    position = layers.LearnedPositionEmbedding(11, initializer="zeros")
    model = models.transformer.encoder_decoder(SIZE, num_layers=1, position=position)
    swapped = {**INPUTS, name: INPUTS[name][:, [1, 0, *range(2, INPUTS[name].shape[1])]]}
    difference = arrays(model(swapped)) - arrays(model(INPUTS))
    assert abs(difference[:, -1]).max() < 1e-5


@pytest.mark.parametrize("normalize_first", [False, True], ids=["post_norm", "pre_norm"])
def test_logits_follow_the_equations_of_the_paper(normalize_first):
    model = models.transformer.encoder_decoder(SIZE, normalize_first=normalize_first)
    weights = {w.path: arrays(w.value).astype("float64") for w in randomize(model).weights}
    width = SIZE.hidden_dim

    def embed(ids):
        place, column = np.arange(ids.shape[1])[:, None], np.arange(0, width, 2)
        angles = place / 10_000 ** (column / width)
        positions = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(-1, width)
        return weights["token_embedding/embeddings"][ids] * np.sqrt(width) + positions

    def norm(x, name):
        return oracles.layer_norm(x, weights[f"{name}/gamma"], weights[f"{name}/beta"], 1e-6)

    def around(x, name, function):
        """The residual connection and the norm, placed as `normalize_first` says."""
        inputs = norm(x, f"{name}_norm") if normalize_first else x
        total = x + function(inputs, within(weights, name))
        return total if normalize_first else norm(total, f"{name}_norm")

    def attend(allowed, memory=None):
        def function(x, own):
            values = x if memory is None else memory
            return oracles.attention(x, values, values, own, SIZE.num_heads, allowed)[0]

        return function

    def feed(x, own):
        return oracles.feed_forward(x, own, lambda hidden: np.maximum(hidden, 0))

    real = INPUTS["source_padding_mask"][:, None]
    memory, hidden = embed(INPUTS["source_ids"]), embed(INPUTS["target_ids"])
    for layer in range(SIZE.num_layers):
        memory = around(memory, f"encoder_block_{layer}/self_attention", attend(real))
        memory = around(memory, f"encoder_block_{layer}/feed_forward", feed)
    memory = norm(memory, "encoder_norm") if normalize_first else memory
    for layer in range(SIZE.num_layers):
        name = f"decoder_block_{layer}"
        hidden = around(hidden, f"{name}/self_attention", attend(np.tri(T, dtype=bool)))
        hidden = around(hidden, f"{name}/cross_attention", attend(real, memory))
        hidden = around(hidden, f"{name}/feed_forward", feed)
    hidden = norm(hidden, "head/norm") if normalize_first else hidden
    expected = hidden @ weights["token_embedding/embeddings"].T
    np.testing.assert_allclose(arrays(model(INPUTS)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_training_drops_the_embeddings(side):
    """With blocks that add zero, the last block returns the embeddings."""
    model = models.transformer.encoder_decoder(SIZE, normalize_first=True, dropout=0.3)
    for weight in model.weights:
        if "block" in weight.path and "seed_generator" not in weight.path:
            weight.assign(np.zeros(weight.shape))
    stack = getattr(models.parts.of(model), side)
    hidden = keras.Model(model.input, models.parts.outputs(model, stack.blocks[-1])[0])
    assert_dropped(hidden(INPUTS, training=True), hidden(INPUTS), 0.3)


def test_an_unknown_size_raises():
    with pytest.raises(ValueError, match="`size` must be one of transformer_tiny, .*'large'"):
        models.transformer.encoder_decoder("large")
    with pytest.raises(ValueError, match="a size has the fields num_layers, .* got 'layers'"):
        models.transformer.encoder_decoder("transformer_tiny", layers=3)
