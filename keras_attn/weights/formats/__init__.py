"""The formats of checkpoints, one file for each, and the classes that describe a format."""

from keras_attn.weights.formats import (
    bert,
    distilbert,
    google_bert,
    gpt2,
    keras_hub,
    modern_bert,
    roberta,
)
from keras_attn.weights.formats.format import Format, Head, Key, Rule

# The formats of the library transformers, by the model_type of their configuration.
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

__all__ = ["GOOGLE_BERT", "KERAS_HUB", "TRANSFORMERS", "Format", "Head", "Key", "Rule"]
