"""tensorflow and tensorflow_text, imported at the first use of one of their names.

Importing `keras_attn` registers the layers of this room on every backend, also where tensorflow
is not installed; only calling them needs it.
"""

import importlib
from typing import Any


class _LazyModule:
    def __init__(self, name: str, package: str):
        self._name = name
        self._package = package

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # inspect and doctest probe these: no reason to import
            raise AttributeError(attribute)
        try:
            module = importlib.import_module(self._name)
        except ModuleNotFoundError as error:
            raise ImportError(
                f"keras_attn.data needs the package {self._package}, which is not installed"
            ) from error
        return getattr(module, attribute)


tf = _LazyModule("tensorflow", "tensorflow")
tf_text = _LazyModule("tensorflow_text", "tensorflow-text")
