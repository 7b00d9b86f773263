"""A checkpoint directory becomes a model."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from keras_attn.models import bert, bert_tasks, gpt
from keras_attn.models.sizes import BertSize, GptSize
from keras_attn.weights.bert_hf import ACTIVATIONS
from keras_attn.weights.directory import Checkpoint, of_backbone, open_checkpoint
from keras_attn.weights.fit import fit, saved_parts

TASKS: dict[str, Callable[..., keras.Model]] = {
    "classifier": bert_tasks.classifier,
    "regressor": bert_tasks.regressor,
    "tagger": bert_tasks.tagger,
    "span": bert_tasks.span,
    "multiple_choice": bert_tasks.multiple_choice,
    "masked_lm": bert_tasks.masked_lm,
    "next_sentence": bert_tasks.next_sentence,
    "pretraining": bert.with_pretraining_heads,
}


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What `load` gives.

    Args:
        model: the encoder, or the model of the task.
        vocabulary: the pieces in the order of their ids, or None where there is no file of them.
        lowercase: whether the tokenizer lower-cases text, or None where no file says so.
        skipped: names in the checkpoint that were left out by a rule: heads of other tasks,
            optimizer slots, constants.
        fresh: weights of the model that the checkpoint does not have and that are newly drawn.
    """

    model: keras.Model
    vocabulary: list[str] | None
    lowercase: bool | None
    skipped: tuple[str, ...]
    fresh: tuple[str, ...]


def load(
    source: str | os.PathLike | keras.Model,
    task: str | None = None,
    *,
    hidden_states: bool = False,
    window: int | None = None,
    kernel: str = "auto",
    dtype: Any = None,
    **head_options: Any,
) -> Loaded:
    """Read a checkpoint of BERT or its kin, or of GPT-2, whichever kind it is.

    Kinds: a directory of transformers with safetensors, of model_type bert, roberta, distilbert or
    gpt2; Google's TensorFlow 1 checkpoint with bert_config.json; a keras-hub BertBackbone, as an
    object or a preset directory. Nothing is fetched, and no pickle is opened.

    Args:
        source: the directory, or the keras-hub backbone.
        task: None gives the encoder (without pooled_output where the checkpoint has no pooler), of
            GPT-2 the language model; classifier, regressor, tagger, span, multiple_choice,
            masked_lm, next_sentence and pretraining give that model, whose head is read if it is
            there and new if not.
        hidden_states: and window, kernel, dtype: as in `keras_attn.models.bert.encoder`.
        window: as there.
        kernel: as there.
        dtype: as there.
        **head_options: of the task's builder in `keras_attn.models.bert_tasks`, such as
            `num_classes`, which a head in the checkpoint knows by itself.

    Returns:
        a `Loaded`: the model, the vocabulary, and what was skipped or is new.

    Raises:
        ValueError: an unknown task; files that are missing, truncated, a pickle or of an unknown
            architecture; names that no rule uses, weights that nothing sets, wrong shapes; a
            vocabulary whose size is not the matrix's. No model is left half loaded.
    """
    if task is not None and task not in TASKS:
        raise ValueError(f"`task` must be None or one of {', '.join(TASKS)}, got {task!r}")
    checkpoint = (
        of_backbone(source) if isinstance(source, keras.Model) else open_checkpoint(Path(source))
    )
    _check_vocabulary(checkpoint)
    options = {"window": window, "kernel": kernel, "dtype": dtype}
    if checkpoint.format.family == "gpt":
        if task is not None or hidden_states:
            raise ValueError(
                f"`task` and `hidden_states` are for BERT and its kin, got {task!r} and "
                f"{hidden_states!r} for {checkpoint.format.name}"
            )
        size = read_size(checkpoint, GptSize)
        model = gpt.decoder(size, **options)
    else:
        size = read_size(checkpoint, BertSize)
        model = bert.encoder(size, hidden_states=hidden_states, **options)
        model = _with_task(checkpoint, model, task, head_options)
    fitted = fit(
        checkpoint.source,
        checkpoint.format,
        model.weights,
        num_layers=size.num_layers,
        architecture=checkpoint.architecture,
    )
    fitted.assign()
    return Loaded(model, checkpoint.vocabulary, checkpoint.lowercase, fitted.skipped, fitted.fresh)


def read_size(checkpoint: Checkpoint, kind: type) -> BertSize | GptSize:
    """Our size of that kind, from a checkpoint's configuration.

    Raises:
        ValueError: a key that is missing, or a value for which there is no layer here.
    """
    config, format, title = checkpoint.config, checkpoint.format, checkpoint.source.title
    for key, value in format.requires.items():
        if config.get(key, value) != value:
            raise ValueError(f"{title}: `{key}` must be {value!r}, got {config[key]!r}")
    fields = {}
    for field in dataclasses.fields(kind):
        where = format.size.get(field.name)
        try:
            fields[field.name] = where(config) if callable(where) else config[where]
        except KeyError:
            if field.default is dataclasses.MISSING:
                raise ValueError(
                    f"{title}: the configuration must have `{where}`, got no such key"
                ) from None
    activation = fields.get("activation", "gelu")
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"{title}: the activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}"
        )
    return kind(**{**fields, "activation": ACTIVATIONS[activation]})


def _check_vocabulary(checkpoint: Checkpoint) -> None:
    matrix = checkpoint.format.trunk[0].source  # the token matrix comes first in every format
    shapes = {checkpoint.format.rename(n): s for n, s in checkpoint.source.shapes.items()}
    rows = shapes.get(matrix, (None,))[0]
    if None not in (rows, checkpoint.vocabulary) and rows != len(checkpoint.vocabulary):
        raise ValueError(
            f"{checkpoint.source.title}: the vocabulary must have a piece for each of the {rows} "
            f"rows of {matrix}, got {len(checkpoint.vocabulary)}"
        )


def _with_task(
    checkpoint: Checkpoint, encoder: keras.Model, task: str | None, options: dict
) -> keras.Model:
    if task is not None:
        return TASKS[task](encoder, **_with_num_classes(checkpoint, task, options))
    if "pooler" in saved_parts(checkpoint.source, checkpoint.format, None):
        return encoder
    outputs = {key: value for key, value in encoder.output.items() if key != "pooled_output"}
    return keras.Model(encoder.input, outputs, name=encoder.name)


def _with_num_classes(checkpoint: Checkpoint, task: str, options: dict) -> dict:
    """The options, with the number of classes of the head that lies in the checkpoint."""
    if task not in ("classifier", "tagger") or "num_classes" in options:
        return options
    source, format = checkpoint.source, checkpoint.format
    if task not in saved_parts(source, format, checkpoint.architecture):
        raise ValueError(
            f"{source.title} has no {task} head: `num_classes` must be given for a new one"
        )
    bias = next(r.source for r in format.parts[task] if r.target == f"{task}/output/bias")
    shapes = {format.rename(name): shape for name, shape in source.shapes.items()}
    return {**options, "num_classes": shapes[bias][0]}
