"""Sphinx: `python -m sphinx -W docs docs/_build` runs the guides and builds the pages."""

import importlib.metadata
import os
import re

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("CI", "true")  # otherwise `import openvino` sends usage statistics

project = "keras_attn"
author = "the keras_attn authors"
release = importlib.metadata.version("keras_attn")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

# Guides are notebooks in MyST's text format; each is run from its first cell to its last.
nb_execution_mode = "force"
nb_execution_timeout = 300  # seconds a cell; on a busy machine one took more than 60
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"  # TensorFlow greets there

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]

# Docstrings: Google's sections, and two of a Keras layer's.
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Call arguments", "params_style"), "Masking", "Source"]
autodoc_member_order = "groupwise"
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "exclude-members": "call, build, get_config"}
autodoc_mock_imports = ["apache_beam"]

html_theme = "furo"
html_title = "keras_attn"


def plain_to_restructured(app, what, name, obj, options, lines):
    """Docstrings are plain text: `code` gets two backticks, an example a blank line before it."""
    text = re.sub(r"(?<![`:\w])`([^`]+)`(?![`_])", r"``\1``", "\n".join(lines))
    text = re.sub(r"(?m)^(Example[^\n]*)\n(?=>>>)", r"\1\n\n", text)
    lines[:] = text.split("\n")


def setup(app):
    """Run before napoleon, which looks for colons outside of code."""
    app.connect("autodoc-process-docstring", plain_to_restructured, priority=100)
