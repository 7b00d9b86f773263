"""Every kind of checkpoint with all fields of its configuration away from their defaults.

Outputs and dropout rates equal those of transformers, and `save` writes what was read; or the error
names the key of an unsupported configuration.
"""

import json
import re

import keras
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from keras_attn import weights

B, T, C = 2, 7, 3
TASKS = {
    "Model": None,
    "LMHeadModel": None,
    "ForPreTraining": "pretraining",
    "ForMaskedLM": "masked_lm",
    "ForNextSentencePrediction": "next_sentence",
    "ForSequenceClassification": "classifier",
    "ForTokenClassification": "tagger",
    "ForMultipleChoice": "multiple_choice",
    "ForQuestionAnswering": "span",
}
ENCODERS = [ending for ending in TASKS if ending != "LMHeadModel"]
SHARED = [e for e in ENCODERS if e not in ("ForPreTraining", "ForNextSentencePrediction")]
KINDS = {
    "Bert": ENCODERS,
    "Roberta": SHARED,
    "XLMRoberta": SHARED,
    "DistilBert": SHARED,
    "ModernBert": SHARED,
    "GPT2": [
        "LMHeadModel",
        "ForSequenceClassification",
        "Model",
        "ForTokenClassification",
        "ForQuestionAnswering",
    ],
}
ROBERTAS = ("Roberta", "XLMRoberta")
# Keys of unsupported models, and the value that makes a model one.
REFUSED = {
    "is_decoder": True,
    "add_cross_attention": True,
    "is_encoder_decoder": True,
    "scale_attn_weights": False,
    "scale_attn_by_inverse_layer_idx": True,
}


def cases():
    """20 configurations of each class; three of each kind are fast."""
    for kind, endings in KINDS.items():
        for ending_index, ending in enumerate(endings):
            for seed in range(20):
                fast = (seed, ending_index) in ((0, 0), (1, min(5, len(endings) - 1)), (2, 1))
                fast = fast or (len(endings) == 1 and seed < 3)
                marks = () if fast else pytest.mark.slow
                yield pytest.param(kind, ending, seed, marks=marks, id=f"{kind}{ending}-{seed}")


def configuration(kind, ending, rng):
    """A random configuration, with every field away from its default."""

    def rate():
        return round(float(rng.uniform(0.2, 0.6)), 3)

    heads, width = int(rng.integers(2, 5)), 2 * int(rng.integers(1, 4))
    activation = str(rng.choice(["gelu_new", "gelu_pytorch_tanh", "relu"]))
    pad = int(rng.choice([2, 3, 5] if kind not in ROBERTAS else [0, 2, 5]))
    values = {
        "vocab_size": int(rng.integers(29, 47)),
        "initializer_range": 0.03,
        "pad_token_id": pad,
        "bos_token_id": 7,
        "eos_token_id": 8,
        "chunk_size_feed_forward": 1,
    }
    sizes = {
        "num_hidden_layers": int(rng.integers(1, 4)),
        "hidden_size": heads * width,
        "num_attention_heads": heads,
        "max_position_embeddings": int(rng.integers(19, 31)),
    }
    if kind in ("Bert", *ROBERTAS):
        values |= {
            **sizes,
            "intermediate_size": int(rng.integers(5, 20)),
            "hidden_act": activation,
            "hidden_dropout_prob": rate(),
            "attention_probs_dropout_prob": rate(),
            "classifier_dropout": rate() if rng.integers(2) else 0.0,
            "type_vocab_size": int(rng.choice([1, 3, 4])),
            "layer_norm_eps": float(10 ** -rng.uniform(1, 4)),
            "use_cache": False,
        }
    elif kind == "DistilBert":
        values |= {
            **sizes,
            "hidden_dim": int(rng.integers(5, 20)),
            "activation": activation,
            "dropout": rate(),
            "attention_dropout": rate(),
            "seq_classif_dropout": rate(),
            "qa_dropout": rate(),
            "sinusoidal_pos_embds": True,
        }
    elif kind == "ModernBert":
        layers, every = int(rng.integers(2, 5)), int(rng.integers(1, 4))
        kinds = ["full_attention" if i % every == 0 else "sliding_attention" for i in range(layers)]
        bases = zip(("full_attention", "sliding_attention"), rng.uniform(9, 99, 2), strict=True)
        values |= {
            **sizes,
            "num_hidden_layers": layers,
            "intermediate_size": int(rng.integers(5, 20)),
            "norm_eps": float(10 ** -rng.uniform(1, 4)),
            "layer_types": kinds,
            "rope_parameters": {
                kind: {"rope_type": "default", "rope_theta": float(base)} for kind, base in bases
            },
            "local_attention": int(rng.integers(2, 9)),  # shorter than the rows
            "embedding_dropout": rate(),
            "attention_dropout": rate(),
            "mlp_dropout": rate(),
            "classifier_dropout": rate(),
            "classifier_pooling": str(rng.choice(["cls", "mean"])),
            "initializer_cutoff_factor": 3.0,
            "deterministic_flash_attn": True,
            "sparse_prediction": True,
            "sparse_pred_ignore_index": -99,
            "cls_token_id": 9,
            "sep_token_id": 10,
        }
    else:
        values |= {
            "n_layer": sizes["num_hidden_layers"],
            "n_embd": sizes["hidden_size"],
            "n_head": heads,
            "n_positions": sizes["max_position_embeddings"],
            "n_inner": int(rng.integers(5, 20)),
            "activation_function": str(rng.choice(["gelu", "gelu_pytorch_tanh", "relu"])),
            "resid_pdrop": rate(),
            "attn_pdrop": rate(),
            "embd_pdrop": rate(),
            "layer_norm_epsilon": float(10 ** -rng.uniform(1, 4)),
            "summary_type": "last",
            "summary_use_proj": False,
            "summary_activation": "tanh",
            "summary_proj_to_labels": False,
            "summary_first_dropout": rate(),
            "reorder_and_upcast_attn": True,
            "use_cache": False,
        }
    if kind == "GPT2" and ending == "ForTokenClassification" and rng.integers(3):
        values[str(rng.choice(["classifier_dropout", "hidden_dropout"]))] = rate()
    if ending in ("ForSequenceClassification", "ForTokenClassification"):
        labels = {i: f"name {i}" for i in range(int(rng.integers(3, 7)))}
        values |= {"id2label": labels, "label2id": {name: i for i, name in labels.items()}}
        values["problem_type"] = "multi_label_classification"
    return values


