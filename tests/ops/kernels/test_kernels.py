"""The kernels behind `ops.attention`: dropout, choice, invalid input, lowering, memory."""

import keras
import numpy as np
import pytest
from keras import ops as kops

from keras_attn import ops
from keras_attn.backend import compiled
from keras_attn.ops import AttentionMask, kernels
from keras_attn.ops.biases import PositionBias, alibi
from tests.backend import BACKEND, arrays, gradients, penalty
from tests.ops.kernels.cases import Shape, bias_arrays, draw, mask_from, mask_parts

B, T, N, H = 2, 13, 3, 5
RATE = 0.25
WITH_DROPOUT = ["chunked", "reference"]


def _inputs(length=T, heads=N, width=H, dtype="float32"):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(B, length, heads, width)).astype(dtype) for _ in range(3)]


def _seed(number=7):
    return kops.convert_to_tensor(np.array([3, number], "uint32"))


@pytest.mark.parametrize("kernel", WITH_DROPOUT)
def test_dropout_keeps_the_mean(kernel):
    query, key, value = _inputs(heads=1)
    value = np.ones_like(value)  # the context is then the sum of the remaining weights

    def attend(seed):
        return ops.attention(query, key, value, dropout=RATE, seed=seed, kernel=kernel)

    attend = compiled(attend)  # for sixty calls
    sums = [arrays(attend(_seed(i))) for i in range(60)]
    assert np.std(sums) > 0.05
    np.testing.assert_allclose(np.mean(sums), 1, atol=0.02)


@pytest.mark.parametrize("kernel", WITH_DROPOUT)
def test_dropout_depends_only_on_the_seed(kernel):
    def run(number):
        return arrays(ops.attention(*_inputs(), dropout=RATE, seed=_seed(number), kernel=kernel))

    np.testing.assert_array_equal(run(1), run(1))
    assert np.abs(run(1) - run(2)).max() > 0.1


def test_blocks_draw_different_dropout_masks():
    key = np.ones((1, 60, 1, H), "float32")
    value = np.random.default_rng(0).normal(size=key.shape).astype("float32")
    context = ops.attention(
        key[:, :12], key, value, dropout=RATE, seed=_seed(), kernel="chunked", block_size=1
    )
    rows = arrays(context)[0, :, 0]
    assert len(np.unique(rows.round(4), axis=0)) == 12


@pytest.mark.parametrize("kernel", WITH_DROPOUT)
def test_dropout_gradients_equal_finite_differences(kernel):
    inputs = _inputs(length=5, heads=1, width=3)
    weights = kops.convert_to_tensor(_inputs(length=5, heads=1, width=3)[0])
    blocks = {"block_size": 2} if kernel == "chunked" else {}

    def loss(*given):
        mask = AttentionMask(causal=True)
        options = {"mask": mask, "dropout": RATE, "seed": _seed(), "kernel": kernel, **blocks}
        return kops.sum(kops.sin(ops.attention(*given, **options)) * weights)

    number, direction = compiled(loss), np.random.default_rng(5)
    for index, gradient in enumerate(gradients(loss, *inputs)):
        step = 1e-2 * direction.normal(size=gradient.shape).astype("float32")
        up, down = (
            [x + sign * step * (i == index) for i, x in enumerate(inputs)] for sign in (1, -1)
        )
        slope = (float(number(*up)) - float(number(*down))) / 2
        np.testing.assert_allclose(slope, (gradient * step).sum(), rtol=0.02, atol=2e-4)


