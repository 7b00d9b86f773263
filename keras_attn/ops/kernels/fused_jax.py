"""cuDNN's attention through JAX, where it can do what is asked.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head width.
"""

from typing import Any

import jax

from keras_attn.ops.masks import AttentionMask


def attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    mask: AttentionMask,
    bias: Any,
    scale: float,
    logits_soft_cap: float | None,
    dropout: float,
    seed: Any,
    return_scores: bool,
    block_size: int | None,
) -> Any:
    """See `keras_attn.ops.attention`; the logits never leave the chip."""
    return jax.nn.dot_product_attention(
        query, key, value, scale=scale, is_causal=mask.causal, implementation="cudnn"
    )


def refusal(request: Any) -> str | None:
    """Why cuDNN cannot do this, or None."""
    if jax.default_backend() != "gpu":
        return "cuDNN needs a GPU"
    if request.dtype not in ("float16", "bfloat16"):
        return f"cuDNN takes float16 and bfloat16, not {request.dtype}"
    widths = {request.query[3], request.value[3]}
    if len(widths) > 1 or max(widths) % 8 or max(widths) > 128:
        return f"cuDNN takes equal head widths, multiples of 8 up to 128, not {sorted(widths)}"
    if request.dropout:
        return "its dropout would draw the same in every step"
    if request.bias is not None or request.mask.structure - {"causal"}:
        return "it would hold the bias or the mask as a whole matrix"
    if request.mask.shifted:
        return "it takes no offset of the query"
    return None
