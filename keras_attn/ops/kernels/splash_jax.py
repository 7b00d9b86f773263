"""The fused attention of TPUs, "splash", through JAX, where it can do what is asked.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec

from keras_attn._typing import Tensor
from keras_attn.ops.biases import Bias
from keras_attn.ops.kernels import Request, schedule
from keras_attn.ops.kernels.reference import zeroed
from keras_attn.ops.masks import AttentionMask

INTERPRET = False  # True computes on any device, slowly: for tests
LANES = 128  # lengths are filled up to a multiple of them
# The logit of one more key, without a value: a query that sees no other gives all weight to it.
NOTHING = -1e30
HIDDEN = np.iinfo("int32").min  # the sequence of keys that no query sees


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

    Padding and packed rows are sequence ids to it. What a causal mask or a window hides is known
    beforehand: tiles without any visible key take no time.
    """
    length, keys = query.shape[1], key.shape[1]
    rows, columns = length + -length % LANES, keys + -keys % LANES
    ids = _sequence_ids(mask, (query.shape[0], length, keys), rows, columns)
    query = (query.astype("float32") * scale).astype(query.dtype)
    given = [
        _filled(zeroed(tensor.swapaxes(1, 2), visible), size)
        for tensor, visible, size in (
            (query, mask.query_padding, rows),
            (key, mask.key_padding, columns),
            (value, mask.key_padding, columns),
        )
    ]
    sink = jnp.full(query.shape[2], NOTHING) if sink is None else jnp.asarray(sink)
    visible, sizes = _visible(mask, rows, columns), _block_sizes(rows, columns)

    def attend(query: Tensor, key: Tensor, value: Tensor, sink: Tensor, ids: Tensor) -> Tensor:
        kernel = splash.make_splash_mha(
            masks.MultiHeadMask([visible] * query.shape[1]),
            block_sizes=sizes,
            attn_logits_soft_cap=logits_soft_cap,
            head_shards=1,
            q_seq_shards=1,
            interpret=INTERPRET,
        )

        def one(query: Tensor, key: Tensor, value: Tensor, ids: Tensor) -> Tensor:
            return kernel(query, key, value, ids, sink.astype("float32"))

        return jax.vmap(one)(query, key, value, ids)

    context = _on_each_device(attend, key.shape[2])(*given, sink, ids)[:, :, :length]
    return zeroed(context, mask.query_padding).swapaxes(1, 2)


def refusal(request: Request) -> str | None:
    """Why splash attention cannot do this, or None."""
    if request.device != "tpu":
        return "splash attention needs a TPU"
    if request.dtype not in ("float32", "bfloat16"):
        return f"splash attention takes float32 and bfloat16, not {request.dtype}"
    sizes = (*request.query, *request.key[:2])
    if not all(isinstance(size, int) for size in sizes):
        return "splash attention takes known sizes only"
    if request.dropout:
        return "splash attention has no dropout"
    if request.bias is not None or request.mask.dense is not None:
        return "splash attention would hold the bias or the mask as a whole matrix"
    if request.mask.shifted:
        return "splash attention takes no offset of the query"
    axis, devices = _batch_axis()
    if axis is not None and request.query[0] % devices:
        return f"splash attention takes a batch that can be split over {devices} devices"
    return None


def _sequence_ids(mask: AttentionMask, shape: tuple, rows: int, columns: int) -> Tensor | None:
    """The sequence of each query and each key, of the filled lengths; None if all are one."""
    batch, length, keys = shape
    if mask.key_padding is None and mask.query_sequence_ids is None and keys == columns:
        return None
    first, second = mask.query_sequence_ids, mask.key_sequence_ids
    first = jnp.zeros((1, length), "int32") if first is None else first.astype("int32")
    second = jnp.zeros((1, keys), "int32") if second is None else second.astype("int32")
    if mask.key_padding is not None:
        second = jnp.where(jnp.asarray(mask.key_padding, bool), second, HIDDEN)
    first = jnp.pad(first, ((0, 0), (0, rows - length)))
    second = jnp.pad(second, ((0, 0), (0, columns - keys)), constant_values=HIDDEN)
    return splash.SegmentIds(
        jnp.broadcast_to(first, (batch, rows)), jnp.broadcast_to(second, (batch, columns))
    )


def _filled(tensor: Tensor, size: int) -> Tensor:
    """`[B, heads, size, H]`, with zeros at the end, from `[B, heads, length, H]`."""
    return jnp.pad(tensor, ((0, 0), (0, 0), (0, size - tensor.shape[2]), (0, 0)))


def _visible(mask: AttentionMask, rows: int, columns: int) -> masks.Mask:
    """What the structure of the mask lets a query see."""
    if mask.reach is not None:
        return masks.LocalMask((rows, columns), mask.reach, 0)
    return (masks.CausalMask if mask.causal else masks.FullMask)((rows, columns))


def _block_sizes(rows: int, columns: int) -> splash.BlockSizes:
    """The tiles of the three passes."""
    row, column = (
        next(t for t in schedule.SPLASH_TILES if size % t == 0) for size in (rows, columns)
    )
    return splash.BlockSizes(
        block_q=row,
        block_kv=column,
        block_q_dkv=row,
        block_kv_dkv=column,
        block_q_dq=row,
        block_kv_dq=column,
    )


def _batch_axis() -> tuple[str | None, int]:
    """The axis of Keras' mesh over which the batch is split, and how many devices it has."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return None, 1
    mesh, axis = distribution.device_mesh, distribution.batch_dim_name
    return axis, mesh.shape[mesh.axis_names.index(axis)]


def _on_each_device(attend: Callable[..., Tensor], key_heads: int) -> Callable[..., Tensor]:
    """The function, on a mesh of Keras for the rows and heads of each device by itself.

    The compiler cannot split a kernel of Pallas.
    """
    distribution = keras.distribution.distribution()
    if distribution is None:
        return attend
    mesh, (batch, _) = distribution.device_mesh, _batch_axis()
    sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
    shared = [a for a, size in sizes.items() if a != batch and key_heads % size == 0]
    heads = shared[0] if shared else None
    rows = PartitionSpec(batch, heads)
    specs = (rows, rows, rows, PartitionSpec(heads), PartitionSpec(batch))
    return jax.shard_map(
        attend, mesh=mesh.backend_mesh, in_specs=specs, out_specs=rows, check_vma=False
    )
