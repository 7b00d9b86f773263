"""The cases of every public layer; each test of tests/contract runs on all of them.

To add a layer, add a `Case` to `CASES`:

    Case(
        layers.MyLayer,
        lambda: {"units": 14, "dropout": 0.3},          # every argument, away from its default
        {"inputs": floats(B, T, D), "mask": padding(B, T)},  # what `call` takes, by name
        hides={"mask": "inputs"},                       # mask -> the input whose positions it masks
    )

and, where they hold, `scores=True` (it takes `return_attention_scores`), `causal=True` (later
positions of the first input do not change earlier outputs), `zero_gradients=("key/bias",)`
(weights whose gradient is zero by mathematics, by the end of their name). Arguments are a function,
so that each layer gets objects of its own. A layer may have several cases; together they must give
each argument a value that is not its default. A test fails for a public layer without a case.

The lengths are unequal primes: an axis of one of these sizes is the batch or a length, and the
tests find it by its size to make it unknown or longer.

Letters: B batch, T query length, S key length, P masked positions, C choices, D, DV, DK widths.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import tree

from keras_attn import layers, ops
from tests.backend import randomize

B, T, S, P, C = 2, 5, 7, 19, 23
D, DK, DV, V = 18, 11, 13, 17
LENGTHS = (B, T, S, P)
HEADS, KEY_HEADS = 6, 3


@dataclasses.dataclass(frozen=True)
class Spec:
    """One tensor that `call` takes: its shape, its dtype, and how to draw it."""

    shape: tuple[int, ...]
    dtype: str
    draw: Callable[[np.random.Generator], np.ndarray]

    @property
    def dynamic_shape(self) -> tuple[int | None, ...]:
        """The shape with batch and lengths unknown."""
        return tuple(None if size in LENGTHS else size for size in self.shape)


def floats(*shape: int) -> Spec:
    """Normal numbers."""
    return Spec(shape, "float32", lambda rng: rng.normal(size=shape).astype("float32"))


def ids(count: int, *shape: int) -> Spec:
    """Ids in [0, count)."""
    return Spec(shape, "int32", lambda rng: rng.integers(0, count, shape, dtype="int32"))


def scalar(value: int) -> Spec:
    """A number."""
    return Spec((), "int32", lambda rng: np.array(value, "int32"))


def positions(length: int) -> Spec:
    """0, 1, 2, ..."""
    return Spec((length,), "int32", lambda rng: np.arange(length, dtype="int32"))


def padding(batch: int, length: int) -> Spec:
    """A mask that is False at the last two or more positions of every row."""
    ends = np.arange(length - 2, length - 2 - batch, -1)
    return Spec((batch, length), "bool", lambda rng: np.arange(length) < ends[:, None])


def pattern(*shape: int) -> Spec:
    """A mask with holes, True at the first key."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        allowed = rng.random(shape) < 0.7
        allowed[..., 0] = True
        allowed[..., -1] &= not allowed.all()
        return allowed

    return Spec(shape, "bool", draw)


