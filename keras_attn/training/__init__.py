"""What `model.compile` and `model.fit` need and Keras lacks."""

from keras_attn.training.checkpoints import TrainingCheckpoint
from keras_attn.training.losses import SmoothedCrossEntropy
from keras_attn.training.metrics import Perplexity
from keras_attn.training.schedules import TransformerSchedule, WarmupLinearDecay

__all__ = [
    "Perplexity",
    "SmoothedCrossEntropy",
    "TrainingCheckpoint",
    "TransformerSchedule",
    "WarmupLinearDecay",
]
