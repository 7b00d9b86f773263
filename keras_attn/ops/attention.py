"""The one door to attention: checks the shapes, picks a kernel, computes nothing.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head width.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from keras_attn._checks import check_number, check_positive, check_rate, check_shape, is_integer
from keras_attn._typing import Nested, Shape, Tensor
from keras_attn.ops import kernels
from keras_attn.ops.biases import Bias, PositionBias
from keras_attn.ops.masks import AttentionMask
from keras_attn.ops.random import is_seed

_watched: contextvars.ContextVar[list | None] = contextvars.ContextVar("watched", default=None)


@contextlib.contextmanager
def watch() -> Iterator[list[tuple[Tensor, Tensor]]]:
    """A list that gets the scaled query `[B, T, N, H]` and the key of each call of `attention`.

    Their product is the logits, without the bias and the soft cap.
    """
    calls: list[tuple[Tensor, Tensor]] = []
    token = _watched.set(calls)
    try:
        yield calls
    finally:
        _watched.reset(token)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: AttentionMask | None = None,
    bias: Bias | None = None,
    scale: float | None = None,
    logits_soft_cap: float | None = None,
    sink: Tensor | None = None,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    return_scores: bool = False,
    kernel: str = "auto",
    block_size: int | None = None,
) -> Nested:
    """`softmax(scale * query . key + bias) value`, over the keys that the mask allows.

    With a soft cap c, the logits are `c tanh((scale * query . key + bias) / c)`. With a sink, the
    softmax of each head has one more logit, which takes weight and gives nothing.

    What the mask hides has weight zero whatever the bias says, and a bias of minus infinity hides
    too. A row that may attend to nothing has zero weights, zero context and zero gradient. What
    is at padding, even NaN, reaches no result. The softmax runs in float32, or in float64 for
    such inputs.

    Without dropout neither the kernel nor `return_scores` changes a number beyond rounding, unless
    float16 logits exceed 65,504, which some kernels cannot hold. With dropout each kernel draws
    other numbers from the same seed; their expectations are equal.

    Args:
        query: float `[B, T, N, H]`.
        key: float `[B, S, K, H]`; N must be a multiple of K (grouped-query attention).
        value: float `[B, S, K, Hv]`.
        mask: an `AttentionMask`; None lets every query see every key.
        bias: float, broadcastable to `[B, N, T, S]`, or a `PositionBias`; added to the logits.
        scale: scale of the logits; defaults to `1 / sqrt(H)`.
        logits_soft_cap: the bound c that the logits only come near to; None for none.
        sink: float `[N]`, a further logit of each head, with neither scale nor cap nor dropout, so
            that the weights of a row sum to less than one; zeros give the softmax off by one.
        dropout: fraction of the weights that is zeroed, in [0, 1).
        seed: integer tensor `[2]`; needed where `dropout > 0`.
        return_scores: also return the weights, before dropout.
        kernel: "auto", or the name of one (`keras_attn.ops.kernels`); `explain` tells which one
            "auto" takes.
        block_size: how many queries a chunked kernel computes at once; defaults to a number that
            fits the shapes.

    Returns:
        The context `[B, T, N, Hv]` in the query's dtype; with `return_scores` also the weights,
        float32 or float64 `[B, N, T, S]`.

    Raises:
        ValueError: shapes or dtypes that do not fit, a mask of another type or an additive one
            (in compiled code, which cannot raise, any number but zero counts as True), dropout
            without a seed or outside [0, 1), a soft cap that is not positive, an unknown kernel, or
            a named kernel that cannot do what is asked.

    Source: Vaswani et al. 2017, section 3.2.1; grouped heads: Ainslie et al. 2023; soft cap:
    Gemma Team 2024, section 2; sink: Xiao et al. 2024, section 3.3, learned: OpenAI 2025
    (gpt-oss), section 2.

    Example:
    >>> import numpy as np
    >>> from keras_attn import ops
    >>> logits = np.log(np.array([3.0, 1.0])).reshape(1, 2, 1, 1)
    >>> query, value = np.ones((1, 1, 1, 1)), np.array([8.0, 0.0]).reshape(1, 2, 1, 1)
    >>> context = ops.attention(query, logits, value)
    >>> round(float(context[0, 0, 0, 0]), 4)
    6.0
    """
    query, key, value, asked = _request(
        query,
        key,
        value,
        mask,
        bias,
        logits_soft_cap,
        sink,
        dropout,
        seed,
        return_scores,
        block_size,
    )
    run = kernels.choose(kernel, asked)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    check_number("scale", scale)
    calls = _watched.get()
    if calls is not None:
        calls.append((query * scale, key))
    return run(
        query,
        key,
        value,
        mask=asked.mask,
        bias=asked.bias,
        scale=scale,
        logits_soft_cap=logits_soft_cap,
        sink=asked.sink,
        dropout=dropout,
        seed=seed,
        return_scores=return_scores,
        block_size=asked.block_size,
    )


def explain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: AttentionMask | None = None,
    bias: Bias | None = None,
    scale: float | None = None,
    logits_soft_cap: float | None = None,
    sink: Tensor | None = None,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    return_scores: bool = False,
    kernel: str = "auto",
    block_size: int | None = None,
) -> kernels.Choice:
    """Which kernel `attention` takes for a call with these arguments, and why none of the others.

    Nothing is computed. Layers call `attention` themselves; to see their choices, set the level of
    the logger "keras_attn" to DEBUG.

    Args:
        query: float `[B, T, N, H]`.
        key: float `[B, S, K, H]`.
        value: float `[B, S, K, Hv]`.
        mask: as in `attention`, and so are all that follow.
        bias: float, broadcastable to `[B, N, T, S]`, or a `PositionBias`.
        scale: changes no choice.
        logits_soft_cap: the bound of the logits.
        sink: float `[N]`.
        dropout: fraction of the weights that is zeroed.
        seed: integer tensor `[2]`; needed where `dropout > 0`.
        return_scores: whether the weights are returned.
        kernel: "auto", or the name of one.
        block_size: how many queries a chunked kernel computes at once.

    Returns:
        A named tuple of the kernel's name and of a dict with the reason against each other kernel;
        printed, it has a line for each.

    Raises:
        ValueError: as `attention`.

    Example:
    >>> import numpy as np
    >>> from keras_attn import ops
    >>> rows = np.ones((1, 3, 2, 4), "float32")
    >>> choice = ops.explain(rows, rows, rows, return_scores=True)
    >>> choice.kernel, choice.others["chunked"]
    ('reference', 'it does not return the attention weights')
    """
    *_, asked = _request(
        query,
        key,
        value,
        mask,
        bias,
        logits_soft_cap,
        sink,
        dropout,
        seed,
        return_scores,
        block_size,
    )
    return kernels.explain(kernel, asked)


def _request(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask | None,
    bias: Bias | None,
    logits_soft_cap: float | None,
    sink: Tensor | None,
    dropout: float,
    seed: Tensor | None,
    return_scores: bool,
    block_size: int | None,
) -> tuple:
    """Query, key and value as tensors, and what is asked for, checked."""
    if not isinstance(mask, AttentionMask | None):
        raise ValueError(
            "`mask` must be an AttentionMask, which takes a matrix as `dense`, or None, got a "
            f"{type(mask).__name__}"
        )
    mask = (mask or AttentionMask()).as_tensors()
    if block_size is not None and not (is_integer(block_size) and block_size > 0):
        raise ValueError(f"`block_size` must be a positive integer or None, got {block_size!r}")
    if logits_soft_cap is not None:
        check_positive("logits_soft_cap", logits_soft_cap)
    query, key, value = map(ops.convert_to_tensor, (query, key, value))
    if bias is not None and not isinstance(bias, PositionBias):
        bias = ops.convert_to_tensor(bias)
    _check(query, key, value, mask, bias, dropout, seed)
    if sink is not None:
        sink = ops.convert_to_tensor(sink)
        _check_float("sink", sink)
        check_shape("sink", sink.shape, heads=query.shape[2])
    return (
        query,
        key,
        value,
        kernels.Request.of(
            query,
            key,
            value,
            mask=mask,
            bias=bias,
            logits_soft_cap=logits_soft_cap,
            sink=sink,
            dropout=dropout,
            weights=return_scores,
            block_size=None if block_size is None else int(block_size),
        ),
    )


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask,
    bias: Bias | None,
    dropout: float,
    seed: Tensor | None,
) -> None:
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if len(tensor.shape) != 4:
            raise ValueError(
                f"`{name}` must have shape [batch, length, heads, width], "
                f"got shape {tuple(tensor.shape)}"
            )
        _check_float(name, tensor)
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            "`query` and `key` must have the same head width, "
            f"got {query.shape[-1]} and {key.shape[-1]}"
        )
    for axis, what in ((0, "rows"), (1, "positions")):
        pair = key.shape[axis], value.shape[axis]
        if all(isinstance(size, int) for size in pair) and pair[0] != pair[1]:
            raise ValueError(
                f"`key` and `value` must have equally many {what}, got {pair[0]} and {pair[1]}"
            )
    if 0 in (query.shape[2], key.shape[2], query.shape[3]):
        raise ValueError(
            "`query` and `key` must have heads and a width, got "
            f"shapes {tuple(query.shape)} and {tuple(key.shape)}"
        )
    if key.shape[2] != value.shape[2] or query.shape[2] % key.shape[2]:
        raise ValueError(
            "`key` and `value` must have the same number of heads, which divides the query's, got "
            f"query {query.shape[2]}, key {key.shape[2]}, value {value.shape[2]}"
        )
    check_rate("dropout", dropout)
    if dropout and not is_seed(seed):
        raise ValueError(
            f"`seed` must be an integer tensor [2] where dropout is not zero, got {seed!r}"
        )
    offset = mask.query_offset
    if isinstance(offset, int | np.integer | np.ndarray) and np.min(offset) < 0:
        raise ValueError(f"`query_offset` must be at least 0, got {offset}")
    lengths = (query.shape[0], query.shape[2], query.shape[1], key.shape[1])
    if mask.dense is not None:
        _check_broadcast("mask.dense", mask.dense.shape, lengths)
    if isinstance(bias, PositionBias):
        for parameter in bias.parameters:
            if len(parameter.shape) == 0 or parameter.shape[0] != query.shape[2]:
                raise ValueError(
                    f"each parameter of `bias` must have the query's {query.shape[2]} heads as its "
                    f"first axis, got shape {tuple(parameter.shape)}"
                )
    elif bias is not None:
        _check_float("bias", bias)
        _check_broadcast("bias", bias.shape, lengths)
    for name, length in (
        ("key_padding", lengths[3]),
        ("query_padding", lengths[2]),
        ("query_sequence_ids", lengths[2]),
        ("key_sequence_ids", lengths[3]),
    ):
        part = getattr(mask, name)
        if part is not None:
            _check_broadcast(name, part.shape, (lengths[0], length))


def _check_float(name: str, tensor: Tensor) -> None:
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise ValueError(f"`{name}` must have a floating-point dtype, got {dtype}")


def _check_broadcast(name: str, shape: Shape, target: tuple) -> None:
    fits = len(shape) == len(target) and all(
        have in (1, want) or have is None or want is None
        for have, want in zip(shape, target, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`{name}` must have rank {len(target)} and be broadcastable to shape "
            f"{tuple(target)}, got shape {tuple(shape)}"
        )
