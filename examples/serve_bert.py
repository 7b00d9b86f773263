"""Serve a BERT with TF Serving: fill in a mask, classify a text, find an answer.

    python examples/serve_bert.py                                  # a few minutes
    python examples/serve_bert.py --server http://localhost:8501   # or grpc://localhost:8500

Publishes the models that bert_pretrain.py, bert_classify.py and bert_span.py have saved in runs/; a
model that does not exist yet is trained for a short time. Then requests are sent to each servable
in a process that cannot import keras, or to the TF Serving given by --server.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import _runs
import _serving
import _shared
import keras

from keras_attn import data, export

STEPS = 600  # of a short training
LENGTH = 64
TOP = 3
QUESTIONS = {
    "fill_mask": {
        "text": [
            "Opens a [MASK] where you can define the properties of the selected object.",
            "Choose Insert - [MASK] to insert a new row.",
        ]
    },
    "classify": {
        "text": [
            "Returns the sum of all numbers in a range of cells.",
            "Adds a footnote at the cursor position in the text.",
        ]
    },
    "answer": {
        "question": ["choose [MASK] and then click the tab"],
        "context": ["To open the Basic IDE, choose Tools - Macros. Click Edit to change a macro."],
    },
}


def fill_mask() -> tuple[keras.Model, dict]:
    """The pre-trained model with its head, as arguments of `export.publish`."""
    _shared.encoder(None)  # pre-trains if there is no encoder yet
    folders = (_shared.PRETRAINED, _shared.SHORT)
    trained = next(folder for folder in folders if (folder / "model.keras").is_file())
    tokenizer = data.BertTokenizer(trained / "vocab.txt")
    return keras.saving.load_model(trained / "model.keras", compile=False), {
        "preprocessor": data.MaskedLMPreprocessor(tokenizer, length=LENGTH),
        "postprocessor": data.MaskedLMPostprocessor(tokenizer, top=TOP),
    }


def fine_tuned(name: str, output: pathlib.Path, steps: int) -> tuple[keras.Model, dict]:
    """What the example `name` saved, after a short training in `output` if there is nothing."""
    trained = pathlib.Path("runs") / name
    if not (trained / "model.keras").is_file():
        trained = output / name
    if not (trained / "model.keras").is_file():
        _runs.train(name, trained, steps)
    return _shared.load(trained)


def options() -> argparse.ArgumentParser:
    """The command line."""
    return _serving.serving_options(__doc__, "serve_bert", STEPS)


def main(arguments: argparse.Namespace) -> None:
    _runs.begin(arguments)
    servables = {name: arguments.output / "servables" / name for name in QUESTIONS}

    if not arguments.server:
        trained = arguments.output / "trained"
        made = {
            "fill_mask": fill_mask(),
            "classify": fine_tuned("bert_classify", trained, arguments.steps),
            "answer": fine_tuned("bert_span", trained, arguments.steps),
        }
        for name, (model, layers) in made.items():
            print(f"\n{export.publish(model, servables[name], **layers)}")
        _serving.write_config(arguments.output / "servables", list(servables))

    answers = {
        name: _serving.ask(servables[name], arguments.server, **question)
        for name, question in QUESTIONS.items()
    }
    print("\nfill in the mask")
    for text, tokens, chances in zip(
        QUESTIONS["fill_mask"]["text"],
        answers["fill_mask"]["tokens"],
        answers["fill_mask"]["probabilities"],
        strict=True,
    ):
        best = ", ".join(f"{t} {c:.0%}" for t, c in zip(tokens[0], chances[0], strict=True))
        print(f"  {text}\n    -> {best}")
    print("\nwhich module of LibreOffice does it explain?")
    for text, label in zip(
        QUESTIONS["classify"]["text"], answers["classify"]["label"], strict=True
    ):
        print(f"  {text}\n    -> {label}")
    print("\nfind the answer in the text")
    for question, context, answer in zip(
        *QUESTIONS["answer"].values(), answers["answer"]["answer"], strict=True
    ):
        print(f"  {question}\n    in: {context}\n    -> {answer}")


if __name__ == "__main__":
    _runs.run(main, options())
