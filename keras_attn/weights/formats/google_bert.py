"""BERT in the format of its authors, a checkpoint of TensorFlow 1."""

from keras_attn.weights.formats import bert
from keras_attn.weights.formats.format import TRANSPOSED, Format, Head, Rule, pair, rule


def _norm(source: str, target: str) -> tuple[Rule, ...]:
    return pair(source, target, ("gamma", "beta"))


def _output(source: str, target: str) -> tuple[Rule, Rule]:
    return (
        rule(f"{source}_weights", f"{target}/kernel", TRANSPOSED),
        rule(f"{source}_bias", f"{target}/bias"),
    )


FORMAT = Format(
    name="Google BERT",
    size={field: key for field, key in bert.SIZE.items() if field != "layer_norm_epsilon"},
    trunk=(
        rule("bert/embeddings/word_embeddings", "embedding/token/embeddings"),
        rule("bert/embeddings/token_type_embeddings", "embedding/segment/embeddings"),
        rule("bert/embeddings/position_embeddings", "embedding/position/table"),
        *_norm("bert/embeddings/LayerNorm", "embedding/norm"),
        *pair("bert/encoder/layer_{i}/attention/self/query", "block_{i}/self_attention/query"),
        *pair("bert/encoder/layer_{i}/attention/self/key", "block_{i}/self_attention/key"),
        *pair("bert/encoder/layer_{i}/attention/self/value", "block_{i}/self_attention/value"),
        *pair("bert/encoder/layer_{i}/attention/output/dense", "block_{i}/self_attention/output"),
        *_norm(
            "bert/encoder/layer_{i}/attention/output/LayerNorm", "block_{i}/self_attention_norm"
        ),
        *pair("bert/encoder/layer_{i}/intermediate/dense", "block_{i}/feed_forward/hidden"),
        *pair("bert/encoder/layer_{i}/output/dense", "block_{i}/feed_forward/output"),
        *_norm("bert/encoder/layer_{i}/output/LayerNorm", "block_{i}/feed_forward_norm"),
    ),
    pooler=pair("bert/pooler/dense", "pooler"),
    heads={
        "masked_lm": Head(
            (
                *pair("cls/predictions/transform/dense", "masked_lm/transformation"),
                *_norm("cls/predictions/transform/LayerNorm", "masked_lm/norm"),
                rule("cls/predictions/output_bias", "masked_lm/bias"),
            )
        ),
        "next_sentence": Head(_output("cls/seq_relationship/output", "next_sentence")),
        "classifier": Head(_output("output", "classifier/output")),
        "span": Head(_output("cls/squad/output", "span/output")),
    },
    fixed={"layer_norm_epsilon": 1e-12},
    defaults={"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    irrelevant=bert.FORMAT.irrelevant,
    # The slots and counters of the optimizer.
    ignored=(r".*/(adam_m|adam_v|Adam|Adam_1)", r"global_step", r"beta[12]_power"),
)
