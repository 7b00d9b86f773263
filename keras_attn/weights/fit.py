"""Match the names of a checkpoint with the weights of a model, all of them, before any is set."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_attn.weights.rule import Format, Rule
from keras_attn.weights.source import Source, path


@dataclasses.dataclass(frozen=True)
class Fit:
    """What goes where: pairs of weight and array, names left out, weights left as they are."""

    pairs: tuple[tuple[keras.Variable, np.ndarray], ...]
    skipped: tuple[str, ...]
    fresh: tuple[str, ...]

    def assign(self) -> None:
        """Set the weights."""
        for weight, array in self.pairs:
            weight.assign(array)


def fit(
    source: Source,
    format: Format,
    weights: Iterable[Any],
    *,
    num_layers: int = 0,
    architecture: str | None = None,
    depth: int = 0,
) -> Fit:
    """Read what the weights need from a checkpoint.

    Args:
        source: the checkpoint.
        format: the rules.
        weights: Keras variables.
        num_layers: how often a rule with {i} applies.
        architecture: the class that the checkpoint was saved from, where it says so.
        depth: how many parts of a weight's path the rules name; 0 is all.

    Raises:
        ValueError: names that no rule uses or skips, weights that nothing sets, wrong shapes,
            arrays that should be the same and are not; all of them are named.
    """
    targets = {path(weight, depth).removeprefix("head/"): weight for weight in weights}
    names = {format.rename(name): name for name in source.shapes}
    saved = saved_parts(source, format, architecture)
    trunk = [rule for row in format.trunk for rule in row.expand(num_layers)]
    parts = [
        rule for part in saved for rule in format.parts[part] if _part_in(targets, part, format)
    ]
    rules = {rule.target: rule for rule in (*trunk, *parts) if rule.target in targets}
    used = {rule.source for rule in rules.values()}

    heads = {rule.source for part in format.parts.values() for rule in part}
    left = [name for name in names if name not in used and name not in format.tied]
    skipped = [name for name in left if name in heads or format.ignores(name)]
    roots = {rule.target.split("/")[0] for rule in trunk}
    without_rule = [target for target in targets if target not in (*rules, *format.zeros)]
    fresh = [target for target in without_rule if target.split("/")[0] not in roots]

    problems = {
        "not used": [names[name] for name in left if name not in skipped],
        "not set": [t for t, rule in rules.items() if rule.source not in names]
        + [target for target in without_rule if target not in fresh],
    }
    _raise(source, problems)
    arrays = {
        target: rule.change.load(source.read(names[rule.source])) for target, rule in rules.items()
    }
    arrays |= {target: np.zeros(targets[target].shape) for target in format.zeros}
    problems = {
        "wrong shape": [
            f"{_source(rules, target, names)} gives {array.shape} where {target} has "
            f"{tuple(targets[target].shape)}"
            for target, array in arrays.items()
            if array.shape != tuple(targets[target].shape)
        ],
        "not equal": [
            f"{names[name]} and {names[other]}"
            for name, other in format.tied.items()
            if name in names
            and other in names
            and not np.array_equal(source.read(names[name]), source.read(names[other]))
        ],
    }
    _raise(source, problems)
    pairs = tuple((targets[target], array) for target, array in arrays.items())
    return Fit(pairs, tuple(names[name] for name in skipped), tuple(fresh))


def saved_parts(source: Source, format: Format, architecture: str | None) -> list[str]:
    """Which pooler and heads lie in a checkpoint; heads of two tasks may share their names."""
    names = {format.rename(name) for name in source.shapes}
    known = format.architectures.get(architecture, tuple(format.parts))
    return [
        part
        for part, rules in format.parts.items()
        if part in (*known, "pooler") and any(rule.source in names for rule in rules)
    ]


def _part_in(targets: dict, part: str, format: Format) -> bool:
    return any(rule.target in targets for rule in format.parts[part])


def _source(rules: dict[str, Rule], target: str, names: dict[str, str]) -> str:
    return names[rules[target].source]


def _raise(source: Source, problems: dict[str, list[str]]) -> None:
    found = [f"{what}: {', '.join(names)}" for what, names in problems.items() if names]
    if found:
        raise ValueError(f"{source.title} does not fit the model; {'; '.join(found)}")
