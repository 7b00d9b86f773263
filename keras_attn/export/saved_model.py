"""A trained model as a version that TF Serving loads."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_attn.export.check import check
from keras_attn.export.servable import Servable, Tensor
from keras_attn.export.signature import (
    DEFAULT,
    Signature,
    check_name,
    model_signature,
    text_signature,
)
from keras_attn.export.versions import check_version, commit, prune, written_beside

_LENGTHS = (5, 16)


def publish(
    model: keras.Model,
    base_dir: str | os.PathLike,
    *,
    preprocessor: keras.layers.Layer | None = None,
    postprocessor: keras.layers.Layer | None = None,
    signatures: Mapping[str, Signature] | None = None,
    version: int | None = None,
    jit_compile: bool = False,
    keep: int | None = None,
) -> Servable:
    """Writes `base_dir/<next integer>`, checked, as TF Serving wants it.

    It is written beside under a name that is no version, loaded in a fresh process in which keras
    and keras_attn cannot be imported, its answers are compared with Keras', and only then it is
    renamed: whatever happens, a server never sees half of it. Other versions are not touched.

    Args:
        model: a functional model.
        base_dir: the servable's folder, which holds its versions.
        preprocessor: a layer from strings to a dict with the model's inputs, such as
            `data.MaskedLMPreprocessor`. Without one, `serving_default` takes the model's inputs.
        postprocessor: a layer from the model's outputs and the preprocessor's dict to a dict of
            answers, such as `data.MaskedLMPostprocessor`.
        signatures: further ones by name, or others instead of those made here.
        version: the number; by default one more than the highest there is.
        jit_compile: compile the numeric core with XLA, once for each shape of its inputs.
        keep: how many versions to keep, this one included; all of them by default.

    Returns:
        A `Servable`: path, version, signatures with names, types and shapes.

    Raises:
        ValueError: a part of the model that is not built or not tracked, a signature name that a
            server refuses, an answer that differs from Keras', a folder that cannot be written to;
            it names what is wrong, and nothing is left behind.

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
    ... )
    >>> servable.version, servable.signatures["serving_default"][1]["pieces"]
    (1, Tensor(dtype='string', shape=(None, None, 2)))
    >>> folder.cleanup()
    """
    base_dir = Path(base_dir)
    if version is not None:
        check_version(base_dir, version)
    if keep is not None and keep < 1:
        raise ValueError(f"`keep` must be at least 1, got {keep}")
    for name in signatures or {}:
        check_name(name)
    core = _core(model, jit_compile)
    if preprocessor is None:
        default = model_signature(model, core, _LENGTHS)
    else:
        default = text_signature(model, core, preprocessor, postprocessor, _LENGTHS)
    signatures = {DEFAULT: default, **(signatures or {})}
    with written_beside(base_dir) as folder:
        described = _write(signatures, [model, preprocessor, postprocessor], folder)
        check(folder, signatures, tolerance=1e-4)
        path = commit(folder, version)
    if keep is not None:
        prune(base_dir, keep, int(path.name))
    return Servable(path, int(path.name), described)


def _core(model: keras.Model, jit_compile: bool) -> Callable[[dict[str, Any]], Any]:
    """The numbers between the strings: all that XLA can compile."""

    def core(features: dict[str, Any]) -> Any:
        if not isinstance(model.input, dict):
            features = [features[tensor.name] for tensor in model.inputs]
            features = features if len(features) > 1 else features[0]
        return model(features, training=False)

    return tf.function(core, jit_compile=True, autograph=False) if jit_compile else core


def _write(signatures: Mapping[str, Signature], tracked: list, folder: Path) -> dict:
    """Writes the SavedModel, and describes its signatures."""
    archive = keras.export.ExportArchive()
    for part in tracked:
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
    archive.write_out(str(folder), options=options, verbose=False)
    return described


def _describe(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: Tensor(tensor.dtype.name, tuple(tensor.shape)) for name, tensor in tensors.items()
    }
