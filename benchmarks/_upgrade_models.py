"""The model families that `upgrade.py` measures: small, two layers, random weights.

Each is a function of the length, which gives a model and a batch of one row for it.
"""

import keras
import numpy as np
from keras import layers

VOCABULARY, WIDTH, HEADS, INNER, DEPTH = 1000, 64, 4, 128, 2


class Block(layers.Layer):
    """An encoder block as users write it: attention in an attribute."""

    def __init__(self, attention=layers.MultiHeadAttention, causal=False):
        super().__init__()
        self.attention = attention(HEADS, WIDTH // HEADS)
        self.norms = [layers.LayerNormalization() for _ in range(2)]
        self.feed_forward = keras.Sequential(
            [layers.Dense(INNER, activation="relu"), layers.Dense(WIDTH)]
        )
        self.causal = causal

    def build(self, shape):
        """Build the parts."""
        self.attention.build(shape, shape)
        for part in (*self.norms, self.feed_forward):
            part.build(shape)

    def call(self, x):
        """Attend, then feed forward."""
        x = self.norms[0](x + self.attention(x, x, use_causal_mask=self.causal))
        return self.norms[1](x + self.feed_forward(x))


class Subclassed(keras.Model):
    """A subclassed model."""

    def __init__(self):
        super().__init__()
        self.embedding = layers.Embedding(VOCABULARY, WIDTH)
        self.blocks = {f"block_{index}": Block(causal=True) for index in range(DEPTH)}
        self.head = layers.Dense(1)

    def call(self, ids):
        """Embed, attend, score."""
        x = self.embedding(ids)
        for block in self.blocks.values():
            x = block(x)
        return self.head(x)


def ids_of(length):
    """One row of token ids."""
    return np.random.default_rng(0).integers(1, VOCABULARY, (1, length)).astype("int32")


def floats_of(length):
    """One row of vectors."""
    return np.random.default_rng(0).normal(size=(1, length, 8)).astype("float32")


def functional(attend, mask_zero=False, pool=False):
    """A functional text model whose attention is `attend(x)`."""

    def make(length):
        ids = keras.Input((length,), dtype="int32")
        x = layers.Embedding(VOCABULARY, WIDTH, mask_zero=mask_zero)(ids)
        for _ in range(DEPTH):
            x = layers.LayerNormalization()(layers.Add()([x, attend(x)]))
            hidden = layers.Dense(WIDTH)(layers.Dense(INNER, activation="relu")(x))
            x = layers.LayerNormalization()(layers.Add()([x, hidden]))
        x = layers.GlobalAveragePooling1D()(x) if pool else x
        return keras.Model(ids, layers.Dense(1)(x)), ids_of(length)

    return make


def many_heads(**call):
    """`keras.layers.MultiHeadAttention` over a sequence."""
    return lambda x: layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(x, x, **call)


def user_blocks(length):
    """A functional model of custom layers on vectors: a time series."""
    inputs = keras.Input((length, 8))
    x = layers.Dense(WIDTH)(inputs)
    for _ in range(DEPTH):
        x = Block()(x)
    return keras.Model(inputs, layers.Dense(1)(x)), floats_of(length)


def sequential(length):
    """The same blocks in a Sequential model."""
    parts = [layers.Dense(WIDTH), *(Block() for _ in range(DEPTH)), layers.Dense(1)]
    return keras.Sequential([keras.Input((length, 8)), *parts]), floats_of(length)


def subclassed(length):
    """A subclassed, causal model."""
    return Subclassed(), ids_of(length)


def hub_encoder(length):
    """keras-hub's TransformerEncoder in a functional model."""
    import keras_hub

    inputs = keras.Input((length, 8))
    x = layers.Dense(WIDTH)(inputs)
    for _ in range(DEPTH):
        x = keras_hub.layers.TransformerEncoder(INNER, HEADS)(x)
    return keras.Model(inputs, layers.Dense(1)(x)), floats_of(length)


def hub(name, **sizes):
    """A backbone of keras-hub."""

    def make(length):
        import keras_hub

        given = dict(sizes)
        if name in ("BertBackbone", "GPT2Backbone", "DistilBertBackbone"):
            given |= {"num_heads": HEADS, "max_sequence_length": length}
        model = getattr(keras_hub.models, name)(
            vocabulary_size=VOCABULARY,
            num_layers=DEPTH,
            hidden_dim=WIDTH,
            intermediate_dim=INNER,
            **given,
        )
        batch = {key: np.ones((1, length), "int32") for key in model.input}
        batch["token_ids"] = ids_of(length)
        if "segment_ids" in batch:
            batch["segment_ids"] = np.zeros((1, length), "int32")
        return model, batch

    return make


FAMILIES = {
    "functional": functional(many_heads()),
    "functional, causal": functional(many_heads(use_causal_mask=True)),
    "functional, padding and pooling": functional(many_heads(), mask_zero=True, pool=True),
    "functional, grouped heads": functional(
        lambda x: layers.GroupQueryAttention(WIDTH // HEADS, HEADS, 2)(x, x)
    ),
    "functional, one head": functional(lambda x: layers.Attention()([x, x])),
    "user layers": user_blocks,
    "Sequential": sequential,
    "subclassed, causal": subclassed,
    "keras-hub encoder": hub_encoder,
    "BERT": hub("BertBackbone"),
    "DistilBERT": hub("DistilBertBackbone"),
    "GPT-2": hub("GPT2Backbone"),
    "Llama": hub("LlamaBackbone", num_query_heads=HEADS, num_key_value_heads=2),
}
