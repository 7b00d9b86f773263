"""The loop of greedy search and sampling: one new token for each row at each step.

Letters: B batch, P longest prompt, R room: the prompt and what may follow, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from keras_attn.decoding.prompts import Step, check_stop_tokens, is_any, prefill, prepare


def decode(
    step: Step,
    choose: Callable[[Any, Any], Any],
    prompt_ids: Any,
    *,
    cache: Any,
    max_new_tokens: Any,
    prompt_lengths: Any = None,
    context: Any = None,
    stop_token_ids: Sequence[int] = (),
    padding_id: int = 0,
) -> dict:
    """Go on from prompts, token by token, until every row has stopped.

    Rows of different lengths share the loop: a row whose prompt goes on takes its own next token
    instead of the chosen one. Inside `decoding.compiled` all of it is one `while` of the backend.

    Args:
        step: `(token_ids [B, T], index, cache, context) -> (logits [B, V], cache)`: the logits
            after the last token, the first of which stands at position `index`.
        choose: `(logits [B, V], position) -> int [B]`: the token for that position. A keras-hub
            sampler serves as `lambda logits, _: sampler.get_next_token(softmax(logits))`.
        prompt_ids: int `[B, P]`, padded on the right.
        cache: of the step, before the first token; `[B, K, L, H]` tensors with L at least
            `P + max_new_tokens`.
        max_new_tokens: the most tokens to add to each row: an int, or an int tensor, a scalar or
            `[B]`, which the cache's length bounds.
        prompt_lengths: int `[B]`; P unless given.
        context: whatever the step needs and no step changes, batch first.
        stop_token_ids: a row ends with the first of these that it adds.
        padding_id: what stands behind a row's end.

    Returns:
        `{"token_ids": int32 [B, R], "lengths": int32 [B]}`: each row's prompt, what was added, its
        stop token included, and padding; R is `P + max_new_tokens`, or L where that is a tensor.

    Raises:
        ValueError: an empty prompt, a cache too short, a stop token outside the vocabulary.

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
    prompts = prepare(prompt_ids, prompt_lengths, cache, max_new_tokens, padding_id)
    cache = prefill(step, prompts, cache, context)

    def unfinished(index: Any, token_ids: Any, ends: Any, done: Any, cache: Any) -> Any:
        return ops.logical_not(ops.all(done))

    def advance(index: Any, token_ids: Any, ends: Any, done: Any, cache: Any) -> tuple:
        current = ops.take(token_ids, index, axis=1)  # [B]
        logits, cache = step(current[:, None], index, cache, context)
        check_stop_tokens(stop_token_ids, logits.shape[-1])
        position = index + 1
        chosen = ops.where(done, padding_id, ops.cast(choose(logits, position), "int32"))
        forced = position < prompts.lengths
        chosen = ops.where(forced, ops.take(token_ids, position, axis=1), chosen)
        token_ids = ops.slice_update(token_ids, (0, position), chosen[:, None])
        last = ops.logical_or(is_any(chosen, stop_token_ids), position + 1 >= prompts.limits)
        last = ops.logical_and(last, ops.logical_not(ops.logical_or(forced, done)))
        ends = ops.where(last, position + 1, ends)
        return position, token_ids, ends, ops.logical_or(done, last), cache

    start = ops.min(prompts.lengths) - 1
    done = ops.zeros_like(prompts.lengths, dtype="bool")
    loop_vars = (start, prompts.token_ids, prompts.lengths, done, cache)
    _, token_ids, ends, _, _ = ops.while_loop(unfinished, advance, loop_vars)
    return {"token_ids": token_ids, "lengths": ends}
