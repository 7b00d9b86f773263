"""Saving for transformers, and loading again without changing a bit."""

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy

from keras_attn import weights
from keras_attn.models import bert, bert_tasks, gpt, modern_bert
from keras_attn.weights import saving

transformers = pytest.importorskip("transformers")

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(32))]
TASKS = {
    "BertModel": None,
    "BertForSequenceClassification": "classifier",
    "BertForTokenClassification": "tagger",
    "BertForQuestionAnswering": "span",
    "BertForMultipleChoice": "multiple_choice",
    "BertForMaskedLM": "masked_lm",
    "BertForNextSentencePrediction": "next_sentence",
    "BertForPreTraining": "pretraining",
}


@pytest.fixture
def encoder():
    size = {"hidden_dim": 12, "num_heads": 3, "intermediate_dim": 19, "max_length": 97}
    return bert.encoder("bert_tiny", vocabulary_size=37, **size)


@pytest.mark.parametrize("architecture", TASKS)
def test_saving_writes_the_same_weights_and_configuration(architecture, saved, tmp_path):
    _, directory = saved(architecture)
    loaded = weights.load(directory, TASKS[architecture])
    weights.save(loaded.model, tmp_path / "again")
    first, second = (
        safetensors.numpy.load_file(folder / "model.safetensors")
        for folder in (directory, tmp_path / "again")
    )
    assert set(first) == set(second)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    old, new = (
        json.loads((folder / "config.json").read_text())
        for folder in (directory, tmp_path / "again")
    )
    assert {key: old.get(key, new[key]) for key in new} == new


@pytest.mark.parametrize("architecture", TASKS)
def test_transformers_loads_saved_files_with_equal_outputs(
    architecture, saved, tmp_path, inputs, run_theirs
):
    model, directory = saved(architecture)
    loaded = weights.load(directory, TASKS[architecture])
    weights.save(loaded.model, tmp_path / "again")
    again, report = getattr(transformers, architecture).from_pretrained(
        tmp_path / "again", output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    if architecture == "BertForMultipleChoice":
        inputs = {key: np.stack([value] * 3, 1) for key, value in inputs.items()}
    before, after = run_theirs(model, inputs), run_theirs(again.eval(), inputs)
    for name, expected in before.items():
        np.testing.assert_allclose(after[name].numpy(), expected.numpy(), atol=1e-6)


SMALL = {"num_layers": 2, "hidden_dim": 12, "num_heads": 3, "vocabulary_size": 37}
NEW = {
    "BertModel": lambda: bert.encoder("bert_tiny", **SMALL),
    "RobertaModel": lambda: bert.encoder("bert_tiny", padding_id=3, **SMALL),
    "ModernBertModel": lambda: modern_bert.encoder("modern_bert_base", **SMALL),
    "GPT2LMHeadModel": lambda: gpt.decoder("gpt_tiny", **SMALL),
    "GPT2ForSequenceClassification": lambda: bert_tasks.classifier(
        gpt.encoder("gpt_tiny", **SMALL), 3
    ),
}


@pytest.mark.parametrize("architecture", NEW)
def test_transformers_loads_a_new_model_without_a_warning(architecture, tmp_path, caplog):
    """The model's vocabulary does not have the special token ids that transformers assumes."""
    weights.save(NEW[architecture](), tmp_path)
    theirs, report = getattr(transformers, architecture).from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert theirs.config.vocab_size == 37
    assert not any(report.values()) and not caplog.records


def test_a_model_reloaded_by_keras_saves_the_same_file(encoder, tmp_path):
    model = bert_tasks.multiple_choice(encoder, num_choices=2)
    model.save(tmp_path / "model.keras")
    weights.save(model, tmp_path / "first")
    weights.save(keras.saving.load_model(tmp_path / "model.keras"), tmp_path / "second")
    first, second = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")
    )
    assert first == second


