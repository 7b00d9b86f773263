"""Invalid checkpoints and their error messages."""

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


@pytest.mark.parametrize("task", ["clasifier", ["classifier"], {}], ids=str)
def test_an_unknown_task_raises(directory, task):
    fails(directory, "`task` must be None or one of classifier, regressor, tagger,", task)


def test_hidden_states_that_are_no_truth_value_raise(directory):
    with pytest.raises(ValueError, match="`hidden_states` must be True or False, got 'yes'"):
        weights.load(directory, hidden_states="yes")


@pytest.mark.parametrize("options", [{"hidden_state": True}, {"num_classes": 2, "foo": 3}])
def test_options_of_a_head_without_a_task_raise(directory, options):
    names = ", ".join(options)
    fails(directory, f"`head_options` must be empty without a head, got {names}", **options)
    fails(directory, f"must be empty without a head, got {names}", "encoder", **options)


def test_an_option_that_the_head_lacks_raises(directory):
    fails(directory, "`head_options` of span must be among dropout, name, got foo", "span", foo=1)


def test_a_missing_directory_raises(tmp_path):
    fails(tmp_path / "nowhere", "`source` must be a directory or a keras-hub backbone, got")


@pytest.mark.parametrize("source", [None, 5, ""])
def test_a_source_that_is_no_path_raises(source):
    fails(source, f"`source` must be a path, got {source!r}")


def test_heads_that_do_not_divide_the_width_raise(directory):
    configure(directory, num_attention_heads=3, hidden_size=16)
    fails(
        directory, "the configuration's `num_attention_heads` must divide `hidden_size` 16, got 3"
    )


def test_an_empty_directory_raises(tmp_path):
    fails(tmp_path, "must hold model.safetensors, a TensorFlow checkpoint (*.index) or a keras-hub")


def test_a_pickle_raises(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    fails(directory, "pytorch_model.bin is a pickle and is not opened")


def test_an_unknown_architecture_raises(directory):
    configure(directory, model_type="xlnet")
    fails(
        directory,
        "must have a model_type among bert, distilbert, roberta, xlm-roberta, modernbert, gpt2, "
        "got 'xlnet'",
    )


def test_a_missing_config_raises(directory):
    (directory / "config.json").unlink()
    fails(directory, "config.json cannot be read as JSON")


def test_an_unreadable_config_raises(directory):
    (directory / "config.json").write_text('{"model_type": ')
    fails(directory, "config.json cannot be read as JSON")
    (directory / "config.json").write_text("[1]")
    fails(directory, "config.json must hold a JSON object, got list")


def test_a_missing_configuration_key_raises(directory):
    configure(directory, hidden_size=None)
    fails(directory, "the configuration must have `hidden_size`, got no such key")


def test_an_unknown_activation_raises(directory):
    configure(directory, hidden_act="silu")
    fails(
        directory, "`hidden_act` must be one of gelu, gelu_new, gelu_pytorch_tanh, relu, got 'silu'"
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("hidden_size", "12", "a positive integer, got '12'"),
        ("hidden_size", 12.0, "a positive integer, got 12.0"),
        ("num_hidden_layers", True, "a positive integer, got True"),
        ("num_attention_heads", 0, "a positive integer, got 0"),
        ("vocab_size", [37], "a positive integer, got [37]"),
        ("hidden_dropout_prob", "0.1", "a number in [0, 1), got '0.1'"),
        ("attention_probs_dropout_prob", 1.0, "a number in [0, 1), got 1.0"),
        ("layer_norm_eps", "1e-12", "a finite number, got '1e-12'"),
        ("initializer_range", float("nan"), "a finite number, got nan"),
        ("hidden_act", ["gelu"], "one of gelu, gelu_new, gelu_pytorch_tanh, relu, got ['gelu']"),
        ("classifier_dropout", "0.1", "a number in [0, 1), got '0.1'"),
    ],
)
def test_a_configuration_value_of_the_wrong_type_raises(key, value, expected, directory):
    configure(directory, **{key: value})
    fails(directory, f"`{key}` must be {expected}", "classifier")


@pytest.mark.parametrize("value", ["1", None, -1, 37])
def test_an_invalid_padding_id_of_roberta_raises(value, saved):
    _, directory = saved("RobertaModel", pad_token_id=1)
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token_id": value}))
    fails(directory, f"`pad_token_id` must be an integer in [0, 37), got {value!r}")


@pytest.mark.parametrize("value", [["a"], {"a": 1}, None])
def test_an_index_without_files_raises(value, directory):
    (directory / "model.safetensors").unlink()
    file = directory / "model.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": value}))
    fails(directory, "index.json must have a weight_map from names to files, got")
    file.write_text(json.dumps([value]))
    fails(directory, "index.json must hold a JSON object, got list")


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("tokenizer.json", {"model": [1]}, "model must be an object, got [1]"),
        ("tokenizer.json", {"normalizer": "x"}, "normalizer must be an object, got 'x'"),
        ("tokenizer.json", {"model": {"vocab": {"a": "0"}}}, "a different id, got '0' for 'a'"),
        ("vocab.json", {"a": 0, "b": 0}, "a different id, got 0 for 'b'"),
        ("vocab.json", {"a": 0, "b": 2}, "the ids 0 to 1, got none with id 1"),
        ("tokenizer_config.json", {"do_lower_case": "yes"}, "must be true or false, got 'yes'"),
    ],
)
def test_an_invalid_tokenizer_file_raises(file, content, text, directory):
    (directory / file).write_text(json.dumps(content))
    fails(directory, text)


