"""What a kind of checkpoint calls our weights, as data.

Letters: N heads, H head width, D model width.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Change:
    """How an array of a checkpoint becomes ours, and the way back where there is one."""

    load: Callable[[np.ndarray], np.ndarray]
    save: Callable[[np.ndarray], np.ndarray] | None = None


AS_IS = Change(lambda array: array, lambda array: array)
TRANSPOSED = Change(np.transpose, np.transpose)
THIRDS = tuple(
    Change(lambda array, part=part: np.split(array, 3, axis=-1)[part]) for part in range(3)
)  # of a kernel that is query, key and value side by side
MERGED_LAST = Change(lambda array: array.reshape(len(array), -1))  # [D, N, H] to [D, N H]
MERGED_FIRST = Change(lambda array: array.reshape(-1, array.shape[-1]))  # [N, H, D] to [N H, D]
FLAT = Change(lambda array: array.reshape(-1))  # [N, H] to [N H]


@dataclasses.dataclass(frozen=True)
class Rule:
    """The checkpoint's `source`, changed, is our weight `target`; {i} is the layer's number."""

    source: str
    target: str
    change: Change = AS_IS

    def expand(self, layers: int) -> "list[Rule]":
        """One rule for each layer, or this one where it names no layer."""
        if "{i}" not in self.source:
            return [self]
        return [
            dataclasses.replace(
                self, source=self.source.format(i=i), target=self.target.format(i=i)
            )
            for i in range(layers)
        ]


@dataclasses.dataclass(frozen=True)
class Format:
    """One kind of checkpoint.

    Args:
        name: as error texts call it.
        size: for each field of our size the key of the configuration, or a function of the whole.
        trunk: rules of what every such checkpoint has.
        parts: rules of what it may have: the pooler and the heads, by the name that they have in
            our models.
        renames: older spellings: pairs of a regular expression and what replaces it.
        ignored: regular expressions of names that mean nothing to us, such as optimizer slots.
        tied: names that must repeat the array of another name.
        zeros: our weights that the architecture lacks, and that do nothing as zeros.
        family: of our models, "bert" or "gpt".
        requires: what the configuration must say under a key, if it says anything.
        architectures: which parts a model class of the source saves; the names of the others'
            parts may be the same.
    """

    name: str
    size: Mapping[str, str | Callable[[dict], Any]]
    trunk: tuple[Rule, ...]
    parts: Mapping[str, tuple[Rule, ...]]
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    zeros: tuple[str, ...] = ()
    family: str = "bert"
    requires: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    architectures: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def rename(self, source: str) -> str:
        """The name as the rules spell it."""
        for pattern, replacement in self.renames:
            source = re.sub(pattern, replacement, source)
        return source

    def ignores(self, source: str) -> bool:
        """Whether a name means nothing to us."""
        return any(re.fullmatch(pattern, source) for pattern in self.ignored)


def dense(source: str, target: str) -> tuple[Rule, Rule]:
    """The rules of a dense layer whose kernel is stored as [output, input]."""
    return (
        Rule(f"{source}.weight", f"{target}/kernel", TRANSPOSED),
        Rule(f"{source}.bias", f"{target}/bias"),
    )


def norm(source: str, target: str) -> tuple[Rule, Rule]:
    """The rules of a layer norm."""
    return (
        Rule(f"{source}.weight", f"{target}/gamma"),
        Rule(f"{source}.bias", f"{target}/beta"),
    )
