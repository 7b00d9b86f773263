"""GPT's sizes and masks; tests/weights/formats/test_gpt2.py compares logits with transformers."""

import keras
import numpy as np
import pytest

from keras_attn import models
from tests.backend import arrays, assert_dropped

B, T, V = 2, 7, 23
SIZE = models.sizes.GptSize(2, 12, 3, 31, vocabulary_size=V, max_length=11)


def test_gpt2_small_has_the_parameter_count_of_transformers():
    """124,439,808, as transformers counts GPT2Model (Radford et al. say 117 million)."""
    size, d, f = models.sizes.GPT_SMALL, 768, 3072
    block = 4 * (d * d + d) + d * f + f + f * d + d + 4 * d
    expected = (50_257 + 1024) * d + 12 * block + 2 * d
    assert expected == 124_439_808
    model = models.gpt.decoder(size, num_layers=1, vocabulary_size=100)
    assert model.count_params() == expected - 50_157 * d - 11 * block


def test_right_padding_and_later_tokens_do_not_change_the_logits():
    model = models.gpt.decoder(SIZE)
    ids = np.random.default_rng(0).integers(0, V, (B, T)).astype("int32")
    whole = arrays(model({"token_ids": ids, "padding_mask": np.ones((B, T), bool)}))
    padded = {"token_ids": ids * (np.arange(T) < 4), "padding_mask": np.arange(T)[None] < [[4]] * B}
    np.testing.assert_allclose(arrays(model(padded))[:, :4], whole[:, :4], rtol=1e-5, atol=1e-6)


def test_the_window_limits_attention():
    model = models.gpt.decoder(SIZE, window=2, num_layers=1)
    ids = np.random.default_rng(0).integers(0, V, (B, T)).astype("int32")
    mask = np.ones((B, T), bool)
    logits = arrays(model({"token_ids": ids, "padding_mask": mask}))
    ids[:, 2] = (ids[:, 2] + 1) % V
    moved = abs(arrays(model({"token_ids": ids, "padding_mask": mask})) - logits).max(-1) > 1e-6
    np.testing.assert_array_equal(moved, [[0, 0, 1, 1, 0, 0, 0]] * B)


def test_training_drops_the_embeddings():
    """With blocks that add zero, the last block returns the embeddings."""
    model = models.gpt.decoder(SIZE, embedding_dropout=0.3)
    for weight in model.weights:
        if "block" in weight.path and "seed_generator" not in weight.path:
            weight.assign(np.zeros(weight.shape))
    ids = np.random.default_rng(0).integers(0, V, (B, T)).astype("int32")
    inputs = {"token_ids": ids, "padding_mask": np.ones((B, T), bool)}
    stack = models.parts.of(model).decoder
    hidden = keras.Model(model.input, models.parts.outputs(model, stack.blocks[-1])[0])
    assert_dropped(hidden(inputs, training=True), hidden(inputs), 0.3)


def test_an_unknown_size_raises():
    with pytest.raises(ValueError, match="`size` must be one of gpt_tiny, .* got 'gpt'"):
        models.gpt.decoder("gpt")
