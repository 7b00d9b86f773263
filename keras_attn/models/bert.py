"""BERT as functional Keras models.

Letters: B batch, T length, P masked positions, V vocabulary, D model width.
"""

from typing import Any

import keras

from keras_attn import layers
from keras_attn._typing import Activation, DType
from keras_attn.models import parts
from keras_attn.models.inputs import encoder_inputs
from keras_attn.models.sizes import BERT_SIZES, BertSize, first_given, resolve
from keras_attn.ops.masks import Window


def encoder(
    size: str | BertSize = "bert_base",
    *,
    hidden_states: bool = False,
    window: Window = None,
    kernel: str = "auto",
    remat: bool = False,
    dtype: DType = None,
    name: str = "bert_encoder",
    **overrides: Any,
) -> keras.Model:
    """The encoder: token, segment and position embeddings, then Transformer blocks.

    Inputs: token_ids int `[B, T]`, segment_ids int `[B, T]`, padding_mask bool `[B, T]`, False at
    padding. Outputs: sequence_output `[B, T, D]`, pooled_output `[B, D]` (the first position
    through a dense layer and tanh), and on request hidden_states, a list of
    `[B, T, D]`: the embeddings, then the output of each block.

    Args:
        size: a `BertSize` or the name of one: bert_tiny, bert_small, bert_base, bert_large.
        hidden_states: whether the model returns the output of every layer too.
        window: restricts self-attention to positions less than this far away, or to a pair of such
            numbers, before and after.
        kernel: which of `keras_attn.ops.kernels` computes the attention.
        remat: whether training computes each block again in the backward pass, for less memory.
        dtype: dtype of the layers, a name or a Keras dtype policy.
        name: name of the model.
        **overrides: fields of the size to replace, such as `vocabulary_size=8000`.

    Raises:
        ValueError: an unknown size or field.

    Source: Devlin et al. 2019, section 3.

    Example:
    >>> model = encoder("bert_tiny", vocabulary_size=100)
    >>> sorted(model.output)
    ['pooled_output', 'sequence_output']
    """
    size = resolve(size, BERT_SIZES, overrides)
    initializer = keras.initializers.TruncatedNormal(stddev=size.initializer_range)

    # Layers
    embedding = layers.BertEmbedding(
        size.vocabulary_size,
        size.hidden_dim,
        max_length=size.max_length,
        num_segments=size.num_segments,
        dropout=size.dropout,
        layer_norm_epsilon=size.layer_norm_epsilon,
        initializer=initializer,
        padding_id=size.padding_id,
        dtype=dtype,
        name="embedding",
    )
    blocks = [
        layers.TransformerEncoderBlock(
            size.num_heads,
            size.intermediate_dim,
            dropout=size.dropout,
            attention_dropout=first_given(size.attention_dropout, size.dropout),
            attention_output_dropout=size.attention_output_dropout,
            activation=size.activation,
            layer_norm_epsilon=size.layer_norm_epsilon,
            window=window,
            kernel=kernel,
            remat=remat,
            kernel_initializer=initializer,
            dtype=dtype,
            name=f"block_{index}",
        )
        for index in range(size.num_layers)
    ]
    pooler = keras.layers.Dense(
        size.hidden_dim,
        activation=size.pooler_activation,
        kernel_initializer=initializer.clone(),
        dtype=dtype,
        name="pooler",
    )

    # Functional model
    inputs = encoder_inputs()
    # With one segment the ids only tell a span head where the context is.
    segment_ids = inputs["segment_ids"] if size.num_segments > 1 else None
    hidden, _ = embedding(inputs["token_ids"], segment_ids, return_matrix=True)
    states = [hidden]
    for block in blocks:
        states.append(block(states[-1], mask=inputs["padding_mask"]))

    # Outputs
    first = states[-1][:, 0]
    if size.pooler_dropout:
        first = keras.layers.Dropout(size.pooler_dropout, dtype=dtype, name="pooler_dropout")(first)
    outputs = {"sequence_output": states[-1], "pooled_output": pooler(first)}
    if hidden_states:
        outputs["hidden_states"] = states
    return keras.Model(inputs, outputs, name=name)


