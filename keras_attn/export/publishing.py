"""Publishes a trained model as a version of a servable for TF Serving."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_attn import data, layers
from keras_attn._checks import to_path
from keras_attn._keras import flatten_layers
from keras_attn._typing import Nested
from keras_attn.export import isolation, other_backend, saved_model, versions
from keras_attn.export.compatibility import check_operations, operations_of
from keras_attn.export.generation import Generation
from keras_attn.export.guide import write_guide
from keras_attn.export.signature import DEFAULT, Servable, Signature, check_name
from keras_attn.export.signatures import automatic, functional


def publish(
    model: keras.Model,
    base_dir: str | os.PathLike,
    *,
    preprocessor: data.Preprocessor | None = None,
    postprocessor: data.Postprocessor | None = None,
    generation: Generation | None = None,
    signatures: Sequence[str] | None = None,
    functions: Mapping[str, Signature] | None = None,
    version: int | None = None,
    warmup: Mapping[str, Sequence[Mapping[str, Nested]]] | None = None,
    sample: Mapping[str, Nested] | None = None,
    server: str = "2.20",
    compute_dtype: str | None = None,
    jit_compile: bool = False,
    keep: int | None = None,
) -> Servable:
    """Write a SavedModel for TF Serving as `base_dir/<next integer>`, and check it first.

    The SavedModel is first written to a temporary folder in `base_dir`. Every operation in it is
    compared with the operations of the server. It is loaded in a fresh process that cannot import
    keras and keras_attn, and its outputs are compared with those of Keras. Only then is the folder
    renamed: a server never sees an incomplete version. Other versions are not changed.

    A model of JAX or torch is saved, and a child process under TensorFlow publishes it.

    With a preprocessor, the signatures are `serving_default`, from strings to answers; `tokens`,
    the same from token_ids and lengths; `attention`, the attention weights of every layer and head,
    with the tokens; `embed`, the vector of a text. With `generation`, the signatures are its
    searches. Otherwise `serving_default` takes the model's inputs. Numeric outputs are float32 or
    int64. In names, `_` replaces every character that is not a letter or a digit, and repeated
    names are numbered.

    Args:
        model: functional, or sequential and built.
        base_dir: the servable's folder, which holds its versions.
        preprocessor: a layer from strings to a dict with the model's inputs, such as
            `data.MaskedLMPreprocessor`.
        postprocessor: a layer from the model's outputs and the features (the preprocessor's dict,
            with the strings) to a dict of answers, such as `data.MaskedLMPostprocessor`.
        generation: how the model generates text, for a model that does.
        signatures: names of signatures, to write only these and `serving_default`; defaults to
            all.
        functions: more signatures by name; one with the name of an automatic one replaces it (on
            TensorFlow only).
        version: the number of the version; defaults to one more than the highest one.
        warmup: batches that the server runs before it is ready: a dict from the name of a signature
            to a list of batches, each a dict from input to rows. Defaults to examples of every
            length.
        sample: one batch of `serving_default`, which the README of the servable shows; defaults to
            an example.
        server: the version of the ModelServer.
        compute_dtype: the dtype of the computation, such as "bfloat16"; inputs and outputs keep
            theirs. Keras has no int8 layers in float16: they compute in the dtype of the model.
        jit_compile: whether to compile the model with XLA, once for each shape of its inputs.
        keep: the number of versions to keep, this one included; defaults to all of them.

    Returns:
        A `Servable`: path, version, signatures with names, types and shapes.

    Raises:
        TypeError: a preprocessor or postprocessor does not follow the protocols of `data`.
        ValueError: a part of the model is not built or not tracked, the vocabulary is not the
            model's, the server lacks an operation or refuses the name of a signature, an output
            differs from that of Keras, a signature cannot run a batch, the disk is full, or the
            folder cannot be written to. The message says which; no incomplete version is left.

    Example:
    >>> import tempfile
    >>> from keras_attn import data, models
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "!"]
    >>> model = models.bert.pretraining("bert_tiny", vocabulary_size=len(vocabulary))
    >>> folder = tempfile.TemporaryDirectory()
    >>> servable = publish(
    ...     model,
    ...     folder.name,
    ...     preprocessor=data.MaskedLMPreprocessor(vocabulary, length=16),
    ...     postprocessor=data.MaskedLMPostprocessor(vocabulary, top=2),
    ...     signatures=["serving_default"],
    ... )
    >>> servable.version, servable.signatures["serving_default"][1]["tokens"]
    (1, Tensor(dtype='string', shape=(None, None, 2)))
    >>> folder.cleanup()
    """
    base_dir = to_path("base_dir", base_dir)
    if version is not None:
        versions.check_version(base_dir, version)
    versions.check_keep(keep)
    operations_of(server)
    signatures, functions, generation = _deprecated(signatures, functions, generation)
    model = functional(model)
    if preprocessor is not None:
        data.check_protocol("preprocessor", preprocessor, data.Preprocessor)
    if postprocessor is not None:
        data.check_protocol("postprocessor", postprocessor, data.Postprocessor)
    _check_vocabulary(model, preprocessor, "preprocessor")
    _check_vocabulary(model, generation, "generation")
    if isinstance(signatures, str):
        signatures = [signatures]
    _check_kinds(signatures, functions, generation)
    if keras.backend.backend() != "tensorflow":
        if functions is not None:
            raise ValueError("`functions` must be None on other backends than TensorFlow")
        return _publish_under_tensorflow(
            model,
            base_dir,
            {"preprocessor": preprocessor, "postprocessor": postprocessor},
            {
                "generation": generation,
                "signatures": signatures,
                "version": version,
                "warmup": warmup,
                "sample": sample,
                "server": server,
                "compute_dtype": compute_dtype,
                "jit_compile": jit_compile,
                "keep": keep,
            },
        )
    if compute_dtype is not None:
        if generation is not None and compute_dtype == "float16" and _has_int8(model):
            raise ValueError(
                "`compute_dtype` must be float32 or bfloat16 to generate with int8 layers, for "
                "which Keras has no float16, got 'float16'"
            )
        model = _in_precision(model, compute_dtype)
    if generation is not None:
        made = generation.signatures(model, jit_compile)
    else:
        made = automatic(model, preprocessor, postprocessor, jit_compile)
    # The fresh process starts while this process traces the signatures.
    with isolation.FreshProcess() as process, versions.written_beside(base_dir) as folder:
        made = _select(made, signatures, functions or {})
        asked = _batches(made, warmup, sample)
        described = saved_model.write(made, [model, preprocessor, postprocessor], folder)
        check_operations(folder, server)
        half = compute_dtype not in (None, "float32")
        isolation.check(process, folder, made, asked, tolerance=2e-2 if half else 1e-4)
        warm = {name: asked[name][1:] if name in (warmup or {}) else [] for name in made}
        saved_model.write_warmup(folder, base_dir.name, made, warm if warmup else asked)
        path = versions.commit(folder, version)
    servable = Servable(path, int(path.name), described)
    write_guide(servable, asked[DEFAULT][-1 if sample else 0], server)
    if keep is not None:
        versions.prune(base_dir, keep, servable.version)
    return servable


def _deprecated(signatures: Any, functions: Any, generation: Any) -> tuple:
    """The arguments; earlier, `signatures` took what `functions` and `generation` take now."""
    for name, kind in (("generation", Generation), ("functions", Mapping)):
        if isinstance(signatures, kind):
            warnings.warn(
                f"`signatures` takes names only, give a {type(signatures).__name__} as `{name}`",
                DeprecationWarning,
                stacklevel=3,
            )
            if name == "generation":
                return None, functions, signatures
            return None, signatures, generation
    return signatures, functions, generation


def _check_kinds(signatures: object, functions: object, generation: object) -> None:
    if signatures is not None and not isinstance(signatures, Iterable):
        raise ValueError(f"`signatures` must be a list of names or None, got {signatures!r}")
    if functions is not None and not isinstance(functions, Mapping):
        raise ValueError(f"`functions` must be a dict or None, got {functions!r}")
    for name, function in (functions or {}).items():
        check_name(name)
        if not isinstance(function, Signature):
            raise ValueError(f"`functions` must have a Signature for {name!r}, got {function!r}")
    if not isinstance(generation, Generation | None):
        raise ValueError(f"`generation` must be a Generation or None, got {generation!r}")


def _has_int8(model: keras.Model) -> bool:
    return any(layer.quantization_mode == "int8" for layer in flatten_layers(model))


def _in_precision(model: keras.Model, dtype: str) -> keras.Model:
    """A copy of a functional model whose layers have the dtype policy `dtype`.

    The weights are rounded once, here, and not again for each request.

    Raises:
        ValueError: a server cannot compute in this dtype.
    """
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"`compute_dtype` must be float32, bfloat16 or float16, got {dtype!r}")

    def clone(layer: Any) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.InputLayer):
            return type(layer).from_config(layer.get_config())
        return type(layer).from_config(_with_policy(layer.get_config(), dtype))

    copy = keras.models.clone_model(model, clone_function=clone)
    for own, new in zip(flatten_layers(model), flatten_layers(copy), strict=True):
        _adapt(new, own)
    copy.set_weights(model.get_weights())
    return copy


def _adapt(new: Any, own: Any) -> None:
    """Quantize the layer `new` and give it LoRA as `own` has them.

    The configuration of a layer lacks what was done to its parts after they were built.
    """
    if own.quantization_mode is not None and new.quantization_mode is None:
        new.quantize(own.quantization_mode, type_check=False, config=own.quantization_config)
    elif hasattr(own, "inputs_quantizer"):
        new.inputs_quantizer = own.inputs_quantizer
    if getattr(own, "lora_enabled", False):
        if not new.lora_enabled:
            new.enable_lora(own.lora_rank)
        new.lora_alpha = own.lora_alpha


def _with_policy(config: Any, dtype: str) -> Any:
    """The config with every dtype policy in it replaced, also in nested layers."""
    if isinstance(config, dict):
        if str(config.get("class_name")).endswith("DTypePolicy"):
            policy = config["config"]
            if dtype == "float16" and policy.get("mode") == "int8":
                return config  # Keras has no int8 in float16: this part stays as it is
            name = "source_name" if "source_name" in policy else "name"
            return {**config, "config": {**policy, name: dtype}}
        replaced = {key: _with_policy(value, dtype) for key, value in config.items()}
        if isinstance(replaced.get("dtype"), str) and "name" in replaced:
            replaced["dtype"] = dtype
        return replaced
    return [_with_policy(item, dtype) for item in config] if isinstance(config, list) else config


def _check_vocabulary(model: keras.Model, owner: object, name: str) -> None:
    """Raise a ValueError if a tokenizer has more tokens than the model's token matrix has rows."""
    vocabulary = getattr(getattr(owner, "tokenizer", None), "vocabulary", None)
    sizes = [e.input_dim for e in flatten_layers(model) if isinstance(e, layers.TokenEmbedding)]
    size = max(sizes, default=0)  # the largest: segments have an embedding too
    # There may be more rows than tokens, for a multiple of 8 or 64.
    if vocabulary is not None and 0 < size < len(vocabulary):
        raise ValueError(
            f"`{name}` must have the model's vocabulary of {size} tokens, got {len(vocabulary)}"
        )


