"""Beam search with a length penalty.

Letters: B batch, W beams, P longest prompt, R longest result: a prompt and what may follow, V
vocabulary, E stop tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_attn._checks import check_count, check_numbers, to_integers
from keras_attn._typing import Cache, Nested, Size, Tensor
from keras_attn.decoding.logits import DEAD_END, against_repetition
from keras_attn.decoding.loop import (
    Prompts,
    Step,
    begin,
    cache_length,
    checked,
    prepare,
    stop_tokens,
)
from keras_attn.ops import cache as caches

NOTHING = -1e30  # the score of no hypothesis: finite, so that sums and differences stay numbers


class _State(NamedTuple):
    index: Size  # int, position of the newest token
    token_ids: Tensor  # int [B, W, R], running hypotheses, which have not ended
    scores: Tensor  # float [B, W], their log-probability; NOTHING once none of a row can win
    finished_ids: Tensor  # int [B, W, R], hypotheses that ended with a stop token, the best first
    finished_lengths: Tensor  # int [B, W]
    finished_scores: Tensor  # float [B, W], penalized
    done: Tensor  # bool [B]
    cache: Cache


def beam_search(
    step: Step,
    prompt_ids: Tensor,
    *,
    cache: Cache,
    max_new_tokens: int | Tensor,
    beams: int,
    max_length: int | None = None,
    active_beams: int | Tensor | None = None,
    length_penalty: float | Tensor = 0.0,
    early_stopping: bool = False,
    prompt_lengths: Tensor | None = None,
    context: Nested | None = None,
    prefill: bool = True,
    stop_token_ids: Sequence[int] = (),
    padding_id: int = 0,
    repetition_penalty: float | Tensor | None = None,
    no_repeat_ngram_size: int | None = None,
    active_no_repeat_ngram_size: int | Tensor | None = None,
) -> dict:
    """Continue prompts with the W most probable hypotheses in parallel.

    The score of a hypothesis of n new tokens, its stop token included, is
    `sum log p / ((5 + n) / 6)^length_penalty`. At each step every running hypothesis may end, and
    the W most probable ones that do not end continue. A row is done when W hypotheses have ended
    and no running one can still get a higher score than the worst of them, or when it reaches its
    limit; there the running hypotheses count too. A repetition penalty and the ban of n-grams
    change the log-probabilities of each hypothesis by its own tokens, as in transformers; `greedy`
    changes logits.

    Args:
        step: and prompt_ids, cache, max_new_tokens, max_length, prompt_lengths, context, prefill,
            stop_token_ids, padding_id, repetition_penalty, no_repeat_ngram_size,
            active_no_repeat_ngram_size: as in `decode`; the cache is for B rows.
        beams: W.
        active_beams: how many of the W beams a row uses, an int tensor `[B]`; defaults to all. One
            beam is the same as `greedy` without a repetition penalty.
        length_penalty: 0 ranks by log-probability; larger values prefer longer answers.
        early_stopping: whether a row is done as soon as W hypotheses have ended, each among the W
            most probable candidates of its step. This is faster, and may miss a better hypothesis.

    Returns:
        `{"token_ids": int32 [B, W, R], "lengths": int32 [B, W], "scores": float32 [B, W]}`, the
        best first. A score of -inf marks a hypothesis for which all tokens were banned, and which
        continues with token 0 as in `greedy`, and a beam without a hypothesis, which is padding
        of length 0.

    Raises:
        ValueError: `beams` is not a positive integer, `length_penalty` is not finite, or
            `active_beams` is not one integer for each prompt; otherwise as `decode`.

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
    beams = check_count("beams", beams)
    stop_token_ids = stop_tokens(stop_token_ids)  # each once: one ending for each
    length = cache_length(cache, max_length)
    prompts = prepare(prompt_ids, prompt_lengths, length, max_new_tokens, padding_id)
    batch = prompts.lengths.shape[0]
    check_numbers("length_penalty", length_penalty, "finite", np.isfinite, batch)
    change = against_repetition(
        batch, repetition_penalty, no_repeat_ngram_size, active_no_repeat_ngram_size
    )
    step = checked(step, stop_token_ids)
    first, cache = begin(step, prompts, cache, context, prefill)
    cache = caches.repeat(cache, beams)
    context = None if context is None else caches.repeat(context, beams)
    rank = ops.arange(beams, dtype="int32")[None]  # [1, W]
    if active_beams is None:
        active_beams = ops.full_like(prompts.lengths, beams)
    active_beams = to_integers("active_beams", active_beams, batch=batch)
    active = active_beams[:, None]  # [B, 1]
    used = rank < active  # [B, W]
    early = ops.logical_or(early_stopping, active == 1)  # [B, 1]

    def advance(*values: Tensor) -> tuple:
        state = _State(*values)
        batch = ops.shape(state.scores)[0]
        position = state.index + 1
        forced = position < prompts.lengths
        held = ops.logical_or(forced, state.done)[:, None]  # [B, 1]
        current = ops.reshape(ops.take(state.token_ids, state.index, axis=2), (-1, 1))  # [B W, 1]
        logits, cache = step(current, state.index, state.cache, context)
        size = logits.shape[-1]

        # Running hypotheses: the W most probable continuations
        totals = ops.reshape(ops.log_softmax(ops.cast(logits, "float32")), (batch, beams, size))
        totals = totals if change is None else change(totals, state.token_ids, position)
        totals = state.scores[:, :, None] + totals  # [B, W, V]
        goes_on = np.zeros(size, "float32")
        goes_on[list(stop_token_ids)] = NOTHING
        going_on = ops.reshape(totals + ops.convert_to_tensor(goes_on), (batch, beams * size))
        scores, flat = ops.top_k(going_on, beams)
        flat = ops.cast(flat, "int32")
        origin = ops.where(held, rank, flat // size)
        tokens = ops.where(held, ops.take(state.token_ids, position, axis=2), flat % size)

        # Finished hypotheses: the W best so far and of those that end here
        if stop_token_ids:
            ends = ops.convert_to_tensor(_places(beams, size, stop_token_ids))  # [W E]
            ended = ops.take(ops.reshape(totals, (batch, beams * size)), ends, axis=1)
            among_best = _rank((ended, ends[None]), (scores, flat)) < active
            counts = ops.logical_and(
                ops.logical_or(among_best, ops.logical_not(early)), _real(ended)
            )
            counts = ops.logical_and(counts, ops.logical_not(held))
            penalty = _penalty(position + 1 - prompts.lengths, length_penalty)
            ended = ops.where(counts, ended / penalty, NOTHING)
            state = _finish(state, ended, stop_token_ids, position)

        # What a running hypothesis can reach: its sum only falls, its penalty ends at the limit
        scores = ops.where(held, state.scores, ops.where(used, scores, NOTHING))
        penalty = ops.maximum(
            _penalty(position + 2 - prompts.lengths, length_penalty),
            _penalty(prompts.limits - prompts.lengths, length_penalty),
        )
        worst = ops.take_along_axis(state.finished_scores, ops.clip(active, 1, beams) - 1, axis=1)
        can_win = ops.logical_and(scores[:, :1] / penalty > worst, ops.logical_not(early))
        settled = ops.logical_not(ops.logical_or(held, can_win))
        settled = ops.logical_and(_real(worst), settled)  # [B, 1]
        at_limit = ops.logical_and(position + 1 >= prompts.limits, ops.logical_not(forced))
        rows = ops.reshape(origin + beams * ops.arange(batch, dtype="int32")[:, None], (-1,))
        return state._replace(
            index=position,
            token_ids=_write(_select(state.token_ids, origin), tokens, position),
            scores=ops.where(settled, NOTHING, scores),
            done=ops.logical_or(state.done, ops.logical_or(settled[:, 0], at_limit)),
            cache=caches.reorder(cache, rows),
        )

    start = _start(first, prompts, rank, cache, padding_id)
    state = ops.while_loop(
        lambda *values: ops.logical_not(ops.all(_State(*values).done)), advance, tuple(start)
    )
    return _best(_State(*state), used, prompts, length_penalty, padding_id)


def _start(first: Tensor, prompts: Prompts, rank: Tensor, cache: Cache, padding_id: int) -> _State:
    beams = rank.shape[1]
    token_ids = ops.repeat(prompts.token_ids[:, None], beams, axis=1)  # [B, W, R]
    scores = ops.where(rank == 0, 0.0, NOTHING) + ops.zeros_like(token_ids[:, :, 0], "float32")
    return _State(
        index=first,
        token_ids=token_ids,
        scores=scores,  # the first step must not choose one token W times
        finished_ids=ops.full_like(token_ids, padding_id),
        finished_lengths=ops.zeros_like(token_ids[:, :, 0]),
        finished_scores=ops.full_like(scores, NOTHING),
        done=ops.zeros_like(prompts.lengths, dtype="bool"),
        cache=cache,
    )


def _places(beams: int, size: int, stop_token_ids: Sequence[int]) -> np.ndarray:
    """The indices of the stop tokens of each beam in `[B, W V]`, int `[W E]`."""
    return (np.arange(beams)[:, None] * size + np.array(stop_token_ids)).reshape(-1).astype("int32")


def _rank(ended: tuple, running: tuple) -> Tensor:
    """For each candidate that ends, how many candidates of the step have a higher rank, `[B, W E]`.

    Candidates are pairs of scores and of indices in `[B, W V]`: of equal scores the first one ranks
    higher, as in a search for the maximum.
    """
    scores, places = (
        ops.concatenate([ops.broadcast_to(a, ops.shape(ended[0])), b], axis=1)[:, None]
        for a, b in zip(ended, running, strict=True)
    )  # [B, 1, W E + W]
    own_scores, own_places = ended[0][:, :, None], ended[1][:, :, None]
    first = ops.logical_and(scores == own_scores, places < own_places)
    likelier = ops.logical_or(scores > own_scores, first)
    return ops.sum(ops.cast(likelier, "int32"), axis=2)


def _finish(state: _State, ended: Tensor, stop_token_ids: Sequence[int], position: Size) -> _State:
    """The state with the W best of the finished and of the newly ended, scored `[B, W E]`."""
    beams = state.scores.shape[1]
    scores, kept = ops.top_k(ops.concatenate([state.finished_scores, ended], axis=1), beams)
    kept = ops.cast(kept, "int32")
    new, place = kept >= beams, ops.maximum(kept - beams, 0)  # [B, W]
    origin = ops.where(new, beams + place // len(stop_token_ids), kept)
    token_ids = _select(ops.concatenate([state.finished_ids, state.token_ids], axis=1), origin)
    stops = ops.take(ops.convert_to_tensor(stop_token_ids, "int32"), place % len(stop_token_ids))
    tokens = ops.where(new, stops, ops.take(token_ids, position, axis=2))
    lengths = ops.take_along_axis(state.finished_lengths, ops.minimum(kept, beams - 1), axis=1)
    return state._replace(
        finished_ids=_write(token_ids, tokens, position),
        finished_lengths=ops.where(new, position + 1, lengths),
        finished_scores=scores,
    )


def _best(
    state: _State,
    used: Tensor,
    prompts: Prompts,
    length_penalty: float | Tensor,
    padding_id: int,
) -> dict:
    """The best of the finished hypotheses and of those that still run, as many as are used."""
    beams = state.scores.shape[1]
    penalty = _penalty(prompts.limits - prompts.lengths, length_penalty)
    running = ops.where(_real(state.scores), state.scores / penalty, NOTHING)
    scores, kept = ops.top_k(ops.concatenate([state.finished_scores, running], axis=1), beams)
    kept = ops.cast(kept, "int32")
    token_ids = _select(ops.concatenate([state.finished_ids, state.token_ids], axis=1), kept)
    lengths = ops.zeros_like(state.finished_lengths) + prompts.limits[:, None]
    lengths = ops.concatenate([state.finished_lengths, lengths], axis=1)
    found = ops.logical_and(_real(scores), used)
    reached = scores > DEAD_END / 1e6  # whatever the length penalty
    return {
        "token_ids": ops.where(found[:, :, None], token_ids, padding_id),
        "lengths": ops.where(found, ops.take_along_axis(lengths, kept, axis=1), 0),
        "scores": ops.where(ops.logical_and(found, reached), scores, float("-inf")),
    }


def _select(token_ids: Tensor, rows: Tensor) -> Tensor:
    return ops.take_along_axis(token_ids, rows[:, :, None], axis=1)  # [B, W, R]


def _write(token_ids: Tensor, tokens: Tensor, position: Size) -> Tensor:
    return ops.slice_update(token_ids, (0, 0, position), tokens[:, :, None])


def _penalty(length: Size, exponent: float | Tensor) -> Tensor:
    return ops.power((5.0 + ops.cast(length, "float32")) / 6.0, exponent)[:, None]  # [B, 1]


def _real(scores: Tensor) -> Tensor:
    return scores > NOTHING / 2
