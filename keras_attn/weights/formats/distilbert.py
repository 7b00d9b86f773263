"""DistilBERT in the format of transformers: no segments, and a pooler only in some heads."""

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

POOLER = dense("pre_classifier", "pooler")

FORMAT = Format(
    name="distilbert",
    size=keys(
        num_layers="n_layers",
        hidden_dim="dim",
        num_heads="n_heads",
        intermediate_dim="hidden_dim",
        vocabulary_size="vocab_size",
        max_length="max_position_embeddings",
        dropout="dropout",
        attention_dropout="attention_dropout",
        activation="activation",
        initializer_range="initializer_range",
    ),
    trunk=(
        rule("embeddings.word_embeddings.weight", "embedding/token/embeddings"),
        rule("embeddings.position_embeddings.weight", "embedding/position/table"),
        *norm("embeddings.LayerNorm", "embedding/norm"),
        *dense("transformer.layer.{i}.attention.q_lin", "block_{i}/self_attention/query"),
        *dense("transformer.layer.{i}.attention.k_lin", "block_{i}/self_attention/key"),
        *dense("transformer.layer.{i}.attention.v_lin", "block_{i}/self_attention/value"),
        *dense("transformer.layer.{i}.attention.out_lin", "block_{i}/self_attention/output"),
        *norm("transformer.layer.{i}.sa_layer_norm", "block_{i}/self_attention_norm"),
        *dense("transformer.layer.{i}.ffn.lin1", "block_{i}/feed_forward/hidden"),
        *dense("transformer.layer.{i}.ffn.lin2", "block_{i}/feed_forward/output"),
        *norm("transformer.layer.{i}.output_layer_norm", "block_{i}/feed_forward_norm"),
    ),
    heads={
        "masked_lm": Head(
            (
                *dense("vocab_transform", "masked_lm/transformation"),
                *norm("vocab_layer_norm", "masked_lm/norm"),
                rule("vocab_projector.bias", "masked_lm/bias"),
            ),
            requires={"tie_word_embeddings": True},
        ),
        "classifier": Head(
            dense("classifier", "classifier/output"),
            pooler=POOLER,
            dropout=("seq_classif_dropout",),
        ),
        "tagger": Head(dense("classifier", "tagger/output"), dropout=("dropout",)),
        "multiple_choice": Head(
            dense("classifier", "multiple_choice/output"),
            pooler=POOLER,
            dropout=("seq_classif_dropout",),
        ),
        "span": Head(dense("qa_outputs", "span/output"), dropout=("qa_dropout",)),
    },
    fixed={
        "num_segments": 0,
        "attention_output_dropout": 0.0,
        "layer_norm_epsilon": 1e-12,
        "pooler_activation": "relu",
    },
    defaults={
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "qa_dropout": 0.1,
        "pad_token_id": 0,
    },
    aliases={
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    },
    requires=REQUIRES,
    # Sinusoids only initialize the position table, which is stored and trained in any case.
    irrelevant=(*IRRELEVANT, "sinusoidal_pos_embds"),
    architectures={
        "DistilBertModel": (),
        "DistilBertForMaskedLM": ("masked_lm",),
        "DistilBertForTokenClassification": ("tagger",),
        "DistilBertForQuestionAnswering": ("span",),
        "DistilBertForSequenceClassification": ("classifier",),
        "DistilBertForMultipleChoice": ("multiple_choice",),
    },
    prefix="distilbert.",
    tied={"vocab_projector.weight": "embeddings.word_embeddings.weight"},
    tokenizer="DistilBertTokenizer",
)
