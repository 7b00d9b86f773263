"""Files of text, vocabularies and tokenizers; import its names from `keras_attn.data`."""
