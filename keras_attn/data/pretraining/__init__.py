"""Examples for pre-training; import the public names from `keras_attn.data`."""
