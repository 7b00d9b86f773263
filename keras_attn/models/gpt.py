"""GPT as a functional Keras model.

Letters: B batch, T length, V vocabulary, D model width.
"""

from typing import Any

import keras

from keras_attn import layers
from keras_attn._typing import DType
from keras_attn.models.parts import attention_position, embedding_position
from keras_attn.models.sizes import GPT_SIZES, GptSize, first_given, resolve
from keras_attn.ops.masks import Window
from keras_attn.ops.numerics import get_activation


def decoder(
    size: str | GptSize = "gpt_small",
    *,
    position: keras.layers.Layer | None = None,
    window: Window = None,
    kernel: str = "auto",
    remat: bool = False,
    dtype: DType = None,
    name: str = "gpt",
    **overrides: Any,
) -> keras.Model:
    """A language model like GPT-2: causal pre-norm blocks and a tied output.

    `keras_attn.models.steps` decodes with a trained one.

    Inputs: token_ids int `[B, T]`, padding_mask bool `[B, T]`, False at padding, which is on
    the right. Output: logits `[B, T, V]` of the token after each.

    Args:
        size: a `GptSize` or the name of one: gpt_tiny, gpt_mini, gpt_small (GPT-2's, 124 million
            parameters).
        position: any position layer; defaults to `LearnedPositionEmbedding`. One that enters the
            logits (rotary, ALiBi, T5) is copied into each block, with separate weights.
        window: restricts attention to positions less than this far back.
        kernel: which of `keras_attn.ops.kernels` computes the attention.
        remat: whether training computes each block again in the backward pass, for less memory.
        dtype: dtype of the layers, a name or a Keras dtype policy.
        name: name of the model.
        **overrides: fields of the size to replace, such as `vocabulary_size=8000`.

    Raises:
        ValueError: an unknown size or field.

    Source: Radford et al. 2019, section 2.3.

    Example:
    >>> model = decoder("gpt_tiny", vocabulary_size=100)
    >>> sorted(model.input), model.output.shape
    (['padding_mask', 'token_ids'], (None, None, 100))
    """
    size = resolve(size, GPT_SIZES, overrides)
    initializer = keras.initializers.RandomNormal(stddev=size.initializer_range)
    if position is None:
        position = layers.LearnedPositionEmbedding(size.max_length, initializer=initializer)

    # Layers
    embedding = layers.TokenEmbedding(
        size.vocabulary_size,
        size.hidden_dim,
        embeddings_initializer=initializer.clone(),
        dtype=dtype,
        name="token_embedding",
    )
    token_position = embedding_position(position, "position", dtype)
    dropout = keras.layers.Dropout(
        first_given(size.embedding_dropout, size.dropout), dtype=dtype, name="embedding_dropout"
    )
    blocks = [
        layers.TransformerEncoderBlock(
            size.num_heads,
            size.intermediate_dim,
            dropout=size.dropout,
            attention_dropout=first_given(size.attention_dropout, size.dropout),
            activation=get_activation(size.activation),
            layer_norm_epsilon=size.layer_norm_epsilon,
            normalize_first=True,
            causal=True,
            window=window,
            position=attention_position(position),
            kernel=kernel,
            remat=remat,
            kernel_initializer=initializer.clone(),
            dtype=dtype,
            name=f"block_{index}",
        )
        for index in range(size.num_layers)
    ]
    head = layers.LanguageModelHead("layer", size.layer_norm_epsilon, dtype=dtype, name="head")

    # Functional model
    inputs = {
        "token_ids": keras.Input((None,), dtype="int32", name="token_ids"),
        "padding_mask": keras.Input((None,), dtype="bool", name="padding_mask"),
    }
    hidden, matrix = embedding(inputs["token_ids"], return_matrix=True)
    hidden = dropout(token_position(hidden))
    for block in blocks:
        hidden = block(hidden, mask=inputs["padding_mask"])

    # Outputs
    return keras.Model(inputs, head(hidden, matrix), name=name)