def test_an_interrupted_save_changes_no_file(encoder, tmp_path, monkeypatch):
    weights.save(encoder, tmp_path, vocabulary=VOCABULARY)
    (tmp_path / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for weight in encoder.trainable_variables:
        weight.assign(weight + 1.0)

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(saving, "write_json", stopped)
        weights.save(encoder, tmp_path, vocabulary=VOCABULARY)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    weights.save(encoder, tmp_path, vocabulary=VOCABULARY)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after.keys() == before.keys()
    assert after["model.safetensors"] != before["model.safetensors"]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_as_vocabulary_is_read(encoder, tmp_path, kind):
    file = tmp_path / "words.txt"
    file.write_text("\n".join(VOCABULARY), encoding="utf-8")
    weights.save(encoder, tmp_path / "saved", vocabulary=kind(file))
    assert (tmp_path / "saved" / "vocab.txt").read_text("utf-8").splitlines() == VOCABULARY
    with pytest.raises(FileNotFoundError):
        weights.save(encoder, tmp_path / "other", vocabulary=kind(tmp_path / "missing.txt"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vocabulary": [token.encode() for token in VOCABULARY]}, "must hold strings .* got a li"),
        ({"vocabulary": [*VOCABULARY[:-1], "a\nb"]}, "must hold strings .* no line end"),
        ({"vocabulary": []}, "`vocabulary` must hold tokens"),
        ({"vocabulary": VOCABULARY[:-1] + VOCABULARY[-2:-1]}, "must hold each token once"),
        ({"vocabulary": {"one"}}, "`vocabulary` must be a path or a list of tokens"),
        ({"vocabulary": 5}, "`vocabulary` must be a path or a list of tokens, got 5"),
        ({"lowercase": "yes"}, "`lowercase` must be True or False, got 'yes'"),
        ({"tokenizer": VOCABULARY}, "`tokenizer` must be one of keras_attn.data, got "),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_vocabulary_or_tokenizer_is_refused(encoder, tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        weights.save(encoder, tmp_path / "saved", **wrong)
    assert not (tmp_path / "saved").exists()
    weights.save(encoder, tmp_path / "saved", vocabulary=np.array(VOCABULARY))
    assert (tmp_path / "saved" / "vocab.txt").read_text("utf-8").splitlines() == VOCABULARY


def test_vocabulary_and_lowercase_are_saved(encoder, tmp_path):
    weights.save(encoder, tmp_path, vocabulary=VOCABULARY, lowercase=False)
    loaded = weights.load(tmp_path)
    assert (loaded.vocabulary, loaded.lowercase) == (VOCABULARY, False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("w0 W0 w31")["input_ids"] == [2, 5, 1, 36, 3]


def test_approximate_gelu_is_saved(tmp_path, encoder):
    model = bert.encoder(
        "bert_tiny",
        vocabulary_size=37,
        hidden_dim=12,
        num_heads=3,
        intermediate_dim=19,
        activation="gelu_tanh",
    )
    weights.save(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["hidden_act"] == "gelu_new"
    block = weights.load(tmp_path).model.get_layer("block_1")
    assert block.activation.__name__ == "gelu_tanh"


def test_a_classifier_with_the_name_of_its_head_is_saved(encoder, tmp_path):
    model = bert_tasks.classifier(encoder, 3)
    model = keras.Model(model.input, model.output, name=model.layers[-1].name)
    weights.save(model, tmp_path)
    array = safetensors.numpy.load_file(tmp_path / "model.safetensors")["classifier.bias"]
    assert array.shape == (3,)


def test_a_vocabulary_larger_than_the_token_matrix_raises(encoder, tmp_path):
    text = "at most as many tokens as the token matrix has rows, 37, got 38"
    with pytest.raises(ValueError, match=text):
        weights.save(encoder, tmp_path, vocabulary=[*VOCABULARY, "more"])
    weights.save(encoder, tmp_path, vocabulary=VOCABULARY[:-1])  # the matrix may have padding rows
    assert weights.load(tmp_path).vocabulary == VOCABULARY[:-1]


def test_saving_quantized_layers_raises(tmp_path):
    model = bert.encoder("bert_tiny", vocabulary_size=37)
    model.get_layer("pooler").quantize("int8")
    with pytest.raises(ValueError, match="must have no quantized layers, .*, got pooler"):
        weights.save(model, tmp_path)


def test_lora_is_saved_in_the_kernels(saved, inputs, run_theirs, tmp_path):
    model, directory = saved("BertForSequenceClassification", num_labels=5)
    loaded = weights.load(directory, "classifier")
    rng = np.random.default_rng(0)
    adapted = [each for each in loaded.model._flatten_layers() if hasattr(each, "enable_lora")]
    assert len(adapted) == 2 * 6 + 2  # in each block four and two, the pooler, the head
    for layer in adapted:
        layer.enable_lora(2, lora_alpha=3)
        layer.lora_kernel_b.assign(0.2 * rng.normal(size=layer.lora_kernel_b.shape))
    expected = keras.ops.convert_to_numpy(loaded.model(inputs))
    assert np.abs(expected - run_theirs(model, inputs).logits.numpy()).max() > 0.1
    weights.save(loaded, tmp_path / "again")
    again = type(model).from_pretrained(tmp_path / "again").eval()
    np.testing.assert_allclose(run_theirs(again, inputs).logits.numpy(), expected, atol=1e-5)
    # The model itself is as before.
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(loaded.model(inputs)), expected)


def test_saving_to_a_file_raises(encoder, tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    with pytest.raises(ValueError, match="`directory` must not be a file, got .*file"):
        weights.save(encoder, file)
    assert file.read_text() == "kept"


def test_files_of_another_checkpoint_are_not_read_with_the_new_ones(encoder, saved, tmp_path):
    """No file of the user is deleted, and none is mixed with another checkpoint."""
    words = [*"abcdefg", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    for name in ("tokenizer.json", "added_tokens.json", "spiece.model"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(ValueError, match=f"`directory` must have no files .* with {name}"):
            weights.save(encoder, tmp_path, vocabulary=words)
        assert [file.name for file in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()
    weights.save(bert_tasks.embedder(encoder, pooling="max"), tmp_path, vocabulary=words)
    weights.save(bert_tasks.embedder(encoder), tmp_path, vocabulary=words[::-1])
    assert weights.load(tmp_path).vocabulary == words[::-1]
    with pytest.raises(ValueError, match=r"`directory` must have no files .* with modules\.json"):
        weights.save(encoder, tmp_path)
    loaded = weights.load(tmp_path, "encoder")
    weights.save(loaded, tmp_path)  # its own files
    weights.save(loaded, tmp_path, vocabulary=loaded.vocabulary)
    with pytest.raises(ValueError, match=r"with modules\.json"):
        weights.save(loaded, tmp_path, vocabulary=words)


def test_a_checkpoint_in_several_files_is_replaced(saved, inputs, run_theirs, tmp_path):
    model, directory = saved("BertForSequenceClassification", num_labels=5)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory, max_shard_size="4KB")
    assert (directory / "model.safetensors.index.json").exists()
    loaded = weights.load(directory, "classifier")
    expected = keras.ops.convert_to_numpy(loaded.model(inputs))
    np.testing.assert_allclose(expected, run_theirs(model, inputs).logits.numpy(), atol=1e-5)
    for weight in loaded.model.weights:
        weight.assign(weight * 1.3)
    expected = keras.ops.convert_to_numpy(loaded.model(inputs))
    weights.save(loaded, directory)
    again = weights.load(directory, "classifier").model(inputs)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(again), expected)
    theirs = type(model).from_pretrained(directory).eval()
    np.testing.assert_allclose(run_theirs(theirs, inputs).logits.numpy(), expected, atol=1e-5)


def test_saving_a_window_raises(tmp_path):
    model = bert.encoder("bert_tiny", vocabulary_size=37, window=3)
    with pytest.raises(ValueError, match="window=None for transformers to load it, got 3"):
        weights.save(model, tmp_path)


def test_saving_roberta_with_bert_positions_raises(saved, tmp_path):
    _, directory = saved("RobertaModel", pad_token_id=1, type_vocab_size=2)
    loaded = weights.load(directory)
    model = bert.encoder("bert_tiny", **SMALL)
    with pytest.raises(ValueError, match="padding_id=1 for transformers to load it, got None"):
        weights.save(dataclasses.replace(loaded, model=model), tmp_path)


def test_saving_a_soft_cap_raises(encoder, tmp_path):
    def change(layer):
        if layer.name != "block_1":
            return layer
        return type(layer).from_config(
            {**layer.get_config(), "attention_options": {"logits_soft_cap": 5.0}}
        )

    model = keras.models.clone_model(encoder, clone_function=change)
    with pytest.raises(ValueError, match="must have attention_options={} .* got {'logits_soft_cap"):
        weights.save(model, tmp_path)


def test_saving_a_classifier_without_a_pooler_raises(encoder, tmp_path):
    model = bert_tasks.classifier(encoder, 3, pooling="mean")
    with pytest.raises(ValueError, match="must have a pooler, as the classifier of bert has"):
        weights.save(model, tmp_path)


def test_saving_a_model_of_another_kind_raises(tmp_path):
    inputs = {
        key: keras.Input((3,), name=key) for key in ("token_ids", "segment_ids", "padding_mask")
    }
    model = keras.Model(inputs, keras.layers.Dense(2, name="block_0")(inputs["token_ids"]))
    with pytest.raises(
        ValueError,
        match="must be one of keras_attn.models.bert, modern_bert, bert_tasks or gpt, got",
    ):
        weights.save(model, tmp_path)
    with pytest.raises(ValueError, match="bert_tasks or gpt, got 'x'$"):
        weights.save("x", tmp_path)


def test_saving_additional_weights_raises(encoder, tmp_path):
    outputs = keras.layers.Dense(2, name="mine")(encoder.output["pooled_output"])
    model = keras.Model(encoder.input, outputs)
    with pytest.raises(ValueError, match="got weights mine/kernel, mine/bias"):
        weights.save(model, tmp_path)
    assert not list(tmp_path.iterdir())
