"""The fused kernel of TPUs, without a TPU: Pallas interprets it, and lowers it for one."""

import keras
import numpy as np
import pytest

from keras_attn import ops
from keras_attn.ops import AttentionMask, kernels
from tests.ops.kernels import test_grid
from tests.ops.kernels.cases import MASKS, Shape, mask_parts

pytestmark = pytest.mark.backends("jax", reason="splash attention through JAX")

REFUSED = ("dense", "dense_broadcast", "offset", "causal_padding", "uneven_window_padding")
LONG = Shape(length=200, keys=300, heads=2, key_heads=1, width=12, value_width=8)


@pytest.fixture(autouse=True)
def tpu(monkeypatch):
    """As on a TPU."""
    monkeypatch.setattr(kernels, "device_of", lambda tensor: "tpu")


@pytest.fixture
def interpreted(monkeypatch):
    from keras_attn.ops.kernels import splash_jax

    monkeypatch.setattr(splash_jax, "INTERPRET", True)


FAST = ("causal_window", "window_padding", "unsorted_ids")  # each is compiled


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in MASKS
        if name not in REFUSED
    ],
)
def test_splash_attention_equals_the_oracle(mask, interpreted):
    """Rows without a key too: they are zero."""
    dtype = "bfloat16" if mask == "causal_window" else "float32"
    test_grid.check("fused", mask, "none", dtype, Shape(key_heads=3))


@pytest.mark.tpu
@pytest.mark.parametrize("mask", [name for name in MASKS if name not in REFUSED])
def test_splash_attention_equals_the_oracle_on_a_tpu(mask):
    """Compiled, not interpreted. Never run yet: no TPU was there."""
    test_grid.check("fused", mask, "none", "bfloat16", Shape(key_heads=3))


@pytest.mark.parametrize(
    "mask", ["causal", "uneven_window", pytest.param("key_padding", marks=pytest.mark.slow)]
)
def test_several_tiles_with_a_cap_and_a_sink_equal_the_oracle(mask, interpreted):
    parts = {"window": (70, 5)} if mask == "uneven_window" else mask_parts(mask, LONG)
    sink = np.array([0.5, -1.0])
    test_grid.compare("fused", parts, "none", (), "float32", LONG, cap=2.0, sink=sink)


def test_values_at_padding_do_not_matter(interpreted):
    parts = mask_parts("key_padding", Shape()) | mask_parts("query_padding", Shape())
    spoil = [(0, ~parts["query_padding"]), *((i, ~parts["key_padding"]) for i in (1, 2))]
    test_grid.compare("fused", parts, "none", (), "float32", Shape(), spoil=spoil)


def test_on_a_mesh_each_device_has_its_rows_and_heads(interpreted):
    """The compiler cannot split the kernel itself."""
    import jax

    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(4, 9, heads, 5)).astype("float32") for heads in (4, 2, 2))
    padding = rng.random((4, 9)) < 0.7
    mask = AttentionMask(causal=True, key_padding=padding)

    def context():
        return jax.jit(lambda *given: ops.attention(*given, mask=mask, kernel="fused"))(
            query, key, value
        )

    alone = context()
    mesh = keras.distribution.DeviceMesh((4, 2), ["batch", "model"])
    layout = keras.distribution.LayoutMap(mesh)
    parallel = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    with parallel.scope():
        many = context()
        with pytest.raises(ValueError, match="a batch that can be split over 4 devices"):
            ops.attention(query[:3], key[:3], value[:3], kernel="fused")
    np.testing.assert_allclose(many, alone, atol=1e-6)
    assert {shard.data.shape for shard in many.addressable_shards} == {(1, 9, 2, 5)}


def lowered(length=600, dtype="bfloat16", **options):
    """A call with "auto" and its gradient, lowered for a TPU, as text."""
    import jax

    def total(*given):
        return ops.attention(*given, **options).astype("float32").sum()

    shapes = [jax.ShapeDtypeStruct((2, length, heads, 64), dtype) for heads in (4, 2, 2)]
    function = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    return jax.export.export(function, platforms=["tpu"])(*shapes).mlir_module()


def test_on_a_tpu_auto_takes_it_forward_and_backward():
    """One kernel forward, and two for the gradients of queries and of keys with values."""
    assert lowered(mask=AttentionMask(causal=True)).count("@tpu_custom_call(") == 3
    assert "tpu_custom_call" not in lowered(length=300)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mask": AttentionMask(causal=True, query_offset=2)}, "no offset of the query"),
        ({"mask": AttentionMask(dense=np.ones((1, 1, 6, 6), bool))}, "mask as a whole matrix"),
        ({"bias": np.zeros((1, 1, 6, 6), "float32")}, "bias or the mask as a whole matrix"),
        ({"dropout": 0.1, "seed": np.array([1, 2], "uint32")}, "has no dropout"),
    ],
)
def test_on_a_tpu_explain_names_what_it_cannot_do(options, reason):
    rows = np.zeros((2, 6, 4, 8), "float32")
    found = ops.explain(rows, rows, rows, **options).others["fused"]
    assert found.startswith("cuDNN needs a GPU; splash attention")
    assert reason in found
