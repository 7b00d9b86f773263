"""Decoding with a trained model: its own layers, with the cache as input and output.

Letters: B batch, T new length, L cache length, S source length, K key/value heads, H head width,
V vocabulary, D model width.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_attn import layers
from keras_attn.models import parts
from keras_attn.ops import cache as caches


def decoder_step(model: keras.Model) -> keras.Model:
    """One step of a trained decoder: new tokens and the cache in, logits and the cache out.

    Inputs: token_ids int `[B, T]`; index int, a scalar: the position of the first of them; cache,
    as `empty_cache` makes it; output_matrix `[V, D]`, the embeddings as the head takes them; for an
    encoder-decoder also context, as `source_context` makes it. Outputs: logits `[B, V]` after the
    last token, and the cache. The layers are the model's own: training it further changes the step.

    Args:
        model: from `models.gpt.decoder` or `models.transformer.encoder_decoder`.

    Example:
    >>> from keras_attn import models
    >>> step = decoder_step(models.gpt.decoder("gpt_tiny", vocabulary_size=100))
    >>> sorted(step.input), step.output["logits"].shape
    (['cache', 'index', 'output_matrix', 'token_ids'], (None, 100))
    """
    decoder = _decoder(model)
    embedding, position, blocks = decoder.embedding, decoder.position, decoder.blocks
    translates = "source_ids" in model.input

    # Functional model
    inputs = {
        "token_ids": keras.Input((None,), dtype="int32", name="token_ids"),
        "index": keras.Input(batch_shape=(), dtype="int32", name="index"),
        "cache": {block.name: _cache_input(block.self_attention, block) for block in blocks},
        "output_matrix": keras.Input(
            batch_shape=embedding.embeddings.shape,
            dtype=embedding.compute_dtype,
            name="output_matrix",
        ),
    }
    if translates:
        inputs["context"] = {
            block.name: _cache_input(block.cross_attention, block, "context_") for block in blocks
        }
        inputs["context"]["padding_mask"] = keras.Input((None,), dtype="bool", name="padding_mask")
    hidden = embedding(inputs["token_ids"])
    if not isinstance(position, keras.layers.Identity):
        hidden = position(hidden, offset=inputs["index"])
    cache, context = {}, inputs.get("context")
    for block in blocks:
        step = layers.CachedBlock(block, name=f"{block.name}_step")
        own = inputs["cache"][block.name]
        if context is None:
            hidden, cache[block.name] = step(hidden, own, inputs["index"])
        else:
            both = {"self": own, "context": context[block.name]}
            hidden, both = step(hidden, both, inputs["index"], context["padding_mask"])
            cache[block.name] = both["self"]

    # Outputs
    logits = parts.of(model).head(hidden[:, -1], inputs["output_matrix"])
    return keras.Model(inputs, {"logits": logits, "cache": cache}, name=f"{model.name}_step")


def empty_cache(model: keras.Model, batch_size: Any, length: int) -> dict:
    """The cache of `decoder_step` before the first token, with room for `length` tokens.

    Raises:
        ValueError: the model has no positions for that length.
    """
    decoder = _decoder(model)
    longest = getattr(decoder.position, "max_length", length)
    if length > longest:
        raise ValueError(f"`length` must be at most the model's {longest} positions, got {length}")
    cache = {}
    for block in decoder.blocks:
        heads, width = _heads(block.self_attention)
        cache[block.name] = caches.create(batch_size, length, heads, width, block.compute_dtype)
    return cache


def source_context(model: keras.Model, source_ids: Any, source_padding_mask: Any = None) -> dict:
    """What every step of an encoder-decoder needs of the source, computed once.

    Args:
        model: from `models.transformer.encoder_decoder`.
        source_ids: int `[B, S]`.
        source_padding_mask: bool `[B, S]`, False at padding; nothing is unless given.

    Returns:
        `{"padding_mask": [B, S]}` and for each block `{"key", "value"}`, each `[B, K, S, H]`.
    """
    return _context_function(model)(source_ids, source_padding_mask)


def generator(model: keras.Model, search: Callable[..., Any], length: int) -> Callable[..., Any]:
    """A function from prompts to what a search finds, ready for `decoding.compiled`.

    What is the same at every step is computed once for each call: the source's keys and values, and
    the output matrix, transposed.

    Args:
        model: a trained decoder or encoder-decoder of this package.
        search: one of `keras_attn.decoding`, with its options bound by `functools.partial`.
        length: L, room for a prompt and what follows.

    Returns:
        `generate(prompt_ids, prompt_lengths=None, source_ids=None, source_padding_mask=None,
        **options)`, where the options go to the search.

    Example:
    >>> import functools
    >>> import numpy as np
    >>> from keras_attn import decoding, models
    >>> model = models.gpt.decoder("gpt_tiny", vocabulary_size=100)
    >>> search = functools.partial(decoding.greedy, max_new_tokens=3)
    >>> generate = decoding.compiled(generator(model, search, length=5), model.variables)
    >>> generate(np.array([[7, 8]]))["token_ids"].shape
    TensorShape([1, 5])
    """
    step_model, embedding = decoder_step(model), _decoder(model).embedding
    encode = _context_function(model) if "source_ids" in model.input else None

    def generate(
        prompt_ids: Any,
        prompt_lengths: Any = None,
        source_ids: Any = None,
        source_padding_mask: Any = None,
        **options: Any,
    ) -> Any:
        # The head transposes it back: two transpositions inside the loop cancel, and the one out
        # here lays the matrix out as the product reads it.
        columns = ops.transpose(ops.cast(embedding.embeddings, embedding.compute_dtype))  # [D, V]

        def step(token_ids: Any, index: Any, cache: Any, context: Any) -> tuple[Any, Any]:
            inputs = {
                "token_ids": token_ids,
                "index": ops.convert_to_tensor(index, "int32"),
                "cache": cache,
                "output_matrix": ops.transpose(columns),
            }
            if context is not None:
                inputs["context"] = context
            outputs = step_model(inputs, training=False)
            return outputs["logits"], outputs["cache"]

        return search(
            step,
            prompt_ids,
            prompt_lengths=prompt_lengths,
            cache=empty_cache(model, ops.shape(prompt_ids)[0], length),
            context=encode and encode(source_ids, source_padding_mask),
            **options,
        )

    return generate


def _decoder(model: keras.Model) -> parts.Stack:
    decoder = parts.of(model).decoder
    if decoder is None or decoder.position is None:  # a BERT, or recurrent
        raise ValueError(
            "`model` must be of models.gpt.decoder or models.transformer.encoder_decoder, "
            f"got {model.name!r}"
        )
    return decoder


def _context_function(model: keras.Model) -> Callable[..., dict]:
    found = parts.of(model)
    blocks = found.decoder.blocks
    last = found.encoder.norm or found.encoder.blocks[-1]
    inputs = {name: model.input[name] for name in ("source_ids", "source_padding_mask")}
    encoder = keras.Model(inputs, parts.outputs(model, last)[0], name=f"{model.name}_encoder")

    def encode(source_ids: Any, source_padding_mask: Any = None) -> dict:
        source_ids = ops.convert_to_tensor(source_ids, "int32")
        if source_padding_mask is None:
            source_padding_mask = ops.ones_like(source_ids, dtype="bool")
        mask = ops.convert_to_tensor(source_padding_mask, "bool")
        context = encoder({"source_ids": source_ids, "source_padding_mask": mask}, training=False)
        # In the order of the step's inputs: on torch Keras tells nested inputs apart by it.
        return {**{block.name: block.store(context) for block in blocks}, "padding_mask": mask}

    return encode


def _cache_input(attention: Any, block: keras.layers.Layer, prefix: str = "") -> dict:
    heads, width = _heads(attention)
    return {
        name: keras.Input(
            (heads, None, width), dtype=block.compute_dtype, name=f"{block.name}_{prefix}{name}"
        )
        for name in ("key", "value")
    }


def _heads(attention: keras.layers.Layer) -> tuple[int, int]:
    heads = attention.num_kv_heads or attention.num_heads
    return heads, attention.key_projection.units // heads
