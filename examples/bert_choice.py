"""Choose with a BERT: which of four paragraphs comes next in a manual?

    python examples/bert_choice.py                     # about two minutes on two cores
    python examples/bert_choice.py --checkpoint DIR --learning-rate 1e-4     # a real checkpoint
    python examples/bert_choice.py --data mine.tsv     # columns prompt, choice_0, choice_1 ... and
                                                       # answer, the number of the right one
    python examples/bert_choice.py --resume            # go on where a run was interrupted

The task is that of SWAG, with paragraphs of other pages about the same part of LibreOffice as the
wrong choices. The embedding and the lowest layer stay as pre-training left them, which saves time
and memory. Under --output: checkpoints, and a model for export.publish.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import _encoder
import _shared
import keras
import numpy as np

from keras_attn import data, models, training

LENGTH = 64
BATCH_SIZE = 16
STEPS = 800
PARTS = 4  # of the run, each ends in a look at the held-out questions
CHOICES = 4
FROZEN = ("embedding", "block_0")
SAVE_EVERY = 100  # steps between checkpoints
DRAWN = 7  # the seed of the choices, the same whatever the training's
EXPECTED = 0.75  # held-out accuracy of the default run; two seeds gave 75.3 and 76.3 %


def read(files: list[pathlib.Path] | None) -> tuple[list, list]:
    """Prompts, choices and the number of the right one, to learn from and held out."""
    if files:
        return _encoder.of_files(files, read_choices)
    return tuple(map(questions, _encoder.pages()))


def read_choices(path: pathlib.Path) -> list[tuple[str, list[str], int]]:
    """A table of the user's; an empty cell is a choice that is missing."""
    names = [name for name in data.read_table(path) if name.startswith("choice_")]
    rows = []
    for prompt, answer, *choices in _encoder.read_cells(path, "prompt", "answer", *names):
        if not all(choices) or answer not in map(str, range(len(choices))):
            raise SystemExit(
                f"{path}: a prompt must have {len(names)} choices and an answer from 0 to "
                f"{len(names) - 1}, got {sum(map(bool, choices))} and {answer!r} for {prompt!r}"
            )
        rows.append((prompt, choices, int(answer)))
    return rows


def questions(pages: dict[str, list[str]]) -> list[tuple[str, list[str], int]]:
    """Each paragraph with its successor among paragraphs of other pages of its part."""
    rng = np.random.default_rng(DRAWN)
    found = []
    for part in _encoder.parts(pages).values():
        for (page, prompt), (next_page, right) in zip(part, part[1:], strict=False):
            drawn = [part[i] for i in rng.integers(len(part), size=4 * CHOICES)]
            choices = [text for other, text in drawn if other != page][: CHOICES - 1]
            if page == next_page and len(choices) == CHOICES - 1:
                answer = int(rng.integers(CHOICES))
                found.append((prompt, [*choices[:answer], right, *choices[answer:]], answer))
    return found


def dataset(preprocessor, examples, **options):
    """Batches of features and numbers of right choices."""
    prompts, choices, answers = map(list, zip(*examples, strict=True))
    return _encoder.batches(
        (prompts, choices, answers),
        lambda prompt, choices, answer: (preprocessor(prompt, choices), answer),
        BATCH_SIZE,
        **options,
    )


def guess(examples) -> float:
    """Accuracy of the choice that shares most words with its prompt."""
    right = 0
    for prompt, choices, answer in examples:
        words = set(prompt.lower().split())
        common = [len(words & set(choice.lower().split())) for choice in choices]
        right += common.index(max(common)) == answer
    return right / len(examples)


def options() -> argparse.ArgumentParser:
    """The command line."""
    return _encoder.options(__doc__, STEPS, "bert_choice", resume=True)


def main(arguments: argparse.Namespace) -> None:
    keras.utils.set_random_seed(arguments.seed)
    train, held_out = read(arguments.data)
    encoder, tokenizer = _encoder.encoder(arguments.checkpoint)
    preprocessor = data.ChoicePreprocessor(tokenizer, LENGTH)
    measured = dataset(preprocessor, held_out).cache()
    steps_per_epoch = max(1, arguments.steps // PARTS)

    for name in FROZEN:
        encoder.get_layer(name).trainable = False
    count = len(train[0][1])
    model = models.bert_tasks.multiple_choice(encoder, count)
    model.compile(
        _encoder.optimizer(arguments.learning_rate, arguments.steps),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    learned = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    print(f"{learned:,} of {model.count_params():,} weights learn")
    checkpoint = training.TrainingCheckpoint(arguments.output / "checkpoints", every=SAVE_EVERY)
    step = checkpoint.restore(model, next(iter(measured)))
    model.fit(
        dataset(preprocessor, train, seed=arguments.seed, start=step),
        epochs=PARTS,
        initial_epoch=step // steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        shuffle=False,  # the stream is
        validation_data=measured,
        callbacks=[checkpoint],
    )

    accuracy = model.evaluate(measured, return_dict=True, verbose=0)["accuracy"]
    print(f"\n{len(held_out)} held-out questions{'':6}{'accuracy':>10}")
    for name, value in {
        "by chance": 1 / count,
        "most words in common": guess(held_out),
        "this model": accuracy,
    }.items():
        print(f"{name:30}{value:10.1%}")
    labels = [str(number) for number in range(count)]
    _encoder.save(arguments.output, model, preprocessor, data.ClassificationPostprocessor(labels))
    print(f"saved in {arguments.output}, for export.publish")
    print(f"accuracy {accuracy:.1%} (the default run should reach {EXPECTED:.0%})")


if __name__ == "__main__":
    _shared.run(main, options())
