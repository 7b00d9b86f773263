"""A model that is quick to publish."""

import keras

from keras_attn import data, models

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
    """A decoder whose choices are clear."""
    model = models.gpt.decoder("gpt_tiny", vocabulary_size=len(VOCABULARY), num_layers=1)
    model.set_weights([2.5 * weight for weight in model.get_weights()])
    return model


def tiny():
    """A model without text, quick to publish."""
    inputs = keras.Input((3,), name="numbers")
    return keras.Model(inputs, keras.layers.Dense(2, name="scores")(inputs))
