"""The backends' fused kernels on a GPU, against float64 numpy."""

import itertools

import numpy as np
import pytest

from tests.backend import BACKEND
from tests.ops.kernels import test_grid
from tests.ops.kernels.cases import MASKS, Shape

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.backends("jax", "torch", reason="TensorFlow has no fused kernel"),
]

SHAPES = {
    "square": Shape(length=192, keys=192, width=64, value_width=64),
    "uneven": Shape(length=78, keys=130, width=40, value_width=40),
    "odd": Shape(length=77, keys=131, width=40, value_width=40),
    "grouped": Shape(length=130, keys=130, key_heads=2, width=128, value_width=128),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mask", MASKS)
def test_the_fused_kernel_equals_the_oracle(mask, shape):
    for dtype in ("bfloat16", "float16"):
        if test_grid._can("fused", mask, "none", dtype, SHAPES[shape]):
            test_grid.check("fused", mask, "none", dtype, SHAPES[shape])


def test_padding_on_the_right_equals_the_oracle():
    shape = SHAPES["square"]
    ends = np.array([[shape.keys], [shape.keys // 3]])
    for causal, dtype in itertools.product((False, True), ("bfloat16", "float16")):
        parts = {"key_padding": np.arange(shape.keys) < ends, "causal": causal}
        if BACKEND == "jax" or not causal:
            test_grid.compare("fused", parts, "none", (), dtype, shape)


@pytest.mark.parametrize("mask", ["none", "causal", "key_padding"])
@pytest.mark.parametrize("name", ["chunked", "reference"])
def test_other_kernels_equal_the_oracle(name, mask):
    for dtype in ("float32", "bfloat16"):
        test_grid.check(name, mask, "none", dtype, SHAPES["odd"])