@pytest.mark.backends("jax", "torch", reason="test_chunked_tf covers TensorFlow")
@pytest.mark.parametrize("cap", [None, 0.8])
def test_second_derivatives_of_the_chunked_kernel_equal_the_reference(cap):
    shape = Shape(key_heads=3)
    inputs = [x.astype("float32") for x in (*draw(shape), *bias_arrays("keys", shape))]
    mask = mask_from(mask_parts("window_padding", shape))

    def loss(**options):
        def total(*given):
            options_of_all = {"mask": mask, "logits_soft_cap": cap, **options}
            context = ops.attention(*given[:3], bias=given[3], **options_of_all)
            return kops.sum(kops.sin(context))

        return total

    have = gradients(penalty(loss(kernel="chunked", block_size=4)), *inputs)
    want = gradients(penalty(loss(kernel="reference")), *inputs)
    for one, other in zip(have, want, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def _chosen(length, **options):
    return kernels.choose("auto", _request(length, **options)).__module__.split(".")[-1]


def _request(length, dtype="float32", **options):
    given = {
        "mask": AttentionMask(),
        "bias": None,
        "logits_soft_cap": None,
        "sink": None,
        "dropout": 0.0,
        "weights": False,
    }
    tensors = [kops.zeros((1, length, 2, 4), dtype) for _ in range(3)]
    return kernels.Request.of(*tensors, **{**given, "block_size": None, **options})


def test_auto_chooses_the_reference_kernel_for_weights_and_short_rows():
    assert _chosen(4096, weights=True) == "reference"
    if BACKEND != "torch":
        assert _chosen(16) == "reference"


def test_auto_chooses_the_chunked_kernel_for_long_rows():
    name = {"tensorflow": "chunked_tf", "jax": "chunked_jax", "torch": "chunked_torch"}[BACKEND]
    assert _chosen(4096, mask=AttentionMask(window=3), dropout=0.1) == name
    assert _chosen(4096, mask=AttentionMask(window=3)) == name
    assert _chosen(16, block_size=4) == name


@pytest.mark.backends("torch", reason="the fused kernel of torch")
def test_auto_chooses_the_fused_kernel_on_torch():
    assert _chosen(16) == _chosen(4096, mask=AttentionMask(causal=True)) == "fused_torch"


@pytest.mark.parametrize("rows", [1, B])
def test_a_dense_mask_of_whole_rows_equals_the_reference(rows):
    visible = (np.arange(rows) % 2 == 0)[:, None, None, None]
    found, expected = (
        arrays(ops.attention(*_inputs(), mask=AttentionMask(dense=visible), kernel=kernel))
        for kernel in ("chunked", "reference")
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found[1] == 0, rows > 1)


def _explained(length, **options):
    rows = np.zeros((1, length, 2, 4), "float32")
    return ops.explain(rows, rows, rows, **options)


def test_explain_names_the_kernel_and_the_reasons_against_the_others():
    choice = _explained(2048, mask=AttentionMask(window=3))
    fused = {
        "tensorflow": "it runs on jax, not on tensorflow",
        "jax": "cuDNN needs a GPU; splash attention needs a TPU",
        "torch": "it would hold the whole mask for window",
    }[BACKEND]
    slower = "possible, but slower for these shapes"
    assert choice == ("chunked", {"fused": fused, "reference": slower})
    assert str(choice) == f"chunked\nnot fused: {fused}\nnot reference: {slower}"

    choice = _explained(2048, return_scores=True)
    assert choice.kernel == "reference"
    assert choice.others["chunked"] == "it does not return the attention weights"

    choice = _explained(5, kernel="chunked")
    assert (choice.kernel, choice.others["reference"]) == ("chunked", "not asked for")
    with pytest.raises(ValueError, match="'chunked' cannot run here"):
        _explained(5, kernel="chunked", return_scores=True)

    choice = _explained(0, kernel="chunked")
    assert choice.kernel == "reference"
    assert choice.others["chunked"] == "there are no logits to compute"


@pytest.mark.backends("tensorflow", reason="converters take TensorFlow's graphs")
def test_explain_names_the_kernel_of_a_converter(monkeypatch):
    monkeypatch.setattr(kernels, "converting", lambda: True)
    choice = _explained(4096)
    assert choice.kernel == "reference"
    assert choice.others["chunked"] == "a graph for a converter has the reference kernel"


def test_auto_logs_its_choice_at_debug_level(caplog):
    rows = _inputs()[0]
    ops.attention(rows, rows, rows)
    assert not caplog.messages
    with caplog.at_level("DEBUG", logger="keras_attn"):
        ops.attention(rows, rows, rows, kernel="reference")
        assert not caplog.messages
        ops.attention(rows, rows, rows)
    assert caplog.messages == [f"attention takes the kernel {ops.explain(rows, rows, rows)}"]


def _fails(message, **options):
    with pytest.raises(ValueError, match=message):
        ops.attention(*_inputs(), **options)


def test_invalid_arguments_raise():
    _fails("`kernel` must be one of auto, fused, chunked, reference, got 'fast'", kernel="fast")
    message = "'chunked' cannot run here: .*it does not return the attention weights"
    _fails(message, kernel="chunked", return_scores=True)
    message = "'reference' cannot run here: it takes no `block_size`"
    _fails(message, kernel="reference", block_size=2)
    for size in (0, -3, 2.5, "4"):
        _fails("`block_size` must be a positive integer or None", kernel="chunked", block_size=size)


@pytest.mark.backends("tensorflow", "jax", reason="torch has a fused kernel on every device")
def test_an_unavailable_fused_kernel_raises_with_its_reason():
    reason = {
        "tensorflow": "it runs on jax, not on tensorflow",
        "jax": "cuDNN needs a GPU; splash attention needs a TPU",
    }
    _fails(f"`kernel` 'fused' cannot run here: {reason[BACKEND]}$", kernel="fused")


@pytest.mark.backends("torch", reason="the fused kernel of torch")
def test_the_fused_kernel_of_torch_raises_for_unsupported_options():
    message = "with dropout it would hold all logits where there is no GPU"
    with keras.device("cpu"):  # also where there is a GPU
        _fails(message, kernel="fused", dropout=0.1, seed=_seed())
    _fails("whole mask for window", kernel="fused", mask=AttentionMask(window=2))
    bias = PositionBias(alibi, (np.ones(N, "float32"),))
    _fails("bias of all positions", kernel="fused", bias=bias)


@pytest.mark.backends("torch", reason="the fused kernel of torch")
def test_dropout_of_the_fused_kernel_of_torch_equals_its_definition(monkeypatch):
    """The value is the identity, so that the context is the weights after dropout."""
    import torch

    monkeypatch.setattr(kernels, "device_of", lambda tensor: "gpu")
    rate, size = 0.25, 64
    rng = np.random.default_rng(0)
    query, key, upstream = rng.normal(size=(3, 2, size, N, size)).astype("float32")
    identity = np.broadcast_to(np.eye(size, dtype="float32")[:, None], query.shape)
    mask = AttentionMask(key_padding=np.arange(size) < np.array([[size], [40]]))
    given = {"mask": mask, "kernel": "fused"}

    def attend(value, number):
        seed = np.array([number, 3], "uint32")
        return ops.attention(query, key, value, dropout=rate, seed=seed, **given)

    weights = arrays(ops.attention(query, key, identity, **given))
    before = torch.get_rng_state()
    runs = [arrays(attend(identity, number)) for number in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[1] != runs[2]).mean() > 0.2
    dropped = runs[2] == 0
    assert dropped[weights > 0].mean() == pytest.approx(rate, abs=0.02)
    expected = np.where(dropped, 0, weights / (1 - rate))
    np.testing.assert_allclose(runs[2], expected, rtol=1e-4, atol=1e-6)
    change = gradients(lambda v: kops.sum(kops.multiply(attend(v, 2), upstream)), identity)[0]
    expected = np.einsum("btns,btnh->bsnh", runs[2], upstream)
    np.testing.assert_allclose(change, expected, rtol=1e-3, atol=1e-4)


def test_a_position_bias_with_another_number_of_heads_raises():
    bias = PositionBias(alibi, (np.ones(N + 1, "float32"),))
    _fails("must have the query's 3 heads as its first axis", bias=bias)


@pytest.mark.backends("jax", reason="jax.export lowers without the device")
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("mask", [AttentionMask(causal=True), AttentionMask(window=100)])
def test_the_chunked_kernel_lowers_for_tpu_and_cuda(platform, mask):
    import jax

    def loss(query, key, value, seed):
        options = {"mask": mask, "dropout": 0.1, "seed": seed, "kernel": "chunked"}
        return ops.attention(query, key, value, **options).astype("float32").sum()

    shape = jax.ShapeDtypeStruct((2, 1025, 4, 64), "bfloat16")
    seed = jax.ShapeDtypeStruct((2,), "uint32")
    function = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    exported = jax.export.export(function, platforms=[platform])(shape, shape, shape, seed)
    assert exported.platforms == (platform,)


@pytest.mark.backends("jax", reason="symbolic shapes are JAX's")
def test_the_chunked_kernel_accepts_a_symbolic_batch_size():
    import jax

    def attend(*given):
        return ops.attention(*given, mask=AttentionMask(causal=True), kernel="chunked")

    (batch,) = jax.export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, 70, 3, 5), "float32")
    exported = jax.export.export(jax.jit(attend))(shape, shape, shape)
    rows = np.random.default_rng(0).normal(size=(2, 70, 3, 5)).astype("float32")
    np.testing.assert_allclose(exported.call(rows, rows, rows), attend(rows, rows, rows), atol=1e-6)


@pytest.mark.backends("jax", reason="XLA reports the memory of a program")
@pytest.mark.parametrize("window", [None, (96, 16)])
def test_memory_grows_linearly_with_length_on_jax(window):
    import jax

    def peak(length):
        def loss(*given):
            mask = AttentionMask(window=window)
            return ops.attention(*given, mask=mask, kernel="chunked", block_size=64).sum()

        shape = jax.ShapeDtypeStruct((1, length, 2, 8), "float32")
        program = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(shape, shape, shape).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert peak(8192) < 2.2 * peak(4096)
