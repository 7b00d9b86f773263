"""Google's TensorFlow 1 checkpoints, written here with the original names."""

import json
import re

import keras
import numpy as np
import pytest

from keras_attn import weights
from keras_attn.models import bert

tf = pytest.importorskip("tensorflow")

V, D, F, L, T = 37, 12, 19, 2, 97
CONFIG = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": D,
    "initializer_range": 0.02,
    "intermediate_size": F,
    "max_position_embeddings": T,
    "num_attention_heads": 3,
    "num_hidden_layers": L,
    "type_vocab_size": 2,
    "vocab_size": V,
}


def shapes():
    """The names and shapes of the published checkpoints, from google-research/bert's graph."""
    norm = {"gamma": [D], "beta": [D]}
    names = {
        "bert/embeddings/word_embeddings": [V, D],
        "bert/embeddings/token_type_embeddings": [2, D],
        "bert/embeddings/position_embeddings": [T, D],
        "bert/pooler/dense/kernel": [D, D],
        "bert/pooler/dense/bias": [D],
        "cls/predictions/transform/dense/kernel": [D, D],
        "cls/predictions/transform/dense/bias": [D],
        "cls/predictions/output_bias": [V],
        "cls/seq_relationship/output_weights": [2, D],
        "cls/seq_relationship/output_bias": [2],
    }
    norms = ["bert/embeddings/LayerNorm", "cls/predictions/transform/LayerNorm"]
    for layer in range(L):
        root = f"bert/encoder/layer_{layer}"
        for name, width, units in (
            ("attention/self/query", D, D),
            ("attention/self/key", D, D),
            ("attention/self/value", D, D),
            ("attention/output/dense", D, D),
            ("intermediate/dense", D, F),
            ("output/dense", F, D),
        ):
            names[f"{root}/{name}/kernel"] = [width, units]
            names[f"{root}/{name}/bias"] = [units]
        norms += [f"{root}/attention/output/LayerNorm", f"{root}/output/LayerNorm"]
    return names | {f"{root}/{name}": shape for root in norms for name, shape in norm.items()}


@pytest.fixture
def write(tmp_path):
    """A function that writes arrays as a TensorFlow 1 checkpoint, with the optimizer's slots."""

    def make(arrays, slots=True):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            for name, array in arrays.items():
                tf.compat.v1.get_variable(name, initializer=array)
                if slots:
                    tf.compat.v1.get_variable(f"{name}/adam_m", initializer=0 * array)
                    tf.compat.v1.get_variable(f"{name}/adam_v", initializer=0 * array)
            if slots:
                tf.compat.v1.train.create_global_step()
            session.run(tf.compat.v1.global_variables_initializer())
            saver = tf.compat.v1.train.Saver()
            saver.save(session, str(tmp_path / "bert_model.ckpt"), write_meta_graph=False)
        (tmp_path / "checkpoint").unlink()
        (tmp_path / "bert_config.json").write_text(json.dumps(CONFIG))
        return tmp_path

    return make


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {n: np.float32(rng.normal(0, 0.2, s)) for n, s in shapes().items()}


