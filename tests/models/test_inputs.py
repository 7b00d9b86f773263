"""Models that take their inputs from a dict by name."""

import keras
import numpy as np
import pytest

from keras_attn import models
from tests.backend import arrays

B, T, V = 2, 7, 23
SIZE = models.sizes.GptSize(2, 12, 3, 31, vocabulary_size=V, max_length=11)


def test_entries_that_the_model_does_not_need_are_ignored(tmp_path):
    """Keras takes the entries in alphabetical order, segments for tokens."""
    model = models.gpt.decoder(SIZE, dropout=0.0)
    ids = np.random.default_rng(0).integers(0, V, (B, T)).astype("int32")
    inputs = {"token_ids": ids, "padding_mask": np.ones((B, T), bool)}
    given = {**inputs, "segment_ids": np.ones((B, T), "int32"), "a": np.zeros((B, 1))}
    logits = model.predict(inputs, verbose=0)
    np.testing.assert_array_equal(model.predict(given, verbose=0), logits)
    model.save(tmp_path / "gpt.keras")
    loaded = keras.models.load_model(tmp_path / "gpt.keras")
    np.testing.assert_array_equal(arrays(loaded(given)), arrays(loaded(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    loaded.compile(keras.optimizers.SGD(0.1), loss)
    model.fit(inputs, ids, verbose=0)
    loaded.fit(given, ids, verbose=0)
    for mine, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_allclose(arrays(theirs), arrays(mine), atol=1e-6)


def test_entries_that_the_model_does_not_need_may_be_symbolic_or_none():
    model = models.gpt.decoder(SIZE)
    inputs = {"token_ids": np.ones((B, T), "int32"), "padding_mask": np.ones((B, T), bool)}
    logits = arrays(model(inputs))
    np.testing.assert_array_equal(arrays(model({**inputs, "segment_ids": None})), logits)
    masks = {"token_ids": None, "segment_ids": None}
    np.testing.assert_array_equal(arrays(model(inputs, mask=masks)), logits)
    outer = {**model.input, "a": keras.Input((3, 4), name="a")}
    again = keras.Model(outer, model(outer))
    found = again({**inputs, "a": np.zeros((B, 3, 4), "float32")})
    np.testing.assert_allclose(arrays(found), logits, rtol=1e-6, atol=1e-6)


def test_output_shapes_ignore_other_entries():
    model = models.gpt.decoder(SIZE)
    shapes = {"token_ids": (B, T), "padding_mask": (B, T), "a": (B, 2)}
    assert model.compute_output_shape(shapes) == (B, T, V)
    assert model.compute_output_spec(
        {name: keras.KerasTensor(shape, "int32") for name, shape in shapes.items()}
    ).shape == (B, T, V)


@pytest.mark.parametrize("way", ["predict", "__call__"])
def test_a_missing_entry_is_named(way):
    with pytest.raises(ValueError, match="`inputs` of gpt.* must have .*padding_mask.*got"):
        getattr(models.gpt.decoder(SIZE), way)({"token_ids": np.ones((B, T), "int32"), "a": None})


def test_a_file_of_0_1_holds_a_plain_functional_model(tmp_path):
    model = models.gpt.decoder(SIZE)
    plain = keras.Model(model.input, model.output, name=model.name)
    plain.save(tmp_path / "gpt.keras")
    inputs = {"token_ids": np.ones((B, T), "int32"), "padding_mask": np.ones((B, T), bool)}
    found = keras.models.load_model(tmp_path / "gpt.keras")(inputs)
    np.testing.assert_allclose(arrays(found), arrays(model(inputs)), atol=1e-6)
