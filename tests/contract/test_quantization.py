"""A layer with quantized sublayers is the same after reloading and cloning."""

import warnings

import keras
import numpy as np
import pytest
from keras import tree

from tests.backend import arrays
from tests.cases import CALLED, few_but_on_torch, randomized

pytestmark = pytest.mark.usefixtures("frozen_heap")

# One for each way in which a layer holds its sublayers; the others are slow.
FAST = ("MultiHeadAttention", "TransformerDecoderBlock", "SpanHead", "AttentionDecoder-additive")
MODES = ("int8", "int4", "float8")


def _cases():
    for case in CALLED:
        for mode in MODES:
            fast = str(case) in FAST and mode == "int8"
            marks = few_but_on_torch([case])[0].marks if fast else pytest.mark.slow
            yield pytest.param(case, mode, id=f"{case}-{mode}", marks=marks)


def quantized(case, mode, **options):
    """A model of the quantized layer, and how many sublayers Keras quantized."""
    model = case.model(randomized(case.make(), case))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of each layer that it cannot quantize
        model.quantize(mode, **options)
    parts = [part for part in model._flatten_layers() if part.quantization_mode == mode]
    return model, len(parts)


def own_weights(layer):
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def outputs_of(model, case):
    return tree.flatten(arrays(model(tree.flatten(case.values()))))


def assert_equal(model, expected, case):
    for have, want in zip(outputs_of(model, case), expected, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("case", "mode"), [*_cases()])
def test_a_quantized_layer_can_be_reloaded_and_cloned(case, mode, tmp_path):
    model, count = quantized(case, mode)
    dense = keras.layers.Dense, keras.layers.EinsumDense
    assert count == sum(isinstance(part, dense) for part in model._flatten_layers())
    expected = outputs_of(model, case)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_equal(loaded, expected, case)
    loaded.save(tmp_path / "again.keras")
    assert_equal(keras.models.load_model(tmp_path / "again.keras"), expected, case)
    clone = keras.models.clone_model(model)
    # By name: in a layer that is built quantized, Keras orders the weights differently.
    for part, other in zip(model._flatten_layers(), clone._flatten_layers(), strict=True):
        values = {weight.name: weight.value for weight in own_weights(part)}
        for weight in own_weights(other):
            weight.assign(values[weight.name])
    assert_equal(clone, expected, case)


@pytest.mark.parametrize("case", few_but_on_torch([c for c in CALLED if str(c) in FAST[1:]]))
def test_a_quantized_layer_in_a_nested_model_can_be_reloaded(case, tmp_path):
    model, _ = quantized(case, "int8")
    inputs = tree.flatten(case.symbols())
    keras.Model(inputs, model(inputs)).save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert_equal(again, outputs_of(model, case), case)


@pytest.mark.parametrize("case", few_but_on_torch([c for c in CALLED if str(c) in FAST[::2]]))
def test_the_quantization_config_is_saved(case, tmp_path):
    model = case.model(randomized(case.make(), case))
    weights_only = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    for part in model._flatten_layers():
        if isinstance(part, keras.layers.Dense | keras.layers.EinsumDense):
            part.quantize("int8", type_check=False, config=weights_only)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    # Quantized activations would be off by about a hundredth.
    assert_equal(again, outputs_of(model, case), case)
