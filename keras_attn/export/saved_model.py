"""A trained model as a version that TF Serving loads."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_attn import layers
from keras_attn.export.check import check
from keras_attn.export.compatibility import check_operations, drop_debug_names, operations_of
from keras_attn.export.generation import Generation
from keras_attn.export.guide import write_guide
from keras_attn.export.other_backend import publish_under_tensorflow
from keras_attn.export.precision import in_precision
from keras_attn.export.servable import Servable, Tensor
from keras_attn.export.signature import DEFAULT, Signature, check_name
from keras_attn.export.signatures import automatic
from keras_attn.export.versions import check_version, commit, prune, written_beside
from keras_attn.export.warmup import write_warmup


def publish(
    model: keras.Model,
    base_dir: str | os.PathLike,
    *,
    preprocessor: keras.layers.Layer | None = None,
    postprocessor: keras.layers.Layer | None = None,
    signatures: Generation | Mapping[str, Signature] | Sequence[str] | None = None,
    version: int | None = None,
    warmup: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
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
    pieces; `embed`, vectors of a text. Without one, `serving_default` takes the model's inputs.
    Numbers come out as float32 or int64.

    Args:
        model: a functional model.
        base_dir: the servable's folder, which holds its versions.
        preprocessor: a layer from strings to a dict with the model's inputs, such as
            `data.MaskedLMPreprocessor`.
        postprocessor: a layer from the model's outputs and the preprocessor's dict to a dict of
            answers, such as `data.MaskedLMPostprocessor`.
        signatures: names, to have only these; a `Generation`, for a model that writes text; or a
            dict of further ones, or others, by name (on TensorFlow).
        version: the number; by default one more than the highest there is.
        warmup: batches for the server to run before it is ready, in place of examples of every
            length: a dict from a signature's name to them, each a dict from input to rows.
        server: the ModelServer that shall run it.
        compute_dtype: "bfloat16" to compute in it; inputs and outputs stay what they are.
        jit_compile: compile the numeric core with XLA, once for each shape of its inputs.
        keep: how many versions to keep, this one included; all of them by default.

    Returns:
        A `Servable`: path, version, signatures with names, types and shapes.

    Raises:
        ValueError: a part of the model that is not built or not tracked, a vocabulary that is not
            the model's, a signature name that a server refuses, an operation that it lacks, an
            answer that differs from Keras', a folder that is full or cannot be written to; it
            names what is wrong, and nothing is left behind.

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
    base_dir = Path(base_dir).absolute()
    if version is not None:
        check_version(base_dir, version)
    if keep is not None and keep < 1:
        raise ValueError(f"`keep` must be at least 1, got {keep}")
    operations_of(server)
    _check_model(model)
    _check_vocabulary(model, preprocessor, "preprocessor")
    _check_vocabulary(model, signatures, "signatures")
    if keras.backend.backend() != "tensorflow":
        if isinstance(signatures, Mapping):
            raise ValueError(
                "`signatures` must be names on other backends than TensorFlow, got functions"
            )
        return publish_under_tensorflow(
            model,
            base_dir,
            {"preprocessor": preprocessor, "postprocessor": postprocessor},
            {
                "signatures": signatures,
                "version": version,
                "warmup": warmup,
                "server": server,
                "compute_dtype": compute_dtype,
                "jit_compile": jit_compile,
                "keep": keep,
            },
        )
    if compute_dtype is not None:
        model = in_precision(model, compute_dtype)
    if isinstance(signatures, Generation):
        made = signatures.signatures(model, jit_compile)
    else:
        made = _select(automatic(model, preprocessor, postprocessor, jit_compile), signatures)
    with written_beside(base_dir) as folder:
        described = _write(made, [model, preprocessor, postprocessor], folder)
        check_operations(folder, server)
        half = compute_dtype not in (None, "float32")
        check(folder, made, tolerance=2e-2 if half else 1e-4)
        with _errors_of_files():
            write_warmup(folder, base_dir.name, _with_warmup(made, warmup))
        path = commit(folder, version)
    servable = Servable(path, int(path.name), described)
    write_guide(servable, made, server)
    if keep is not None:
        prune(base_dir, keep, servable.version)
    return servable


def _check_model(model: keras.Model) -> None:
    if not isinstance(model, keras.Model) or not hasattr(model, "inputs") or not model.built:
        raise ValueError(f"`model` must be a functional model that is built, got {model!r}")


def _check_vocabulary(model: keras.Model, owner: Any, name: str) -> None:
    """Raises unless what strings become is what the model learned."""
    vocabulary = getattr(getattr(owner, "tokenizer", None), "vocabulary", None)
    sizes = [e.input_dim for e in model._flatten_layers() if isinstance(e, layers.TokenEmbedding)]
    size = max(sizes, default=0)  # the largest, as segments have an embedding too
    if vocabulary is not None and size not in (0, len(vocabulary)):
        raise ValueError(
            f"`{name}` must have the model's vocabulary of {size} pieces, got {len(vocabulary)}"
        )


def _select(made: Mapping[str, Any], wanted: Any) -> dict[str, Signature]:
    """The signatures to write, `serving_default` first."""
    if wanted is None or isinstance(wanted, Mapping):
        own = wanted or {}
        for name in own:
            check_name(name)
        chosen = {name: make() for name, make in made.items() if name not in own}
        return {DEFAULT: own[DEFAULT] if DEFAULT in own else chosen[DEFAULT], **chosen, **own}
    for name in wanted:
        if name not in made:
            raise ValueError(f"`signatures` must be among {', '.join(made)}, got {name!r}")
    return {name: make() for name, make in made.items() if name in wanted or name == DEFAULT}


def _with_warmup(made: Mapping[str, Signature], warmup: Mapping | None) -> dict[str, Signature]:
    if warmup is None:
        return dict(made)
    for name in warmup:
        if name not in made:
            raise ValueError(f"`warmup` must be for {', '.join(made)}, got {name!r}")
    return {
        name: dataclasses.replace(made[name], examples=batches) for name, batches in warmup.items()
    }


def _write(signatures: Mapping[str, Signature], tracked: list, folder: Path) -> dict:
    """Writes the SavedModel, and describes its signatures."""
    archive = keras.export.ExportArchive()
    resources = [part for signature in signatures.values() for part in signature.resources]
    for part in [*tracked, *resources]:
        if part is not None:
            archive.track(part)
    described = {}
    for name, signature in signatures.items():
        function = signature.traced()
        archive.add_endpoint(name, function)
        (graph,) = function._list_all_concrete_functions()
        described[name] = (_describe(signature.inputs), _describe(graph.structured_outputs))
    # A server takes no gradients: their functions would only make the graph larger.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    try:
        with _errors_of_files():
            archive.write_out(str(folder), options=options, verbose=False)
    except AssertionError as error:
        raise ValueError(f"a signature uses what `model` does not track: {error}") from error
    drop_debug_names(folder)
    return described


@contextlib.contextmanager
def _errors_of_files() -> Iterator[None]:
    """TensorFlow's errors of writing a file as Python's."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


def _describe(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: Tensor(tensor.dtype.name, tuple(tensor.shape)) for name, tensor in tensors.items()
    }
