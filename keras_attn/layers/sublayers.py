"""What layers share that are made of other layers: projections, norms, positions, recomputation."""

import functools
import inspect
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import keras

from keras_attn import ops
from keras_attn._checks import check_choice
from keras_attn._keras import (
    deserialize_shared,
    flatten_layers,
    get_keras_mask,
    register,
    set_alone,
    set_keras_mask,
)
from keras_attn._typing import Config, Nested, Shape, Tensor
from keras_attn.ops.biases import PositionBias
from keras_attn.ops.remat import remat

_UNMERGED = "unmerged_"
_NO_FLOAT8_LORA = (
    "`enable_lora` and `quantize` must not meet in float8, for which Keras has no LoRA, "
    "got both; use int8 or int4, or no LoRA"
)
NORMS: dict[str, Callable[..., keras.layers.Layer]] = {
    "layer": keras.layers.LayerNormalization,
    "layer_no_bias": functools.partial(keras.layers.LayerNormalization, center=False),
    "rms": keras.layers.RMSNormalization,
}


class CompositeLayer(keras.layers.Layer):
    """A layer whose file also saves how its parts were quantized, and their LoRA adapters."""

    def get_config(self) -> Config:
        """The arguments of every Keras layer."""
        return {**super().get_config(), **quantized_parts(self)}

    def get_build_config(self) -> dict | None:
        """The shapes of the inputs, and what was done to the parts after they were built."""
        config = super().get_build_config()
        parts = self._built_parts().items()
        done = {
            "lora": {
                place: [part.lora_rank, part.lora_alpha]
                for place, part in parts
                if isinstance(part, Projection) and part.lora_enabled
            },
            "quantization": {
                place: keras.saving.serialize_keras_object(part.quantization_config)
                for place, part in parts
                if getattr(part, "quantization_config", None) is not None
            },
        }
        return config and {**config, **{name: places for name, places in done.items() if places}}

    def build_from_config(self, config: dict) -> None:
        """Build, and do to the parts what was done to those that were saved."""
        super().build_from_config(config)
        parts = self._built_parts()
        for place, how in (config or {}).get("quantization", {}).items():
            part = parts[place]
            part.quantization_config = keras.saving.deserialize_keras_object(how)
            part.inputs_quantizer = part.quantization_config.activation_quantizer
        for place, (rank, alpha) in (config or {}).get("lora", {}).items():
            parts[place].enable_lora(rank, lora_alpha=alpha)

    def _built_parts(self) -> dict[str, keras.layers.Layer]:
        parts = flatten_layers(self) if self.path else []
        return {_place(part, self): part for part in parts if part.path}


def quantized_parts(layer: keras.layers.Layer) -> Config:
    """`{"dtype": a policy for each part}`, or nothing where no part is quantized.

    Keras writes the policy of the layer alone, so that the parts would come back as they were
    before `quantize`, and their saved weights would not fit.
    """
    policies = {
        f"(.*/)?{layer.name}{_place(part, layer)}": part.dtype_policy
        for part in flatten_layers(layer)
        if getattr(part, "quantization_mode", None) is not None
    }
    if not policies:
        return {}
    policy = layer.dtype_policy
    default = getattr(policy, "default_policy", policy)
    dtype = keras.dtype_policies.DTypePolicyMap(default, policies)
    return {"dtype": keras.dtype_policies.serialize(dtype)}


def keep_own_policy(layer: keras.layers.Layer) -> None:
    """Give a layer its policy from the map that a loaded quantized model gave to all its layers.

    Some code of Keras would read the map's default as the policy of the layer.
    """
    policy = layer.dtype_policy
    if isinstance(policy, keras.dtype_policies.DTypePolicyMap) and layer.path:
        set_alone(layer, "dtype_policy", policy[layer.path])


def _place(part: Any, layer: keras.layers.Layer) -> str:
    return part.path.removeprefix(layer.path)


