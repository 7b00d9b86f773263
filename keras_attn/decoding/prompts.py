"""What every search is asked with: prompts of several lengths, room, and where to stop.

Letters: B batch, P longest prompt, R room: the prompt and what may follow, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_attn._checks import is_integer
from keras_attn.ops import cache as caches

# (token_ids [B, T], index, cache, context) -> (logits [B, V] after the last token, cache)
Step = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


class Prompts(NamedTuple):
    """Checked prompts; `token_ids` has room for what follows and `padding_id` there."""

    token_ids: Any  # int32 [B, R]
    lengths: Any  # int32 [B]
    limits: Any  # int32 [B], the length at which a row ends
    longest: Any  # P
    room: Any  # R


def prepare(
    prompt_ids: Any, prompt_lengths: Any, cache: Any, max_new_tokens: Any, padding_id: int
) -> Prompts:
    """Prompts with room for `max_new_tokens` behind each."""
    prompt_ids = ops.cast(ops.convert_to_tensor(prompt_ids), "int32")
    if len(prompt_ids.shape) != 2 or prompt_ids.shape[1] == 0:
        raise ValueError(
            "`prompt_ids` must have shape [batch, length] with at least one token in each row, got "
            f"shape {tuple(prompt_ids.shape)}"
        )
    batch, longest = ops.shape(prompt_ids)
    fixed = is_integer(max_new_tokens)
    if fixed and max_new_tokens <= 0:
        raise ValueError(f"`max_new_tokens` must be positive, got {max_new_tokens}")
    max_new_tokens = int(max_new_tokens) if fixed else max_new_tokens
    room = longest + max_new_tokens if fixed else caches.length(cache)
    _check_room(longest, room, caches.length(cache), max_new_tokens)
    lengths = _lengths(prompt_lengths, batch, longest)
    asked = ops.maximum(ops.cast(max_new_tokens, "int32"), 1)
    limits = ops.minimum(lengths + asked, room)
    token_ids = ops.pad(prompt_ids, ((0, 0), (0, room - longest)))
    written = ops.arange(room, dtype="int32")[None] < lengths[:, None]  # [B, R]
    return Prompts(ops.where(written, token_ids, padding_id), lengths, limits, longest, room)


def prefill(step: Step, prompts: Prompts, cache: Any, context: Any) -> Any:
    """The cache after all prompt tokens but each row's last, in one step.

    A shorter row's padding is cached too; nobody sees it before the row's own tokens replace it.
    """
    if isinstance(prompts.longest, int) and prompts.longest == 1:
        return cache
    return step(prompts.token_ids[:, : prompts.longest - 1], 0, cache, context)[1]


def check_stop_tokens(stop_token_ids: Sequence[int], vocabulary_size: int) -> None:
    """Raise unless every stop token is one of the vocabulary."""
    for token in stop_token_ids:
        if not 0 <= token < vocabulary_size:
            raise ValueError(f"`stop_token_ids` must be in [0, {vocabulary_size}), got {token}")


def is_any(token_ids: Any, wanted: Sequence[int]) -> Any:
    """Where a token is one of those wanted, bool of the same shape."""
    found = ops.zeros_like(token_ids, dtype="bool")
    for token in wanted:
        found = ops.logical_or(found, ops.equal(token_ids, token))
    return found


def _check_room(longest: Any, room: Any, length: Any, max_new_tokens: Any) -> None:
    known = isinstance(room, int) and isinstance(longest, int) and isinstance(length, int)
    if known and (room > length or room <= longest):
        raise ValueError(
            f"`cache` must have room for {longest} prompt tokens and `max_new_tokens`, got length "
            f"{length}" + (f" for {max_new_tokens} more" if is_integer(max_new_tokens) else "")
        )


def _lengths(prompt_lengths: Any, batch: Any, longest: Any) -> Any:
    if prompt_lengths is None:
        return ops.broadcast_to(ops.cast(longest, "int32"), (batch,))
    try:
        values = np.asarray(prompt_lengths)
    except Exception:  # a tensor inside compiled code, which can raise nothing: clipped below
        values = None
    if values is not None and isinstance(longest, int):
        for value in values:
            if not 0 < value <= longest:
                raise ValueError(f"`prompt_lengths` must be in [1, {longest}], got {value}")
    return ops.clip(ops.cast(prompt_lengths, "int32"), 1, longest)
