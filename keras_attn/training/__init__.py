"""What `model.compile` and `model.fit` need and Keras lacks."""

from keras_attn.training.checkpoints import TrainingCheckpoint
from keras_attn.training.losses import InfoNCE, SmoothedCrossEntropy
from keras_attn.training.metrics import Perplexity
from keras_attn.training.schedules import TransformerSchedule, WarmupLinearDecay
from keras_attn.training.scores import (
    PredictionScores,
    best_spans,
    correlation_scores,
    entities,
    entity_scores,
    exact_match,
    span_scores,
    token_f1,
)

__all__ = [
    "InfoNCE",
    "Perplexity",
    "PredictionScores",
    "SmoothedCrossEntropy",
    "TrainingCheckpoint",
    "TransformerSchedule",
    "WarmupLinearDecay",
    "best_spans",
    "correlation_scores",
    "entities",
    "entity_scores",
    "exact_match",
    "span_scores",
    "token_f1",
]