def make(kind, ending, config, directory):
    """A transformers model with random weights, saved."""
    model_class = getattr(transformers, f"{kind}{ending}")
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(directory)
    return model


def inputs_of(kind, config, rng):
    """Inputs of our models, `[B, T]`; RoBERTa's with the padding id in the text and on the left."""
    ids = rng.integers(0, config["vocab_size"], (B, T))
    ids = np.where(ids == config["pad_token_id"], 6, ids)
    mask = np.arange(T) < np.array([[T], [5]])
    if kind in ROBERTAS:
        ids[0, 3] = config["pad_token_id"]
        mask = mask[:, ::-1]
    segments = rng.integers(0, config.get("type_vocab_size", 1), (B, T))
    return {
        "token_ids": np.where(mask, ids, config["pad_token_id"]),
        "segment_ids": segments,
        "padding_mask": mask,
    }


def outputs_of(model, kind, inputs):
    """The outputs of the transformers model, by name."""
    names = {"input_ids": "token_ids", "attention_mask": "padding_mask"}
    if kind in ("Bert", *ROBERTAS):
        names["token_type_ids"] = "segment_ids"
    tensors = {name: torch.tensor(np.int64(inputs[ours])) for name, ours in names.items()}
    with torch.no_grad():
        return {name: value.numpy() for name, value in model(**tensors).items() if name != "cache"}


def run(model, inputs):
    return keras.tree.map_structure(
        keras.ops.convert_to_numpy, model({k: inputs[k] for k in model.input}, training=False)
    )


def compare(loaded, task, inputs, expected):
    """Compare our outputs with theirs, except at padding and positions excluded from a span."""
    seen = inputs["padding_mask"]
    if task == "span":
        context = inputs["segment_ids"] == 1
        if loaded.config.get("type_vocab_size", 1) < 2:
            context |= ~context.any(axis=1, keepdims=True)
        seen = seen & (context | (np.arange(T) == 0))
    if task in ("masked_lm", "pretraining"):
        inputs = {**inputs, "masked_positions": np.tile(np.arange(T), (B, 1))}
    ours = run(loaded.model, inputs)
    if not isinstance(ours, dict):
        ours = {"logits": ours}
    theirs = {
        "sequence_output": "last_hidden_state",
        "pooled_output": "pooler_output",
        "masked_lm": "prediction_logits",
        "next_sentence": "seq_relationship_logits",
        "start": "start_logits",
        "end": "end_logits",
        "logits": "logits",
    }
    for name, value in ours.items():
        other = expected[theirs[name]]
        assert value.shape == other.shape
        where = seen if value.shape[:2] == (B, T) else ...
        np.testing.assert_allclose(value[where], other[where], atol=1e-4, rtol=0, err_msg=name)


