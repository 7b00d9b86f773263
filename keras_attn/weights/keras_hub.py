"""The weights of keras-hub's BertBackbone."""

from keras_attn.weights.keras_attention import RULES as ATTENTION
from keras_attn.weights.rule import Format, Rule


def _pair(
    source: str, target: str, names: tuple[str, str] = ("kernel", "bias")
) -> tuple[Rule, Rule]:
    return tuple(Rule(f"{source}/{name}", f"{target}/{name}") for name in names)


_NORM = ("gamma", "beta")

FORMAT = Format(
    name="keras-hub BertBackbone",
    size={
        "num_layers": "num_layers",
        "hidden_dim": "hidden_dim",
        "num_heads": "num_heads",
        "intermediate_dim": "intermediate_dim",
        "vocabulary_size": "vocabulary_size",
        "max_length": "max_sequence_length",
        "num_segments": "num_segments",
        "dropout": "dropout",
        "activation": lambda _: "gelu_new",
    },
    trunk=(
        Rule("token_embedding/embeddings", "embedding/token/embeddings"),
        Rule("segment_embedding/embeddings", "embedding/segment/embeddings"),
        Rule("position_embedding/embeddings", "embedding/position/table"),
        *_pair("embeddings_layer_norm", "embedding/norm", _NORM),
        *(
            Rule(
                f"transformer_layer_{{i}}/self_attention_layer/{rule.source}",
                f"block_{{i}}/self_attention/{rule.target}",
                rule.change,
            )
            for rule in ATTENTION
        ),
        *_pair(
            "transformer_layer_{i}/self_attention_layer_norm",
            "block_{i}/self_attention_norm",
            _NORM,
        ),
        *_pair(
            "transformer_layer_{i}/feedforward_intermediate_dense", "block_{i}/feed_forward/hidden"
        ),
        *_pair("transformer_layer_{i}/feedforward_output_dense", "block_{i}/feed_forward/output"),
        *_pair(
            "transformer_layer_{i}/feedforward_layer_norm", "block_{i}/feed_forward_norm", _NORM
        ),
    ),
    parts={"pooler": _pair("pooled_dense", "pooler")},
)
