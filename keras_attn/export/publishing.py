"""A trained model as a version that TF Serving loads."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_attn import data, layers
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
    preprocessor: keras.layers.Layer | None = None,
    postprocessor: keras.layers.Layer | None = None,
    generation: Generation | None = None,
    signatures: Sequence[str] | None = None,
    functions: Mapping[str, Signature] | None = None,
    version: int | None = None,
    warmup: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    sample: Mapping[str, Any] | None = None,
    server: str = "2.20",
    compute_dtype: str | None = None,
    jit_compile: bool = False,
    keep: int | None = None,
) -> Servable:
    """Writes `base_dir/<next integer>`, checked, as TF Serving wants it.

    It is written beside under a name that is no version. Every operation in it is compared with
    what the server has; it is loaded in a fresh process in which keras and keras_attn cannot be
    imported, and its answers are compared with Keras'. Only then it is renamed: whatever happens, a
    server never sees half of it. Other versions are not touched.

    A model of JAX or torch is saved, and published by a child process under TensorFlow.

    With a preprocessor the signatures are `serving_default`, from strings to answers; `tokens`, the
    same from token_ids and lengths; `attention`, the weights of every layer and head with the
    tokens; `embed`, vectors of a text, which an embedder makes itself. With `generation` they are
    its searches. Otherwise `serving_default` takes the model's inputs. Numbers come out as float32
    or int64; names have `_` in place of what is no letter or digit, and repeated names are
    numbered.

    Args:
        model: functional, or sequential and built.
        base_dir: the servable's folder, which holds its versions.
        preprocessor: a layer from strings to a dict with the model's inputs, such as
            `data.MaskedLMPreprocessor`.
        postprocessor: a layer from the model's outputs and the preprocessor's dict to a dict of
            answers, such as `data.MaskedLMPostprocessor`.
        generation: how a model that writes text shall do it.
        signatures: names, to have only these beside `serving_default`; defaults to all.
        functions: further signatures, or others, by name (on TensorFlow).
        version: the number; defaults to one more than the highest there is.
        warmup: batches for the server to run before it is ready, in place of examples of every
            length: a dict from a signature's name to them, each a dict from input to rows.
        sample: one batch of `serving_default`, which the guide beside the versions asks with;
            defaults to an example.
        server: the ModelServer that shall run it.
        compute_dtype: "bfloat16" to compute in it; inputs and outputs stay what they are.
        jit_compile: compile the numeric core with XLA, once for each shape of its inputs.
        keep: how many versions to keep, this one included; defaults to all of them.

    Returns:
        A `Servable`: path, version, signatures with names, types and shapes.

    Raises:
        TypeError: a preprocessor or postprocessor that does not follow the protocols of `data`.
        ValueError: a part of the model that is not built or not tracked, a vocabulary that is not
            the model's, a signature name that a server refuses, an operation that it lacks, an
            answer that differs from Keras', a batch that the signature cannot run, a folder that is
            full or cannot be written to; it names what is wrong, and nothing is left behind.

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
    >>> servable.version, servable.signatures["serving_default"][1]["pieces"]
    (1, Tensor(dtype='string', shape=(None, None, 2)))
    >>> folder.cleanup()
    """
    base_dir = versions.to_path("base_dir", base_dir)
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
        model = _in_precision(model, compute_dtype)
    if generation is not None:
        made = generation.signatures(model, jit_compile)
    else:
        made = automatic(model, preprocessor, postprocessor, jit_compile)
    # Python starts over there while the signatures are traced here.
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


def _deprecated(signatures: Any, functions: Any, generation: Any) -> tuple[Any, Any, Any]:
    """The arguments, where `signatures` once took what `functions` and `generation` take now."""
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


def _check_kinds(signatures: Any, functions: Any, generation: Any) -> None:
    if signatures is not None and not isinstance(signatures, Iterable):
        raise ValueError(f"`signatures` must be names, or None, got {signatures!r}")
    if functions is not None and not isinstance(functions, Mapping):
        raise ValueError(f"`functions` must be a dict or None, got {functions!r}")
    for name, function in (functions or {}).items():
        check_name(name)
        if not isinstance(function, Signature):
            raise ValueError(f"`functions` must have a Signature for {name!r}, got {function!r}")
    if not isinstance(generation, Generation | None):
        raise ValueError(f"`generation` must be a Generation or None, got {generation!r}")


def _in_precision(model: keras.Model, dtype: str) -> keras.Model:
    """A copy of a functional model whose layers have the dtype policy `dtype`.

    The weights are rounded once, here, and not again for each request.

    Raises:
        ValueError: a dtype that no server computes in.
    """
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"`compute_dtype` must be float32, bfloat16 or float16, got {dtype!r}")

    def clone(layer: Any) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.InputLayer):
            return type(layer).from_config(layer.get_config())
        return type(layer).from_config(_with_policy(layer.get_config(), dtype))

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy


def _with_policy(config: Any, dtype: str) -> Any:
    """The config with every dtype policy in it replaced, those of nested layers too."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {**config["config"], "name": dtype}}
        replaced = {key: _with_policy(value, dtype) for key, value in config.items()}
        if isinstance(replaced.get("dtype"), str) and "name" in replaced:
            replaced["dtype"] = dtype
        return replaced
    return [_with_policy(item, dtype) for item in config] if isinstance(config, list) else config


def _check_vocabulary(model: keras.Model, owner: Any, name: str) -> None:
    """Raises unless what strings become is what the model learned."""
    vocabulary = getattr(getattr(owner, "tokenizer", None), "vocabulary", None)
    sizes = [e.input_dim for e in model._flatten_layers() if isinstance(e, layers.TokenEmbedding)]
    size = max(sizes, default=0)  # the largest, as segments have an embedding too
    # A checkpoint's matrix may have more rows than tokens, to fill up a multiple of 8 or 64.
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


def _batches(
    made: Mapping[str, Signature], warmup: Any, sample: Any
) -> dict[str, list[dict[str, Any]]]:
    """For each signature the batches to run: one to compare, those of `warmup`, the sample."""
    if warmup is not None and not isinstance(warmup, Mapping):
        raise ValueError(f"`warmup` must be a dict of lists, got {type(warmup).__name__}")
    for name, batches in (warmup or {}).items():
        if name not in made:
            raise ValueError(f"`warmup` must be for {', '.join(made)}, got {name!r}")
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
    """Saves a model of JAX or torch, and publishes it in a child process under TensorFlow.

    Raises:
        ValueError: what `publish` says there, or that the model does not load there.
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
    """What the child process does."""
    with other_backend.loading():
        loaded = {
            name: part and keras.saving.deserialize_keras_object(part)
            for name, part in parts.items()
        }
    tokenizer = loaded.pop("tokenizer", None)
    if tokenizer is not None:
        options["generation"] = dataclasses.replace(options["generation"], tokenizer=tokenizer)
    return publish(model, base_dir, **loaded, **options)