def packed(batch: int, length: int) -> Spec:
    """Ids of two packed sequences."""
    row = (np.arange(length) >= 3).astype("int32")
    return Spec((batch, length), "int32", lambda rng: np.tile(row, (batch, 1)))


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One layer, how to make it, and what to call it with."""

    layer: type[keras.layers.Layer]
    arguments: Callable[[], dict]
    inputs: dict[str, Any]
    variant: str = ""
    scores: bool = False
    causal: bool = False
    hides: dict[str, str] = dataclasses.field(default_factory=dict)
    zero_gradients: tuple[str, ...] = ()
    # A decoding step is not trained, and no backend promises gradients for it.
    learns: bool = True
    # Arguments of the base class that this class does not take.
    fixed: tuple[str, ...] = ()
    # A recurrent cell is called by another layer, whose case covers its behaviour.
    covered_by: type[keras.layers.Layer] | None = None

    def __str__(self) -> str:
        return self.layer.__name__ + (f"-{self.variant}" if self.variant else "")

    @property
    def training(self) -> dict[str, bool]:
        """The call options of training."""
        takes = "training" in inspect.signature(self.layer.call).parameters
        return {"training": True} if takes else {}

    def make(self, **changes: Any) -> keras.layers.Layer:
        """A new layer."""
        return self.layer(**{**self.arguments(), **changes})

    def values(self, seed: int = 0) -> dict[str, Any]:
        """Numpy inputs, the same on every backend: Keras' tree sorts a dict on some."""
        rng = np.random.default_rng(seed)
        drawn = {
            name: tree.map_structure(lambda spec: spec.draw(rng), self.inputs[name])
            for name in sorted(self.inputs)
        }
        return {name: drawn[name] for name in self.inputs}

    def symbols(self) -> dict[str, Any]:
        """Symbolic inputs with batch and lengths unknown."""
        return tree.map_structure(
            lambda spec: keras.Input(batch_shape=spec.dynamic_shape, dtype=spec.dtype), self.inputs
        )

    def build(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """The layer, built by a symbolic call."""
        layer(
            **tree.map_structure(
                lambda s: keras.Input(batch_shape=s.shape, dtype=s.dtype), self.inputs
            )
        )
        return layer

    def model(self, layer: keras.layers.Layer) -> keras.Model:
        """A functional model of one layer, whose inputs are the flat list of those of the call."""
        inputs = self.symbols()
        return keras.Model(tree.flatten(inputs), layer(**inputs))

    def parameters(self) -> dict[str, inspect.Parameter]:
        """The constructor's arguments, without those of every Keras layer.

        `**options` are those of the base class, `**kwargs` those of `keras.layers.Layer`.
        """
        found = {}
        for owner in (c for c in self.layer.__mro__ if "__init__" in vars(c)):
            own = dict(inspect.signature(owner.__init__).parameters)
            inherits = own.pop("options", None) is not None
            found = {
                **{k: p for k, p in own.items() if k not in ("self", "kwargs", *self.fixed)},
                **found,
            }
            if not inherits:
                break
        return found


@functools.cache
def built(case: Case) -> keras.layers.Layer:
    """The layer of a case, built, with random weights; tests must not change it."""
    return randomized(case.make(), case)


def randomized(layer: keras.layers.Layer, case: Case) -> keras.layers.Layer:
    """The layer, built, with no weight left at zero or one."""
    case.build(layer)
    return randomize(layer)


def _normal(stddev: float = 0.3) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=stddev, seed=3)


_ATTENTION = {
    "query": floats(B, T, D),
    "value": floats(B, S, DV),
    "key": floats(B, S, DK),
    "query_mask": padding(B, T),
    "value_mask": padding(B, S),
    "key_mask": pattern(B, S),
    "attention_mask": pattern(B, HEADS, T, S),
    "sequence_ids": (packed(B, T), packed(B, S)),
}
_SELF_ATTENTION = {
    "inputs": floats(B, T, D),
    "mask": padding(B, T),
    "attention_mask": pattern(B, T, T),
    "sequence_ids": packed(B, T),
}
_CONTEXT = {"context": floats(B, S, DV), "context_mask": padding(B, S)}
_MEMORY = {
    "query": floats(B, T, D),
    "memory": floats(B, S, DV),
    "query_mask": padding(B, T),
    "memory_mask": padding(B, S),
}
_DROPOUT_HEAD = {"dropout": 0.3, "seed": 7}


def _decoder_cell() -> keras.layers.Layer:
    # Keras' orthogonal initializer does not support bfloat16.
    return layers.AttentionDecoderCell(
        keras.layers.GRUCell(8, recurrent_initializer="glorot_uniform"),
        layers.LuongAttention(9),
        query_state="current",
    )


_KERAS_ATTENTION = {name: spec for name, spec in _ATTENTION.items() if name != "sequence_ids"}
_GROUPED_ATTENTION = _KERAS_ATTENTION | {"value": floats(B, S, D), "key": floats(B, S, DK)}
_ATTENTION_LIST = {
    "inputs": [floats(B, T, D), floats(B, S, DV), floats(B, S, D)],
    "mask": [padding(B, T), padding(B, S)],
}

