"""Serve a translator with TF Serving: strings in, strings out, beam search inside.

    python examples/serve_translation.py                                  # a few minutes
    python examples/serve_translation.py --server http://localhost:8501   # or grpc://localhost:8500

Publishes the English-German model that translate_transformer.py has saved in runs/translate; if
there is none, a weak one is trained for a short time. Then requests are sent to the servable in a
process that cannot import keras, or to the TF Serving given by --server.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import _runs
import _serving
import keras

from keras_attn import data, export

TRAINED = pathlib.Path("runs/translate")
STEPS = 800  # of a short training
LENGTH = 48  # tokens of a source, and of its translation
BEAMS = 4
TEXTS = [
    "Choose Insert - Table.",
    "Click the cell.",
    "Opens the dialog.",
    "Select the text and press Enter.",
]


def trained(output: pathlib.Path, steps: int) -> pathlib.Path:
    """The folder of a run of translate_transformer.py: an earlier one, or a new one in `output`."""
    folder = TRAINED if (TRAINED / "model.keras").is_file() else output
    if not (folder / "model.keras").is_file():
        _runs.train("translate_transformer", folder, steps, "--scored", "25")
    return folder


def options() -> argparse.ArgumentParser:
    """The command line."""
    return _serving.serving_options(__doc__, "serve_translation", STEPS)


def main(arguments: argparse.Namespace) -> None:
    _runs.begin(arguments)
    servable = arguments.output / "servables" / "translate"

    if not arguments.server:
        folder = trained(arguments.output / "trained", arguments.steps)
        model = keras.saving.load_model(folder / "model.keras", compile=False)
        generation = export.Generation(
            data.BertTokenizer(folder / "vocab.txt", lowercase=False),
            prompt_length=LENGTH,
            max_new_tokens=LENGTH,
            beams=BEAMS,
            searches=["beam", "greedy"],
        )
        print(f"\n{export.publish(model, servable, generation=generation)}")
        _serving.write_config(servable.parent, [servable.name])

    answers = _serving.ask(
        servable,
        arguments.server,
        text=TEXTS,
        max_new_tokens=[LENGTH] * len(TEXTS),
        beams=[BEAMS] * len(TEXTS),
        length_penalty=[0.0] * len(TEXTS),
    )
    for text, found, scores in zip(TEXTS, answers["text"], answers["scores"], strict=True):
        print(f"\n  {text}")
        for translation, score in list(zip(found, scores, strict=True))[:2]:
            print(f"    {score:8.2f}  {translation}")


if __name__ == "__main__":
    _runs.run(main, options())