def dropout_rates(model):
    """The dropout rates of the transformers model, by our names."""
    places = {
        r".*(embeddings\.dropout|embeddings\.drop|transformer\.drop)$": "embedding",
        r".*(attention\.self\.dropout|attention\.dropout|attn\.attn_dropout)$": "attention",
        r".*(attention\.output\.dropout|attn\.resid_dropout|attn\.out_drop)$": "attention_output",
        r".*(\d\.output\.dropout|ffn\.dropout|mlp\.dropout)$": "block",
        r".*\d\.mlp\.drop$": "feed_forward",
        r"(classifier\.)?drop(out)?$": "head",
    }
    rates = {}
    prefix = "transformer" if type(model).__name__ == "GPT2Model" else ""
    for path, module in model.named_modules(prefix=prefix):
        if isinstance(module, torch.nn.Dropout):
            (name,) = (name for pattern, name in places.items() if re.fullmatch(pattern, path))
            rates.setdefault(name, set()).add(module.p)
        elif type(rate := getattr(module, "attention_dropout", None)) is float:
            rates.setdefault("attention", set()).add(rate)
    return {"head": 0.0} | {n: values.pop() for n, values in rates.items() if len(values) == 1}


def our_rates(model, task):
    flat = {layer.name: layer for layer in model._flatten_layers()}
    rates = {"attention": flat["block_0"].attention_dropout, "block": flat["block_0"].dropout}
    if flat["block_0"].feed_forward.gated:  # ModernBERT has dropout inside the feed-forward
        assert rates.pop("block") == 0.0
        rates["feed_forward"] = flat["block_0"].feed_forward.dropout
    rate = flat["block_0"].attention_output_dropout
    if rate != 0.0:  # DistilBERT has none there
        rates["attention_output"] = rates["block"] if rate is None else rate
    embedding = flat.get("embedding")
    rates["embedding"] = embedding.dropout if embedding else flat["embedding_dropout"].rate
    heads = ("classifier", "tagger", "multiple_choice", "span")
    rates["head"] = flat[task].dropout if task in heads else 0.0
    return rates


@pytest.mark.slow_on("tensorflow")
@pytest.mark.parametrize(("kind", "ending", "seed"), list(cases()))
def test_outputs_dropout_and_saved_files_equal_transformers(kind, ending, seed, tmp_path, caplog):
    rng = np.random.default_rng([seed, len(ending), len(kind)])
    config, task = configuration(kind, ending, rng), TASKS[ending]
    if (kind, ending) == ("GPT2", "Model"):
        task = "encoder"  # without a task it is the language model
    model = make(kind, ending, config, tmp_path / "theirs")
    inputs = inputs_of(kind, config, rng)
    if task == "multiple_choice":
        inputs = {k: np.stack([v, np.roll(v, 1, 0), v[:, ::1]], 1) for k, v in inputs.items()}
        inputs["token_ids"][:, 2, 1] = 9
    options = {"num_choices": C} if task == "multiple_choice" else {}
    loaded = weights.load(tmp_path / "theirs", task, **options)
    assert (loaded.skipped, loaded.initialized, loaded.unknown) == ((), (), ())
    expected = outputs_of(model, kind, inputs)
    compare(loaded, task, inputs, expected)
    assert our_rates(loaded.model, task) == pytest.approx(dropout_rates(model))

    weights.save(loaded, tmp_path / "ours")
    first, second = (
        safetensors.numpy.load_file(tmp_path / name / "model.safetensors")
        for name in ("theirs", "ours")
    )
    assert set(first) == set(second)
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)
    old, new = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("theirs", "ours")
    )
    assert {key: new.get(key) for key in old} == old
    caplog.clear()
    again = type(model).from_pretrained(tmp_path / "ours").eval()
    assert not caplog.records
    for name, value in outputs_of(again, kind, inputs).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", REFUSED)
def test_an_unsupported_configuration_raises(kind, key, tmp_path):
    ending = KINDS[kind][0]
    config = configuration(kind, ending, np.random.default_rng(0))
    make(kind, ending, config, tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: REFUSED[key]}))
    known = hasattr(getattr(transformers, f"{kind}Config")(), key)
    if not known and "scale" in key:
        with pytest.warns(UserWarning, match=f"the configuration has keys that .*, {key}; if"):
            assert weights.load(tmp_path).unknown == (key,)
        return
    with pytest.raises(ValueError, match=f"`{key}` must be {not REFUSED[key]}, got"):
        weights.load(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_configuration_key_of_transformers_is_known(kind):
    config = getattr(transformers, f"{kind}Config")(num_labels=3).to_dict()
    from keras_attn.weights.formats import TRANSFORMERS

    format = TRANSFORMERS[config["model_type"]]
    assert format.unknown({**config, "odd": 1}) == ("odd",)
