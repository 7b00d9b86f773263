"""Does fine-tuning here reach what transformers on torch reaches from the same checkpoint?

    python benchmarks/finetuning.py --checkpoint DIR                # five tasks, three seeds
    python benchmarks/finetuning.py --checkpoint DIR --task tag --seeds 1

Tasks and data are those of the examples bert_classify.py ... bert_choice.py, without their class
weights, frozen layers and so on. Both sides get the same batches of the same tokens, and the same
loss, optimizer, schedule and dropout. Writes a JSON line a run.
"""

import argparse
import dataclasses
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import _shared  # noqa: E402
import bert_choice  # noqa: E402
import bert_classify  # noqa: E402
import bert_pairs  # noqa: E402
import bert_span  # noqa: E402
import bert_tag  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from _results import keep  # noqa: E402

from keras_attn import data, weights  # noqa: E402

MEASURED = 400  # held-out examples
EPSILON = 1e-10  # of Adam: Keras adds it before the bias correction, torch after it
RENAMED = {
    "input_ids": "token_ids",
    "token_type_ids": "segment_ids",
    "attention_mask": "padding_mask",
}


@dataclasses.dataclass(frozen=True)
class Task:
    """A task: our and transformers' name of its model, the data, and the score."""

    kind: str
    architecture: str
    metric: str
    batches: Callable[[int], tf.data.Dataset]  # from a seed: features, labels, maybe weights
    held_out: dict[str, Any]  # features
    score: Callable[[Any], float]  # from the logits of all
    num_classes: int | None = None


def some(examples: list) -> list:
    """At most `MEASURED` of the examples, always the same."""
    chosen = np.random.default_rng(0).permutation(len(examples))[:MEASURED]
    return [examples[index] for index in sorted(chosen)]


def classify(tokenizer: data.BertTokenizer) -> Task:
    """Accuracy of bert_classify.py."""
    train, held_out = bert_classify.read(None)
    held_out, labels = some(held_out), sorted({label for _, label in train})
    layer = data.BertPreprocessor(tokenizer, bert_classify.LENGTH)
    return Task(
        "classifier",
        "AutoModelForSequenceClassification",
        "accuracy",
        lambda seed: bert_classify.dataset(layer, train, labels, seed=seed),
        layer([text for text, _ in held_out]),
        lambda logits: bert_classify.score(logits, held_out, labels)["accuracy"],
        len(labels),
    )


def pairs(tokenizer: data.BertTokenizer) -> Task:
    """Accuracy of bert_pairs.py."""
    train, held_out = bert_pairs.read(None)
    first, second, names = map(list, zip(*some(held_out), strict=True))
    labels = bert_pairs.LABELS
    layer = data.PairPreprocessor(tokenizer, bert_pairs.LENGTH)
    return Task(
        "classifier",
        "AutoModelForSequenceClassification",
        "accuracy",
        lambda seed: bert_pairs.dataset(layer, train, labels, seed=seed),
        layer(first, second),
        lambda logits: np.mean(logits.argmax(-1) == _shared.numbers(names, labels)),
        len(labels),
    )


def tag(tokenizer: data.BertTokenizer) -> Task:
    """F1 of bert_tag.py."""
    train, held_out = bert_tag.read(None)
    held_out, labels = some(held_out), sorted({tag for _, tags in train for tag in tags})
    layer = data.WordsPreprocessor(tokenizer, bert_tag.LENGTH, labels)
    features, _, first = bert_tag.rows(layer, held_out)
    return Task(
        "tagger",
        "AutoModelForTokenClassification",
        "f1",
        lambda seed: bert_tag.dataset(layer, train, seed=seed),
        features,
        lambda logits: bert_tag.score(logits, first.numpy(), held_out, labels)["f1"],
        len(labels),
    )


def choice(tokenizer: data.BertTokenizer) -> Task:
    """Accuracy of bert_choice.py."""
    train, held_out = bert_choice.read(None)
    prompts, choices, answers = map(list, zip(*some(held_out), strict=True))
    layer = data.ChoicePreprocessor(tokenizer, bert_choice.LENGTH)
    return Task(
        "multiple_choice",
        "AutoModelForMultipleChoice",
        "accuracy",
        lambda seed: bert_choice.dataset(layer, train, seed=seed),
        layer(prompts, choices),
        lambda logits: np.mean(logits.argmax(-1) == answers),
    )


def span(tokenizer: data.BertTokenizer) -> Task:
    """F1 of bert_span.py."""
    train, held_out = bert_span.read(None)
    layer = bert_span.make_preprocessor(bert_span.LENGTH, tokenizer)
    features, _, _, examples = bert_span.rows(layer, [some(sum(held_out, []))])
    learned = bert_span.training_rows(layer, train)
    return Task(
        "span",
        "AutoModelForQuestionAnswering",
        "f1",
        lambda seed: bert_span.dataset(learned, seed=seed),
        bert_span.windows(features),
        lambda logits: bert_span.score(logits, features, examples)["f1"],
    )


