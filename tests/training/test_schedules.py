"""Learning rates against the papers' formulas in float64."""

import json

import keras
import numpy as np
import pytest

from keras_attn.training import TransformerSchedule, WarmupLinearDecay


@pytest.mark.parametrize("step", [1, 2, 3999, 4000, 4001, 100_000])
def test_transformer_schedule_equals_the_paper(step):
    expected = 3.0 * 512**-0.5 * min(step**-0.5, step * 4000.0**-1.5)
    schedule = TransformerSchedule(512, 4000, scale=3.0)
    np.testing.assert_allclose(float(schedule(step - 1)), expected, rtol=1e-6)


def test_warmup_linear_decay_rises_and_falls_linearly():
    schedule = WarmupLinearDecay(peak=0.3, warmup_steps=5, total_steps=17)
    rates = [float(schedule(step)) for step in range(19)]
    rise = 0.3 * np.arange(1, 6) / 5
    fall = 0.3 * np.arange(12, -1, -1) / 12
    np.testing.assert_allclose(rates, [*rise, *fall, 0.0], rtol=1e-6, atol=1e-9)


def test_without_warmup_the_rate_starts_at_the_peak():
    schedule = WarmupLinearDecay(peak=0.3, warmup_steps=0, total_steps=4)
    rates = [float(schedule(step)) for step in range(5)]
    np.testing.assert_allclose(rates, [0.3, 0.225, 0.15, 0.075, 0.0], rtol=1e-6)


def test_numpy_integers_are_accepted():
    schedule = WarmupLinearDecay(0.3, np.int64(2), np.int32(11))
    config = json.loads(json.dumps(schedule.get_config()))
    assert config == WarmupLinearDecay(0.3, 2, 11).get_config()
    schedule = TransformerSchedule(np.int64(7), np.uint8(3))
    config = json.loads(json.dumps(schedule.get_config()))
    assert config == TransformerSchedule(7, 3).get_config()


@pytest.mark.parametrize(
    "schedule", [TransformerSchedule(7, 3, 0.5), WarmupLinearDecay(0.3, 2, 11)]
)
def test_schedules_are_restored_with_the_optimizer(schedule):
    optimizer = keras.optimizers.SGD(schedule)
    config = keras.saving.serialize_keras_object(optimizer)
    restored = keras.saving.deserialize_keras_object(config)
    variable = keras.Variable([1.0])
    restored.build([variable])
    for _ in range(2):
        restored.apply([keras.ops.ones((1,))], [variable])
    expected = 1.0 - float(schedule(0)) - float(schedule(1))
    np.testing.assert_allclose(variable.numpy(), [expected], rtol=1e-6)


@pytest.mark.parametrize("arguments", [{"model_dim": 0}, {"model_dim": 7, "warmup_steps": -1}])
def test_invalid_transformer_schedule_arguments_raise(arguments):
    name, value = list(arguments.items())[-1]
    with pytest.raises(ValueError, match=f"`{name}` must be a positive integer, got {value}"):
        TransformerSchedule(**arguments)


def test_invalid_linear_decay_arguments_raise():
    with pytest.raises(ValueError, match="`total_steps` must be a positive integer, got 0"):
        WarmupLinearDecay(0.1, 0, 0)
    for steps in (-1, 5, 0.5):
        with pytest.raises(
            ValueError,
            match=rf"`warmup_steps` must be an integer in \[0, total_steps=5\), got {steps}",
        ):
            WarmupLinearDecay(0.1, steps, 5)
