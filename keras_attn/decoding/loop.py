"""The loop of greedy search and sampling, and what every search is asked with.

Letters: B batch, P longest prompt, R longest result: a prompt and what may follow, V vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_attn._checks import (
    check_count,
    check_shape,
    is_integer,
    known_values,
    optional_count,
    to_integers,
)
from keras_attn._typing import Cache, Nested, Size, Tensor
from keras_attn.decoding.logits import against_repetition
from keras_attn.ops import cache as caches

# (token_ids [B, T], index, cache, context) -> (logits [B, V] after the last token, cache)
Step = Callable[[Tensor, Size, Cache, Nested], tuple[Tensor, Cache]]


def decode(
    step: Step,
    choose: Callable[[Tensor, Size], Tensor],
    prompt_ids: Tensor,
    *,
    cache: Cache,
    max_new_tokens: int | Tensor,
    max_length: int | None = None,
    prompt_lengths: Tensor | None = None,
    context: Nested | None = None,
    prefill: bool = True,
    stop_token_ids: Sequence[int] = (),
    padding_id: int = 0,
    repetition_penalty: float | Tensor | None = None,
    no_repeat_ngram_size: int | None = None,
    active_no_repeat_ngram_size: int | Tensor | None = None,
) -> dict:
    """Continue prompts, token by token, until every row has stopped.

    Rows of different lengths share the loop: a row whose prompt has not ended takes its own next
    token instead of the chosen one. Inside `decoding.compiled` all of it is one `while` of the
    backend.
    The order is that of transformers: repetition penalty, ban of n-grams, then `choose`.

    Args:
        step: `(token_ids [B, T], index, cache, context) -> (logits [B, V], cache)`: takes T tokens,
            the first at position `index`, and gives the logits after the last.
        choose: `(logits [B, V], position) -> int [B]`: the token for that position. A keras-hub
            sampler serves as `lambda logits, _: sampler.get_next_token(softmax(logits))`.
        prompt_ids: int `[B, P]`, padded on the right.
        cache: the state of the step before the first token, any nest of tensors, batch first: keys
            and values of `ops.cache`, the states of a recurrent cell.
        max_new_tokens: the maximum number of tokens to add to each row: an int, or an int tensor, a
            scalar or `[B]`.
        max_length: the number of tokens that the cache can hold; defaults to the length of the
            cache's keys, and to no limit if the cache has no keys. It must be known if
            `max_new_tokens` is a tensor.
        prompt_lengths: int `[B]`; defaults to P.
        context: other inputs of the step, which no step changes, batch first.
        prefill: whether the step may take whole prompts in one call, and a token several times, as
            attention with keys by position can. False: it takes each token once and alone, as a
            recurrent step needs it.
        stop_token_ids: a row ends with the first of these that it adds.
        padding_id: the token after the end of a row.
        repetition_penalty: divides the logits of the tokens that a row holds so far, its prompt's
            included, where they are positive, and multiplies them where they are negative; a float
            or a tensor `[B]`, above 0; above 1 it discourages repetition.
        no_repeat_ngram_size: n; no n tokens in a row, the prompt's included, come again.
        active_no_repeat_ngram_size: a smaller n for each row, an int tensor `[B]`, 0 for none;
            defaults to `no_repeat_ngram_size`.

    Returns:
        `{"token_ids": int32 [B, R], "lengths": int32 [B]}`: each row's prompt, what was added, its
        stop token included, and padding; R is `P + max_new_tokens`, or `max_length` where that is a
        tensor.

    Raises:
        ValueError: an empty prompt, a cache too short, a stop token outside the vocabulary, what
            should be integers and is not, or lengths or limits that are not one for each prompt; a
            repetition penalty that is not positive and finite.

    Source: repetition penalty: Keskar et al. 2019, section 4.1, with negative logits as in
        transformers; n-grams: Paulus et al. 2017, section 2.5.

    Example:
    >>> from keras_attn.ops import cache
    >>> def counts(token_ids, index, cache, context):
    ...     return ops.one_hot(token_ids[:, -1] + 1, 9), cache
    >>> rows = decode(
    ...     counts, lambda logits, _: ops.argmax(logits, axis=-1), [[3, 0], [1, 2]],
    ...     prompt_lengths=[1, 2], cache=cache.create(2, 5, 1, 1), max_new_tokens=3,
    ...     stop_token_ids=[5])
    >>> ops.convert_to_numpy(rows["token_ids"]).tolist()
    [[3, 4, 5, 0, 0], [1, 2, 3, 4, 5]]
    """
    length = cache_length(cache, max_length)
    stop_token_ids = stop_tokens(stop_token_ids)
    prompts = prepare(prompt_ids, prompt_lengths, length, max_new_tokens, padding_id)
    change = against_repetition(
        prompts.lengths.shape[0],
        repetition_penalty,
        no_repeat_ngram_size,
        active_no_repeat_ngram_size,
    )
    step = checked(step, stop_token_ids)
    start, cache = begin(step, prompts, cache, context, prefill)

    def unfinished(
        index: Size, token_ids: Tensor, ends: Tensor, done: Tensor, cache: Cache
    ) -> Tensor:
        return ops.logical_not(ops.all(done))

    def advance(index: Size, token_ids: Tensor, ends: Tensor, done: Tensor, cache: Cache) -> tuple:
        current = ops.take(token_ids, index, axis=1)  # [B]
        logits, cache = step(current[:, None], index, cache, context)
        position = index + 1
        logits = logits if change is None else change(logits, token_ids, position)
        chosen = ops.where(done, padding_id, ops.cast(choose(logits, position), "int32"))
        forced = position < prompts.lengths
        chosen = ops.where(forced, ops.take(token_ids, position, axis=1), chosen)
        token_ids = ops.slice_update(token_ids, (0, position), chosen[:, None])
        last = ops.logical_or(_is_any(chosen, stop_token_ids), position + 1 >= prompts.limits)
        last = ops.logical_and(last, ops.logical_not(ops.logical_or(forced, done)))
        ends = ops.where(last, position + 1, ends)
        return position, token_ids, ends, ops.logical_or(done, last), cache

    done = ops.zeros_like(prompts.lengths, dtype="bool")
    loop_vars = (start, prompts.token_ids, prompts.lengths, done, cache)
    _, token_ids, ends, _, _ = ops.while_loop(unfinished, advance, loop_vars)
    return {"token_ids": token_ids, "lengths": ends}


def greedy(step: Step, prompt_ids: Tensor, **options: Any) -> dict:
    """Continue prompts with the most probable token in each step.

    Args:
        step: as in `decode`.
        prompt_ids: int `[B, P]`, padded on the right.
        **options: cache, max_new_tokens, max_length, prompt_lengths, context, prefill,
            stop_token_ids, padding_id, repetition_penalty, no_repeat_ngram_size,
            active_no_repeat_ngram_size, as in `decode`.

    Returns:
        `{"token_ids": int32 [B, R], "lengths": int32 [B]}`, as `decode`.

    Example:
    >>> from keras_attn.ops import cache
    >>> def counts(token_ids, index, cache, context):
    ...     return ops.one_hot(token_ids[:, -1] + 1, 9), cache
    >>> rows = greedy(counts, [[3]], cache=cache.create(1, 4, 1, 1), max_new_tokens=3)
    >>> ops.convert_to_numpy(rows["token_ids"]).tolist()
    [[3, 4, 5, 6]]
    """
    return decode(step, lambda logits, _: ops.argmax(logits, axis=-1), prompt_ids, **options)


class Prompts(NamedTuple):
    """Checked prompts; after each its row of `token_ids` holds `padding_id`."""

    token_ids: Tensor  # int32 [B, R]
    lengths: Tensor  # int32 [B]
    limits: Tensor  # int32 [B], the length at which a row ends
    longest: Size  # P


def cache_length(cache: Cache, max_length: int | None) -> int | None:
    """How many tokens the cache can hold, None for no limit."""
    return optional_count("max_length", max_length) or caches.length(cache)


def tokens_of(prompt_ids: Tensor) -> Tensor:
    """The prompts' tokens, int32 `[B, P]`; raises where there are none."""
    prompt_ids = to_integers("prompt_ids", prompt_ids)
    if len(prompt_ids.shape) != 2 or prompt_ids.shape[1] == 0:
        raise ValueError(
            "`prompt_ids` must have shape [batch, length] with at least one token in each row, got "
            f"shape {tuple(prompt_ids.shape)}"
        )
    return prompt_ids


