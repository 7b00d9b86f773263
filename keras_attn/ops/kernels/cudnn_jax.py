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

    cuDNN takes the number of keys of each row of the batch. If attention is not causal, the order
    of the keys does not matter, so those that are not padding are moved to the front. If it is
    causal, that number replaces the mask only where all padding is on the right; this is tested at
    run time, and the GPU waits for the answer.
    """
    rows, keys = mask.query_padding, mask.key_padding
    query = _zeroed(query, rows)
    if keys is None:
        return _zeroed(_cudnn(query, key, value, None, mask, scale), rows)
    keys = jnp.broadcast_to(keys, key.shape[:2])  # [B, S]
    counts = jnp.sum(keys, axis=1, dtype="int32")

    def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # With a count of 0 cuDNN gives NaN: such a row gets one key, which is zero.
        return _zeroed(_cudnn(query, key, value, jnp.maximum(counts, 1), mask, scale), rows)

    if not mask.causal:
        order = _order(keys)
        return fused(query, _moved(key, *order), _moved(value, *order))

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
    key, value = _zeroed(key, keys), _zeroed(value, keys)
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
        return f"JAX's gradient of cuDNN takes even lengths, not {lengths[0]} and {lengths[1]}"
    if request.dropout:
        return "cuDNN's dropout would draw the same in every step"
    if request.bias is not None or mask.structure - MASKS:
        return "cuDNN would hold the bias or the mask as a whole matrix"
    if mask.window is not None and (not mask.causal or mask.key_padding is not None):
        return "cuDNN takes a window only where attention is causal and has no padded keys"
    if mask.shifted:
        return "cuDNN takes no offset of the query"
    return None


def _cudnn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    counts: Tensor | None,
    mask: AttentionMask,
    scale: float,
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


def _order(keys: Tensor) -> tuple[Tensor, Tensor]:
    """For each new position the old one, and for each old the new one, `[B, S]`; S for none."""
    length = keys.shape[1]
    new = jnp.where(keys, jnp.cumsum(keys, axis=1, dtype="int32") - 1, length)
    old = jnp.broadcast_to(jnp.arange(length, dtype="int32"), keys.shape)
    put = jax.vmap(lambda empty, new, old: empty.at[new].set(old, mode="drop"))
    return put(jnp.full_like(old, length), new, old), new


@jax.custom_vjp
def _moved(tensor: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """The keys `[B, S, K, H]` in the order of `old`, then zeros; the gradient goes back."""
    return jnp.take_along_axis(tensor, old[:, :, None, None], axis=1, mode="fill", fill_value=0)


_moved.defvjp(
    lambda tensor, old, new: (_moved(tensor, old, new), (new, old)),
    lambda orders, gradient: (_moved(gradient, *orders), None, None),
)


def _zeroed(tensor: Tensor, rows: Tensor | None) -> Tensor:
    """Zeros in the rows that are padding, whatever is there."""
    if rows is None:
        return tensor
    return jnp.where(rows[:, :, None, None], tensor, 0)
