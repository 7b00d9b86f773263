"""How large a model is: frozen records, by name."""

import dataclasses
from typing import TypeVar

Size = TypeVar("Size")


@dataclasses.dataclass(frozen=True)
class BertSize:
    """The sizes of a BERT (Devlin et al. 2019, section 3)."""

    num_layers: int
    hidden_dim: int
    num_heads: int
    feed_forward_dim: int
    vocabulary_size: int = 30_522
    max_length: int = 512
    num_segments: int = 2
    dropout: float = 0.1
    norm_epsilon: float = 1e-12
    activation: str = "gelu"
    initializer_range: float = 0.02


BERT_TINY = BertSize(2, 128, 2, 512)
BERT_SMALL = BertSize(4, 256, 4, 1024)
BERT_BASE = BertSize(12, 768, 12, 3072)
BERT_LARGE = BertSize(24, 1024, 16, 4096)

BERT_SIZES = {
    "bert_tiny": BERT_TINY,
    "bert_small": BERT_SMALL,
    "bert_base": BERT_BASE,
    "bert_large": BERT_LARGE,
}


def resolve(size: str | Size, known: dict[str, Size], overrides: dict) -> Size:
    """The record of that name, or the record itself, with some fields replaced."""
    if isinstance(size, str):
        if size not in known:
            raise ValueError(f"`size` must be one of {', '.join(known)}, or a record, got {size!r}")
        size = known[size]
    fields = [field.name for field in dataclasses.fields(size)]
    for name in overrides:
        if name not in fields:
            raise ValueError(f"a size has the fields {', '.join(fields)}, got {name!r}")
    return dataclasses.replace(size, **overrides)