@register()
class Projection(keras.layers.Dense):
    """`keras.layers.Dense` over the last axis, run as one product of two matrices.

    Weights, LoRA and quantization are Keras' own; only the product goes through `ops.dense`, which
    each backend's graph fuses with the bias and the activation. As with Dense, a file has the
    kernel with LoRA merged. To continue training, it also has the kernel without LoRA and the
    adapters, which Dense loads as zeros.

    Example:
    >>> import keras
    >>> Projection(3)(keras.ops.ones((2, 5, 7))).shape
    TensorShape([2, 5, 3])
    """

    def build(self, input_shape: Shape) -> None:
        """Create the kernel and the bias."""
        keep_own_policy(self)
        super().build(input_shape)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Project `[..., D]` to `[..., units]`."""
        return ops.dense(inputs, self.kernel, self.bias, self.activation)

    def quantize(self, mode: str | None = None, type_check: bool = True, config: Any = None) -> Any:
        """Like `Dense.quantize`, which refuses subclasses unless `type_check` is False."""
        if mode == "float8" and self.lora_enabled:
            raise ValueError(_NO_FLOAT8_LORA)
        return super().quantize(mode, type_check=False, config=config)

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Like `Dense.enable_lora`, which accepts float8 and then fails at the call."""
        if self.quantization_mode == "float8":
            raise ValueError(_NO_FLOAT8_LORA)
        super().enable_lora(*args, **kwargs)

    def save_own_variables(self, store: MutableMapping[str, Tensor]) -> None:
        """Save as Dense does, and what is needed to continue the training of LoRA."""
        super().save_own_variables(store)
        if self.lora_enabled:
            for variable in self.variables:
                store[f"{_UNMERGED}{variable.name}"] = variable

    def load_own_variables(self, store: Mapping[str, Tensor]) -> None:
        """Load with the adapters where both the layer and the file have them, else merged."""
        store = {key: store[key] for key in [*store.keys()]}
        merged = {key: value for key, value in store.items() if not key.startswith(_UNMERGED)}
        if not self.lora_enabled:
            super().load_own_variables(merged)
        elif len(merged) < len(store):
            for variable in self.variables:
                variable.assign(store[f"{_UNMERGED}{variable.name}"])
        else:
            start = keras.ops.copy(self.lora_kernel_a)
            super().load_own_variables(merged)
            self.lora_kernel_a.assign(start)  # both zero, as Dense leaves them, never learn


def make_norm(kind: str, epsilon: float, **kwargs: Any) -> keras.layers.Layer:
    """The layer of the norm `kind`, one of `NORMS`."""
    check_choice("norm", kind, NORMS)
    norm = NORMS[kind](epsilon=epsilon, **kwargs)
    norm.supports_masking = True  # Keras' RMSNormalization would drop the mask, with a warning
    return norm


def to_position(
    position: keras.layers.Layer | Config | None, num_heads: int
) -> keras.layers.Layer | None:
    """A position layer, given as itself or as its config, that fits `num_heads`; or None."""
    position = deserialize_shared(position)
    if position is None:
        return None
    if not isinstance(position, keras.layers.Layer) or not enters_logits(position):
        raise TypeError(
            "`position` must be a RotaryEmbedding, ALiBi, RelativePositionBias or another layer "
            f"with `rotate` or `bias`, or None, got {position!r}"
        )
    heads = getattr(position, "num_heads", num_heads)
    if heads != num_heads:
        raise ValueError(f"`position` must have {num_heads} heads as the layer, got {heads}")
    return position


def rotation_of(position: keras.layers.Layer | None) -> Callable[..., Tensor] | None:
    """What rotates queries and keys; None if the position does not, or is None."""
    rotate = getattr(position, "rotate", None)
    return rotate if callable(rotate) else None


def bias_of(position: keras.layers.Layer | None) -> PositionBias | None:
    """The bias of the position; None if it has none, or is None."""
    bias = getattr(position, "bias", None)
    return bias() if callable(bias) else None


def enters_logits(position: keras.layers.Layer) -> bool:
    """Whether the position rotates or has a bias, and so belongs to attention."""
    return rotation_of(position) is not None or callable(getattr(position, "bias", None))


def recomputable(call: Callable[..., Nested]) -> Callable[..., Nested]:
    """`call`, of which training keeps only the inputs where the layer's `remat` says so."""
    signature = inspect.signature(call)

    @functools.wraps(call)
    def wrapped(self: Any, inputs: Tensor, *args: Any, **kwargs: Any) -> Nested:
        given = signature.bind_partial(self, inputs, *args, **kwargs).arguments
        if not (self.remat and given.get("training")):
            return call(self, inputs, *args, **kwargs)
        mask = get_keras_mask(inputs)

        def function(inputs: Tensor, *args: Any, **kwargs: Any) -> Nested:
            if mask is not None:  # the recomputation starts from tensors that carry none
                set_keras_mask(inputs, mask)
            return call(self, inputs, *args, **kwargs)

        weights = {id(weight) for weight in self.weights}
        states = [variable for variable in self.variables if id(variable) not in weights]
        return remat(function, self.weights, states)(inputs, *args, **kwargs)

    return wrapped
