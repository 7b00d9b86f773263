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

    cuDNN takes a number of keys for each row of the batch. To attention that is not causal the
    order of the keys says nothing, so those that are not padding are put first. Where it is causal,
    a number says the same as a padding mask only if all padding is on the right, which shows at run
    time: a choice for which the GPU waits.
    """
    rows, keys = mask.query_padding, mask.key_padding
    query = _zeroed(query, rows)
    if keys is None:
        return _zeroed(_cudnn(query, key, value, None, mask, scale), rows)
    keys = jnp.broadcast_to(jnp.asarray(keys, bool), key.shape[:2])  # [B, S]
    counts = jnp.sum(keys, axis=1, dtype="int32")

    def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # Without a key its numbers would not be numbers: such a row sees one, which is zero.
        return _zeroed(_cudnn(query, key, value, jnp.maximum(counts, 1), mask, scale), rows)

    if not mask.causal:
        origin, place = _order(keys)
        return fused(query, _moved(key, origin, place), _moved(value, origin, place))

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


def _order(keys: Tensor) -> tuple[Tensor, Tensor]:
    """For each place the key that goes there, and for each key its place, `[B, S]`; S for none."""
    length = keys.shape[1]
    place = jnp.where(keys, jnp.cumsum(keys, axis=1, dtype="int32") - 1, length)
    numbers = jnp.broadcast_to(jnp.arange(length, dtype="int32"), keys.shape)
    put = jax.vmap(lambda empty, place, numbers: empty.at[place].set(numbers, mode="drop"))
    return put(jnp.full_like(numbers, length), place, numbers), place


@jax.custom_vjp
def _moved(tensor: Tensor, origin: Tensor, place: Tensor) -> Tensor:
    """The keys `[B, S, K, H]` in the order of `origin`, then zeros; the gradient goes back."""
    return jnp.take_along_axis(tensor, origin[:, :, None, None], axis=1, mode="fill", fill_value=0)


_moved.defvjp(
    lambda tensor, origin, place: (_moved(tensor, origin, place), (place, origin)),
    lambda orders, gradient: (_moved(gradient, *orders), None, None),
)


def _zeroed(tensor: Tensor, rows: Tensor | None) -> Tensor:
    """Zeros in the rows that are padding, whatever is there."""
    if rows is None:
        return tensor
    return jnp.where(jnp.asarray(rows, bool)[:, :, None, None], tensor, 0)
