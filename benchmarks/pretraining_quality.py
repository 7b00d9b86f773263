"""Does our BERT learn no less than one of keras-hub's blocks, in the same minutes?

    python benchmarks/pretraining_quality.py            # three seeds of each, interleaved

Data, sizes, schedule, steps and the start of the position table are those of
examples/bert_pretrain.py for both; only the blocks differ. Writes a JSON line a run.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import _shared  # noqa: E402
import bert_pretrain as example  # noqa: E402
import keras  # noqa: E402
import keras_hub  # noqa: E402
import numpy as np  # noqa: E402
from _quality import compare, parser  # noqa: E402

from keras_attn import data  # noqa: E402
from keras_attn.ops.positions import sinusoids  # noqa: E402


def hub_model(size) -> keras.Model:
    """The same model from keras-hub's layers, with their defaults where they have no argument."""
    initializer = keras.initializers.TruncatedNormal(stddev=size.initializer_range)
    inputs = {
        "token_ids": keras.Input((None,), dtype="int32", name="token_ids"),
        "segment_ids": keras.Input((None,), dtype="int32", name="segment_ids"),
        "padding_mask": keras.Input((None,), dtype="bool", name="padding_mask"),
        "masked_positions": keras.Input((None,), dtype="int32", name="masked_positions"),
    }
    tokens = keras_hub.layers.ReversibleEmbedding(
        size.vocabulary_size, size.hidden_dim, embeddings_initializer=initializer
    )
    positions = keras_hub.layers.PositionEmbedding(size.max_length, initializer=initializer)
    segments = keras.layers.Embedding(2, size.hidden_dim, embeddings_initializer=initializer)
    embedded = tokens(inputs["token_ids"])
    x = embedded + positions(embedded) + segments(inputs["segment_ids"])
    x = keras.layers.LayerNormalization(epsilon=size.layer_norm_epsilon)(x)
    for _ in range(size.num_layers):
        x = keras_hub.layers.TransformerEncoder(
            size.intermediate_dim,
            size.num_heads,
            dropout=size.dropout,
            activation="gelu",
            layer_norm_epsilon=size.layer_norm_epsilon,
            kernel_initializer=initializer,
        )(x, padding_mask=inputs["padding_mask"])
    pooled = keras.layers.Dense(size.hidden_dim, "tanh", kernel_initializer=initializer)(x[:, 0])
    masked_lm = keras_hub.layers.MaskedLMHead(
        token_embedding=tokens,
        intermediate_activation="gelu",
        kernel_initializer=initializer,
    )(x, mask_positions=inputs["masked_positions"])
    next_sentence = keras.layers.Dense(2, kernel_initializer=initializer)(pooled)
    outputs = {"masked_lm": masked_lm, "next_sentence": next_sentence}
    model = keras.Model(inputs, outputs)
    start = sinusoids(np.arange(size.max_length), size.hidden_dim)
    positions.position_embeddings.assign(example.POSITION_SCALE * start)
    return model


def main() -> None:
    arguments = parser(__doc__, example.STEPS, "pretraining_quality.jsonl").parse_args()
    train, held_out = data.split_documents(example.read_corpus("en", None), _shared.HELD_OUT)
    vocabulary = data.train_vocabulary((p for d in train for p in d), example.VOCABULARY_SIZE)
    tokenizer = data.BertTokenizer(vocabulary)
    train_ids = data.tokenize_documents(train, tokenizer)
    held_out_ids = data.tokenize_documents(held_out, tokenizer)
    shape = {"batch_size": example.BATCH_SIZE, "length": example.LENGTH}
    validation = data.pretraining_dataset(
        held_out_ids,
        tokenizer,
        seed=example.HELD_OUT_SEED,
        count=data.rows_of(held_out_ids, example.LENGTH),
        **shape,
    ).cache()
    compare(
        arguments,
        example,
        {
            "keras_attn": lambda: example.build(example.SIZE),
            "keras_hub": lambda: hub_model(example.SIZE),
        },
        stream=lambda seed: data.pretraining_dataset(train_ids, tokenizer, seed=seed, **shape),
        scores=lambda model: model.evaluate(validation, return_dict=True, verbose=0),
    )


if __name__ == "__main__":
    main()
