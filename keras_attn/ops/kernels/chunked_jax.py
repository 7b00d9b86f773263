"""Exact attention on JAX in memory linear in length: the reference kernel, a block at a time.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head width,
Hv value width; in a block: r rows, s keys.
"""

import jax
import jax.numpy as jnp

from keras_attn._typing import Size, Tensor
from keras_attn.ops.biases import Bias, PositionBias
from keras_attn.ops.kernels import reference, schedule
from keras_attn.ops.masks import AttentionMask


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
    """See `keras_attn.ops.attention`; memory grows with T + S."""
    query, key, value = map(jnp.asarray, (query, key, value))
    length = query.shape[1]
    rows = schedule.rows_of_block(mask, query, key.shape[1], block_size)
    seed = None if seed is None else jnp.asarray(seed, "uint32")
    parts = []
    for start, stop, keys in schedule.stages(mask, length, key.shape[1], rows):
        band = schedule.band(mask, rows, keys)
        columns = {"key": key[:, :keys], "value": value[:, :keys]}

        def cut(index: Size, keys: int = keys, band: int = band, columns: dict = columns) -> tuple:
            """Where a block starts, and its parts of the tensors that have a gradient."""
            row = jnp.minimum(index * rows, length - rows)
            first = schedule.band_start(mask, row, keys, band)
            part = {"query": _slice(query, {1: (row, rows)})}
            if band < keys:
                part |= {name: _slice(c, {1: (first, band)}) for name, c in columns.items()}
            if bias is not None and not isinstance(bias, PositionBias):
                part["bias"] = _slice(bias, {2: (row, rows), 3: (first, band)})
            return index, row, first, part

        @jax.checkpoint
        def block(cuts: tuple, columns: dict = columns, band: int = band) -> Tensor:
            index, row, first, part = cuts
            part = {**columns, "bias": bias, **part}
            if isinstance(bias, PositionBias):
                part["bias"] = bias.shifted(first, first)
            batch, heads = (0, query.shape[0]), (0, query.shape[2])
            return reference.attention(
                **part,
                mask=mask.block(batch, heads, (row, rows), (first, band)),
                scale=scale,
                logits_soft_cap=logits_soft_cap,
                sink=sink,
                dropout=dropout,
                seed=None if seed is None else jax.random.fold_in(seed, index),
                return_scores=False,
                block_size=None,
            )

        # The cuts are made before the loop: the gradient of a cut inside it would be as long as the
        # whole tensor in each block.
        parts.append(jax.lax.map(block, jax.vmap(cut)(jnp.arange(start, stop))))
    return _join(jnp.concatenate(parts), length)


def _slice(tensor: Tensor, ranges: dict) -> Tensor:
    """The ranges `{axis: (start, size)}` of a tensor; axes of length 1 stay, to be broadcast."""
    for axis, (start, size) in ranges.items():
        if tensor.shape[axis] != 1:
            tensor = jax.lax.dynamic_slice_in_dim(tensor, start, size, axis)
    return tensor


def _join(blocks: Tensor, length: int) -> Tensor:
    """`[B, T, ...]` from `[blocks, B, r, ...]`, whose last block overlaps the one before."""
    whole = jnp.moveaxis(blocks[:-1], 0, 1)  # [B, blocks - 1, r, ...]
    whole = whole.reshape(whole.shape[0], -1, *whole.shape[3:])
    return jnp.concatenate([whole, blocks[-1][:, whole.shape[1] - length :]], 1)
