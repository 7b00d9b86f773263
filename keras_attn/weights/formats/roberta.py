"""RoBERTa in the format of transformers: BERT's encoder with other names of the other layers.

XLM-RoBERTa is the same with another vocabulary.
"""

import dataclasses

from keras_attn._typing import Config
from keras_attn.weights.formats import bert
from keras_attn.weights.formats.format import (
    IRRELEVANT,
    REQUIRES,
    Format,
    Head,
    Key,
    dense,
    norm,
    rule,
)


def first_row(config: Config) -> int:
    """The row of the position table for the first token: the one after that of padding."""
    padding_id, count = config["pad_token_id"], config["vocab_size"]
    if type(padding_id) is not int or not 0 <= padding_id < count:
        raise ValueError(f"`pad_token_id` must be an integer in [0, {count}), got {padding_id!r}")
    return padding_id + 1


FORMAT = Format(
    name="roberta",
    size={
        **bert.SIZE,
        "max_length": Key(
            "max_position_embeddings",
            load=lambda value, config: value - first_row(config),
            save=lambda value, config: value + first_row(config),
        ),
        "padding_id": Key("pad_token_id", number=False),
    },
    trunk=(
        rule("embeddings.word_embeddings.weight", "embedding/token/embeddings"),
        rule("embeddings.token_type_embeddings.weight", "embedding/segment/embeddings"),
        rule("embeddings.position_embeddings.weight", "embedding/position/table"),
        *norm("embeddings.LayerNorm", "embedding/norm"),
        *bert.BLOCKS,
    ),
    pooler=dense("pooler.dense", "pooler"),
    heads={
        "masked_lm": Head(
            (
                *dense("lm_head.dense", "masked_lm/transformation"),
                *norm("lm_head.layer_norm", "masked_lm/norm"),
                rule("lm_head.bias", "masked_lm/bias"),
            ),
            activation="gelu",
            requires=bert.TIED,
        ),
        "classifier": Head(
            dense("classifier.out_proj", "classifier/output"),
            pooler=dense("classifier.dense", "pooler"),
            dropout=bert.DROPOUT,
            pooler_dropout=True,
        ),
        "tagger": Head(dense("classifier", "tagger/output"), dropout=bert.DROPOUT),
        "multiple_choice": Head(
            dense("classifier", "multiple_choice/output"), dropout=("hidden_dropout_prob",)
        ),
        "span": Head(dense("qa_outputs", "span/output")),
    },
    fixed={"pooler_activation": "tanh"},
    defaults={**bert.DEFAULTS, "pad_token_id": 1, "vocab_size": 50_265},
    requires=REQUIRES,
    irrelevant=IRRELEVANT,
    architectures={
        "RobertaModel": (),
        "RobertaForMaskedLM": ("masked_lm",),
        "RobertaForSequenceClassification": ("classifier",),
        "RobertaForTokenClassification": ("tagger",),
        "RobertaForMultipleChoice": ("multiple_choice",),
        "RobertaForQuestionAnswering": ("span",),
    },
    prefix="roberta.",
    ignored=(r"embeddings\.position_ids", r"embeddings\.token_type_ids"),
    tied={
        "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
)

XLM_ROBERTA = dataclasses.replace(
    FORMAT,
    name="xlm-roberta",
    defaults={**FORMAT.defaults, "vocab_size": 30_522},
    architectures={f"XLM{name}": heads for name, heads in FORMAT.architectures.items()},
)
