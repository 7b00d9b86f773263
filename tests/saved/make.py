"""Writes saved files of the installed version: run it once per version and keep the result.

    python -m tests.saved.make tests/saved/0.1.0

Each `NAME.keras` has `NAME.npz` beside it: the leaves of its inputs (`in_0`, `in_1`, ...) and of
the outputs that the version itself computed from them (`out_0`, ...). The folder is kept as one
archive, `0.1.0.tar.xz`.
"""

import itertools
import pathlib
import sys

import keras
import numpy as np
from keras import ops, tree

from keras_attn import data, layers, models, training
from keras_attn.ops import cache
from tests.cases import CALLED, built

B, T, S, V = 2, 5, 7, 23
RNG = np.random.default_rng(0)
IDS = {
    "token_ids": RNG.integers(1, V, (B, T)).astype("int32"),
    "segment_ids": RNG.integers(0, 2, (B, T)).astype("int32"),
    "padding_mask": np.arange(T) < np.array([[T], [3]]),
}
POSITIONS = {**IDS, "masked_positions": np.array([[1, 3], [0, 2]], "int32")}
BERT = models.sizes.BertSize(2, 12, 3, 17, vocabulary_size=V, max_length=11)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "run", "##s", "."]


def randomized(model: keras.Model) -> keras.Model:
    """The model with no weight left at zero or one."""
    for weight in model.trainable_weights:
        weight.assign(weight + 0.2 * RNG.normal(size=weight.shape).astype("float32"))
    return model


def whole_models() -> dict:
    """Models by name, each with its inputs."""

    def encoder() -> keras.Model:
        return models.bert.encoder(BERT)

    tasks = models.bert_tasks
    choices = {name: np.stack([part, part[::-1]], axis=1) for name, part in IDS.items()}
    text = keras.Input((), dtype="string", name="text")
    tokens = data.BertPreprocessor(data.BertTokenizer(WORDS), length=T)(text)
    strings = keras.Model(text, encoder()(tokens))
    gpt = models.sizes.GptSize(2, 12, 3, 17, vocabulary_size=V, max_length=11)
    transformer = models.sizes.TransformerSize(1, 12, 3, 17, vocabulary_size=V)
    translation = {"source_ids": IDS["token_ids"], "target_ids": IDS["token_ids"][:, :3]}
    quantized = randomized(encoder())
    quantized.quantize("int8")
    return {
        "bert_encoder": (encoder(), IDS),
        "bert_pretraining": (models.bert.pretraining(BERT), POSITIONS),
        "bert_classifier": (tasks.classifier(encoder(), 3), IDS),
        "bert_tagger": (tasks.tagger(encoder(), 3), IDS),
        "bert_span": (tasks.span(encoder()), IDS),
        "bert_masked_lm": (tasks.masked_lm(encoder()), POSITIONS),
        "bert_next_sentence": (tasks.next_sentence(encoder()), IDS),
        "bert_multiple_choice": (tasks.multiple_choice(encoder(), 2), choices),
        "bert_int8": (quantized, IDS),
        "bert_from_strings": (strings, np.array(["a dog runs.", "dogs"], object)),
        "gpt": (
            models.gpt.decoder(gpt, position=layers.RotaryEmbedding(100.0, share=0.5)),
            {name: IDS[name] for name in ("token_ids", "padding_mask")},
        ),
        "transformer": (
            models.transformer.encoder_decoder(transformer),
            {**translation, "source_padding_mask": IDS["padding_mask"]},
        ),
        "rnn_bahdanau": (
            models.rnn_attention.encoder_decoder(V, embedding_dim=3, units=5),
            translation,
        ),
        "rnn_luong": (
            models.rnn_attention.encoder_decoder(V, embedding_dim=3, units=5, attention="luong"),
            translation,
        ),
    }


def cached_block() -> tuple:
    """A block with its cache, as decoding steps of 0.1.0 used it."""
    block = layers.CachedBlock(layers.TransformerEncoderBlock(2, 16, causal=True), name="step")
    inputs = {
        "inputs": keras.Input((None, 8), name="inputs"),
        "cache": {name: keras.Input((2, None, 4), name=name) for name in ("key", "value")},
        "index": keras.Input(batch_shape=(), dtype="int32", name="index"),
    }
    model = keras.Model(inputs, block(inputs["inputs"], inputs["cache"], inputs["index"]))
    empty = tree.map_structure(ops.convert_to_numpy, cache.create(B, T, 2, 4))
    return model, {
        "inputs": RNG.normal(size=(B, 1, 8)).astype("float32"),
        "cache": empty,
        "index": np.array(0, "int32"),
    }


def trained(folder: pathlib.Path) -> tuple:
    """A compiled model with our loss, metric and schedule, after three steps; its checkpoint."""
    model = models.gpt.decoder(
        models.sizes.GptSize(1, 8, 2, 12, vocabulary_size=V, max_length=T), name="trained"
    )
    schedule = training.WarmupLinearDecay(1e-2, warmup_steps=2, total_steps=9)
    loss = training.SmoothedCrossEntropy(label_smoothing=0.1, ignore_class=0)
    model.compile(keras.optimizers.AdamW(schedule), loss, weighted_metrics=[training.Perplexity()])
    inputs = {name: IDS[name] for name in ("token_ids", "padding_mask")}
    checkpoint = training.TrainingCheckpoint(folder / "checkpoint")
    batch = (inputs, IDS["token_ids"])
    checkpoint.restore(model, batch)
    model.fit(
        (batch for _ in itertools.count()),
        steps_per_epoch=3,
        epochs=1,
        callbacks=[checkpoint],
        verbose=0,
    )
    return model, inputs


def write(folder: pathlib.Path, name: str, model: keras.Model, inputs: object) -> None:
    """Save the model, its inputs and its outputs."""
    model.save(folder / f"{name}.keras")
    outputs = tree.flatten(tree.map_structure(ops.convert_to_numpy, model(inputs)))
    arrays = {
        f"in_{i}": leaf.astype(str) if leaf.dtype == object else leaf
        for i, leaf in enumerate(tree.flatten(inputs))
    }
    np.savez_compressed(
        folder / f"{name}.npz", **arrays, **{f"out_{i}": leaf for i, leaf in enumerate(outputs)}
    )


def main(folder: pathlib.Path) -> None:
    """Write everything."""
    folder.mkdir(parents=True)
    for case in CALLED:
        write(folder, f"layer_{case}", case.model(built(case)), tree.flatten(case.values()))
    for name, (model, inputs) in whole_models().items():
        if name != "bert_int8":
            randomized(model)
        write(folder, name, model, inputs)
    write(folder, "cached_block", *cached_block())
    write(folder, "trained", *trained(folder))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
