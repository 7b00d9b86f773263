"""torch's own fused attention, where it can do what is asked.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head width.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from keras_attn.ops.biases import PositionBias
from keras_attn.ops.masks import AttentionMask

# What reaches torch as one row for all queries, as a matrix that the user made, or as a flag.
MASKS = {"causal", "key_padding", "query_padding", "dense"}


def attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    mask: AttentionMask,
    bias: Any,
    scale: float,
    dropout: float,
    seed: Any,
    return_scores: bool,
    block_size: int | None,
) -> Any:
    """See `keras_attn.ops.attention`; the logits never leave the chip."""
    rows, mask = mask.without_query_padding()
    allowed = (
        None if mask.structure == {"causal"} else mask.materialize(query.shape[1], key.shape[1])
    )
    alive = None if rows is None else rows.to(torch.bool)[:, None, :, None]
    if allowed is not None:
        # A row of torch's without a key is not a number; here it sees all keys and is put out.
        some = allowed.any(-1, keepdim=True)
        allowed = allowed | ~some
        alive = some if alive is None else alive & some
    if bias is not None:
        bias = bias.to(query.dtype)
        lowest = torch.finfo(query.dtype).min
        allowed = bias if allowed is None else torch.where(allowed, bias, lowest)
    context = scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=allowed,
        is_causal=mask.causal,
        scale=scale,
        enable_gqa=query.shape[2] != key.shape[2],
    )  # [B, N, T, Hv]
    if alive is not None:
        context = torch.where(alive, context, 0.0)
    return context.transpose(1, 2)


def refusal(request: Any) -> str | None:
    """Why torch cannot do this, or None."""
    mask = request.mask
    if request.dropout:
        return "its dropout takes no seed"
    if isinstance(request.bias, PositionBias):
        return "it would hold the bias of all positions"
    if mask.structure - MASKS:
        return f"it would hold the whole mask for {', '.join(sorted(mask.structure - MASKS))}"
    if mask.causal and (mask.shifted or mask.structure - {"causal", "query_padding"}):
        return "it would hold the whole mask to be causal as well"
    if mask.causal and request.bias is not None:
        return "it would hold the whole mask to be causal as well"
    if request.value[3] != request.query[3]:
        return "it would hold all logits where query and value differ in head width"
    return None
