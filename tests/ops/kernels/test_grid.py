"""Every kernel against float64 numpy: mask x bias x grouped heads x dtype x gradient."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops as kops

from keras_attn import ops
from keras_attn.ops import kernels
from tests.backend import BACKEND, arrays, gradients
from tests.ops.kernels.cases import (
    BIASES,
    MASKS,
    Shape,
    allowed,
    bias_arrays,
    bias_from,
    draw,
    hiding_bias,
    mask_from,
    mask_parts,
    oracle,
)

KEY_HEADS = (6, 3, 1)
TOLERANCE = {"float32": 3e-6, "bfloat16": 4e-2, "float16": 4e-3}
if BACKEND != "jax":  # JAX has no float64 unless a flag is set
    TOLERANCE["float64"] = 1e-13
KERNELS = list(dict.fromkeys(k.name for k in kernels.KERNELS if k.backend in (None, BACKEND)))


def pairwise():
    """A small subset of the grid with each pair of values of two axes at least once."""
    axes = (tuple(MASKS), tuple(BIASES), KEY_HEADS, tuple(TOLERANCE))
    wanted = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(range(len(axes)), 2)
        for x in axes[a]
        for y in axes[b]
    }
    for least in (6, 5, 4, 3, 2, 1):
        for case in itertools.product(*axes):
            covers = wanted & set(itertools.combinations(enumerate(case), 2))
            if len(covers) >= least:
                wanted -= covers
                yield case


def check(kernel, mask, bias, dtype, shape, block_size=None):
    """Compare one case of the grid with the oracle."""
    compare(
        kernel, mask_parts(mask, shape), bias, bias_arrays(bias, shape), dtype, shape, block_size
    )


def compare(
    kernel, parts, bias, extra, dtype, shape, block_size=None, spoil=(), cap=None, sink=None
):
    """Compare one call with the oracle.

    `spoil` holds `(index of the input, positions)` where the kernel gets NaN and infinity and the
    oracle zeros.
    """
    precision = "float64" if dtype == "float64" else "float32"
    keras.config.set_floatx(precision)  # or numpy's float64 becomes float32 on torch
    inputs = [_rounded(x, dtype) for x in draw(shape)]
    extra = [_rounded(x, precision) for x in extra]
    options = {"kernel": kernel, "mask": mask_from(parts), "block_size": block_size}
    options["logits_soft_cap"] = cap
    sinks = [] if sink is None else [_rounded(sink, precision)]
    d_context = np.random.default_rng(3).normal(size=(*inputs[0].shape[:3], shape.value_width))
    d_context = _rounded(d_context, precision)

    def attend(given):
        query, key, value = (kops.cast(x, dtype) for x in given[:3])
        added = bias_from(bias, shape, given[3 : 3 + len(extra)])
        sink = given[-1] if sinks else None
        return ops.attention(query, key, value, bias=added, sink=sink, **options)

    for index, places in spoil:
        inputs[index][places] = 0
    given = [x.astype(precision) for x in (*inputs, *extra, *sinks)]
    for index, places in spoil:
        wrong = np.resize([np.nan, np.inf, -np.inf], given[index][places].shape)
        given[index][places] = wrong
    context, found = _run(attend, given, d_context.astype(precision))
    oracles = oracle(*inputs, parts, bias, extra, shape, d_context, precision, cap, *sinks)
    for have, want in zip((context, *found), (oracles[0], *oracles[1]), strict=True):
        error = np.abs(have - want).max() / max(1, np.abs(want).max())
        assert error < TOLERANCE[dtype], f"{error:.1e}"


def _run(attend, given, d_context):
    """The context, and the gradients of `sum(context * d_context)`; compiled whole on JAX."""
    seen = []

    def loss(*given):
        context = attend(given)
        seen.append(context)
        return kops.sum(kops.cast(context, d_context.dtype) * kops.convert_to_tensor(d_context))

    if BACKEND != "jax":
        found = gradients(loss, *given)
        return arrays(seen[0]), found
    import jax

    def with_context(given):
        return loss(*given), seen.pop()

    found, context = jax.jit(jax.grad(with_context, has_aux=True))(given)
    return arrays(context), arrays(found)


def _rounded(array, dtype):
    return arrays(kops.cast(kops.convert_to_tensor(array), dtype)).astype("float64")


def _can(kernel, mask, bias, dtype, shape, cap=None, sink=None):
    precision = "float64" if dtype == "float64" else "float32"
    request = kernels.Request.of(
        *(kops.cast(x, dtype) for x in draw(shape)),
        mask=mask_from(mask_parts(mask, shape)),
        bias=bias_from(bias, shape, [kops.cast(x, precision) for x in bias_arrays(bias, shape)]),
        logits_soft_cap=cap,
        sink=sink,
        dropout=0.0,
        weights=False,
        block_size=None,
    )
    return any(k.name == kernel and k.refusal(request) is None for k in kernels.KERNELS)


def _shape(kernel, key_heads):
    # torch's fused kernel needs one head width for query, key and value.
    return Shape(key_heads=key_heads, value_width=5 if kernel == "fused" else 7)


# JAX compiles each case, TensorFlow traces it, and torch runs all of them in seconds. The reference
# kernel is the same code on every backend: elsewhere, its fast cases have each value of each axis,
# and those of the chunked kernels have each mask and each bias with the main ones of the other; a
# dense bias with each mask has a test of its own, below.
SLOW = pytest.mark.slow_on("jax", "tensorflow")
MAIN_MASKS, MAIN_BIASES = ("causal_padding", "unsorted_ids"), ("none", "buckets")


def pairs():
    """The pairs of options for each kernel that accepts them."""
    found, seen = [], set()
    for kernel, (mask, bias, key_heads, dtype) in itertools.product(KERNELS, pairwise()):
        if _can(kernel, mask, bias, dtype, _shape(kernel, key_heads)):
            values = {mask, f"{bias} bias", key_heads, dtype}
            if kernel == "reference":
                few = not values <= seen
                seen |= values
            else:
                few = mask in MAIN_MASKS or bias in MAIN_BIASES
            marks = () if few else SLOW
            found.append(pytest.param(kernel, mask, bias, key_heads, dtype, marks=marks))
    return found


def by_dtype(masks, biases, fast):
    """Every kernel, mask, bias and dtype; chunked float32 and `fast` are fast everywhere."""
    found = []
    for kernel, mask, bias, dtype in itertools.product(KERNELS, masks, biases, TOLERANCE):
        if _can(kernel, mask, bias, dtype, _shape(kernel, 3)):
            few = (kernel, dtype) == ("chunked", "float32") or (mask, bias) == fast
            found.append(pytest.param(kernel, mask, bias, dtype, marks=() if few else SLOW))
    return found


@pytest.mark.parametrize(("kernel", "mask", "bias", "key_heads", "dtype"), pairs())
def test_kernels_equal_the_oracle_on_pairs_of_options(kernel, mask, bias, key_heads, dtype):
    shape = _shape(kernel, key_heads)
    check(kernel, mask, bias, dtype, shape, block_size=4 if kernel == "chunked" else None)


@pytest.mark.parametrize(
    ("kernel", "mask", "bias", "dtype"), by_dtype(MASKS, ("dense",), ("causal_padding", "dense"))
)
def test_a_masked_key_has_zero_weight_for_any_bias(kernel, mask, bias, dtype):
    shape, parts = _shape(kernel, 3), mask_parts(mask, _shape(kernel, 3))
    hiding = hiding_bias(allowed(parts, shape), np.random.default_rng(5))
    block_size = 4 if kernel == "chunked" else None
    compare(kernel, parts, bias, (hiding,), dtype, shape, block_size)


WHERE = ("key_padding", "query_padding", "dense")


@pytest.mark.parametrize(
    ("kernel", "where", "bias", "dtype"),
    by_dtype(WHERE, ("none", "dense"), ("key_padding", "none")),
)
def test_values_at_padding_do_not_change_outputs_or_gradients(kernel, where, bias, dtype):
    shape, parts = _shape(kernel, 3), mask_parts(where, _shape(kernel, 3))
    if where == "dense":
        parts["dense"][:, :, :, 5] = parts["dense"][:, :, 3] = False
        spoil = [(0, np.s_[:, 3]), (1, np.s_[:, 5]), (2, np.s_[:, 5])]
    elif where == "key_padding":
        spoil = [(1, ~parts[where]), (2, ~parts[where])]
    else:
        spoil = [(0, ~parts[where])]
    block_size = 4 if kernel == "chunked" else None
    compare(kernel, parts, bias, bias_arrays(bias, shape), dtype, shape, block_size, spoil)


CAP = 0.8  # most logits are near it
CAPPED = [
    ("none", "none", "bfloat16"),
    ("key_padding", "none", "float32"),
    ("causal_padding", "none", "float32"),
    ("dense_broadcast", "none", "float16"),
    ("causal_window", "dense", "float32"),
    ("unsorted_ids", "buckets", "float32"),
]


# Masked keys under a cap and the tests of MultiHeadSelfAttention run the reference kernel on JAX.
BOTH = ["chunked", pytest.param("reference", marks=pytest.mark.slow_on("jax"))]


@pytest.mark.parametrize("kernel", BOTH)
@pytest.mark.parametrize(("mask", "bias", "dtype"), CAPPED)
def test_a_soft_cap_equals_the_oracle(kernel, mask, bias, dtype):
    shape, blocks = _shape(kernel, 3), 4 if kernel == "chunked" else None
    parts, extra = mask_parts(mask, shape), bias_arrays(bias, shape)
    compare(kernel, parts, bias, extra, dtype, shape, blocks, cap=CAP)


@pytest.mark.parametrize("kernel", ["chunked", "reference"])
def test_masked_keys_stay_masked_under_a_soft_cap(kernel):
    shape, blocks = _shape(kernel, 3), 4 if kernel == "chunked" else None
    parts = mask_parts("causal_padding", shape)
    bias = hiding_bias(allowed(parts, shape), np.random.default_rng(5))
    compare(kernel, parts, "dense", (bias,), "float32", shape, blocks, cap=CAP)


SINK = np.array([0.3, -2.0, 1.7, 0.0, 40.0, -40.0])  # a head each; one takes all, one nothing
SUNK = [
    ("none", "none", 6, "bfloat16", None),
    ("causal_padding", "none", 3, "float16", None),
    ("dense", "none", 1, "float32", None),
    ("uneven_window_padding", "dense", 3, "float32", CAP),
    ("unsorted_ids", "hiding_buckets", 3, "float32", None),
    ("offset", "alibi", 3, "float64", CAP),
    ("key_padding", "keys", 1, "float64", None),
]


@pytest.mark.parametrize("kernel", BOTH)
@pytest.mark.parametrize(("mask", "bias", "key_heads", "dtype", "cap"), SUNK)
def test_a_sink_equals_the_oracle(kernel, mask, bias, key_heads, dtype, cap):
    dtype = dtype if dtype in TOLERANCE else "float32"
    shape, blocks = _shape(kernel, key_heads), 4 if kernel == "chunked" else None
    parts, extra = mask_parts(mask, shape), bias_arrays(bias, shape)
    compare(kernel, parts, bias, extra, dtype, shape, blocks, cap=cap, sink=SINK)


def test_the_weights_with_a_sink_sum_to_less_than_one():
    query, key, value = (x.astype("float32") for x in draw(Shape()))
    _, weights = ops.attention(query, key, value, sink=np.zeros(6, "float32"), return_scores=True)
    exponentials = np.exp(np.einsum("btnh,bsnh->bnts", query, key) * Shape().width ** -0.5)
    expected = exponentials / (1 + exponentials.sum(-1, keepdims=True))
    np.testing.assert_allclose(arrays(weights), expected, rtol=1e-4, atol=1e-6)


def test_the_fused_kernel_refuses_a_sink():
    assert not _can("fused", "none", "none", "float32", _shape("fused", 3), sink=SINK)
    rows = np.zeros((1, 4, 6, 2), "float32")
    sink = SINK.astype("float32")
    if BACKEND == "torch":
        assert ops.explain(rows, rows, rows, sink=sink).others["fused"] == "it takes no `sink`"
    with pytest.raises(ValueError, match=r"`sink` must have shape \[heads\] = \(6,\), got .*\(5,"):
        ops.attention(rows, rows, rows, sink=sink[:5])


def test_the_fused_kernel_refuses_a_soft_cap():
    assert _can("reference", "none", "none", "float32", _shape("fused", 3), cap=CAP)
    assert not _can("fused", "none", "none", "float32", _shape("fused", 3), cap=CAP)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("bias", BIASES)
def test_kernels_equal_the_oracle_on_the_whole_grid(kernel, mask, bias):
    for key_heads, dtype in itertools.product(KEY_HEADS, TOLERANCE):
        shape = _shape(kernel, key_heads)
        if _can(kernel, mask, bias, dtype, shape):
            for block_size in (None, 1, 4) if kernel == "chunked" else (None,):
                check(kernel, mask, bias, dtype, shape, block_size)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    length=st.integers(1, 19),
    keys=st.integers(1, 19),
    width=st.integers(1, 9),
    block_size=st.integers(1, 21),
    key_heads=st.sampled_from(KEY_HEADS),
    mask=st.sampled_from(sorted(set(MASKS))),
    bias=st.sampled_from(sorted(BIASES)),
)
def test_the_chunked_kernel_equals_the_oracle_for_any_shape(
    length, keys, width, block_size, key_heads, mask, bias
):
    shape = Shape(length=length, keys=keys, width=width, key_heads=key_heads)
    check("chunked", mask, bias, "float32", shape, block_size)


def test_the_grid_has_fully_masked_rows():
    shape = dataclasses.replace(Shape(), keys=3)
    empty = [m for m in MASKS if not allowed(mask_parts(m, shape), shape).any(-1).all()]
    assert {"key_padding", "query_padding", "dense", "window", "sequence_ids"} <= set(empty)
