"""BERT in the format of keras-hub, the weights of a BertBackbone."""

import itertools

from keras_attn.models.counterparts import PARTS
from keras_attn.weights.formats.format import (
    AS_IS,
    FLAT,
    MERGED_FIRST,
    MERGED_LAST,
    Change,
    Format,
    Rule,
    keys,
    pair,
    rule,
)

NORM = ("gamma", "beta")
LAYER = "transformer_layer_{i}"


def _block(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The rules of one sublayer of a block."""
    source, target = f"{LAYER}/{theirs}", f"block_{{i}}/{ours}"
    if ours.endswith("attention"):
        return (
            *_projection(f"{source}/query", f"{target}/query"),
            *_projection(f"{source}/key", f"{target}/key"),
            *_projection(f"{source}/value", f"{target}/value"),
            *_projection(f"{source}/attention_output", f"{target}/output", MERGED_FIRST),
        )
    return pair(source, target, NORM) if ours.endswith("norm") else pair(source, target)


def _projection(source: str, target: str, change: Change = MERGED_LAST) -> tuple[Rule, Rule]:
    bias = AS_IS if change is MERGED_FIRST else FLAT
    return rule(f"{source}/kernel", f"{target}/kernel", change), rule(
        f"{source}/bias", f"{target}/bias", bias
    )


FORMAT = Format(
    name="keras-hub BertBackbone",
    size=keys(
        num_layers="num_layers",
        hidden_dim="hidden_dim",
        num_heads="num_heads",
        intermediate_dim="intermediate_dim",
        vocabulary_size="vocabulary_size",
        max_length="max_sequence_length",
        num_segments="num_segments",
        dropout="dropout",  # of the attention weights too
    ),
    trunk=(
        rule("token_embedding/embeddings", "embedding/token/embeddings"),
        rule("segment_embedding/embeddings", "embedding/segment/embeddings"),
        rule("position_embedding/embeddings", "embedding/position/table"),
        *pair("embeddings_layer_norm", "embedding/norm", NORM),
        *itertools.chain.from_iterable(itertools.starmap(_block, PARTS.items())),
    ),
    pooler=pair("pooled_dense", "pooler"),
    fixed={"activation": "gelu_tanh", "layer_norm_epsilon": 1e-12},
    irrelevant=("name", "trainable", "dtype"),
)
