"""torch's own fused attention, where it can do what is asked.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head width.
"""

import contextlib

import torch
from torch.nn.functional import scaled_dot_product_attention

from keras_attn._typing import Tensor
from keras_attn.backend.torch import seeded
from keras_attn.ops.biases import PositionBias
from keras_attn.ops.kernels import Request
from keras_attn.ops.kernels.reference import hidden, visible_pairs, zeroed
from keras_attn.ops.masks import AttentionMask

# What reaches torch as one row for all queries, as a matrix that the user made, or as a flag.
MASKS = {"causal", "key_padding", "query_padding", "dense"}


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: AttentionMask,
    bias: Tensor | None,
    scale: float,
    logits_soft_cap: float | None,
    sink: Tensor | None,
    dropout: float,
    seed: Tensor | None,
    return_scores: bool,
    block_size: int | None,
) -> Tensor:
    """See `keras_attn.ops.attention`; the logits never leave the chip."""
    queries, keys = mask.visible_queries(), mask.visible_keys()
    rows = None
    if bias is None:
        rows, mask = mask.without_query_padding()
    visible = (
        None if mask.structure == {"causal"} else mask.materialize(query.shape[1], key.shape[1])
    )
    visible, some = visible_pairs(visible, bias, visible is not None)
    if rows is not None:
        rows = rows.to(torch.bool)[:, None, :, None]
        some = rows if some is None else some & rows
    if bias is not None:
        visible = torch.where(visible, bias, hidden(some).to(bias.dtype)).to(query.dtype)
    elif some is not None and visible is not None:
        visible = visible | ~some  # torch's weights of a row without a key are not numbers
    with seeded(seed, query.device) if dropout else contextlib.nullcontext():
        context = scaled_dot_product_attention(
            zeroed(query.transpose(1, 2), queries),
            zeroed(key.transpose(1, 2), keys),
            zeroed(value.transpose(1, 2), keys),
            attn_mask=visible,
            dropout_p=dropout,
            is_causal=mask.causal,
            scale=scale,
            enable_gqa=query.shape[2] != key.shape[2],
        )  # [B, N, T, Hv]
    if some is not None:
        context = torch.where(some, context, 0.0)
    return context.transpose(1, 2)


def refusal(request: Request) -> str | None:
    """Why torch cannot do this, or None."""
    mask = request.mask
    if request.dropout and request.device != "gpu":
        return "with dropout it would hold all logits where there is no GPU"
    if isinstance(request.bias, PositionBias):
        return "it would hold the bias of all positions"
    if request.bias is not None and _rounds(request.bias, request.dtype):
        return f"it would round the bias to {request.dtype}"
    if mask.structure - MASKS:
        return f"it would hold the whole mask for {', '.join(sorted(mask.structure - MASKS))}"
    if mask.causal and (mask.shifted or mask.structure - {"causal", "query_padding"}):
        return "it would hold the whole mask to be causal as well"
    if mask.causal and request.bias is not None:
        return "it would hold the whole mask to be causal as well"
    if request.value[3] != request.query[3]:
        return "it would hold all logits where query and value differ in head width"
    return None


def _rounds(bias: Tensor, dtype: str) -> bool:
    """Whether a number of the bias has no equal in the query's dtype."""
    return torch.promote_types(bias.dtype, getattr(torch, dtype)) != getattr(torch, dtype)
