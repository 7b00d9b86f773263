"""Exact attention on torch in memory linear in length: the reference kernel, a block at a time.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head width,
Hv value width; in a block: r rows, s keys.
"""

import dataclasses

import torch
from torch.utils.checkpoint import checkpoint

from keras_attn._typing import Tensor
from keras_attn.ops.biases import Bias, PositionBias
from keras_attn.ops.kernels import reference, schedule
from keras_attn.ops.masks import AttentionMask

# Odd, so that the blocks of two calls with neighbouring seeds draw different numbers.
STRIDE = 1_000_003


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
    keys = key.shape[1]
    mask = dataclasses.replace(mask, query_offset=int(mask.query_offset))
    rows = schedule.rows_of_block(mask, query, keys, block_size)
    key_parts, value_parts = key.split(rows, 1), value.split(rows, 1)
    contexts = []
    for index, part in enumerate(query.split(rows, 1)):
        row = index * rows
        start, stop = schedule.key_range(mask, row, part.shape[1], keys)
        start = min(start, keys - 1)
        # Whole parts of the keys: the gradient of parts that are joined is as long as these parts,
        # the gradient of a slice is as long as all keys.
        first, last = start // rows, max(-(-stop // rows), start // rows + 1)
        start, stop = first * rows, min(last * rows, keys)
        size = (row, part.shape[1]), (start, stop - start)
        contexts.append(
            checkpoint(
                reference.attention,
                part,
                torch.cat(key_parts[first:last], 1),
                torch.cat(value_parts[first:last], 1),
                mask=mask.block((0, query.shape[0]), (0, query.shape[2]), *size),
                bias=_bias(bias, *size),
                scale=scale,
                logits_soft_cap=logits_soft_cap,
                sink=sink,
                dropout=dropout,
                seed=None if seed is None else seed + index * STRIDE,
                return_scores=False,
                block_size=None,
                use_reentrant=False,
                preserve_rng_state=False,
            )
        )
    return torch.cat(contexts, 1)


def _bias(bias: Bias | None, rows: tuple, keys: tuple) -> Bias | None:
    if isinstance(bias, PositionBias):
        return bias.shifted(keys[0], keys[0])
    if bias is None:
        return None
    for axis, (start, size) in ((2, rows), (3, keys)):
        if bias.shape[axis] != 1:
            bias = bias.narrow(axis, start, size)
    return bias
