"""Saves a model as a checkpoint directory that the library transformers loads."""

import itertools
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_attn import layers
from keras_attn._checks import optional_module, to_path
from keras_attn._keras import flatten_layers
from keras_attn._typing import Config, Tensor
from keras_attn.data.text.files import read_json
from keras_attn.data.text.tokenizer_saving import (
    TOKENIZER_FILES,
    check_no_others,
    moved_when_complete,
)
from keras_attn.models import parts
from keras_attn.weights.checkpoint import write_json
from keras_attn.weights.formats import TRANSFORMERS, Format, Head
from keras_attn.weights.loading import Loaded
from keras_attn.weights.matching import rules_of, targets_of
from keras_attn.weights.model_sizes import expect, size_of
from keras_attn.weights.sentence_transformers import MODULES, write_modules
from keras_attn.weights.tokens import Tokens

NEED_POOLER = {"classifier", "multiple_choice", "next_sentence"}
# The format for a model of each family that was not loaded from a checkpoint.
DEFAULT_FORMATS = {"bert": "bert", "modern_bert": "modernbert", "gpt": "gpt2"}


def save(
    model: keras.Model | Loaded,
    directory: str | os.PathLike,
    *,
    vocabulary: Sequence[str] | str | os.PathLike | None = None,
    lowercase: bool | None = None,
    tokenizer: keras.layers.Layer | None = None,
) -> None:
    """Save a model in the format of transformers: safetensors, config.json and tokenizer files.

    A `Loaded` is saved in the format that it was loaded from, such as RoBERTa, and keeps what its
    configuration says about classes, ids and the problem type. Checkpoints of Google and keras-hub
    become BERT; a model alone becomes BERT (with a `padding_id` RoBERTa), ModernBERT or GPT-2. For
    an embedder, the files of sentence-transformers are written too. LoRA is added to the kernels.

    Args:
        model: a `Loaded`, whose model may have been trained since, or a model of
            `keras_attn.models.bert`, `modern_bert`, `bert_tasks` or `gpt`.
        directory: created if it does not exist. Existing files are replaced when all files are
            written, so that an interrupted call changes nothing. There must be no others that would
            be read with the new ones; those of the `Loaded` may be there.
        vocabulary: the tokens in the order of their ids, or the path of a file with one on each
            line, for the vocab.txt of BERT and DistilBERT; defaults to that of the `Loaded`.
        lowercase: whether the tokenizer lower-cases text, for tokenizer_config.json; defaults to
            that of the `Loaded`.
        tokenizer: instead of these two, a `data.BertTokenizer` or a tokenizer of
            `data.read_tokenizer`; defaults to that of the `Loaded`. No tokenizer files are written
            if the checkpoint has none that this package reads.

    Raises:
        ValueError: the model has what the class of transformers does not have, such as a window or
            quantized layers; the vocabulary or the tokenizer is not one of these, or has more
            tokens than the token matrix has rows; `directory` is a file, or has such files.

    Example:
    >>> import tempfile
    >>> from keras_attn.models import bert
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save(bert.encoder("bert_tiny", vocabulary_size=100), directory)
    ...     print(sorted(os.listdir(directory)))
    ['config.json', 'model.safetensors']
    """
    safetensors = optional_module("safetensors.numpy", "weights", "keras_attn.weights.save")

    loaded = model if isinstance(model, Loaded) else None
    built: keras.Model = loaded.model if loaded else model
    found = _parts(built)
    _check_not_quantized(built)
    size = size_of(found)
    format, origin = _format(found.family, size, loaded)
    tokens = Tokens.chosen(loaded, format, vocabulary, lowercase, tokenizer)
    tokens.check(format, size.vocabulary_size)
    targets = _with_lora(built)
    heads = {
        name
        for name, head in format.heads.items()
        if any(target in targets for rule in head.rules for target in rule.targets)
    }
    if found.decoder:
        heads.add("language_model")  # which has no weights of its own
    config = _config(built, found, size, format, heads, origin)
    if tokens.vocabulary and "[PAD]" in tokens.vocabulary and "pad_token_id" not in origin:
        config["pad_token_id"] = tokens.vocabulary.index("[PAD]")
    if found.family == "gpt" and config.get("pad_token_id") is None:
        config["pad_token_id"] = tokens.padding_id()
    arrays = _arrays(targets, format, heads, size.num_layers, config)
    config["dtype"] = str(next(iter(arrays.values())).dtype)

    directory = to_path("directory", directory)
    # Its own directory may have other files: they say the same, unless the tokenizer is a new one.
    other: list[str] = []
    own = loaded and origin and loaded.is_in(directory)
    if not own or tokens != Tokens.chosen(loaded, format, None, None, None):
        other = [MODULES, *(TOKENIZER_FILES if tokens != Tokens() else ())]
    with moved_when_complete(directory) as folder:
        safetensors.save_file(arrays, folder / "model.safetensors", {"format": "pt"})
        write_json(folder / "config.json", config)
        kept = _kept(loaded, "tokenizer_config.json", "model_max_length")
        tokens.write(folder, format, segments=getattr(size, "num_segments", 1) > 1, kept=kept)
        if parts.embeds(built):
            kept = _kept(loaded, "sentence_bert_config.json", "max_seq_length")
            write_modules(found.pooling, size.hidden_dim, folder, kept)
        check_no_others(directory, other, (file.name for file in folder.iterdir()))


