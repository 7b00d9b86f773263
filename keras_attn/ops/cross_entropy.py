"""Softmax cross entropy of a linear layer over a vocabulary, without ever holding all its logits.

Letters: R rows, D model width, V vocabulary; r rows of one chunk, c chunks.
"""

import functools

import keras
from keras import ops

from keras_attn import backend
from keras_attn._checks import check_count, check_ids, check_shape
from keras_attn._typing import Size, Tensor
from keras_attn.ops.numerics import common, mean, wide, widen


def linear_cross_entropy(
    hidden: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    chunk_size: int = 1024,
) -> Tensor:
    """The cross entropy of `x = hidden @ matrix.T + bias` with integer labels, row by row.

    `w (logsumexp(x) - (1 - s) x[label] - s mean(x))` with weight w and smoothing s. The logits are
    made for a chunk of rows at a time, and once more in the backward pass. The products have the
    inputs' dtype; softmax, losses and the sums over chunks are float32, or float64 for such inputs.

    Args:
        hidden: float `[R, D]`.
        matrix: float `[V, D]`.
        bias: float `[V]`, or None.
        labels: int `[R]`; a row with a negative label does not count.
        weights: float `[R]`, or None for 1; a row of weight 0 does not count.
        label_smoothing: the fraction of the target spread evenly over the vocabulary, in [0, 1).
        chunk_size: the most rows in a chunk; from as many on, a chunk has at least half of them.
            Fewer than 512 cost time, as each chunk adds to the gradient `[V, D]`.

    Returns:
        float32 or float64 `[R]`, 0 where a row does not count, which then has no gradient.

    Raises:
        ValueError: shapes that do not fit, labels outside of the vocabulary, no integer labels, a
            smoothing outside [0, 1), a chunk size that is not a positive integer.

    Source: Szegedy et al. 2016, section 7 (smoothing).

    Example:
    >>> losses = linear_cross_entropy(
    ...     ops.ones((2, 3)), ops.zeros((4, 3)), None, ops.convert_to_tensor([1, -1])
    ... )
    >>> [round(float(loss), 4) for loss in losses]
    [1.3863, 0.0]
    """
    hidden, matrix, labels = map(ops.convert_to_tensor, (hidden, matrix, labels))
    bias, weights = (g if g is None else ops.convert_to_tensor(g) for g in (bias, weights))
    _check(hidden, matrix, bias, labels, weights, label_smoothing, chunk_size)
    labels = ops.cast(labels, "int32")
    counts = labels >= 0
    if weights is not None:
        weights = widen(weights)
        counts = ops.logical_and(counts, weights != 0)
    # The values of a row that does not count, even NaN, reach no other row.
    hidden = ops.where(counts[:, None], hidden, ops.zeros_like(hidden))
    labels = check_ids("labels", ops.where(counts, labels, 0), matrix.shape[0])
    losses = _losses(hidden, matrix, bias, labels, label_smoothing, chunk_size)
    losses = losses if weights is None else losses * ops.where(counts, weights, 0.0)
    return ops.where(counts, losses, 0.0)


def _losses(
    hidden: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    smoothing: float,
    chunk_size: int,
) -> Tensor:
    shape = _chunks(ops.shape(hidden)[0], chunk_size)
    run = backend.with_gradient(
        functools.partial(_forward, shape, smoothing),
        functools.partial(_backward, shape, smoothing),
    )
    given = (tensor for tensor in (hidden, labels, matrix, bias) if tensor is not None)
    return run(*given)


def _forward(
    shape: tuple, smoothing: float, hidden: Tensor, labels: Tensor, *parameters: Tensor
) -> Tensor:
    hidden_parts, label_parts = _split(hidden, shape), _split(labels, shape)

    def chunk(index: Size, carry: tuple) -> tuple:
        logits = _logits(hidden_parts[index], *parameters)  # [r, V]
        own = ops.take_along_axis(logits, label_parts[index][:, None], axis=1)[:, 0]
        loss = ops.logsumexp(logits, axis=-1) - (1 - smoothing) * own
        if smoothing:
            loss = loss - smoothing * mean(logits, axis=-1)
        return carry, (loss,)

    precise = wide(hidden.dtype, parameters[0].dtype)
    _, (losses,) = backend.loop(shape[0], chunk, (), (precise,))
    return ops.reshape(losses, (-1,))[: ops.shape(hidden)[0]]


