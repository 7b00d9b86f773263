"""Does our Transformer translate no worse than one of keras-hub's blocks, after the same steps?

    python benchmarks/translation_quality.py            # three seeds of each, interleaved

Data, vocabulary, sizes, loss and optimizer are those of examples/translate_transformer.py for both;
only the blocks differ. Both are decoded greedily by the whole model, token by token, and scored by
sacrebleu on held-out documents. Writes a JSON line a run.
"""

import argparse
import os
import pathlib
import platform
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import keras  # noqa: E402
import keras_hub  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import translate_transformer as example  # noqa: E402
from _results import keep  # noqa: E402

from keras_attn import data, models, training  # noqa: E402

SCORED = 200


def our_model(size) -> keras.Model:
    """As the example builds it."""
    return models.transformer.encoder_decoder(size)


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


BUILDERS = {"keras_attn": our_model, "keras_hub": hub_model}
# Muon turns only two-dimensional weights into its own update: those of keras-hub's attention have
# three dimensions and get Adam's, so each side can be measured with Adam alone too.
OPTIMIZERS = {
    "muon": lambda steps: keras.optimizers.Muon(schedule(example.LEARNING_RATE, steps)),
    "adam": lambda steps: keras.optimizers.Adam(schedule(1e-3, steps), beta_2=0.98, clipnorm=1.0),
}


def schedule(rate: float, steps: int) -> training.WarmupLinearDecay:
    """The example's."""
    return training.WarmupLinearDecay(rate, int(example.WARMUP_SHARE * steps), steps)


def greedy(model: keras.Model, sources: list, begin: int, end: int) -> np.ndarray:
    """Rows `[B, T]` of the likeliest next pieces, without a cache: the same for any model."""
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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--blocks", nargs="+", default=list(BUILDERS))
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="muon")
    parser.add_argument("--size", default="transformer_tiny")
    parser.add_argument("--steps", type=int, default=1000)
    results = ROOT / "benchmarks" / "results" / "translation_quality.jsonl"
    parser.add_argument("--results", type=pathlib.Path, default=results)
    arguments = parser.parse_args()

    train_pairs, held_out_pairs = example.read_pairs(example.CORPUS, "en", "de")
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

    for seed in arguments.seeds:
        for name in arguments.blocks:
            keras.utils.set_random_seed(seed)
            model = BUILDERS[name](size)
            example.compile_model(model, arguments.steps)
            model.optimizer = OPTIMIZERS[arguments.optimizer](arguments.steps)
            began = time.time()
            stream = example.batches(train, seed=seed)
            model.fit(stream, steps_per_epoch=arguments.steps, verbose=0, shuffle=False)
            seconds = time.time() - began
            result = model.evaluate(validation, return_dict=True, verbose=0)
            sources = [source for source, _ in held_out[:SCORED]]
            rows = greedy(model, sources, tokenizer.cls_id, tokenizer.sep_id)
            translations = example.plain(rows.tolist(), tokenizer)
            references = [target for _, target in texts[:SCORED]]
            record = {
                "blocks": name,
                "optimizer": arguments.optimizer,
                "size": arguments.size,
                "seed": seed,
                "steps": arguments.steps,
                "seconds": round(seconds, 1),
                "weights": model.count_params(),
                "bleu": round(example.bleu(translations, references, "de"), 2),
                **{key: round(value, 4) for key, value in result.items()},
                "device": f"{os.cpu_count()} cores, {platform.machine()}",
                "keras": keras.__version__,
                "keras_hub": keras_hub.__version__,
                "tensorflow": tf.__version__,
            }
            keep(record, arguments.results)


if __name__ == "__main__":
    main()
