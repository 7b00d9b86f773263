"""Examples to pre-train on; import its names from `keras_attn.data`."""
