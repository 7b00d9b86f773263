"""Attention weights as pictures, pages and models."""

from keras_attn.visualization.capture import attention_model
from keras_attn.visualization.heatmap import heatmap
from keras_attn.visualization.page import page, rollout

__all__ = ["attention_model", "heatmap", "page", "rollout"]
