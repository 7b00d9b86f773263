"""ModernBERT: what test_formats.py does not vary, and unsupported configurations."""

import json
import re

import keras
import numpy as np
import pytest
import safetensors.numpy

from keras_attn import layers, weights
from keras_attn.models import bert, bert_tasks, modern_bert

SIZES = {
    "num_hidden_layers": 4,
    "local_attention": 5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
LENGTH = {"original_max_position_embeddings": 12}


@pytest.fixture
def modern(saved):
    """A function: class name and sizes -> (the transformers model, its directory)."""
    return lambda architecture="ModernBertModel", **sizes: saved(
        architecture, **{**SIZES, "hidden_size": 24, **sizes}
    )


def configure(directory, **changes):
    file = directory / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))


def test_hidden_states_equal_transformers(modern, inputs, run_theirs):
    model, directory = modern()
    model.config.output_hidden_states = True
    loaded = weights.load(directory, hidden_states=True)
    again = bert.encoder_of(bert_tasks.tagger(loaded.model, 3), hidden_states=True)
    expected = run_theirs(model, inputs, token_type_ids=None).hidden_states
    seen = inputs["padding_mask"]
    for encoder in (loaded.model, again):
        states = encoder(inputs, training=False)["hidden_states"]
        assert len(states) == len(expected) == 5
        for ours, theirs in zip(states, expected, strict=True):
            ours = keras.ops.convert_to_numpy(ours)
            np.testing.assert_allclose(ours[seen], theirs.numpy()[seen], atol=1e-4)


@pytest.mark.parametrize("kernel", ["chunked", pytest.param("auto", marks=pytest.mark.slow)])
def test_long_rows_with_the_published_window_equal_transformers(kernel, modern, run_theirs):
    """With the kernel whose cost grows linearly with the length."""
    model, directory = modern("ModernBertForTokenClassification", local_attention=128)
    length = 311
    rows = {
        "token_ids": np.random.default_rng(0).integers(0, 37, (2, length)),
        "segment_ids": np.zeros((2, length), int),
        "padding_mask": np.arange(length) < np.array([[length], [277]]),
    }
    expected = run_theirs(model, rows, token_type_ids=None).logits.numpy()
    loaded = weights.load(directory, "tagger", kernel=kernel)
    outputs = keras.ops.convert_to_numpy(loaded.model(rows, training=False))
    seen = rows["padding_mask"]
    np.testing.assert_allclose(outputs[seen], expected[seen], atol=1e-4)