def pretraining(
    size: str | BertSize = "bert_base", *, name: str = "bert_pretraining", **options: Any
) -> keras.Model:
    """The encoder with the two heads of pre-training, which share the token matrix.

    Inputs: those of `encoder`, and masked_positions int `[B, P]`. Outputs: logits masked_lm
    `[B, P, V]` at these positions, and next_sentence `[B, 2]`, where class 0 says that the second
    segment follows the first. `encoder_of` gives the encoder back.

    Args:
        size: a `BertSize` or the name of one.
        name: name of the model.
        **options: as in `encoder`.

    Raises:
        ValueError: as `encoder`.

    Source: Devlin et al. 2019, section 3.1.

    Example:
    >>> model = pretraining("bert_tiny", vocabulary_size=100)
    >>> sorted(model.output), model.output["masked_lm"].shape
    (['masked_lm', 'next_sentence'], (None, None, 100))
    """
    return with_pretraining_heads(encoder(size, **options), name=name)


def with_pretraining_heads(
    encoder: keras.Model, name: str = "bert_pretraining", *, activation: Activation = None
) -> keras.Model:
    """`pretraining` on top of an existing encoder; the two share their layers.

    Inputs: those of the encoder, and masked_positions int `[B, P]`. Outputs: logits masked_lm
    `[B, P, V]` and next_sentence `[B, 2]`, in the dtype of the encoder's pooler.

    Args:
        encoder: with outputs sequence_output and pooled_output.
        name: name of the model.
        activation: activation of the masked-LM head; defaults to that of the encoder's blocks.

    Raises:
        ValueError: `encoder` has no output pooled_output, or is no model of this package.

    Source: Devlin et al. 2019, section 3.1.

    Example:
    >>> model = with_pretraining_heads(encoder("bert_tiny", vocabulary_size=100))
    >>> model.output["masked_lm"].shape, model.output["next_sentence"].shape
    ((None, None, 100), (None, 2))
    """
    stack, pooler = parts.encoder(encoder), parts.of(encoder).pooler
    if pooler is None:
        raise ValueError(
            f"`encoder` must have an output 'pooled_output', got {', '.join(encoder.output)}"
        )
    embedding, blocks = stack.embedding, stack.blocks
    head = layers.BertPretrainingHead(
        activation=activation or blocks[0].activation,
        kernel_initializer=pooler.kernel_initializer.clone(),
        layer_norm_epsilon=embedding.layer_norm_epsilon,
        dtype=pooler.dtype_policy,
        name="head",
    )
    positions = keras.Input((None,), dtype="int32", name="masked_positions")
    outputs = head(
        encoder.output["sequence_output"],
        encoder.output["pooled_output"],
        parts.outputs(encoder, embedding)[1],  # the token matrix
        masked_positions=positions,
    )
    return keras.Model({**encoder.input, "masked_positions": positions}, outputs, name=name)


def encoder_of(
    model: keras.Model, name: str = "bert_encoder", *, hidden_states: bool = False
) -> keras.Model:
    """The encoder inside a model of this package; the two share their layers.

    It has no pooled_output if the model has no pooler.

    Args:
        model: a model of `keras_attn.models.bert`, `modern_bert` or `bert_tasks`, or of
            `gpt.encoder`.
        name: name of the encoder.
        hidden_states: as in `encoder`.

    Raises:
        ValueError: a model without such an encoder, or one that takes packed rows.
    """
    found = parts.of(model)
    stack = found.encoder
    if stack is None or found.decoder is not None:
        raise ValueError(
            f"`model` must hold an encoder and no decoder, as BERT does, got {model.name!r}"
        )
    if "sequence_ids" in model.input:
        raise ValueError(
            f"`model` must take one sequence a row, got {model.name!r}, which takes packed rows: "
            "give the model that `packed` was called with"
        )
    for layer in model.layers:
        if isinstance(layer, keras.Model):  # multiple choice calls the encoder as a whole
            return encoder_of(layer, name, hidden_states=hidden_states)
    inputs = {key: model.input[key] for key in ("token_ids", "segment_ids", "padding_mask")}
    first, last = stack.dropout or stack.embedding, stack.norm or stack.blocks[-1]
    ends = (first, *stack.blocks[:-1], last)
    states = [parts.outputs(model, layer)[0] for layer in ends]
    outputs = {"sequence_output": states[-1]}
    if found.pooler is not None:
        outputs["pooled_output"] = parts.outputs(model, found.pooler)[0]
    if hidden_states:
        outputs["hidden_states"] = states
    return keras.Model(inputs, outputs, name=name)
