"""Attention and Transformer layers for Keras 3.

Importing it registers every layer, loss, metric and schedule that a saved file may need. The
packages `export` and `visualization`, which need more than Keras, are imported on use.
"""

import importlib
from types import ModuleType

from keras_attn import data, decoding, distribution, layers, models, ops, training, weights
from keras_attn.models.upgrade import upgrade
from keras_attn.ops.dot_product_attention import enable

__all__ = [
    "data",
    "decoding",
    "distribution",
    "enable",
    "export",
    "layers",
    "models",
    "ops",
    "training",
    "upgrade",
    "visualization",
    "weights",
]

__version__ = "0.2.0.dev0"


def __getattr__(name: str) -> ModuleType:
    if name in ("export", "visualization"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
