"""The whole training step, with its optimizer, compiles for accelerators on a CPU."""

import itertools
import re

import keras
import numpy as np
import pytest

from keras_attn.ops import kernels
from tests.trainable import (
    BATCH,
    bert_pretraining,
    compiled,
    gpt_chunked_loss,
    packed_bert_pretraining,
    packed_modern_bert,
    translator,
)

DTYPES = ("float32", "mixed_bfloat16")
MAKERS = (
    bert_pretraining,
    packed_bert_pretraining,
    packed_modern_bert,
    gpt_chunked_loss,
    translator,
)
OPTIONS = ({}, {"remat": True}, {"window": 3})


def cases(*fast):
    """Every model in every dtype with every option, most of them slow."""
    found = []
    for make, dtype, options in itertools.product(MAKERS, DTYPES, OPTIONS):
        if make is not translator or "window" not in options:  # which a translator does not have
            name = "-".join((make.__name__, dtype, *options))
            marks = () if name in fast else pytest.mark.slow
            found.append(pytest.param(make, {"dtype": dtype, **options}, id=name, marks=marks))
    return found


@pytest.mark.backends("jax", reason="jax.export lowers without the device")
@pytest.mark.parametrize(
    ("make", "options"),
    cases("bert_pretraining-mixed_bfloat16-window", "gpt_chunked_loss-float32"),
)
def test_training_step_lowers_for_tpu_and_cuda(make, options):
    """With more logits than `auto` gives to the reference kernel, in several blocks."""
    text = lowered(make(1100, **{"kernel": "auto", **options}), "tpu", "cuda")
    assert "stablehlo.while" in text  # the loop over blocks is there


# The platform of a device, and how often its fused kernel is called by name: on a TPU forward, and
# for the gradients of queries and of keys.
FUSED = {
    "tpu": ("tpu", {"tpu_custom_call": 3}),
    "gpu": ("cuda", {"__cudnn$fmhaSoftmax": 1, "__cudnn$fmhaSoftmaxBackward": 1}),
}


@pytest.mark.backends("jax", reason="jax.export lowers without the device")
@pytest.mark.parametrize(
    ("device", "make", "dtype"),
    [
        ("gpu", bert_pretraining, "mixed_bfloat16"),
        ("tpu", gpt_chunked_loss, "mixed_bfloat16"),
        pytest.param("gpu", gpt_chunked_loss, "mixed_bfloat16", marks=pytest.mark.slow),
        pytest.param("tpu", bert_pretraining, "mixed_bfloat16", marks=pytest.mark.slow),
        pytest.param("tpu", bert_pretraining, "float32", marks=pytest.mark.slow),
    ],
)
def test_training_step_lowers_with_the_fused_kernel(device, make, dtype, monkeypatch):
    """As on a device: the fused kernel of its kind, forward and backward."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(kernels, "device_of", lambda tensor: device)
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    # Heads of width 8, which cuDNN has; it has no dropout that we could take.
    given = make(512, kernel="auto", dtype=dtype, hidden_dim=32, dropout=0.0, remat=False)
    platform, calls = FUSED[device]
    text = lowered(given, platform)
    assert {name: text.count(f"@{name}(") for name in calls} == calls


def lowered(given, *platforms):
    """The training step for these platforms, as text without dynamic shapes and callbacks."""
    import jax

    _, x, y = given
    model = compiled(given)
    model.optimizer.build(model.trainable_variables)
    variables = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = [[variable.value for variable in group] for group in variables]
    step = jax.jit(model.train_step).trace(state, (x, y))
    text = step.lower(lowering_platforms=platforms).as_text()
    assert "callback" not in text
    # Shapes and trip counts are constants: no length is dynamic.
    assert not re.search(r"tensor<[^>]*\?", text)
    assert not re.search(r"stablehlo\.(real_)?dynamic_(?!slice|update_slice)", text)
    return text


@pytest.mark.backends("tensorflow", reason="jit_compile is XLA of TensorFlow")
@pytest.mark.parametrize(("make", "options"), cases("gpt_chunked_loss-mixed_bfloat16"))
def test_training_step_compiles_with_xla(make, options):
    """Two steps under XLA equal two eager steps within the precision of the dtype."""
    losses = [losses_of_training(make, how, **options, dropout=0.0) for how in (XLA, EAGER)]
    np.testing.assert_allclose(*losses, rtol=1e-4 if options["dtype"] == "float32" else 0.05)
    assert losses[0][1] < losses[0][0]


@pytest.mark.slow
@pytest.mark.backends("tensorflow", reason="jit_compile is XLA of TensorFlow")
@pytest.mark.parametrize("make", [bert_pretraining, gpt_chunked_loss])
def test_dropout_under_xla_is_drawn_in_each_step(make):
    """XLA draws other numbers, so that losses are similar only; in two blocks and three chunks."""
    under_xla, eager = (losses_of_training(make, how, 300, rate=0.0) for how in (XLA, EAGER))
    assert len(set(under_xla)) == 2
    np.testing.assert_allclose(under_xla, eager, rtol=0.01)


XLA, EAGER = {"jit_compile": True}, {"run_eagerly": True, "jit_compile": False}


def losses_of_training(make, how, *size, rate=1e-2, **options):
    """Two steps with a learning rate, from the same weights."""
    keras.utils.set_random_seed(0)
    _, x, y = given = make(*size, **options)
    model = compiled(given, **how)
    model.optimizer.learning_rate = rate
    history = model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    return history.history["loss"]
