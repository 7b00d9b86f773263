"""Preprocessors and postprocessors, one file for each task; import from `keras_attn.data`."""