def _backward(
    shape: tuple,
    smoothing: float,
    d_losses: Tensor,
    hidden: Tensor,
    labels: Tensor,
    *parameters: Tensor,
) -> tuple:
    """The gradients, from the inputs alone, so that they can be differentiated once more."""
    matrix, *bias = parameters
    vocabulary = matrix.shape[0]
    dtype = common(hidden.dtype, matrix.dtype)
    precise = widen(ops.cast(matrix, dtype))
    scaled = d_losses[:, None] * widen(ops.cast(hidden, dtype))  # [R, D]

    def of_target(rows: Tensor) -> Tensor:
        """What the target, of which the logits are no part, adds to a gradient `[V, ...]`."""
        own = ops.zeros((vocabulary, *rows.shape[1:]), rows.dtype)
        # Not `ops.segment_sum`, which rounds float64 to float32 on torch.
        own = ops.scatter_update(own, ops.expand_dims(labels, 1), rows, reduction="add")
        return -(1 - smoothing) * own - smoothing / vocabulary * ops.sum(rows, axis=0)

    def chunk(index: Size, carry: tuple) -> tuple:
        shares = ops.softmax(_logits(hidden_parts[index], *parameters), axis=-1)  # [r, V]
        d_matrix, *d_bias = carry
        d_bias = [d + (d_loss_parts[index][None] @ shares)[0] for d in d_bias]
        shares = ops.cast(shares, dtype)
        more = ops.transpose(shares) @ ops.cast(scaled_parts[index], dtype)
        d_hidden = shares @ ops.cast(matrix, dtype)
        return (d_matrix + widen(more), *d_bias), (widen(d_hidden),)

    hidden_parts, scaled_parts = _split(hidden, shape), _split(scaled, shape)
    d_loss_parts = _split(d_losses, shape)
    start = (of_target(scaled), *(of_target(d_losses) for _ in bias))
    d_parameters, (d_hidden,) = backend.loop(shape[0], chunk, start, (precise.dtype,))
    d_hidden = ops.reshape(d_hidden, (-1, matrix.shape[1]))[: ops.shape(hidden)[0]]
    target = (1 - smoothing) * ops.take(precise, labels, axis=0)
    target = target + smoothing * mean(precise, axis=0)
    d_hidden = ops.cast(d_losses[:, None] * (d_hidden - target), hidden.dtype)
    d_parameters = (
        ops.cast(gradient, parameter.dtype)
        for gradient, parameter in zip(d_parameters, parameters, strict=True)
    )
    return d_hidden, None, *d_parameters


def _logits(hidden: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    dtype = common(hidden.dtype, matrix.dtype)
    logits = ops.cast(hidden, dtype) @ ops.transpose(ops.cast(matrix, dtype))
    logits = widen(logits)
    return logits if bias is None else logits + ops.cast(bias, logits.dtype)


def _chunks(rows: Size, most: int) -> tuple:
    """How many chunks there are, and how many rows each has."""
    if isinstance(rows, int) or ops.is_tensor(rows):
        chunks = rows // most + 1
        return chunks, -(-rows // chunks)
    return -(-rows // most), most  # JAX's symbolic length, which divides by numbers alone


def _split(tensor: Tensor, shape: tuple) -> Tensor:
    """`[c, r, ...]` from `[R, ...]`, with zeros at the end of the last chunk."""
    (chunks, size), (rows, *rest) = shape, ops.shape(tensor)
    tensor = ops.pad(tensor, [(0, chunks * size - rows), *((0, 0) for _ in rest)])
    return ops.reshape(tensor, (chunks, size, *rest))


def _check(
    hidden: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    weights: Tensor | None,
    smoothing: float,
    chunk_size: int,
) -> None:
    check_shape("hidden", hidden.shape, rows=None, width=None)
    rows, width = hidden.shape
    check_shape("matrix", matrix.shape, vocabulary=None, width=width)
    if bias is not None:
        check_shape("bias", bias.shape, vocabulary=matrix.shape[0])
    check_shape("labels", labels.shape, rows=rows)
    if weights is not None:
        check_shape("weights", weights.shape, rows=rows)
    dtype = keras.backend.standardize_dtype(labels.dtype)
    if "int" not in dtype:
        raise ValueError(f"`labels` must be integers, got {dtype}")
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"`label_smoothing` must be in [0, 1), got {smoothing}")
    check_count("chunk_size", chunk_size)
