"""Google's TensorFlow 1 checkpoints, written by the tests with the original names."""

import dataclasses
import json
import re

import keras
import numpy as np
import pytest

from keras_attn import weights
from keras_attn.weights import loading

tf = pytest.importorskip("tensorflow")

D = 12
CONFIG = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": D,
    "initializer_range": 0.02,
    "intermediate_size": 19,
    "max_position_embeddings": 97,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": 37,
}


def shapes(config=CONFIG):
    """The names and shapes of the published checkpoints, from google-research/bert's graph."""
    vocabulary, dim, inner = (
        config[key] for key in ("vocab_size", "hidden_size", "intermediate_size")
    )
    norm = {"gamma": [dim], "beta": [dim]}
    names = {
        "bert/embeddings/word_embeddings": [vocabulary, dim],
        "bert/embeddings/token_type_embeddings": [config["type_vocab_size"], dim],
        "bert/embeddings/position_embeddings": [config["max_position_embeddings"], dim],
        "bert/pooler/dense/kernel": [dim, dim],
        "bert/pooler/dense/bias": [dim],
        "cls/predictions/transform/dense/kernel": [dim, dim],
        "cls/predictions/transform/dense/bias": [dim],
        "cls/predictions/output_bias": [vocabulary],
        "cls/seq_relationship/output_weights": [2, dim],
        "cls/seq_relationship/output_bias": [2],
    }
    norms = ["bert/embeddings/LayerNorm", "cls/predictions/transform/LayerNorm"]
    for layer in range(config["num_hidden_layers"]):
        root = f"bert/encoder/layer_{layer}"
        for name, width, units in (
            ("attention/self/query", dim, dim),
            ("attention/self/key", dim, dim),
            ("attention/self/value", dim, dim),
            ("attention/output/dense", dim, dim),
            ("intermediate/dense", dim, inner),
            ("output/dense", inner, dim),
        ):
            names[f"{root}/{name}/kernel"] = [width, units]
            names[f"{root}/{name}/bias"] = [units]
        norms += [f"{root}/attention/output/LayerNorm", f"{root}/output/LayerNorm"]
    return names | {f"{root}/{name}": shape for root in norms for name, shape in norm.items()}


@pytest.fixture
def write(tmp_path):
    """A function that writes arrays as a TensorFlow 1 checkpoint, with the optimizer's slots."""

    def make(arrays, slots=True, config=CONFIG):
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
        (tmp_path / "bert_config.json").write_text(json.dumps(config))
        return tmp_path

    return make


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {n: np.float32(rng.normal(0, 0.2, s)) for n, s in shapes().items()}


def copy(arrays, model):
    """Copy Google's arrays into a transformers model, as its conversion script does."""
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


def random_config(rng):
    """A random configuration, with every field away from its default."""
    heads = int(rng.integers(2, 5))
    return {
        "attention_probs_dropout_prob": float(rng.uniform(0.2, 0.6)),
        "hidden_act": str(rng.choice(["gelu_new", "relu"])),
        "hidden_dropout_prob": float(rng.uniform(0.2, 0.6)),
        "hidden_size": heads * int(rng.integers(2, 6)),
        "initializer_range": float(rng.uniform(0.03, 0.1)),
        "intermediate_size": int(rng.integers(5, 20)),
        "max_position_embeddings": int(rng.integers(83, 97)),
        "num_attention_heads": heads,
        "num_hidden_layers": int(rng.integers(1, 4)),
        "type_vocab_size": int(rng.choice([1, 3, 4])),
        "vocab_size": int(rng.integers(29, 47)),
    }


