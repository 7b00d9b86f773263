"""The Transformer as a functional Keras model.

Letters: B batch, S source length, T target length, V vocabulary, D model width.
"""

from typing import Any

import keras

from keras_attn import layers
from keras_attn._typing import DType
from keras_attn.models.parts import attention_position, embedding_position
from keras_attn.models.sizes import TRANSFORMER_SIZES, TransformerSize, resolve


def encoder_decoder(
    size: str | TransformerSize = "transformer_base",
    *,
    position: keras.layers.Layer | None = None,
    kernel: str = "auto",
    remat: bool = False,
    dtype: DType = None,
    name: str = "transformer",
    **overrides: Any,
) -> keras.Model:
    """A Transformer, for example for translation: an encoder, and a decoder that attends to it.

    Source embedding, target embedding and output share one matrix; embeddings are scaled by
    sqrt(D). `keras_attn.models.steps` decodes with a trained one.

    Inputs: source_ids int `[B, S]`, source_padding_mask bool `[B, S]`, False at padding, target_ids
    int `[B, T]`, the target shifted right: a start token first. Output: logits `[B, T, V]` of the
    token after each. The target may be padded on the right; give the loss zero weights there.

    Args:
        size: a `TransformerSize` or the name of one: transformer_tiny, transformer_small,
            transformer_base (63 million parameters), transformer_big (214 million).
        position: any position layer; defaults to `SinusoidalPositionEncoding`. One that enters the
            logits (rotary, ALiBi, T5) is copied into the self-attention of each block, with
            separate weights.
        kernel: which of `keras_attn.ops.kernels` computes the attention.
        remat: whether training computes each block again in the backward pass, for less memory.
        dtype: dtype of the layers, a name or a Keras dtype policy.
        name: name of the model.
        **overrides: fields of the size to replace, such as `vocabulary_size=8000`.

    Raises:
        ValueError: an unknown size or field.

    Source: Vaswani et al. 2017, sections 3.1 to 3.5.

    Example:
    >>> model = encoder_decoder("transformer_tiny", vocabulary_size=100)
    >>> sorted(model.input), model.output.shape
    (['source_ids', 'source_padding_mask', 'target_ids'], (None, None, 100))
    """
    size = resolve(size, TRANSFORMER_SIZES, overrides)
    position = position or layers.SinusoidalPositionEncoding()
    common = {
        "num_heads": size.num_heads,
        "intermediate_dim": size.intermediate_dim,
        "dropout": size.dropout,
        "activation": size.activation,
        "layer_norm_epsilon": size.layer_norm_epsilon,
        "normalize_first": size.normalize_first,
        "kernel": kernel,
        "remat": remat,
        "dtype": dtype,
    }

    # Layers
    embedding = layers.TokenEmbedding(
        size.vocabulary_size,
        size.hidden_dim,
        scale=size.hidden_dim**0.5,
        embeddings_initializer=keras.initializers.RandomNormal(stddev=size.hidden_dim**-0.5),
        dtype=dtype,
        name="token_embedding",
    )
    source_position = embedding_position(position, "source_position", dtype)
    target_position = embedding_position(position, "target_position", dtype)
    dropout = keras.layers.Dropout(size.dropout, dtype=dtype, name="embedding_dropout")
    encoder_blocks = [
        layers.TransformerEncoderBlock(
            **common, position=attention_position(position), name=f"encoder_block_{index}"
        )
        for index in range(size.num_layers)
    ]
    decoder_blocks = [
        layers.TransformerDecoderBlock(
            **common, position=attention_position(position), name=f"decoder_block_{index}"
        )
        for index in range(size.num_layers)
    ]
    encoder_norm = keras.layers.LayerNormalization(
        epsilon=size.layer_norm_epsilon, dtype=dtype, name="encoder_norm"
    )
    head = layers.LanguageModelHead(
        "layer" if size.normalize_first else None, size.layer_norm_epsilon, dtype=dtype, name="head"
    )

    # Functional model
    inputs = {
        "source_ids": keras.Input((None,), dtype="int32", name="source_ids"),
        "source_padding_mask": keras.Input((None,), dtype="bool", name="source_padding_mask"),
        "target_ids": keras.Input((None,), dtype="int32", name="target_ids"),
    }
    mask = inputs["source_padding_mask"]
    context, matrix = embedding(inputs["source_ids"], return_matrix=True)
    context = dropout(source_position(context))
    for block in encoder_blocks:
        context = block(context, mask=mask)
    if size.normalize_first:
        context = encoder_norm(context)
    hidden = dropout(target_position(embedding(inputs["target_ids"])))
    for block in decoder_blocks:
        hidden = block(hidden, context, context_mask=mask)

    # Outputs
    return keras.Model(inputs, head(hidden, matrix), name=name)
