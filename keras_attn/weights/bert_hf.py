"""BERT as the library transformers saves it."""

from keras_attn.weights.rule import Format, Rule, dense, norm

# Our names for theirs.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}

SIZE = {
    "num_layers": "num_hidden_layers",
    "hidden_dim": "hidden_size",
    "num_heads": "num_attention_heads",
    "intermediate_dim": "intermediate_size",
    "vocabulary_size": "vocab_size",
    "max_length": "max_position_embeddings",
    "num_segments": "type_vocab_size",
    "dropout": "hidden_dropout_prob",
    "layer_norm_epsilon": "layer_norm_eps",
    "activation": "hidden_act",
    "initializer_range": "initializer_range",
}

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

PARTS = {
    "pooler": dense("pooler.dense", "pooler"),
    "masked_lm": (
        *dense("cls.predictions.transform.dense", "masked_lm/transformation"),
        *norm("cls.predictions.transform.LayerNorm", "masked_lm/norm"),
        Rule("cls.predictions.bias", "masked_lm/bias"),
    ),
    "next_sentence": dense("cls.seq_relationship", "next_sentence"),
    "classifier": dense("classifier", "classifier/output"),
    "tagger": dense("classifier", "tagger/output"),
    "multiple_choice": dense("classifier", "multiple_choice/output"),
    "span": dense("qa_outputs", "span/output"),
}

ARCHITECTURES = {
    "BertModel": (),
    "BertForPreTraining": ("masked_lm", "next_sentence"),
    "BertForMaskedLM": ("masked_lm",),
    "BertForNextSentencePrediction": ("next_sentence",),
    "BertForSequenceClassification": ("classifier",),
    "BertForTokenClassification": ("tagger",),
    "BertForMultipleChoice": ("multiple_choice",),
    "BertForQuestionAnswering": ("span",),
}

REQUIRES = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}

FORMAT = Format(
    name="bert",
    size=SIZE,
    trunk=(
        Rule("embeddings.word_embeddings.weight", "embedding/token/embeddings"),
        Rule("embeddings.token_type_embeddings.weight", "embedding/segment/embeddings"),
        Rule("embeddings.position_embeddings.weight", "embedding/position/table"),
        *norm("embeddings.LayerNorm", "embedding/norm"),
        *BLOCKS,
    ),
    parts=PARTS,
    renames=((r"^bert\.", ""), (r"\.gamma$", ".weight"), (r"\.beta$", ".bias")),
    ignored=(r"embeddings\.position_ids", r"embeddings\.token_type_ids"),
    tied={
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    requires=REQUIRES,
    architectures=ARCHITECTURES,
)
