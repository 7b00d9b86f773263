"""DistilBERT as the library transformers saves it: no segments, no pooler."""

from keras_attn.weights.rule import Format, Rule, dense, norm

FORMAT = Format(
    name="distilbert",
    size={
        "num_layers": "n_layers",
        "hidden_dim": "dim",
        "num_heads": "n_heads",
        "intermediate_dim": "hidden_dim",
        "vocabulary_size": "vocab_size",
        "max_length": "max_position_embeddings",
        "num_segments": lambda _: 1,
        "dropout": "dropout",
        "activation": "activation",
        "initializer_range": "initializer_range",
    },
    trunk=(
        Rule("embeddings.word_embeddings.weight", "embedding/token/embeddings"),
        Rule("embeddings.position_embeddings.weight", "embedding/position/table"),
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
    parts={
        "masked_lm": (
            *dense("vocab_transform", "masked_lm/transformation"),
            *norm("vocab_layer_norm", "masked_lm/norm"),
            Rule("vocab_projector.bias", "masked_lm/bias"),
        ),
        "tagger": dense("classifier", "tagger/output"),
        "span": dense("qa_outputs", "span/output"),
    },
    renames=((r"^distilbert\.", ""),),
    # Its classifier of sentences puts a ReLU where our pooler has a tanh: never loaded.
    ignored=(r"pre_classifier\..*",),
    tied={"vocab_projector.weight": "embeddings.word_embeddings.weight"},
    zeros=("embedding/segment/embeddings",),
    architectures={
        "DistilBertModel": (),
        "DistilBertForMaskedLM": ("masked_lm",),
        "DistilBertForTokenClassification": ("tagger",),
        "DistilBertForQuestionAnswering": ("span",),
        "DistilBertForSequenceClassification": (),
        "DistilBertForMultipleChoice": (),
    },
)