def prepare(
    prompt_ids: Tensor,
    prompt_lengths: Tensor | None,
    length: Size | None,
    max_new_tokens: int | Tensor | None,
    padding_id: int,
) -> Prompts:
    """Prompts with space for `max_new_tokens` after each, `length` in all where that is known."""
    prompt_ids = tokens_of(prompt_ids)
    if not is_integer(padding_id):
        raise ValueError(f"`padding_id` must be an integer, got {padding_id!r}")
    longest = ops.shape(prompt_ids)[1]
    fixed = np.isscalar(max_new_tokens) or max_new_tokens is None
    if fixed:
        max_new_tokens = check_count("max_new_tokens", max_new_tokens)
    if not fixed and length is None:
        raise ValueError(
            "`max_length` must be given where `max_new_tokens` is a tensor and the cache holds no "
            "keys, got None"
        )
    total = longest + max_new_tokens if fixed else length
    known = isinstance(total, int) and isinstance(longest, int)
    if known and isinstance(length, int) and (total > length or total <= longest):
        raise ValueError(
            f"`cache` must have space for {longest} prompt tokens and `max_new_tokens`, got length "
            f"{length}" + (f" for {max_new_tokens} more" if fixed else "")
        )
    lengths = _lengths(prompt_lengths, prompt_ids, longest)
    asked = to_integers("max_new_tokens", max_new_tokens)
    if len(asked.shape):
        check_shape("max_new_tokens", asked.shape, batch=prompt_ids.shape[0])
    asked = ops.maximum(asked, 1)
    limits = ops.minimum(lengths + asked, total)
    token_ids = ops.pad(prompt_ids, ((0, 0), (0, total - longest)))
    written = ops.arange(total, dtype="int32")[None] < lengths[:, None]  # [B, R]
    return Prompts(ops.where(written, token_ids, padding_id), lengths, limits, longest)


