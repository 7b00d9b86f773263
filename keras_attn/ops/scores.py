"""How well each query fits each key: the logits that a selection turns into weights.

Letters: B batch, T query length, S key length, Dq query width, Dk key width, U units.
"""

import math
from collections.abc import Callable

from keras import ops

from keras_attn._typing import Tensor


def dot(query: Tensor, key: Tensor) -> Tensor:
    """`q . k`, for queries and keys of the same width.

    Args:
        query: float `[B, T, D]`.
        key: float `[B, S, D]`.

    Returns:
        Logits `[B, T, S]`.

    Raises:
        ValueError: unequal widths.

    Source: Luong et al. 2015, section 3.1.

    Example:
    >>> dot(ops.ones((1, 2, 3)), ops.ones((1, 1, 3))).numpy().tolist()
    [[[3.0], [3.0]]]
    """
    _check_same_width(query, key)
    # Not `ops.matmul`, which rounds float64 to float32 on torch.
    return query @ ops.swapaxes(key, -2, -1)  # [B, T, S]


def scaled_dot(query: Tensor, key: Tensor) -> Tensor:
    """`q . k / sqrt(D)`, whose variance does not grow with the width.

    Arguments, result and error as in `dot`. Source: Vaswani et al. 2017, section 3.2.1.
    """
    return dot(query / math.sqrt(query.shape[-1]), key)


def cosine(query: Tensor, key: Tensor) -> Tensor:
    """`q . k / (|q| |k|)`; zero where one of them is zero.

    Arguments, result and error as in `dot`. Source: Graves et al. 2014, section 3.3.1.
    """
    return dot(_unit(query), _unit(key))


def general(query: Tensor, key: Tensor, kernel: Tensor) -> Tensor:
    """`q^T W k`, for queries and keys of any widths.

    Args:
        query: float `[B, T, Dq]`.
        key: float `[B, S, Dk]`.
        kernel: W, float `[Dq, Dk]`.

    Returns:
        Logits `[B, T, S]`.

    Source: Luong et al. 2015, section 3.1.
    """
    return dot(project(query, kernel), key)


def additive(
    query: Tensor,
    key: Tensor,
    query_kernel: Tensor,
    key_kernel: Tensor | None,
    scale: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """`v . tanh(W1 q + W2 k + b)`, for queries and keys of any widths.

    Args:
        query: float `[B, T, Dq]`.
        key: float `[B, S, Dk]`, or `[B, S, U]` where `key_kernel` is None.
        query_kernel: W1, float `[Dq, U]`.
        key_kernel: W2, float `[Dk, U]`; None where the keys are projected already, as a decoder
            does once for all its steps.
        scale: v, float `[U]`.
        bias: b, float `[U]`.

    Returns:
        Logits `[B, T, S]`.

    Source: Bahdanau et al. 2015, section A.1.2.
    """
    projected_query = project(query, query_kernel)  # [B, T, U]
    projected_key = key if key_kernel is None else project(key, key_kernel)  # [B, S, U]
    if bias is not None:
        projected_query = ops.add(projected_query, bias)
    pairs = ops.expand_dims(projected_query, 2) + ops.expand_dims(projected_key, 1)
    hidden = ops.tanh(pairs)  # [B, T, S, U]
    return ops.sum(ops.multiply(hidden, scale), axis=-1)  # [B, T, S]


def concat(query: Tensor, key: Tensor, kernel: Tensor, scale: Tensor) -> Tensor:
    """`v . tanh(W [q; k])`, for queries and keys of any widths.

    Args:
        query: float `[B, T, Dq]`.
        key: float `[B, S, Dk]`.
        kernel: W, float `[Dq + Dk, U]`.
        scale: v, float `[U]`.

    Returns:
        Logits `[B, T, S]`.

    Source: Luong et al. 2015, section 3.1.
    """
    # W [q; k] = W1 q + W2 k spares the [B, T, S, Dq + Dk] of the pairs.
    width = query.shape[-1]
    return additive(query, key, kernel[:width], kernel[width:], scale)


def location(query: Tensor, key: Tensor, kernel: Tensor) -> Tensor:
    """`W q`: one logit for each position of the memory, whatever it holds.

    Args:
        query: float `[B, T, Dq]`.
        key: float `[B, S, Dk]`; only its length counts.
        kernel: W, float `[Dq, L]`, L the longest memory.

    Returns:
        Logits `[B, T, S]`.

    Raises:
        ValueError: a key longer than L, where the length is known.

    Source: Luong et al. 2015, section 3.1.
    """
    longest = kernel.shape[-1]
    if key.shape[1] is not None and key.shape[1] > longest:
        raise ValueError(
            f"`key` must be at most {longest} long, the width of `kernel`, got {key.shape[1]}"
        )
    return project(query, kernel)[:, :, : ops.shape(key)[1]]


def project(inputs: Tensor, kernel: Tensor) -> Tensor:
    """`x W` for inputs `[B, T, D]` and a kernel `[D, U]`."""
    # TensorFlow makes a matmul of ranks 3 and 2 a Tensordot, whose gradient XLA cannot compile in
    # the loop of a decoder.
    return ops.einsum("btd,du->btu", inputs, kernel)


_SCORES = {
    "dot": dot,
    "scaled_dot": scaled_dot,
    "cosine": cosine,
    "general": general,
    "additive": additive,
    "concat": concat,
    "location": location,
}


def get(name: str) -> Callable:
    """The score function called `name`.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if name not in _SCORES:
        raise ValueError(f"`score` must be one of {', '.join(_SCORES)}, got {name!r}")
    return _SCORES[name]


def weight_shapes(
    name: str,
    query_dim: int,
    key_dim: int,
    units: int | None = None,
    max_length: int | None = None,
) -> dict[str, tuple[int, ...]]:
    """Name and shape of each weight that a score takes, for the layer that owns them.

    Args:
        name: name of the score.
        query_dim: Dq.
        key_dim: Dk.
        units: U of "additive" and "concat"; defaults to the query's width.
        max_length: L of "location", which needs it.

    Raises:
        ValueError: an unknown name, or "location" without `max_length`.

    Example:
    >>> weight_shapes("general", query_dim=3, key_dim=5)
    {'kernel': (3, 5)}
    """
    get(name)
    units = units or query_dim
    if name == "general":
        return {"kernel": (query_dim, key_dim)}
    if name == "additive":
        return {
            "query_kernel": (query_dim, units),
            "key_kernel": (key_dim, units),
            "scale": (units,),
            "bias": (units,),
        }
    if name == "concat":
        return {"kernel": (query_dim + key_dim, units), "scale": (units,)}
    if name == "location":
        if max_length is None:
            raise ValueError('`max_length` must be given with the score "location", got None')
        return {"kernel": (query_dim, max_length)}
    return {}


def _unit(vectors: Tensor) -> Tensor:
    # Not `ops.normalize`, which rounds float64 to float32 on torch.
    square = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.where(square > 0, square, 1.0))


def _check_same_width(query: Tensor, key: Tensor) -> None:
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            "`query` and `key` must have the same width for a dot product, "
            f"got {query.shape[-1]} and {key.shape[-1]}"
        )
