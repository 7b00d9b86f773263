"""BERT as its authors saved it, in a checkpoint of TensorFlow 1."""

from keras_attn.weights.bert_hf import SIZE
from keras_attn.weights.rule import TRANSPOSED, Format, Rule


def _pair(source: str, target: str, names: tuple[str, str]) -> tuple[Rule, Rule]:
    return tuple(Rule(f"{source}/{name}", f"{target}/{name}") for name in names)


def _dense(source: str, target: str) -> tuple[Rule, Rule]:
    return _pair(source, target, ("kernel", "bias"))


def _norm(source: str, target: str) -> tuple[Rule, Rule]:
    return _pair(source, target, ("gamma", "beta"))


def _output(source: str, target: str) -> tuple[Rule, Rule]:
    return (
        Rule(f"{source}output_weights", f"{target}/output/kernel", TRANSPOSED),
        Rule(f"{source}output_bias", f"{target}/output/bias"),
    )


FORMAT = Format(
    name="Google BERT",
    size={key: value for key, value in SIZE.items() if key != "layer_norm_epsilon"},
    trunk=(
        Rule("bert/embeddings/word_embeddings", "embedding/token/embeddings"),
        Rule("bert/embeddings/token_type_embeddings", "embedding/segment/embeddings"),
        Rule("bert/embeddings/position_embeddings", "embedding/position/table"),
        *_norm("bert/embeddings/LayerNorm", "embedding/norm"),
        *_dense("bert/encoder/layer_{i}/attention/self/query", "block_{i}/self_attention/query"),
        *_dense("bert/encoder/layer_{i}/attention/self/key", "block_{i}/self_attention/key"),
        *_dense("bert/encoder/layer_{i}/attention/self/value", "block_{i}/self_attention/value"),
        *_dense("bert/encoder/layer_{i}/attention/output/dense", "block_{i}/self_attention/output"),
        *_norm(
            "bert/encoder/layer_{i}/attention/output/LayerNorm", "block_{i}/self_attention_norm"
        ),
        *_dense("bert/encoder/layer_{i}/intermediate/dense", "block_{i}/feed_forward/hidden"),
        *_dense("bert/encoder/layer_{i}/output/dense", "block_{i}/feed_forward/output"),
        *_norm("bert/encoder/layer_{i}/output/LayerNorm", "block_{i}/feed_forward_norm"),
    ),
    parts={
        "pooler": _dense("bert/pooler/dense", "pooler"),
        "masked_lm": (
            *_dense("cls/predictions/transform/dense", "masked_lm/transformation"),
            *_norm("cls/predictions/transform/LayerNorm", "masked_lm/norm"),
            Rule("cls/predictions/output_bias", "masked_lm/bias"),
        ),
        "next_sentence": (
            Rule("cls/seq_relationship/output_weights", "next_sentence/kernel", TRANSPOSED),
            Rule("cls/seq_relationship/output_bias", "next_sentence/bias"),
        ),
        "classifier": _output("", "classifier"),
        "span": _output("cls/squad/", "span"),
    },
    # What an optimizer keeps for each weight, and its counters.
    ignored=(r".*/(adam_m|adam_v|Adam|Adam_1)", r"global_step", r"beta[12]_power"),
)
