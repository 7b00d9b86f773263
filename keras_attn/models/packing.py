"""Models for packed rows: several short sequences share a row instead of being padded to it.

Letters: B batch, T length, S sequences in a row, P masked positions, C classes, V vocabulary.
"""

from typing import Any

import keras
from keras import ops

from keras_attn import layers
from keras_attn.models import parts

POSITIONS = (
    layers.BertEmbedding,
    layers.LearnedPositionEmbedding,
    layers.SinusoidalPositionEncoding,
)
# What does the same at every position, or to one vector.
APART = (
    keras.layers.InputLayer,
    keras.layers.Dense,
    keras.layers.Dropout,
    keras.layers.Identity,
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

    Train this one on what `keras_attn.data.pack_rows` gives; `model` has learned it all, and goes
    on to take a sequence a row, in evaluation and in service.

    Inputs: those of `model`, and sequence_ids int `[B, T]`, the same number at the positions of one
    sequence and another at those of the next; positions int `[B, T]`, which restart at 0 with each
    sequence; where the model has a pooler also first_positions int `[B, S]`, where each sequence
    begins. Outputs: those of `model`; what it gives for a sequence becomes `[B, S, ...]`.

    Args:
        model: of `models.gpt`, or of `models.bert` or `models.bert_tasks`: a classifier, regressor
            or next-sentence model on the pooler, a tagger, a masked LM, the pre-training model.

    Raises:
        ValueError: a layer that would mix the sequences of a row, such as a mean over all
            positions; its name is told.

    Source: Krell et al. 2021, section 3.2 (packing without cross-contamination).

    Example:
    >>> from keras_attn.models import bert, bert_tasks
    >>> model = bert_tasks.classifier(bert.encoder("bert_tiny", vocabulary_size=100), 3)
    >>> sorted(set(packed(model).input) - set(model.input)), packed(model).output.shape
    (['first_positions', 'positions', 'sequence_ids'], (None, None, 3))
    """
    pooler = parts.of(model).pooler
    new = ["sequence_ids", "positions"]
    if pooler is not None:
        new.append("first_positions")
    inputs = {
        key: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=key)
        for key, tensor in model.input.items()
    }
    extra = {key: keras.Input((None,), dtype="int32", name=key) for key in new}
    hidden = None

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal hidden
        if isinstance(layer, POSITIONS):
            return layer(*args, **kwargs, positions=extra["positions"])
        if isinstance(layer, layers.TransformerEncoderBlock):
            hidden = layer(*args, **kwargs, sequence_ids=extra["sequence_ids"])
            return hidden
        if layer is pooler:  # instead of the first vector of the row
            first = ops.expand_dims(extra["first_positions"], -1)  # [B, S, 1]
            return layer(ops.take_along_axis(hidden, first, axis=1))
        if isinstance(layer, keras.layers.Layer) and not isinstance(layer, APART):
            raise ValueError(
                "`model` must treat the sequences of a row apart, got the layer "
                f"{layer.name!r}, a {type(layer).__name__}"
            )
        return layer(*args, **kwargs)

    return keras.models.clone_model(
        keras.Model({**model.input, **extra}, model.output, name=f"{model.name}_packed"),
        input_tensors={**inputs, **extra},
        clone_function=lambda layer: layer,
        call_function=call,
    )