def _parts(model: keras.Model) -> parts.Parts:
    """The parts of an encoder or a decoder."""
    found = parts.find(model) if isinstance(model, keras.Model) else None
    if found is None or (found.encoder and found.decoder):
        names = ", ".join(layer.name for layer in getattr(model, "layers", ()))
        raise ValueError(
            "`model` must be one of keras_attn.models.bert, modern_bert, bert_tasks or gpt, "
            f"got {getattr(model, 'name', model)!r}{names and f' with layers {names}'}"
        )
    return found


def _format(family: str, size: Any, loaded: Loaded | None) -> tuple[Format, Config]:
    """The format, and the configuration that the model was loaded with, if it is one of it."""
    if loaded and loaded.config.get("model_type") in TRANSFORMERS:
        return TRANSFORMERS[loaded.config["model_type"]], loaded.config
    padding_id = getattr(size, "padding_id", None)
    if padding_id is not None:
        return TRANSFORMERS["roberta"], {"pad_token_id": padding_id}
    return TRANSFORMERS[DEFAULT_FORMATS[family]], {}


def _check_not_quantized(model: keras.Model) -> None:
    quantized = [
        str(layer.path) for layer in flatten_layers(model) if layer.quantization_mode is not None
    ]
    if quantized:
        raise ValueError(
            "`model` must have no quantized layers, which only a .keras file keeps, "
            f"got {', '.join(quantized)}"
        )


def _kept(loaded: Loaded | None, name: str, key: str) -> Config:
    """A setting in a file of the checkpoint that was loaded; nothing if there is none."""
    directory = loaded and loaded.directory
    settings = read_json(directory / name) if directory and (directory / name).exists() else {}
    return {key: settings[key]} if settings.get(key) is not None else {}


def _with_lora(model: keras.Model) -> dict[str, Tensor]:
    """The weights by their names in the rules, with LoRA added to the kernels."""
    targets = targets_of(model.weights)
    for layer in flatten_layers(model):
        if getattr(layer, "lora_enabled", False):
            for weight in layer.weights:
                if weight.name == "kernel":
                    targets[parts.path_of(weight)] = layer.kernel  # with LoRA
                elif weight.name.startswith("lora_"):
                    del targets[parts.path_of(weight)]
    return targets


def _arrays(
    targets: dict[str, Tensor],
    format: Format,
    heads: set[str],
    num_layers: int,
    config: Config,
) -> dict[str, np.ndarray]:
    """The checkpoint's arrays by their names."""
    trunk, (pooler, *head_rules) = rules_of(format, sorted(heads), num_layers)
    optional = not any(format.heads[name].pooler for name in heads)
    if optional and not any(target in targets for rule in pooler for target in rule.targets):
        pooler = ()
    # Names have a prefix in classes with a head only, and the weights of a head never have it.
    prefix = format.prefix if heads else ""
    inner = {*trunk, *format.pooler}.difference(*(h.pooler for h in format.heads.values()))
    named = {
        f"{prefix if rule in inner else ''}{rule.source}": rule
        for rule in itertools.chain(trunk, pooler, *head_rules)
    }
    missing = [t for rule in named.values() for t in rule.targets if t not in targets]
    if missing:
        raise ValueError(
            f"`model` must have all weights of {format.name}, got none of {', '.join(missing)}"
        )
    arrays = {}
    for name, rule in named.items():
        ours = [keras.ops.convert_to_numpy(targets.pop(target)) for target in rule.targets]
        arrays[name] = np.ascontiguousarray(rule.change.save(ours, config))
    if targets:
        raise ValueError(
            f"`model` must have no weights but those of a class of {format.name} in transformers, "
            f"got weights {', '.join(targets)}"
        )
    return arrays


