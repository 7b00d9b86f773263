"""GPT as functional Keras models.

Letters: B batch, T length, V vocabulary, D model width.
"""

from typing import Any

import keras

from keras_attn import layers
from keras_attn._typing import DType, Tensor
from keras_attn.models.inputs import NamedInputs, encoder_inputs
from keras_attn.models.parts import attention_position, embedding_position
from keras_attn.models.sizes import GPT_SIZES, GptSize, first_given, resolve
from keras_attn.ops.masks import Window


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
    the right; other entries of a dict, such as a preprocessor's segment_ids, are ignored. Output:
    logits `[B, T, V]` of the token after each.

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
    inputs = encoder_inputs()
    del inputs["segment_ids"]
    states, matrix = _blocks(size, inputs, position, window, kernel, remat, dtype)
    head = layers.LanguageModelHead("layer", size.layer_norm_epsilon, dtype=dtype, name="head")
    return NamedInputs(inputs, head(states[-1], matrix), name=name)


def encoder(
    size: str | GptSize = "gpt_small",
    *,
    hidden_states: bool = False,
    position: keras.layers.Layer | None = None,
    window: Window = None,
    kernel: str = "auto",
    remat: bool = False,
    dtype: DType = None,
    name: str = "gpt_encoder",
    **overrides: Any,
) -> keras.Model:
    """The vectors of a GPT before the language model's output: its blocks and the last norm.

    The builders of `bert_tasks` add heads to it. A position attends to no later one, so that a
    classifier takes the last. `keras_attn.weights` moves the weights of a language model into one:
    save it, and load it with a task.

    Inputs: those of `keras_attn.models.bert.encoder`; segment_ids only tell a span head where the
    context is. Outputs: sequence_output `[B, T, D]`, and on request hidden_states, a list of
    `[B, T, D]`: the embeddings, the output of each block but the last, and sequence_output.

    Args:
        size: as in `decoder`.
        hidden_states: whether the model returns the output of every layer too.
        position: as in `decoder`.
        window: as in `decoder`.
        kernel: as in `decoder`.
        remat: as in `decoder`.
        dtype: as in `decoder`.
        name: name of the model.
        **overrides: as in `decoder`.

    Raises:
        ValueError: an unknown size or field.

    Source: Radford et al. 2019, section 2.3; Radford et al. 2018, section 3.2 (tasks).

    Example:
    >>> from keras_attn.models import bert_tasks
    >>> model = encoder("gpt_tiny", vocabulary_size=100)
    >>> model.output["sequence_output"].shape
    (None, None, 128)
    >>> bert_tasks.classifier(model, num_classes=3).get_layer("pooling").mode
    'last'
    """
    size = resolve(size, GPT_SIZES, overrides)
    inputs = encoder_inputs()
    states, _ = _blocks(size, inputs, position, window, kernel, remat, dtype)
    norm = keras.layers.LayerNormalization(
        epsilon=size.layer_norm_epsilon, dtype=dtype, name="norm"
    )
    states[-1] = norm(states[-1])
    outputs: dict[str, Any] = {"sequence_output": states[-1]}
    if hidden_states:
        outputs["hidden_states"] = states
    return keras.Model(inputs, outputs, name=name)


def _blocks(
    size: GptSize,
    inputs: dict[str, keras.KerasTensor],
    position: keras.layers.Layer | None,
    window: Window,
    kernel: str,
    remat: bool,
    dtype: DType,
) -> tuple[list[Tensor], Tensor]:
    """The embeddings and the output of each block, `[B, T, D]`, and the token matrix `[V, D]`."""
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
            activation=size.activation,
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

    # Functional model
    hidden, matrix = embedding(inputs["token_ids"], return_matrix=True)
    states = [dropout(token_position(hidden))]
    for block in blocks:
        states.append(block(states[-1], mask=inputs["padding_mask"]))
    return states, matrix
