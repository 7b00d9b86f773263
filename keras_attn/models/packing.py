"""Models for packed rows: several short sequences share a row instead of being padded to it.

Letters: B batch, T length, R sequences in a row, D model width.
"""

from typing import Any

import keras
from keras import ops

from keras_attn import layers
from keras_attn._keras import GetItem
from keras_attn._typing import Nested
from keras_attn.models import parts
from keras_attn.models.first_position import is_first
from keras_attn.models.inputs import NamedInputs

POSITIONS = (
    layers.BertEmbedding,
    layers.LearnedPositionEmbedding,
    layers.SinusoidalPositionEncoding,
)
# Layers that treat every position in the same way, or take one vector.
APART = (
    keras.layers.InputLayer,
    keras.layers.Dense,
    keras.layers.Dropout,
    keras.layers.Identity,
    keras.layers.LayerNormalization,
    layers.BertPretrainingHead,
    layers.ClassificationHead,
    layers.FeedForward,
    layers.LanguageModelHead,
    layers.MaskedLMHead,
    layers.TokenEmbedding,
    layers.TokenTaggingHead,
)


def packed(model: keras.Model) -> keras.Model:
    """The same model for rows that hold several sequences; the two share their layers.

    Train this one on the output of `keras_attn.data.pack_rows`; `model` is trained with it, and
    still takes one sequence per row, for evaluation and serving.

    Inputs: those of `model`, and sequence_ids int `[B, T]`, the same number at the positions of one
    sequence and another at those of the next; positions int `[B, T]`, which restart at 0 with each
    sequence; first_positions int `[B, R]`, where each sequence begins, for a model that takes the
    first vector of a sequence, as BERT's pooler does. Outputs: those of `model`; an output per
    sequence becomes `[B, R, ...]`, and the labels of a regressor `[B, R, 1]`.

    Args:
        model: one of `models.gpt`, or of `models.bert`, `models.modern_bert` or
            `models.bert_tasks`: a classifier or regressor that takes the first vector or the
            pooler, a next-sentence model, a tagger, a masked LM, the pre-training model.

    Raises:
        ValueError: a layer or an operation that would mix the sequences of a row, such as a mean
            over all positions; the message gives its name. An encoder-decoder; a packed model.

    Source: Krell et al. 2021, section 3.2 (packing without cross-contamination).

    Example:
    >>> from keras_attn.models import bert, bert_tasks
    >>> model = bert_tasks.classifier(bert.encoder("bert_tiny", vocabulary_size=100), 3)
    >>> sorted(set(packed(model).input) - set(model.input)), packed(model).output.shape
    (['first_positions', 'positions', 'sequence_ids'], (None, None, 3))
    """
    found = parts.of(model)
    if found.encoder and found.decoder:
        raise ValueError(
            "`model` must be an encoder or a decoder alone, got the encoder-decoder "
            f"{model.name!r}: nothing says which source a packed target belongs to"
        )
    if "sequence_ids" in model.input:
        raise ValueError(
            f"`model` must take one sequence a row, got {model.name!r}, packed already"
        )
    _check_apart(model)
    inputs = {
        key: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=key)
        for key, tensor in model.input.items()
    }
    extra = {
        key: keras.Input((None,), dtype="int32", name=key)
        for key in ("sequence_ids", "positions", "first_positions")
    }

    def call(operation: keras.Operation, *args: Any, **kwargs: Any) -> Nested:
        if isinstance(operation, POSITIONS):
            return operation(*args, **kwargs, positions=extra["positions"])
        if isinstance(operation, layers.TransformerEncoderBlock):
            return operation(*args, **kwargs, sequence_ids=extra["sequence_ids"])
        if not _takes_one(operation):
            return operation(*args, **kwargs)
        hidden, *item = args
        if item and not is_first(*item):
            raise ValueError(
                "`model` must take the first vector of a sequence or all, "
                f"got {operation.name!r}, which takes {item[0]}"
            )
        first = ops.expand_dims(extra["first_positions"], -1)  # [B, R, 1]
        return ops.take_along_axis(hidden, first, axis=1)  # [B, R, D]

    return keras.models.clone_model(
        NamedInputs({**model.input, **extra}, model.output, name=f"{model.name}_packed"),
        input_tensors={**inputs, **extra},
        clone_function=lambda layer: layer,
        call_function=call,
    )


def _takes_one(operation: keras.Operation) -> bool:
    """Whether it is `x[:, 0]` or the pooling that does the same."""
    if isinstance(operation, layers.SequencePooling):
        return operation.mode == "first" and not operation.normalize
    return isinstance(operation, GetItem)


def _check_apart(model: keras.Model) -> None:
    known = (*POSITIONS, *APART, layers.TransformerEncoderBlock)
    mixing = [op for op in model.operations if not (isinstance(op, known) or _takes_one(op))]
    # Report layers first: the user knows their names, unlike those of operations.
    for operation in sorted(mixing, key=lambda op: not isinstance(op, keras.layers.Layer)):
        kind = "layer" if isinstance(operation, keras.layers.Layer) else "operation"
        raise ValueError(
            f"`model` must treat the sequences of a row apart, got the {kind} "
            f"{operation.name!r}, a {type(operation).__name__}"
        )
