"""Every way in which a checkpoint can be wrong, and what the error says."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy

from keras_attn import weights

WORDS = "embeddings.word_embeddings.weight"


@pytest.fixture
def directory(saved):
    return saved("BertForSequenceClassification", num_labels=5)[1]


def rewrite(directory, change):
    file = directory / "model.safetensors"
    arrays = safetensors.numpy.load_file(file)
    change(arrays)
    safetensors.numpy.save_file(arrays, file)


def configure(directory, **changes):
    file = directory / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def fails(directory, text, task=None, **options):
    with pytest.raises(ValueError, match=re.escape(text)):
        weights.load(directory, task, **options)


def test_unknown_task(directory):
    fails(directory, "`task` must be None or one of classifier, regressor, tagger,", "clasifier")


def test_no_directory(tmp_path):
    fails(tmp_path / "nowhere", "`source` must be a directory or a keras-hub backbone, got")


def test_empty_directory(tmp_path):
    fails(tmp_path, "must hold model.safetensors, a TensorFlow checkpoint (*.index) or a keras-hub")


def test_pickle(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    fails(directory, "pytorch_model.bin is a pickle, which can run any code when it is opened")


def test_another_architecture(directory):
    configure(directory, model_type="xlnet")
    fails(directory, "must have a model_type among bert, distilbert, roberta, gpt2, got 'xlnet'")


def test_no_config(directory):
    (directory / "config.json").unlink()
    fails(directory, "config.json cannot be read as JSON")


def test_broken_config(directory):
    (directory / "config.json").write_text('{"model_type": ')
    fails(directory, "config.json cannot be read as JSON")
    (directory / "config.json").write_text("[1]")
    fails(directory, "config.json must hold a JSON object, got list")


def test_missing_size(directory):
    configure(directory, hidden_size=None)
    fails(directory, "the configuration must have `hidden_size`, got no such key")


def test_unknown_activation(directory):
    configure(directory, hidden_act="silu")
    fails(
        directory, "the activation must be one of gelu, gelu_new, gelu_pytorch_tanh, relu, got 's"
    )


@pytest.mark.parametrize(
    ("key", "value"), [("is_decoder", True), ("position_embedding_type", "relative_key")]
)
def test_another_kind_of_bert(key, value, directory):
    configure(directory, **{key: value})
    fails(directory, f"`{key}` must be ")


@pytest.mark.parametrize("size", [5, 1000, -1])
def test_truncated(size, directory):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    fails(directory, "model.safetensors is no complete safetensors file")


def test_missing_shard(directory):
    content = {"weight_map": {WORDS: "model-00001-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(content))
    fails(directory, "model-00001-of-00002.safetensors is no complete safetensors file")


def test_unused_names(directory):
    rewrite(directory, lambda a: a.update({"bert.extra.weight": np.ones(3), "odd": np.ones(2)}))
    fails(directory, "not used: bert.extra.weight, odd")


def test_more_layers_than_the_configuration_says(directory):
    configure(directory, num_hidden_layers=1)
    fails(directory, "not used: bert.encoder.layer.1.")


def test_unset_weights(directory):
    rewrite(
        directory, lambda a: [a.pop("bert.embeddings.LayerNorm.bias"), a.pop("classifier.bias")]
    )
    fails(directory, "not set: embedding/norm/beta")
    fails(
        directory,
        "not set: embedding/norm/beta, classifier/output/bias",
        "classifier",
        num_classes=5,
    )


def test_wrong_shape(directory):
    configure(directory, intermediate_size=17)
    fails(
        directory,
        "wrong shape: bert.encoder.layer.0.intermediate.dense.weight gives (12, 19) where "
        "block_0/feed_forward/hidden/kernel has (12, 17)",
    )


def test_other_number_of_classes(directory):
    text = "classifier.weight gives (12, 5) where classifier/output/kernel has (12, 3)"
    fails(directory, text, "classifier", num_classes=3)


def test_new_head_needs_its_number_of_classes(directory):
    fails(directory, "has no tagger head: `num_classes` must be given for a new one", "tagger")


def test_tied_weights_that_differ(directory):
    other = {"cls.predictions.decoder.weight": np.ones((37, 12), "float32")}
    rewrite(directory, lambda a: a.update(other))
    fails(
        directory, "not equal: cls.predictions.decoder.weight and bert.embeddings.word_embeddings"
    )


def test_vocabulary_of_another_size(directory):
    (directory / "vocab.txt").write_text("\n".join(f"w{i}" for i in range(36)))
    fails(
        directory, "must have a piece for each of the 37 rows of embeddings.word_embeddings.weight,"
    )


def test_vocabulary_of_a_tokenizer_file(directory):
    vocabulary = {f"w{i}": i for i in reversed(range(37))}
    (directory / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    assert weights.load(directory).vocabulary == [f"w{i}" for i in range(37)]


def test_half_precision_is_widened(directory):
    rewrite(directory, lambda a: a.update({k: v.astype("float16") for k, v in a.items()}))
    matrix = weights.load(directory).model.get_layer("embedding").token_embedding.embeddings
    assert str(matrix.dtype).endswith("float32")
