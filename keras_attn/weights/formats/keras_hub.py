"""BERT in the format of keras-hub, the weights of a BertBackbone."""

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


def _attention(source: str, target: str, change: Change = MERGED_LAST) -> tuple[Rule, Rule]:
    source = f"{LAYER}/self_attention_layer/{source}"
    target = f"block_{{i}}/self_attention/{target}"
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
        *_attention("query", "query"),
        *_attention("key", "key"),
        *_attention("value", "value"),
        *_attention("attention_output", "output", MERGED_FIRST),
        *pair(f"{LAYER}/self_attention_layer_norm", "block_{i}/self_attention_norm", NORM),
        *pair(f"{LAYER}/feedforward_intermediate_dense", "block_{i}/feed_forward/hidden"),
        *pair(f"{LAYER}/feedforward_output_dense", "block_{i}/feed_forward/output"),
        *pair(f"{LAYER}/feedforward_layer_norm", "block_{i}/feed_forward_norm", NORM),
    ),
    pooler=pair("pooled_dense", "pooler"),
    fixed={"activation": "gelu_tanh", "layer_norm_epsilon": 1e-12},
    irrelevant=("name", "trainable", "dtype"),
)
