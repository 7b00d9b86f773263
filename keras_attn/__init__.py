"""Attention and Transformer layers for Keras 3.

Importing it registers every layer, loss, metric and schedule that a saved file may need.
"""

from keras_attn import layers, models, ops

__all__ = ["layers", "models", "ops"]

__version__ = "0.1.0"