def _config(
    model: keras.Model,
    found: parts.Parts,
    size: Any,
    format: Format,
    heads: set[str],
    origin: Config,
) -> Config:
    """The content of config.json: the sizes of the layers, and other keys of the checkpoint."""
    architectures = [name for name, has in format.architectures.items() if set(has) == heads]
    if not architectures:
        raise ValueError(
            f"`model` must have the heads of a class of {format.name}, got {', '.join(heads)}"
        )
    needing = heads & NEED_POOLER
    if format.family == "bert" and needing and size.pooler_activation is None:
        raise ValueError(
            f"`model` must have a pooler, as the {', '.join(needing)} of {format.name} has, "
            f"got {model.name!r}"
        )
    origin = {format.aliases.get(key, key): value for key, value in origin.items()}
    config = {**format.defaults, **origin}
    config |= {"architectures": architectures, "model_type": format.name}
    config |= {"tie_word_embeddings": True}
    if format.family == "bert":
        if "attention_output_dropout" not in format.fixed:
            expect("attention_output_dropout", (None, size.dropout), size.attention_output_dropout)
        padding_id = config["pad_token_id"] if "padding_id" in format.size else None
        expect("padding_id", padding_id, size.padding_id)
    for field, value in format.fixed.items():
        if field == "pooler_activation" and size.pooler_activation is None:
            continue  # no pooler
        expect(field, value, getattr(size, field))
    for field, key in format.size.items():
        value = getattr(size, field)
        if value is None:
            continue  # no layer has this value
        if key.values is not None:
            expect(field, tuple(dict.fromkeys(key.values.values())), value)
            if key.values.get(str(config.get(key.name))) != value:
                config[key.name] = next(name for name, v in key.values.items() if v == value)
        elif key.name not in config or key.load(config[key.name], config) != value:
            config[key.name] = key.save(value, config)
    for key, index in format.token_ids.items():
        if index >= size.vocabulary_size:
            config.setdefault(key, None)
    for name in heads:
        _add_head(config, model, found, size, format.heads[name])
    return config


def _add_head(config: dict, model: keras.Model, found: parts.Parts, size: Any, head: Head) -> None:
    """Add the dropout, the pooling and the number of classes of a head."""
    if not head.rules:
        return
    layer = parts.layer_at(model, head.rules[0].targets[0])
    if isinstance(layer, layers.MaskedLMHead):
        expect("activation", head.activation or size.activation, layer.activation.__name__)
        expect("layer_norm_epsilon", size.layer_norm_epsilon, layer.layer_norm_epsilon)
    if found.family == "bert":
        rate = layer.dropout if head.pooler_dropout else 0.0
        expect("pooler_dropout", rate, size.pooler_dropout)
    if found.transformation:
        dense, norm = found.transformation
        expect("activation", size.activation, dense.activation.__name__)
        expect("layer_norm_epsilon", size.layer_norm_epsilon, norm.epsilon)
    if isinstance(head.pooling, str):
        expect("pooling", head.pooling, found.pooling and found.pooling.mode)
    elif head.pooling and head.pooling.values:
        theirs = {ours: name for name, ours in head.pooling.values.items()}
        expect("pooling", tuple(theirs), found.pooling and found.pooling.mode)
        config[head.pooling.name] = theirs[found.pooling.mode]
    rate = next((config[key] for key in head.dropout if config.get(key) is not None), head.rate)
    # The dropout of DistilBERT's tagger has the same key as that of the blocks.
    if head.dropout and rate is not None and rate != layer.dropout:
        config[head.dropout[0]] = layer.dropout
    count = getattr(layer, "num_classes", None)
    if count is not None and len(config.get("id2label") or ()) != count:
        config["id2label"] = {str(index): f"LABEL_{index}" for index in range(count)}
        config["label2id"] = {f"LABEL_{index}": index for index in range(count)}
