"""ModernBERT as a functional Keras model.

Letters: B batch, T length, D model width.
"""

from typing import Any

import keras

from keras_attn import layers
from keras_attn._typing import DType
from keras_attn.models.inputs import encoder_inputs
from keras_attn.models.sizes import MODERN_BERT_SIZES, ModernBertSize, resolve


def encoder(
    size: str | ModernBertSize = "modern_bert_base",
    *,
    hidden_states: bool = False,
    kernel: str = "auto",
    remat: bool = False,
    dtype: DType = None,
    name: str = "modern_bert_encoder",
    **overrides: Any,
) -> keras.Model:
    """The encoder: token embeddings, then pre-norm blocks with gates and without biases.

    Every third block attends to the whole sequence, the others to a window, at a cost that grows
    linearly with the length; both use rotary positions, so that there is no maximum length. The
    builders of `bert_tasks` add the heads of ModernBERT to it.

    Inputs: those of `keras_attn.models.bert.encoder`; segment_ids only tell a span head where the
    context is. Outputs: sequence_output `[B, T, D]`, and on request hidden_states, a list of
    `[B, T, D]`: the embeddings, the output of each block but the last, and sequence_output.

    Args:
        size: a `ModernBertSize` or the name of one: modern_bert_base (149 million parameters),
            modern_bert_large (395 million).
        hidden_states: whether the model returns the output of every layer too.
        kernel: which of `keras_attn.ops.kernels` computes the attention.
        remat: whether training computes each block again in the backward pass, for less memory.
        dtype: dtype of the layers, a name or a Keras dtype policy.
        name: name of the model.
        **overrides: fields of the size to replace, such as `vocabulary_size=8000`.

    Raises:
        ValueError: an unknown size or field.

    Source: Warner et al. 2024, section 2.1 and table 4.

    Example:
    >>> model = encoder("modern_bert_base", num_layers=3, vocabulary_size=100)
    >>> [model.get_layer(f"block_{index}").window for index in range(3)]
    [None, 65, 65]
    """
    size = resolve(size, MODERN_BERT_SIZES, overrides)

    # Layers
    embedding = layers.BertEmbedding(
        size.vocabulary_size,
        size.hidden_dim,
        max_length=0,
        num_segments=0,
        dropout=size.embedding_dropout,
        layer_norm_epsilon=size.layer_norm_epsilon,
        initializer=_initializer(size),
        use_bias=False,
        dtype=dtype,
        name="embedding",
    )
    blocks = [
        block(size, index, kernel=kernel, remat=remat, dtype=dtype)
        for index in range(size.num_layers)
    ]
    norm = keras.layers.LayerNormalization(
        epsilon=size.layer_norm_epsilon, center=False, dtype=dtype, name="encoder_norm"
    )

    # Functional model
    inputs = encoder_inputs()
    hidden, _ = embedding(inputs["token_ids"], return_matrix=True)
    states = [hidden]
    for layer in blocks:
        states.append(layer(states[-1], mask=inputs["padding_mask"]))
    states[-1] = norm(states[-1])

    # Outputs
    outputs = {"sequence_output": states[-1]}
    if hidden_states:
        outputs["hidden_states"] = states
    return keras.Model(inputs, outputs, name=name)


def block(size: ModernBertSize, index: int, **options: Any) -> layers.TransformerEncoderBlock:
    """The block number `index` of the encoder, with further arguments of its class.

    Source: Warner et al. 2024, section 2.1.
    """
    window = size.windows[index]
    return layers.TransformerEncoderBlock(
        size.num_heads,
        size.intermediate_dim,
        attention_dropout=size.attention_dropout,
        attention_output_dropout=size.attention_dropout,
        activation=size.activation,
        norm="layer_no_bias",
        layer_norm_epsilon=size.layer_norm_epsilon,
        normalize_first=True,
        attention_norm=index > 0,  # the first block follows the norm of the embeddings
        window=window,
        position=layers.RotaryEmbedding(
            size.global_wavelength if window is None else size.local_wavelength,
            scaling=size.global_scaling if window is None else size.local_scaling,
        ),
        kernel_initializer=_initializer(size),
        attention_options={"use_bias": False},
        feed_forward_options={
            "gated": True,
            "use_bias": False,
            "dropout": size.feed_forward_dropout,
        },
        name=f"block_{index}",
        **options,
    )


def _initializer(size: ModernBertSize) -> keras.initializers.Initializer:
    return keras.initializers.TruncatedNormal(stddev=size.initializer_range)
