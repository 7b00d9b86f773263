"""keras-hub's BertBackbone, given as an object or as a preset directory."""

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
        actual["sequence_output"][seen], theirs["sequence_output"][seen], atol=5e-5
    )
    np.testing.assert_allclose(actual["pooled_output"], theirs["pooled_output"], atol=5e-5)


def test_a_backbone_object_is_loaded(backbone, inputs):
    loaded = weights.load(backbone)
    check(loaded.model, backbone, inputs)
    assert (loaded.skipped, loaded.initialized) == ((), ())


def test_a_preset_directory_is_loaded(backbone, inputs, tmp_path):
    backbone.save_to_preset(str(tmp_path))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(32))]
    tokenizer = hub.models.BertTokenizer(vocabulary=vocabulary, lowercase=True)
    tokenizer.save_to_preset(str(tmp_path))
    loaded = weights.load(tmp_path)
    check(loaded.model, backbone, inputs)
    assert (loaded.vocabulary, loaded.lowercase) == (vocabulary, True)


@pytest.mark.slow_on("tensorflow")
@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=() if s < 2 else pytest.mark.slow) for s in range(20)]
)
def test_random_configurations_equal_keras_hub(seed, inputs, tmp_path):
    rng = np.random.default_rng(seed)
    heads = int(rng.integers(2, 5))
    backbone = hub.models.BertBackbone(
        vocabulary_size=int(rng.integers(29, 47)),
        num_layers=int(rng.integers(1, 4)),
        num_heads=heads,
        hidden_dim=heads * int(rng.integers(2, 6)),
        intermediate_dim=int(rng.integers(5, 20)),
        dropout=float(rng.uniform(0.2, 0.6)),
        max_sequence_length=int(rng.integers(83, 97)),
        num_segments=int(rng.choice([1, 3, 4])),
        name="mine",
    )
    for weight in backbone.weights:
        weight.assign(rng.normal(0, 0.3, weight.shape))
    inputs["token_ids"] %= backbone.vocabulary_size
    inputs["segment_ids"] = rng.integers(0, backbone.num_segments, (2, 7))
    loaded = weights.load(backbone)
    check(loaded.model, backbone, inputs)
    block = loaded.model.get_layer("block_0")
    assert (block.dropout, block.attention_dropout) == (backbone.dropout, backbone.dropout)
    assert (loaded.skipped, loaded.initialized, loaded.unknown) == ((), (), ())
    weights.save(loaded, tmp_path)  # saved as transformers' BERT
    check(weights.load(tmp_path).model, backbone, inputs)


def test_a_new_head_is_initialized(backbone):
    loaded = weights.load(backbone, "tagger", num_classes=5)
    assert loaded.initialized == ("tagger/output/kernel", "tagger/output/bias")
    with pytest.warns(DeprecationWarning, match="`fresh` is now `initialized`"):
        assert loaded.fresh == loaded.initialized
    assert loaded.skipped == ("pooled_dense/kernel", "pooled_dense/bias")


def test_a_model_of_another_class_raises():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(
        ValueError, match="`source` must be a keras-hub BertBackbone, got Sequential"
    ):
        weights.load(model)
