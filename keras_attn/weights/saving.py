"""A model becomes a checkpoint directory that the library transformers loads."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_attn.models import bert
from keras_attn.weights.bert_hf import ACTIVATIONS, ARCHITECTURES, FORMAT, PARTS
from keras_attn.weights.source import path

NEED_POOLER = {"classifier", "multiple_choice", "next_sentence"}


def save(
    model: keras.Model,
    directory: str | os.PathLike,
    *,
    vocabulary: Sequence[str] | None = None,
    lowercase: bool | None = None,
) -> None:
    """Write a BERT as transformers does: model.safetensors, config.json and vocab.txt.

    Args:
        model: of `keras_attn.models.bert` or `bert_tasks`, or loaded.
        directory: made if it is not there; files of these names are replaced.
        vocabulary: the pieces in the order of their ids, for vocab.txt.
        lowercase: whether the tokenizer lower-cases text, for tokenizer_config.json.

    Raises:
        ValueError: a model that transformers' BERT cannot be, such as one with a window; a
            vocabulary whose size is not the matrix's.

    Example:
    >>> import tempfile
    >>> from keras_attn.models import bert
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save(bert.encoder("bert_tiny", vocabulary_size=100), directory)
    ...     print(sorted(os.listdir(directory)))
    ['config.json', 'model.safetensors']
    """
    import safetensors.numpy

    targets = {path(weight).removeprefix("head/"): weight for weight in model.weights}
    parts = {part for part, rules in PARTS.items() if rules[0].target in targets}
    config = _config(model, parts - {"pooler"})
    if vocabulary is not None and len(vocabulary) != config["vocab_size"]:
        raise ValueError(
            f"`vocabulary` must have a piece for each of the {config['vocab_size']} rows of the "
            f"token matrix, got {len(vocabulary)}"
        )
    prefix = "" if config["architectures"] == ["BertModel"] else "bert."
    arrays = {}
    for owner, rows in ((prefix, (*FORMAT.trunk, *PARTS["pooler"])), ("", _heads(parts))):
        for rule in (rule for row in rows for rule in row.expand(config["num_hidden_layers"])):
            if rule.target in targets:
                array = keras.ops.convert_to_numpy(targets.pop(rule.target))
                arrays[owner + rule.source] = np.ascontiguousarray(rule.change.save(array))
    if targets:
        raise ValueError(
            f"`model` must be a BERT of this package, got weights {', '.join(targets)}"
        )

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(arrays, directory / "model.safetensors", {"format": "pt"})
    _write_json(directory / "config.json", config)
    if vocabulary is not None:
        text = "".join(f"{piece}\n" for piece in vocabulary)
        (directory / "vocab.txt").write_text(text, encoding="utf-8", newline="\n")
    if lowercase is not None:
        _write_json(
            directory / "tokenizer_config.json",
            {"do_lower_case": lowercase, "tokenizer_class": "BertTokenizer"},
        )


def _heads(parts: set[str]) -> list:
    return [rule for part in sorted(parts - {"pooler"}) for rule in PARTS[part]]


def _config(model: keras.Model, heads: set[str]) -> dict[str, Any]:
    """config.json, from the layers."""
    architectures = [name for name, saved in ARCHITECTURES.items() if set(saved) == heads]
    layers = {layer.name: layer for layer in bert.encoder_of(model).layers}
    if heads & NEED_POOLER and "pooler" not in layers:
        raise ValueError(
            f"`model` must have a pooler, as BERT's {', '.join(heads)} has, got {model.name!r}"
        )
    if not architectures or not {"embedding", "block_0"} <= set(layers):
        raise ValueError(
            "`model` must be one of keras_attn.models.bert or bert_tasks, "
            f"got {model.name!r} with layers {', '.join(layers)}"
        )
    embedding, block = layers["embedding"], layers["block_0"]
    activations = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    plain = {
        "window": block.window is None,
        "position": block.position is None,
        "causal": not block.causal,
        "norm": block.norm == "layer",
        "normalize_first": not block.normalize_first,
        "activation": block.activation.__name__ in activations,
    }
    odd = [name for name, is_plain in plain.items() if not is_plain]
    if odd:
        raise ValueError(
            "`model` must have plain BERT blocks for transformers to load it, got "
            + ", ".join(f"{name}={getattr(block, name)!r}" for name in odd)
        )
    config = {
        "architectures": architectures,
        "model_type": "bert",
        "vocab_size": embedding.vocabulary_size,
        "hidden_size": embedding.dim,
        "num_hidden_layers": sum(name.startswith("block_") for name in layers),
        "num_attention_heads": block.num_heads,
        "intermediate_size": block.intermediate_dim,
        "hidden_act": activations[block.activation.__name__],
        "hidden_dropout_prob": embedding.dropout,
        "attention_probs_dropout_prob": block.attention_dropout,
        "max_position_embeddings": embedding.max_length,
        "type_vocab_size": embedding.num_segments,
        "initializer_range": getattr(embedding.initializer, "stddev", 0.02),
        "layer_norm_eps": embedding.layer_norm_epsilon,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    counts = [layer.num_classes for layer in model.layers if hasattr(layer, "num_classes")]
    for count in counts:
        config["id2label"] = {str(index): f"LABEL_{index}" for index in range(count)}
        config["label2id"] = {f"LABEL_{index}": index for index in range(count)}
    return config


def _write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
