"""Recurrent encoder and decoder with attention, as functional Keras models.

Letters: B batch, S source length, T target length, U units, Da width of the attention's output, V
target vocabulary.
"""

import keras
from keras import ops

from keras_attn import layers
from keras_attn._checks import check_count
from keras_attn.models import parts

_ATTENTIONS = {
    "bahdanau": lambda units: layers.BahdanauAttention(units, name="attention"),
    "luong": lambda units: layers.LuongAttention(units, name="attention"),
    "local_p": lambda units: layers.LuongAttention(units, locality="local_p", name="attention"),
}


def encoder_decoder(
    vocabulary_size: int,
    target_vocabulary_size: int | None = None,
    *,
    embedding_dim: int = 256,
    units: int = 256,
    attention: str | keras.layers.Layer = "bahdanau",
    cell: keras.layers.Layer | None = None,
    dropout: float = 0.0,
    attention_scores: bool = False,
    name: str = "rnn_attention",
) -> keras.Model:
    """A bidirectional GRU encodes the source; a recurrent decoder attends to it.

    Inputs: source_ids int `[B, S]`, target_ids int `[B, T]`, zero at padding; the target is shifted
    right by one, so that step t sees the tokens before t. Outputs: logits `[B, T, V]`, and on
    request attention_scores `[B, T, S]`.

    Args:
        vocabulary_size: size of the source vocabulary.
        target_vocabulary_size: V; defaults to `vocabulary_size`.
        embedding_dim: width of the embeddings and of the layer before the logits.
        units: U, width of each direction of the encoder, of the decoder's cell and of the
            attention.
        attention: "bahdanau", "luong" (general score), "local_p", or an attention layer. Bahdanau's
            query is the state before a step, any other's the state after it.
        cell: the decoder's recurrent cell; defaults to a GRUCell.
        dropout: fraction of the embeddings and of the decoder's outputs zeroed in training.
        attention_scores: whether the model returns the weights too.
        name: name of the model.

    Raises:
        ValueError: an unknown attention; the message lists the known ones.

    Source: Bahdanau et al. 2015, section 3 and appendix A; Luong et al. 2015, section 3.

    Example:
    >>> model = encoder_decoder(100, 90, embedding_dim=3, units=5)
    >>> model.output["logits"].shape
    (None, None, 90)
    """
    vocabulary_size = check_count("vocabulary_size", vocabulary_size)
    if target_vocabulary_size is None:
        target_vocabulary_size = vocabulary_size
    target_vocabulary_size = check_count("target_vocabulary_size", target_vocabulary_size)
    embedding_dim = check_count("embedding_dim", embedding_dim)
    units = check_count("units", units)
    if isinstance(attention, str):
        if attention not in _ATTENTIONS:
            raise ValueError(
                f"`attention` must be a layer or one of {', '.join(_ATTENTIONS)}, got {attention!r}"
            )
        attention = _ATTENTIONS[attention](units)
    query_state = "previous" if isinstance(attention, layers.BahdanauAttention) else "current"
    cell = cell or keras.layers.GRUCell(units, name="cell")

    # Layers
    source_embedding = keras.layers.Embedding(
        vocabulary_size, embedding_dim, mask_zero=True, name="source_embedding"
    )
    target_embedding = keras.layers.Embedding(
        target_vocabulary_size, embedding_dim, mask_zero=True, name="target_embedding"
    )
    encoder = keras.layers.Bidirectional(
        keras.layers.GRU(units, return_sequences=True, return_state=True), name="encoder"
    )
    bridges = [
        keras.layers.Dense(size, activation="tanh", name=f"bridge_{i}")
        for i, size in enumerate(keras.tree.flatten(cell.state_size))
    ]
    decoder = layers.AttentionDecoder(
        layers.AttentionDecoderCell(cell, attention, query_state), name="decoder"
    )
    readout = keras.layers.Dense(embedding_dim, activation="tanh", name="readout")
    logits = keras.layers.Dense(target_vocabulary_size, name="logits", dtype="float32")
    drop = keras.layers.Dropout(dropout, name="dropout")

    # Functional model
    source_ids = keras.Input((None,), dtype="int32", name="source_ids")
    target_ids = keras.Input((None,), dtype="int32", name="target_ids")
    memory, _, first = encoder(drop(source_embedding(source_ids)))  # [B, S, 2 U], [B, U]
    state = keras.tree.pack_sequence_as(cell.state_size, [bridge(first) for bridge in bridges])
    hidden, scores = decoder(
        drop(target_embedding(target_ids)), memory, state, return_attention_scores=True
    )  # [B, T, Da], [B, T, S]

    # Outputs
    outputs = {"logits": logits(drop(readout(hidden)))}
    if attention_scores:
        outputs["attention_scores"] = scores
    return keras.Model({"source_ids": source_ids, "target_ids": target_ids}, outputs, name=name)


def start(model: keras.Model) -> keras.Model:
    """The part of an `encoder_decoder` that runs once: source_ids `[B, S]` -> the first state.

    The state is a dict of tensors `[B, ...]`: the states of the decoder's cell, the memory, and its
    projection.

    Args:
        model: from `encoder_decoder`; the layers and weights are shared with it.
    """
    source_ids = keras.Input((None,), dtype="int32", name="source_ids")
    stack = parts.encoder(model)
    (encoder,), (decoder,) = stack.blocks, parts.decoder(model).blocks
    cell = decoder.cell
    memory, _, first = encoder(stack.embedding(source_ids))
    states = cell.get_initial_state(
        memory=memory,
        memory_mask=ops.not_equal(source_ids, 0),
        cell=[bridge(first) for bridge in parts.of(model).bridges],
    )
    # Copying drops Keras' mask: the state holds memory_mask instead.
    outputs = {name: ops.copy(state) for name, state in zip(cell.state_names, states, strict=True)}
    return keras.Model(source_ids, outputs, name="start")


def step(model: keras.Model) -> keras.Model:
    """One step of decoding: a token and a state in, logits and the next state out.

    Inputs: a dict of token_ids int `[B]` and the tensors of the state, which `start` or the
    previous step returned. Outputs: a dict of logits `[B, V]` and the state's tensors under the
    same names, attention_scores `[B, S]` among them.

    Args:
        model: from `encoder_decoder`; the layers and weights are shared with it.

    Example:
    >>> model = encoder_decoder(100, 90, embedding_dim=3, units=5)
    >>> state = start(model)(ops.convert_to_tensor([[7, 11, 0]]))
    >>> outputs = step(model)({"token_ids": ops.convert_to_tensor([1]), **state})
    >>> outputs["logits"].shape, outputs["attention_scores"].shape
    (TensorShape([1, 90]), TensorShape([1, 3]))
    """
    found, stack = parts.of(model), parts.decoder(model)
    (decoder,) = stack.blocks
    cell = decoder.cell
    token_ids = keras.Input((), dtype="int32", name="token_ids")
    state = {
        name: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=name)
        for name, tensor in start(model).output.items()
    }
    embedded = stack.embedding(token_ids)  # [B, D]
    hidden, states = cell(embedded, [state[name] for name in cell.state_names])
    logits = found.head(found.readout(hidden))
    outputs = {"logits": logits, **dict(zip(cell.state_names, states, strict=True))}
    return keras.Model({"token_ids": token_ids, **state}, outputs, name="step")
