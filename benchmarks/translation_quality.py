"""Does our Transformer translate no worse than one of keras-hub's blocks, after the same steps?

    python benchmarks/translation_quality.py            # three seeds of each, interleaved

Data, vocabulary, sizes, loss and optimizer are those of examples/translate_transformer.py for both;
only the blocks differ. Both are decoded greedily by the whole model, token by token, and scored by
sacrebleu on held-out documents. Writes a JSON line a run.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import _shared  # noqa: E402
import keras  # noqa: E402
import keras_hub  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import translate_transformer as example  # noqa: E402
from _quality import compare, parser  # noqa: E402

from keras_attn import data, models  # noqa: E402

SCORED = 200


def hub_model(size) -> keras.Model:
    """The same model from keras-hub's layers."""
    embedding = keras_hub.layers.ReversibleEmbedding(
        size.vocabulary_size,
        size.hidden_dim,
        embeddings_initializer=keras.initializers.RandomNormal(stddev=size.hidden_dim**-0.5),
    )
    common = {
        "intermediate_dim": size.intermediate_dim,
        "num_heads": size.num_heads,
        "dropout": size.dropout,
        "activation": size.activation,
        "layer_norm_epsilon": size.layer_norm_epsilon,
        "normalize_first": True,
    }

    def embedded(ids):
        x = embedding(ids) * size.hidden_dim**0.5
        return keras.layers.Dropout(size.dropout)(x + keras_hub.layers.SinePositionEncoding()(x))

    def norm(x):
        return keras.layers.LayerNormalization(epsilon=size.layer_norm_epsilon)(x)

    inputs = {
        "source_ids": keras.Input((None,), dtype="int32", name="source_ids"),
        "source_padding_mask": keras.Input((None,), dtype="bool", name="source_padding_mask"),
        "target_ids": keras.Input((None,), dtype="int32", name="target_ids"),
    }
    mask = inputs["source_padding_mask"]
    context = embedded(inputs["source_ids"])
    for _ in range(size.num_layers):
        context = keras_hub.layers.TransformerEncoder(**common)(context, padding_mask=mask)
    context = norm(context)
    hidden = embedded(inputs["target_ids"])
    for _ in range(size.num_layers):
        block = keras_hub.layers.TransformerDecoder(**common)
        hidden = block(hidden, context, encoder_padding_mask=mask)
    return keras.Model(inputs, embedding(norm(hidden), reverse=True))


def greedy(model: keras.Model, sources: list, begin: int, end: int) -> np.ndarray:
    """Rows `[B, T]` of the likeliest next tokens, without a cache: the same for any model."""
    length = example.LENGTHS[-1]
    source = np.array([row + [0] * (length - len(row)) for row in sources], "int32")
    target = np.zeros((len(source), length), "int32")
    target[:, 0] = begin

    @tf.function
    def logits(target, place):
        ids = tf.constant(source)
        inputs = {"source_ids": ids, "source_padding_mask": ids > 0, "target_ids": target}
        return model(inputs, training=False)[:, place]

    done = np.zeros(len(source), bool)
    for place in range(length - 1):
        best = logits(tf.constant(target), tf.constant(place)).numpy().argmax(-1)
        target[:, place + 1] = np.where(done, 0, best)
        done |= best == end
        if done.all():
            break
    return target


def main() -> None:
    options = parser(__doc__, 1000, "translation_quality.jsonl")
    options.add_argument("--size", default="transformer_tiny")
    arguments = options.parse_args()
    train_pairs, held_out_pairs = _shared.read_pairs(_shared.CORPUS, "en", "de")
    vocabulary = data.train_vocabulary(
        (side for pair in train_pairs for side in pair), example.VOCABULARY_SIZE, lowercase=False
    )
    tokenizer = data.BertTokenizer(vocabulary, lowercase=False)
    _, train = example.short_pairs(train_pairs, tokenizer)
    texts, held_out = example.short_pairs(held_out_pairs, tokenizer)
    validation = example.batches(held_out, seed=None).cache()
    size = models.sizes.resolve(
        arguments.size,
        models.sizes.TRANSFORMER_SIZES,
        {"vocabulary_size": len(vocabulary), "normalize_first": True},
    )
    sources = [source for source, _ in held_out[:SCORED]]
    references = [target for _, target in texts[:SCORED]]

    def scores(model: keras.Model) -> dict[str, float]:
        rows = greedy(model, sources, tokenizer.cls_id, tokenizer.sep_id)
        translations = example.plain(rows.tolist(), tokenizer)
        return {
            "bleu": example.bleu(translations, references, "de"),
            **model.evaluate(validation, return_dict=True, verbose=0),
        }

    compare(
        arguments,
        example,
        {
            "keras_attn": lambda: models.transformer.encoder_decoder(size),
            "keras_hub": lambda: hub_model(size),
        },
        stream=lambda seed: example.batches(train, seed=seed),
        scores=scores,
    )


if __name__ == "__main__":
    main()
