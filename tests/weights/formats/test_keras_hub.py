"""keras-hub's BertBackbone, as an object and as a preset directory."""

import keras
import numpy as np
import pytest

from keras_attn import weights

hub = pytest.importorskip("keras_hub")


@pytest.fixture
def backbone():
    model = hub.models.BertBackbone(
        vocabulary_size=37,
        num_layers=2,
        num_heads=3,
        hidden_dim=12,
        intermediate_dim=19,
        max_sequence_length=97,
    )
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.2, weight.shape))
    return model


def expected(backbone, inputs):
    return backbone({k: keras.ops.convert_to_tensor(v) for k, v in inputs.items()})


def check(model, backbone, inputs):
    actual, theirs = (
        keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)
        for outputs in (model(inputs), expected(backbone, inputs))
    )
    seen = inputs["padding_mask"]
    np.testing.assert_allclose(
        actual["sequence_output"][seen], theirs["sequence_output"][seen], atol=1e-5
    )
    np.testing.assert_allclose(actual["pooled_output"], theirs["pooled_output"], atol=1e-5)


def test_object(backbone, inputs):
    loaded = weights.load(backbone)
    check(loaded.model, backbone, inputs)
    assert (loaded.skipped, loaded.fresh) == ((), ())


def test_preset_directory(backbone, inputs, tmp_path):
    backbone.save_to_preset(str(tmp_path))
    check(weights.load(tmp_path).model, backbone, inputs)


def test_new_head(backbone):
    loaded = weights.load(backbone, "tagger", num_classes=5)
    assert loaded.fresh == ("tagger/output/kernel", "tagger/output/bias")
    assert loaded.skipped == ("pooled_dense/kernel", "pooled_dense/bias")


def test_another_model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(
        ValueError, match="`source` must be a keras-hub BertBackbone, got Sequential"
    ):
        weights.load(model)
