"""The arguments of cuDNN's attention, without a GPU.

JAX's plain implementation (`implementation="xla"`) of the same call is compared with the reference;
lowering shows that cuDNN itself is called.
"""

import numpy as np
import pytest

from keras_attn import ops
from keras_attn.ops import AttentionMask
from keras_attn.ops.kernels import reference

pytestmark = pytest.mark.backends("jax", reason="cuDNN through JAX")

B, T, N, K, H = 4, 6, 4, 2, 8
RIGHT = np.arange(T) < np.array([[6], [3], [1], [0]])
SCATTERED = np.random.default_rng(0).random((B, T)) < 0.5
MASKS = {
    "none": {},
    "causal": {"causal": True},
    "causal_window": {"causal": True, "window": 3},
    "right": {"key_padding": RIGHT},
    "right_causal": {"key_padding": RIGHT, "causal": True},
    "right_for_all": {"key_padding": RIGHT[1:2]},
    "left": {"key_padding": RIGHT[:, ::-1], "causal": True},
    "scattered": {"key_padding": SCATTERED, "query_padding": RIGHT},
    "queries": {"query_padding": SCATTERED, "causal": True, "window": 2},
    "both": {"key_padding": RIGHT, "query_padding": RIGHT, "causal": True},
}


@pytest.fixture
def cudnn(monkeypatch):
    """JAX as on a GPU; a list of the implementations that were called."""
    import jax

    called, attend = [], jax.nn.dot_product_attention

    def plain(*args, implementation, **options):
        called.append(implementation)
        return attend(*args, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", plain)
    return called


FAST = ("causal_window", "scattered", "both")  # compiling each takes seconds


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in MASKS]
)
def test_cudnn_gets_the_arguments_of_the_mask(name, cudnn):
    """Context and gradients equal the reference, with NaN at padding."""
    import jax

    from keras_attn.ops.kernels import cudnn_jax

    mask = AttentionMask(**MASKS[name])
    rng = np.random.default_rng(1)
    given = [rng.normal(size=(B, T, heads, H)).astype("float32") for heads in (N, K, K)]
    for index, padding in enumerate((mask.query_padding, mask.key_padding, mask.key_padding)):
        if padding is not None:
            given[index][~np.broadcast_to(padding, (B, T))] = np.nan
    upstream = rng.normal(size=(B, T, N, H)).astype("float32")
    options = {"logits_soft_cap": None, "sink": None, "dropout": 0.0, "seed": None}

    def run(kernel):
        def total(*given):
            context = kernel.attention(
                *given,
                mask=mask,
                bias=None,
                scale=0.4,
                block_size=None,
                return_scores=False,
                **options,
            )
            return (context * upstream).sum(), context

        return jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(*given)

    for have, want in zip(
        jax.tree.leaves(run(cudnn_jax)), jax.tree.leaves(run(reference)), strict=True
    ):
        assert np.isfinite(have).all()
        np.testing.assert_allclose(have, want, atol=2e-5)
    assert set(cudnn) == {"cudnn"}


def lowered(monkeypatch, mask, heads=(N, K, K)):
    """A call and its gradient, lowered for a GPU, as text."""
    import jax
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)

    def total(*given):
        return ops.attention(*given, mask=mask).astype("float32").sum()

    shapes = [jax.ShapeDtypeStruct((B, T, count, H), "bfloat16") for count in heads]
    traced = jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(*shapes)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("none", "NO_MASK"),
        ("causal", "CAUSAL"),
        ("causal_window", "CAUSAL"),
        ("right", "PADDING"),
        ("scattered", "PADDING"),
        ("both", "PADDING_CAUSAL"),
    ],
)
def test_on_a_gpu_auto_calls_cudnn_forward_and_backward(name, kind, monkeypatch):
    text = lowered(monkeypatch, AttentionMask(**MASKS[name]))
    for call in ("__cudnn$fmhaSoftmax(", "__cudnn$fmhaSoftmaxBackward("):
        assert call in text
    assert f"mask_type\\22: \\22{kind}\\22" in text
    # A GPU waits for the host where a program has to choose.
    assert ("stablehlo.case" in text) == (kind == "PADDING_CAUSAL")


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"window": 3}, "a window only where attention is causal and has no padded"),
        (
            {**MASKS["right_causal"], "window": 3},
            "only where attention is causal and has no padded keys",
        ),
        ({"causal": True, "query_offset": 2}, "cuDNN takes no offset of the query"),
        ({"dense": np.ones((1, 1, T, T), bool)}, "the mask as a whole matrix"),
    ],
)
def test_on_a_gpu_explain_names_unsupported_masks(parts, reason, monkeypatch):
    import jax

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    rows = jax.numpy.ones((B, T, N, H), "bfloat16")
    assert reason in ops.explain(rows, rows, rows, mask=AttentionMask(**parts)).others["fused"]


@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_machine_a_computation_for_the_cpu_does_not_get_cudnn(compiled, monkeypatch):
    import jax

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = []

    def look(rows):
        found.append(ops.explain(rows, rows, rows))
        return rows

    with jax.default_device(jax.devices("cpu")[0]):
        rows = jax.numpy.ones((B, T, N, H), "bfloat16")
        (jax.jit(look) if compiled else look)(rows)
    assert found[0].others["fused"].startswith("cuDNN needs a GPU; splash attention needs a TPU")


def test_on_a_gpu_explain_names_odd_lengths(monkeypatch):
    """JAX raises for their gradients."""
    import jax

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    rows = jax.numpy.ones((B, 7, N, H), "bfloat16")
    reason = "JAX's gradient of cuDNN takes even lengths, not 6 and 7"
    assert ops.explain(rows[:, :6], rows, rows).others["fused"].startswith(f"{reason}; ")
