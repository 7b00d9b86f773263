"""Decoding with a trained model: its start and its step, for the loops of `decoding`.

Letters: B batch, T new length, L cache length, S source length, K key/value heads, H head width,
V vocabulary, D model width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_attn._checks import to_boolean
from keras_attn._keras import register
from keras_attn._typing import Cache, Config, Nested, Size, Tensor
from keras_attn.models import parts, rnn_attention
from keras_attn.ops import cache as caches


class Start(NamedTuple):
    """What a loop of `decoding` needs from a model, under the names of its arguments."""

    step: Callable[[Tensor, Size, Cache, Nested], tuple[Tensor, Cache]]
    cache: Cache
    context: Nested
    prefill: bool


def generator(model: keras.Model, search: Callable[..., dict], length: int) -> Callable[..., dict]:
    """A function from prompts to the result of a search, ready for `decoding.compiled`.

    Args:
        model: a trained decoder or encoder-decoder of this package, recurrent or not.
        search: one of `keras_attn.decoding`, with its options bound by `functools.partial`.
        length: L, the maximum number of prompt and new tokens.

    Returns:
        `generate(prompt_ids, prompt_lengths=None, source_ids=None, source_padding_mask=None,
        **options)`, where the options go to the search.

    Raises:
        ValueError: another model; fewer positions than `length`; in the function, source ids that
            are missing for an encoder-decoder, or given for a decoder.

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
    start = starter(model, length)

    def generate(
        prompt_ids: Tensor,
        prompt_lengths: Tensor | None = None,
        source_ids: Tensor | None = None,
        source_padding_mask: Tensor | None = None,
        **options: Any,
    ) -> dict:
        begun = start(ops.shape(prompt_ids)[0], source_ids, source_padding_mask)
        return search(
            begun.step,
            prompt_ids,
            prompt_lengths=prompt_lengths,
            cache=begun.cache,
            context=begun.context,
            prefill=begun.prefill,
            max_length=length,
            **options,
        )

    return generate


def starter(model: keras.Model, length: int) -> Callable[..., Start]:
    """A function that starts the decoding of a batch.

    It computes once what every step uses: the source's keys and values, a recurrent decoder's
    memory, the output matrix in the layout of the product.

    Args:
        model: a trained decoder or encoder-decoder of this package; training it further changes
            what the function returns.
        length: L, the maximum number of prompt and new tokens.

    Returns:
        `start(batch_size, source_ids=None, source_padding_mask=None)`, which returns a `Start`.

    Raises:
        ValueError: another model.

    Example:
    >>> from keras_attn import decoding, models
    >>> model = models.rnn_attention.encoder_decoder(100, embedding_dim=3, units=5)
    >>> source = ops.convert_to_tensor([[7, 11, 0]])
    >>> begun = starter(model, length=4)(1, source)
    >>> options = {**begun._asdict(), "max_length": 4, "max_new_tokens": 3}
    >>> decoding.greedy(prompt_ids=[[1]], **options)["token_ids"].shape
    TensorShape([1, 4])
    """
    found, decoder = parts.of(model), parts.decoder(model)
    recurrent = decoder.position is None
    begin = _recurrent_starter(model) if recurrent else _cached_starter(model, length)

    def start(
        batch_size: Size,
        source_ids: Tensor | None = None,
        source_padding_mask: Tensor | None = None,
    ) -> Start:
        if found.encoder is not None and source_ids is None:
            raise ValueError(f"`source_ids` must be given for {model.name!r}, got None")
        if found.encoder is None and not (source_ids is None is source_padding_mask):
            raise ValueError(
                f"`source_ids` and `source_padding_mask` must be None for {model.name!r}, which "
                "has no encoder, got values"
            )
        return begin(batch_size, source_ids, source_padding_mask)

    return start


def empty_cache(model: keras.Model, batch_size: Size, length: int) -> dict:
    """The cache of a decoder with attention before the first token, for `length` tokens.

    Raises:
        ValueError: the model has no positions for that length.
    """
    decoder = parts.decoder(model)
    longest = getattr(decoder.position, "max_length", length)
    if length > longest:
        raise ValueError(f"`length` must be at most the model's {longest} positions, got {length}")
    cache = {}
    for block in decoder.blocks:
        attention = block.self_attention
        heads = attention.num_kv_heads or attention.num_heads
        width = attention.key_projection.units // heads
        cache[block.name] = caches.create(batch_size, length, heads, width, block.compute_dtype)
    return cache


def source_context(
    model: keras.Model, source_ids: Tensor, source_padding_mask: Tensor | None = None
) -> dict:
    """What every step of an encoder-decoder needs from the source, computed once.

    Args:
        model: from `models.transformer.encoder_decoder`.
        source_ids: int `[B, S]`.
        source_padding_mask: bool `[B, S]`, False at padding; defaults to no padding.

    Returns:
        `{"padding_mask": [B, S]}` and for each block `{"key", "value"}`, each `[B, K, S, H]`.
    """
    return _encode(model)(source_ids, source_padding_mask)


