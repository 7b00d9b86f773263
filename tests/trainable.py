"""Tiny models of every kind with a batch to train them on, for the tests that train.

Each function gives a model, its inputs and its targets, None where the model has its own loss.
"""

from typing import Any

import keras
import numpy as np

from keras_attn import layers
from keras_attn.models import (
    bert,
    bert_tasks,
    gpt,
    modern_bert,
    packing,
    rnn_attention,
    transformer,
)

BATCH, LENGTH, VOCABULARY = 8, 6, 24
SIZE: dict[str, Any] = {
    "num_layers": 1,
    "num_heads": 4,
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "vocabulary_size": VOCABULARY,
    "dropout": 0.1,
}


def bert_pretraining(length: int = LENGTH, **options: Any) -> tuple:
    """Masked tokens and next sentences of padded pairs."""
    model = bert.pretraining("bert_tiny", max_length=length, **{**SIZE, **options})
    x = {
        "token_ids": _ids(BATCH, length),
        "segment_ids": np.tile(np.arange(length) // (length // 2), (BATCH, 1)).clip(max=1),
        "padding_mask": _padding(length),
        "masked_positions": np.tile([0, 2], (BATCH, 1)),
    }
    y = {"masked_lm": _ids(BATCH, 2, seed=2), "next_sentence": _ids(BATCH, seed=3) % 2}
    return model, x, y


def packed_bert_pretraining(length: int = LENGTH, **options: Any) -> tuple:
    """The same with two packed sequences in each row."""
    model, x, y = bert_pretraining(length, **options)
    half = length // 2
    x["sequence_ids"] = np.tile(np.arange(length) // half, (BATCH, 1))
    x["positions"] = np.tile(np.arange(length) % half, (BATCH, 1))
    x["first_positions"] = np.tile([0, half], (BATCH, 1))
    return packing.packed(model), x, {**y, "next_sentence": _ids(BATCH, 2, seed=3) % 2}


def packed_modern_bert(length: int = LENGTH, **options: Any) -> tuple:
    """Masked tokens of a ModernBERT with two packed sequences in each row."""
    size = {key: value for key, value in SIZE.items() if key != "dropout"}
    rates = {f"{name}_dropout": 0.1 for name in ("embedding", "attention", "feed_forward")}
    options = {**size, **rates, "num_layers": 2, "window": 3, **options}
    model = bert_tasks.masked_lm(modern_bert.encoder("modern_bert_base", **options))
    _, x, y = packed_bert_pretraining(length)
    return packing.packed(model), x, y["masked_lm"]


def gpt_chunked_loss(length: int = LENGTH, **options: Any) -> tuple:
    """A GPT with chunked attention, recomputed in training, and a loss in chunks of the logits."""
    options = {**SIZE, "remat": True, "kernel": "chunked", **options}
    model = gpt.decoder("gpt_tiny", max_length=length, **options)
    head = model.layers[-1]
    labels = keras.Input((None,), dtype="int32", name="labels")
    losses = layers.LinearCrossEntropy(head)(*head.input, labels=labels)
    model = keras.Model({**model.input, "labels": labels}, losses)
    x = {"token_ids": _ids(BATCH, length), "padding_mask": _padding(length)}
    x["labels"] = np.where(x["padding_mask"], _ids(BATCH, length, seed=2), -1)
    return model, x, None


def translator(length: int = LENGTH, **options: Any) -> tuple:
    """An encoder-decoder with a target that is one token longer than the source."""
    model = transformer.encoder_decoder("transformer_tiny", **{**SIZE, **options})
    x = {
        "source_ids": _ids(BATCH, length),
        "source_padding_mask": _padding(length),
        "target_ids": _ids(BATCH, length + 1, seed=2),
    }
    return model, x, _ids(BATCH, length + 1, seed=3)


def recurrent_translator() -> tuple:
    """The encoder-decoder of recurrent layers."""
    model = rnn_attention.encoder_decoder(VOCABULARY, embedding_dim=5, units=7, dropout=0.1)
    x = {"source_ids": _ids(BATCH, LENGTH), "target_ids": _ids(BATCH, LENGTH, seed=2)}
    return model, x, {"logits": _ids(BATCH, LENGTH, seed=3)}


def tagger() -> tuple:
    """A BERT with a window and a label for each token."""
    encoder = bert.encoder("bert_tiny", max_length=LENGTH, **SIZE, window=3)
    x = bert_pretraining()[1]
    del x["masked_positions"]
    return bert_tasks.tagger(encoder, 3), x, _ids(BATCH, LENGTH, seed=3) % 3


def gpt_classifier() -> tuple:
    """A GPT that classifies whole rows by their last position."""
    encoder = gpt.encoder("gpt_tiny", max_length=LENGTH, **SIZE)
    x = bert_pretraining()[1]
    del x["masked_positions"]
    return bert_tasks.classifier(encoder, 3), x, _ids(BATCH, seed=3) % 3


def compiled(given: tuple, **options: Any) -> keras.Model:
    """The model, compiled with Adam and the loss for its targets."""
    model, _, y = given
    loss = None
    if y is not None:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        loss = dict.fromkeys(y, loss) if isinstance(y, dict) else loss
    # An epsilon that keeps gradients of rounding noise (the key's bias) small.
    model.compile(keras.optimizers.Adam(1e-2, epsilon=1e-3), loss, **options)
    return model


def _ids(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, VOCABULARY, shape).astype("int32")


def _padding(length: int) -> np.ndarray:
    return np.arange(length) < np.random.default_rng(1).integers(2, length + 1, (BATCH, 1))
