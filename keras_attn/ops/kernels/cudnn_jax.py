"""cuDNN's attention through JAX, where it can do what is asked.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head width.
"""

import jax
import jax.numpy as jnp

from keras_attn._typing import Tensor
from keras_attn.ops.biases import Bias
from keras_attn.ops.kernels import Request, chunked_jax
from keras_attn.ops.masks import AttentionMask

# What reaches cuDNN as numbers; the rest would be a matrix of all logits.
MASKS = {"causal", "window", "key_padding", "query_padding"}


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: AttentionMask,
    bias: Bias | None,
    scale: float,
    logits_soft_cap: float | None,
    sink: Tensor | None,
    dropout: float,
    seed: Tensor | None,
    return_scores: bool,
    block_size: int | None,
) -> Tensor:
    """See `keras_attn.ops.attention`; the logits never leave the chip.

    cuDNN takes a number of keys for each row of the batch, which says the same as a padding mask
    only where all padding is on the right. Whether it is shows at run time.
    """
    rows, keys = mask.query_padding, mask.key_padding
    if rows is not None:
        query, rows = _zeroed(query, rows)
    if keys is None:
        return _shown(_cudnn(query, key, value, None, mask, scale), rows)
    key, keys = _zeroed(key, keys)
    value, _ = _zeroed(value, keys)
    keys = jnp.broadcast_to(keys, key.shape[:2])  # [B, S]
    counts = jnp.sum(keys, axis=1, dtype="int32")
    some = counts[:, None] > 0  # [B, 1]

    def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # Without a key its numbers would not be numbers: such a row sees one, and is zeroed.
        context = _cudnn(query, key, value, jnp.maximum(counts, 1), mask, scale)
        return _shown(context, some if rows is None else some & rows)

    def chunked(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return chunked_jax.attention(
            query,
            key,
            value,
            mask=mask,
            bias=None,
            scale=scale,
            logits_soft_cap=None,
            sink=None,
            dropout=0.0,
            seed=None,
            return_scores=False,
            block_size=None,
        )

    on_the_right = jnp.all(keys == (jnp.arange(keys.shape[1]) < counts[:, None]))
    return jax.lax.cond(on_the_right, fused, chunked, query, key, value)


def refusal(request: Request) -> str | None:
    """Why cuDNN cannot do this, or None."""
    mask = request.mask
    if request.device != "gpu":
        return "cuDNN needs a GPU"
    if request.dtype not in ("float16", "bfloat16"):
        return f"cuDNN takes float16 and bfloat16, not {request.dtype}"
    widths = {request.query[3], request.value[3]}
    if len(widths) > 1 or max(widths) % 8 or max(widths) > 128:
        return f"cuDNN takes equal head widths, multiples of 8 up to 128, not {sorted(widths)}"
    lengths = request.query[1], request.key[1]
    if any(isinstance(length, int) and length % 2 for length in lengths):
        return f"JAX's gradient of it takes even lengths, not {lengths[0]} and {lengths[1]}"
    if request.dropout:
        return "its dropout would draw the same in every step"
    if request.bias is not None or mask.structure - MASKS:
        return "it would hold the bias or the mask as a whole matrix"
    if mask.window is not None and (not mask.causal or mask.key_padding is not None):
        return "cuDNN takes a window only where attention is causal and has no padding"
    if mask.shifted:
        return "it takes no offset of the query"
    return None


def _cudnn(
    query: Tensor, key: Tensor, value: Tensor, counts: Tensor, mask: AttentionMask, scale: float
) -> Tensor:
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        scale=scale,
        is_causal=mask.causal,
        key_value_seq_lengths=counts,
        local_window_size=mask.reach,
        implementation="cudnn",
    )


def _zeroed(tensor: Tensor, padding: Tensor) -> tuple:
    """Zeros at the padding, whatever is there, and the padding mask as bool."""
    padding = jnp.asarray(padding, bool)
    return jnp.where(padding[:, :, None, None], tensor, 0), padding


def _shown(context: Tensor, rows: Tensor | None) -> Tensor:
    """Zeros in the rows that may attend to nothing."""
    return context if rows is None else jnp.where(rows[:, :, None, None], context, 0)
