"""Which keys a query takes, and how much of each: logits and a mask become weights.

Letters: B batch, T query length, S key length. Masks are bool, broadcastable to `[B, T, S]`, True
where a query may take a key. A query that may take nothing gets zero weights, with zero gradient.
Weights are float32, or wider where the logits are.
"""

import math

from keras import ops

from keras_attn import backend
from keras_attn._typing import Size, Tensor
from keras_attn.ops import random, scores
from keras_attn.ops.numerics import at_least, at_temperature, softmax, wide, widen

_TINY = 1e-20


def soft(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """`softmax(logits)` over the allowed keys.

    Args:
        logits: float `[B, T, S]`.
        mask: see the module.

    Returns:
        Weights `[B, T, S]`.

    Example:
    >>> soft(ops.convert_to_tensor([[[3.2, 5.1, -1.7]]])).numpy().round(2).tolist()
    [[[0.12999999523162842, 0.8700000047683716, 0.0]]]
    """
    logits, some = _allowed(widen(logits), mask)
    return ops.where(some, softmax(logits), 0.0)


def greedy(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """All weight on the best allowed key: what a hard selection does at inference.

    Arguments and result as in `soft`; the first of several equally good keys wins.
    """
    if logits.shape[-1] == 0:
        return widen(logits)  # no key is the best
    logits, some = _allowed(widen(logits), mask)
    return ops.where(some, _one_hot(ops.argmax(logits, axis=-1), logits), 0.0)


def hard(logits: Tensor, seed: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One key for each query, drawn from the softmax, with the logarithm of its probability.

    No gradient goes through the draw. For REINFORCE, add
    `-(reward - baseline) * log_probability` to the loss.

    Args:
        logits: float `[B, T, S]`.
        seed: integer tensor `[2]`.
        mask: see the module.

    Returns:
        One-hot weights `[B, T, S]` and log-probability `[B, T]`, zero where nothing is allowed.

    Source: Xu et al. 2015, section 4.1.
    """
    # The largest of logits plus Gumbel noise is a draw from their softmax.
    logits = widen(logits)
    weights = greedy(logits + _gumbel(logits, seed), mask)
    return weights, log_probability(logits, weights, mask)


def log_probability(logits: Tensor, weights: Tensor, mask: Tensor | None = None) -> Tensor:
    """Logarithm `[B, T]` of the probability of a choice, given as one-hot `weights`."""
    logits, _ = _allowed(widen(logits), mask)
    log_softmax = ops.log_softmax(logits, axis=-1)
    # The logarithm of a hidden key's probability is minus infinity, which times zero is NaN.
    return ops.sum(weights * ops.where(weights > 0, log_softmax, 0.0), axis=-1)


def straight_through(logits: Tensor, seed: Tensor, mask: Tensor | None = None) -> Tensor:
    """The draw of `hard` forward, the gradient of `soft` backward.

    Arguments as in `hard`. Returns the one-hot weights. Source: Bengio et al. 2013, section 4.
    """
    weights, _ = hard(logits, seed, mask)
    expected = soft(logits, mask)
    # Exactly one-hot: (w - e) + e may miss 1 by a rounding.
    return weights + (expected - ops.stop_gradient(expected))


def gumbel(
    logits: Tensor, seed: Tensor, mask: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """`softmax((logits + g) / temperature)`, g of a Gumbel distribution: a soft draw.

    The lower the temperature, the nearer to one-hot, and the larger the gradient's variance.

    Args:
        logits: float `[B, T, S]`.
        seed: integer tensor `[2]`.
        mask: see the module.
        temperature: a positive number.

    Returns:
        Weights `[B, T, S]`.

    Source: Jang et al. 2017, section 2.2.
    """
    logits = widen(logits)
    shown, some = _allowed(logits + _gumbel(logits, seed), mask)
    weights = soft(at_temperature(shown, ops.cast(temperature, shown.dtype)), mask)
    return ops.where(some, weights, 0.0)


def local_monotonic(
    logits: Tensor, window: int, mask: Tensor | None = None, query_offset: Size = 0
) -> Tensor:
    """Local-m: softmax over the keys at most `window` away from the query's own position.

    Args:
        logits: float `[B, T, S]`.
        window: D, so that `2 D + 1` keys are seen.
        mask: see the module.
        query_offset: position of the first query, a number or a tensor broadcastable to `[B, T]`.

    Returns:
        Weights `[B, T, S]`.

    Source: Luong et al. 2015, section 3.2.
    """
    center = ops.arange(ops.shape(logits)[1], dtype="float32")
    center = center + ops.cast(query_offset, "float32")  # [T] or [B, T]
    near = ops.abs(_positions(logits, "float32") - ops.expand_dims(center, -1)) <= window
    return soft(logits, _both(ops.broadcast_to(near, ops.shape(logits)), mask))


def local_predictive(
    logits: Tensor, center: Tensor, window: int, mask: Tensor | None = None
) -> Tensor:
    """Local-p: softmax near a predicted centre, times a Gaussian around it.

    `softmax(logits) exp(-(s - p)^2 / (2 sigma^2))` with `sigma = D / 2` and `|s - p| <= D`, not
    normalized again.

    Args:
        logits: float `[B, T, S]`.
        center: p, float `[B, T]`, from `predicted_center`.
        window: D.
        mask: see the module.

    Returns:
        Weights `[B, T, S]`.

    Source: Luong et al. 2015, section 3.2.
    """
    logits, center = widen(logits), ops.cast(center, wide(logits.dtype, center.dtype))
    distance = _positions(logits, center.dtype) - ops.expand_dims(center, -1)  # [B, T, S]
    weights = soft(logits, _both(ops.abs(distance) <= window, mask))
    return weights * ops.exp(-ops.square(distance) / (2 * (window / 2) ** 2))


def predicted_center(query: Tensor, kernel: Tensor, scale: Tensor, length: Tensor) -> Tensor:
    """`p = S sigmoid(v . tanh(W q))`: where local-p looks.

    Args:
        query: float `[B, T, Dq]`.
        kernel: W, float `[Dq, U]`.
        scale: v, float `[U]`.
        length: S, how many keys are real: a number or `[B]`. Padding must not count.

    Returns:
        `[B, T]`.

    Source: Luong et al. 2015, section 3.2, equation 9.
    """
    hidden = ops.tanh(scores.project(query, kernel))
    share = ops.sigmoid(widen(ops.sum(ops.multiply(hidden, scale), axis=-1)))  # [B, T]
    return share * ops.reshape(ops.cast(length, share.dtype), (-1, 1))


def monotonic(
    logits: Tensor,
    mask: Tensor | None = None,
    previous: Tensor | None = None,
    mode: str = "parallel",
) -> Tensor:
    """Walk along the keys and stop at each with probability `sigmoid(logit)`, never going back.

    The weight is the probability to stop at a key, given where the query before stopped; what is
    left of 1 is the probability of passing the end.

    Args:
        logits: float `[B, T, S]`. In training, noise added to them makes the choices sharp.
        mask: see the module; a key that is not allowed is passed by.
        previous: weights `[B, S]` of the query before; without them the walk begins at key 0.
        mode: "parallel" (the paper's cumulative products: fast, for training), "recursive" (exact
            key by key, slower), or "hard" (inference: stops where the logit is above 0).

    Returns:
        Weights `[B, T, S]`; one-hot or all zero with "hard".

    Raises:
        ValueError: an unknown mode.

    Source: Raffel et al. 2017, sections 2.2 to 2.4 and appendix C.
    """
    steps = {"parallel": _parallel_walk, "recursive": _recursive_walk, "hard": _hard_walk}
    if mode not in steps:
        raise ValueError(f"`mode` must be one of {', '.join(steps)}, got {mode!r}")
    logits = widen(logits)
    allowed = ops.ones_like(logits, dtype="bool")
    if mask is not None:
        allowed = ops.logical_and(allowed, mask)
        logits = ops.where(allowed, logits, 0.0)
    stop = ops.sigmoid(logits) if mode != "hard" else ops.cast(logits > 0, logits.dtype)
    stop = ops.where(allowed, stop, 0.0)
    if previous is None:
        first = ops.equal(_positions(logits), 0)
        previous = ops.zeros_like(logits[:, 0]) + ops.cast(first, logits.dtype)  # [B, S]

    def step(row: Tensor, states: list) -> tuple[Tensor, list]:
        weights = steps[mode](row[:, 0], states[0])
        # A padded query does not change the position.
        moved = ops.any(row[:, 1] > 0, axis=-1, keepdims=True)
        return weights, [ops.where(moved, weights, states[0])]

    rows = ops.stack([stop, ops.cast(allowed, stop.dtype)], axis=2)  # [B, T, 2, S]
    return backend.recur(step, rows, [ops.cast(previous, stop.dtype)])


def _parallel_walk(stop: Tensor, previous: Tensor) -> Tensor:
    passed = _exclusive(ops.cumprod(1 - stop, axis=-1))
    return stop * passed * ops.cumsum(previous / at_least(passed, 1e-10), axis=-1)


def _recursive_walk(stop: Tensor, previous: Tensor) -> Tensor:
    def step(key: Tensor, states: list) -> tuple[Tensor, list]:
        stop_here, began_here = key[:, 0], key[:, 1]
        reached = states[0] + began_here
        return stop_here * reached, [(1 - stop_here) * reached]

    keys = ops.stack([stop, previous], axis=-1)  # [B, S, 2]
    return backend.recur(step, keys, [ops.zeros_like(stop[:, 0])])


def _hard_walk(stop: Tensor, previous: Tensor) -> Tensor:
    candidates = stop * ops.cumsum(previous, axis=-1)
    return candidates * ops.cast(ops.cumsum(candidates, axis=-1) <= 1, stop.dtype)


def _exclusive(products: Tensor) -> Tensor:
    return ops.concatenate([ops.ones_like(products[:, :1]), products[:, :-1]], axis=-1)


def _positions(logits: Tensor, dtype: str = "int32") -> Tensor:
    return ops.arange(ops.shape(logits)[-1], dtype=dtype)  # [S]


def _allowed(logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Minus infinity where a key is hidden, and whether a query has any key, `[B, T, 1]`.

    A logit of minus infinity hides, as a mask does. A row of nothing else becomes zeros.
    """
    visible = ops.not_equal(logits, -math.inf)
    if mask is not None:
        visible = ops.logical_and(mask, visible)
    some = ops.any(visible, axis=-1, keepdims=True)
    return ops.where(visible, logits, ops.where(some, -math.inf, 0.0)), some


def _one_hot(indices: Tensor, like: Tensor) -> Tensor:
    chosen = ops.cast(ops.expand_dims(indices, -1), "int32")
    return ops.cast(ops.equal(_positions(like), chosen), like.dtype)


def _gumbel(logits: Tensor, seed: Tensor) -> Tensor:
    noise = random.uniform(ops.shape(logits), seed)
    return ops.cast(-ops.log(-ops.log(noise + _TINY) + _TINY), logits.dtype)


def _both(first: Tensor, second: Tensor | None) -> Tensor:
    return first if second is None else ops.logical_and(first, second)