def _select(
    made: Mapping[str, Callable[[], Signature]],
    wanted: Sequence[str] | None,
    functions: Mapping[str, Signature],
) -> dict[str, Signature]:
    """The signatures to write, `serving_default` first."""
    for name in wanted or ():
        if name not in made:
            raise ValueError(f"`signatures` must be among {', '.join(made)}, got {name!r}")
    names = [DEFAULT, *(name for name in made if name != DEFAULT and name in (wanted or made))]
    return {name: functions.get(name) or made[name]() for name in names} | dict(functions)


def _batches(made: Mapping[str, Signature], warmup: Any, sample: Any) -> dict[str, list[dict]]:
    """The batches to run for each signature: one to compare, those of `warmup`, the sample."""
    if warmup is not None and not isinstance(warmup, Mapping):
        raise ValueError(f"`warmup` must be a dict of lists, got {type(warmup).__name__}")
    for name, batches in (warmup or {}).items():
        if name not in made:
            raise ValueError(f"`warmup` must have keys among {', '.join(made)}, got {name!r}")
        if isinstance(batches, (Mapping, str)) or not isinstance(batches, Iterable):
            raise ValueError(
                f"`warmup` must have a list of batches for {name!r}, got {type(batches).__name__}"
            )
    checked = {}
    for name, signature in made.items():
        examples = signature.examples if warmup is None else signature.examples[:1]
        checked[name] = [signature.batch(e, f"an example of {name!r}") for e in examples]
        checked[name] += [
            signature.batch(batch, f"`warmup` of {name!r}, batch {index}")
            for index, batch in enumerate((warmup or {}).get(name, ()))
        ]
    if sample is not None:
        checked[DEFAULT].append(made[DEFAULT].batch(sample, "`sample`"))
    return checked


def _publish_under_tensorflow(
    model: keras.Model, base_dir: Path, parts: dict[str, Any], options: dict[str, Any]
) -> Servable:
    """Save a model of JAX or torch, and publish it in a child process under TensorFlow.

    Raises:
        ValueError: an error of `publish` in the child process, or the model does not load there.
    """
    generation = options["generation"]
    if generation is not None:
        parts = {**parts, "tokenizer": generation.tokenizer}
        options = {**options, "generation": dataclasses.replace(generation, tokenizer=None)}
    parts = {
        name: part and keras.saving.serialize_keras_object(part) for name, part in parts.items()
    }
    return other_backend.run(_publish_loaded, model, base_dir, parts, options)


def _publish_loaded(
    model: keras.Model, base_dir: Path, parts: dict[str, Any], options: dict[str, Any]
) -> Servable:
    """Publish a loaded model; this runs in the child process."""
    with other_backend.loading():
        loaded = {
            name: part and keras.saving.deserialize_keras_object(part)
            for name, part in parts.items()
        }
    tokenizer = loaded.pop("tokenizer", None)
    if tokenizer is not None:
        options["generation"] = dataclasses.replace(options["generation"], tokenizer=tokenizer)
    return publish(model, base_dir, **loaded, **options)
