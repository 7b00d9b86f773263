"""`remat=True` in the builders: every block is recomputed, and the gradients stay the same."""

import keras
import numpy as np
import pytest

from keras_attn import models
from tests.backend import layer_gradients

B, T, S, V = 2, 5, 7, 23
COMMON = {"vocabulary_size": V, "dropout": 0.3}
RNG = np.random.default_rng(0)
IDS, SOURCE_IDS = (RNG.integers(0, V, (B, n)).astype("int32") for n in (T, S))
MASK, SOURCE_MASK = (np.arange(n) < np.array([[n], [3]]) for n in (T, S))
CASES = {
    "bert": (
        models.bert.encoder,
        models.sizes.BertSize(2, 12, 3, 31, max_length=11, **COMMON),
        {"token_ids": IDS, "segment_ids": np.zeros_like(IDS), "padding_mask": MASK},
    ),
    "modern_bert": (
        models.modern_bert.encoder,
        models.sizes.ModernBertSize(
            2, 12, 3, 31, V, window=3, attention_dropout=0.3, feed_forward_dropout=0.3
        ),
        {"token_ids": IDS, "segment_ids": np.zeros_like(IDS), "padding_mask": MASK},
    ),
    "gpt": (
        models.gpt.decoder,
        models.sizes.GptSize(2, 12, 3, 31, max_length=11, **COMMON),
        {"token_ids": IDS, "padding_mask": MASK},
    ),
    "transformer": (
        models.transformer.encoder_decoder,
        models.sizes.TransformerSize(2, 12, 3, 31, **COMMON),
        {"source_ids": SOURCE_IDS, "source_padding_mask": SOURCE_MASK, "target_ids": IDS},
    ),
}


@pytest.mark.backends("tensorflow", "torch", reason="JAX takes long; its blocks are in tests/ops")
@pytest.mark.parametrize(
    "name",
    [  # torch runs all in seconds
        pytest.param("bert", marks=pytest.mark.slow_on("tensorflow")),
        "modern_bert",
        pytest.param("gpt", marks=pytest.mark.slow_on("tensorflow")),
        "transformer",
    ],
)
def test_every_block_is_recomputed_with_the_same_gradients(name):
    build, size, inputs = CASES[name]
    found = []
    for remat in (False, True):
        keras.utils.set_random_seed(1)  # the same weights, the same dropout
        model = build(size, remat=remat)
        blocks = [layer for layer in model.layers if hasattr(layer, "remat")]
        assert [block.remat for block in blocks] == [remat] * (4 if name == "transformer" else 2)
        found.append(layer_gradients(WithInputs(model), {"inputs": inputs}, training=True))
    for path, gradient in found[0].items():
        error = 2e-6 * max(1, np.abs(gradient).max())
        np.testing.assert_allclose(found[1][path], gradient, rtol=0, atol=error, err_msg=path)


class WithInputs:
    """A model whose inputs have a name, as those of a layer."""

    def __init__(self, model):
        self.model = model
        self.trainable_variables = model.trainable_variables

    def __call__(self, inputs, training):
        return self.model(inputs, training=training)
