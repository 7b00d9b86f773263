"""Which models run in ONNX Runtime, LiteRT and OpenVINO, and how far are they from Keras?

    python benchmarks/runtimes.py                                  # all models, all runtimes
    python benchmarks/runtimes.py --models GPT --runtimes onnx

Each model is small, has random weights and open batch and lengths where it can; it is written by
`keras_attn.export.to_onnx` and similar functions, and run there on batches of three sizes, with
padding. A difference is the largest of all outputs. Appends a line for each case to
benchmarks/results/runtimes.jsonl, and writes the table in docs/guides/runtimes.md from the newest.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "runtimes.jsonl"
GUIDE = ROOT / "docs" / "guides" / "runtimes.md"
RUNTIMES = {"onnx": "ONNX Runtime", "litert": "LiteRT", "openvino": "OpenVINO"}
WIDTH, LONG = 12, 2048


def models():
    """A function for each model, by name."""
    import keras

    import keras_attn
    from keras_attn import layers
    from keras_attn.models import bert, bert_tasks, gpt, rnn_attention, sizes, transformer

    common = {"vocabulary_size": 17, "initializer_range": 0.4, "max_length": 64}
    bert_size = sizes.BertSize(2, WIDTH, 3, 20, **common)
    gpt_size = sizes.GptSize(2, WIDTH, 3, 20, **common)
    transformer_size = sizes.TransformerSize(2, WIDTH, 3, 20, vocabulary_size=17)

    def task(make, *arguments, **options):
        return lambda: make(bert.encoder(bert_size), *arguments, **options)

    def decoder(**options):
        return lambda: gpt.decoder(gpt_size, **options)

    def translator(attention):
        return lambda: rnn_attention.encoder_decoder(
            17, embedding_dim=6, units=8, attention=attention, attention_scores=True
        )

    def layer(attend, length=None):
        """One layer over rows with a padding mask."""

        def make():
            x = keras.Input((length, WIDTH), name="x")
            mask = keras.Input((length,), dtype="bool", name="padding_mask")
            return keras.Model({"x": x, "padding_mask": mask}, attend(x, mask))

        return make

    def self_attention(**options):
        return layer(lambda x, mask: layers.MultiHeadSelfAttention(3, 4, **options)(x, mask=mask))

    def memory(attention, **options):
        return layer(lambda x, mask: attention(**options)(x, x, query_mask=mask, memory_mask=mask))

    def listed(attention):
        return layer(lambda x, mask: attention()([x, x], mask=[mask, mask]))

    def upgraded(attend):
        return lambda: keras_attn.upgrade(layer(attend)()).model

    def upgraded_hub():
        import keras_hub

        backbone = keras_hub.models.BertBackbone(
            17, 2, 3, WIDTH, intermediate_dim=20, max_sequence_length=64
        )
        return keras_attn.upgrade(backbone).model

    return {
        "BERT encoder": lambda: bert.encoder(bert_size),
        "BERT encoder, all hidden states": lambda: bert.encoder(bert_size, hidden_states=True),
        "BERT encoder, window": lambda: bert.encoder(bert_size, window=2),
        "BERT pre-training": lambda: bert.pretraining(bert_size),
        "BERT masked LM": task(bert_tasks.masked_lm),
        "BERT next sentence": task(bert_tasks.next_sentence),
        "BERT classifier": task(bert_tasks.classifier, 3),
        "BERT classifier, mean": task(bert_tasks.classifier, 3, pooling="mean"),
        "BERT classifier, maximum": task(bert_tasks.classifier, 3, pooling="max"),
        "BERT regressor": task(bert_tasks.regressor),
        "BERT tagger": task(bert_tasks.tagger, 3),
        "BERT span": task(bert_tasks.span),
        "BERT multiple choice": task(bert_tasks.multiple_choice, 3),
        "GPT": decoder(),
        "GPT, rotary positions": decoder(position=layers.RotaryEmbedding()),
        "GPT, window": decoder(window=2),
        "Transformer translator": lambda: transformer.encoder_decoder(transformer_size),
        "RNN translator, Bahdanau": translator("bahdanau"),
        "RNN translator, Luong": translator("luong"),
        "RNN translator, local attention": translator("local_p"),
        "TransformerEncoderBlock": layer(
            lambda x, mask: layers.TransformerEncoderBlock(3, 20)(x, mask=mask)
        ),
        "MultiHeadSelfAttention": self_attention(),
        "MultiHeadSelfAttention, grouped heads, causal": self_attention(
            num_kv_heads=1, causal=True
        ),
        "MultiHeadSelfAttention, ALiBi": self_attention(position=layers.ALiBi(3)),
        "MultiHeadSelfAttention, relative bias": self_attention(
            position=layers.RelativePositionBias(3)
        ),
        "MultiHeadSelfAttention, 2048 tokens": layer(
            lambda x, mask: layers.MultiHeadSelfAttention(1, 4)(x, mask=mask), LONG
        ),
        "MultiHeadCrossAttention": layer(
            lambda x, mask: layers.MultiHeadCrossAttention(3, 4)(
                x, x[:, 1:], value_mask=mask[:, 1:]
            )
        ),
        "MultiHeadAttention": layer(
            lambda x, mask: layers.MultiHeadAttention(3, 4)(x, x, value_mask=mask)
        ),
        "GroupQueryAttention": layer(
            lambda x, mask: layers.GroupQueryAttention(4, 6, 3)(x, x, value_mask=mask)
        ),
        "Attention": listed(layers.Attention),
        "AdditiveAttention": listed(layers.AdditiveAttention),
        "BahdanauAttention": memory(layers.BahdanauAttention, units=5),
        "LuongAttention, general": memory(layers.LuongAttention),
        "LuongAttention, cosine": memory(layers.LuongAttention, score="cosine"),
        "LuongAttention, local_m": memory(layers.LuongAttention, locality="local_m", window=2),
        "LuongAttention, local_p": memory(layers.LuongAttention, locality="local_p", window=2),
        "HardAttention": memory(layers.HardAttention),
        "Keras' MultiHeadAttention, upgraded": upgraded(
            lambda x, mask: keras.layers.MultiHeadAttention(3, 4)(x, x, value_mask=mask)
        ),
        "keras-hub's BertBackbone, upgraded": upgraded_hub,
    }


def measure(make, runtime):
    """The largest difference, or the reason why there is no file."""
    import keras
    import numpy as np

    from keras_attn import export
    from keras_attn.export import runtimes

    keras.utils.set_random_seed(0)
    model, rng = make(), np.random.default_rng(0)
    model.set_weights([w + rng.normal(0, 0.1, w.shape) for w in model.get_weights()])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model" + {"onnx": ".onnx", "litert": ".tflite"}.get(runtime, ".xml"))
        try:
            getattr(export, f"to_{runtime}")(model, path)
        except ValueError as error:
            return {"refused": " ".join(str(error).split())}
        return {"difference": runtimes.compare(runtimes.plain(model), path, runtime)}


def newest():
    """The newest record of each model and runtime."""
    records = map(json.loads, RESULTS.read_text().splitlines())
    return list({(record["model"], record["runtime"]): record for record in records}.values())


def table():
    """The newest results in Markdown."""
    rows = {}
    for record in newest():
        cell = record.get("refused", "").partition(": ")[2]
        row = rows.setdefault(record["model"], {})
        row[record["runtime"]] = cell or f"{record['difference']:.0e}".replace("0e+00", "0")
    lines = ["| | " + " | ".join(RUNTIMES.values()) + " |", "|---" * (len(RUNTIMES) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(row[runtime] for runtime in RUNTIMES)} |")
    return "\n".join(lines)


def main():
    """Measure the requested cases, and write the table."""
    import _results

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    options = parser.parse_args()
    made = models()
    for name in options.models or made:
        for runtime in options.runtimes:
            record = {"model": name, "runtime": runtime, **measure(made[name], runtime)}
            _results.keep(record | _results.machine(), RESULTS)
    before, start, rest = GUIDE.read_text().partition("<!-- table -->\n")
    GUIDE.write_text(f"{before}{start}{table()}\n{rest[rest.index('<!-- end -->') :]}")


if __name__ == "__main__":
    main()
