"""Training with LoRA continues from a saved file as if it had not been interrupted."""

import keras
import numpy as np
import pytest
from keras import tree

from keras_attn import layers
from keras_attn.layers.sublayers import Projection
from tests.backend import arrays
from tests.cases import LEARNING, randomized

pytestmark = pytest.mark.usefixtures("frozen_heap")

# One for each way in which a layer holds its sublayers; the others are slow.
FAST = {
    "TransformerDecoderBlock": pytest.mark.slow_on("jax", "tensorflow"),  # three training steps
    "SpanHead": (),
    "AttentionDecoder-additive": (),
}


def parts_of(model):
    return [part for part in model._flatten_layers() if isinstance(part, Projection)]


def adapt(model):
    """Give every sublayer adapters that are not zero."""
    rng = np.random.default_rng(2)
    for part in parts_of(model):
        part.enable_lora(2, lora_alpha=3)
        part.lora_kernel_b.assign(0.1 * rng.normal(size=part.lora_kernel_b.shape))
    assert parts_of(model)


def adapted(case):
    """A compiled model of the layer with LoRA in every sublayer."""
    model = case.model(randomized(case.make(), case))
    adapt(model)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def trained(model, case):
    """The model's outputs after two more training steps without dropout."""
    for part in model._flatten_layers():
        if isinstance(part, keras.layers.Dropout):
            part.rate = 0.0
        if hasattr(part, "dropout") and isinstance(part.dropout, float):
            part.dropout = 0.0
    inputs = tree.flatten(case.values())
    targets = tree.map_structure(np.zeros_like, arrays(model(inputs)))
    for _ in range(2):
        model.train_on_batch(inputs, targets)
    return tree.flatten(arrays(model(inputs)))


# The drop-in is left out: it saves as Keras' layer does, with the adapters merged.
KINDS = (
    layers.MultiHeadSelfAttention,
    layers.MultiHeadCrossAttention,
    layers.TransformerEncoderBlock,
    layers.TransformerDecoderBlock,
    layers.FeedForward,
    layers.BahdanauAttention,
    layers.ClassificationHead,
    layers.SpanHead,
    layers.MaskedLMHead,
    layers.BertPretrainingHead,
)
CASES = [
    pytest.param(case, id=str(case), marks=FAST.get(str(case), pytest.mark.slow))
    for case in LEARNING
    if case.layer in KINDS
    or str(case) in ("AttentionDecoder-additive", "LinearCrossEntropy-masked")
]


@pytest.mark.parametrize("case", CASES)
def test_training_continues_from_a_saved_file(case, tmp_path):
    model = adapted(case)
    before = trained(model, case)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=True)
    after = trained(again, case)
    for have, want in zip(after, trained(model, case), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)
    assert any(abs(a - b).max() > 1e-3 for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("quantized_first", [True, False], ids=["quantized", "adapted"])
def test_adapters_of_a_quantized_kernel_are_saved_unmerged(quantized_first, tmp_path):
    inputs = keras.Input((5, 8))
    block = layers.TransformerEncoderBlock(2, 11)
    model = keras.Model(inputs, block(inputs))
    steps = [lambda: [part.quantize("int8") for part in parts_of(model)], lambda: adapt(model)]
    for step in steps if quantized_first else steps[::-1]:
        step()
    values = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    # Keras' own layer merges, quantizes again, and is off by a thousandth.
    np.testing.assert_allclose(arrays(again(values)), arrays(model(values)), rtol=1e-6, atol=1e-6)
