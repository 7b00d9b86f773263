"""Text files, vocabularies and tokenizers; import the public names from `keras_attn.data`."""