@pytest.mark.slow_on("tensorflow")
@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=() if s < 2 else pytest.mark.slow) for s in range(20)]
)
def test_random_configurations_equal_transformers(seed, write, saved, inputs, run_theirs):
    rng = np.random.default_rng(seed)
    config = random_config(rng)
    arrays = {n: np.float32(rng.normal(0, 0.3, s)) for n, s in shapes(config).items()}
    model, directory = saved("BertForPreTraining", **config)
    copy(arrays, model)
    (directory / "model.safetensors").unlink()
    inputs["token_ids"] %= config["vocab_size"]
    inputs["segment_ids"] = rng.integers(0, config["type_vocab_size"], (2, 7))
    loaded = weights.load(write(arrays, config=config), "pretraining")
    positions = np.tile(np.arange(7), (2, 1))
    outputs = loaded.model({**inputs, "masked_positions": positions}, training=False)
    expected = run_theirs(model, inputs)
    seen = inputs["padding_mask"]
    actual = keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)
    np.testing.assert_allclose(
        actual["masked_lm"][seen], expected.prediction_logits.numpy()[seen], atol=1e-4
    )
    np.testing.assert_allclose(
        actual["next_sentence"], expected.seq_relationship_logits.numpy(), atol=1e-4
    )
    block = loaded.model.get_layer("block_0")
    assert block.attention_dropout == config["attention_probs_dropout_prob"]
    assert block.dropout == config["hidden_dropout_prob"]
    assert loaded.unknown == ()

    weights.save(loaded, directory / "again")  # saved as transformers' BERT
    again = type(model).from_pretrained(directory / "again").eval()
    np.testing.assert_allclose(
        run_theirs(again, inputs).prediction_logits[seen],
        expected.prediction_logits[seen],
        atol=1e-5,
    )


def test_outputs_equal_transformers_with_the_same_weights(write, arrays, saved, inputs, run_theirs):
    model, _ = saved("BertForPreTraining")
    copy(arrays, model)
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
    assert loaded.initialized == ()


def test_loading_only_the_encoder_skips_the_heads(write, arrays):
    loaded = weights.load(write(arrays, slots=False))
    assert sorted(loaded.model.output) == ["pooled_output", "sequence_output"]
    assert set(loaded.skipped) == {name for name in arrays if name.startswith("cls")}


@pytest.mark.parametrize(("prefix", "task"), [("", "classifier"), ("cls/squad/", "span")])
def test_fine_tuned_heads_are_read(prefix, task, write, arrays):
    kept = {name: array for name, array in arrays.items() if not name.startswith("cls")}
    head = {
        f"{prefix}output_weights": np.float32(np.arange(24).reshape(2, D)),
        f"{prefix}output_bias": np.float32([1, 2]),
    }
    loaded = weights.load(write(kept | head), task)
    kernel, bias = loaded.model.get_layer(task).weights
    np.testing.assert_array_equal(kernel, head[f"{prefix}output_weights"].T)
    np.testing.assert_array_equal(bias, [1, 2])
    assert loaded.initialized == ()


def test_an_unknown_weight_name_raises(write, arrays):
    directory = write({**arrays, "bert/odd": np.ones(2, "float32")}, slots=False)
    with pytest.raises(ValueError, match="not used: bert/odd"):
        weights.load(directory)


def test_two_checkpoints_in_one_directory_raise(write, arrays):
    directory = write(arrays, slots=False)
    (directory / "model.ckpt-7.index").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"one TensorFlow checkpoint, got bert_model.ckpt, model.ck"
    ):
        weights.load(directory)


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
def test_a_truncated_file_raises(suffix, write, arrays):
    file = write(arrays, slots=False) / f"bert_model.ckpt.{suffix}"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(
        ValueError, match="is not a complete TensorFlow checkpoint|is truncated or corrupt at "
    ):
        weights.load(file.parent)


def test_a_missing_data_file_raises(write, arrays):
    directory = write(arrays, slots=False)
    (directory / "bert_model.ckpt.data-00000-of-00001").unlink()
    with pytest.raises(
        ValueError, match="is not a complete TensorFlow checkpoint|is truncated or corrupt at "
    ):
        weights.load(directory)


def test_a_corrupt_file_changes_no_weight(write, arrays, monkeypatch):
    """All weights are read and checked before the first one is assigned."""
    file = write(arrays, slots=False) / "bert_model.ckpt.data-00000-of-00001"
    content = bytearray(file.read_bytes())
    place = content.find(arrays["bert/pooler/dense/kernel"].tobytes())
    content[place + 1] ^= 1
    file.write_bytes(content)
    made = []
    original = loading.FAMILIES["bert"]

    def encoder(*args, **kwargs):
        made.append(original.encoder(*args, **kwargs))
        return made[-1]

    monkeypatch.setitem(loading.FAMILIES, "bert", dataclasses.replace(original, encoder=encoder))
    with pytest.raises(ValueError, match="is truncated or corrupt at bert/pooler/dense/kernel"):
        weights.load(file.parent, "pretraining")
    for weight in made[0].weights:
        if weight.path.endswith("gamma"):
            assert keras.ops.convert_to_numpy(weight).tolist() == [1.0] * D
