"""The grid on which every kernel is compared with float64 numpy: masks, biases, shapes, oracle.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head width,
Hv value width.
"""

import dataclasses

import numpy as np
from keras import ops as kops

from keras_attn.ops import AttentionMask
from keras_attn.ops.biases import PositionBias, alibi, alibi_slopes

B, T, S, H, HV = 2, 13, 17, 5, 7


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of one call."""

    batch: int = B
    length: int = T
    keys: int = S
    heads: int = 6
    key_heads: int = 6
    width: int = H
    value_width: int = HV


def draw(shape, seed=0):
    """Query, key and value, float64."""
    rng = np.random.default_rng(seed)
    s = shape
    return (
        rng.normal(size=(s.batch, s.length, s.heads, s.width)),
        rng.normal(size=(s.batch, s.keys, s.key_heads, s.width)),
        rng.normal(size=(s.batch, s.keys, s.key_heads, s.value_width)),
    )


def _padding(shape, rng):
    padding = rng.random((shape.batch, shape.keys)) < 0.7
    padding[-1] = False  # a batch row of only padding
    return padding


def _ids(shape, rng):
    ids = [
        np.sort(rng.integers(low, low + 4, (shape.batch, n)), 1)
        for low, n in ((0, shape.length), (1, shape.keys))
    ]
    return {
        "query_sequence_ids": ids[0].astype("int32"),
        "key_sequence_ids": ids[1].astype("int32"),
    }


MASKS = {
    "none": lambda s, rng: {},
    "causal": lambda s, rng: {"causal": True},
    "window": lambda s, rng: {"window": 3},
    "causal_window": lambda s, rng: {"causal": True, "window": 2},
    "uneven_window": lambda s, rng: {"window": (2, 5)},
    "uneven_window_padding": lambda s, rng: {
        "window": (6, 3),
        "key_padding": _padding(s, rng),
        "query_offset": 3,
    },
    "key_padding": lambda s, rng: {"key_padding": _padding(s, rng)},
    "causal_padding": lambda s, rng: {
        "causal": True,
        "key_padding": _padding(s, rng),
        "query_offset": 2,
    },
    "window_padding": lambda s, rng: {"window": 3, "key_padding": _padding(s, rng)},
    "query_padding": lambda s, rng: {"query_padding": rng.random((s.batch, s.length)) < 0.7},
    "sequence_ids": _ids,
    "unsorted_ids": lambda s, rng: {
        "query_sequence_ids": rng.integers(0, 5, (s.batch, s.length)).astype("int32"),
        "key_sequence_ids": rng.integers(1, 6, (s.batch, s.keys)).astype("int32"),
        "key_padding": _padding(s, rng),
    },
    "dense": lambda s, rng: {"dense": rng.random((s.batch, s.heads, s.length, s.keys)) < 0.2},
    "dense_broadcast": lambda s, rng: {
        "dense": rng.random((1, 1, s.length, s.keys)) < 0.3,
        "causal": True,
    },
    "offset": lambda s, rng: {"causal": True, "window": 4, "query_offset": 3},
}


def _buckets(query_positions, key_positions, table):
    distance = kops.clip(key_positions[None, :] - query_positions[:, None], -2, 2) + 2
    return kops.take(table, distance, axis=1)


# Each bias: a function that draws its arrays, and one that makes the bias from them.
BIASES = {
    "none": (lambda s, rng: (), lambda: None),
    "dense": (lambda s, rng: (rng.normal(size=(s.batch, s.heads, s.length, s.keys)),), lambda b: b),
    "rows": (lambda s, rng: (rng.normal(size=(s.batch, 1, s.length, 1)),), lambda b: b),
    "keys": (lambda s, rng: (rng.normal(size=(1, s.heads, 1, s.keys)),), lambda b: b),
    "alibi": (lambda s, rng: (), lambda heads: PositionBias(alibi, (alibi_slopes(heads),))),
    "buckets": (
        lambda s, rng: (rng.normal(size=(s.heads, 5)),),
        lambda table: PositionBias(_buckets, (table,)),
    ),
}


def _hiding_table(shape, rng):
    """A bias table that masks some distances, and every key for the first head."""
    table = rng.normal(size=(shape.heads, 5))
    table[:, 1], table[0] = -np.inf, -np.inf
    return table


BIASES["hiding_buckets"] = (
    lambda s, rng: (_hiding_table(s, rng),),
    BIASES["buckets"][1],
)


def hiding_bias(seen, rng):
    """A bias that masks, in several ways, what the mask allows; `seen` is from `allowed`."""
    bias = rng.normal(size=seen.shape)
    half = rng.random(seen.shape) < 0.5
    lowest = float(np.finfo("float32").min)
    for row in range(seen.shape[2]):
        low = (None, -np.inf, -1e9, lowest, np.where(half[:, :, row], -np.inf, 0.0))[row % 5]
        if low is not None:
            bias[:, :, row] = np.where(seen[:, :, row], low, bias[:, :, row])
    for number, value in enumerate((np.inf, np.nan, lowest, -np.inf)):  # masked already
        some = ~seen & (np.arange(seen.shape[3]) % 5 == number)
        bias = np.where(some, value, bias)
    return bias


def mask_parts(name, shape):
    """The arguments of an AttentionMask, in numpy."""
    return MASKS[name](shape, np.random.default_rng(1))


def bias_arrays(name, shape):
    """The float64 arrays of a bias, which get gradients."""
    return BIASES[name][0](shape, np.random.default_rng(2))


def bias_from(name, shape, arrays):
    """The bias as `ops.attention` accepts it."""
    make = BIASES[name][1]
    return make(shape.heads) if name == "alibi" else make(*arrays)


def mask_from(parts):
    """The AttentionMask with numpy arguments."""
    tensors = {
        n: kops.convert_to_tensor(p) if isinstance(p, np.ndarray) else p for n, p in parts.items()
    }
    return AttentionMask(**tensors)


def allowed(parts, shape):
    """Which query may attend to which key, pair by pair, by definition."""
    s = shape
    matrix = np.ones((s.batch, s.heads, s.length, s.keys), bool)
    dense = parts.get("dense")
    dense = matrix if dense is None else np.broadcast_to(dense, matrix.shape)
    for b, n, i, j in np.ndindex(matrix.shape):
        position = i + parts.get("query_offset", 0)
        rules = [dense[b, n, i, j]]
        if parts.get("causal"):
            rules.append(j <= position)
        if "window" in parts:
            window = parts["window"]
            before, after = window if isinstance(window, tuple) else (window, window)
            rules.append(position - j < before if j < position else j - position < after)
        if "key_padding" in parts:
            rules.append(parts["key_padding"][b, j])
        if "query_padding" in parts:
            rules.append(parts["query_padding"][b, i])
        if "query_sequence_ids" in parts:
            rules.append(parts["query_sequence_ids"][b, i] == parts["key_sequence_ids"][b, j])
        matrix[b, n, i, j] = all(rules)
    return matrix


def oracle(
    query,
    key,
    value,
    parts,
    bias_name,
    arrays,
    shape,
    d_context,
    precision="float64",
    cap=None,
    sink=None,
):
    """Context and gradients (query, key, value, bias arrays, sink) in float64, from the formulas.

    The logits are rounded to `precision`: added to a bias of -1e9 they lose every digit in float32.
    """
    s = shape
    group = s.heads // s.key_heads
    k, v = np.repeat(key, group, 2), np.repeat(value, group, 2)
    scale = s.width**-0.5
    logits = np.einsum("btnh,bsnh->bnts", query, k) * scale
    distance = np.arange(s.keys)[None] - np.arange(s.length)[:, None] - parts.get("query_offset", 0)
    buckets = bias_name in ("buckets", "hiding_buckets")
    if bias_name == "alibi":
        logits = logits - alibi_slopes(s.heads)[:, None, None] * abs(distance)
    elif buckets:
        logits = logits + arrays[0][:, np.clip(distance, -2, 2) + 2]
    elif arrays:
        logits = (logits + arrays[0]).astype(precision).astype("float64")
    slope = 1.0
    if cap is not None:
        tanh = np.where(logits == -np.inf, logits, np.tanh(logits / cap))
        logits, slope = cap * tanh, np.where(allowed(parts, s) & (tanh > -np.inf), 1 - tanh**2, 0)
    logits = np.where(allowed(parts, s), logits, -np.inf)
    highest = logits.max(-1, keepdims=True)
    exponentials = np.exp(logits - np.where(highest == -np.inf, 0, highest))
    sums = exponentials.sum(-1, keepdims=True)
    if sink is not None:
        of_sink = np.exp(sink[:, None, None] - np.where(highest == -np.inf, 0, highest))
        sums = sums + of_sink
    weights = exponentials / np.where(sums == 0, 1, sums)
    context = np.einsum("bnts,bsnh->btnh", weights, v)
    d_weights = np.einsum("btnh,bsnh->bnts", d_context, v)
    d_logits = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True)) * slope
    grouped = (s.batch, s.keys, s.key_heads, group, -1)
    gradients = [
        np.einsum("bnts,bsnh->btnh", d_logits, k) * scale,
        np.einsum("bnts,btnh->bsnh", d_logits, query).reshape(grouped).sum(3) * scale,
        np.einsum("bnts,btnh->bsnh", weights, d_context).reshape(grouped).sum(3),
    ]
    if buckets:
        bucket = np.clip(distance, -2, 2) + 2
        gradients.append(np.stack([d_logits[..., bucket == i].sum((0, 2)) for i in range(5)], -1))
    elif arrays:
        axes = tuple(a for a in range(4) if arrays[0].shape[a] == 1)
        gradients.append(d_logits.sum(axes, keepdims=True))
    if sink is not None:
        change = of_sink / sums * (weights * d_weights).sum(-1, keepdims=True)
        gradients.append(-change.sum((0, 2, 3)))
    return context, gradients
