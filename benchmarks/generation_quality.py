"""Does our GPT predict no worse than one of keras-hub's blocks, after the same steps?

    python benchmarks/generation_quality.py            # three seeds of each, interleaved

Data, vocabulary, sizes, loss and optimizer are those of examples/generate_text.py for both; only
the blocks and the positions differ: ours are rotary, keras-hub's block takes those of its GPT-2, a
learned table. Writes a JSON line a run.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import _shared  # noqa: E402
import generate_text as example  # noqa: E402
import keras  # noqa: E402
import keras_hub  # noqa: E402
from _quality import compare, parser  # noqa: E402

from keras_attn import data, models  # noqa: E402


def hub_model(size) -> keras.Model:
    """The same model from keras-hub's layers, arranged as in its GPT-2."""
    initializer = keras.initializers.RandomNormal(stddev=size.initializer_range)
    inputs = {
        "token_ids": keras.Input((None,), dtype="int32", name="token_ids"),
        "padding_mask": keras.Input((None,), dtype="bool", name="padding_mask"),
    }
    embedding = keras_hub.layers.ReversibleEmbedding(
        size.vocabulary_size, size.hidden_dim, embeddings_initializer=initializer.clone()
    )
    positions = keras_hub.layers.PositionEmbedding(size.max_length, initializer=initializer.clone())
    x = embedding(inputs["token_ids"])
    x = keras.layers.Dropout(size.dropout)(x + positions(x))
    for _ in range(size.num_layers):
        x = keras_hub.layers.TransformerDecoder(
            intermediate_dim=size.intermediate_dim,
            num_heads=size.num_heads,
            dropout=size.dropout,
            activation=lambda x: keras.activations.gelu(x, approximate=True),
            layer_norm_epsilon=size.layer_norm_epsilon,
            kernel_initializer=initializer.clone(),
            normalize_first=True,
        )(x, decoder_padding_mask=inputs["padding_mask"])
    x = keras.layers.LayerNormalization(epsilon=size.layer_norm_epsilon)(x)
    return keras.Model(inputs, embedding(x, reverse=True))


def main() -> None:
    options = parser(__doc__, example.STEPS, "generation_quality.jsonl")
    options.add_argument("--size", default="gpt_mini")
    arguments = options.parse_args()
    documents = list(data.table_documents(data.read_table(_shared.CORPUS), "en").values())
    train_documents, held_out_documents = data.split_documents(documents, _shared.HELD_OUT)
    vocabulary = data.train_vocabulary(
        (paragraph for document in train_documents for paragraph in document),
        example.VOCABULARY_SIZE,
        lowercase=False,
    )
    tokenizer = data.BertTokenizer(vocabulary, lowercase=False)
    train = example.rows_of(train_documents, tokenizer)
    validation = example.batches(example.rows_of(held_out_documents, tokenizer), seed=None).cache()
    size = models.sizes.resolve(
        arguments.size,
        models.sizes.GPT_SIZES,
        {"vocabulary_size": len(vocabulary), "dropout": example.DROPOUT},
    )
    compare(
        arguments,
        example,
        {
            "keras_attn": lambda: example.build(arguments.size, len(vocabulary)),
            "keras_hub": lambda: hub_model(size),
        },
        stream=lambda seed: example.batches(train, seed=seed),
        scores=lambda model: model.evaluate(validation, return_dict=True, verbose=0),
    )


if __name__ == "__main__":
    main()
