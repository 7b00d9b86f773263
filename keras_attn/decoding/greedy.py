"""Greedy search."""

from typing import Any

from keras import ops

from keras_attn.decoding.loop import decode
from keras_attn.decoding.prompts import Step


def greedy(step: Step, prompt_ids: Any, **options: Any) -> dict:
    """Go on from prompts with the likeliest token each time.

    Args:
        step: as in `decode`.
        prompt_ids: int `[B, P]`, padded on the right.
        **options: cache, max_new_tokens, prompt_lengths, context, stop_token_ids, padding_id, as in
            `decode`.

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