def begin(
    step: Step, prompts: Prompts, cache: Cache, context: Nested, prefill: bool
) -> tuple[Size, Cache]:
    """The position at which the loop starts, and the cache there.

    With `prefill` one step takes the first P - 1 positions of all rows. The loop then starts at the
    last token of the shortest prompt, and its own tokens replace what the padding of a row left in
    the cache before any query sees it.
    """
    if not prefill:
        return ops.zeros((), "int32"), cache
    if not isinstance(prompts.longest, int) or prompts.longest > 1:
        cache = step(prompts.token_ids[:, : prompts.longest - 1], 0, cache, context)[1]
    return ops.min(prompts.lengths) - 1, cache


def stop_tokens(stop_token_ids: Sequence[int]) -> tuple[int, ...]:
    """The stop tokens as Python's integers, each once."""
    given = list(stop_token_ids) if isinstance(stop_token_ids, Iterable) else stop_token_ids
    ids = np.asarray(given)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise ValueError(f"`stop_token_ids` must be a sequence of integers, got {stop_token_ids!r}")
    return tuple(dict.fromkeys(ids.tolist()))


def checked(step: Step, stop_token_ids: Sequence[int]) -> Step:
    """The step, which raises unless every stop token is one of its vocabulary."""

    def call(token_ids: Tensor, index: Size, cache: Cache, context: Nested) -> tuple[Tensor, Cache]:
        logits, cache = step(token_ids, index, cache, context)
        for token in stop_token_ids:
            if not 0 <= token < logits.shape[-1]:
                raise ValueError(
                    f"`stop_token_ids` must be in [0, {logits.shape[-1]}), got {token}"
                )
        return logits, cache

    return call


def _is_any(token_ids: Tensor, wanted: Sequence[int]) -> Tensor:
    """Where a token is one of those wanted, bool of the same shape."""
    found = ops.zeros_like(token_ids, dtype="bool")
    for token in wanted:
        found = ops.logical_or(found, ops.equal(token_ids, token))
    return found


def _lengths(prompt_lengths: Tensor | None, prompt_ids: Tensor, longest: Size) -> Tensor:
    if prompt_lengths is None:
        return ops.broadcast_to(ops.cast(longest, "int32"), ops.shape(prompt_ids)[:1])
    lengths = to_integers("prompt_lengths", prompt_lengths, batch=prompt_ids.shape[0])
    values = known_values(prompt_lengths)  # the others are clipped
    if values is not None and isinstance(longest, int):
        for value in values:
            if not 0 < value <= longest:
                raise ValueError(f"`prompt_lengths` must be in [1, {longest}], got {value}")
    return ops.clip(lengths, 1, longest)