TASKS = {"classify": classify, "pairs": pairs, "tag": tag, "span": span, "choice": choice}


def run_ours(task: Task, checkpoint: pathlib.Path, rate: float, steps: int, seed: int) -> tuple:
    """The score after the steps, and their time."""
    options = {} if task.num_classes is None else {"num_classes": task.num_classes}
    model = weights.load(checkpoint, task.kind, **options).model
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    optimizer = _shared.optimizer(rate, steps)
    optimizer.epsilon = EPSILON
    model.compile(
        optimizer,
        {"start": loss, "end": loss} if task.kind == "span" else loss,
    )
    began = time.time()
    model.fit(
        task.batches(seed).prefetch(tf.data.AUTOTUNE),
        steps_per_epoch=steps,
        shuffle=False,
        verbose=0,
    )
    seconds = time.time() - began
    return task.score(model.predict(task.held_out, verbose=0)), seconds


def their_inputs(features: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Our features under the names of transformers."""
    return {name: torch.tensor(np.int64(features[ours])) for name, ours in RENAMED.items()}


def their_logits(model: torch.nn.Module, features: dict[str, Any]) -> Any:
    """Outputs like ours: a tensor, or two for a span."""
    outputs = model(**their_inputs(features))
    if hasattr(outputs, "start_logits"):
        return {"start": outputs.start_logits, "end": outputs.end_logits}
    return outputs.logits


def their_loss(logits: torch.Tensor, labels: Any, row_weights: Any = None) -> torch.Tensor:
    """Mean cross entropy, weighted if there are weights."""
    labels = torch.tensor(np.int64(labels)).reshape(-1)
    losses = torch.nn.functional.cross_entropy(
        logits.reshape(len(labels), -1), labels, reduction="none"
    )
    if row_weights is None:
        return losses.mean()
    row_weights = torch.tensor(np.asarray(row_weights)).reshape(-1)
    return (losses * row_weights).sum() / row_weights.sum()


def run_theirs(task: Task, checkpoint: pathlib.Path, rate: float, steps: int, seed: int) -> tuple:
    """The same with transformers on torch."""
    options = {} if task.num_classes is None else {"num_labels": task.num_classes}
    kind = getattr(transformers, task.architecture)
    model = kind.from_pretrained(checkpoint, **options).train()
    plain = {False: [], True: []}  # biases and norms do not decay
    for name, parameter in model.named_parameters():
        plain["bias" in name or "LayerNorm" in name].append(parameter)
    groups = [{"params": plain[False]}, {"params": plain[True], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.01, eps=EPSILON)
    warmup = steps // 10
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / max(warmup, 1), (steps - step) / (steps - warmup)),
    )
    began = time.time()
    for features, labels, *rest in task.batches(seed).take(steps):
        logits = their_logits(model, features)
        if isinstance(labels, dict):
            loss = sum(their_loss(logits[name], labels[name]) for name in labels)
        else:
            loss = their_loss(logits, labels, *rest)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    seconds = time.time() - began
    model.eval()
    with torch.no_grad():
        found = [
            keras.tree.map_structure(lambda t: t.numpy(), their_logits(model, part))
            for part in parts(task.held_out)
        ]
    logits = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *found)
    return task.score(logits), seconds


def parts(features: dict[str, Any], size: int = 32) -> Iterator[dict[str, Any]]:
    """The rows in small batches."""
    for at in range(0, len(features["token_ids"]), size):
        yield {name: value[at : at + size] for name, value in features.items()}


RUNS = {"keras_attn": run_ours, "transformers": run_theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True)
    parser.add_argument("--task", choices=TASKS, nargs="+", default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    results = ROOT / "benchmarks" / "results" / "finetuning.jsonl"
    parser.add_argument("--results", type=pathlib.Path, default=results)
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for example in (bert_classify, bert_pairs, bert_tag, bert_span, bert_choice):
        example.BATCH_SIZE = arguments.batch
    bert_choice.BATCH_SIZE = max(1, arguments.batch // 4)  # of four rows each
    loaded = weights.load(arguments.checkpoint)
    tokenizer = data.BertTokenizer(loaded.vocabulary, loaded.lowercase is not False)
    for name in arguments.task:
        task = TASKS[name](tokenizer)
        for seed in arguments.seeds:
            for side, run in RUNS.items():
                keras.utils.set_random_seed(seed)
                torch.manual_seed(seed)
                value, seconds = run(
                    task, arguments.checkpoint, arguments.learning_rate, arguments.steps, seed
                )
                record = {
                    "task": name,
                    "library": side,
                    "seed": seed,
                    "steps": arguments.steps,
                    "batch": arguments.batch,
                    "learning_rate": arguments.learning_rate,
                    task.metric: round(float(value), 4),
                    "seconds": round(seconds, 1),
                    "device": f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}",
                    "keras": keras.__version__,
                    "tensorflow": tf.__version__,
                    "torch": torch.__version__,
                    "transformers": transformers.__version__,
                }
                keep(record, arguments.results)


if __name__ == "__main__":
    main()
