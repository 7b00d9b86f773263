"""Loads a model from a checkpoint directory, and saves it as one."""

from keras_attn.models.keras_attention import copy_keras_attention
from keras_attn.weights.loading import Loaded, load
from keras_attn.weights.saving import save

__all__ = ["Loaded", "copy_keras_attention", "load", "save"]
