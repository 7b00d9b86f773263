"""Model sizes: frozen records, by name."""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from keras_attn._checks import check_count
from keras_attn.ops.positions import RotaryScaling


@dataclasses.dataclass(frozen=True)
class BertSize:
    """The sizes of a BERT (Devlin et al. 2019, section 3).

    `attention_dropout` and `attention_output_dropout` default to `dropout`. DistilBERT has no
    segments, no dropout on the output of attention, and a ReLU in its pooler; RoBERTa's classifier
    applies dropout before its pooler, and its positions do not count padding: `padding_id`, as in
    `BertEmbedding`.
    """

    num_layers: int
    hidden_dim: int
    num_heads: int
    intermediate_dim: int
    vocabulary_size: int = 30_522
    max_length: int = 512
    num_segments: int = 2
    dropout: float = 0.1
    layer_norm_epsilon: float = 1e-12
    activation: str = "gelu"
    initializer_range: float = 0.02
    attention_dropout: float | None = None
    pooler_activation: str | None = "tanh"
    pooler_dropout: float = 0.0
    attention_output_dropout: float | None = None
    padding_id: int | None = None


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


@dataclasses.dataclass(frozen=True)
class ModernBertSize:
    """The sizes of a ModernBERT (Warner et al. 2024, section 2.1 and table 4).

    Every `global_every`-th block, starting with the first, attends to the whole sequence, the
    others to positions less than `window` away. The wavelengths and scalings are those of their
    `RotaryEmbedding`.
    """

    num_layers: int
    hidden_dim: int
    num_heads: int
    intermediate_dim: int
    vocabulary_size: int = 50_368
    window: int = 65
    global_every: int = 3
    global_wavelength: float = 160_000.0
    local_wavelength: float = 10_000.0
    global_scaling: float | RotaryScaling = 1.0
    local_scaling: float | RotaryScaling = 1.0
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    feed_forward_dropout: float = 0.0
    layer_norm_epsilon: float = 1e-5
    activation: str = "gelu"
    initializer_range: float = 0.02

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The window of each block; None for a global block."""
        return tuple(
            self.window if index % self.global_every else None for index in range(self.num_layers)
        )


MODERN_BERT_BASE = ModernBertSize(22, 768, 12, 1152)
MODERN_BERT_LARGE = ModernBertSize(28, 1024, 16, 2624)

MODERN_BERT_SIZES = {"modern_bert_base": MODERN_BERT_BASE, "modern_bert_large": MODERN_BERT_LARGE}


@dataclasses.dataclass(frozen=True)
class TransformerSize:
    """The sizes of an encoder-decoder Transformer (Vaswani et al. 2017, table 3)."""

    num_layers: int
    hidden_dim: int
    num_heads: int
    intermediate_dim: int
    vocabulary_size: int = 37_000
    dropout: float = 0.1
    layer_norm_epsilon: float = 1e-6
    activation: str = "relu"
    normalize_first: bool = False


TRANSFORMER_TINY = TransformerSize(2, 128, 4, 512)
TRANSFORMER_SMALL = TransformerSize(3, 256, 4, 1024)
TRANSFORMER_BASE = TransformerSize(6, 512, 8, 2048)
TRANSFORMER_BIG = TransformerSize(6, 1024, 16, 4096, dropout=0.3)

TRANSFORMER_SIZES = {
    "transformer_tiny": TRANSFORMER_TINY,
    "transformer_small": TRANSFORMER_SMALL,
    "transformer_base": TRANSFORMER_BASE,
    "transformer_big": TRANSFORMER_BIG,
}


@dataclasses.dataclass(frozen=True)
class GptSize:
    """The sizes of a GPT-2 (Radford et al. 2019, section 2.3).

    `attention_dropout` and `embedding_dropout` default to `dropout`.
    """

    num_layers: int
    hidden_dim: int
    num_heads: int
    intermediate_dim: int
    vocabulary_size: int = 50_257
    max_length: int = 1024
    dropout: float = 0.1
    layer_norm_epsilon: float = 1e-5
    activation: str = "gelu_tanh"
    initializer_range: float = 0.02
    attention_dropout: float | None = None
    embedding_dropout: float | None = None


GPT_TINY = GptSize(2, 128, 4, 512)
GPT_MINI = GptSize(4, 256, 4, 1024)
GPT_SMALL = GptSize(12, 768, 12, 3072)

GPT_SIZES = {"gpt_tiny": GPT_TINY, "gpt_mini": GPT_MINI, "gpt_small": GPT_SMALL}


Size = TypeVar("Size", BertSize, ModernBertSize, TransformerSize, GptSize)


def global_every(whole: Sequence[bool]) -> int | None:
    """The smallest `global_every` that makes exactly these layers global; None if there is none."""
    counts = range(1, len(whole) + 1)
    matching = (n for n in counts if [*whole] == [i % n == 0 for i in range(len(whole))])
    return next(matching, None)


def first_given(*values: float | None) -> float:
    """The first value that is not None."""
    return next(value for value in values if value is not None)


def resolve(size: str | Size, known: dict[str, Size], overrides: dict) -> Size:
    """The record of that name, or the record itself, with some fields replaced."""
    if isinstance(size, str):
        if size not in known:
            raise ValueError(f"`size` must be one of {', '.join(known)}, or a record, got {size!r}")
        size = known[size]
    fields = {field.name: field.type for field in dataclasses.fields(size)}
    for name in overrides:
        if name not in fields:
            raise ValueError(f"a size has the fields {', '.join(fields)}, got {name!r}")
    size = dataclasses.replace(size, **overrides)
    # `num_segments` may be 0: the embedding checks it.
    names = [name for name, kind in fields.items() if kind is int and name != "num_segments"]
    counts = {name: check_count(name, getattr(size, name)) for name in names}
    return dataclasses.replace(size, **counts)
