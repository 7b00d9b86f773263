"""The whole training step, with its optimizer, compiles for accelerators on a CPU."""

import itertools
import re

import keras
import numpy as np
import pytest

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
        if make is not translator or "window" not in options:
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
    import jax

    _, x, y = given = make(1100, **{"kernel": "auto", **options})
    model = compiled(given)
    model.optimizer.build(model.trainable_variables)
    variables = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = [[variable.value for variable in group] for group in variables]
    step = jax.export.export(jax.jit(model.train_step), platforms=["tpu", "cuda"])
    module = step(state, (x, y)).mlir_module()
    assert "stablehlo.while" in module  # the loop over blocks is there
    assert "callback" not in module
    # Shapes and trip counts are constants: no length is dynamic.
    assert not re.search(r"tensor<[^>]*\?", module)
    assert not re.search(r"stablehlo\.(real_)?dynamic_(?!slice|update_slice)", module)


@pytest.mark.backends("tensorflow", reason="jit_compile is XLA of TensorFlow")
@pytest.mark.parametrize(("make", "options"), cases("gpt_chunked_loss-mixed_bfloat16"))
def test_training_step_compiles_with_xla(make, options):
    """Two steps under XLA equal two eager steps within the precision of the dtype."""
    losses = []
    for how in ({"jit_compile": True}, {"run_eagerly": True, "jit_compile": False}):
        keras.utils.set_random_seed(0)
        _, x, y = given = make(**options, dropout=0.0)
        model = compiled(given, **how)
        history = model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-4 if options["dtype"] == "float32" else 0.05)
    assert losses[0][1] < losses[0][0]
