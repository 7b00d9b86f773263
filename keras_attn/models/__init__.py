"""Functions that assemble layers into functional Keras models."""

from keras_attn.models import (
    bert,
    bert_tasks,
    gpt,
    modern_bert,
    packing,
    parts,
    rnn_attention,
    sizes,
    steps,
    transformer,
)

__all__ = [
    "bert",
    "bert_tasks",
    "gpt",
    "modern_bert",
    "packing",
    "parts",
    "rnn_attention",
    "sizes",
    "steps",
    "transformer",
]
