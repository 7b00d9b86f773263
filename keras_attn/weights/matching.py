"""Matches the names of a checkpoint with the weights of a model, before any weight is set."""

import dataclasses
import itertools
from collections.abc import Iterable

import keras
import numpy as np

from keras_attn._typing import Config
from keras_attn.models import parts
from keras_attn.weights.formats import Format, Rule
from keras_attn.weights.readers import Source

Rules = tuple[Rule, ...]


@dataclasses.dataclass(frozen=True)
class Match:
    """Pairs of a weight and its array, names that are skipped, weights that get no array."""

    pairs: tuple[tuple[keras.Variable, np.ndarray], ...]
    skipped: tuple[str, ...]
    initialized: tuple[str, ...]

    def assign(self) -> None:
        """Set the weights."""
        for weight, array in self.pairs:
            weight.assign(array)


def match(
    source: Source,
    format: Format,
    weights: Iterable[keras.Variable],
    config: Config,
    *,
    num_layers: int = 0,
    heads: Iterable[str] = (),
) -> Match:
    """Read the arrays for the weights of a model from a checkpoint.

    Args:
        source: the checkpoint.
        format: the format with its rules.
        weights: Keras variables.
        config: the checkpoint's configuration.
        num_layers: the number of layers, for rules with {i}.
        heads: the heads of the checkpoint that the model has too.

    Raises:
        ValueError: a name is neither used nor skipped by a rule, a weight has two names or gets no
            array, a shape or a type is wrong, numbers are not finite, or tied arrays differ. The
            message names all of them.
    """
    targets = targets_of(weights)
    names = _by_rule_name(source, format)
    trunk, others = rules_of(format, heads, num_layers)
    present = [rules for rules in others if any(rule.source in names for rule in rules)]
    rules = [
        rule
        for rule in itertools.chain(trunk, *present)
        if any(target in targets for target in rule.targets)
    ]
    used = {rule.source for rule in rules}
    ruled = {target for rule in rules for target in rule.targets}

    tied = {} if config.get("tie_word_embeddings") is False else format.tied
    optional = {rule.source for rules in _optional(format) for rule in rules} | format.tied.keys()
    left = [name for name in names if name not in used and name not in tied]
    skipped = [name for name in left if name in optional or format.ignores(name)]
    roots = {target.split("/")[0] for rule in trunk for target in rule.targets}
    unruled = [target for target in targets if target not in ruled]
    initialized = [target for target in unruled if target.split("/")[0] not in roots]
    missing = [rule for rule in rules if rule.source not in names]
    _raise(
        source,
        {
            "not used": [names[name] for name in left if name not in skipped],
            "not set": [target for rule in missing for target in rule.targets]
            + [target for target in unruled if target not in initialized],
        },
    )

    read = {rule.source: source.read(names[rule.source]) for rule in rules}
    _raise(
        source,
        {
            "not floating-point numbers": [
                f"{names[name]} ({array.dtype})"
                for name, array in read.items()
                if not keras.backend.is_float_dtype(array.dtype.name)
            ],
            "not finite": [names[name] for name, a in read.items() if not np.isfinite(a).all()],
            "not equal": [
                f"{names[name]} and {names[other]}"
                for name, other in tied.items()
                if name in names
                and other in names
                and not np.array_equal(source.read(names[name]), source.read(names[other]))
            ],
        },
    )
    changed = [
        (rule, target, array)
        for rule in rules
        for target, array in zip(
            rule.targets, rule.change.load(read[rule.source], config), strict=True
        )
    ]
    _raise(
        source,
        {
            "wrong shape": [
                f"{names[rule.source]} gives {array.shape} where {target} has "
                f"{tuple(targets[target].shape)}"
                for rule, target, array in changed
                if array.shape != tuple(targets[target].shape)
            ]
        },
    )
    return Match(
        tuple((targets[target], array) for _, target, array in changed),
        tuple(names[name] for name in skipped),
        tuple(initialized),
    )


def _by_rule_name(source: Source, format: Format) -> dict[str, str]:
    """The names of a checkpoint by those in the rules."""
    names: dict[str, str] = {}
    twice = [
        f"{names[renamed]} and {name}"
        for name in source.shapes
        if names.setdefault(renamed := format.rename(name), name) != name
    ]
    _raise(source, {"two names of one weight": twice})
    return names


def targets_of(weights: Iterable[keras.Variable]) -> dict[str, keras.Variable]:
    """Weights by their names in the rules."""
    return {parts.path_of(weight): weight for weight in weights}


def rules_of(format: Format, heads: Iterable[str], num_layers: int) -> tuple[Rules, list[Rules]]:
    """The rules of the trunk, with one for each layer, and a list: pooler, then each head."""
    trunk = tuple(expanded for rule in format.trunk for expanded in rule.expand(num_layers))
    chosen = [format.heads[name] for name in heads]
    pooler = next((head.pooler for head in chosen if head.pooler), format.pooler)
    return trunk, [pooler, *(head.rules for head in chosen)]


def has_pooler(source: Source, format: Format) -> bool:
    """Whether a checkpoint has the format's pooler, not one that belongs to a head."""
    return _any_saved(source, format, format.pooler)


def saved_heads(source: Source, format: Format, architecture: str | None) -> list[str]:
    """The heads of a checkpoint; the architecture decides if two heads have the same names."""
    known = format.architectures.get(architecture or "", tuple(format.heads))
    return [name for name in known if _any_saved(source, format, format.heads[name].rules)]


def _any_saved(source: Source, format: Format, rules: Rules) -> bool:
    names = {format.rename(name) for name in source.shapes}
    return any(rule.source in names for rule in rules)


def _optional(format: Format) -> list[Rules]:
    heads = format.heads.values()
    return [format.pooler, *(head.pooler for head in heads), *(head.rules for head in heads)]


def _raise(source: Source, problems: dict[str, list[str]]) -> None:
    found = [f"{what}: {', '.join(names)}" for what, names in problems.items() if names]
    if found:
        raise ValueError(f"{source.title} does not match the model; {'; '.join(found)}")
