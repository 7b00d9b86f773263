"""Logits against repetition: changed by the tokens so far, before a token is chosen.

Letters: B batch, W beams or nothing, R longest result, V vocabulary.
"""

from collections.abc import Callable

import numpy as np
from keras import ops

from keras_attn._checks import check_numbers, optional_count, to_integers
from keras_attn._typing import Size, Tensor

# (logits [B, W, V], token_ids [B, W, R], length) -> logits
Change = Callable[[Tensor, Tensor, Size], Tensor]

# The logit of token 0 if every token is banned: lower than any other but finite, so that every
# search continues with that token on every backend.
DEAD_END = -1e20


def against_repetition(
    batch: Size,
    repetition_penalty: float | Tensor | None = None,
    no_repeat_ngram_size: int | None = None,
    active_no_repeat_ngram_size: int | Tensor | None = None,
) -> Change | None:
    """The change of logits that a search asks for, None for none: first the penalty, then the ban.

    The first `length` of the tokens count, nothing after them.

    Raises:
        ValueError: as `decode`, of which the arguments are.
    """
    if repetition_penalty is not None:
        check_numbers(
            "repetition_penalty",
            repetition_penalty,
            "positive and finite",
            lambda x: (x > 0) & np.isfinite(x),
            batch,
        )
    size = optional_count("no_repeat_ngram_size", no_repeat_ngram_size)
    active = active_no_repeat_ngram_size
    if active is not None:
        if size is None:
            raise ValueError(
                "`no_repeat_ngram_size` must be given with `active_no_repeat_ngram_size`, got None"
            )
        active = to_integers("active_no_repeat_ngram_size", active, batch=batch)
    if repetition_penalty is None and size is None:
        return None

    def change(logits: Tensor, token_ids: Tensor, length: Size) -> Tensor:
        logits = ops.cast(logits, "float32")
        if repetition_penalty is not None:
            logits = penalize_repetition(logits, token_ids, length, repetition_penalty)
        if size is not None:
            logits = ban_repeated_ngrams(logits, token_ids, length, size, active)
        banned = ops.all(ops.equal(logits, -np.inf), axis=-1, keepdims=True)
        first = ops.equal(ops.arange(logits.shape[-1]), 0)
        return ops.where(ops.logical_and(banned, first), DEAD_END, logits)

    return change


def penalize_repetition(
    logits: Tensor, token_ids: Tensor, length: Size, penalty: float | Tensor
) -> Tensor:
    """Logits in which each token so far is divided by the penalty, or multiplied if negative.

    Source: Keskar et al. 2019, section 4.1, which divides negative logits too, and so rewards them.
    """
    seen = _marked(token_ids, ops.arange(ops.shape(token_ids)[-1]) < length, logits.shape[-1])
    number = np.finfo("float32")  # a larger quotient, infinite, would make the softmax NaN
    penalty = ops.maximum(by_row(penalty, logits), float(number.tiny))
    divided = ops.minimum(logits / penalty, float(number.max))
    return ops.where(seen, ops.where(logits < 0, logits * penalty, divided), logits)


def ban_repeated_ngrams(
    logits: Tensor,
    token_ids: Tensor,
    length: Size,
    size: int,
    active_size: int | Tensor | None = None,
) -> Tensor:
    """Logits of minus infinity for each token that would end an n-gram of the tokens so far.

    Source: Paulus et al. 2017, section 2.5.
    """
    index = ops.arange(ops.shape(token_ids)[-1])  # of a token that followed the same n - 1 tokens
    repeats = ops.broadcast_to(index < length, ops.shape(token_ids))  # [B, W, R]
    active = None if active_size is None else by_row(active_size, token_ids)
    for back in range(1, size):
        newest = ops.take(token_ids, ops.maximum(length - back, 0), axis=-1)[..., None]
        same = ops.logical_and(ops.roll(token_ids, back, axis=-1) == newest, index >= back)
        if active is not None:
            same = ops.logical_or(same, active <= back)
        repeats = ops.logical_and(repeats, same)
    if active is not None:
        repeats = ops.logical_and(repeats, active > 0)
    return ops.where(_marked(token_ids, repeats, logits.shape[-1]), -np.inf, logits)


def by_row(values: Tensor, like: Tensor) -> Tensor:
    """A number, or one for each row, of the dtype of `like`, with axes of 1 for its other axes."""
    values = ops.cast(ops.convert_to_tensor(values), like.dtype)
    return ops.reshape(values, (-1, *(1 for _ in like.shape[1:])))


def _marked(token_ids: Tensor, where: Tensor, vocabulary_size: int) -> Tensor:
    """Which tokens are at a position where `where` is True, bool `[B, W, V]`."""
    shape = ops.shape(token_ids)
    # Padding need not be a token: what does not count goes to a column of its own.
    known = ops.logical_and(token_ids >= 0, token_ids < vocabulary_size)
    columns = ops.where(ops.logical_and(where, known), token_ids, vocabulary_size)
    columns = ops.reshape(columns, (-1, shape[-1]))
    rows = ops.arange(ops.shape(columns)[0], dtype="int32")[:, None]
    indices = ops.stack([ops.broadcast_to(rows, ops.shape(columns)), columns], axis=-1)
    indices = ops.reshape(indices, (-1, 2))
    marks = ops.zeros((ops.shape(columns)[0], vocabulary_size + 1), "int32")
    marks = ops.scatter_update(marks, indices, ops.ones_like(indices[:, 0]))
    return ops.reshape(marks[:, :-1] > 0, (*shape[:-1], vocabulary_size))