def test_configuration_keys_of_published_checkpoints_are_read(modern, inputs, run_theirs):
    """They give the interval of global layers and a key for each wavelength."""
    model, directory = modern(
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 50.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 7.0},
        }
    )
    configure(
        directory,
        layer_types="absent",
        rope_parameters="absent",
        global_attn_every_n_layers=3,
        global_rope_theta=50.0,
        local_rope_theta=7.0,
        layer_norm_eps=1e-5,
        position_embedding_type="absolute",
        reference_compile=False,
    )
    loaded = weights.load(directory)
    assert loaded.unknown == ()
    seen = inputs["padding_mask"]
    outputs = keras.ops.convert_to_numpy(loaded.model(inputs)["sequence_output"])
    expected = run_theirs(model, inputs, token_type_ids=None).last_hidden_state.numpy()
    np.testing.assert_allclose(outputs[seen], expected[seen], atol=1e-4)
    weights.save(loaded.model, directory / "again")
    again = type(model).from_pretrained(directory / "again").eval()
    found = run_theirs(again, inputs, token_type_ids=None).last_hidden_state.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_first_layer_of_a_masked_lm_head_is_loaded_into_any_head(modern):
    """As in transformers, where the first layer of every head has the same name."""
    _, directory = modern("ModernBertForMaskedLM")
    arrays = safetensors.numpy.load_file(directory / "model.safetensors")
    loaded = weights.load(directory, "tagger", num_classes=3)
    dense, norm = (
        loaded.model.get_layer(name) for name in ("transformation", "transformation_norm")
    )
    np.testing.assert_array_equal(dense.kernel, arrays["head.dense.weight"].T)
    np.testing.assert_array_equal(norm.gamma, arrays["head.norm.weight"])
    assert loaded.initialized == ("tagger/output/kernel", "tagger/output/bias")
    assert loaded.skipped == ("decoder.bias",)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("attention_bias", True, "`attention_bias` must be False, got True"),
        ("mlp_bias", True, "`mlp_bias` must be False, got True"),
        ("norm_bias", True, "`norm_bias` must be False, got True"),
        ("classifier_bias", True, "`classifier_bias` must be False, got True"),
        ("decoder_bias", False, "`decoder_bias` must be True, got False"),
        ("tie_word_embeddings", False, "`tie_word_embeddings` must be True, got False"),
        ("hidden_activation", "silu", "`hidden_activation` must be one of gelu, got 'silu'"),
        ("classifier_activation", "relu", "`classifier_activation` must be 'gelu', got 'relu'"),
        ("sliding_window", 1, "`sliding_window` must be None, got 1"),
        ("rope_scaling", {"factor": 2.0}, "`rope_scaling` must be None, got {'factor': 2.0}"),
        (
            "rope_parameters",
            {"full_attention": {"rope_type": "dynamic", "rope_theta": 9.0, "factor": 2.0}},
            "`rope_parameters` must have a rope_type among default, linear, yarn, llama3 for "
            "full_attention, got {'rope_type': 'dynamic',",
        ),
        (
            "rope_parameters",
            {"full_attention": {"rope_type": "yarn", "rope_theta": 9.0, "factor": 2.0}},
            "`rope_parameters` must have factor and original_max_position_embeddings (and may have "
            "beta_fast, beta_slow, attention_factor) with rope_type 'yarn' for full_attention, "
            "got {'rope_type': 'yarn',",
        ),
        (
            "rope_parameters",
            {
                "full_attention": {
                    "rope_type": "yarn",
                    "factor": -2.0,
                    "original_max_position_embeddings": 9,
                }
            },
            "`rope_parameters` for full_attention: `factor` must be positive, got -2.0",
        ),
        (
            "rope_parameters",
            {"sliding_attention": {"partial_rotary_factor": 0.5}},
            "a rope_theta alone with rope_type 'default' for sliding_attention, got {'partial_rot",
        ),
        (
            "rope_parameters",
            {"full_attention": {"rope_type": "yarn", "factor": 2.0, **LENGTH, "truncate": False}},
            "`rope_parameters` must leave out truncate or have true for full_attention: "
            "transformers ignores it there and computes as with true, got {'rope_type': 'yarn',",
        ),
        (
            "rope_parameters",
            {"rope_type": "linear", "factor": 2.0},
            "`rope_parameters` must have the keys full_attention and sliding_attention, got {'rope",
        ),
        ("rope_parameters", [1], "default, linear, yarn, llama3 for full_attention, got [1]"),
        (
            "rope_parameters",
            {"full_attention": {"rope_theta": "9"}},
            "`rope_parameters` must be a finite number, got '9'",
        ),
        (
            "layer_types",
            ["full_attention", "full_attention", "sliding_attention", "full_attention"],
            "`layer_types` must have 'full_attention' in every n-th of 4 layers, beginning with "
            "the first, and otherwise 'sliding_attention', got ['full_attention', 'full_",
        ),
        ("layer_types", ["sliding_attention"] * 4, "got ['sliding_attention', "),
        ("layer_types", ["full_attention"] * 3, "every n-th of 4 layers"),
        ("layer_types", 3, "and otherwise 'sliding_attention', got 3"),
        ("local_attention", None, "`local_attention` must be a positive integer, got None"),
    ],
)
def test_an_unsupported_configuration_raises(key, value, message, modern):
    _, directory = modern("ModernBertForMaskedLM")
    configure(directory, **{key: value})
    with pytest.raises(ValueError, match=re.escape(message)):
        weights.load(directory, "masked_lm")


def test_values_of_older_keys_are_checked(modern):
    _, directory = modern()
    configure(directory, layer_types="absent", global_attn_every_n_layers=0)
    with pytest.raises(ValueError, match="`global_attn_every_n_layers` must be a positive int.* 0"):
        weights.load(directory)


def test_an_unsupported_pooling_raises(modern):
    _, directory = modern("ModernBertForSequenceClassification")
    configure(directory, classifier_pooling="max")
    with pytest.raises(ValueError, match="`classifier_pooling` must be one of cls, mean, got 'max"):
        weights.load(directory, "classifier")


def test_an_unsupported_window_or_task_raises(modern):
    _, directory = modern()
    with pytest.raises(ValueError, match="`window` must be None for modernbert, .* got 7"):
        weights.load(directory, window=7)
    for task in ("pretraining", "next_sentence"):
        text = f"`task` must be None or one of .*, masked_lm, encoder for modernbert, got '{task}'"
        with pytest.raises(ValueError, match=text):
            weights.load(directory, task)


def small(**changes):
    size = {"hidden_dim": 12, "num_heads": 3, "intermediate_dim": 7, "vocabulary_size": 23}
    return modern_bert.encoder("modern_bert_base", num_layers=3, **size, **changes)


