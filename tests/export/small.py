"""Small models and layers that are quick to publish."""

import functools
import os

import keras

from keras_attn import data, models
from keras_attn.export import fresh_process
from keras_attn.export.isolation import as_array

WORDS = ["play", "##ing", "!", "the", "cat", "sat", "on", "a", "mat", "."]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
LENGTH = 19
SIZE = models.sizes.BertSize(
    2, 12, 3, 20, vocabulary_size=len(VOCABULARY), max_length=LENGTH, initializer_range=0.4
)


def masked_lm_layers():
    """A preprocessor and a postprocessor."""
    tokenizer = data.BertTokenizer(VOCABULARY)
    return {
        "preprocessor": data.MaskedLMPreprocessor(tokenizer, length=LENGTH),
        "postprocessor": data.MaskedLMPostprocessor(tokenizer, top=2),
    }


def sharp_gpt():
    """A decoder with large weights, so that its logits differ clearly."""
    model = models.gpt.decoder("gpt_tiny", vocabulary_size=len(VOCABULARY), num_layers=1)
    model.set_weights([2.5 * weight for weight in model.get_weights()])
    return model


class ThisProcess:
    """Replaces `isolation.FreshProcess` without starting a process."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, path, requests):
        return fresh_process.run(os.fspath(path), requests)


def ask_here(path, signature="serving_default", **inputs):
    """The outputs of a session in this process, or the text of an error."""
    (answer,) = ask_all(path, [(signature, inputs)])
    return answer


def ask_all(path, requests):
    """The outputs for each `(signature, inputs)`, as `ask_here` returns them."""
    requests = [
        (signature, {name: as_array(value) for name, value in inputs.items()}, True)
        for signature, inputs in requests
    ]
    return fresh_process.answers(*loaded(os.fspath(path)), requests)


@functools.cache
def loaded(path):
    """A session with the SavedModel, and its signatures: the first run of each takes seconds."""
    import tensorflow as tf

    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        return session, tf.compat.v1.saved_model.load(session, ["serve"], path).signature_def


def tiny():
    """A model without text, quick to publish."""
    inputs = keras.Input((3,), name="numbers")
    return keras.Model(inputs, keras.layers.Dense(2, name="scores")(inputs))
