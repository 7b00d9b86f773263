"""BERT in the format of transformers."""

from keras_attn.weights.formats.format import (
    IRRELEVANT,
    REQUIRES,
    Format,
    Head,
    dense,
    keys,
    norm,
    rule,
)

SIZE = keys(
    num_layers="num_hidden_layers",
    hidden_dim="hidden_size",
    num_heads="num_attention_heads",
    intermediate_dim="intermediate_size",
    vocabulary_size="vocab_size",
    max_length="max_position_embeddings",
    num_segments="type_vocab_size",
    dropout="hidden_dropout_prob",
    attention_dropout="attention_probs_dropout_prob",
    layer_norm_epsilon="layer_norm_eps",
    activation="hidden_act",
    initializer_range="initializer_range",
)

BLOCKS = (
    *dense("encoder.layer.{i}.attention.self.query", "block_{i}/self_attention/query"),
    *dense("encoder.layer.{i}.attention.self.key", "block_{i}/self_attention/key"),
    *dense("encoder.layer.{i}.attention.self.value", "block_{i}/self_attention/value"),
    *dense("encoder.layer.{i}.attention.output.dense", "block_{i}/self_attention/output"),
    *norm("encoder.layer.{i}.attention.output.LayerNorm", "block_{i}/self_attention_norm"),
    *dense("encoder.layer.{i}.intermediate.dense", "block_{i}/feed_forward/hidden"),
    *dense("encoder.layer.{i}.output.dense", "block_{i}/feed_forward/output"),
    *norm("encoder.layer.{i}.output.LayerNorm", "block_{i}/feed_forward_norm"),
)

DEFAULTS = {
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "pad_token_id": 0,
}

DROPOUT = ("classifier_dropout", "hidden_dropout_prob")
TIED = {"tie_word_embeddings": True}

FORMAT = Format(
    name="bert",
    size=SIZE,
    trunk=(
        rule("embeddings.word_embeddings.weight", "embedding/token/embeddings"),
        rule("embeddings.token_type_embeddings.weight", "embedding/segment/embeddings"),
        rule("embeddings.position_embeddings.weight", "embedding/position/table"),
        *norm("embeddings.LayerNorm", "embedding/norm"),
        *BLOCKS,
    ),
    pooler=dense("pooler.dense", "pooler"),
    heads={
        "masked_lm": Head(
            (
                *dense("cls.predictions.transform.dense", "masked_lm/transformation"),
                *norm("cls.predictions.transform.LayerNorm", "masked_lm/norm"),
                rule("cls.predictions.bias", "masked_lm/bias"),
            ),
            requires=TIED,
        ),
        "next_sentence": Head(dense("cls.seq_relationship", "next_sentence")),
        "classifier": Head(dense("classifier", "classifier/output"), dropout=DROPOUT),
        "tagger": Head(dense("classifier", "tagger/output"), dropout=DROPOUT),
        "multiple_choice": Head(dense("classifier", "multiple_choice/output"), dropout=DROPOUT),
        "span": Head(dense("qa_outputs", "span/output")),
    },
    fixed={"pooler_activation": "tanh"},
    defaults=DEFAULTS,
    requires=REQUIRES,
    irrelevant=(
        *IRRELEVANT,
        # In the multilingual and the Chinese BERT: a pooler that no code has
        *("directionality", "pooler_fc_size", "pooler_num_attention_heads"),
        *("pooler_num_fc_layers", "pooler_size_per_head", "pooler_type"),
    ),
    architectures={
        "BertModel": (),
        "BertForPreTraining": ("masked_lm", "next_sentence"),
        "BertForMaskedLM": ("masked_lm",),
        "BertForNextSentencePrediction": ("next_sentence",),
        "BertForSequenceClassification": ("classifier",),
        "BertForTokenClassification": ("tagger",),
        "BertForMultipleChoice": ("multiple_choice",),
        "BertForQuestionAnswering": ("span",),
    },
    prefix="bert.",
    renames=((r"\.gamma$", ".weight"), (r"\.beta$", ".bias")),
    ignored=(r"embeddings\.position_ids", r"embeddings\.token_type_ids"),
    tied={
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    tokenizer="BertTokenizer",
)