def test_a_model_built_here_is_saved_with_every_configuration_key(tmp_path):
    """Every value that differs from a default of transformers is written; missing ids are null."""
    model = bert_tasks.classifier(small(window=4), 5, pooling="mean", dropout=0.2)
    weights.save(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["local_attention"] == 6 and config["classifier_pooling"] == "mean"
    assert config["classifier_dropout"] == 0.2 and len(config["id2label"]) == 5
    assert config["pad_token_id"] is config["sep_token_id"] is None
    loaded = weights.load(tmp_path, "classifier")
    for ours, again in zip(model.get_weights(), loaded.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, again)
    assert loaded.model.get_layer("pooling").mode == "mean"
    assert loaded.model.get_layer("block_1").window == 4


def test_a_window_of_one_is_saved_and_loaded(tmp_path):
    weights.save(small(window=1), tmp_path)
    assert weights.load(tmp_path).model.get_layer("block_1").window == 1


@pytest.mark.parametrize(
    ("full", "sliding"),
    [
        (
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "beta_fast": 2.0,
                "beta_slow": 0.5,
                "truncate": True,
                **LENGTH,
            },
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                **LENGTH,
            },
        ),
        ({"rope_type": "linear", "factor": 3.0}, {"rope_type": "default"}),
    ],
    ids=["yarn and llama3", "linear"],
)
def test_scaled_rotary_positions_equal_transformers(
    full, sliding, modern, inputs, run_theirs, tmp_path
):
    full, sliding = {"rope_theta": 90.0, **full}, {"rope_theta": 70.0, **sliding}
    model, directory = modern(
        rope_parameters={"full_attention": full, "sliding_attention": sliding}
    )
    loaded = weights.load(directory)
    assert loaded.unknown == ()
    seen = inputs["padding_mask"]
    outputs = keras.ops.convert_to_numpy(loaded.model(inputs)["sequence_output"])
    expected = run_theirs(model, inputs, token_type_ids=None).last_hidden_state.numpy()
    np.testing.assert_allclose(outputs[seen], expected[seen], atol=1e-4)
    weights.save(loaded.model, tmp_path / "again")
    again = weights.load(tmp_path / "again").model(inputs)["sequence_output"]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(again), outputs, atol=1e-6)
    saved = json.loads((tmp_path / "again" / "config.json").read_text())["rope_parameters"]
    full.pop("truncate", None)  # it changes nothing
    for kind, given in (("full_attention", full), ("sliding_attention", sliding)):
        assert given.items() <= saved[kind].items()


def test_unequal_windows_raise(tmp_path):
    model = small()
    for block in model.layers:
        if getattr(block, "window", None) is not None:
            block.window = (4, 2)
    with pytest.raises(ValueError, match=r"equal windows before and after .*, got \(4, 2\)"):
        weights.save(model, tmp_path)


CHANGED = {
    "soft cap": ({"attention_options": {"use_bias": False, "logits_soft_cap": 5.0}}, "attention_o"),
    "no gate": ({"feed_forward_options": {"use_bias": False}}, "feed_forward_options"),
    "causal": ({"causal": True}, "causal"),
    "positions": ({"position": layers.ALiBi(3)}, "position"),
    "dropout": ({"dropout": 0.5}, "dropout"),
    "wavelength": ({"position": layers.RotaryEmbedding(77.0)}, "position"),
    "scaling": ({"position": layers.RotaryEmbedding(scaling=2.0)}, "position"),
}


@pytest.mark.parametrize(("options", "named"), CHANGED.values(), ids=CHANGED)
def test_saving_a_block_that_transformers_does_not_support_raises(options, named, tmp_path):
    def change(layer):
        if layer.name != "block_2":
            return layer
        return type(layer).from_config({**layer.get_config(), **options})

    model = keras.models.clone_model(small(), clone_function=change)
    with pytest.raises(ValueError, match=f"`model` must have {named}.* for transformers to load"):
        weights.save(model, tmp_path)


def test_saving_a_pooling_or_head_that_transformers_does_not_support_raises(tmp_path):
    model = bert_tasks.classifier(small(), 3, pooling="max")
    with pytest.raises(ValueError, match="must have pooling='first' or 'mean' .* got 'max'"):
        weights.save(model, tmp_path)
    encoder = small()
    head = layers.TokenTaggingHead(3, name="tagger")
    model = keras.Model(encoder.input, head(encoder.output["sequence_output"]))
    with pytest.raises(ValueError, match="all weights of modernbert, got none of transformation/k"):
        weights.save(model, tmp_path)
