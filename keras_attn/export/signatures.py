"""The automatic signatures of a model: from strings, from tokens, attention weights, vectors.

Letters: B batch, T length, N heads, D model width.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_attn import models
from keras_attn._keras import flatten_layers
from keras_attn._typing import Nested
from keras_attn.data import Postprocessor, Preprocessor
from keras_attn.export.signature import DEFAULT, Signature, flattened, input_names, plain_names
from keras_attn.models import parts
from keras_attn.models.first_position import first_position_only
from keras_attn.visualization import attention_model

CHECKED_LENGTH, CHECKED_ROWS = 11, 3
_SCOPE = re.compile(r"[A-Za-z0-9_.\\/>-]*")


def automatic(
    model: keras.Model,
    preprocessor: Preprocessor | None,
    postprocessor: Postprocessor | None,
    jit_compile: bool,
) -> dict[str, Callable[[], Signature]]:
    """A dict from a name to a function that makes the signature, for this kind of model."""
    core, embeds = _core(first_position_only(model), jit_compile), parts.embeds(model)
    if preprocessor is None:
        return {DEFAULT: lambda: _from_inputs(model, core)}

    def answer(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        outputs = core(features)
        if postprocessor is None:
            return {"embedding": outputs} if embeds else named(outputs, model)
        answers = postprocessor(outputs, features)
        if not isinstance(answers, dict):
            raise ValueError(
                f"`postprocessor` must return a dict of answers, got {type(answers).__name__}"
            )
        return answers

    made = {DEFAULT: lambda: _from_text(preprocessor, answer, model)}
    if hasattr(preprocessor, "from_tokens") and "token_ids" in input_specs(model):
        made["tokens"] = lambda: _from_tokens(preprocessor, answer, model)
        one_row = not _choices(model)
        weights = attention_model(model) if one_row else None
        if weights is not None:
            made["attention"] = lambda: _from_text(
                preprocessor, _with_tokens(_core(weights, jit_compile), preprocessor), weights
            )
        if embeds:
            made["embed"] = lambda: _from_text(
                preprocessor, lambda features: {"embedding": core(features)}, model
            )
        elif one_row and _has_encoder(model):
            encoder = models.bert.encoder_of(model)
            made["embed"] = lambda: _from_text(
                preprocessor, _vectors(_core(encoder, jit_compile)), encoder
            )
    return made


def input_specs(model: keras.Model) -> dict[str, tf.TensorSpec]:
    """The inputs of a functional model by name, in the order of `keras.tree.flatten`.

    Raises:
        ValueError: a request cannot have such an input.
    """
    specs = {}
    for path, tensor in keras.tree.flatten_with_path(model.input):
        name = "_".join(map(str, path)) if isinstance(model.input, dict) else tensor.name
        if tensor.sparse or tensor.ragged:
            raise ValueError(f"`model` must have dense inputs, got {name!r}, which is not dense")
        if not tensor.shape:
            raise ValueError(f"`model` must have the batch first, got the scalar input {name!r}")
        specs[name] = tf.TensorSpec(tensor.shape, tensor.dtype)
    return specs


def functional(model: object) -> keras.Model:
    """The model as a functional model, whose inputs and outputs have names."""
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None) or not model.built:
        raise ValueError(
            f"`model` must be functional, or sequential and built, got {model!r}: "
            "keras.Model(inputs, model(inputs)) is functional"
        )
    for layer in (model, *flatten_layers(model)):
        if not isinstance(layer, keras.layers.InputLayer) and not _SCOPE.fullmatch(layer.name):
            raise ValueError(
                "`model` must have layers with names of letters, digits and . _ - /, as "
                f"TensorFlow's graphs need them, got {layer.name!r}"
            )
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return model


def _core(model: keras.Model, jit_compile: bool) -> Callable[[dict[str, tf.Tensor]], Nested]:
    """The model as a graph function, traced once for all signatures; XLA can compile it."""
    specs = input_specs(model)
    if jit_compile and any(spec.dtype == tf.string for spec in specs.values()):
        raise ValueError("`jit_compile` must be False for a model that takes strings")

    def core(*inputs: tf.Tensor) -> Nested:
        return model(keras.tree.pack_sequence_as(model.input, inputs), training=False)

    core = tf.function(
        core,
        input_signature=list(specs.values()),
        jit_compile=jit_compile or None,
        autograph=False,
    )

    def run(features: dict[str, tf.Tensor]) -> Nested:
        missing = [name for name in specs if name not in features]
        if missing:
            raise ValueError(
                f"`preprocessor` must give the model's inputs {sorted(specs)}, got "
                f"{sorted(features)}"
            )
        inputs = [
            tf.cast(tf.convert_to_tensor(features[name]), spec.dtype)
            for name, spec in specs.items()
        ]
        extra = inputs[0].shape.rank - next(iter(specs.values())).shape.rank
        if not extra:
            return core(*inputs)
        # For the model each window of a context is a row; in the answer they are together.
        outer = tf.shape(inputs[0])[: 1 + extra]
        outputs = core(*(_join(value, extra) for value in inputs))
        return tf.nest.map_structure(
            lambda value: tf.reshape(value, tf.concat([outer, tf.shape(value)[1:]], 0)), outputs
        )

    return run


def named(outputs: Nested, model: keras.Model) -> dict[str, tf.Tensor]:
    """The model's outputs by name: the keys of a dict, or Keras' names."""
    if isinstance(outputs, dict):
        return flattened(outputs)
    values = keras.tree.flatten(outputs)
    return dict(zip(plain_names(model.output_names), values, strict=True))


def _join(tensor: tf.Tensor, extra: int) -> tf.Tensor:
    """Merge the first axis with the `extra` axes after it."""
    shape = tf.shape(tensor)
    rows = tf.reduce_prod(shape[: 1 + extra], keepdims=True)  # not -1: another size may be 0
    return tf.reshape(tensor, tf.concat([rows, shape[1 + extra :]], 0))


def _from_inputs(model: keras.Model, core: Callable) -> Signature:
    specs = input_specs(model)
    names = dict(zip(input_names(specs), specs, strict=True))

    def function(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return named(core({own: inputs[name] for name, own in names.items()}), model)

    inputs = {name: specs[own] for name, own in names.items()}
    example = {name: _example(spec, seed) for seed, (name, spec) in enumerate(inputs.items())}
    return Signature(function, inputs, [example])


def _from_text(preprocessor: Preprocessor, answer: Callable, model: keras.Model) -> Signature:
    examples, choices = _texts(preprocessor, model), _choices(model)

    def function(**texts: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = [texts[name] for name in preprocessor.text_inputs]
        if not choices:  # a request is not ragged: the shorter lists in it end with empty strings
            # pyrefly: ignore[missing-attribute]
            ragged = functools.partial(tf.RaggedTensor.from_tensor, padding="")
            rows = [ragged(row) if row.shape.rank > 1 else row for row in rows]
        return answer({**texts, **preprocessor(*rows)})

    inputs = {}
    for name in preprocessor.text_inputs:
        lists = np.ndim(examples[0][name]) > 1
        sizes = [_batch_size(model), *((choices or [None]) if lists else [])]
        inputs[name] = tf.TensorSpec(sizes, tf.string)
    return Signature(function, inputs, examples)


def _from_tokens(preprocessor: Any, answer: Callable, model: keras.Model) -> Signature:
    spec = input_specs(model)["token_ids"].shape
    extra = spec.rank - 2

    def function(token_ids: tf.Tensor, lengths: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = preprocessor.from_tokens(_join(token_ids, extra), tf.reshape(lengths, [-1]))
        outer = tf.shape(token_ids)[: 1 + extra]
        features = {
            name: tf.reshape(value, tf.concat([outer, tf.shape(value)[1:]], 0))
            for name, value in rows.items()
        }
        return answer(features)

    examples = []
    for texts in _texts(preprocessor, model):
        features = preprocessor(*(texts[name] for name in preprocessor.text_inputs))
        token_ids, mask = features["token_ids"].numpy(), features["padding_mask"].numpy()
        if token_ids.ndim > spec.rank:  # the first window of each context
            token_ids, mask = token_ids[:, 0], mask[:, 0]
        examples.append({"token_ids": token_ids, "lengths": mask.sum(-1, dtype="int32")})
    return Signature(
        function=function,
        inputs={
            "token_ids": tf.TensorSpec(spec, tf.int32),
            "lengths": tf.TensorSpec(spec[:-1], tf.int32),
        },
        examples=examples,
    )


def _batch_size(model: keras.Model) -> int | None:
    """The number of rows, if the model takes no other; otherwise None."""
    return next(iter(input_specs(model).values())).shape[0]


def _choices(model: keras.Model) -> list[int | None]:
    """`[choices]` for a multiple-choice model, None where it may vary; `[]` for others."""
    spec = input_specs(model).get("token_ids")
    return [] if spec is None else list(spec.shape[1:-1])


def _texts(preprocessor: Preprocessor, model: keras.Model) -> list[dict[str, Nested]]:
    """A batch for checks, then one of each length for warming up."""
    choices = _choices(model)
    rows, length = _batch_size(model), preprocessor.length
    batches = [preprocessor.examples(min(CHECKED_LENGTH, length), rows or CHECKED_ROWS)]
    batches += [preprocessor.examples(bucket, rows or 1) for bucket in _buckets(length)]
    return [
        {
            # The preprocessor does not know the number of choices of the model.
            name: [row[:1] * choices[0] if choices and np.ndim(row) else row for row in rows]
            for name, rows in batch.items()
        }
        for batch in batches
    ]


def _with_tokens(core: Callable, preprocessor: Any) -> Callable:
    """The attention weights of every layer, [B, N, T, T] each, with the tokens."""

    def answer(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        tokens = preprocessor.tokenizer.tokens(features["token_ids"])
        tokens = tf.where(features["padding_mask"], tokens, "")
        return {"tokens": tokens, "pieces": tokens, **core(features)}  # two names for one version

    return answer


def _vectors(core: Callable) -> Callable:
    """The mean of a text's tokens, [B, D], and the output of the pooler, if there is one."""

    def answer(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        outputs = core(features)
        tokens = tf.cast(outputs["sequence_output"], tf.float32)
        weights = tf.cast(features["padding_mask"], tf.float32)[..., None]
        sums = tf.reduce_sum(tokens * weights, axis=-2)
        mean = tf.math.divide_no_nan(sums, tf.reduce_sum(weights, axis=-2))
        vectors = {"mean": mean}
        if "pooled_output" in outputs:
            vectors["pooled"] = outputs["pooled_output"]
        return vectors

    return answer


def _has_encoder(model: keras.Model) -> bool:
    """Whether `bert.encoder_of` finds an encoder with the inputs of BERT's."""
    found = parts.find(model)
    own = {"token_ids", "segment_ids", "padding_mask"} <= set(input_specs(model))
    return own and found is not None and found.encoder is not None and found.decoder is None


def _buckets(length: int) -> Sequence[int]:
    """Powers of two and the whole length: the lengths for warming up."""
    powers = [2**exponent for exponent in range(4, 12) if 2**exponent < length]
    return [*powers, length]


def _example(spec: tf.TensorSpec, seed: int) -> np.ndarray:
    """A few rows of an input; integers are below 2, so that they are valid ids everywhere."""
    rows, *sizes = spec.shape
    shape = [rows or CHECKED_ROWS, *(size or CHECKED_LENGTH for size in sizes)]
    rng = np.random.default_rng(seed)
    if spec.dtype == tf.string:
        return rng.choice(["a", "the cat", ""], shape)
    if spec.dtype.is_floating:
        return rng.normal(size=shape).astype("float32")
    if spec.dtype.is_bool:
        return np.ones(shape, bool)
    return rng.integers(2, size=shape).astype(spec.dtype.as_numpy_dtype)
