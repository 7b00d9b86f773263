"""Learning rates as functions of the step, for any Keras optimizer."""

import keras
from keras import ops

from keras_attn._checks import check_count, is_integer
from keras_attn._keras import register
from keras_attn._typing import Config, Tensor


@register()
class TransformerSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then decay with the inverse square root of the step.

    `rate(step) = scale * d^-0.5 * min(step^-0.5, step * warmup_steps^-1.5)`, where the paper counts
    steps from 1; Keras counts from 0, so the rate of Keras' step i is that of the paper's i + 1.

    Args:
        model_dim: d, the width of the model.
        warmup_steps: the step of the highest rate, `scale / sqrt(d * warmup_steps)`.
        scale: factor of every rate.

    Call arguments:
        step: integer scalar, the number of updates already made.

    Returns:
        float32 scalar.

    Raises:
        ValueError: `model_dim` or `warmup_steps` is not a positive integer.

    Source: Vaswani et al. 2017, section 5.3.

    Example:
    >>> schedule = TransformerSchedule(model_dim=512, warmup_steps=4000)
    >>> round(float(schedule(3999)), 6)
    0.000699
    """

    def __init__(self, model_dim: int, warmup_steps: int = 4000, scale: float = 1.0) -> None:
        self.model_dim = check_count("model_dim", model_dim)
        self.warmup_steps = check_count("warmup_steps", warmup_steps)
        self.scale = scale

    def __call__(self, step: Tensor) -> Tensor:
        """The rate of the update after `step` updates."""
        step = ops.cast(step, "float32") + 1.0
        peak = self.scale * (self.model_dim * self.warmup_steps) ** -0.5
        relative = step / self.warmup_steps
        return peak * ops.minimum(ops.rsqrt(relative), relative)

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            "model_dim": self.model_dim,
            "warmup_steps": self.warmup_steps,
            "scale": self.scale,
        }


@register()
class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to a peak, then linear decay to zero at the last step.

    `rate(step) = peak * min((step + 1) / warmup_steps, (total_steps - step) / (total_steps -
    warmup_steps))`, but at least 0: neither the first nor the last update has rate 0.

    Args:
        peak: the highest rate, that of step `warmup_steps - 1` and of step `warmup_steps`.
        warmup_steps: the number of updates in the warm-up; 0 starts at the peak.
        total_steps: the number of updates in the training; after them the rate is zero.

    Call arguments:
        step: integer scalar, the number of updates already made.

    Returns:
        float32 scalar.

    Raises:
        ValueError: `total_steps` is not a positive integer, or `warmup_steps` not in
            [0, total_steps).

    Source: Devlin et al. 2019, appendix A.2.

    Example:
    >>> schedule = WarmupLinearDecay(peak=1e-4, warmup_steps=10, total_steps=110)
    >>> [round(float(schedule(step)), 6) for step in (0, 9, 10, 60, 110)]
    [1e-05, 0.0001, 0.0001, 5e-05, 0.0]
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int) -> None:
        total_steps = check_count("total_steps", total_steps)
        if not is_integer(warmup_steps) or not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"`warmup_steps` must be an integer in [0, total_steps={total_steps}), "
                f"got {warmup_steps}"
            )
        self.peak = peak
        self.warmup_steps = int(warmup_steps)
        self.total_steps = total_steps

    def __call__(self, step: Tensor) -> Tensor:
        """The rate of the update after `step` updates."""
        step = ops.cast(step, "float32")
        rise = (step + 1.0) / max(self.warmup_steps, 1)
        fall = (self.total_steps - step) / (self.total_steps - self.warmup_steps)
        return self.peak * ops.maximum(ops.minimum(rise, fall), 0.0)

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
        }
