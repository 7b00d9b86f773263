"""RoBERTa as the library transformers saves it: BERT's encoder with other names around it."""

from keras_attn.weights.bert_hf import BLOCKS, REQUIRES, SIZE
from keras_attn.weights.rule import Change, Format, Rule, dense, norm

# Positions count from padding's id + 1 = 2, so two rows of the table are never read.
WITHOUT_TWO_ROWS = Change(lambda table: table[2:])

FORMAT = Format(
    name="roberta",
    size={**SIZE, "max_length": lambda config: config["max_position_embeddings"] - 2},
    trunk=(
        Rule("embeddings.word_embeddings.weight", "embedding/token/embeddings"),
        Rule("embeddings.token_type_embeddings.weight", "embedding/segment/embeddings"),
        Rule("embeddings.position_embeddings.weight", "embedding/position/table", WITHOUT_TWO_ROWS),
        *norm("embeddings.LayerNorm", "embedding/norm"),
        *BLOCKS,
    ),
    parts={
        "pooler": dense("pooler.dense", "pooler"),
        "masked_lm": (
            *dense("lm_head.dense", "masked_lm/transformation"),
            *norm("lm_head.layer_norm", "masked_lm/norm"),
            Rule("lm_head.bias", "masked_lm/bias"),
        ),
        "classifier": dense("classifier.out_proj", "classifier/output"),
        "tagger": dense("classifier", "tagger/output"),
        "multiple_choice": dense("classifier", "multiple_choice/output"),
        "span": dense("qa_outputs", "span/output"),
    },
    renames=(
        (r"^roberta\.", ""),
        # The classifier's first layer, dense and tanh on the first position, is our pooler.
        (r"^classifier\.dense\.", "pooler.dense."),
    ),
    ignored=(r"embeddings\.position_ids", r"embeddings\.token_type_ids"),
    tied={
        "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    requires=REQUIRES,
    architectures={
        "RobertaModel": (),
        "RobertaForMaskedLM": ("masked_lm",),
        "RobertaForSequenceClassification": ("classifier",),
        "RobertaForTokenClassification": ("tagger",),
        "RobertaForMultipleChoice": ("multiple_choice",),
        "RobertaForQuestionAnswering": ("span",),
    },
)
