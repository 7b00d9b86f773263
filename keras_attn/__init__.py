"""Attention and Transformer layers for Keras 3.

Importing it registers every layer, loss, metric and schedule that a saved file may need.
"""

from keras_attn import data, decoding, layers, models, ops, training

__all__ = ["data", "decoding", "layers", "models", "ops", "training"]

__version__ = "0.1.0"
