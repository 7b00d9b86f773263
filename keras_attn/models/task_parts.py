"""What the task models share: outputs of the encoder for a head, and several texts in a row.

Letters: B batch, T length, C choices or texts, D model width.
"""

import keras
from keras import ops

from keras_attn import layers
from keras_attn._typing import Tensor
from keras_attn.models import parts

# The pooling of a classifier by the family of its encoder.
POOLINGS = {"bert": "pooler", "modern_bert": "first", "gpt": "last"}


def several(model: keras.Model, count: int) -> tuple[dict, dict]:
    """Inputs `[B, C, T]` in place of a model's, and their rows for it, `[C B, T]`."""
    inputs = {
        key: keras.Input((count, None), dtype=tensor.dtype, name=key)
        for key, tensor in model.input.items()
    }
    rows = {
        # Not `unstack`, which fails in OpenVINO, nor `split`, which LiteRT lacks for masks.
        key: ops.concatenate([ops.take(tensor, i, axis=1) for i in range(count)])  # [C B, T]
        for key, tensor in inputs.items()
    }
    return inputs, rows


def together(vectors: Tensor, count: int) -> Tensor:
    """`[B, C, D]`, from vectors `[C B, D]`."""
    return ops.stack(ops.split(vectors, count, axis=0), axis=1)


def pool(
    encoder: keras.Model, pooling: str | None, outputs: dict[str, Tensor], padding_mask: Tensor
) -> Tensor:
    """One vector for each row of the encoder's outputs."""
    if pooling is None:
        pooling = POOLINGS[parts.of(encoder).family]
    name = "pooled_output" if pooling == "pooler" else "sequence_output"
    output_of(encoder, name)
    if pooling == "pooler":
        return outputs[name]
    layer = layers.SequencePooling(pooling, dtype=dtype_of(encoder), name="pooling")
    return layer(outputs[name], mask=padding_mask)


def transform(encoder: keras.Model, vectors: Tensor) -> Tensor:
    """The vectors for the head, which ModernBERT transforms by a dense layer and a norm.

    Source: Warner et al. 2024, section 2.1.
    """
    if parts.of(encoder).family != "modern_bert":
        return vectors
    stack = parts.encoder(encoder)
    dense = keras.layers.Dense(
        vectors.shape[-1],
        activation=stack.blocks[0].activation,
        use_bias=False,
        **head_options(encoder, "transformation"),
    )
    norm = keras.layers.LayerNormalization(
        epsilon=stack.norm.epsilon,
        center=False,
        dtype=stack.norm.dtype_policy,
        name="transformation_norm",
    )
    return norm(dense(vectors))


def output_of(encoder: keras.Model, name: str) -> Tensor:
    """An output of the encoder; a ValueError if it has none of this name."""
    if name not in encoder.output:
        raise ValueError(f"`encoder` must have an output {name!r}, got {', '.join(encoder.output)}")
    return encoder.output[name]


def head_options(encoder: keras.Model, name: str) -> dict:
    """The arguments that all heads of an encoder share."""
    initializer = parts.encoder(encoder).blocks[0].kernel_initializer.clone()
    return {"kernel_initializer": initializer, "dtype": dtype_of(encoder), "name": name}


def dtype_of(encoder: keras.Model) -> keras.DTypePolicy:
    """The dtype policy of the encoder's embedding."""
    return parts.encoder(encoder).embedding.dtype_policy
