"""GPT-2 in the format of transformers, with kernels stored as [input, output]."""

from keras_attn.weights.formats.format import (
    ACTIVATIONS,
    AS_IS,
    IRRELEVANT,
    REQUIRES,
    THIRDS,
    TRANSPOSED,
    Format,
    Head,
    Key,
    Rule,
    dense,
    keys,
    norm,
    rule,
)


def _thirds(source: str, name: str) -> Rule:
    parts = ("query", "key", "value")
    return Rule(source, tuple(f"block_{{i}}/self_attention/{p}/{name}" for p in parts), THIRDS)


FORMAT = Format(
    name="gpt2",
    family="gpt",
    size={
        **keys(
            num_layers="n_layer",
            hidden_dim="n_embd",
            num_heads="n_head",
            vocabulary_size="vocab_size",
            max_length="n_positions",
            dropout="resid_pdrop",
            attention_dropout="attn_pdrop",
            embedding_dropout="embd_pdrop",
            layer_norm_epsilon="layer_norm_epsilon",
            initializer_range="initializer_range",
        ),
        "activation": Key("activation_function", ACTIVATIONS),
        "intermediate_dim": Key(
            "n_inner",
            load=lambda value, config: 4 * config["n_embd"] if value is None else value,
        ),
    },
    trunk=(
        rule("wte.weight", "token_embedding/embeddings"),
        rule("wpe.weight", "position/table"),
        *norm("h.{i}.ln_1", "block_{i}/self_attention_norm"),
        _thirds("h.{i}.attn.c_attn.weight", "kernel"),
        _thirds("h.{i}.attn.c_attn.bias", "bias"),
        *dense("h.{i}.attn.c_proj", "block_{i}/self_attention/output", AS_IS),
        *norm("h.{i}.ln_2", "block_{i}/feed_forward_norm"),
        *dense("h.{i}.mlp.c_fc", "block_{i}/feed_forward/hidden", AS_IS),
        *dense("h.{i}.mlp.c_proj", "block_{i}/feed_forward/output", AS_IS),
        *norm("ln_f", "norm"),
    ),
    heads={
        # No weights: the output is the token matrix.
        "language_model": Head((), requires={"tie_word_embeddings": True}),
        # transformers has no dropout before this one.
        "classifier": Head(
            (rule("score.weight", "classifier/output/kernel", TRANSPOSED),),
            rate=0.0,
            pooling="last",
        ),
        "tagger": Head(
            dense("classifier", "tagger/output"),
            dropout=("classifier_dropout", "hidden_dropout"),
            rate=0.1,
        ),
        "span": Head(dense("qa_outputs", "span/output")),
    },
    defaults={"n_inner": None, "resid_pdrop": 0.1, "attn_pdrop": 0.1, "embd_pdrop": 0.1},
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    requires={
        **REQUIRES,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
    },
    irrelevant=(
        *IRRELEVANT,
        # A head that this package does not have
        *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
        "summary_first_dropout",
        # The order and precision of a product, and a length that no code reads
        *("reorder_and_upcast_attn", "n_ctx", "predict_special_tokens"),
    ),
    architectures={
        "GPT2Model": (),
        "GPT2LMHeadModel": ("language_model",),
        "GPT2ForSequenceClassification": ("classifier",),
        "GPT2ForTokenClassification": ("tagger",),
        "GPT2ForQuestionAnswering": ("span",),
    },
    prefix="transformer.",
    # The causal mask, which older files store as an array.
    ignored=(r"h\.\d+\.attn\.(bias|masked_bias)",),
    tied={"lm_head.weight": "wte.weight"},
    token_ids={"bos_token_id": 50_256, "eos_token_id": 50_256},
)
