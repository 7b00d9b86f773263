"""Sampling with temperature, top-k, top-p and min-p, seeded row by row.

Letters: B batch, V vocabulary, k candidates, p a probability.
"""

from typing import Any

import numpy as np
from keras import ops

from keras_attn._checks import check_numbers, optional_count, to_integers
from keras_attn._typing import Size, Tensor
from keras_attn.decoding.logits import by_row
from keras_attn.decoding.loop import Step, decode, tokens_of
from keras_attn.ops.numerics import at_temperature, softmax


def sample(
    step: Step,
    prompt_ids: Tensor,
    *,
    seeds: Tensor,
    temperature: float | Tensor = 1.0,
    top_k: int | None = None,
    active_top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    min_p: float | Tensor | None = None,
    **options: Any,
) -> dict:
    """Continue prompts with tokens drawn from the model's distribution.

    Each draw depends only on the row's seed and the position: a row gives the same text in any
    batch. With `top_k` only the k most probable tokens can be drawn; with `top_p` only the smallest
    set of tokens whose probabilities, after temperature and top-k, sum to at least p; with `min_p`
    only tokens with at least p times the highest probability, after temperature. The order is that
    of transformers: repetition penalty, ban of n-grams, temperature, top-k, top-p, min-p.

    Args:
        step: as in `decode`.
        prompt_ids: int `[B, P]`, padded on the right.
        seeds: int `[B]`, one for each row.
        temperature: divides the logits; a float or a tensor `[B]`, above 0; infinity draws evenly.
        top_k: k, or None for the whole vocabulary.
        active_top_k: a smaller k for each row, an int tensor `[B]`; defaults to `top_k`.
        top_p: p in (0, 1], a float or a tensor `[B]`; None draws from all.
        min_p: p in [0, 1], a float or a tensor `[B]`; None and 0 draw from all.
        **options: cache, max_new_tokens, max_length, prompt_lengths, context, prefill,
            stop_token_ids, padding_id, repetition_penalty, no_repeat_ngram_size,
            active_no_repeat_ngram_size, as in `decode`.

    Returns:
        `{"token_ids": int32 [B, R], "lengths": int32 [B]}`, as `decode`.

    Raises:
        ValueError: a temperature, k or p out of its range, or seeds, temperatures, k or p that are
            not one for each prompt; otherwise as `decode`.

    Source: top-k: Fan et al. 2018, section 5.4; top-p: Holtzman et al. 2020, section 3.1;
        min-p: Nguyen et al. 2024, section 3.

    Example:
    >>> from keras_attn.ops import cache
    >>> def evenly(token_ids, index, cache, context):
    ...     return ops.zeros((2, 9)), cache
    >>> rows = sample(
    ...     evenly, [[3], [3]], seeds=[11, 11], cache=cache.create(2, 4, 1, 1), max_new_tokens=3)
    >>> bool(ops.all(rows["token_ids"][0] == rows["token_ids"][1]))
    True
    """
    prompt_ids = tokens_of(prompt_ids)
    batch = prompt_ids.shape[0]
    seeds = to_integers("seeds", seeds, batch=batch)
    check_numbers("temperature", temperature, "positive", lambda x: x > 0, batch)
    top_k = optional_count("top_k", top_k)
    if active_top_k is not None:
        active_top_k = to_integers("active_top_k", active_top_k, batch=batch)
    if top_p is not None:
        check_numbers("top_p", top_p, "in (0, 1]", lambda x: (x > 0) & (x <= 1), batch)
    if min_p is not None:
        check_numbers("min_p", min_p, "in [0, 1]", lambda x: (x >= 0) & (x <= 1), batch)
    ranked = not (top_k is None and active_top_k is None and top_p is None)

    def choose(logits: Tensor, position: Size) -> Tensor:
        logits = ops.cast(logits, "float32")
        size = logits.shape[-1]
        ids = None
        if ranked:
            logits, ids = ops.top_k(logits, min(top_k or size, size))  # [B, k], the highest first
        logits = at_temperature(logits, by_row(temperature, logits))
        if active_top_k is not None:
            rank = ops.arange(logits.shape[-1])
            logits = ops.where(rank < active_top_k[:, None], logits, -np.inf)
        probabilities = softmax(logits)
        if top_p is not None:
            before = ops.cumsum(probabilities, axis=-1) - probabilities
            probabilities = ops.where(before < by_row(top_p, before), probabilities, 0.0)
        if min_p is not None:
            least = by_row(min_p, probabilities) * ops.max(probabilities, axis=-1, keepdims=True)
            probabilities = ops.where(probabilities < least, 0.0, probabilities)
        drawn = draw(probabilities, uniform(seeds, position))
        return drawn if ids is None else ops.take_along_axis(ids, drawn[:, None], axis=-1)[:, 0]

    return decode(step, choose, prompt_ids, **options)


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The index at which the cumulative probability passes `uniform` `[B]` of the whole."""
    cumulative = ops.cumsum(probabilities, axis=-1)
    passed = cumulative <= uniform[:, None] * cumulative[:, -1:]
    drawn = ops.sum(ops.cast(passed, "int32"), axis=-1)
    # Rounding can pass the last token of any probability, never beyond it.
    possible = ops.cast(probabilities > 0, "int32") * ops.arange(probabilities.shape[-1])
    return ops.minimum(drawn, ops.max(possible, axis=-1))


def uniform(seeds: Tensor, position: Size) -> Tensor:
    """A number in [0, 1) for each seed `[B]` at that position, the same on every backend.

    Backends draw for a whole batch, so that a row's draw depends on its neighbours; this
    mixes the bits of seed and position instead (the finalizer of MurmurHash3, twice).
    """
    mixed = _mix(_mix(seeds) + ops.cast(position, "int32"))
    return ops.cast(ops.bitwise_and(mixed, 0xFFFFFF), "float32") / float(1 << 24)


def _mix(bits: Tensor) -> Tensor:
    for shift, factor in ((16, -2048144789), (13, -1028477387), (16, 1)):
        unsigned = ops.bitwise_and(ops.right_shift(bits, shift), (1 << (32 - shift)) - 1)
        bits = ops.bitwise_xor(bits, unsigned) * factor
    return bits
