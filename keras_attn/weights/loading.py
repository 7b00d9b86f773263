"""Loads a model from a checkpoint directory."""

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_attn import data
from keras_attn._checks import check_flag, to_path
from keras_attn._typing import Config, DType
from keras_attn.data.text.files import read_json
from keras_attn.data.text.tokenizer_settings import check_word_piece
from keras_attn.models import bert, bert_tasks, gpt, modern_bert, parts
from keras_attn.models.sizes import BertSize, GptSize, ModernBertSize, Size
from keras_attn.ops.masks import Window
from keras_attn.ops.positions import RotaryScaling
from keras_attn.weights.checkpoint import Checkpoint, open_backbone, open_checkpoint
from keras_attn.weights.formats import Head, Key
from keras_attn.weights.matching import has_pooler, match, saved_heads
from keras_attn.weights.sentence_transformers import checkpoint_folder, embedder_options

TASKS: dict[str, Callable[..., keras.Model]] = {
    "classifier": bert_tasks.classifier,
    "regressor": bert_tasks.regressor,
    "tagger": bert_tasks.tagger,
    "span": bert_tasks.span,
    "multiple_choice": bert_tasks.multiple_choice,
    "embedder": bert_tasks.embedder,
    "masked_lm": bert_tasks.masked_lm,
    "next_sentence": bert_tasks.next_sentence,
    "pretraining": bert.with_pretraining_heads,
}
# The record of sizes of each family, and the module that builds its encoder.
FAMILIES: dict[str, tuple[type, Any]] = {
    "bert": (BertSize, bert),
    "modern_bert": (ModernBertSize, modern_bert),
    "gpt": (GptSize, gpt),
}
# The heads of the tasks that are not named like their head.
HEADS = {
    "encoder": (),
    "regressor": ("classifier",),
    "pretraining": ("masked_lm", "next_sentence"),
}


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The result of `load`.

    Args:
        model: the encoder, or the model of the task.
        vocabulary: the tokens in the order of their ids, or None if no file has them. The token
            matrix may have more rows.
        lowercase: whether the tokenizer lower-cases text, or None if no file says so.
        skipped: names in the checkpoint that a rule leaves out: heads of other tasks, optimizer
            slots, constants.
        initialized: weights of the model that the checkpoint lacks and that are newly initialized.
        config: the checkpoint's configuration; `save` keeps what it says about classes and ids.
        unknown: keys of the configuration that this package does not know. transformers does not
            read them either, but code of the checkpoint's author may: `load` warns.
        directory: the directory of the checkpoint, or None if it was an object.
    """

    model: keras.Model
    vocabulary: list[str] | None
    lowercase: bool | None
    skipped: tuple[str, ...]
    initialized: tuple[str, ...]
    config: Config
    unknown: tuple[str, ...]
    directory: Path | None = None

    @functools.cached_property
    def tokenizer(self) -> keras.layers.Layer:
        """The tokenizer of the checkpoint, read when it is first used.

        It is a `data.BertTokenizer`, or what `data.read_tokenizer` returns for the directory.

        Raises:
            ValueError: the checkpoint has no tokenizer files, or its tokenizer is not supported;
                see `data.BertTokenizer` and `data.read_tokenizer`.
        """
        directory = self.directory
        if directory is None:
            raise ValueError("a checkpoint that is an object has no tokenizer files")
        file = directory / "tokenizer.json"
        model = (read_json(file).get("model") or {}) if file.exists() else {}
        byte_pairs = model.get("type") == "BPE" or "merges" in model
        if byte_pairs or self.vocabulary is None or (directory / "vocab.json").exists():
            return data.read_tokenizer(directory)
        lowercase = self.lowercase is not False
        check_word_piece(directory, lowercase)
        return data.BertTokenizer(self.vocabulary, lowercase)

    @property
    def fresh(self) -> tuple[str, ...]:
        """The former name of `initialized`."""
        warnings.warn("`fresh` is now `initialized`", DeprecationWarning, stacklevel=2)
        return self.initialized


def load(
    source: str | os.PathLike | keras.Model,
    task: str | None = None,
    *,
    hidden_states: bool = False,
    window: Window = None,
    kernel: str = "auto",
    dtype: DType = None,
    **head_options: Any,
) -> Loaded:
    """Load a checkpoint of BERT, (XLM-)RoBERTa, DistilBERT, ModernBERT or GPT-2.

    The format is recognized by the files: a directory of transformers with safetensors and
    model_type bert, distilbert, roberta, xlm-roberta, modernbert or gpt2; a directory of
    sentence-transformers with one of these; Google's TensorFlow 1 checkpoint with bert_config.json;
    a keras-hub BertBackbone, as an object or a preset directory. Nothing is downloaded, and no
    pickle is opened.

    Args:
        source: the directory, or the keras-hub backbone.
        task: None gives the encoder (without pooled_output if the checkpoint has no pooler), or
            the language model of a GPT-2, whose encoder is the task encoder. classifier, regressor,
            tagger, span, multiple_choice, embedder, masked_lm, next_sentence and pretraining give
            the model of this task (the last three not of a GPT-2); its head is loaded if the
            checkpoint has it, and newly initialized otherwise.
        hidden_states: as in `keras_attn.models.bert.encoder`; a language model has none.
        window: as there; must be None for ModernBERT, whose configuration has one.
        kernel: as there.
        dtype: as there.
        **head_options: arguments of the function of the task in `keras_attn.models.bert_tasks`,
            such as `num_classes`, which defaults to that of the checkpoint's head. `dropout`, the
            `pooling` of ModernBERT, and `pooling` and `normalize` of sentence-transformers default
            to the values in the configuration.

    Returns:
        a `Loaded`: the model, the vocabulary, the tokenizer, and what was skipped or is new.

    Raises:
        ValueError: the task is unknown; there are head options without a head; files are missing,
            truncated, a pickle or of an unknown architecture; the configuration needs a layer that
            this package does not have; names are not used, weights are not set, shapes or types are
            wrong, numbers are not finite; there are more tokens than rows of the token matrix.
    """
    known = (*TASKS, "encoder")
    if task is not None and (not isinstance(task, str) or task not in known):
        raise ValueError(f"`task` must be None or one of {', '.join(known)}, got {task!r}")
    hidden_states = check_flag("hidden_states", hidden_states)
    if task not in TASKS and head_options:
        raise ValueError(
            f"`head_options` must be empty without a head, got {', '.join(head_options)}"
        )
    directory = (
        None if isinstance(source, keras.Model) else checkpoint_folder(to_path("source", source))
    )
    checkpoint = open_backbone(source) if directory is None else open_checkpoint(directory)
    format = checkpoint.format
    _check_vocabulary(checkpoint)
    options: Config = {"window": window, "kernel": kernel, "dtype": dtype}
    if task is None:
        heads = ("language_model",) if format.family == "gpt" else ()
    else:
        heads = HEADS.get(task, (task,))
    own = [format.heads[name] for name in heads if name in format.heads]
    head_options = {**_head_options(checkpoint, own), **head_options}
    if task == "embedder" and directory is not None:
        head_options = {**embedder_options(Path(source), checkpoint), **head_options}
    if format.family == "modern_bert" and options.pop("window") is not None:
        raise ValueError(
            f"`window` must be None for {format.name}, whose configuration has one, got {window!r}"
        )
    kind, module = FAMILIES[format.family]
    size: Any = read_size(checkpoint, kind)
    if any(head.pooler_dropout for head in own):
        size = dataclasses.replace(size, pooler_dropout=head_options["dropout"])
    if heads == ("language_model",):
        if hidden_states:
            raise ValueError(
                f"`hidden_states` must be False for the language model of {format.name}, got True; "
                "the task 'encoder' has them"
            )
        model = gpt.decoder(size, **options)
    else:
        model = module.encoder(size, hidden_states=hidden_states, **options)
        model = _with_task(checkpoint, model, task, head_options)
    matched = match(
        checkpoint.source,
        format,
        model.weights,
        checkpoint.read_config,
        num_layers=size.num_layers,
        heads=[
            name
            for name in saved_heads(checkpoint.source, format, checkpoint.architecture)
            if name in heads
        ],
    )
    matched.assign()
    unknown = format.unknown(checkpoint.read_config)
    if unknown:
        warnings.warn(
            f"{checkpoint.source.title}: the configuration has keys that neither this package nor "
            f"transformers reads, {', '.join(unknown)}; if other code of the checkpoint's author "
            "reads them, the outputs differ",
            stacklevel=2,
        )
    return Loaded(
        model,
        checkpoint.vocabulary,
        checkpoint.lowercase,
        matched.skipped,
        matched.initialized,
        checkpoint.config,
        unknown,
        directory,
    )


def read_size(checkpoint: Checkpoint, kind: type[Size]) -> Size:
    """Our size, of the class `kind`, from a checkpoint's configuration.

    Raises:
        ValueError: a key is missing or has the wrong type, or there is no layer for its value.
    """
    config, format, title = checkpoint.read_config, checkpoint.format, checkpoint.source.title
    _require(title, config, format.requires)
    fields = dict(format.fixed)
    for field in dataclasses.fields(kind):
        key = format.size.get(field.name)
        if key is None or (key.name not in config and field.default is not dataclasses.MISSING):
            continue
        if key.name not in config:
            raise ValueError(f"{title}: the configuration must have `{key.name}`, got no such key")
        value = config[key.name]
        if key.values is not None:
            fields[field.name] = _translated(title, key, value)
            continue
        if key.number and (value is not None or key.name not in format.defaults):
            _number(title, key.name, value, _range(field))
        loaded = key.load(value, config)
        if not isinstance(loaded, RotaryScaling):
            _number(title, key.name, loaded, _range(field))
        fields[field.name] = loaded
    size = kind(**fields)
    if size.hidden_dim % size.num_heads:
        width, heads = (format.size[field].name for field in ("hidden_dim", "num_heads"))
        raise ValueError(
            f"{title}: the configuration's `{heads}` must divide `{width}` {size.hidden_dim}, "
            f"got {size.num_heads}"
        )
    return size


def _translated(title: str, key: Key, value: object) -> str:
    """Our name for a value of the checkpoint."""
    names = key.values or {}
    if value not in tuple(names):
        raise ValueError(f"{title}: `{key.name}` must be one of {', '.join(names)}, got {value!r}")
    return names[value]


# Kinds of numbers: the words for an error, and whether a value is one.
COUNT = ("a positive integer", lambda value: type(value) is int and value > 0)
RATE = ("a number in [0, 1)", lambda value: type(value) in (int, float) and 0 <= value < 1)
NUMBER = ("a finite number", lambda value: type(value) in (int, float) and abs(value) < np.inf)


def _range(field: dataclasses.Field) -> tuple[str, Callable[[Any], bool]]:
    if field.type is int:
        return COUNT
    return RATE if field.name.endswith("dropout") else NUMBER


def _number(title: str, key: str, value: Any, range: tuple[str, Callable[[object], bool]]) -> Any:
    expected, holds = range
    if not holds(value):
        raise ValueError(f"{title}: `{key}` must be {expected}, got {value!r}")
    return value


def _require(title: str, config: Config, required: Config) -> None:
    for key, value in required.items():
        if config.get(key, value) != value:
            raise ValueError(f"{title}: `{key}` must be {value!r}, got {config[key]!r}")


def _head_options(checkpoint: Checkpoint, heads: list[Head]) -> Config:
    """The arguments of the heads, from the configuration."""
    config, title = checkpoint.read_config, checkpoint.source.title
    options = {}
    for head in heads:
        _require(title, config, head.requires)
        if isinstance(head.pooling, Key):
            options["pooling"] = _translated(title, head.pooling, config[head.pooling.name])
        if head.activation:
            options["activation"] = head.activation
        if head.rate is not None:
            options["dropout"] = head.rate
        for key in head.dropout:
            if config.get(key) is not None:
                options["dropout"] = _number(title, key, config[key], RATE)
                break
    return options


def _check_vocabulary(checkpoint: Checkpoint) -> None:
    trunk = checkpoint.format.trunk
    matrix = next(rule.source for rule in trunk if parts.is_token_matrix(rule.targets[0]))
    shapes = {checkpoint.format.rename(n): s for n, s in checkpoint.source.shapes.items()}
    tokens, shape = checkpoint.vocabulary or (), shapes.get(matrix, ())
    # There may be more rows than tokens, for a multiple of 8 or 64.
    if shape and shape[0] < len(tokens):
        raise ValueError(
            f"{checkpoint.source.title}: {matrix} must have a row for each of the "
            f"{len(tokens)} tokens of the vocabulary, got {shape[0]}"
        )


def _with_task(
    checkpoint: Checkpoint, encoder: keras.Model, task: str | None, options: dict
) -> keras.Model:
    if task in TASKS:
        return TASKS[task](encoder, **_with_num_classes(checkpoint, task, options))
    if has_pooler(checkpoint.source, checkpoint.format):
        return encoder
    outputs = {key: value for key, value in encoder.output.items() if key != "pooled_output"}
    return keras.Model(encoder.input, outputs, name=encoder.name)


def _with_num_classes(checkpoint: Checkpoint, task: str, options: dict) -> dict:
    """The options, with the number of classes of the checkpoint's head."""
    if task not in ("classifier", "tagger") or "num_classes" in options:
        return options
    source, format = checkpoint.source, checkpoint.format
    if task not in saved_heads(source, format, checkpoint.architecture):
        raise ValueError(
            f"{source.title} has no {task} head: `num_classes` must be given for a new one"
        )
    target = f"{task}/output/kernel"
    kernel = next(rule.source for rule in format.heads[task].rules if target in rule.targets)
    shapes = {format.rename(name): shape for name, shape in source.shapes.items()}
    return {**options, "num_classes": shapes[kernel][0]}  # stored as [output, input]