CASES = [
    Case(
        layers.MultiHeadAttention,
        lambda: {
            "num_heads": HEADS,
            "key_dim": 4,
            "value_dim": 10,
            "dropout": 0.3,
            "use_bias": False,
            "output_shape": (2, 14),
            "sliding_window": 4,
            "flash_attention": False,
            "kernel_initializer": _normal(),
            "bias_initializer": _normal(),
            "kernel_regularizer": "l2",
            "bias_regularizer": "l2",
            "activity_regularizer": "l2",
            "kernel_constraint": "max_norm",
            "bias_constraint": "max_norm",
            "use_gate": True,
            "seed": 7,
            "position": layers.RotaryEmbedding(100.0, rotary_fraction=0.5),
        },
        _KERAS_ATTENTION,
        scores=True,
        hides={"query_mask": "query", "value_mask": "value", "key_mask": "key"},
    ),
    Case(
        layers.MultiHeadAttention,
        lambda: {"num_heads": HEADS, "key_dim": 4, "dropout": 0.3, "attention_axes": (2,)},
        {
            **_KERAS_ATTENTION,
            "query": floats(B, 3, T, D),
            "value": floats(B, 3, S, DV),
            "key": floats(B, 3, S, DK),
            "value_mask": pattern(B, 3, S),
            "key_mask": pattern(B, 3, S),
            "attention_mask": pattern(B, T, S),
        },
        variant="axes",
        scores=True,
        hides={"value_mask": "value", "key_mask": "key"},
        zero_gradients=("key/bias",),
    ),
    Case(
        layers.GroupQueryAttention,
        lambda: {
            "head_dim": 4,
            "num_query_heads": HEADS,
            "num_key_value_heads": KEY_HEADS,
            "dropout": 0.3,
            "use_bias": False,
            "sliding_window": 4,
            "flash_attention": False,
            "kernel_initializer": _normal(),
            "bias_initializer": _normal(),
            "kernel_regularizer": "l2",
            "bias_regularizer": "l2",
            "activity_regularizer": "l2",
            "kernel_constraint": "max_norm",
            "bias_constraint": "max_norm",
            "use_gate": True,
            "seed": 7,
        },
        _GROUPED_ATTENTION,
        scores=True,
        hides={"query_mask": "query", "value_mask": "value", "key_mask": "key"},
    ),
    Case(
        layers.Attention,
        lambda: {"use_scale": True, "score_mode": "concat", "dropout": 0.3, "seed": 7},
        _ATTENTION_LIST,
        scores=True,
    ),
    Case(
        layers.AdditiveAttention,
        lambda: {"use_scale": False, "dropout": 0.3, "seed": 7},
        _ATTENTION_LIST,
        scores=True,
    ),
    Case(
        layers.MultiHeadCrossAttention,
        lambda: {
            "num_heads": HEADS,
            "key_dim": 4,
            "value_dim": 10,
            "num_kv_heads": KEY_HEADS,
            "output_shape": 14,
            "dropout": 0.3,
            "use_bias": False,
            "causal": True,
            "window": (4, 2),
            "position": layers.RelativePositionBias(
                HEADS, num_buckets=8, max_distance=16, initializer=_normal()
            ),
            "logits_soft_cap": 3.0,
            "query_key_norm": "rms",
            "norm_epsilon": 1e-3,
            "use_sink": True,
            "kernel": "reference",
            "kernel_initializer": _normal(),
            "bias_initializer": _normal(),
            "seed": 7,
        },
        _ATTENTION,
        scores=True,
        hides={"query_mask": "query", "value_mask": "value", "key_mask": "key"},
    ),
    Case(
        layers.MultiHeadCrossAttention,
        lambda: {"num_heads": HEADS, "dropout": 0.3},
        _ATTENTION,
        variant="plain",
        scores=True,
        hides={"query_mask": "query", "value_mask": "value", "key_mask": "key"},
        zero_gradients=("key/bias",),
    ),
    Case(
        layers.MultiHeadSelfAttention,
        lambda: {
            "num_heads": HEADS,
            "key_dim": 4,
            "value_dim": 10,
            "num_kv_heads": KEY_HEADS,
            "output_shape": 14,
            "dropout": 0.3,
            "use_bias": False,
            "causal": True,
            "window": 3,
            "position": layers.RotaryEmbedding(100.0, rotary_fraction=0.5),
            "logits_soft_cap": 3.0,
            "query_key_norm": "layer",
            "norm_epsilon": 1e-3,
            "use_sink": True,
            "kernel": "reference",
            "kernel_initializer": _normal(),
            "bias_initializer": _normal(),
            "seed": 7,
        },
        _SELF_ATTENTION,
        scores=True,
        causal=True,
        hides={"mask": "inputs"},
    ),
    Case(
        layers.MultiHeadSelfAttention,
        lambda: {"num_heads": HEADS, "dropout": 0.3},
        _SELF_ATTENTION,
        variant="plain",
        scores=True,
        hides={"mask": "inputs"},
        zero_gradients=("key/bias",),
    ),
    Case(
        layers.TransformerEncoderBlock,
        lambda: {
            "num_heads": HEADS,
            "intermediate_dim": 31,
            "dropout": 0.3,
            "attention_dropout": 0.2,
            "attention_output_dropout": 0.1,
            "activation": "relu",
            "norm": "rms",
            "layer_norm_epsilon": 1e-3,
            "normalize_first": True,
            "attention_norm": False,
            "causal": True,
            "window": (2, 3),
            "position": layers.ALiBi(HEADS),
            "kernel": "reference",
            "kernel_initializer": _normal(),
            "attention_options": {"use_bias": False, "query_key_norm": "rms", "use_sink": True},
            "feed_forward_options": {"gated": True, "use_bias": False},
            "remat": True,
            "seed": 7,
        },
        _SELF_ATTENTION,
        scores=True,
        causal=True,
        hides={"mask": "inputs"},
        zero_gradients=("key/bias",),
    ),
    Case(
        layers.TransformerEncoderBlock,
        lambda: {"num_heads": HEADS, "intermediate_dim": 31, "dropout": 0.3},
        {"inputs": floats(B, T, D), "mask": padding(B, T)},
        variant="post_norm",
        scores=True,
        hides={"mask": "inputs"},
        zero_gradients=("key/bias",),
    ),
    Case(
        layers.TransformerDecoderBlock,
        lambda: {
            "num_heads": HEADS,
            "intermediate_dim": 31,
            "dropout": 0.3,
            "attention_dropout": 0.2,
            "attention_output_dropout": 0.1,
            "activation": "relu",
            "norm": "rms",
            "layer_norm_epsilon": 1e-3,
            "normalize_first": True,
            "attention_norm": False,
            "window": 2,
            "position": layers.RotaryEmbedding(
                100.0, scaling=ops.YarnScaling(3.0, 9), rotary_fraction=0.7
            ),
            "kernel": "reference",
            "kernel_initializer": _normal(),
            "attention_options": {"use_bias": False, "query_key_norm": "rms", "use_sink": True},
            "feed_forward_options": {"gated": True, "use_bias": False},
            "remat": True,
            "seed": 7,
        },
        {**_SELF_ATTENTION, **_CONTEXT},
        fixed=("causal",),
        scores=True,
        causal=True,
        hides={"mask": "inputs", "context_mask": "context"},
        zero_gradients=("cross_attention/key/bias",),
    ),
    Case(
        layers.TransformerDecoderBlock,
        lambda: {"num_heads": HEADS, "intermediate_dim": 31, "dropout": 0.3},
        {"inputs": floats(B, T, D), "mask": padding(B, T), **_CONTEXT},
        variant="post_norm",
        fixed=("causal",),
        scores=True,
        causal=True,
        hides={"mask": "inputs", "context_mask": "context"},
        zero_gradients=("key/bias",),
    ),
    Case(
        layers.FeedForward,
        lambda: {
            "intermediate_dim": 31,
            "activation": "tanh",
            "dropout": 0.3,
            "kernel_initializer": _normal(),
            "seed": 7,
            "gated": True,
            "use_bias": False,
        },
        {"inputs": floats(B, T, D)},
    ),
    Case(
        layers.ScalarMix,
        lambda: {"normalize": True, "layer_norm_epsilon": 1e-3},
        {"inputs": [floats(B, T, D), floats(B, T, D), floats(B, T, D)]},
    ),
    Case(
        layers.TokenEmbedding,
        lambda: {
            "input_dim": V,
            "output_dim": D,
            "embeddings_initializer": _normal(),
            "embeddings_regularizer": "l2",
            "embeddings_constraint": "max_norm",
            "mask_zero": True,
            "scale": 0.5,
        },
        {"token_ids": ids(V, B, T)},
    ),
    Case(
        layers.BertEmbedding,
        lambda: {
            "vocabulary_size": V,
            "dim": D,
            "max_length": 11,
            "num_segments": 3,
            "mask_zero": True,
            "dropout": 0.3,
            "layer_norm_epsilon": 1e-3,
            "initializer": _normal(),
            "seed": 7,
            "use_bias": False,
        },
        {"token_ids": ids(V, B, T), "segment_ids": ids(3, B, T), "positions": ids(11, B, T)},
    ),
    Case(
        layers.BertEmbedding,
        lambda: {"vocabulary_size": V, "dim": D, "position": layers.SinusoidalPositionEncoding()},
        {"token_ids": ids(V, B, T), "segment_ids": ids(2, B, T), "positions": ids(11, B, T)},
        variant="sinusoidal",
    ),
    Case(
        layers.BertEmbedding,
        lambda: {"vocabulary_size": V, "dim": D, "max_length": 11, "padding_id": 2},
        {"token_ids": ids(V, B, T), "segment_ids": ids(2, B, T)},
        variant="roberta",
    ),
    Case(
        layers.LearnedPositionEmbedding,
        lambda: {
            "max_length": 11,
            "combination": "concatenate",
            "dim": 10,
            "initializer": _normal(),
        },
        {"inputs": floats(B, T, D), "positions": ids(11, B, T)},
    ),
    Case(
        layers.SinusoidalPositionEncoding,
        lambda: {"max_wavelength": 100.0, "combination": "concatenate", "dim": 10},
        {"inputs": floats(B, T, D), "positions": ids(11, B, T)},
    ),
    Case(
        layers.RotaryEmbedding,
        lambda: {"max_wavelength": 100.0, "rotary_fraction": 0.5, "scaling": 2.0},
        {"inputs": floats(B, T, HEADS, 8), "positions": ids(11, B, T)},
    ),
    Case(
        layers.ALiBi,
        lambda: {"num_heads": HEADS},
        {"query_positions": positions(T), "key_positions": positions(S)},
    ),
    Case(
        layers.RelativePositionBias,
        lambda: {
            "num_heads": HEADS,
            "bidirectional": False,
            "num_buckets": 5,
            "max_distance": 16,
            "initializer": _normal(),
        },
        {"query_positions": ids(40, P), "key_positions": positions(S)},
    ),
    Case(
        layers.BahdanauAttention,
        lambda: {"units": 12, "kernel_initializer": _normal()},
        _MEMORY,
        scores=True,
        hides={"query_mask": "query", "memory_mask": "memory"},
    ),
    Case(
        layers.LuongAttention,
        lambda: {
            "units": 12,
            "score": "location",
            "locality": "local_p",
            "window": 2,
            "combine": keras.layers.Concatenate(),
            "max_length": 29,
            "kernel_initializer": _normal(),
        },
        _MEMORY,
        scores=True,
        hides={"query_mask": "query", "memory_mask": "memory"},
    ),
    Case(
        layers.LuongAttention,
        lambda: {"units": 12},
        _MEMORY,
        variant="plain",
        scores=True,
        hides={"query_mask": "query", "memory_mask": "memory"},
    ),
    Case(
        layers.HardAttention,
        lambda: {
            "estimator": "gumbel",
            "score": "location",
            "units": 12,
            "temperature": 0.5,
            "max_length": 29,
            "kernel_initializer": _normal(),
            "seed": 7,
        },
        _MEMORY,
        scores=True,
        hides={"query_mask": "query", "memory_mask": "memory"},
    ),
    Case(
        layers.AttentionDecoderCell,
        lambda: {
            "cell": keras.layers.LSTMCell(8),
            "attention": layers.BahdanauAttention(9),
            "query_state": "current",
            "input_feeding": False,
        },
        {},
        covered_by=layers.AttentionDecoder,
    ),
    Case(
        layers.AttentionDecoder,
        lambda: {"cell": _decoder_cell()},
        {
            "inputs": floats(B, T, D),
            "memory": floats(B, S, DV),
            "inputs_mask": padding(B, T),
            "memory_mask": padding(B, S),
        },
        scores=True,
        causal=True,
        hides={"inputs_mask": "inputs", "memory_mask": "memory"},
    ),
    Case(
        layers.AttentionDecoder,
        lambda: {
            "cell": layers.AttentionDecoderCell(
                keras.layers.GRUCell(8, recurrent_initializer="glorot_uniform"),
                layers.BahdanauAttention(9),
            )
        },
        {"inputs": floats(B, T, D), "memory": floats(B, S, DV), "memory_mask": padding(B, S)},
        variant="additive",
        scores=True,
        causal=True,
        hides={"memory_mask": "memory"},
    ),
    Case(
        layers.LanguageModelHead,
        lambda: {"norm": "rms", "layer_norm_epsilon": 1e-3, "use_bias": True},
        {"inputs": floats(B, T, D), "embedding_matrix": floats(V, D)},
    ),
    Case(
        layers.LinearCrossEntropy,
        lambda: {
            "layer": layers.LanguageModelHead("rms", 1e-3, use_bias=True),
            "label_smoothing": 0.1,
        },
        {
            "inputs": floats(B, T, D),
            "embedding_matrix": floats(V, D),
            "labels": ids(V, B, T),
            "label_weights": Spec(
                (B, T), "float32", lambda rng: rng.uniform(size=(B, T)).astype("f4")
            ),
        },
    ),
    Case(
        layers.LinearCrossEntropy,
        lambda: {"layer": layers.MaskedLMHead()},
        {
            "inputs": floats(B, T, D),
            "embedding_matrix": floats(V, DV),
            "labels": ids(V, B, P),
            "masked_positions": ids(T, B, P),
        },
        variant="masked",
    ),
    Case(
        layers.MaskedLMHead,
        lambda: {
            "activation": "tanh",
            "layer_norm_epsilon": 1e-3,
            "kernel_initializer": _normal(),
            "use_bias": False,
        },
        {
            "inputs": floats(B, T, D),
            "embedding_matrix": floats(V, DV),
            "masked_positions": ids(T, B, P),
        },
    ),
    Case(
        layers.NextSentenceHead,
        lambda: {"kernel_initializer": _normal()},
        {"inputs": floats(B, D)},
    ),
    Case(
        layers.BertPretrainingHead,
        lambda: {"activation": "tanh", "layer_norm_epsilon": 1e-3, "kernel_initializer": _normal()},
        {
            "sequence_output": floats(B, T, D),
            "pooled_output": floats(B, DK),
            "embedding_matrix": floats(V, DV),
            "masked_positions": ids(T, B, P),
        },
    ),
    Case(
        layers.ClassificationHead,
        lambda: {
            "num_classes": 3,
            "kernel_initializer": _normal(),
            "use_bias": False,
            **_DROPOUT_HEAD,
        },
        {"inputs": floats(B, D)},
    ),
    Case(
        layers.TokenTaggingHead,
        lambda: {
            "num_classes": 3,
            "kernel_initializer": _normal(),
            "use_bias": False,
            **_DROPOUT_HEAD,
        },
        {"inputs": floats(B, T, D)},
    ),
    Case(
        layers.SpanHead,
        lambda: {"kernel_initializer": _normal(), **_DROPOUT_HEAD},
        {"inputs": floats(B, T, D), "mask": padding(B, T)},
        hides={"mask": "inputs"},
    ),
    Case(
        layers.MultipleChoiceHead,
        lambda: {"kernel_initializer": _normal(), **_DROPOUT_HEAD},
        {"inputs": floats(B, C, D)},
    ),
    Case(
        layers.SequencePooling,
        lambda: {"mode": "max"},
        {"inputs": floats(B, T, D), "mask": padding(B, T)},
        hides={"mask": "inputs"},
    ),
    Case(
        layers.SequencePooling,
        dict,
        {"inputs": floats(B, T, D), "mask": padding(B, T)},
        variant="mean",
        hides={"mask": "inputs"},
    ),
    Case(
        layers.SequencePooling,
        lambda: {"mode": "last", "normalize": True},
        {"inputs": floats(B, T, D), "mask": padding(B, T)},
        variant="last",
        hides={"mask": "inputs"},
    ),
]

CALLED = [case for case in CASES if case.covered_by is None]
LEARNING = [case for case in CALLED if case.learns]

# One layer for each way of computing. torch runs every test on every layer in a minute; for many
# tests, JAX (which compiles each) and TensorFlow run these fast, and the others with `-m slow`.
# test_compilation and test_gradients run all layers on every backend.
SOME = (
    "MultiHeadAttention",
    "MultiHeadCrossAttention",
    "MultiHeadSelfAttention",
    "TransformerDecoderBlock",
    "BertEmbedding",
    "RelativePositionBias",
    "LuongAttention",
    "HardAttention",
    "AttentionDecoder",
    "LinearCrossEntropy",
    "SpanHead",
    "SequencePooling",
)


def few_but_on_torch(cases: list) -> list:
    """Parameters of a test: cases, or tuples of a case and names; most are slow but on torch."""
    found = []
    for case, *names in (one if isinstance(one, tuple) else (one,) for one in cases):
        marks = () if str(case) in SOME else pytest.mark.slow_on("jax", "tensorflow")
        found.append(pytest.param(case, *names, id="-".join((str(case), *names)), marks=marks))
    return found
