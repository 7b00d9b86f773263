"""Exports models to files for servers and other runtimes."""

from keras_attn.export.generation import Generation
from keras_attn.export.isolation import ask
from keras_attn.export.publishing import publish
from keras_attn.export.runtimes import to_litert, to_onnx, to_openvino
from keras_attn.export.signature import Servable, Signature, Tensor

__all__ = [
    "Generation",
    "Servable",
    "Signature",
    "Tensor",
    "ask",
    "publish",
    "to_litert",
    "to_onnx",
    "to_openvino",
]
