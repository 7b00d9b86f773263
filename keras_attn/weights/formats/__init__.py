"""The kinds of checkpoints: one file a kind, and what they are made of."""

from keras_attn.weights.formats import (
    bert,
    distilbert,
    google_bert,
    gpt2,
    keras_hub,
    modern_bert,
    roberta,
)
from keras_attn.weights.formats.format import Config, Format, Head, Key, Rule

# Those of the library transformers, by the model_type of their configuration.
TRANSFORMERS = {
    "bert": bert.FORMAT,
    "distilbert": distilbert.FORMAT,
    "roberta": roberta.FORMAT,
    "xlm-roberta": roberta.XLM_ROBERTA,
    "modernbert": modern_bert.FORMAT,
    "gpt2": gpt2.FORMAT,
}
GOOGLE_BERT = google_bert.FORMAT
KERAS_HUB = keras_hub.FORMAT

__all__ = ["GOOGLE_BERT", "KERAS_HUB", "TRANSFORMERS", "Config", "Format", "Head", "Key", "Rule"]
