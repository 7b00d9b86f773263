"""Directories of sentence-transformers: vectors by transformers and numpy, settings, errors."""

import json
import shutil

import keras
import numpy as np
import pytest

from keras_attn import weights
from keras_attn.models import bert, bert_tasks

NAMES = {"first": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "last": "lasttoken"}
OTHERS = ("mean_sqrt_len_tokens", "weightedmean_tokens")


def write(directory, modules, pooling, **settings):
    """The files beside a checkpoint, as sentence-transformers writes them."""
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.{kind}"}
        for index, (kind, path) in enumerate(modules.items())
    ]
    (directory / "modules.json").write_text(json.dumps(listed[::-1]))  # idx says the order
    (directory / "1_Pooling").mkdir(exist_ok=True)
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    for name, content in settings.items():
        (directory / f"{name}.json").write_text(json.dumps(content))


MODULES = {"models.Transformer": "", "models.Pooling": "1_Pooling"}
NORMALIZED = {**MODULES, "models.Normalize": "2_Normalize"}
MEAN = {"word_embedding_dimension": 12, "pooling_mode_mean_tokens": True}


def numpy_vectors(states, mask, mode, normalize):
    rows = [row[kept].astype("float64") for row, kept in zip(states, mask, strict=True)]
    pool = {
        "first": lambda row: row[0],
        "last": lambda row: row[-1],
        "mean": lambda row: row.mean(0),
        "max": lambda row: row.max(0),
    }[mode]
    vectors = np.stack([pool(row) for row in rows])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if normalize else vectors


def vectors_of(model, inputs):
    return keras.ops.convert_to_numpy(model(inputs))


@pytest.mark.parametrize(
    ("mode", "normalize", "pooling"),
    [
        ("mean", True, {**MEAN, "pooling_mode_cls_token": False}),
        ("first", False, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}),
        ("max", True, {"embedding_dimension": 12, "pooling_mode": "max", "include_prompt": True}),
        ("last", False, {"pooling_mode": ["lasttoken"]}),
        ("mean", False, {}),
    ],
)
def test_vectors_equal_transformers(saved, inputs, run_theirs, mode, normalize, pooling):
    theirs, directory = saved()
    modules = {
        "base.modules.transformer.Transformer": "",
        "sentence_transformer.modules.pooling.Pooling": "1_Pooling",
    }
    write(directory, NORMALIZED if normalize else modules, pooling)
    model = weights.load(directory, "embedder").model
    states = run_theirs(theirs, inputs).last_hidden_state.numpy()
    expected = numpy_vectors(states, inputs["padding_mask"], mode, normalize)
    np.testing.assert_allclose(vectors_of(model, inputs), expected, atol=1e-5)
    assert weights.load(directory).model.output.keys() == {"sequence_output", "pooled_output"}


def test_the_checkpoint_may_be_in_a_folder_and_arguments_override_the_files(
    saved, inputs, tmp_path
):
    _, directory = saved()
    expected = vectors_of(
        bert_tasks.embedder(weights.load(directory).model, pooling="first"), inputs
    )
    outer = tmp_path / "outer"
    shutil.copytree(directory, outer / "0_BERT")
    (outer / "0_BERT" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    write(outer, {**MODULES, "models.Transformer": "0_BERT"}, MEAN)
    loaded = weights.load(outer, "embedder", pooling="first", normalize=True)
    np.testing.assert_array_equal(vectors_of(loaded.model, inputs), expected)
    assert loaded.tokenizer(["a"]).to_list() == [[5]]
    file = "sentence_bert_config.json"
    (outer / "0_BERT" / file).write_text('{"max_seq_length": 13, "do_lower_case": false}')
    weights.save(loaded, tmp_path / "again")
    assert json.loads((tmp_path / "again" / file).read_text())["max_seq_length"] == 13
    assert weights.load(outer).model.output["sequence_output"].shape[-1] == 12


@pytest.mark.parametrize(("mode", "normalize"), [("mean", True), ("last", False)])
def test_a_saved_embedder_can_be_reloaded(inputs, tmp_path, mode, normalize):
    encoder = bert.encoder(
        "bert_tiny", vocabulary_size=37, hidden_dim=12, num_heads=3, max_length=97
    )
    model = bert_tasks.embedder(encoder, pooling=mode, normalize=normalize)
    weights.save(model, tmp_path)
    expected = ["Transformer", "Pooling", "Normalize"][: 2 + normalize]
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [module["type"] for module in modules] == [
        f"sentence_transformers.models.{kind}" for kind in expected
    ]
    config = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert config == {
        "word_embedding_dimension": 12,
        **{f"pooling_mode_{name}": own == mode for own, name in NAMES.items()},
        **{f"pooling_mode_{name}": False for name in OTHERS},
    }
    again = weights.load(tmp_path, "embedder").model
    np.testing.assert_array_equal(vectors_of(again, inputs), vectors_of(model, inputs))


@pytest.mark.parametrize(
    ("modules", "pooling", "settings", "message"),
    [
        (MODULES, {"pooling_mode": "weightedmean"}, {}, "among cls, mean, .* got weightedmean"),
        (MODULES, {"pooling_mode": 3}, {}, "one pooling mode among cls, .* got 3"),
        (MODULES, {**MEAN, "pooling_mode_max_tokens": True}, {}, "got mean and max"),
        (MODULES, {**MEAN, "include_prompt": False}, {}, "`include_prompt` must be true, .* False"),
        (
            {**MODULES, "models.Dense": "2_Dense"},
            MEAN,
            {},
            "Pooling and perhaps Normalize, got Transformer, Pooling, Dense",
        ),
        ({"models.WordEmbeddings": ""}, MEAN, {}, "must begin with a Transformer, got WordEmb"),
        ({}, MEAN, {}, "must begin with a Transformer, got nothing"),
        (
            MODULES,
            MEAN,
            {"sentence_bert_config": {"max_seq_length": 9, "do_lower_case": True}},
            "`do_lower_case` must be false, got True",
        ),
        (
            MODULES,
            MEAN,
            {"config_sentence_transformers": {"default_prompt_name": "query"}},
            "`default_prompt_name` must be null, got 'query'",
        ),
    ],
)
def test_unsupported_modules_and_settings_raise(saved, modules, pooling, settings, message):
    _, directory = saved()
    write(directory, modules, pooling, **settings)
    with pytest.raises(ValueError, match=message):
        weights.load(directory, "embedder")


def test_an_invalid_list_of_modules_raises(saved):
    _, directory = saved()
    for content in ("[", "3", '[{"idx": 0}]', '{"type": "Pooling"}'):
        (directory / "modules.json").write_text(content)
        with pytest.raises(ValueError, match=r"modules.json must be a JSON list of modules with"):
            weights.load(directory)