def test_equals_the_same_weights_in_transformers(write, arrays, saved, inputs, run_theirs):
    """Names of Google's to names of transformers', as its own conversion script maps them."""
    model, _ = saved("BertForPreTraining")
    state = {}
    for name, array in arrays.items():
        theirs = re.sub(r"layer_(\d+)", r"layer.\1", name).replace("/", ".")
        theirs = theirs.replace("gamma", "weight").replace("beta", "bias")
        theirs = theirs.replace("predictions.output_bias", "predictions.bias")
        theirs = theirs.replace("output_weights", "weight").replace("output_bias", "bias")
        theirs = re.sub(r"(_embeddings)$", r"\1.weight", theirs)
        state[theirs.replace("kernel", "weight")] = array.T if theirs.endswith("kernel") else array
    for name, parameter in model.state_dict().items():
        if "decoder" not in name:
            parameter.copy_(parameter.new_tensor(state.pop(name)))
    assert not state

    directory = write(arrays)
    (directory / "model.safetensors").unlink()
    loaded = weights.load(directory, "pretraining")
    positions = np.array([[1, 4, 6], [0, 2, 3]])
    outputs = loaded.model({**inputs, "masked_positions": positions}, training=False)
    expected = run_theirs(model, inputs)
    actual = keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)
    vocabulary = np.take_along_axis(expected.prediction_logits.numpy(), positions[..., None], 1)
    np.testing.assert_allclose(actual["masked_lm"], vocabulary, atol=1e-4)
    relation = expected.seq_relationship_logits.numpy()
    np.testing.assert_allclose(actual["next_sentence"], relation, atol=1e-4)
    slots = {f"{name}/adam_{letter}" for name in arrays for letter in "mv"}
    assert set(loaded.skipped) == slots | {"global_step"}
    assert loaded.fresh == ()


def test_encoder_alone_skips_the_heads(write, arrays):
    loaded = weights.load(write(arrays, slots=False))
    assert sorted(loaded.model.output) == ["pooled_output", "sequence_output"]
    assert set(loaded.skipped) == {name for name in arrays if name.startswith("cls")}


@pytest.mark.parametrize(("prefix", "task"), [("", "classifier"), ("cls/squad/", "span")])
def test_fine_tuned(prefix, task, write, arrays):
    kept = {name: array for name, array in arrays.items() if not name.startswith("cls")}
    head = {
        f"{prefix}output_weights": np.float32(np.arange(24).reshape(2, D)),
        f"{prefix}output_bias": np.float32([1, 2]),
    }
    loaded = weights.load(write(kept | head), task)
    kernel, bias = loaded.model.get_layer(task).weights
    np.testing.assert_array_equal(kernel, head[f"{prefix}output_weights"].T)
    np.testing.assert_array_equal(bias, [1, 2])
    assert loaded.fresh == ()


def test_unknown_name(write, arrays):
    directory = write({**arrays, "bert/odd": np.ones(2, "float32")}, slots=False)
    with pytest.raises(ValueError, match="not used: bert/odd"):
        weights.load(directory)


def test_two_checkpoints(write, arrays):
    directory = write(arrays, slots=False)
    (directory / "model.ckpt-7.index").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"one TensorFlow checkpoint, got bert_model.ckpt, model.ck"
    ):
        weights.load(directory)


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
def test_truncated(suffix, write, arrays):
    file = write(arrays, slots=False) / f"bert_model.ckpt.{suffix}"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(
        ValueError, match="is no complete TensorFlow checkpoint|is truncated or corrupt at "
    ):
        weights.load(file.parent)


def test_missing_data(write, arrays):
    directory = write(arrays, slots=False)
    (directory / "bert_model.ckpt.data-00000-of-00001").unlink()
    with pytest.raises(
        ValueError, match="is no complete TensorFlow checkpoint|is truncated or corrupt at "
    ):
        weights.load(directory)


def test_no_model_is_changed_by_a_failure(write, arrays):
    """The weights are read and checked before the first one is set."""
    file = write(arrays, slots=False) / "bert_model.ckpt.data-00000-of-00001"
    content = bytearray(file.read_bytes())
    place = content.find(arrays["bert/pooler/dense/kernel"].tobytes())
    content[place + 1] ^= 1
    file.write_bytes(content)
    made = []
    original = bert.encoder
    bert.encoder = lambda *args, **kwargs: made.append(original(*args, **kwargs)) or made[-1]
    try:
        with pytest.raises(ValueError, match="is truncated or corrupt at bert/pooler/dense/kernel"):
            weights.load(file.parent, "pretraining")
    finally:
        bert.encoder = original
    for weight in made[0].weights:
        if weight.path.endswith("gamma"):
            assert keras.ops.convert_to_numpy(weight).tolist() == [1.0] * D