def test_lowercase_is_read_from_the_tokenizer_file(directory):
    content = {"model": None, "normalizer": {"type": "BertNormalizer", "lowercase": False}}
    (directory / "tokenizer.json").write_text(json.dumps(content))
    loaded = weights.load(directory)
    assert (loaded.vocabulary, loaded.lowercase) == (None, False)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_raise(value, directory):
    def spoil(arrays):
        arrays["bert.encoder.layer.1.output.dense.weight"][3, 5] = value

    rewrite(directory, spoil)
    fails(directory, "not finite: bert.encoder.layer.1.output.dense.weight")


def test_integer_weights_raise(directory):
    """A quantized file without a configuration key for it."""
    name = "bert.encoder.layer.0.attention.self.query.weight"
    rewrite(directory, lambda a: a.update({name: a[name].astype("int8")}))
    fails(directory, f"not floating-point numbers: {name} (int8)")


@pytest.mark.parametrize(
    ("key", "value"), [("is_decoder", True), ("position_embedding_type", "relative_key")]
)
def test_an_unsupported_kind_of_bert_raises(key, value, directory):
    configure(directory, **{key: value})
    fails(directory, f"`{key}` must be ")


@pytest.mark.parametrize("size", [5, 1000, -1])
def test_a_truncated_file_raises(size, directory):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    fails(directory, "model.safetensors is not a complete safetensors file")


def test_a_missing_shard_raises(directory):
    content = {"weight_map": {WORDS: "model-00001-of-00002.safetensors"}}
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps(content))
    fails(directory, "model-00001-of-00002.safetensors is not a complete safetensors file")


def test_unused_weight_names_raise(directory):
    rewrite(directory, lambda a: a.update({"bert.extra.weight": np.ones(3), "odd": np.ones(2)}))
    fails(directory, "not used: bert.extra.weight, odd")


def test_two_names_of_one_weight_raise(directory):
    rewrite(directory, lambda arrays: arrays.update({WORDS: np.ones(2)}))
    fails(directory, f"two names of one weight: bert.{WORDS} and {WORDS}")


def test_more_blocks_than_in_the_configuration_raise(directory):
    configure(directory, num_hidden_layers=1)
    fails(directory, "not used: bert.encoder.layer.1.")


def test_unset_weights_raise(directory):
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


def test_a_weight_of_the_wrong_shape_raises(directory):
    configure(directory, intermediate_size=17)
    fails(
        directory,
        "wrong shape: bert.encoder.layer.0.intermediate.dense.weight gives (12, 19) where "
        "block_0/feed_forward/hidden/kernel has (12, 17)",
    )


def test_another_number_of_classes_raises(directory):
    text = "`num_classes` must be 5 for its classifier head, got 3; for a new head, load 'encoder'"
    fails(directory, text, "classifier", num_classes=3)


def test_a_new_head_without_num_classes_raises(directory):
    fails(directory, "has no tagger head: `num_classes` must be given for a new one", "tagger")


def test_tied_weights_that_differ_raise(directory):
    other = {"cls.predictions.decoder.weight": np.ones((37, 12), "float32")}
    rewrite(directory, lambda a: a.update(other))
    fails(
        directory, "not equal: cls.predictions.decoder.weight and bert.embeddings.word_embeddings"
    )


def test_a_vocabulary_larger_than_the_token_matrix_raises(directory):
    (directory / "vocab.txt").write_text("\n".join(f"w{i}" for i in range(38)))
    text = "word_embeddings.weight must have a row for each of the 38 tokens of the vocabulary, got"
    fails(directory, f"{text} 37")


def test_the_token_matrix_may_have_more_rows_than_the_vocabulary(directory):
    """Matrices are padded to a multiple of 8 or 64; added tokens have a file of their own."""
    (directory / "vocab.txt").write_text("\n".join(f"w{i}" for i in range(30)))
    assert weights.load(directory).vocabulary == [f"w{i}" for i in range(30)]
    (directory / "added_tokens.json").write_text('{"[NEW]": 31, "[NEWER]": 30}')
    added = {"content": "[NEWEST]", "id": 32}
    content = {"model": None, "added_tokens": [added, {"content": "w7", "id": 7}]}
    (directory / "tokenizer.json").write_text(json.dumps(content))
    assert weights.load(directory).vocabulary[29:] == ["w29", "[NEWER]", "[NEW]", "[NEWEST]"]
    (directory / "added_tokens.json").write_text('{"[NEW]": 36}')
    fails(directory, "the 32 tokens must have the ids 0 to 31, got none with id 30")
    (directory / "added_tokens.json").write_text('{"[NEW]": 30, "[NEWER]": 30}')
    fails(directory, "each token must have a different id, got 30 for '[NEWER]'")
    (directory / "added_tokens.json").write_text('{"[NEW]": "30"}')
    fails(directory, "each token must have a different id, got '30' for '[NEW]'")
    (directory / "added_tokens.json").unlink()
    settings = {"added_tokens_decoder": {"x": {"content": "w7"}}}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    fails(directory, "each token must have a different id, got 'x' for 'w7'")
    settings = {"added_tokens_decoder": {"7": 3}}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    fails(directory, f"{directory} must be as transformers and tokenizers write it")


def test_the_vocabulary_is_read_from_a_tokenizer_file(directory):
    vocabulary = {f"w{i}": i for i in reversed(range(37))}
    (directory / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    assert weights.load(directory).vocabulary == [f"w{i}" for i in range(37)]


def test_half_precision_weights_are_cast_to_float32(directory):
    rewrite(directory, lambda a: a.update({k: v.astype("float16") for k, v in a.items()}))
    matrix = weights.load(directory).model.get_layer("embedding").token_embedding.embeddings
    assert str(matrix.dtype).endswith("float32")
