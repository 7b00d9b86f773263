"""Beam search with a length penalty.

Letters: B batch, W beams, P longest prompt, R room: the prompt and what may follow, V vocabulary,
C candidates.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from keras import ops

from keras_attn.decoding.prompts import (
    Prompts,
    Step,
    check_stop_tokens,
    is_any,
    prefill,
    prepare,
)
from keras_attn.ops import cache as caches

NOTHING = -1e30  # the score of no hypothesis: finite, so that sums and differences stay numbers


class _State(NamedTuple):
    index: Any  # int, position of the newest token
    token_ids: Any  # int [B, W, R], hypotheses that go on
    scores: Any  # float [B, W], their log-probability
    finished_ids: Any  # int [B, W, R], hypotheses that ended with a stop token, the best first
    finished_lengths: Any  # int [B, W]
    finished_scores: Any  # float [B, W], penalized
    done: Any  # bool [B]
    cache: Any


def beam_search(
    step: Step,
    prompt_ids: Any,
    *,
    cache: Any,
    max_new_tokens: Any,
    beams: int,
    active_beams: Any = None,
    length_penalty: Any = 0.0,
    prompt_lengths: Any = None,
    context: Any = None,
    stop_token_ids: Sequence[int] = (),
    padding_id: int = 0,
) -> dict:
    """Go on from prompts with the W likeliest hypotheses side by side.

    A hypothesis of n new tokens, its stop token included, scores
    `sum log p / ((5 + n) / 6)^length_penalty`. A row is done when W hypotheses have ended, each
    among the W best of its step, or at its limit; there those that go on count as they are.

    Args:
        step: and prompt_ids, cache, max_new_tokens, prompt_lengths, context, stop_token_ids,
            padding_id: as in `decode`; the cache is for B rows.
        beams: W.
        active_beams: how many of the W a row uses, an int tensor `[B]`; all unless given. One gives
            what `greedy` gives.
        length_penalty: 0 ranks by log-probability; the larger, the longer the answers.

    Returns:
        `{"token_ids": int32 [B, W, R], "lengths": int32 [B, W], "scores": float32 [B, W]}`, the
        best first; a score of -inf marks rows that hold no hypothesis.

    Raises:
        ValueError: more beams than the vocabulary has tokens; otherwise as `decode`.

    Source: length penalty: Wu et al. 2016, section 7.

    Example:
    >>> import numpy as np
    >>> from keras_attn.ops import cache
    >>> def fixed(token_ids, index, cache, context):
    ...     rows = np.log([[0.5, 0.3, 0.2]]).astype("float32")
    ...     return ops.tile(rows, (token_ids.shape[0], 1)), cache
    >>> best = beam_search(
    ...     fixed, [[2]], cache=cache.create(1, 3, 1, 1), max_new_tokens=2, beams=2)
    >>> ops.convert_to_numpy(ops.exp(best["scores"])).round(2).tolist()
    [[0.25, 0.15000000596046448]]
    """
    if beams <= 0:
        raise ValueError(f"`beams` must be positive, got {beams}")
    prompts = prepare(prompt_ids, prompt_lengths, cache, max_new_tokens, padding_id)
    cache = caches.repeat(prefill(step, prompts, cache, context), beams)
    context = None if context is None else caches.repeat(context, beams)
    rank = ops.arange(beams, dtype="int32")[None]  # [1, W]
    active = beams if active_beams is None else ops.cast(active_beams, "int32")[:, None]  # [B, 1]
    used = ops.broadcast_to(rank < active, (ops.shape(prompts.lengths)[0], beams))  # [B, W]

    def advance(*values: Any) -> tuple:
        state = _State(*values)
        batch, _, room = ops.shape(state.token_ids)
        current = ops.reshape(ops.take(state.token_ids, state.index, axis=2), (-1, 1))  # [B W, 1]
        logits, cache = step(current, state.index, state.cache, context)
        size = logits.shape[-1]
        check_stop_tokens(stop_token_ids, size)
        if beams > size:
            raise ValueError(f"`beams` must be at most the vocabulary's {size}, got {beams}")
        totals = ops.log_softmax(ops.cast(logits, "float32"))
        totals = state.scores[:, :, None] + ops.reshape(totals, (batch, beams, size))  # [B, W, V]
        # Each beam has as many ends as there are stop tokens: W candidates remain that go on.
        count = min(beams * (1 + len(stop_token_ids)), beams * size)
        scores, flat = ops.top_k(ops.reshape(totals, (batch, beams * size)), count)  # [B, C]
        flat = ops.cast(flat, "int32")
        origin, tokens = flat // size, flat % size
        stops = is_any(tokens, stop_token_ids)

        position = state.index + 1
        forced = position < prompts.lengths
        held = ops.logical_or(forced, state.done)[:, None]  # [B, 1]
        ended = ops.logical_and(stops[:, :beams], ops.logical_and(used, ops.logical_not(held)))
        state = _finish(state, ended, scores, origin, tokens, position, prompts, length_penalty)

        scores, chosen = ops.top_k(ops.where(stops, NOTHING, scores), beams)  # [B, W]
        chosen = ops.cast(chosen, "int32")
        origin = ops.where(held, rank, ops.take_along_axis(origin, chosen, axis=1))
        own = ops.take(state.token_ids, position, axis=2)
        tokens = ops.where(held, own, ops.take_along_axis(tokens, chosen, axis=1))
        scores = ops.where(held, state.scores, ops.where(used, scores, NOTHING))
        full = ops.all(ops.logical_or(_real(state.finished_scores), ops.logical_not(used)), axis=1)
        at_limit = ops.logical_and(position + 1 >= prompts.limits, ops.logical_not(forced))
        rows = ops.reshape(origin + beams * ops.arange(batch, dtype="int32")[:, None], (-1,))
        return state._replace(
            index=position,
            token_ids=_write(_select(state.token_ids, origin), tokens, position),
            scores=scores,
            done=ops.logical_or(state.done, ops.logical_or(full, at_limit)),
            cache=caches.reorder(cache, rows),
        )

    start = _start(prompts, rank, cache, beams, padding_id)
    state = ops.while_loop(
        lambda *values: ops.logical_not(ops.all(_State(*values).done)), advance, tuple(start)
    )
    return _best(_State(*state), used, prompts, length_penalty, beams)


def _start(prompts: Prompts, rank: Any, cache: Any, beams: int, padding_id: int) -> _State:
    token_ids = ops.repeat(prompts.token_ids[:, None], beams, axis=1)  # [B, W, R]
    scores = ops.where(rank == 0, 0.0, NOTHING) + ops.zeros_like(token_ids[:, :, 0], "float32")
    return _State(
        index=ops.min(prompts.lengths) - 1,
        token_ids=token_ids,
        scores=scores,  # the first step must not choose one token W times
        finished_ids=ops.full_like(token_ids, padding_id),
        finished_lengths=ops.zeros_like(token_ids[:, :, 0]),
        finished_scores=ops.full_like(scores, NOTHING),
        done=ops.zeros_like(prompts.lengths, dtype="bool"),
        cache=cache,
    )


def _finish(
    state: _State,
    ended: Any,
    scores: Any,
    origin: Any,
    tokens: Any,
    position: Any,
    prompts: Prompts,
    length_penalty: Any,
) -> _State:
    """The state with the W best of the finished and the newly ended hypotheses as the finished."""
    beams = ended.shape[1]
    penalty = _penalty(position + 1 - prompts.lengths, length_penalty)
    ended_scores = ops.where(ended, scores[:, :beams] / penalty, NOTHING)
    ended_ids = _write(_select(state.token_ids, origin[:, :beams]), tokens[:, :beams], position)
    ended_lengths = ops.zeros_like(state.finished_lengths) + position + 1
    best = _merge(
        (state.finished_ids, state.finished_lengths, state.finished_scores),
        (ended_ids, ended_lengths, ended_scores),
    )
    return state._replace(finished_ids=best[0], finished_lengths=best[1], finished_scores=best[2])


def _best(state: _State, used: Any, prompts: Prompts, length_penalty: Any, beams: int) -> dict:
    """The finished hypotheses, joined by those that go on where too few are finished."""
    finished = ops.sum(ops.cast(_real(state.finished_scores), "int32"), axis=1, keepdims=True)
    missing = finished < ops.sum(ops.cast(used, "int32"), axis=1, keepdims=True)  # [B, 1]
    penalty = _penalty(prompts.limits - prompts.lengths, length_penalty)
    live = ops.where(ops.logical_and(missing, _real(state.scores)), state.scores / penalty, NOTHING)
    lengths = ops.zeros_like(state.finished_lengths) + prompts.limits[:, None]
    token_ids, lengths, scores = _merge(
        (state.finished_ids, state.finished_lengths, state.finished_scores),
        (state.token_ids, lengths, live),
    )
    scores = ops.where(_real(scores), scores, float("-inf"))
    return {"token_ids": token_ids, "lengths": lengths, "scores": scores}


def _merge(first: tuple, second: tuple) -> tuple:
    """The W best of two times W hypotheses, each ids [B, W, R], lengths and scores [B, W]."""
    beams = first[2].shape[1]
    ids, lengths, scores = (
        ops.concatenate(pair, axis=1) for pair in zip(first, second, strict=True)
    )
    scores, kept = ops.top_k(scores, beams)
    kept = ops.cast(kept, "int32")
    return _select(ids, kept), ops.take_along_axis(lengths, kept, axis=1), scores


def _select(token_ids: Any, rows: Any) -> Any:
    return ops.take_along_axis(token_ids, rows[:, :, None], axis=1)  # [B, W, R]


def _write(token_ids: Any, tokens: Any, position: Any) -> Any:
    return ops.slice_update(token_ids, (0, 0, position), tokens[:, :, None])


def _penalty(length: Any, exponent: Any) -> Any:
    return ops.power((5.0 + ops.cast(length, "float32")) / 6.0, exponent)[:, None]  # [B, 1]


def _real(scores: Any) -> Any:
    return scores > NOTHING / 2
