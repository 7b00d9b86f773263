"""Functions that assemble layers into functional Keras models."""

from keras_attn.models import bert, sizes

__all__ = ["bert", "sizes"]