def decoder_step(model: keras.Model) -> keras.Model:
    """One step of a trained decoder with attention as a model, to be saved or exported.

    Inputs: token_ids int `[B, T]`; index int, a scalar: the position of the first of them; cache,
    as `empty_cache` makes it; output_matrix `[V, D]`, the token embeddings; for an
    encoder-decoder also context, as `source_context` makes it. Outputs: logits `[B, V]` after the
    last token, and the cache. The layers are the model's own: training it further changes the step.

    Args:
        model: from `models.gpt.decoder` or `models.transformer.encoder_decoder`.

    Example:
    >>> from keras_attn import models
    >>> model = models.gpt.decoder("gpt_tiny", vocabulary_size=100)
    >>> matrix = models.parts.of(model).decoder.embedding.embeddings
    >>> outputs = decoder_step(model)({
    ...     "token_ids": ops.convert_to_tensor([[7, 8]]), "index": ops.convert_to_tensor(0),
    ...     "cache": empty_cache(model, 1, 5), "output_matrix": ops.convert_to_tensor(matrix)})
    >>> sorted(outputs), outputs["logits"].shape
    (['cache', 'logits'], TensorShape([1, 100]))
    """
    return DecoderStep(model, name=f"{model.name}_step")


@register()
class DecoderStep(keras.Model):
    """What `decoder_step` returns."""

    def __init__(self, model: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.built = True

    def call(self, inputs: dict) -> dict:
        """One step, without dropout."""
        logits, cache = _step(
            parts.decoder(self.model),
            parts.of(self.model).head,
            context=inputs.get("context"),
            **{name: inputs[name] for name in ("token_ids", "index", "cache", "output_matrix")},
        )
        return {"logits": logits, "cache": cache}

    def get_config(self) -> Config:
        """All constructor arguments."""
        model = keras.saving.serialize_keras_object(self.model)
        return {**super().get_config(), "model": model}

    @classmethod
    def from_config(cls, config: Config, custom_objects: Config | None = None) -> "DecoderStep":
        """The step of the model in the configuration."""
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects)
        return cls(**{**config, "model": model})


def _step(
    decoder: parts.Stack,
    head: keras.layers.Layer,
    token_ids: Tensor,
    index: Size,
    cache: dict,
    context: Nested | None,
    output_matrix: Tensor,
) -> tuple[Tensor, Cache]:
    hidden = decoder.embedding(token_ids)  # [B, T, D]
    if not isinstance(decoder.position, keras.layers.Identity | None):
        hidden = decoder.position(hidden, offset=index)
    new = {}
    for block in decoder.blocks:
        own, masks = cache[block.name], {}
        if context is not None:
            own = {"self": own, "context": context[block.name]}
            masks = {"context_mask": context["padding_mask"]}
        hidden, own = block(hidden, cache=own, cache_index=index, training=False, **masks)
        new[block.name] = own if context is None else own["self"]
    return head(hidden[:, -1], output_matrix), new


def _encode(model: keras.Model) -> Callable[..., dict]:
    stack, blocks = parts.encoder(model), parts.decoder(model).blocks
    last = stack.norm or stack.blocks[-1]
    inputs = {name: model.input[name] for name in ("source_ids", "source_padding_mask")}
    encoder = keras.Model(inputs, parts.outputs(model, last)[0], name=f"{model.name}_encoder")

    def encode(source_ids: Tensor, source_padding_mask: Tensor | None = None) -> dict:
        source_ids = ops.convert_to_tensor(source_ids, "int32")
        if source_padding_mask is None:
            source_padding_mask = ops.ones_like(source_ids, dtype="bool")
        mask = to_boolean("source_padding_mask", source_padding_mask)
        context = encoder({"source_ids": source_ids, "source_padding_mask": mask}, training=False)
        keys = {block.name: block.store(context) for block in blocks}
        return {**keys, "padding_mask": mask}

    return encode


def _cached_starter(model: keras.Model, length: int) -> Callable[..., Start]:
    found, decoder = parts.of(model), parts.decoder(model)
    embedding = decoder.embedding
    encode = _encode(model) if found.encoder else None

    def start(
        batch_size: Size, source_ids: Tensor | None, source_padding_mask: Tensor | None
    ) -> Start:
        # The head transposes it back: two transpositions inside the loop cancel, and this one
        # stores the matrix in the layout of the product.
        columns = ops.transpose(ops.cast(embedding.embeddings, embedding.compute_dtype))  # [D, V]

        def step(
            token_ids: Tensor, index: Size, cache: Cache, context: Nested
        ) -> tuple[Tensor, Cache]:
            index = ops.convert_to_tensor(index, "int32")
            matrix = ops.transpose(columns)
            return _step(decoder, found.head, token_ids, index, cache, context, matrix)

        context = encode(source_ids, source_padding_mask) if encode else None
        return Start(step, empty_cache(model, batch_size, length), context, prefill=True)

    return start


def _recurrent_starter(model: keras.Model) -> Callable[..., Start]:
    first, step_model = rnn_attention.start(model), rnn_attention.step(model)
    constant = ("memory", "keys", "memory_mask")  # states that no step changes

    def step(token_ids: Tensor, index: Size, cache: dict, context: dict) -> tuple[Tensor, dict]:
        inputs = {"token_ids": token_ids[:, 0], **cache, **context}
        outputs = step_model(inputs, training=False)
        return outputs["logits"], {name: outputs[name] for name in cache}

    def start(
        batch_size: Size, source_ids: Tensor | None, source_padding_mask: Tensor | None
    ) -> Start:
        source_ids = ops.convert_to_tensor(source_ids, "int32")
        if source_padding_mask is not None:
            mask = to_boolean("source_padding_mask", source_padding_mask)
            source_ids = ops.where(mask, source_ids, 0)
        state = first(source_ids, training=False)
        context = {name: state[name] for name in constant}
        cache = {name: value for name, value in state.items() if name not in constant}
        return Start(step, cache, context, prefill=False)

    return start
