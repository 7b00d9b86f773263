"""What a layer's configuration must say of parts that were quantized."""

from typing import Any

import keras


def quantized_parts(layer: keras.layers.Layer) -> dict[str, Any]:
    """`{"dtype": a policy for each part}`, or nothing where no part is quantized.

    Keras writes the policy of the layer alone, so that the parts would come back as they were
    before `quantize`, and their saved weights would not fit.
    """
    policies = {
        f"(.*/)?{layer.name}{part.path.rpartition(layer.path)[2]}": part.dtype_policy
        for part in layer._flatten_layers(include_self=False)
        if getattr(part, "quantization_mode", None) is not None
    }
    if not policies:
        return {}
    policy = layer.dtype_policy
    default = getattr(policy, "default_policy", policy)
    dtype = keras.dtype_policies.DTypePolicyMap(default, policies)
    return {"dtype": keras.dtype_policies.serialize(dtype)}
