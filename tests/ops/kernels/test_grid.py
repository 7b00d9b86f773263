"""Every kernel against float64 numpy: mask x bias x grouped heads x dtype x gradient."""

import dataclasses
import itertools

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
    mask_from,
    mask_parts,
    oracle,
)

KEY_HEADS = (6, 3, 1)
TOLERANCE = {"float32": 3e-6, "bfloat16": 4e-2, "float16": 4e-3}
KERNELS = [k.name for k in kernels.KERNELS if k.backend in (None, BACKEND)]


def pairwise():
    """Each pair of two values of the grid's axes at least once, and little more."""
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
    """Hold one case of the grid to the oracle."""
    inputs, parts, extra = draw(shape), mask_parts(mask, shape), bias_arrays(bias, shape)
    inputs = [_rounded(x, dtype) for x in inputs]
    extra = [_rounded(x, "float32") for x in extra]
    options = {"kernel": kernel, "mask": mask_from(parts)}
    d_context = np.random.default_rng(3).normal(size=(*inputs[0].shape[:3], shape.value_width))
    d_context = _rounded(d_context, "float32")

    def attend(given):
        query, key, value = (kops.cast(x, dtype) for x in given[:3])
        made = bias_from(bias, shape, given[3:])
        return ops.attention(query, key, value, bias=made, block_size=block_size, **options)

    given = [x.astype("float32") for x in (*inputs, *extra)]
    context, found = _run(attend, given, d_context.astype("float32"))
    expected, expected_gradients = oracle(*inputs, parts, bias, extra, shape, d_context)
    for have, want in zip((context, *found), (expected, *expected_gradients), strict=True):
        error = np.abs(have - want).max() / max(1, np.abs(want).max())
        assert error < TOLERANCE[dtype], f"{error:.1e}"


def _run(attend, given, d_context):
    """The context, and the gradients of `sum(context * d_context)`; compiled whole on JAX."""
    seen = []

    def loss(*given):
        context = attend(given)
        seen.append(context)
        return kops.sum(kops.cast(context, "float32") * kops.convert_to_tensor(d_context))

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


def _can(kernel, mask, bias, dtype, shape):
    request = kernels.Request.of(
        *(kops.cast(x, dtype) for x in draw(shape)),
        mask=mask_from(mask_parts(mask, shape)),
        bias=bias_from(bias, shape, bias_arrays(bias, shape)),
        dropout=0.0,
        weights=False,
        block_size=None,
    )
    return any(k.name == kernel and k.why_not(request) is None for k in kernels.KERNELS)


def _shape(kernel, key_heads):
    # torch's fused kernel wants one head width for query, key and value.
    return Shape(key_heads=key_heads, value_width=5 if kernel == "fused" else 7)


PAIRS = [
    (kernel, mask, bias, key_heads, dtype)
    for kernel, (mask, bias, key_heads, dtype) in itertools.product(KERNELS, pairwise())
    if _can(kernel, mask, bias, dtype, _shape(kernel, key_heads))
]


@pytest.mark.parametrize(("kernel", "mask", "bias", "key_heads", "dtype"), PAIRS)
def test_pairs(kernel, mask, bias, key_heads, dtype):
    shape = _shape(kernel, key_heads)
    check(kernel, mask, bias, dtype, shape, block_size=4 if kernel == "chunked" else None)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("bias", BIASES)
def test_whole_grid(kernel, mask, bias):
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
def test_any_shape(length, keys, width, block_size, key_heads, mask, bias):
    shape = Shape(length=length, keys=keys, width=width, key_heads=key_heads)
    check("chunked", mask, bias, "float32", shape, block_size)


def test_the_grid_has_rows_that_see_nothing():
    shape = dataclasses.replace(Shape(), keys=3)
    empty = [m for m in MASKS if not allowed(mask_parts(m, shape), shape).any(-1).all()]
    assert {"key_padding", "query_padding", "dense", "window", "sequence_ids"} <= set(empty)
