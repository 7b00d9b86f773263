"""The one serialization decorator: every saved object carries the package name `keras_attn`."""

import functools

import keras

register = functools.partial(keras.saving.register_keras_serializable, package="keras_attn")
